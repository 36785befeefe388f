package storage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/workload-sts/sts/sts"
)

// powerFile is a file on a machine whose power can go: what was not synced then is
// not there, or is there in part, with holes.
type powerFile struct {
	*os.File
	off    *atomic.Bool
	left   *atomic.Int64 // writes until the power goes
	mu     sync.Mutex
	synced int64
}

var errPower = errors.New("the power is off")

func (f *powerFile) Write(b []byte) (int, error) {
	if f.off.Load() {
		return 0, errPower
	}
	n, err := f.File.Write(b)
	if f.left.Add(-1) == 0 {
		f.off.Store(true)
	}
	return n, err
}

func (f *powerFile) Truncate(size int64) error {
	if f.off.Load() {
		return errPower
	}
	return f.File.Truncate(size)
}

func (f *powerFile) Sync() error {
	info, err := f.Stat()
	if err != nil || f.off.Load() {
		return errPower
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	// What is written after this may be synced too, or not.
	f.synced = info.Size()
	return nil
}

// lose makes of the file what the power cut leaves of it.
func (f *powerFile) lose(t testing.TB, path string, rnd *rand.Rand) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(path)
	must(t, err)
	if info.Size() <= f.synced {
		return
	}
	kept := f.synced + rnd.Int64N(info.Size()-f.synced+1)
	must(t, os.Truncate(path, kept))
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	for range rnd.IntN(4) {
		if at := f.synced + rnd.Int64N(kept-f.synced+1); at < kept {
			_, err := file.WriteAt(make([]byte, min(kept-at, rnd.Int64N(600))), at)
			must(t, err)
		}
	}
	must(t, file.Close())
}

// TestAuditPower cuts the power at random moments while records are written, files
// filled and checkpoints signed. With Sync all that was acknowledged is there; without
// it all that was acknowledged before the last sync is. The chain is whole, and
// goes on [F29, V5].
func TestAuditPower(t *testing.T) {
	for _, durable := range []bool{true, false} {
		t.Run(fmt.Sprintf("sync=%v", durable), func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			rnd := rand.New(rand.NewPCG(seed, 0))
			path := filepath.Join(t.TempDir(), "audit.jsonl")
			signer := newTestSigner(t, 1)
			safe := map[string]bool{}
			torn := 0
			for cycle := range 60 {
				acknowledged, before := powerCycle(t, path, signer, durable, cycle, rnd, &torn)
				for id := range before {
					safe[id] = true
				}
				if durable {
					for id := range acknowledged {
						safe[id] = true
					}
				}
			}
			a, _, err := OpenAudit(AuditOptions{File: path, Signer: signer})
			must(t, err)
			must(t, a.Close())
			files, content := logFiles(t, path)
			r := verifyLog(t, AuditVerifier{Keys: signer.KeySet()}, files...)
			if !r.Closed || len(files) < 3 || r.Torn == 0 {
				t.Errorf("%d files, %+v", len(files), r)
			}
			seen := map[string]bool{}
			for _, line := range jsonLines(t, content) {
				if id, _ := line["decision"].(string); id != "" {
					if seen[id] {
						t.Errorf("%s is there twice", id)
					}
					seen[id] = true
				}
			}
			for id := range safe {
				if !seen[id] {
					t.Errorf("%s was safe and is gone", id)
				}
			}
			t.Logf("%d records were safe, %d are there, %d files, torn %d times", len(safe), len(seen), len(files), torn)
		})
	}
}

// powerCycle writes until the power goes, and returns what was acknowledged, and
// what of it before the last sync.
func powerCycle(t *testing.T, path string, signer *testSigner, durable bool, cycle int, rnd *rand.Rand, torn *int) (acknowledged, before map[string]bool) {
	t.Helper()
	off, left := new(atomic.Bool), new(atomic.Int64)
	left.Store(1 + rnd.Int64N(60))
	var mu sync.Mutex
	var last *powerFile
	kv, err := OpenBolt(filepath.Join(filepath.Dir(path), "sts.db"), BoltOptions{})
	must(t, err)
	defer kv.Close()
	a, aside, err := OpenAudit(AuditOptions{
		Store: NewStore(kv), File: path, Sync: durable, MaxSize: 20 << 10, Signer: signer, CheckpointRecords: 1 + rnd.Int64N(30),
		wrap: func(f auditFile) auditFile {
			file := f.(*os.File)
			info, err := file.Stat()
			must(t, err)
			mu.Lock()
			defer mu.Unlock()
			last = &powerFile{File: file, off: off, left: left, synced: info.Size()}
			return last
		},
	})
	if errors.Is(err, errPower) { // while it wrote what it had found
		last.lose(t, path, rnd)
		return nil, nil
	}
	must(t, err)
	if aside != "" {
		*torn++
	}
	acknowledged, before = map[string]bool{}, map[string]bool{}
	var writers sync.WaitGroup
	most := rnd.IntN(40)
	for w := range 4 {
		writers.Go(func() {
			for i := range most {
				id := fmt.Sprintf("%d-%d-%d", cycle, w, i)
				if a.Record(t.Context(), &sts.Record{Event: sts.EventToken, Decision: id}) != nil {
					return
				}
				mu.Lock()
				acknowledged[id] = true
				mu.Unlock()
				if w == 0 && i == most/2 {
					// All that is acknowledged now is safe after this sync, in this file or in one
					// before it.
					mu.Lock()
					now := maps.Clone(acknowledged)
					mu.Unlock()
					if a.flush() == nil {
						mu.Lock()
						before = now
						mu.Unlock()
					}
				}
			}
		})
	}
	writers.Wait()
	off.Store(true)
	_ = a.Close() // its error is that the power is off
	mu.Lock()
	defer mu.Unlock()
	last.lose(t, path, rnd)
	return acknowledged, before
}

// jsonLines are the lines of a log.
func jsonLines(t testing.TB, content []byte) []map[string]any {
	t.Helper()
	var out []map[string]any
	d := json.NewDecoder(bytes.NewReader(content))
	for d.More() {
		var m map[string]any
		must(t, d.Decode(&m))
		out = append(out, m)
	}
	return out
}
