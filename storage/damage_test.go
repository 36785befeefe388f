package storage

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// damaged returns a closed store of many pages, some of them free, and what is in
// it.
func damaged(t *testing.T) (path string, want []Entry) {
	t.Helper()
	b, path := newBolt(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 40 {
		var ops []Op
		for _, i := range rnd.Perm(800)[:20] {
			op := Op{Key: fmt.Sprintf("resource/Client/%03d", i), Delete: rnd.IntN(8) == 0}
			if !op.Delete {
				op.Value = make([]byte, rnd.IntN(2000))
			}
			if !op.Delete && rnd.IntN(3) == 0 {
				op.Expires = time.Now().Add(time.Duration(1+rnd.IntN(1000)) * time.Hour)
			}
			ops = append(ops, op)
		}
		ops = append(ops, Op{Key: "large", Value: make([]byte, 20_000)})
		_, _, err := b.Txn(t.Context(), nil, ops)
		must(t, err)
	}
	want, _, err := b.List(t.Context(), "", "", 0)
	must(t, err)
	must(t, b.Close())
	return path, want
}

// sameOrRefused opens a store that something was done to: it must have all it
// had, or be refused.
func sameOrRefused(t *testing.T, path string, want []Entry, what string) (refused bool) {
	t.Helper()
	b, err := OpenBolt(path, BoltOptions{})
	if err != nil {
		if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "backup") {
			t.Errorf("%s: the error does not say what is wrong and what to do: %v", what, err)
		}
		return true
	}
	defer b.Close()
	got, _, err := b.List(t.Context(), "", "", 0)
	if err != nil || !slices.EqualFunc(got, want, equalEntries) {
		t.Fatalf("%s: it was opened, with %d entries instead of %d; %v", what, len(got), len(want), err)
	}
	return false
}

// TestBoltDamage changes single bytes in every page [B-01, F34].
func TestBoltDamage(t *testing.T) {
	path, want := damaged(t)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	content, err := io.ReadAll(f)
	must(t, err)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	each := 8
	if testing.Short() {
		each = 2
	}
	pages := len(content) / 4096
	tried, refused := 0, 0
	for i := range pages * each {
		at := i / each * 4096
		if i%2 == 0 {
			at += rnd.IntN(80) // headers, where it hurts
		} else {
			at += rnd.IntN(4096)
		}
		flip := byte(1 << rnd.IntN(8))
		if i%3 == 0 {
			flip = byte(1 + rnd.IntN(255))
		}
		_, err := f.WriteAt([]byte{content[at] ^ flip}, int64(at))
		must(t, err)
		tried++
		if sameOrRefused(t, path, want, fmt.Sprintf("byte %d changed by %#x", at, flip)) {
			refused++
		}
		_, err = f.WriteAt(content[at:at+1], int64(at))
		must(t, err)
	}
	t.Logf("%d pages; %d of %d changes were refused, the others changed nothing that is in use", pages, refused, tried)
	if pages < 50 || refused < tried/4 {
		t.Error("that is fewer than it should be")
	}
	if sameOrRefused(t, path, want, "nothing changed") {
		t.Error("the whole file was refused")
	}
}

func TestBoltDamagedWhole(t *testing.T) { // F34
	path, want := damaged(t)
	content, err := os.ReadFile(path)
	must(t, err)
	zeroed := func(from, to int) []byte {
		c := slices.Clone(content)
		clear(c[from:to])
		return c
	}
	for name, c := range map[string][]byte{
		"empty":               {},
		"one byte":            content[:1],
		"half a page":         content[:2048],
		"one page":            content[:4096],
		"three pages":         content[:3*4096],
		"half":                content[:len(content)/2],
		"first header zero":   zeroed(0, 4096),
		"second header zero":  zeroed(4096, 8192),
		"both headers zero":   zeroed(0, 8192),
		"all but headers":     zeroed(8192, len(content)),
		"all zero":            make([]byte, len(content)),
		"text":                []byte("audit: {}\n"),
		"text of a page":      []byte(strings.Repeat("audit: {}\n", 1000)),
		"headers of new, old": append(slices.Clone(content[:4096]), content...),
	} {
		t.Run(name, func(t *testing.T) {
			must(t, os.WriteFile(path, c, 0o600))
			if !sameOrRefused(t, path, want, name) {
				t.Error("it was opened")
			}
		})
	}
}

// TestBoltDamagedInUse damages pages under a store that is open: what it reads is
// an error, and the process lives.
func TestBoltDamagedInUse(t *testing.T) {
	b, path := newBolt(t)
	for i := range 50 {
		put(t, b, fmt.Sprint(i), strings.Repeat("v", 1000))
	}
	must(t, os.Truncate(path, 8192))
	failed := 0
	for i := range 50 {
		if e, err := b.Get(t.Context(), fmt.Sprint(i)); err != nil {
			failed++
		} else if len(e.Value) != 1000 {
			t.Errorf("read %q", e.Value)
		}
	}
	if failed == 0 {
		t.Error("all was read from a file that is not there")
	}
	if _, _, err := b.Txn(t.Context(), nil, []Op{{Key: "a"}}); !errors.Is(err, ErrFailed) {
		t.Errorf("write: %v", err)
	}
	if b.Err() == nil {
		t.Error("Err does not tell")
	}
	must(t, b.Close())
	refuses(t, path, "cut off", "backup") // and not because it is in use
}
