package storage

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// opener opens the same store each time it is called; the one before is closed
// by then.
type opener func() (KV, error)

// testKV holds an implementation to the contract of KV. newStore makes an opener
// of a new and empty store.
func testKV(t *testing.T, newStore func(testing.TB) opener) {
	for name, f := range map[string]func(*testing.T, opener){
		"entries":      kvEntries,
		"transactions": kvTransactions,
		"bounds":       kvBounds,
		"pages":        kvPages,
		"wait":         kvWait,
		"context":      kvContext,
		"race":         kvRace,
		"close":        kvClose,
	} {
		t.Run(name, func(t *testing.T) { f(t, newStore(t)) })
	}
	t.Run("model", func(t *testing.T) {
		rapid.Check(t, func(r *rapid.T) { kvModel(r, newStore(t)) })
	})
}

func mustOpen(t testing.TB, open opener) KV {
	t.Helper()
	kv, err := open()
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

func kvEntries(t *testing.T, open opener) {
	ctx := t.Context()
	kv := mustOpen(t, open)
	if _, err := kv.Get(ctx, "a"); !errors.Is(err, ErrNotFound) {
		t.Fatalf("Get of a missing key: %v", err)
	}
	if list, revision, err := kv.List(ctx, "", "", 0); err != nil || len(list) != 0 || revision != 0 {
		t.Fatalf("List of an empty store: %v, %d, %v", list, revision, err)
	}
	if r := put(t, kv, "a", "1", "b", ""); r != 1 {
		t.Errorf("first revision is %d", r)
	}
	put(t, kv, "b", "2")
	e, err := kv.Get(ctx, "a")
	if err != nil || string(e.Value) != "1" || e.Revision != 1 || e.Key != "a" {
		t.Errorf("Get: %+v, %v", e, err)
	}
	e.Value[0] = 'x'
	if e, err := kv.Get(ctx, "a"); err != nil || string(e.Value) != "1" {
		t.Errorf("a value was changed by who read it: %+v, %v", e, err)
	}
	must(t, kv.Close())
	kv = mustOpen(t, open)
	list, revision, err := kv.List(ctx, "", "", 0)
	must(t, err)
	if want := []Entry{{"a", []byte("1"), 1}, {"b", []byte("2"), 2}}; revision != 2 || !slices.EqualFunc(list, want, equalEntries) {
		t.Errorf("after reopening: %v at %d", list, revision)
	}
}

func kvTransactions(t *testing.T, open opener) {
	ctx := t.Context()
	kv := mustOpen(t, open)
	put(t, kv, "a", "1")
	put(t, kv, "b", "2")
	for _, c := range []struct {
		name    string
		compare []Compare
		want    bool
	}{
		{"both as they are", []Compare{{"a", 1}, {"b", 2}, {"c", 0}}, true},
		{"one older", []Compare{{"a", 1}, {"b", 1}}, false},
		{"one newer", []Compare{{"a", 2}}, false},
		{"there, asked to be absent", []Compare{{"a", 0}}, false},
		{"absent, asked to be there", []Compare{{"c", 1}}, false},
		{"the same key twice, against itself", []Compare{{"a", 1}, {"a", 2}}, false},
	} {
		revision, done, err := kv.Txn(ctx, c.compare, nil)
		if err != nil || done != c.want || revision != 2 {
			t.Errorf("%s: %d, %v, %v", c.name, revision, done, err)
		}
		if c.want {
			continue
		}
		revision, done, err = kv.Txn(ctx, c.compare, []Op{{Key: "a", Delete: true}, {Key: "z", Value: []byte("z")}})
		if err != nil || done || revision != 2 {
			t.Errorf("%s, writing: %d, %v, %v", c.name, revision, done, err)
		}
	}
	if _, err := kv.Get(ctx, "z"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a transaction that was not done has written: %v", err)
	}
	revision, done, err := kv.Txn(ctx, []Compare{{"a", 1}}, []Op{{Key: "a", Delete: true}, {Key: "none", Delete: true}, {Key: "c"}})
	if err != nil || !done || revision != 3 {
		t.Fatalf("mixed: %d, %v, %v", revision, done, err)
	}
	if _, err := kv.Get(ctx, "a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleted key: %v", err)
	}
	if e, err := kv.Get(ctx, "c"); err != nil || e.Value == nil || len(e.Value) != 0 || e.Revision != 3 {
		t.Errorf("empty value: %+v, %v", e, err)
	}
}

