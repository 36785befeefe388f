package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
)

// maxGroup is how many transactions are written at once.
const maxGroup = 256

// txn is a transaction and, when finished is closed, what became of it.
type txn struct {
	compare []Compare
	ops     []Op

	finished chan struct{}
	revision int64
	done     bool
	events   []Event
	err      error
}

// Txn implements KV. When ctx ends first, the transaction may still be written.
func (b *Bolt) Txn(ctx context.Context, compare []Compare, ops []Op) (int64, bool, error) {
	if err := ctx.Err(); err != nil {
		return 0, false, err
	}
	if err := checkTxn(compare, ops); err != nil {
		return 0, false, err
	}
	t := &txn{compare: compare, ops: ops, finished: make(chan struct{})}
	select {
	case b.txns <- t:
	case <-b.closing:
		return 0, false, ErrClosed
	case <-ctx.Done():
		return 0, false, fmt.Errorf("waiting to write the store: %w", ctx.Err())
	}
	select {
	case <-t.finished:
		return t.revision, t.done, t.err
	case <-ctx.Done():
		return 0, false, fmt.Errorf("writing the store: %w", ctx.Err())
	}
}

// writeLoop is the only one that writes, so that a disk that hangs holds one
// goroutine and its callers can leave.
func (b *Bolt) writeLoop() {
	defer close(b.written)
	sweep := time.NewTimer(b.sweeper.every)
	defer sweep.Stop()
	for {
		select {
		case t := <-b.txns:
			b.write(b.gather(t))
		case <-sweep.C:
			sweep.Reset(b.sweep())
		case <-b.closing:
			return
		}
	}
}

// gather returns the transactions that wait, t first.
func (b *Bolt) gather(t *txn) []*txn {
	group := []*txn{t}
	for len(group) < maxGroup {
		select {
		case t := <-b.txns:
			group = append(group, t)
		default:
			return group
		}
	}
	return group
}

// write writes transactions together. One error is for all of them: a comparison
// that failed may have failed for another one's sake.
func (b *Bolt) write(group []*txn) {
	b.mu.Lock()
	before, err := b.revision, b.failed
	b.mu.Unlock()
	if err == nil {
		err = b.unmoved()
	}
	revision := before
	if err == nil {
		revision, err = b.commit(group)
		if err != nil && !b.harmless(err, before) {
			err = fmt.Errorf("%w: %w", ErrFailed, err)
		}
	}
	b.mu.Lock()
	switch {
	case errors.Is(err, ErrFailed):
		b.failed = err
		b.wake()
	case err == nil && revision > before:
		b.revision = revision
		for _, t := range group {
			b.recent.add(t.revision, t.events)
		}
		b.wake()
	}
	b.mu.Unlock()
	for _, t := range group {
		if err != nil {
			t.revision, t.done, t.err = 0, false, fmt.Errorf("writing the store: %w", err)
		}
		close(t.finished)
	}
}

// unmoved refuses to write into a file that is no more what its name names: what
// is acknowledged then would be gone at the next start.
func (b *Bolt) unmoved() error {
	info, err := os.Stat(b.path)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(info, b.seen):
		return fmt.Errorf("%w: %s was removed or replaced while in use", ErrFailed, b.path)
	case err != nil:
		return err
	case info.Size() < b.seen.Size():
		return fmt.Errorf("%w: %s was cut off while in use", ErrFailed, b.path)
	}
	b.seen = info
	return nil
}

// errNothing leaves a transaction of bbolt without writing.
var errNothing = errors.New("nothing to write")

// commit returns the revision after the transactions. An error other than one
// that harmless knows may leave them in the file or not.
func (b *Bolt) commit(group []*txn) (revision int64, err error) {
	err = b.guard(func() error {
		return b.db.Update(func(tx *bolt.Tx) error {
			state, err := readState(tx)
			if err != nil {
				return err
			}
			before := state.revision
			kv, expiry := tx.Bucket(bucketKV), tx.Bucket(bucketExpiry)
			for _, t := range group {
				if err := state.apply(kv, expiry, t); err != nil {
					return err
				}
			}
			revision = state.revision
			if revision == before {
				return errNothing
			}
			return tx.Bucket(bucketMeta).Put(keyState, state.encode())
		})
	})
	if errors.Is(err, errNothing) {
		err = nil
	}
	return revision, err
}

// harmless tells whether an error left the file as it was and a later write can
// be tried: there was no room for new pages, and the header was not touched. A
// sync that fails is never harmless, whatever its reason, and never repeated: the
// kernel may have dropped what it could not write.
func (b *Bolt) harmless(err error, revision int64) bool {
	var write *fs.PathError
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) || !errors.As(err, &write) || write.Op != "write" {
		return false
	}
	err = b.guard(func() error {
		return b.db.View(func(tx *bolt.Tx) error {
			state, err := readState(tx)
			if err == nil && state.revision != revision {
				err = errDamaged
			}
			return err
		})
	})
	return err == nil
}

// apply makes a transaction, or says in it that a comparison does not hold. A
// transaction that changes nothing does not raise the revision.
func (s *boltState) apply(kv, expiry *bolt.Bucket, t *txn) error {
	for _, c := range t.compare {
		if storedRevision(kv.Get([]byte(c.Key))) != c.Revision {
			t.revision, t.done = s.revision, false
			return nil
		}
	}
	next := s.revision + 1
	for _, op := range t.ops {
		key, stored := []byte(op.Key), []byte(nil)
		before := kv.Get(key)
		if op.Delete && before == nil {
			continue
		}
		s.sum -= entrySum(key, before)
		err := unindex(expiry, key, before)
		e := Event{Entry: Entry{Key: op.Key, Revision: next}, Deleted: op.Delete}
		if op.Delete {
			err = errors.Join(err, kv.Delete(key))
		} else {
			stored = encodeEntry(next, op)
			e.Value, e.Expires = stored[entryHeader:], storedExpires(stored)
			err = errors.Join(err, kv.Put(key, stored), index(expiry, key, stored))
		}
		if err != nil {
			return err
		}
		s.sum += entrySum(key, stored)
		t.events = append(t.events, e)
	}
	if len(t.events) > 0 {
		s.revision = next
	}
	t.revision, t.done = s.revision, true
	return nil
}
