package kvtest

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/workload-sts/sts/storage"
	"pgregory.net/rapid"
)

// mirror is a map that a watch keeps like the store.
type mirror struct {
	stop func()

	mu       sync.Mutex
	entries  map[string]storage.Entry
	revision int64
	err      error
}

func newMirror(kv storage.KV) *mirror {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	m := &mirror{entries: map[string]storage.Entry{}, stop: func() { cancel(); <-done }}
	list, revision, err := kv.List(ctx, "", "", 0)
	for _, e := range list {
		m.entries[e.Key] = e
	}
	m.revision, m.err = revision, err
	go func() {
		defer close(done)
		err := kv.Watch(ctx, "", revision, m.take)
		m.mu.Lock()
		defer m.mu.Unlock()
		m.err = err
	}()
	return m
}

func (m *mirror) take(c storage.Changes) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range c.Events {
		delete(m.entries, e.Key)
		if !e.Deleted {
			m.entries[e.Key] = e.Entry
		}
	}
	m.revision = c.Revision
	return nil
}

// at returns what the mirror has, once it has come to a revision.
func (m *mirror) at(t *rapid.T, revision int64) (map[string]storage.Entry, int64) {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		m.mu.Lock()
		entries, at, err := maps.Clone(m.entries), m.revision, m.err
		m.mu.Unlock()
		if err != nil || time.Now().After(end) {
			t.Fatalf("watching up to %d is at %d: %v", revision, at, err)
		}
		if at >= revision {
			return entries, at
		}
	}
}

// model is what a store should have.
type model struct {
	s        Store
	kv       storage.KV
	mirror   *mirror
	entries  map[string]storage.Entry
	revision int64
}

var modelKey = rapid.SampledFrom([]string{"a", "a/b", "a/b/c", "a0", "b", "é"})

// testModel compares a store with a map, and with what a watcher makes of what it
// is told.
func testModel(t *rapid.T, s Store) {
	kv, err := s.Open()
	if err != nil {
		t.Fatal(err)
	}
	m := &model{s: s, kv: kv, entries: map[string]storage.Entry{}, mirror: newMirror(kv)}
	defer func() {
		m.mirror.stop()
		m.kv.Close()
	}()
	actions := map[string]func(*rapid.T){"txn": m.txn, "reopen": m.reopen, "": m.check}
	if s.Pass != nil {
		actions["pass"] = func(t *rapid.T) { s.Pass(time.Duration(rapid.IntRange(1, 3000).Draw(t, "ms")) * time.Millisecond) }
	}
	t.Repeat(actions)
}

// expire takes out what the store does not have any more and need not have.
func (m *model) expire(list []storage.Entry, now time.Time) {
	there := map[string]bool{}
	for _, e := range list {
		there[e.Key] = true
	}
	maps.DeleteFunc(m.entries, func(key string, e storage.Entry) bool {
		return !there[key] && !e.Expires.IsZero() && !e.Expires.After(now)
	})
}

func (m *model) txn(t *rapid.T) {
	var compare []storage.Compare
	holds, unsure := true, false
	for _, k := range rapid.SliceOfN(modelKey, 0, 2).Draw(t, "compared") {
		c := storage.Compare{Key: k, Revision: m.entries[k].Revision}
		if rapid.IntRange(0, 3).Draw(t, "wrong") == 0 {
			c.Revision = int64(rapid.IntRange(0, int(m.revision)+1).Draw(t, "revision"))
		}
		e := m.entries[k]
		holds = holds && c.Revision == e.Revision
		// It may expire before the transaction comes, and is absent then.
		unsure = unsure || !e.Expires.IsZero() && !e.Expires.After(m.s.now().Add(time.Minute))
		compare = append(compare, c)
	}
	var ops []storage.Op
	for _, k := range rapid.SliceOfNDistinct(modelKey, 0, 4, rapid.ID[string]).Draw(t, "written") {
		op := storage.Op{Key: k, Delete: rapid.Bool().Draw(t, "delete")}
		if !op.Delete {
			op.Value = rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "value")
			if ms := rapid.IntRange(-1000, 5000).Draw(t, "expires"); ms > 0 {
				op.Expires = m.s.now().Add(time.Duration(ms) * time.Millisecond)
			}
		}
		ops = append(ops, op)
	}
	changes := slices.ContainsFunc(ops, func(op storage.Op) bool { return !op.Delete || m.entries[op.Key].Key != "" })
	r, done, err := m.kv.Txn(context.Background(), compare, ops)
	if err != nil || done != holds && !unsure || r < m.revision || done && changes && r == m.revision {
		t.Fatalf("Txn after %d: %d, %v, %v; expected %v", m.revision, r, done, err, holds)
	}
	m.revision = r
	for _, op := range ops {
		if done {
			delete(m.entries, op.Key)
		}
		if done && !op.Delete {
			m.entries[op.Key] = storage.Entry{Key: op.Key, Value: op.Value, Revision: r, Expires: fullSecond(op.Expires)}
		}
	}
}

func fullSecond(moment time.Time) time.Time {
	if moment.IsZero() {
		return moment
	}
	return time.Unix(moment.Add(time.Second-1).Unix(), 0)
}

func (m *model) reopen(t *rapid.T) {
	if rapid.IntRange(0, 4).Draw(t, "now") > 0 {
		t.Skip()
	}
	m.mirror.stop()
	if err := m.kv.Close(); err != nil {
		t.Fatal(err)
	}
	kv, err := m.s.Open()
	if err != nil {
		t.Fatal(err)
	}
	m.kv, m.mirror = kv, newMirror(kv)
}

func (m *model) check(t *rapid.T) {
	ctx := context.Background()
	all, r, err := m.kv.List(ctx, "", "", 0)
	if err != nil || r < m.revision {
		t.Fatalf("List at %d after %d: %v", r, m.revision, err)
	}
	m.revision = r
	m.expire(all, m.s.now())
	want := slices.SortedFunc(maps.Values(m.entries), func(a, b storage.Entry) int { return cmp.Compare(a.Key, b.Key) })
	if !slices.EqualFunc(all, want, equal) {
		t.Fatalf("there are %v; expected %v", all, want)
	}
	told, at := m.mirror.at(t, r)
	if at == r && !maps.EqualFunc(told, m.entries, equal) {
		t.Fatalf("at %d a watcher was told %v; expected %v", at, told, m.entries)
	}
	prefix, after := rapid.SampledFrom([]string{"", "a", "a/", "b"}).Draw(t, "prefix"), modelKey.Draw(t, "after")
	limit := rapid.IntRange(0, 3).Draw(t, "limit")
	got, next, err := m.kv.List(ctx, prefix, after, limit)
	if next != r {
		return // something has expired meanwhile
	}
	want = slices.DeleteFunc(want, func(e storage.Entry) bool { return !strings.HasPrefix(e.Key, prefix) || e.Key <= after })
	if limit > 0 && len(want) > limit {
		want = want[:limit]
	}
	if err != nil || !slices.EqualFunc(got, want, equal) {
		t.Fatalf("List(%q, %q, %d): %v, %v; expected %v", prefix, after, limit, got, err, want)
	}
	one := modelKey.Draw(t, "one")
	e, err := m.kv.Get(ctx, one)
	w, ok := m.entries[one]
	if expired := ok && !w.Expires.IsZero() && !w.Expires.After(m.s.now()); !expired && (ok != (err == nil) || !equal(e, w)) {
		t.Fatalf("Get(%q): %v, %v; expected %v", one, e, err, w)
	}
}
