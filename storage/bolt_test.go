package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		fmt.Fprintln(os.Stderr, writeUntilKilled(dir))
		os.Exit(1)
	}
	if dir := os.Getenv(replayCrashDir); dir != "" {
		fmt.Fprintln(os.Stderr, useUntilKilled(dir))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// put writes unconditionally and returns the revision.
func put(t testing.TB, kv KV, pairs ...string) int64 {
	t.Helper()
	var ops []Op
	for i := 0; i < len(pairs); i += 2 {
		ops = append(ops, Op{Key: pairs[i], Value: []byte(pairs[i+1])})
	}
	revision, done, err := kv.Txn(t.Context(), nil, ops)
	must(t, err)
	if !done {
		t.Fatal("a transaction without comparisons was not done")
	}
	return revision
}

func equalEntries(a, b Entry) bool {
	return a.Key == b.Key && a.Revision == b.Revision && bytes.Equal(a.Value, b.Value) && a.Expires.Equal(b.Expires)
}

// newBolt returns an open store and its file.
func newBolt(t testing.TB) (*Bolt, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sts.db")
	b, err := OpenBolt(path, BoltOptions{})
	must(t, err)
	t.Cleanup(func() { b.Close() })
	return b, path
}

// refuses asserts that a file is not opened, and that the error says what it
// should.
func refuses(t *testing.T, path string, words ...string) {
	t.Helper()
	b, err := OpenBolt(path, BoltOptions{})
	if err == nil {
		b.Close()
		t.Fatal("it was opened")
	}
	for _, w := range append(words, path) {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error does not say %q: %v", w, err)
		}
	}
}

func TestBoltFileIsPrivate(t *testing.T) { // L-10
	b, path := newBolt(t)
	must(t, b.Close())
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("made with mode %o", info.Mode().Perm())
	}
	for _, mode := range []os.FileMode{0o604, 0o640, 0o620, 0o602, 0o666, 0o601} {
		must(t, os.Chmod(path, mode))
		refuses(t, path, fmt.Sprintf("%04o", mode), "chmod 600")
	}
	if names, err := os.ReadDir(filepath.Dir(path)); err != nil || len(names) != 1 {
		t.Errorf("making the store left %v, %v", names, err)
	}
}

func TestBoltNeedsItsDirectory(t *testing.T) { // F33
	path := filepath.Join(t.TempDir(), "missing", "sts.db")
	refuses(t, path, "directory must exist", "no such file")
	if _, err := os.Stat(filepath.Dir(path)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory was made: %v", err)
	}
	refuses(t, t.TempDir(), "is a directory")
}

func TestBoltSecondProcess(t *testing.T) { // F35
	b, path := newBolt(t)
	start := time.Now()
	refuses(t, path, "in use by another process")
	if d := time.Since(start); d > time.Second {
		t.Errorf("that took %v", d)
	}
	put(t, b, "a", "1")
	must(t, b.Close())
	b, err := OpenBolt(path, BoltOptions{})
	must(t, err)
	must(t, b.Close())
}

// TestBoltMadeOnce makes one store from many sides at once.
func TestBoltMadeOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sts.db")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			b, err := OpenBolt(path, BoltOptions{})
			if err != nil {
				if !strings.Contains(err.Error(), "in use") {
					t.Error(err)
				}
				return
			}
			if _, _, err := b.Txn(t.Context(), nil, []Op{{Key: fmt.Sprint(i)}}); err != nil {
				t.Error(err)
			}
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	b, err := OpenBolt(path, BoltOptions{})
	must(t, err)
	defer b.Close()
	list, revision, err := b.List(t.Context(), "", "", 0)
	if err != nil || len(list) == 0 || int64(len(list)) != revision {
		t.Errorf("%d entries at revision %d: %v", len(list), revision, err)
	}
}

