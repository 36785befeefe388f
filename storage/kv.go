// Package storage keeps what must survive: a small key-value contract that an
// embedded database and a distributed one can both meet, typed records above it,
// and the audit log.
package storage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// KV is an ordered key-value store with one global revision.
//
// Order: each transaction that changes something raises the revision, and every
// reader sees transactions in that order. A transaction is seen whole or not at
// all. The revision rises for other reasons too, by any number.
//
// Durability: what Txn acknowledged survives a crash of the process and of the
// machine. An error from Txn, that of its context included, may leave the
// transaction done or not done, never half done; reading tells which.
//
// Expiry: an entry that was given a moment is there until that moment at least.
// Some time later it is deleted, by a transaction of the store's own; until then
// it is read like any other. Who needs the exact moment compares Entry.Expires.
// Putting a key anew, with another moment or with none, replaces its moment.
//
// Failure: once a write could not be made durable, the store refuses writes with
// ErrFailed until it is opened anew, because what the disk holds is not known any
// more. What is read in between may be what was lost. A disk that is full is no
// such failure: writes work again when there is room.
//
// A KV can be used concurrently. Keys are UTF-8 without NUL, of 1 byte to 1 KiB.
// A transaction has at most MaxTxn comparisons and operations, of MaxTxnBytes, and
// names a key at most once in its operations.
type KV interface {
	// Get returns the entry of a key, or ErrNotFound.
	Get(ctx context.Context, key string) (Entry, error)
	// List returns the entries whose keys begin with prefix and come after a key,
	// empty for the first, in byte order; at most limit of them, all if it is 0.
	// All were read at the revision that it returns. A next page may have a later
	// revision and miss what changed before it: who lists in pages and wants to
	// miss nothing watches from the revision of the first.
	List(ctx context.Context, prefix, after string, limit int) ([]Entry, int64, error)
	// Txn writes ops if every comparison holds, else it returns false and writes
	// nothing. The revision is that of the store afterwards, and that of the
	// entries it put.
	Txn(ctx context.Context, compare []Compare, ops []Op) (revision int64, done bool, err error)
	// Watch calls f, one call after the other, with the changes of keys that begin
	// with prefix made after a revision, in their order and never splitting a
	// transaction. It returns when ctx ends, f returns an error, or the store fails
	// or is closed, with the reason, which is never nil. Who lists at a revision and
	// then watches from it misses nothing.
	//
	// While nothing changes, f is called about once a second without events, each
	// time the store has confirmed that there were none.
	//
	// It returns ErrCompacted if the changes since the revision are not known any
	// more, or if the store has not reached it, having been restored from a backup.
	// A watcher that is slow gets that error at some time. It holds up nobody else.
	Watch(ctx context.Context, prefix string, after int64, f func(Changes) error) error
	// Err returns the failure after which no more writes are taken until the store
	// is opened anew, nil if there was none.
	Err() error
	// Close releases the store. Calls under way end first, later ones get
	// ErrClosed.
	Close() error
}

// Entry is a key with its value and the revision of the transaction that wrote
// it. The value belongs to who asked for it.
type Entry struct {
	Key      string
	Value    []byte
	Revision int64
	Expires  time.Time // the full second until which it is kept at least; zero is for ever
}

// Compare holds if the entry of a key has a revision; 0 stands for no entry.
type Compare struct {
	Key      string
	Revision int64
}

// Op puts a value or deletes a key, which need not be there.
type Op struct {
	Key     string
	Value   []byte
	Expires time.Time // zero is never; else rounded up to the second
	Delete  bool
}

// Changes are what a watcher is told at a time.
type Changes struct {
	Revision int64     // up to it everything was told: where to go on
	Events   []Event   // of any number of whole transactions
	Asked    time.Time // by the clock of this process: all that happened until then was told; zero if that cannot be said yet
}

// Event is a change of one key. Its value is shared with other watchers and must
// not be changed.
type Event struct {
	Entry
	Deleted bool // or expired. Value is nil then, Revision that of the deletion
}

// Errors of a KV.
var (
	ErrNotFound  = errors.New("no such key")
	ErrClosed    = errors.New("closed")
	ErrFailed    = errors.New("the store takes no more writes until it is opened again")
	ErrCompacted = errors.New("the changes since that revision are not known any more")
)

// The bounds of the contract. A value is bounded by what a transaction can have.
const (
	MaxTxn      = 100     // comparisons and operations together
	MaxTxnBytes = 1 << 20 // of all their keys and values
	maxKey      = 1 << 10
)

// checkTxn refuses what no backend has to take.
func checkTxn(compare []Compare, ops []Op) error {
	size := 0
	for _, c := range compare {
		if err := checkKey(c.Key); err != nil {
			return err
		}
		size += len(c.Key)
	}
	seen := make(map[string]bool, len(ops))
	for _, op := range ops {
		if err := checkKey(op.Key); err != nil {
			return err
		}
		switch {
		case seen[op.Key]:
			return fmt.Errorf("the key %q is written twice in one transaction", op.Key)
		case len(op.Value) > MaxTxnBytes:
			return fmt.Errorf("the value of key %q has %d bytes, at most %d can be stored", op.Key, len(op.Value), MaxTxnBytes)
		case op.Delete && (op.Value != nil || !op.Expires.IsZero()):
			return fmt.Errorf("the key %q is deleted and put in one operation", op.Key)
		case !op.Expires.IsZero() && (op.Expires.Unix() < 0 || op.Expires.Year() > 9999):
			return fmt.Errorf("the key %q expires at a moment that cannot be stored", op.Key)
		}
		seen[op.Key] = true
		size += len(op.Key) + len(op.Value)
	}
	if n := len(compare) + len(ops); n > MaxTxn {
		return fmt.Errorf("a transaction has %d comparisons and operations, at most %d can be made at once", n, MaxTxn)
	}
	if size > MaxTxnBytes {
		return fmt.Errorf("a transaction has %d bytes, at most %d can be written at once", size, MaxTxnBytes)
	}
	return nil
}

func checkKey(key string) error {
	switch {
	case key == "" || len(key) > maxKey:
		return fmt.Errorf("a key has %d bytes, it must have 1 to %d", len(key), maxKey)
	case !utf8.ValidString(key) || strings.Contains(key, "\x00"):
		return fmt.Errorf("the key %q is not UTF-8 or has a NUL", key)
	}
	return nil
}
