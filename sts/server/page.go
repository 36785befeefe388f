package server

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"github.com/workload-sts/sts/sts"
)

// Bounds of a page of a list.
const (
	defaultPageSize = 100
	maxPageSize     = 1000
)

// pageSize returns how many a page has: as many as were asked for, or what is usual.
func pageSize(asked int32, usual, most int) (int, *refusal) {
	switch {
	case asked == 0:
		return usual, nil
	case asked < 0 || int(asked) > most:
		return 0, malformed("page_size", fmt.Sprintf("page_size must be between 1 and %d", most))
	}
	return int(asked), nil
}

func badPageToken() *refusal {
	return malformed("page_token", "page_token is not the next_page_token of a page")
}

// pageToken says after which resource the next page starts, and of which revision
// the list is: pages of two revisions would be a list that never was.
func pageToken(revision int64, last sts.Ref) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d/%s/%s", revision, last.Kind, last.Name))
}

func readPageToken(s string) (revision int64, last sts.Ref, bad *refusal) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s)
	number, rest, _ := strings.Cut(string(raw), "/")
	kind, name, ok := strings.Cut(rest, "/")
	revision, numberErr := strconv.ParseInt(number, 10, 64)
	last = sts.Ref{Kind: sts.Kind(kind), Name: name}
	if err != nil || numberErr != nil || !ok || !kinds[last.Kind] || name == "" {
		return 0, sts.Ref{}, badPageToken()
	}
	return revision, last, nil
}

// errListChanged says that the pages of a list would not be of one revision.
func errListChanged(before, now int64) error {
	return &sts.Error{Code: sts.Conflict, Message: fmt.Sprintf("the resources have changed since the page before: it was of revision %d, and %d is in force; begin with the first page again", before, now)}
}
