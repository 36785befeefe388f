package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/workload-sts/sts/sts"
)

// replayWorld is a machine with a clock and a journal.
type replayWorld struct {
	path string
	now  atomic.Int64 // Unix seconds
	boot string
	max  int
}

func newReplayWorld(t testing.TB) *replayWorld {
	w := &replayWorld{path: filepath.Join(t.TempDir(), "replay"), boot: bootID(1)}
	w.now.Store(1_800_000_000)
	return w
}

func bootID(n int) string { return fmt.Sprintf("%08d-0000-4000-8000-000000000000", n) }

func (w *replayWorld) open(t testing.TB, isNew bool) *Replay {
	t.Helper()
	r, err := OpenReplay(w.path, ReplayOptions{
		New: isNew, Max: w.max, Now: func() time.Time { return time.Unix(w.now.Load(), 0) },
		BootID: func() (string, error) { return w.boot, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// use presents an assertion that was made so many seconds from now, and lives for
// five minutes.
func (w *replayWorld) use(r *Replay, key string, made int64) (bool, error) {
	iat := time.Unix(w.now.Load()+made, 0)
	return r.Use(context.Background(), sts.ReplayClientAssertion, key, iat.Add(-sts.Skew), iat.Add(5*time.Minute+sts.Skew))
}

func (w *replayWorld) fresh(t testing.TB, r *Replay, key string, want bool) {
	t.Helper()
	if got, err := w.use(r, key, 0); got != want || err != nil {
		t.Fatalf("%q is fresh: %v, %v; want %v", key, got, err, want)
	}
}

// crash ends a process as kill -9 does: nothing is written any more.
func crash(r *Replay) {
	close(r.stop)
	<-r.stopped
	r.journal.close()
	r.journal.file.Close()
	// Close does nothing after that.
}

func TestReplayOnce(t *testing.T) {
	w := newReplayWorld(t)
	r := w.open(t, true)
	w.fresh(t, r, "a", true)
	w.fresh(t, r, "a", false)
	w.fresh(t, r, "b", true)
	t.Run("N-15 spaces do not collide", func(t *testing.T) {
		now := time.Unix(w.now.Load(), 0)
		for _, k := range []struct {
			space sts.ReplaySpace
			key   string
		}{{"x", "yz"}, {"xy", "z"}, {"x", "y\x00z"}, {"x\x00y", "z"}, {"", "xyz"}, {"xyz", ""}, {"3:x", "yz"}} {
			if fresh, err := r.Use(t.Context(), k.space, k.key, now, now.Add(time.Minute)); !fresh || err != nil {
				t.Errorf("%q %q: %v, %v", k.space, k.key, fresh, err)
			}
		}
	})
	t.Run("after its time", func(t *testing.T) {
		w.now.Add(600)
		if _, err := w.use(r, "c", -600); !errors.Is(err, sts.ErrForgotten) {
			t.Errorf("something that is too old is remembered: %v", err)
		}
	})
}

// TestReplayConcurrently presents one thing 10,000 times at once.
func TestReplayConcurrently(t *testing.T) {
	w := newReplayWorld(t)
	r := w.open(t, true)
	var fresh, failed atomic.Int64
	var all sync.WaitGroup
	start := make(chan struct{})
	for range 10_000 {
		all.Go(func() {
			<-start
			ok, err := w.use(r, "one", 0)
			if ok {
				fresh.Add(1)
			}
			if err != nil {
				failed.Add(1)
			}
		})
	}
	close(start)
	all.Wait()
	if fresh.Load() != 1 || failed.Load() != 0 {
		t.Errorf("%d of 10,000 were the first, %d failed", fresh.Load(), failed.Load())
	}
}

// TestReplayAfterTheEnd opens a journal that another process left.
func TestReplayAfterTheEnd(t *testing.T) {
	flip := func(at func(size int64) int64) func(*testing.T, *replayWorld) {
		return func(t *testing.T, w *replayWorld) {
			b, err := os.ReadFile(w.path)
			must(t, err)
			b[at(int64(len(b)))] ^= 1
			must(t, os.WriteFile(w.path, b, 0o600))
		}
	}
	for name, tc := range map[string]struct {
		clean  bool // closed, not killed
		change func(*testing.T, *replayWorld)
		lost   string
	}{
		"A-13 killed":                 {},
		"closed":                      {clean: true},
		"closed, and another boot":    {clean: true, change: func(_ *testing.T, w *replayWorld) { w.boot = bootID(2) }},
		"another boot":                {change: func(_ *testing.T, w *replayWorld) { w.boot = bootID(2) }, lost: "started anew"},
		"boot not known":              {change: func(_ *testing.T, w *replayWorld) { w.boot = "" }, lost: "started anew"},
		"removed":                     {clean: true, change: func(t *testing.T, w *replayWorld) { must(t, os.Remove(w.path)) }, lost: "missing"},
		"emptied":                     {clean: true, change: func(t *testing.T, w *replayWorld) { must(t, os.Truncate(w.path, 0)) }, lost: "missing"},
		"header cut":                  {clean: true, change: func(t *testing.T, w *replayWorld) { must(t, os.Truncate(w.path, 70)) }, lost: "damaged"},
		"zeros":                       {change: func(t *testing.T, w *replayWorld) { must(t, os.WriteFile(w.path, make([]byte, 4096), 0o600)) }, lost: "damaged"},
		"torn by the end of a killed": {change: tear},
		"a bit of the header":         {change: flip(func(int64) int64 { return 30 }), lost: "damaged"},
		"a bit of an entry":           {change: flip(func(int64) int64 { return replayHeaderSize + 3 }), lost: "damaged"},
		"a bit of the last entry":     {change: flip(func(size int64) int64 { return size - 1 }), lost: "damaged"},
		"the mark of the end, and more": {clean: true, change: func(t *testing.T, w *replayWorld) {
			f, err := os.OpenFile(w.path, os.O_APPEND|os.O_WRONLY, 0)
			must(t, err)
			_, err = f.Write(replayEntry{until: 1}.append(nil))
			must(t, errors.Join(err, f.Close()))
		}, lost: "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newReplayWorld(t)
			r := w.open(t, true)
			w.fresh(t, r, "a", true)
			w.fresh(t, r, "b", true)
			if tc.clean {
				must(t, r.Close())
			} else {
				crash(r)
			}
			if tc.change != nil {
				tc.change(t, w)
			}
			w.now.Add(2)
			for last := range 2 { // it is not forgotten that something was forgotten
				r = w.open(t, false)
				if tc.lost == "" {
					if r.Lost() != "" {
						t.Fatalf("lost: %s", r.Lost())
					}
					w.fresh(t, r, "a", false)
				} else {
					for _, made := range []int64{-2, 0, 30} {
						if fresh, err := w.use(r, "a", made); fresh || !errors.Is(err, sts.ErrForgotten) {
							t.Fatalf("made %d s from the opening: %v, %v", made, fresh, err)
						}
					}
				}
				if last == 0 {
					crash(r)
				}
			}
			if tc.lost != "" {
				w.now.Add(40)
				w.fresh(t, r, "c", true)
				w.fresh(t, r, "c", false)
			}
		})
	}
}

// tear leaves a part of an entry, as a process that is killed can.
func tear(t *testing.T, w *replayWorld) {
	f, err := os.OpenFile(w.path, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = f.Write(replayEntry{at: 1, until: 2}.append(nil)[:replayEntrySize-1])
	must(t, errors.Join(err, f.Close()))
}

func TestReplayLostIsSaid(t *testing.T) {
	w := newReplayWorld(t)
	crash(w.open(t, true))
	w.boot = bootID(2)
	r := w.open(t, false)
	if !strings.Contains(r.Lost(), "started anew") {
		t.Errorf("lost: %q", r.Lost())
	}
	_, err := w.use(r, "a", 0)
	wait, ok := err.(interface{ RetryAfter() time.Duration })
	if !ok || wait.RetryAfter() < sts.Skew || wait.RetryAfter() > sts.Skew+5*time.Second {
		t.Fatalf("%v does not say when to come back", err)
	}
	w.now.Add(int64(wait.RetryAfter() / time.Second))
	w.fresh(t, r, "b", true)
}

// TestReplayClockPutBack starts a machine whose clock stands before what it was.
func TestReplayClockPutBack(t *testing.T) {
	w := newReplayWorld(t)
	r := w.open(t, true)
	w.fresh(t, r, "a", true)
	crash(r)
	was := w.now.Load()
	w.now.Add(-86400)
	w.boot = bootID(2)
	r = w.open(t, false)
	w.now.Store(was + 60) // it is set right
	if fresh, err := w.use(r, "a", -60); fresh || !errors.Is(err, sts.ErrForgotten) {
		t.Errorf("used again: %v, %v", fresh, err)
	}
	// A clock that runs ahead makes entries expire, and is put back.
	w.fresh(t, r, "b", true)
	w.now.Add(3600)
	r.sweep(w.now.Load())
	must(t, r.journal.replace(r.header, r.live))
	w.now.Add(-3600)
	for range 2 {
		if fresh, err := w.use(r, "b", 0); fresh || !errors.Is(err, sts.ErrForgotten) {
			t.Errorf("used again: %v, %v", fresh, err)
		}
		crash(r)
		r = w.open(t, false)
	}
}

// TestReplayClockAheadAtStart starts on a clock that is an hour ahead, by which
// what was used is not good any more, and again when the clock was put right.
func TestReplayClockAheadAtStart(t *testing.T) { // F38
	w := newReplayWorld(t)
	r := w.open(t, true)
	w.fresh(t, r, "a", true)
	crash(r)
	w.now.Add(3600)
	crash(w.open(t, false))
	w.now.Add(-3600)
	r = w.open(t, false)
	if fresh, err := w.use(r, "a", 0); fresh || !errors.Is(err, sts.ErrForgotten) {
		t.Errorf("used again: %v, %v", fresh, err)
	}
	if fresh, err := w.use(r, "b", 1); !fresh || err != nil {
		t.Errorf("one that is good for longer: %v, %v", fresh, err)
	}
}

// TestReplayBounded holds that a full memory refuses, and forgets nothing for it
// [D-21].
func TestReplayBounded(t *testing.T) {
	w := newReplayWorld(t)
	w.max = 100
	r := w.open(t, true)
	for i := range 100 {
		w.fresh(t, r, fmt.Sprint(i), true)
	}
	for range 3 {
		if fresh, err := w.use(r, "more", 0); fresh || !errors.Is(err, ErrReplayFull) {
			t.Fatalf("%v, %v", fresh, err)
		}
		w.fresh(t, r, "7", false)
		w.now.Add(1)
	}
	w.now.Add(400)
	w.fresh(t, r, "more", true)
	if n := r.count.Load(); n != 1 {
		t.Errorf("%d uses are remembered, 1 has not expired", n)
	}
}

// TestReplayCompaction holds that a journal does not grow for ever, and that what
// is written while it is made anew is not lost.
func TestReplayCompaction(t *testing.T) {
	w := newReplayWorld(t)
	r := w.open(t, true)
	for i := range 1000 {
		w.fresh(t, r, fmt.Sprint("old", i), true)
	}
	w.now.Add(400)
	r.sweep(w.now.Load())
	stop := make(chan struct{})
	var writers sync.WaitGroup
	var used sync.Map
	for g := range 4 {
		writers.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprint(g, " ", i)
				if ok, err := w.use(r, key, 0); !ok || err != nil {
					t.Errorf("%s: %v, %v", key, ok, err)
					return
				}
				used.Store(key, true)
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for range 10 {
		time.Sleep(time.Millisecond)
		must(t, r.journal.replace(r.header, r.live))
	}
	close(stop)
	writers.Wait()
	crash(r)
	r = w.open(t, false)
	n := 0
	used.Range(func(key, _ any) bool {
		w.fresh(t, r, key.(string), false)
		n++
		return true
	})
	if n == 0 || r.journal.size.Load() != int64(replayHeaderSize+n*replayEntrySize) {
		t.Errorf("%d uses in %d bytes", n, r.journal.size.Load())
	}
	if left, _ := filepath.Glob(w.path + "?*"); len(left) > 0 {
		t.Errorf("files are left: %v", left)
	}
}

func TestReplayFiles(t *testing.T) {
	for name, content := range map[string]string{
		"another file":    `{"time":"2027"}` + "\n",
		"another version": "sts-replay 2 x y z\n",
		"half a word":     "sts-db",
	} {
		w := newReplayWorld(t)
		must(t, os.WriteFile(w.path, []byte(content), 0o600))
		if _, err := OpenReplay(w.path, ReplayOptions{}); err == nil || !strings.Contains(err.Error(), w.path) {
			t.Errorf("%s: %v", name, err)
		}
		if b, err := os.ReadFile(w.path); err != nil || string(b) != content {
			t.Errorf("%s: it was changed to %q, %v", name, b, err)
		}
	}
	w := newReplayWorld(t)
	r := w.open(t, true)
	if info, err := os.Stat(w.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	must(t, r.journal.replace(r.header, r.live)) // the lock goes along
	if _, err := OpenReplay(w.path, ReplayOptions{}); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("a second one: %v", err)
	}
}

// faultyJournal fails as it is told.
type faultyJournal struct {
	journalFile
	write, truncate, sync error
}

func (f *faultyJournal) Write(b []byte) (int, error) {
	if f.write != nil {
		n, _ := f.journalFile.Write(b[:len(b)/2])
		return n, f.write
	}
	return f.journalFile.Write(b)
}

func (f *faultyJournal) Truncate(size int64) error {
	return errors.Join(f.truncate, f.journalFile.Truncate(size))
}

func (f *faultyJournal) Sync() error { return errors.Join(f.sync, f.journalFile.Sync()) }

// TestReplayDiskFaults holds that what could not be written counts as used, and
// that a disk that was full works again.
func TestReplayDiskFaults(t *testing.T) {
	full := errors.New("no space left on device")
	w := newReplayWorld(t)
	r := w.open(t, true)
	w.fresh(t, r, "a", true)
	f := &faultyJournal{journalFile: r.journal.file, write: full}
	r.journal.writing.Lock()
	r.journal.file = f
	r.journal.writing.Unlock()
	if fresh, err := w.use(r, "b", 0); fresh || !errors.Is(err, full) {
		t.Fatalf("%v, %v", fresh, err)
	}
	f.write = nil
	w.fresh(t, r, "b", false)
	w.fresh(t, r, "c", true)
	if r.Err() != nil {
		t.Fatal(r.Err())
	}
	f.write, f.truncate = full, full
	if _, err := w.use(r, "d", 0); !errors.Is(err, full) || r.Err() == nil {
		t.Fatalf("%v; %v", err, r.Err())
	}
	if _, err := w.use(r, "e", 0); err == nil {
		t.Error("used after what a failed write left could not be removed")
	}
	crash(r)
	r = w.open(t, false)
	for _, key := range []string{"a", "c"} {
		w.fresh(t, r, key, false)
	}
	f = &faultyJournal{journalFile: r.journal.file, sync: full}
	r.journal.writing.Lock()
	r.journal.file = f
	r.journal.writing.Unlock()
	w.fresh(t, r, "f", true)
	for deadline := time.Now().Add(5 * time.Second); r.Err() == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a sync that fails is not noticed")
		}
	}
}

func TestReplayCallerLeaves(t *testing.T) {
	w := newReplayWorld(t)
	r := w.open(t, true)
	r.journal.writing.Lock() // the disk hangs
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	now := time.Unix(w.now.Load(), 0)
	if fresh, err := r.Use(ctx, sts.ReplayClientAssertion, "a", now, now.Add(time.Minute)); fresh || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, %v", fresh, err)
	}
	r.journal.writing.Unlock()
	w.fresh(t, r, "a", false)
}

// TestReplayModel lets uses, crashes, boots, compactions and the clock run at
// random: nothing is ever accepted twice by a caller that keeps to its bounds.
func TestReplayModel(t *testing.T) {
	outer := t
	rapid.Check(t, func(t *rapid.T) {
		w := newReplayWorld(outer)
		r := w.open(outer, true)
		type thing struct{ iat int64 }
		accepted := map[string]bool{}
		things := map[string]thing{}
		boots := 1
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"use", "use", "use", "use", "use", "clock", "kill", "close", "boot", "gone", "compact", "sweep"}).Draw(t, "step") {
			case "use":
				key := fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "thing"))
				th, made := things[key]
				if !made || w.now.Load() > th.iat+400 && rapid.Bool().Draw(t, "again") {
					// A new thing by an old id: the same thing to the store.
					th = thing{w.now.Load() + rapid.Int64Range(-60, 25).Draw(t, "iat")}
					if made {
						delete(accepted, key) // the one before cannot be accepted any more
					}
					things[key] = th
				}
				// A caller refuses by time, whatever the store says.
				if now := w.now.Load(); now < th.iat-30 || now >= th.iat+330 {
					continue
				}
				fresh, err := w.use(r, key, th.iat-w.now.Load())
				if fresh && (err != nil || accepted[key]) {
					t.Fatalf("%s is accepted twice", key)
				}
				accepted[key] = accepted[key] || fresh
			case "clock":
				w.now.Add(rapid.Int64Range(0, 120).Draw(t, "seconds"))
			case "kill":
				crash(r)
				if rapid.Bool().Draw(t, "torn") {
					tear(outer, w)
				}
				r = w.open(outer, false)
			case "close":
				must(outer, r.Close())
				r = w.open(outer, false)
			case "boot":
				crash(r)
				boots++
				w.boot = bootID(boots)
				// What was not synced is gone, from anywhere on.
				if info, err := os.Stat(w.path); err == nil {
					must(outer, os.Truncate(w.path, rapid.Int64Range(0, info.Size()).Draw(t, "kept")))
				}
				r = w.open(outer, false)
			case "gone":
				crash(r)
				must(outer, os.Remove(w.path))
				r = w.open(outer, false)
			case "compact":
				must(outer, r.journal.replace(r.header, r.live))
			case "sweep":
				r.sweep(w.now.Load())
			}
		}
		crash(r)
	})
}
