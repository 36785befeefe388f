package storage

import (
	"context"
	"errors"
	"time"
)

// keepUp keeps what is held in memory of a prefix up to date until ctx ends: take
// gets the changes from the revision that held returns, and load reads everything
// anew where those are not known any more. A store that cannot be heard is asked
// again and again: that what is known gets old is for the reader to judge.
func keepUp(ctx context.Context, kv KV, prefix string, held func() int64, take func(Changes) error, load func(context.Context) error) {
	for {
		err := kv.Watch(ctx, prefix, held(), take)
		if errors.Is(err, ErrCompacted) {
			err = load(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
}
