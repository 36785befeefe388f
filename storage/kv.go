// Package storage keeps what must survive: a small key-value contract that an
// embedded database and a distributed one can both meet, typed records above it,
// and the audit log.
package storage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// KV is an ordered key-value store with one global revision.
//
// Order: each transaction that writes raises the revision by exactly one, and
// every reader sees transactions in that order. A transaction is seen whole or
// not at all.
//
// Durability: what Txn acknowledged survives a crash of the process and of the
// machine. An error from Txn, that of its context included, may leave the
// transaction done or not done, never half done; reading tells which.
//
// Failure: once a write could not be made durable, the store refuses writes with
// ErrFailed until it is opened anew, because what the disk holds is not known any
// more. What is read in between may be what was lost. A disk that is full is no
// such failure: writes work again when there is room.
//
// A KV can be used concurrently. Keys are UTF-8 without NUL, of 1 byte to 1 KiB;
// values at most 1 MiB. A transaction names a key at most once in its operations,
// of which there may be thousands: a backend that limits their number must be
// set up for that.
type KV interface {
	// Get returns the entry of a key, or ErrNotFound.
	Get(ctx context.Context, key string) (Entry, error)
	// List returns the entries whose keys begin with prefix and come after a key,
	// empty for the first, in byte order; at most limit of them, all if it is 0.
	// All were read at the revision that it returns. A next page may have a later
	// revision and miss what changed before it.
	List(ctx context.Context, prefix, after string, limit int) ([]Entry, int64, error)
	// Txn writes ops if every comparison holds, else it returns false and writes
	// nothing. The revision is that of the store afterwards.
	Txn(ctx context.Context, compare []Compare, ops []Op) (revision int64, done bool, err error)
	// Wait returns when the revision is above after, with the revision, or with
	// the error of ctx. A caller that reads at revision r and then waits for r
	// misses nothing.
	Wait(ctx context.Context, after int64) (int64, error)
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
}

// Compare holds if the entry of a key has a revision; 0 stands for no entry.
type Compare struct {
	Key      string
	Revision int64
}

// Op puts a value or deletes a key, which need not be there.
type Op struct {
	Key    string
	Value  []byte
	Delete bool
}

// Errors of a KV.
var (
	ErrNotFound = errors.New("no such key")
	ErrClosed   = errors.New("closed")
	ErrFailed   = errors.New("the store takes no more writes until it is opened again")
)

// The bounds of the contract.
const (
	maxKey   = 1 << 10
	maxValue = 1 << 20
)

// checkTxn refuses what no backend has to take.
func checkTxn(compare []Compare, ops []Op) error {
	for _, c := range compare {
		if err := checkKey(c.Key); err != nil {
			return err
		}
	}
	seen := make(map[string]bool, len(ops))
	for _, op := range ops {
		if err := checkKey(op.Key); err != nil {
			return err
		}
		switch {
		case seen[op.Key]:
			return fmt.Errorf("the key %q is written twice in one transaction", op.Key)
		case len(op.Value) > maxValue:
			return fmt.Errorf("the value of key %q has %d bytes, at most %d can be stored", op.Key, len(op.Value), maxValue)
		}
		seen[op.Key] = true
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
