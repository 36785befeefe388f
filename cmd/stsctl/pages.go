package main

import (
	"bytes"
	"context"
	"fmt"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

// maxPage is how many of anything a server lists at once.
const maxPage = 1000

// upTo lists at most limit of something, by as many calls as that takes. more says
// that the server has others.
func upTo[T any](ctx context.Context, c *cli, limit int, list func(ctx context.Context, admin stsv1.AdminServiceClient, size int32, token string) (page []T, next string, err error)) (out []T, more bool, err error) {
	for token := ""; ; {
		var page []T
		err := c.adminCall(ctx, func(ctx context.Context, admin stsv1.AdminServiceClient) (err error) {
			page, token, err = list(ctx, admin, int32(min(limit-len(out), maxPage)), token)
			return err
		})
		if err != nil {
			return nil, false, err
		}
		if out = append(out, page...); token == "" || len(out) >= limit {
			return out, token != "", nil
		}
	}
}

// tellMore says that a list has an end that is not shown.
func tellMore(b *bytes.Buffer, more bool) {
	if more {
		fmt.Fprintln(b, "there are more; --limit says how many to show")
	}
}
