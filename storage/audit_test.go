package storage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/workload-sts/sts/sts"
)

var _ sts.Audit = (*Audit)(nil)

func newLog(t testing.TB) (*Audit, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	a, torn, err := OpenAudit(AuditOptions{File: path})
	must(t, err)
	if torn != "" {
		t.Errorf("a new file was torn: %s", torn)
	}
	t.Cleanup(func() { a.Close() })
	return a, path
}

// decisions reads a log, every line of which must be a record.
func decisions(t testing.TB, path string) []string {
	t.Helper()
	log, err := os.ReadFile(path)
	must(t, err)
	var out []string
	for line := range bytes.Lines(log) {
		var r struct {
			Seq  int64  `json:"seq"`
			Prev string `json:"prev"`
			sts.Record
		}
		if l, err := parseChainLine(line); err == nil && l.event != "" && l.event != sts.EventToken {
			continue
		}
		d := json.NewDecoder(bytes.NewReader(line))
		d.DisallowUnknownFields()
		if err := d.Decode(&r); err != nil || line[len(line)-1] != '\n' {
			t.Fatalf("line %d: %v: %q", len(out)+1, err, line)
		}
		out = append(out, r.Decision)
	}
	return out
}

// TestAuditConcurrent: each record is in the file when Record returns, once, and
// whole.
func TestAuditConcurrent(t *testing.T) {
	a, path := newLog(t)
	const callers, each = 64, 20
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				id := fmt.Sprintf("%d-%d", c, i)
				if err := a.Record(context.Background(), &sts.Record{Event: sts.EventToken, Decision: id, Reason: strings.Repeat("r", i*40)}); err != nil {
					t.Error(err)
					return
				}
				if i%10 != 0 {
					continue
				}
				if log, err := os.ReadFile(path); err != nil || !bytes.Contains(log, []byte(`"decision":"`+id+`"`)) {
					t.Errorf("%s is not written; %v", id, err)
				}
			}
		})
	}
	wg.Wait()
	seen := map[string]int{}
	last := map[string]int{}
	for _, id := range decisions(t, path) {
		seen[id]++
		caller, i, _ := strings.Cut(id, "-")
		var n int
		fmt.Sscan(i, &n)
		if n < last[caller] {
			t.Errorf("%s came after %d", id, last[caller])
		}
		last[caller] = n
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s is there %d times", id, n)
		}
	}
	if len(seen) != callers*each {
		t.Errorf("%d records of %d", len(seen), callers*each)
	}
	must(t, a.Close())
	if err := a.Record(context.Background(), &sts.Record{Event: sts.EventToken}); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	must(t, a.Close())
}

// TestAuditClose: what is being recorded when it is closed is written or refused.
func TestAuditClose(t *testing.T) {
	a, path := newLog(t)
	var mu sync.Mutex
	acknowledged := map[string]bool{}
	var wg, started sync.WaitGroup
	for c := range 8 {
		started.Add(1)
		wg.Go(func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%d-%d", c, i)
				err := a.Record(context.Background(), &sts.Record{Event: sts.EventToken, Decision: id})
				if err != nil {
					if !errors.Is(err, ErrClosed) {
						t.Errorf("while closing: %v", err)
					}
					return
				}
				mu.Lock()
				acknowledged[id] = true
				mu.Unlock()
				if i == 0 {
					started.Done()
				}
			}
		})
	}
	started.Wait()
	must(t, a.Close())
	wg.Wait()
	got := decisions(t, path)
	for _, id := range got {
		delete(acknowledged, id)
	}
	if len(acknowledged) > 0 || len(got) < 8 {
		t.Errorf("acknowledged and gone: %v", acknowledged)
	}
}

// testFile is a file in memory whose calls can be made to fail.
type testFile struct {
	mu      sync.Mutex
	content []byte
	writes  int
	syncs   int
	room    int           // how much can be written until it fails, if writeErr is set
	hold    chan struct{} // writes wait for it, if it is not nil
	stall   chan struct{} // syncs do

	writeErr, truncateErr, syncErr error
}

