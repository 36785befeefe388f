// Package storage keeps what must survive: a small key-value contract that an
// embedded database and a distributed one can both meet, typed records above it,
// and the audit log.
package storage

import (
	"context"
	"errors"
)

// KV is an ordered key-value store with one global revision.
//
// Order: each transaction that writes raises the revision by one, and every
// reader sees transactions in that order. A transaction is seen whole or not at
// all.
//
// Durability: what Txn acknowledged survives a crash of the process and of the
// machine. An error from Txn may leave the transaction done or not done; reading
// tells which.
//
// Failure: once a write could not be made durable, the store refuses writes until
// it is opened anew, because what the disk holds is not known any more.
//
// A KV can be used concurrently. Keys are UTF-8 without NUL, at most 1 KiB; values
// at most 1 MiB.
type KV interface {
	// Get returns the entry of a key, or ErrNotFound.
	Get(ctx context.Context, key string) (Entry, error)
	// List returns the entries whose keys begin with prefix, in byte order, and
	// the revision at which all of them were read.
	List(ctx context.Context, prefix string) ([]Entry, int64, error)
	// Txn writes ops if every comparison holds, else it returns false and writes
	// nothing. The revision is that of the store afterwards.
	Txn(ctx context.Context, compare []Compare, ops []Op) (revision int64, done bool, err error)
	// Wait returns when the revision is above after, with the revision, or with
	// the error of ctx. A caller that reads at revision r and then waits for r
	// misses nothing.
	Wait(ctx context.Context, after int64) (int64, error)
	// Close releases the store. Calls under way end first, later ones get
	// ErrClosed.
	Close() error
}

// Entry is a key with its value and the revision of the transaction that wrote
// it.
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

// Op puts a value, or deletes the key if the value is nil.
type Op struct {
	Key   string
	Value []byte
}

// Errors of a KV.
var (
	ErrNotFound = errors.New("no such key")
	ErrClosed   = errors.New("the store is closed")
)
