package storage

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/workload-sts/sts/sts"
)

// replayCrashDir is the variable that makes the test binary a user of a journal.
const replayCrashDir = "STORAGE_TEST_REPLAY_DIR"

// useUntilKilled uses things for ever and names those of which it was told that
// they are fresh. Several goroutines use the same ones.
func useUntilKilled(dir string) error {
	r, err := OpenReplay(filepath.Join(dir, "replay"), ReplayOptions{New: true})
	if err != nil {
		return err
	}
	if r.Lost() != "" {
		return fmt.Errorf("lost: %s", r.Lost())
	}
	go func() {
		for { // far more often than in life
			time.Sleep(time.Millisecond)
			_ = r.journal.replace(r.header, r.live)
		}
	}()
	failed := make(chan error)
	for range 4 {
		go func() {
			for n := 0; ; n++ {
				now := time.Now()
				// Mostly what was used before, in this process or in one before it.
				key := fmt.Sprint(rand.IntN(n/2 + 100))
				fresh, err := r.Use(context.Background(), sts.ReplayClientAssertion, key, now, now.Add(time.Hour))
				if err != nil {
					failed <- err
					return
				}
				if fresh {
					fmt.Printf("fresh %s\n", key)
				}
			}
		}()
	}
	return <-failed
}

// TestReplayKill kills a process that uses things once, at random moments: no
// thing is fresh for two of them, or twice for one.
func TestReplayKill(t *testing.T) {
	cycles := 60
	if testing.Short() {
		cycles = 6
	}
	dir := t.TempDir()
	fresh := map[string]int{}
	for cycle := range cycles {
		out := killedWith(t, replayCrashDir, dir, time.Duration(rand.IntN(30_000))*time.Microsecond)
		for line := range strings.Lines(out) {
			key, ok := strings.CutPrefix(line, "fresh ")
			if !ok || !strings.HasSuffix(key, "\n") {
				continue // the last line may be torn
			}
			if before, again := fresh[key]; again {
				t.Fatalf("%q was fresh in cycle %d and again in cycle %d", strings.TrimSpace(key), before, cycle)
			}
			fresh[key] = cycle
		}
	}
	if len(fresh) < cycles {
		t.Errorf("only %d uses in %d cycles", len(fresh), cycles)
	}
	t.Logf("%d kills, %d uses", cycles, len(fresh))
}

// FuzzReplayJournal opens what is not a journal: nothing breaks, and what opens
// remembers.
func FuzzReplayJournal(f *testing.F) {
	header := replayHeader{boot: bootID(1)}.encode()
	f.Add([]byte{})
	f.Add(header)
	f.Add(replayEntry{at: 1, until: 1 << 40}.append(bytes.Clone(header)))
	f.Add(replayEntry{at: 1}.append(replayEntry{at: 1, until: 2}.append(bytes.Clone(header))))
	f.Add([]byte("sts-replay 2"))
	f.Fuzz(func(t *testing.T, b []byte) {
		seen := 0
		h, latest, closed, err := readJournal(bytes.NewReader(b), func(e replayEntry) {
			if seen++; e.until == 0 {
				t.Fatal("the mark of the end is given as a use")
			}
		})
		if err == nil && (!bytes.HasPrefix(b, h.encode()) || latest < 0 && !closed && seen == 0) {
			t.Fatalf("%+v of %q", h, b)
		}
		if most := max(0, (len(b)-replayHeaderSize)/replayEntrySize); seen > most {
			t.Fatalf("%d uses in room for %d", seen, most)
		}
	})
}

// BenchmarkReplay compares a use with one that is synced, in one run.
func BenchmarkReplay(b *testing.B) {
	for _, synced := range []bool{false, true} {
		b.Run(fmt.Sprintf("synced=%v", synced), func(b *testing.B) {
			r, err := OpenReplay(filepath.Join(b.TempDir(), "replay"), ReplayOptions{New: true, Max: 1 << 26})
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close()
			now := time.Now()
			b.SetParallelism(4)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if fresh, err := r.Use(b.Context(), "bench", fmt.Sprint(rand.Uint64()), now, now.Add(time.Hour)); !fresh || err != nil {
						b.Fatal(fresh, err)
					}
					if synced {
						if err := r.journal.file.Sync(); err != nil {
							b.Fatal(err)
						}
					}
				}
			})
		})
	}
}
