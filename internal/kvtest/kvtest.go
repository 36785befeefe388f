// Package kvtest holds an implementation of storage.KV to its contract.
package kvtest

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/workload-sts/sts/storage"
	"pgregory.net/rapid"
)

// Store is a new and empty store that is put to the test.
type Store struct {
	// Open opens it, each time the same one. The one before was closed.
	Open func() (storage.KV, error)
	// Now is the clock by which entries expire; nil is time.Now.
	Now func() time.Time
	// Pass lets time pass on that clock; nil is to wait.
	Pass func(time.Duration)
	// Compact makes an open store forget the changes up to now.
	Compact func(context.Context, storage.KV) error
	// Late is how long after its moment an entry may still be there.
	Late time.Duration
}

// Test holds the stores that newStore makes to the contract of storage.KV.
func Test(t *testing.T, newStore func(testing.TB) Store) {
	for name, f := range map[string]func(*testing.T, Store){
		"entries":       testEntries,
		"transactions":  testTransactions,
		"bounds":        testBounds,
		"pages":         testPages,
		"context":       testContext,
		"race":          testRace,
		"close":         testClose,
		"watch":         testWatch,
		"watch resumed": testWatchResumed,
		"watch quiet":   testWatchQuiet,
		"watch lost":    testWatchLost,
		"watch slow":    testWatchSlow,
		"watch large":   testWatchLarge,
		"watch ends":    testWatchEnds,
		"expiry":        testExpiry,
		"expiry moved":  testExpiryMoved,
		"expiry race":   testExpiryRace,
	} {
		t.Run(name, func(t *testing.T) { f(t, newStore(t)) })
	}
	t.Run("model", func(t *testing.T) {
		rapid.Check(t, func(r *rapid.T) { testModel(r, newStore(t)) })
	})
}

func (s Store) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}

func (s Store) pass(d time.Duration) {
	if s.Pass != nil {
		s.Pass(d)
		return
	}
	time.Sleep(d)
}

func open(t testing.TB, s Store) storage.KV {
	t.Helper()
	kv, err := s.Open()
	must(t, err)
	t.Cleanup(func() { kv.Close() })
	return kv
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// put writes unconditionally and returns the revision.
func put(t testing.TB, kv storage.KV, pairs ...string) int64 {
	t.Helper()
	var ops []storage.Op
	for i := 0; i < len(pairs); i += 2 {
		ops = append(ops, storage.Op{Key: pairs[i], Value: []byte(pairs[i+1])})
	}
	return write(t, kv, ops...)
}

func write(t testing.TB, kv storage.KV, ops ...storage.Op) int64 {
	t.Helper()
	revision, done, err := kv.Txn(t.Context(), nil, ops)
	must(t, err)
	if !done {
		t.Fatal("a transaction without comparisons was not done")
	}
	return revision
}

// revisionOf is the revision of the store now.
func revisionOf(t testing.TB, kv storage.KV) int64 {
	t.Helper()
	_, revision, err := kv.List(t.Context(), "", "", 1)
	must(t, err)
	return revision
}

func missing(t testing.TB, kv storage.KV, key string) bool {
	t.Helper()
	_, err := kv.Get(t.Context(), key)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		t.Fatal(err)
	}
	return err != nil
}

// eventually waits until f holds.
func eventually(t testing.TB, limit time.Duration, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %v still not: %s", limit, what)
		}
	}
}

func equal(a, b storage.Entry) bool {
	return a.Key == b.Key && a.Revision == b.Revision && bytes.Equal(a.Value, b.Value) && a.Expires.Equal(b.Expires)
}