func kvBounds(t *testing.T, open opener) {
	kv := mustOpen(t, open)
	long := strings.Repeat("k", maxKey)
	put(t, kv, long, strings.Repeat("v", maxValue), "é", "non-ASCII")
	for name, op := range map[string]Op{
		"empty key":   {},
		"long key":    {Key: long + "k"},
		"NUL":         {Key: "a\x00b"},
		"not UTF-8":   {Key: "\xff"},
		"large value": {Key: "a", Value: make([]byte, maxValue+1)},
	} {
		if _, _, err := kv.Txn(t.Context(), nil, []Op{op}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, _, err := kv.Txn(t.Context(), []Compare{{Key: ""}}, nil); err == nil {
		t.Error("comparison with an empty key: accepted")
	}
	if _, _, err := kv.Txn(t.Context(), nil, []Op{{Key: "a"}, {Key: "a", Delete: true}}); err == nil {
		t.Error("a key twice: accepted")
	}
	if _, revision, err := kv.List(t.Context(), "", "", 0); err != nil || revision != 1 {
		t.Errorf("what was refused raised the revision to %d, %v", revision, err)
	}
	many := make([]Op, 5000)
	for i := range many {
		many[i] = Op{Key: fmt.Sprintf("many/%d", i)}
	}
	if _, done, err := kv.Txn(t.Context(), nil, many); err != nil || !done {
		t.Errorf("%d operations: %v, %v", len(many), done, err)
	}
}

func kvPages(t *testing.T, open opener) {
	kv := mustOpen(t, open)
	put(t, kv, "a", "", "b/1", "", "b/2", "", "b/3", "", "b0", "", "c", "")
	for _, c := range []struct {
		prefix, after string
		limit         int
		want          string
	}{
		{"", "", 0, "a b/1 b/2 b/3 b0 c"},
		{"b/", "", 0, "b/1 b/2 b/3"},
		{"b/", "", 2, "b/1 b/2"},
		{"b/", "b/2", 2, "b/3"},
		{"b/", "b/1x", 0, "b/2 b/3"},
		{"b/", "a", 1, "b/1"},
		{"b/", "b/3", 0, ""},
		{"b/", "c", 0, ""},
		{"x", "", 0, ""},
	} {
		list, revision, err := kv.List(t.Context(), c.prefix, c.after, c.limit)
		must(t, err)
		var keys []string
		for _, e := range list {
			keys = append(keys, e.Key)
		}
		if got := strings.Join(keys, " "); got != c.want || revision != 1 {
			t.Errorf("List(%q, %q, %d) at %d: %s, not %s", c.prefix, c.after, c.limit, revision, got, c.want)
		}
	}
}

func kvWait(t *testing.T, open opener) {
	kv := mustOpen(t, open)
	if r, err := kv.Wait(t.Context(), -1); err != nil || r != 0 {
		t.Errorf("Wait for what is: %d, %v", r, err)
	}
	// Each waiter sees the revision rise to the last one, missing none.
	const last = 20
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for seen := int64(0); seen < last; {
				r, err := kv.Wait(t.Context(), seen)
				if err != nil || r <= seen {
					t.Errorf("Wait after %d: %d, %v", seen, r, err)
					return
				}
				seen = r
			}
		})
	}
	for i := range last {
		put(t, kv, "a", fmt.Sprint(i))
	}
	wg.Wait()
	if _, done, err := kv.Txn(t.Context(), []Compare{{"a", 1}}, []Op{{Key: "a"}}); done || err != nil {
		t.Fatal(done, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := kv.Wait(ctx, last); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait without a change: %v", err)
	}
}

