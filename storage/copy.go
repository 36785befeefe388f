package storage

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"time"
)

// The pages in which Copy reads, and what it writes at once.
const (
	copyPage  = 500
	copyTxn   = MaxTxn
	copyBytes = MaxTxnBytes
)

// Copy copies all entries of a store to one that is empty, in the order of their
// keys and with their moments of expiry, and then reads both again and compares
// them. It returns how many there are. Revisions are those of the other store.
//
// Nobody may use either store meanwhile: an entry that is not the same in both at
// the end is an error. After an error the other store may have a part, and a note
// that it is one, so that nobody takes it for a store.
func Copy(ctx context.Context, from, to KV) (int, error) { return copyAll(ctx, from, to, nil) }

// unfinishedKey is in a store as long as it has only a part of another.
const unfinishedKey = "moved/unfinished"

// ErrUnfinished is the error of a store that was being filled from another, and
// lacks nobody knows what.
var ErrUnfinished = errors.New("the store has only a part of another one, since `stsctl storage migrate` has not finished; remove it, and move again to a new one")

// copyAll copies, and at the end, in the transaction by which the other store
// becomes one, makes some more operations.
func copyAll(ctx context.Context, from, to KV, last []Op) (int, error) {
	list, _, err := to.List(ctx, "", "", 1)
	if err != nil {
		return 0, fmt.Errorf("reading where to copy to: %w", err)
	}
	if len(list) > 0 {
		return 0, errors.New("the store to copy to is not empty, and nothing is replaced; copy to a new one")
	}
	if list, _, err = from.List(ctx, "", "", 1); err != nil {
		return 0, fmt.Errorf("reading what to copy: %w", err)
	}
	if len(list) == 0 {
		return 0, errors.New("the store to copy has nothing in it; is its name, or the prefix of its keys, the right one?")
	}
	for _, check := range []func(context.Context, KV) error{unfinished, unused} {
		if err := check(ctx, from); err != nil {
			return 0, fmt.Errorf("what to copy: %w", err)
		}
	}
	_, done, err := to.Txn(ctx, []Compare{{unfinishedKey, 0}}, []Op{{Key: unfinishedKey}})
	if err != nil || !done {
		return 0, cmp.Or(err, errors.New("somebody else copies to the same store"))
	}
	n, err := copyEntries(ctx, from, to)
	if err != nil {
		return 0, err
	}
	if _, _, err := to.Txn(ctx, nil, append(last, Op{Key: unfinishedKey, Delete: true})); err != nil {
		return 0, fmt.Errorf("writing entries: %w", err)
	}
	return n, nil
}

// unfinished returns ErrUnfinished of a store that has only a part of another.
func unfinished(ctx context.Context, kv KV) error {
	_, err := kv.Get(ctx, unfinishedKey)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	return ErrUnfinished
}

func copyEntries(ctx context.Context, from, to KV) (int, error) {
	var ops []Op
	size := 0
	flush := func() error {
		if len(ops) == 0 {
			return nil
		}
		if _, _, err := to.Txn(ctx, nil, ops); err != nil {
			return fmt.Errorf("writing entries: %w", err)
		}
		ops, size = nil, 0
		return nil
	}
	for e, err := range entries(ctx, from) {
		if err != nil {
			return 0, err
		}
		n := len(e.Key) + len(e.Value)
		if len(ops) == copyTxn || size+n > copyBytes {
			if err := flush(); err != nil {
				return 0, err
			}
		}
		ops, size = append(ops, Op{Key: e.Key, Value: e.Value, Expires: e.Expires}), size+n
	}
	if err := flush(); err != nil {
		return 0, err
	}
	return compareStores(ctx, from, to)
}

// compareStores counts the entries, which must be the same in both stores. One
// whose moment has come may be gone in either.
func compareStores(ctx context.Context, a, b KV) (int, error) {
	nextA, stopA := iter.Pull2(entries(ctx, a))
	defer stopA()
	nextB, stopB := iter.Pull2(entries(ctx, b))
	defer stopB()
	left, err := nextLasting(nextA)
	if err != nil {
		return 0, err
	}
	right, err := nextLasting(nextB)
	for n := 0; ; n++ {
		switch {
		case err != nil:
			return 0, err
		case left.Key == "" && right.Key == "":
			return n, nil
		case left.Key != right.Key || !bytes.Equal(left.Value, right.Value) || !left.Expires.Equal(right.Expires):
			return 0, fmt.Errorf("the copy is not as the store: entry %d is %q in one and %q in the other, or differs in what it holds; was one of them in use? Stop all servers, and copy to a new store", n+1, left.Key, right.Key)
		}
		if left, err = nextLasting(nextA); err == nil {
			right, err = nextLasting(nextB)
		}
	}
}

// nextLasting returns the next entry that nothing sweeps for a while, without a key
// at the end.
func nextLasting(next func() (Entry, error, bool)) (Entry, error) {
	for {
		e, err, ok := next()
		if !ok || err != nil {
			return Entry{}, err
		}
		if e.Expires.IsZero() || e.Expires.After(time.Now().Add(time.Minute)) {
			return e, nil
		}
	}
}

// entries returns the entries of a store, read in pages, without the note that it is
// not finished.
func entries(ctx context.Context, kv KV) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for after := ""; ; {
			page, _, err := kv.List(ctx, "", after, copyPage)
			if err != nil {
				yield(Entry{}, fmt.Errorf("reading entries: %w", err))
				return
			}
			for _, e := range page {
				if e.Key != unfinishedKey && !yield(e, nil) {
					return
				}
				after = e.Key
			}
			if len(page) < copyPage {
				return
			}
		}
	}
}
