package kvtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/workload-sts/sts/storage"
)

// errEnough ends a watch that has seen what it was waiting for.
var errEnough = errors.New("enough")

// follow watches until a revision was told, and returns all events until then.
func follow(t testing.TB, kv storage.KV, prefix string, after, until int64) []storage.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var events []storage.Event
	last := after
	err := kv.Watch(ctx, prefix, after, func(c storage.Changes) error {
		if c.Revision < last {
			t.Errorf("told up to %d after %d", c.Revision, last)
		}
		for _, e := range c.Events {
			if e.Revision <= last || e.Revision > c.Revision || !strings.HasPrefix(e.Key, prefix) {
				t.Errorf("%q at %d was told between %d and %d of prefix %q", e.Key, e.Revision, last, c.Revision, prefix)
			}
		}
		if !slices.IsSortedFunc(c.Events, func(a, b storage.Event) int { return int(a.Revision - b.Revision) }) {
			t.Error("events are not in order")
		}
		last = c.Revision
		events = append(events, c.Events...)
		if last >= until {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatalf("watching up to %d ended at %d: %v", until, last, err)
	}
	return events
}

func describe(events []storage.Event) string {
	var s []string
	for _, e := range events {
		if e.Deleted {
			s = append(s, "-"+e.Key)
		} else {
			s = append(s, e.Key+"="+string(e.Value))
		}
	}
	return strings.Join(s, " ")
}

func testWatch(t *testing.T, s Store) {
	kv := open(t, s)
	start := revisionOf(t, kv)
	watched := make(chan []storage.Event, 1)
	go func() {
		var all []storage.Event
		kv.Watch(t.Context(), "w/", start, func(c storage.Changes) error {
			all = append(all, c.Events...)
			if len(all) >= 5 {
				return errEnough
			}
			return nil
		})
		watched <- all
	}()
	put(t, kv, "w/a", "1", "x", "1")
	put(t, kv, "w", "not below it", "w0", "nor this")
	put(t, kv, "w/b", "2", "w/c", "3")
	expires := s.now().Add(time.Hour)
	write(t, kv, storage.Op{Key: "w/b", Delete: true}, storage.Op{Key: "w/none", Delete: true})
	if _, done, err := kv.Txn(t.Context(), []storage.Compare{{Key: "w/a"}}, []storage.Op{{Key: "w/a"}}); done || err != nil {
		t.Fatal(done, err)
	}
	end := write(t, kv, storage.Op{Key: "w/d", Value: []byte("4"), Expires: expires})
	const want = "w/a=1 w/b=2 w/c=3 -w/b w/d=4"
	select {
	case all := <-watched:
		if got := describe(all); got != want {
			t.Errorf("as it happened: %s, not %s", got, want)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the watcher was not told")
	}
	all := follow(t, kv, "w/", start, end)
	if got := describe(all); got != want {
		t.Fatalf("afterwards: %s, not %s", got, want)
	}
	if d, err := kv.Get(t.Context(), "w/d"); err != nil || !equal(d, all[4].Entry) || d.Expires.Before(expires) {
		t.Errorf("told %+v, read %+v; %v", all[4].Entry, d, err)
	}
	if all[1].Revision != all[2].Revision || all[3].Revision <= all[2].Revision || all[3].Value != nil {
		t.Errorf("events %+v", all)
	}
}

// testWatchResumed goes on from every revision that a watch may have ended at.
func testWatchResumed(t *testing.T, s Store) {
	kv := open(t, s)
	start := revisionOf(t, kv)
	revisions := []int64{start}
	var all []storage.Event
	for i := range 30 {
		ops := []storage.Op{{Key: fmt.Sprintf("r/%d", i%7), Value: fmt.Append(nil, i)}, {Key: "other", Value: fmt.Append(nil, i)}}
		if i%5 == 4 {
			ops[0].Value, ops[0].Delete = nil, true
		}
		if i%3 == 2 {
			ops = ops[1:]
		}
		revisions = append(revisions, write(t, kv, ops...))
	}
	end := revisions[len(revisions)-1]
	all = follow(t, kv, "r/", start, end)
	if len(all) < 15 {
		t.Fatalf("only %d events", len(all))
	}
	for _, at := range revisions[:len(revisions)-1] {
		want := all[slices.IndexFunc(append(all, storage.Event{Entry: storage.Entry{Revision: end + 1}}), func(e storage.Event) bool { return e.Revision > at }):]
		if got := follow(t, kv, "r/", at, end); describe(got) != describe(want) {
			t.Errorf("after %d: %s, not %s", at, describe(got), describe(want))
		}
	}
}

// testWatchQuiet: a watcher to whom nothing happens is told so.
func testWatchQuiet(t *testing.T, s Store) {
	kv := open(t, s)
	at := put(t, kv, "a", "1")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	calls, last := 0, storage.Changes{}
	begun := time.Now()
	err := kv.Watch(ctx, "none", at, func(c storage.Changes) error {
		if c.Asked.Before(last.Asked) || c.Asked.After(time.Now()) || c.Revision < at || len(c.Events) != 0 {
			t.Errorf("%+v after %+v", c, last)
		}
		last = c
		if c.Asked.After(begun.Add(2 * time.Second)) {
			return errEnough
		}
		if calls++; calls > 30 {
			return errors.New("that is too often")
		}
		return nil
	})
	if !errors.Is(err, errEnough) || time.Since(begun) > 8*time.Second {
		t.Errorf("after %d calls in %v: %v", calls, time.Since(begun), err)
	}
}

// testWatchLost: what is not known any more is said, and reading all helps.
func testWatchLost(t *testing.T, s Store) {
	ctx := t.Context()
	kv := open(t, s)
	old := put(t, kv, "a", "1")
	put(t, kv, "a", "2")
	must(t, s.Compact(ctx, kv))
	fail := func(c storage.Changes) error { return fmt.Errorf("told %+v", c) }
	if err := kv.Watch(ctx, "", old-1, fail); !errors.Is(err, storage.ErrCompacted) {
		t.Errorf("before what is known: %v", err)
	}
	if err := kv.Watch(ctx, "", revisionOf(t, kv)+1_000_000, fail); !errors.Is(err, storage.ErrCompacted) {
		t.Errorf("after what there is: %v", err)
	}
	list, at, err := kv.List(ctx, "a", "", 0)
	if err != nil || len(list) != 1 || string(list[0].Value) != "2" {
		t.Fatal(list, err)
	}
	end := put(t, kv, "a", "3")
	if got := describe(follow(t, kv, "a", at, end)); got != "a=3" {
		t.Errorf("from what was listed: %s", got)
	}
}

// testWatchSlow: a watcher that stands still holds up neither writers nor other
// watchers, and misses nothing without being told so.
func testWatchSlow(t *testing.T, s Store) {
	kv := open(t, s)
	start := revisionOf(t, kv)
	release, ended := make(chan struct{}), make(chan error, 1)
	var seen []storage.Event
	const last = 150
	go func() {
		ended <- kv.Watch(t.Context(), "a", start, func(c storage.Changes) error {
			<-release
			seen = append(seen, c.Events...)
			if len(seen) == last {
				return errEnough
			}
			return nil
		})
	}()
	var end int64
	for i := range last {
		end = put(t, kv, "a", fmt.Sprint(i))
	}
	if got := follow(t, kv, "a", start, end); len(got) != last {
		t.Errorf("another watcher was told %d of %d", len(got), last)
	}
	close(release)
	select {
	case err := <-ended:
		if !errors.Is(err, errEnough) && !errors.Is(err, storage.ErrCompacted) {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the slow watcher never ended")
	}
	for i, e := range seen {
		if string(e.Value) != fmt.Sprint(i) {
			t.Fatalf("event %d is %s", i, e.Value)
		}
	}
}

// testWatchLarge tells of more than goes into one message, in whole transactions.
func testWatchLarge(t *testing.T, s Store) {
	kv := open(t, s)
	start := revisionOf(t, kv)
	const txns, each = 30, 50
	var end int64
	for i := range txns {
		ops := make([]storage.Op, each)
		for j := range ops {
			ops[j] = storage.Op{Key: fmt.Sprintf("l/%02d", j), Value: fmt.Append(nil, i, strings.Repeat("x", 4000))}
		}
		end = write(t, kv, ops...)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	total := 0
	err := kv.Watch(ctx, "l/", start, func(c storage.Changes) error {
		if len(c.Events)%each != 0 {
			t.Errorf("told of %d events, transactions have %d", len(c.Events), each)
		}
		total += len(c.Events)
		if c.Revision >= end {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) || total != txns*each {
		t.Errorf("told of %d of %d: %v", total, txns*each, err)
	}
}

func testWatchEnds(t *testing.T, s Store) {
	kv := open(t, s)
	start := revisionOf(t, kv)
	put(t, kv, "a", "1")
	own := errors.New("of the caller")
	if err := kv.Watch(t.Context(), "", start, func(storage.Changes) error { return own }); !errors.Is(err, own) {
		t.Errorf("f has returned an error: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	err := kv.Watch(ctx, "", start, func(storage.Changes) error {
		calls++
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) || calls != 1 {
		t.Errorf("its context has ended: %v after %d calls", err, calls)
	}
}
