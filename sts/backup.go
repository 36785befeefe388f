package sts

import (
	"context"
	"errors"
	"io"
)

// Snapshots makes copies of the whole store.
type Snapshots interface {
	// Snapshot copies the store as it is at one moment. While there is another
	// copy the error is ErrBusy; ErrNoSnapshots says that there never is one.
	// Calls of the store go on.
	Snapshot(ctx context.Context) (Snapshot, error)
}

// Snapshot is a copy of the store. Close it.
type Snapshot interface {
	io.WriterTo
	io.Closer
	// Revision is that of the store that was copied.
	Revision() int64
}

// Errors of Snapshots.
var (
	ErrBusy        = errors.New("another backup is being made")
	ErrNoSnapshots = errors.New("the store makes no snapshots")
)

// Backup copies the store, for an administrator. The record of it is written before
// the copy leaves. An error is an *Error.
func (s *Service) Backup(ctx context.Context, by Principal) (Snapshot, error) {
	var snapshot Snapshot
	err := ErrNoSnapshots
	if s.snapshots != nil {
		snapshot, err = s.snapshots.Snapshot(ctx)
	}
	switch {
	case errors.Is(err, ErrNoSnapshots):
		return nil, &Error{Code: InvalidRequest, Err: err, Message: "the store of this server is no file of its own; back it up with what belongs to it, such as `etcdctl snapshot save`"}
	case errors.Is(err, ErrBusy):
		return nil, &Error{Code: Unavailable, RetryAfter: retryLater, Err: err, Message: "another backup is being made; try again when it is done"}
	case err != nil:
		return nil, &Error{Code: Unavailable, RetryAfter: retryLater, Err: err, Message: "the store cannot be copied now; the log of the server says why"}
	}
	err = s.recordEvent(ctx, &Record{Event: EventAdmin, Outcome: "allow", Peer: by.Peer, Admin: &RecordAdmin{Action: "backup", By: by}})
	if err != nil {
		return nil, errors.Join(err, snapshot.Close())
	}
	return snapshot, nil
}
