package kvtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workload-sts/sts/storage"
)

func testEntries(t *testing.T, s Store) {
	ctx := t.Context()
	kv := open(t, s)
	if !missing(t, kv, "a") {
		t.Fatal("a new store has an entry")
	}
	list, before, err := kv.List(ctx, "", "", 0)
	if err != nil || len(list) != 0 || before < 0 {
		t.Fatalf("List of an empty store: %v, %d, %v", list, before, err)
	}
	value := []byte("1")
	first := write(t, kv, storage.Op{Key: "a", Value: value}, storage.Op{Key: "b"})
	value[0] = 'x'
	second := put(t, kv, "b", "2")
	if first <= before || second <= first {
		t.Errorf("the revision went from %d to %d to %d", before, first, second)
	}
	e, err := kv.Get(ctx, "a")
	if want := (storage.Entry{Key: "a", Value: []byte("1"), Revision: first}); err != nil || !equal(e, want) {
		t.Errorf("Get: %+v, %v", e, err)
	}
	e.Value[0] = 'x'
	if e, err := kv.Get(ctx, "a"); err != nil || string(e.Value) != "1" {
		t.Errorf("a value was changed by who read it: %+v, %v", e, err)
	}
	must(t, kv.Close())
	kv = open(t, s)
	list, revision, err := kv.List(ctx, "", "", 0)
	must(t, err)
	want := []storage.Entry{{Key: "a", Value: []byte("1"), Revision: first}, {Key: "b", Value: []byte("2"), Revision: second}}
	if revision < second || !slices.EqualFunc(list, want, equal) {
		t.Errorf("after reopening: %v at %d", list, revision)
	}
	if third := put(t, kv, "c", ""); third <= revision {
		t.Errorf("after reopening at %d the next revision is %d", revision, third)
	}
}

func testTransactions(t *testing.T, s Store) {
	ctx := t.Context()
	kv := open(t, s)
	a := put(t, kv, "a", "1")
	b := put(t, kv, "b", "2")
	for _, c := range []struct {
		name    string
		compare []storage.Compare
		want    bool
	}{
		{"both as they are", []storage.Compare{{Key: "a", Revision: a}, {Key: "b", Revision: b}, {Key: "c"}}, true},
		{"one older", []storage.Compare{{Key: "a", Revision: a}, {Key: "b", Revision: a}}, false},
		{"one newer", []storage.Compare{{Key: "a", Revision: b}}, false},
		{"there, asked to be absent", []storage.Compare{{Key: "a"}}, false},
		{"absent, asked to be there", []storage.Compare{{Key: "c", Revision: a}}, false},
		{"the same key twice, against itself", []storage.Compare{{Key: "a", Revision: a}, {Key: "a", Revision: b}}, false},
	} {
		revision, done, err := kv.Txn(ctx, c.compare, nil)
		if err != nil || done != c.want || revision < b {
			t.Errorf("%s: %d, %v, %v", c.name, revision, done, err)
		}
		if c.want {
			continue
		}
		revision, done, err = kv.Txn(ctx, c.compare, []storage.Op{{Key: "a", Delete: true}, {Key: "z", Value: []byte("z")}})
		if err != nil || done || revision < b {
			t.Errorf("%s, writing: %d, %v, %v", c.name, revision, done, err)
		}
	}
	if !missing(t, kv, "z") || missing(t, kv, "a") {
		t.Error("a transaction that was not done has written")
	}
	revision, done, err := kv.Txn(ctx, []storage.Compare{{Key: "a", Revision: a}}, []storage.Op{{Key: "a", Delete: true}, {Key: "none", Delete: true}, {Key: "c"}})
	if err != nil || !done || revision <= b {
		t.Fatalf("mixed: %d, %v, %v", revision, done, err)
	}
	if !missing(t, kv, "a") {
		t.Error("a deleted key is there")
	}
	if e, err := kv.Get(ctx, "c"); err != nil || e.Value == nil || len(e.Value) != 0 || e.Revision != revision {
		t.Errorf("empty value: %+v, %v", e, err)
	}
	if r := write(t, kv, storage.Op{Key: "none", Delete: true}); r < revision {
		t.Errorf("deleting nothing: %d after %d", r, revision)
	}
}

