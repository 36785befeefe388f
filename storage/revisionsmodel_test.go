package storage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/workload-sts/sts/sts"
	"pgregory.net/rapid"
)

// memKV is as much of a KV in memory as revisions need.
type memKV struct {
	KV
	mu       sync.Mutex
	entries  map[string]Entry
	revision int64
}

func (m *memKV) Get(_ context.Context, key string) (Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.entries[key]
	if !ok {
		return Entry{}, ErrNotFound
	}
	return e, nil
}

func (m *memKV) List(_ context.Context, prefix, after string, limit int) ([]Entry, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Entry
	for _, key := range slices.Sorted(maps.Keys(m.entries)) {
		if strings.HasPrefix(key, prefix) && key > after && (limit == 0 || len(out) < limit) {
			out = append(out, m.entries[key])
		}
	}
	return out, m.revision, nil
}

func (m *memKV) Txn(_ context.Context, compare []Compare, ops []Op) (int64, bool, error) {
	if err := checkTxn(compare, ops); err != nil {
		return 0, false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range compare {
		if m.entries[c.Key].Revision != c.Revision {
			return m.revision, false, nil
		}
	}
	m.revision++
	for _, op := range ops {
		if op.Delete {
			delete(m.entries, op.Key)
		} else {
			m.entries[op.Key] = Entry{Key: op.Key, Value: op.Value, Revision: m.revision}
		}
	}
	return m.revision, true, nil
}

// errCrash is what a node gets that dies.
var errCrash = errors.New("this node has crashed")

// turn is what a stepped node is allowed to do next.
type turn int

const (
	goOn      turn = iota
	dieBefore      // the call is not made
	dieAfter       // it is, and its answer lost
)

// stepped is a KV whose calls wait for their turn.
type stepped struct {
	*memKV
	waiting chan struct{} // it wants to make a call
	turns   chan turn
	dead    atomic.Bool
}

func step[T any](s *stepped, call func() (T, error)) (T, error) {
	var none T
	if s.dead.Load() {
		return none, errCrash
	}
	s.waiting <- struct{}{}
	switch <-s.turns {
	case dieBefore:
		s.dead.Store(true)
		return none, errCrash
	case dieAfter:
		s.dead.Store(true)
		call()
		return none, errCrash
	}
	return call()
}

func (s *stepped) Get(ctx context.Context, key string) (Entry, error) {
	return step(s, func() (Entry, error) { return s.memKV.Get(ctx, key) })
}

func (s *stepped) List(ctx context.Context, prefix, after string, limit int) ([]Entry, int64, error) {
	var revision int64
	list, err := step(s, func() (out []Entry, err error) {
		out, revision, err = s.memKV.List(ctx, prefix, after, limit)
		return out, err
	})
	return list, revision, err
}

func (s *stepped) Txn(ctx context.Context, compare []Compare, ops []Op) (int64, bool, error) {
	var revision int64
	done, err := step(s, func() (done bool, err error) {
		revision, done, err = s.memKV.Txn(ctx, compare, ops)
		return done, err
	})
	return revision, done, err
}

// world is several nodes on one KV, of which one makes one call at a time.
type world struct {
	kv       *memKV
	nodes    []*actor
	contents map[sts.Place]string // what each revision was to have, once it was in force
}

// actor is a node, and what it is doing.
type actor struct {
	kv      *stepped
	store   *Store
	done    chan error // of what it is doing; nil: nothing
	intends string     // what its commit would have
	line    sts.Line
	least   int64 // the live revision when it began to load
}

func (w *world) newStore(kv KV) *Store {
	s := NewStore(kv)
	s.layout = layout{page: 60, most: 3, fewest: 1}
	return s
}

func (w *world) restart(a *actor) {
	a.kv = &stepped{memKV: w.kv, waiting: make(chan struct{}), turns: make(chan turn)}
	a.store, a.done, a.intends = w.newStore(a.kv), nil, ""
}

// head is what is in force, read beside the nodes.
func (w *world) head(t *rapid.T) head {
	h, err := w.newStore(w.kv).readHead(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// begin has a node do something.
func (w *world) begin(t *rapid.T, a *actor) {
	ctx := context.Background()
	h := w.head(t)
	a.intends, a.least = "", h.Live
	do := rapid.SampledFrom([]string{"commit", "commit", "shadow", "promote", "rollback", "load", "collect", "collect"}).Draw(t, "do")
	var f func() error
	switch c := (sts.Commit{Line: sts.Live, Expected: h.Live, From: sts.Place{Line: sts.Live, Number: h.Live}}); do {
	case "load":
		f = func() error { return w.check(a, sts.Place{Line: sts.Live}) }
	case "collect":
		keep, all := rapid.IntRange(1, 3).Draw(t, "keep"), rapid.Bool().Draw(t, "all")
		f = func() error { _, err := a.store.collect(ctx, keep, all); return err }
	case "shadow":
		c.Line, c.Expected = sts.Shadow, h.Shadow
		f = w.commit(t, a, c)
	case "promote":
		if h.Shadow == 0 {
			return
		}
		c.From, c.EndsShadow = sts.Place{Line: sts.Shadow, Number: h.Shadow}, h.Shadow
		a.intends, a.line = w.contents[c.From], sts.Live
		f = func() error { _, err := a.store.Commit(ctx, c); return err }
	case "rollback":
		if h.Live == 0 {
			return
		}
		c.From.Number = rapid.Int64Range(max(1, h.Live-3), h.Live).Draw(t, "to")
		a.intends, a.line = w.contents[c.From], sts.Live
		f = func() error { _, err := a.store.Commit(ctx, c); return err }
	default:
		f = w.commit(t, a, c)
	}
	done := make(chan error, 1)
	a.done = done
	go func() { done <- f() }()
}

// commit adds some resources, and takes some away.
func (w *world) commit(t *rapid.T, a *actor, c sts.Commit) func() error {
	have := strings.Fields(w.contents[c.From])
	for range rapid.IntRange(0, 4).Draw(t, "put") {
		// Few names, so that pages come back that were there before.
		name := fmt.Sprintf("r%d", rapid.IntRange(0, 30).Draw(t, "name"))
		if !slices.ContainsFunc(c.Put, func(r sts.Resource) bool { return r.Ref().Name == name }) {
			c.Put, have = append(c.Put, audience(name)), append(have, name)
		}
	}
	if len(have) > len(c.Put) && rapid.Bool().Draw(t, "delete") {
		gone := rapid.SampledFrom(have).Draw(t, "gone")
		if !slices.ContainsFunc(c.Put, func(r sts.Resource) bool { return r.Ref().Name == gone }) {
			c.Delete = []sts.Ref{{Kind: sts.KindAudience, Name: gone}}
			have = slices.DeleteFunc(have, func(n string) bool { return n == gone })
		}
	}
	slices.Sort(have)
	a.intends, a.line = strings.Join(slices.Compact(have), " "), c.Line
	return func() error { _, err := a.store.Commit(context.Background(), c); return err }
}

// check loads a revision and holds it against what was committed.
func (w *world) check(a *actor, p sts.Place) error {
	got, err := a.store.Load(context.Background(), p)
	if err != nil {
		return err
	}
	p.Number = got.Number
	if want := w.contents[p]; names(got.Resources) != want || got.Number < a.least {
		return fmt.Errorf("%v has %q, not %q; %d was in force", p, names(got.Resources), want, a.least)
	}
	return nil
}

// step lets a node make one call, and returns when it wants to make another or is
// done. It fails the test if what is stored is not as it must be then.
func (w *world) step(t *rapid.T, a *actor, how turn) {
	before := w.head(t)
	select {
	case err := <-a.done:
		w.ended(t, a, err)
		return
	case <-a.kv.waiting:
	}
	a.kv.turns <- how
	// Until it waits again, or is done, it is the only one that does anything.
	select {
	case err := <-a.done:
		w.after(t, a, before)
		w.ended(t, a, err)
	case <-a.kv.waiting:
		w.after(t, a, before)
		go func(kv *stepped) { kv.waiting <- struct{}{} }(a.kv) // it still wants to
	}
}

// after notes what a step has put in force, and looks for pages that are missing.
func (w *world) after(t *rapid.T, a *actor, before head) {
	now := w.head(t)
	if now.of(a.line) != before.of(a.line) && now.of(a.line) != 0 {
		w.contents[sts.Place{Line: a.line, Number: now.of(a.line)}] = a.intends
	}
	for key, e := range w.kv.entries {
		if !strings.HasPrefix(key, revisionPrefix) {
			continue
		}
		p, err := placeOf(key)
		if err != nil {
			t.Fatal(err)
		}
		m, err := decodeManifest(e, p)
		if err != nil {
			t.Fatal(err)
		}
		for _, hash := range slices.Concat(m.Buckets...) {
			if _, there := w.kv.entries[pagePrefix+hash]; !there {
				t.Fatalf("%v needs a page that is not there", p)
			}
		}
	}
	for _, line := range []sts.Line{sts.Live, sts.Shadow} {
		p := sts.Place{Line: line, Number: now.of(line)}
		if _, there := w.kv.entries[manifestKey(p)]; p.Number != 0 && !there {
			t.Fatalf("%v is in force and not there", p)
		}
	}
}

func (w *world) ended(t *rapid.T, a *actor, err error) {
	a.done = nil
	switch {
	case errors.Is(err, errCrash):
		w.restart(a)
	case err != nil && !errors.Is(err, sts.ErrConflict) && !errors.Is(err, sts.ErrNoRevision):
		t.Fatal(err)
	}
}

// TestRevisionsInterleaved lets nodes commit, propose, promote, go back, load,
// collect and crash, one call to the store at a time in any order. Whatever is in
// force is whole and what was meant; nothing that a revision needs is ever deleted;
// and in the end nothing is left that none needs.
func TestRevisionsInterleaved(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{kv: &memKV{entries: map[string]Entry{}}, contents: map[sts.Place]string{}}
		for range 3 {
			a := &actor{}
			w.restart(a)
			w.nodes = append(w.nodes, a)
		}
		for range rapid.IntRange(10, 150).Draw(t, "steps") {
			a := rapid.SampledFrom(w.nodes).Draw(t, "node")
			if a.done == nil {
				w.begin(t, a)
				continue
			}
			how := rapid.SampledFrom([]turn{goOn, goOn, goOn, goOn, goOn, goOn, goOn, goOn, dieBefore, dieAfter}).Draw(t, "how")
			w.step(t, a, how)
		}
		for _, a := range w.nodes {
			for range 1000 {
				if a.done == nil {
					break
				}
				w.step(t, a, goOn)
			}
			if a.done != nil {
				t.Fatal("a node does not come to an end")
			}
		}
		w.settled(t)
	})
}

// settled collects, and counts what is left.
func (w *world) settled(t *rapid.T) {
	s := w.newStore(w.kv)
	if done, err := s.collect(context.Background(), 2, true); !done || err != nil {
		t.Fatalf("%v, %v", done, err)
	}
	h := w.head(t)
	if h.entry.Revision == 0 {
		return
	}
	needed, kept := map[string]bool{}, 0
	for key, e := range w.kv.entries {
		if strings.HasPrefix(key, revisionPrefix) {
			p, _ := placeOf(key)
			m, err := decodeManifest(e, p)
			if err != nil {
				t.Fatal(err)
			}
			for _, hash := range slices.Concat(m.Buckets...) {
				needed[hash] = true
			}
			kept++
			if err := w.check(&actor{store: s}, p); err != nil {
				t.Fatal(err)
			}
		}
	}
	pages := 0
	for key := range w.kv.entries {
		if strings.HasPrefix(key, pagePrefix) {
			pages++
		}
	}
	if most := min(h.Live, 2) + min(h.Shadow, 1); pages != len(needed) || int64(kept) > most {
		t.Fatalf("%d revisions are left where %d may be, with %d pages of which %d are needed", kept, most, pages, len(needed))
	}
}