func (f *testFile) Write(p []byte) (int, error) {
	if f.hold != nil {
		<-f.hold
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes++
	n := len(p)
	if f.writeErr != nil {
		n = min(n, f.room)
	}
	f.content = append(f.content, p[:n]...)
	if n < len(p) {
		return n, f.writeErr
	}
	return n, nil
}

func (f *testFile) Stat() (os.FileInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fileSize(len(f.content)), nil
}

func (f *testFile) Truncate(size int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.truncateErr == nil {
		f.content = f.content[:size]
	}
	return f.truncateErr
}

func (f *testFile) Sync() error {
	if f.stall != nil {
		<-f.stall
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.syncs++
	return f.syncErr
}

func (f *testFile) Close() error { return nil }

// memoryLog is a log in such a file.
func memoryLog(f auditFile) *Audit {
	var o AuditOptions
	o.defaults()
	return newAudit(o, f, auditTail{head: chainHead{chain: "test"}})
}

type fileSize int64

func (s fileSize) Size() int64        { return int64(s) }
func (s fileSize) Name() string       { return "" }
func (s fileSize) Mode() os.FileMode  { return 0o600 }
func (s fileSize) ModTime() time.Time { return time.Time{} }
func (s fileSize) IsDir() bool        { return false }
func (s fileSize) Sys() any           { return nil }

// TestAuditWriteFails: a write that fails leaves nothing, and the next is tried
// [F31]; if what it left cannot be cut off, nothing is written behind it.
func TestAuditWriteFails(t *testing.T) {
	for _, room := range []int{0, 1, 30} {
		for _, writeErr := range []error{syscall.ENOSPC, syscall.EIO, io.ErrShortWrite} {
			f := new(testFile)
			a := memoryLog(f)
			record := func(id string) error {
				return a.Record(context.Background(), &sts.Record{Event: sts.EventToken, Decision: id})
			}
			must(t, record("1"))
			before := string(f.content)
			f.writeErr, f.room = writeErr, room
			for range 3 {
				if err := record("lost"); !errors.Is(err, writeErr) {
					t.Errorf("%v: %v", writeErr, err)
				}
			}
			if string(f.content) != before {
				t.Errorf("%v after %d bytes left %q", writeErr, room, f.content)
			}
			f.writeErr = nil
			must(t, a.Err())
			must(t, record("2"))
			f.writeErr, f.truncateErr = writeErr, syscall.EIO
			if err := record("lost"); !errors.Is(err, syscall.EIO) {
				t.Errorf("that cannot be cut off: %v", err)
			}
			f.writeErr, f.truncateErr = nil, nil
			before = string(f.content)
			if err := record("3"); err == nil || string(f.content) != before {
				t.Errorf("behind half a record: %v, %q", err, f.content)
			}
			if err := a.Close(); err == nil {
				t.Error("Close hides it")
			}
		}
	}
}

// TestAuditSync: what is written is synced within a second, and once a sync failed
// nothing more is taken, nor synced [F30].
func TestAuditSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(testFile)
		a := memoryLog(f)
		record := func() error { return a.Record(context.Background(), &sts.Record{Event: sts.EventToken, Decision: "1"}) }
		time.Sleep(10 * syncEvery)
		synctest.Wait()
		if f.syncs != 0 {
			t.Errorf("%d syncs of nothing", f.syncs)
		}
		for range 3 {
			must(t, record())
			must(t, record())
			time.Sleep(syncEvery + time.Millisecond)
		}
		time.Sleep(10 * syncEvery)
		synctest.Wait()
		if f.syncs != 3 {
			t.Errorf("%d syncs", f.syncs)
		}
		f.syncErr = syscall.EIO
		must(t, record())
		time.Sleep(syncEvery + time.Millisecond)
		synctest.Wait()
		f.syncErr = nil
		if !errors.Is(a.Err(), syscall.EIO) {
			t.Errorf("Err is %v", a.Err())
		}
		size := len(f.content)
		for range 3 {
			if err := record(); !errors.Is(err, syscall.EIO) {
				t.Errorf("after a sync that failed: %v", err)
			}
		}
		time.Sleep(10 * syncEvery)
		if err := a.Close(); !errors.Is(err, syscall.EIO) {
			t.Errorf("Close: %v", err)
		}
		if f.syncs != 4 || len(f.content) != size {
			t.Errorf("%d syncs, %d bytes more", f.syncs, len(f.content)-size)
		}
	})
}

func TestAuditCloseSyncs(t *testing.T) {
	for _, syncErr := range []error{nil, syscall.EIO} {
		f := &testFile{syncErr: syncErr}
		a := memoryLog(f)
		must(t, a.Record(context.Background(), &sts.Record{Event: sts.EventToken}))
		if err := a.Close(); !errors.Is(err, syncErr) || f.syncs != 1 {
			t.Errorf("%v: Close is %v after %d syncs", syncErr, err, f.syncs)
		}
	}
}

// TestAuditGroups: records that come while a write hangs go out together, have one
// fate, and are bounded [F32].
func TestAuditGroups(t *testing.T) {
	f := &testFile{hold: make(chan struct{})}
	a := memoryLog(f)
	results := make(chan error)
	record := func() { results <- a.Record(context.Background(), &sts.Record{Event: sts.EventToken, Decision: "d"}) }
	waiting := func(want int) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; runtime.Gosched() {
			a.mu.Lock()
			n := a.pending.count
			a.mu.Unlock()
			if n == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d are waiting, not %d", n, want)
			}
		}
	}
	go record()
	for begun := false; !begun; runtime.Gosched() {
		a.mu.Lock()
		begun = a.writing != nil
		a.mu.Unlock()
	}
	for range maxQueue {
		go record()
	}
	waiting(maxQueue)
	if err := a.Record(context.Background(), &sts.Record{Event: sts.EventToken}); !errors.Is(err, errQueue) {
		t.Errorf("one too many: %v", err)
	}
	f.hold <- struct{}{}
	f.mu.Lock()
	f.writeErr, f.room = syscall.ENOSPC, 1000
	f.mu.Unlock()
	must(t, <-results)
	f.hold <- struct{}{}
	for range maxQueue {
		if err := <-results; !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("in a group that failed: %v", err)
		}
	}
	if n := bytes.Count(f.content, []byte("\n")); n != 1 || f.writes != 2 {
		t.Errorf("%d records by %d writes", n, f.writes)
	}
	must(t, a.Close())
}