func testBounds(t *testing.T, s Store) {
	kv := open(t, s)
	long := strings.Repeat("k", 1<<10)
	at := put(t, kv, long, strings.Repeat("v", storage.MaxTxnBytes-len(long)-11), "é", "non-ASCII")
	for name, op := range map[string]storage.Op{
		"empty key":          {},
		"long key":           {Key: long + "k"},
		"NUL":                {Key: "a\x00b"},
		"not UTF-8":          {Key: "\xff"},
		"large value":        {Key: "a", Value: make([]byte, storage.MaxTxnBytes+1)},
		"put and deleted":    {Key: "a", Value: []byte{}, Delete: true},
		"deleted later":      {Key: "a", Expires: time.Now(), Delete: true},
		"expires in 1950":    {Key: "a", Expires: time.Date(1950, 1, 1, 0, 0, 0, 0, time.UTC)},
		"expires in 200,000": {Key: "a", Expires: time.Date(200_000, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		if _, _, err := kv.Txn(t.Context(), nil, []storage.Op{op}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, _, err := kv.Txn(t.Context(), []storage.Compare{{Key: ""}}, nil); err == nil {
		t.Error("comparison with an empty key: accepted")
	}
	if _, _, err := kv.Txn(t.Context(), nil, []storage.Op{{Key: "a"}, {Key: "a", Delete: true}}); err == nil {
		t.Error("a key twice: accepted")
	}
	if list, _, err := kv.List(t.Context(), "", "", 0); err != nil || len(list) != 2 || list[0].Revision != at || list[1].Revision != at {
		t.Errorf("what was refused has left something: %d entries, %v", len(list), err)
	}
	compare, ops := make([]storage.Compare, storage.MaxTxn/2), make([]storage.Op, storage.MaxTxn/2)
	for i := range ops {
		compare[i], ops[i] = storage.Compare{Key: fmt.Sprintf("none/%d", i)}, storage.Op{Key: fmt.Sprintf("many/%d", i)}
	}
	if _, done, err := kv.Txn(t.Context(), compare, ops); err != nil || !done {
		t.Errorf("%d comparisons and %d operations: %v, %v", len(compare), len(ops), done, err)
	}
}

func testPages(t *testing.T, s Store) {
	kv := open(t, s)
	at := put(t, kv, "a", "", "b/1", "", "b/2", "", "b/3", "", "b0", "", "c", "")
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
		if got := strings.Join(keys, " "); got != c.want || revision < at {
			t.Errorf("List(%q, %q, %d) at %d: %s, not %s", c.prefix, c.after, c.limit, revision, got, c.want)
		}
	}
}

func testContext(t *testing.T, s Store) {
	kv := open(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, getErr := kv.Get(ctx, "a")
	_, _, listErr := kv.List(ctx, "", "", 0)
	_, _, txnErr := kv.Txn(ctx, nil, []storage.Op{{Key: "a"}})
	watchErr := kv.Watch(ctx, "", 0, func(storage.Changes) error { return nil })
	for name, err := range map[string]error{"Get": getErr, "List": listErr, "Txn": txnErr, "Watch": watchErr} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// testRace lets writers increment one counter by comparing; each success counts,
// and each has a revision of its own. Readers see both keys of a transaction or
// none.
func testRace(t *testing.T, s Store) {
	ctx := t.Context()
	kv := open(t, s)
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
				revision, ok, err := kv.Txn(ctx, []storage.Compare{{Key: "counter/a", Revision: at}},
					[]storage.Op{{Key: "counter/a", Value: value}, {Key: "counter/b", Value: value}})
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
	if err != nil || string(e.Value) != fmt.Sprint(writers*each) || !revisions[e.Revision] {
		t.Errorf("counter is %s at revision %d, not %d; %v", e.Value, e.Revision, writers*each, err)
	}
	t.Logf("%d conflicts", conflicts.Load())
}

func testClose(t *testing.T, s Store) {
	kv := open(t, s)
	ctx := t.Context()
	acknowledged := make([]int, 4)
	var wg, started sync.WaitGroup
	for w := range acknowledged {
		started.Add(1)
		wg.Go(func() {
			for i := 0; ; i++ {
				_, _, err := kv.Txn(ctx, nil, []storage.Op{{Key: fmt.Sprintf("%d/%d", w, i)}})
				if err != nil {
					if !errors.Is(err, storage.ErrClosed) {
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
	started.Wait()
	watched := make(chan error)
	at := revisionOf(t, kv)
	go func() { watched <- kv.Watch(ctx, "none", at, func(storage.Changes) error { return nil }) }()
	must(t, kv.Close())
	wg.Wait()
	if err := <-watched; !errors.Is(err, storage.ErrClosed) {
		t.Errorf("Watch while closing: %v", err)
	}
	if err := kv.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	_, getErr := kv.Get(ctx, "a")
	_, _, listErr := kv.List(ctx, "", "", 0)
	_, _, txnErr := kv.Txn(ctx, nil, []storage.Op{{Key: "a"}})
	watchErr := kv.Watch(ctx, "", at, func(storage.Changes) error { return nil })
	for name, err := range map[string]error{"Get": getErr, "List": listErr, "Txn": txnErr, "Watch": watchErr} {
		if !errors.Is(err, storage.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
	kv = open(t, s)
	for w, n := range acknowledged {
		if list, _, err := kv.List(ctx, fmt.Sprintf("%d/", w), "", 0); err != nil || len(list) != n {
			t.Errorf("%d entries after Close, %d were acknowledged; %v", len(list), n, err)
		}
	}
}