func kvContext(t *testing.T, open opener) {
	kv := mustOpen(t, open)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, getErr := kv.Get(ctx, "a")
	_, _, listErr := kv.List(ctx, "", "", 0)
	_, _, txnErr := kv.Txn(ctx, nil, []Op{{Key: "a"}})
	_, waitErr := kv.Wait(ctx, 0)
	for name, err := range map[string]error{"Get": getErr, "List": listErr, "Txn": txnErr, "Wait": waitErr} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// kvRace lets writers increment one counter by comparing; each success counts, and
// each has a revision of its own. Readers see both keys of a transaction or none.
func kvRace(t *testing.T, open opener) {
	ctx := t.Context()
	kv := mustOpen(t, open)
	const writers, each = 8, 10
	var conflicts atomic.Int64
	var mu sync.Mutex
	revisions := map[int64]bool{}
	stop := make(chan struct{})
	var readers, wg sync.WaitGroup
	readers.Go(func() {
		for last := int64(0); ; {
			select {
			case <-stop:
				return
			default:
			}
			list, revision, err := kv.List(ctx, "counter/", "", 0)
			if err != nil || revision < last || len(list) == 1 || len(list) == 2 && !bytes.Equal(list[0].Value, list[1].Value) {
				t.Errorf("half of a transaction, or back in time: %v at %d after %d, %v", list, revision, last, err)
				return
			}
			last = revision
		}
	})
	for range writers {
		wg.Go(func() {
			for done := 0; done < each; {
				n, at := 0, int64(0)
				if e, err := kv.Get(ctx, "counter/a"); err == nil {
					at = e.Revision
					fmt.Sscan(string(e.Value), &n)
				}
				value := fmt.Append(nil, n+1)
				revision, ok, err := kv.Txn(ctx, []Compare{{"counter/a", at}}, []Op{{Key: "counter/a", Value: value}, {Key: "counter/b", Value: value}})
				switch {
				case err != nil:
					t.Error(err)
					return
				case !ok:
					conflicts.Add(1)
				default:
					done++
					mu.Lock()
					if revisions[revision] {
						t.Errorf("two transactions have revision %d", revision)
					}
					revisions[revision] = true
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	readers.Wait()
	e, err := kv.Get(ctx, "counter/b")
	if err != nil || string(e.Value) != fmt.Sprint(writers*each) || e.Revision != writers*each {
		t.Errorf("counter is %s at revision %d, not %d; %v", e.Value, e.Revision, writers*each, err)
	}
	t.Logf("%d conflicts", conflicts.Load())
}

func kvClose(t *testing.T, open opener) {
	kv := mustOpen(t, open)
	ctx := t.Context()
	acknowledged := make([]int, 4)
	var wg sync.WaitGroup
	var started sync.WaitGroup
	for w := range acknowledged {
		started.Add(1)
		wg.Go(func() {
			for i := 0; ; i++ {
				_, _, err := kv.Txn(ctx, nil, []Op{{Key: fmt.Sprintf("%d/%d", w, i)}})
				if err != nil {
					if !errors.Is(err, ErrClosed) {
						t.Errorf("Txn while closing: %v", err)
					}
					return
				}
				acknowledged[w] = i + 1
				if i == 0 {
					started.Done()
				}
			}
		})
	}
	waited := make(chan error)
	go func() {
		_, err := kv.Wait(ctx, 1<<40)
		waited <- err
	}()
	started.Wait()
	must(t, kv.Close())
	wg.Wait()
	if err := <-waited; !errors.Is(err, ErrClosed) {
		t.Errorf("Wait while closing: %v", err)
	}
	if err := kv.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	_, getErr := kv.Get(ctx, "a")
	_, _, listErr := kv.List(ctx, "", "", 0)
	_, _, txnErr := kv.Txn(ctx, nil, []Op{{Key: "a"}})
	for name, err := range map[string]error{"Get": getErr, "List": listErr, "Txn": txnErr} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
	kv = mustOpen(t, open)
	for w, n := range acknowledged {
		if list, _, err := kv.List(ctx, fmt.Sprintf("%d/", w), "", 0); err != nil || len(list) != n {
			t.Errorf("%d entries after Close, %d were acknowledged; %v", len(list), n, err)
		}
	}
}

// kvModel compares a store with a map.
func kvModel(t *rapid.T, open opener) {
	ctx := context.Background()
	kv, err := open()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { kv.Close() }()
	model := map[string]Entry{}
	var revision int64
	key := rapid.SampledFrom([]string{"a", "a/b", "a/b/c", "a0", "b", "é"})
	t.Repeat(map[string]func(*rapid.T){
		"txn": func(t *rapid.T) {
			var compare []Compare
			holds := true
			for _, k := range rapid.SliceOfN(key, 0, 2).Draw(t, "compared") {
				c := Compare{k, model[k].Revision}
				if rapid.IntRange(0, 3).Draw(t, "wrong") == 0 {
					c.Revision = int64(rapid.IntRange(0, int(revision)+1).Draw(t, "revision"))
				}
				holds = holds && c.Revision == model[k].Revision
				compare = append(compare, c)
			}
			var ops []Op
			for _, k := range rapid.SliceOfNDistinct(key, 0, 4, rapid.ID[string]).Draw(t, "written") {
				op := Op{Key: k, Delete: rapid.Bool().Draw(t, "delete")}
				if !op.Delete {
					op.Value = rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "value")
				}
				ops = append(ops, op)
			}
			if holds && len(ops) > 0 {
				revision++
				for _, op := range ops {
					delete(model, op.Key)
					if !op.Delete {
						model[op.Key] = Entry{op.Key, op.Value, revision}
					}
				}
			}
			r, done, err := kv.Txn(ctx, compare, ops)
			if err != nil || done != holds || r != revision {
				t.Fatalf("Txn: %d, %v, %v; expected %d, %v", r, done, err, revision, holds)
			}
		},
		"reopen": func(t *rapid.T) {
			if rapid.IntRange(0, 4).Draw(t, "now") > 0 {
				t.Skip()
			}
			if err := kv.Close(); err != nil {
				t.Fatal(err)
			}
			if kv, err = open(); err != nil {
				t.Fatal(err)
			}
		},
		"": func(t *rapid.T) {
			prefix, after := rapid.SampledFrom([]string{"", "a", "a/", "b"}).Draw(t, "prefix"), key.Draw(t, "after")
			limit := rapid.IntRange(0, 3).Draw(t, "limit")
			want := slices.SortedFunc(maps.Values(model), func(a, b Entry) int { return cmp.Compare(a.Key, b.Key) })
			want = slices.DeleteFunc(want, func(e Entry) bool { return !strings.HasPrefix(e.Key, prefix) || e.Key <= after })
			if limit > 0 && len(want) > limit {
				want = want[:limit]
			}
			got, r, err := kv.List(ctx, prefix, after, limit)
			if err != nil || r != revision || !slices.EqualFunc(got, want, equalEntries) {
				t.Fatalf("List(%q, %q, %d): %v at %d, %v; expected %v at %d", prefix, after, limit, got, r, err, want, revision)
			}
			one := key.Draw(t, "one")
			e, err := kv.Get(ctx, one)
			if w, ok := model[one]; ok != (err == nil) || !equalEntries(e, w) {
				t.Fatalf("Get(%q): %v, %v; expected %v", one, e, err, w)
			}
		},
	})
}

func equalEntries(a, b Entry) bool {
	return a.Key == b.Key && a.Revision == b.Revision && bytes.Equal(a.Value, b.Value)
}