// TestAuditHangs lets the disk hang: callers leave in time and later ones at once,
// nothing piles up, and it works again by itself [F32].
func TestAuditHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &testFile{hold: make(chan struct{})}
		a := memoryLog(f)
		results := make(chan error)
		record := func(ctx context.Context, id string) {
			results <- a.Record(ctx, &sts.Record{Event: sts.EventToken, Decision: id})
		}
		began := time.Now()
		go record(t.Context(), "hung")
		synctest.Wait()
		go record(t.Context(), "behind")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go record(ctx, "behind")
		if err := <-results; !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("a caller with less time left after %s: %v", time.Since(began), err)
		}
		for range 2 {
			if err := <-results; !hangs(err) || time.Since(began) != diskWait {
				t.Errorf("a caller left after %s: %v", time.Since(began), err)
			}
		}
		for range 10_000 {
			if err := a.Record(t.Context(), &sts.Record{Event: sts.EventToken, Decision: "late"}); !hangs(err) || time.Since(began) != diskWait {
				t.Fatalf("a later caller left after %s: %v", time.Since(began), err)
			}
		}
		if a.Err() != nil {
			t.Errorf("it cannot work any more: %v", a.Err())
		}
		close(f.hold)
		synctest.Wait()
		must(t, a.Record(t.Context(), &sts.Record{Event: sts.EventToken, Decision: "after"}))
		if got := string(f.content); strings.Count(got, "\n") != 2 || !strings.Contains(got, `"hung"`) || !strings.Contains(got, `"after"`) {
			t.Errorf("the log has %q", got)
		}
		must(t, a.Close())
	})
}

// TestAuditSyncHangs: nothing is acknowledged for long that is not on the disk.
func TestAuditSyncHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &testFile{stall: make(chan struct{})}
		a := memoryLog(f)
		record := func() error { return a.Record(t.Context(), &sts.Record{Event: sts.EventToken, Decision: "1"}) }
		must(t, record())
		time.Sleep(syncEvery + diskWait - time.Millisecond)
		must(t, record())
		time.Sleep(2 * time.Millisecond)
		if err := record(); !hangs(err) {
			t.Errorf("while a sync hangs: %v", err)
		}
		close(f.stall)
		synctest.Wait()
		must(t, record())
		must(t, a.Close())
		if f.syncs < 2 {
			t.Errorf("%d syncs", f.syncs)
		}
	})
}

// TestAuditCloseHangs: a process can end although the disk does not answer.
func TestAuditCloseHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &testFile{hold: make(chan struct{})}
		a := memoryLog(f)
		result := make(chan error, 1)
		go func() { result <- a.Record(t.Context(), &sts.Record{Event: sts.EventToken}) }()
		synctest.Wait()
		began := time.Now()
		if err := a.Close(); !hangs(err) || time.Since(began) != diskWait {
			t.Errorf("Close after %s: %v", time.Since(began), err)
		}
		if err := <-result; !hangs(err) {
			t.Errorf("who waited: %v", err)
		}
		close(f.hold) // the goroutines end
	})
}

// TestAuditQueueBytes bounds what waits by its size too.
func TestAuditQueueBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &testFile{hold: make(chan struct{})}
		a := memoryLog(f)
		go a.Record(t.Context(), &sts.Record{Event: sts.EventToken})
		synctest.Wait()
		large := strings.Repeat("x", maxQueueBytes/32)
		for range 32 {
			go a.Record(t.Context(), &sts.Record{Event: sts.EventToken, Reason: large})
		}
		synctest.Wait()
		if err := a.Record(t.Context(), &sts.Record{Event: sts.EventToken}); err != errQueue {
			t.Errorf("one too many: %v", err)
		}
		close(f.hold)
		synctest.Wait()
		must(t, a.Close())
	})
}

func hangs(err error) bool {
	_, ok := errors.AsType[*diskHangs](err)
	return ok
}

func BenchmarkAuditRecord(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			a, _ := newLog(b)
			r := typical()
			b.ReportAllocs()
			b.SetParallelism(max(1, callers/runtime.GOMAXPROCS(0)))
			if callers == 1 {
				for b.Loop() {
					must(b, a.Record(b.Context(), r))
				}
				return
			}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := a.Record(b.Context(), r); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