func TestBoltFormat(t *testing.T) { // B-03
	b, path := newBolt(t)
	must(t, b.Close())
	edit := func(f func(meta *bolt.Bucket) error) {
		t.Helper()
		db, err := bolt.Open(path, 0o600, nil)
		must(t, err)
		must(t, db.Update(func(tx *bolt.Tx) error { return f(tx.Bucket(bucketMeta)) }))
		must(t, db.Close())
	}
	for _, format := range []int64{boltFormat + 1, oldestBolt - 1} {
		edit(func(meta *bolt.Bucket) error { return meta.Put(keyFormat, number(format)) })
		refuses(t, path, fmt.Sprintf("has format %d", format), fmt.Sprintf("reads formats %d to %d", oldestBolt, boltFormat), "use the program that wrote it")
	}
	edit(func(meta *bolt.Bucket) error { return meta.Delete(keyFormat) })
	refuses(t, path, "not written by this program")

	path = filepath.Join(t.TempDir(), "other.db")
	db, err := bolt.Open(path, 0o600, nil)
	must(t, err)
	must(t, db.Close())
	refuses(t, path, "not written by this program")
}

// TestBoltFileTaken removes, replaces and cuts off the file under a store in use:
// nothing is acknowledged that the next start would not find [F33].
func TestBoltFileTaken(t *testing.T) {
	for name, take := range map[string]func(path string) error{
		"removed":  os.Remove,
		"renamed":  func(path string) error { return os.Rename(path, path+".old") },
		"replaced": func(path string) error { return errors.Join(os.Remove(path), os.WriteFile(path, nil, 0o600)) },
		"cut off":  func(path string) error { return os.Truncate(path, 4096) },
		"emptied":  func(path string) error { return os.Truncate(path, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			b, path := newBolt(t)
			put(t, b, "a", strings.Repeat("1", 10_000))
			must(t, take(path))
			for range 2 {
				if _, _, err := b.Txn(t.Context(), nil, []Op{{Key: "a"}}); !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), path) {
					t.Fatalf("write: %v", err)
				}
			}
			if e, err := b.Get(t.Context(), "a"); err == nil && len(e.Value) != 10_000 {
				t.Errorf("read: %q", e.Value)
			}
			must(t, b.Close())
		})
	}
}

// TestBoltHangs lets the disk hang: callers leave when their time is over, readers
// go on, and it works again by itself [F32].
func TestBoltHangs(t *testing.T) {
	b, _ := newBolt(t)
	put(t, b, "a", "1")
	hang, err := b.db.Begin(true) // the next write waits for this one
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 5 {
		wg.Go(func() {
			if _, _, err := b.Txn(ctx, nil, []Op{{Key: fmt.Sprint("late", i)}}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("write: %v", err)
			}
		})
	}
	wg.Wait()
	if e, err := b.Get(t.Context(), "a"); err != nil || string(e.Value) != "1" {
		t.Errorf("read: %v, %v", e, err)
	}
	must(t, hang.Rollback())
	put(t, b, "b", "2")
	list, revision, err := b.List(t.Context(), "late", "", 0)
	must(t, err)
	if revision != int64(2+len(list)) { // those that had begun are written, and count
		t.Errorf("%d late writes at revision %d", len(list), revision)
	}
}

// TestBoltGroups writes transactions together that waited together.
func TestBoltGroups(t *testing.T) {
	b, _ := newBolt(t)
	hang, err := b.db.Begin(true)
	must(t, err)
	const callers = 32
	revisions := make(chan int64, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			revision, done, err := b.Txn(t.Context(), []Compare{{Key: "winner"}}, []Op{{Key: "winner", Value: fmt.Append(nil, i)}})
			if err != nil {
				t.Error(err)
			}
			if done {
				revisions <- revision
			}
		})
	}
	must(t, hang.Rollback())
	wg.Wait()
	close(revisions)
	if len(revisions) != 1 || <-revisions != 1 {
		t.Error("not exactly one won")
	}
}

func BenchmarkTxn(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			kv, _ := newBolt(b)
			b.SetParallelism(callers)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, _, err := kv.Txn(b.Context(), nil, []Op{{Key: "a", Value: []byte("v")}}); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

func BenchmarkOpenBolt(b *testing.B) {
	kv, path := newBolt(b)
	value := make([]byte, 1000)
	for i := range 600 {
		ops := make([]Op, MaxTxn)
		for j := range ops {
			ops[j] = Op{Key: fmt.Sprintf("%d/%d", i, j), Value: value}
		}
		_, _, err := kv.Txn(b.Context(), nil, ops)
		must(b, err)
	}
	must(b, kv.Close())
	info, err := os.Stat(path)
	must(b, err)
	b.SetBytes(info.Size())
	for b.Loop() {
		kv, err := OpenBolt(path, BoltOptions{})
		must(b, err)
		must(b, kv.Close())
	}
}
