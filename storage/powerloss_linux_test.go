package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// sector is what a disk writes whole or not at all.
const sector = 512

// TestBoltPowerLoss stops the machine in the middle of writes: of what was written
// since the last sync the disk has any sectors, and others not. The store has what
// was acknowledged, and the transaction under way whole or not at all [F29].
//
// What is on its way at a sync is taken from the file: once when the sync after the
// pages fails, before the header is written, and once when all was synced.
func TestBoltPowerLoss(t *testing.T) {
	rounds, trials := 25, 16
	if testing.Short() {
		rounds = 5
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	path := filepath.Join(t.TempDir(), "sts.db")
	b, err := OpenBolt(path, BoltOptions{})
	must(t, err)
	must(t, b.Close())
	lost, kept := 0, 0
	for range rounds {
		before := image(t, path)
		had := contentOf(t, path)
		ops := randomOps(rnd)

		b, err := OpenBolt(path, BoltOptions{})
		must(t, err)
		failing := &txn{ops: ops, finished: make(chan struct{})}
		withoutSync(t, syscall.EIO, func() { b.write([]*txn{failing}) })
		if !errors.Is(failing.err, ErrFailed) {
			t.Fatalf("a write whose sync failed: %v", failing.err)
		}
		must(t, b.Close())
		pages := image(t, path)
		if !bytes.Equal(pages[:8192], before[:8192]) {
			t.Fatal("a header was written before the pages were synced")
		}
		for range trials {
			must(t, os.WriteFile(path, mixed(rnd, before, pages), 0o600))
			if got := contentOf(t, path); !got.equal(had) {
				t.Fatalf("pages without their header have changed the store: %v, not %v", got, had)
			}
		}

		must(t, os.WriteFile(path, before, 0o600))
		b, err = OpenBolt(path, BoltOptions{})
		must(t, err)
		if _, done, err := b.Txn(t.Context(), nil, ops); !done || err != nil {
			t.Fatal(done, err)
		}
		must(t, b.Close())
		after := image(t, path)
		has := contentOf(t, path)
		for range trials {
			// The pages are on the disk, the header is on its way.
			torn := mixed(rnd, before[:8192], after[:8192])
			must(t, os.WriteFile(path, append(torn, after[8192:]...), 0o600))
			switch got := contentOf(t, path); {
			case got.equal(had):
				lost++
			case got.equal(has):
				kept++
			default:
				t.Fatalf("neither what was there nor what was written: %v, not %v or %v", got, had, has)
			}
		}
		must(t, os.WriteFile(path, after, 0o600)) // what was acknowledged
	}
	t.Logf("%d times pages alone; headers: %d times the old state, %d times the new one", rounds*trials, lost, kept)
	if lost == 0 || kept == 0 {
		t.Error("the headers were always, or never, written")
	}
}

func randomOps(rnd *rand.Rand) []Op {
	var ops []Op
	for _, i := range rnd.Perm(60)[:1+rnd.IntN(12)] {
		op := Op{Key: fmt.Sprintf("k/%02d", i), Delete: rnd.IntN(4) == 0}
		if !op.Delete {
			op.Value = bytes.Repeat([]byte{byte(rnd.IntN(256))}, rnd.IntN(6000))
		}
		if !op.Delete && rnd.IntN(3) == 0 {
			op.Expires = time.Now().Add(time.Duration(1+rnd.IntN(100)) * time.Hour)
		}
		ops = append(ops, op)
	}
	return append(ops, Op{Key: "always", Value: []byte{byte(rnd.IntN(256))}})
}

func image(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return b
}

// mixed has some sectors of what was, and some of what was written over it. The
// file is as long as it became: that is synced by itself.
func mixed(rnd *rand.Rand, was, written []byte) []byte {
	out := make([]byte, max(len(was), len(written)))
	copy(out, was)
	share := rnd.IntN(5)
	for at := 0; at < len(written); at += sector {
		if rnd.IntN(4) < share {
			copy(out[at:min(at+sector, len(out))], written[at:])
		}
	}
	return out
}

type content struct {
	entries  []Entry
	revision int64
}

func (c content) equal(other content) bool {
	return c.revision == other.revision && slices.EqualFunc(c.entries, other.entries, equalEntries)
}

func (c content) String() string {
	return fmt.Sprintf("%d entries at revision %d", len(c.entries), c.revision)
}

func contentOf(t *testing.T, path string) content {
	t.Helper()
	b, err := OpenBolt(path, BoltOptions{})
	must(t, err)
	defer b.Close()
	entries, revision, err := b.List(t.Context(), "", "", 0)
	must(t, err)
	return content{entries, revision}
}
