package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

// Moments in the life of a store, in Unix seconds.
const (
	restoredKey = "restored/at" // it was last restored from a backup
	movedKey    = "moved/at"    // it was filled from another store
)

// RestoreBolt makes a store of a backup. Its file must not be there, and gets its
// name when it is durable and was checked.
//
// What happened after the backup is lost: keys, clients and tokens that were
// revoked are not revoked in it, and what was used once may not be known. So the
// store notes the moment, see [Store.Restored].
func RestoreBolt(ctx context.Context, from, to string, now time.Time) (BoltInfo, error) {
	b, err := openChecked(from, true)
	if err != nil {
		return BoltInfo{}, err
	}
	backup, err := b.info()
	if err != nil {
		return BoltInfo{}, errors.Join(err, b.db.Close())
	}
	defer b.db.Close() // locked until then
	if _, err := os.Lstat(to); err == nil {
		return BoltInfo{}, fmt.Errorf("%s is there already, and nothing is replaced; move it away if the backup is to take its place", to)
	}
	info, err := makeFile(to, func(name string) error {
		if err := copyFile(name, io.NewSectionReader(b.file, 0, b.seen.Size())); err != nil {
			return err
		}
		copied, err := VerifyBolt(name)
		if err == nil {
			err = backup.check(copied)
		}
		if err != nil {
			return err
		}
		return markRestored(ctx, name, now)
	}, func(BoltInfo) error { return nil }, renameNew)
	if err != nil {
		return info, fmt.Errorf("restoring %s: %w", to, err)
	}
	return info, nil
}

func copyFile(name string, from io.Reader) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Sync(), f.Close())
}

// markRestored notes in a store when it was restored.
func markRestored(ctx context.Context, path string, now time.Time) error {
	kv, err := OpenBolt(path, BoltOptions{Now: func() time.Time { return time.Unix(0, 0) }}) // nothing expires meanwhile
	if err != nil {
		return err
	}
	return errors.Join(noteMoment(ctx, kv, restoredKey, now), kv.Close())
}

// noteMoment notes a moment in the life of a store.
func noteMoment(ctx context.Context, kv KV, key string, now time.Time) error {
	_, _, err := kv.Txn(ctx, nil, []Op{{Key: key, Value: restoredAt(now)}})
	return err
}

// Move copies all entries to a store that is empty, as Copy does. The other store
// notes the moment: what was used once may be known elsewhere only, see
// [Store.Begins].
func Move(ctx context.Context, from, to KV, now time.Time) (int, error) {
	return copyAll(ctx, from, to, []Op{{Key: movedKey, Value: restoredAt(now)}})
}

// restoredAt is what a store that was restored at a moment notes: the first full
// second after it.
func restoredAt(now time.Time) []byte { return strconv.AppendInt(nil, now.Unix()+1, 10) }

// Restored returns the moment at which the store was last restored from a backup,
// zero if never. What was issued, used or revoked before it may not be known.
func (s *Store) Restored(ctx context.Context) (time.Time, error) {
	return s.moment(ctx, restoredKey)
}

// Begins returns since when the store, with what remembers single uses beside it,
// has forgotten nothing: the moment of a restore or of a move, zero if there was
// neither. It is called before the store is used: the error is ErrUnfinished if it
// has only a part of another.
func (s *Store) Begins(ctx context.Context) (time.Time, error) {
	if err := unfinished(ctx, s.kv); err != nil {
		return time.Time{}, err
	}
	restored, err := s.moment(ctx, restoredKey)
	if err != nil {
		return time.Time{}, err
	}
	moved, err := s.moment(ctx, movedKey)
	if moved.Before(restored) {
		moved = restored
	}
	return moved, err
}

func (s *Store) moment(ctx context.Context, key string) (time.Time, error) {
	e, err := s.kv.Get(ctx, key)
	if errors.Is(err, ErrNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("reading when the store was made: %w", err)
	}
	at, err := strconv.ParseInt(string(e.Value), 10, 64)
	if err != nil || at <= 0 {
		return time.Time{}, fmt.Errorf("the record %q cannot be read; was it written by a newer version?", key)
	}
	return time.Unix(at, 0).UTC(), nil
}
