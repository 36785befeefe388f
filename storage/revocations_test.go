package storage_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/workload-sts/sts/storage"
	"github.com/workload-sts/sts/sts"
)

// revocations opens those of a store and keeps them up to date until stop, which
// may be called more than once, or until the test ends.
func revocations(t interface {
	Fatal(...any)
	Cleanup(func())
}, kv storage.KV) (r *storage.Revocations, stop func()) {
	r, err := storage.NewStore(kv).Revocations(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = r.Run(ctx) })
	stop = func() { cancel(); running.Wait() }
	t.Cleanup(stop)
	return r, stop
}

func openBolt(t testing.TB, o storage.BoltOptions) (*storage.Bolt, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sts.db")
	kv, err := storage.OpenBolt(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kv.Close() })
	return kv, path
}

// within waits for a condition for as long as nodes may take to hear of a
// revocation, and a busy machine besides.
func within(t testing.TB, what string, holds func() bool) time.Duration {
	t.Helper()
	begin := time.Now()
	for !holds() {
		if time.Since(begin) > 10*time.Second {
			t.Fatalf("%s: not within 10 s", what)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(begin)
}

var second = time.Unix(1_800_000_000, 0)

func ofClient(name string, before time.Time) sts.Revocation {
	return sts.Revocation{Kind: sts.RevokeClient, Value: name, Before: before.UTC(), Expires: before.Add(time.Hour).UTC(), Created: second.UTC(), By: "test", Reason: "test"}
}

// TestRevocations holds what one node promises, and another on the same store.
func TestRevocations(t *testing.T) {
	ctx := t.Context()
	kv, _ := openBolt(t, storage.BoltOptions{})
	here, _ := revocations(t, kv)
	there, _ := revocations(t, kv)
	token := sts.Revocation{Kind: sts.RevokeToken, Issuer: "self", Value: "jti x", Expires: time.Now().Add(time.Hour).UTC().Truncate(time.Second)}
	if here.Revoked(token.Name(), second) {
		t.Fatal("revoked before it is")
	}
	if done, err := here.Add(ctx, token); err != nil || done != token {
		t.Fatalf("%+v, %v", done, err)
	}
	client := ofClient("web", second)
	if _, err := here.Add(ctx, client); err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]*storage.Revocations{"here": here, "there": there} {
		within(t, name, func() bool { return r.Revoked(client.Name(), second) })
		for at, want := range map[time.Time]bool{{}: true, second.Add(-time.Hour): true, second.Add(999 * time.Millisecond): true, second.Add(time.Second): false} {
			if got := r.Revoked(client.Name(), at); got != want {
				t.Errorf("%s: issued at %s: %t", name, at, got)
			}
		}
		if !r.Revoked(token.Name(), time.Now().Add(time.Hour)) || r.Count() != 2 {
			t.Errorf("%s: a token is revoked whenever it was issued; there are %d revocations", name, r.Count())
		}
		within(t, name+" is up to date", func() bool { return time.Since(r.Confirmed()) < 2*time.Second })
	}
	if n := testing.AllocsPerRun(100, func() { here.Revoked(client.Name(), second) }); n > 0 {
		t.Errorf("a look-up allocates %v times", n)
	}
}

// TestRevocationAgain adds to what is there: the later moments count, in whatever
// order they come.
func TestRevocationAgain(t *testing.T) {
	ctx := t.Context()
	kv, _ := openBolt(t, storage.BoltOptions{})
	r, _ := revocations(t, kv)
	early, late := ofClient("web", second), ofClient("web", second.Add(time.Minute))
	if _, err := r.Add(ctx, late); err != nil {
		t.Fatal(err)
	}
	if done, err := r.Add(ctx, early); err != nil || done != late {
		t.Errorf("an earlier one: %+v, %v", done, err)
	}
	longer := early
	longer.Expires, longer.Reason = late.Expires.Add(time.Hour), "longer"
	want := longer
	want.Before = late.Before
	if done, err := r.Add(ctx, longer); err != nil || done != want {
		t.Errorf("one that is kept longer: %+v, %v", done, err)
	}
	if !r.Revoked(late.Name(), late.Before) || r.Count() != 1 {
		t.Errorf("%d revocations", r.Count())
	}
}

// TestRevocationExpiry forgets a revocation after its time and an hour, and not
// before: the clock may be wrong [N-16, F38].
func TestRevocationExpiry(t *testing.T) {
	var mu sync.Mutex
	now := second
	pass := func(d time.Duration) { mu.Lock(); now = now.Add(d); mu.Unlock() }
	kv, _ := openBolt(t, storage.BoltOptions{SweepEvery: 5 * time.Millisecond, Now: func() time.Time { mu.Lock(); defer mu.Unlock(); return now }})
	r, _ := revocations(t, kv)
	v := ofClient("web", second) // for an hour
	if _, err := r.Add(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	for range 119 {
		pass(time.Minute)
	}
	pass(59 * time.Second)
	for range 20 {
		time.Sleep(time.Millisecond) // for the sweep to find it, should it look wrong
		if !r.Revoked(v.Name(), second) {
			t.Fatal("gone before its time")
		}
	}
	pass(2 * time.Second)
	within(t, "expiry", func() bool { return r.Count() == 0 })
}

// TestRevocationList pages through kinds.
func TestRevocationList(t *testing.T) {
	ctx := t.Context()
	kv, _ := openBolt(t, storage.BoltOptions{})
	r, _ := revocations(t, kv)
	want := map[string]bool{}
	for i := range 25 {
		for _, kind := range []sts.RevocationKind{sts.RevokeTxn, sts.RevokeSubject} {
			v := sts.Revocation{Kind: kind, Value: fmt.Sprint(i), Expires: time.Now().Add(time.Hour).UTC().Truncate(time.Second)}
			if _, err := r.Add(ctx, v); err != nil {
				t.Fatal(err)
			}
			want[string(kind)+v.Value] = true
		}
	}
	for kind, n := range map[sts.RevocationKind]int{"": 50, sts.RevokeTxn: 25, sts.RevokeKey: 0} {
		seen := map[string]bool{}
		var after *sts.Revocation
		for {
			page, more, err := r.List(ctx, kind, after, 7)
			if err != nil || len(page) > 7 || more && len(page) < 7 {
				t.Fatalf("%d, %t, %v", len(page), more, err)
			}
			for _, v := range page {
				if id := string(v.Kind) + v.Value; !want[id] || kind != "" && v.Kind != kind {
					t.Errorf("%s is listed", id)
				} else {
					seen[id] = true
				}
			}
			if !more {
				break
			}
			after = &page[len(page)-1]
		}
		if len(seen) != n {
			t.Errorf("kind %q: %d of %d", kind, len(seen), n)
		}
	}
}

// TestRevocationsStrict starts with nothing that it does not understand, and judges
// nothing by it.
func TestRevocationsStrict(t *testing.T) {
	name := ofClient("web", second).Name().String()
	for what, e := range map[string]storage.Op{
		"name":   {Key: "revoked/client/short", Value: []byte("5 {}")},
		"value":  {Key: "revoked/client/" + name, Value: []byte("x {}")},
		"empty":  {Key: "revoked/client/" + name},
		"second": {Key: "revoked/client/" + name, Value: []byte("4294967295 {}")},
	} {
		kv, _ := openBolt(t, storage.BoltOptions{})
		running, _ := revocations(t, kv)
		if _, _, err := kv.Txn(t.Context(), nil, []storage.Op{e}); err != nil {
			t.Fatal(err)
		}
		if _, err := storage.NewStore(kv).Revocations(t.Context()); err == nil {
			t.Errorf("%s: started", what)
		}
		at := running.Confirmed()
		if running.Count() > 0 || time.Since(at) > time.Minute {
			t.Errorf("%s: taken over", what)
		}
	}
}

// goneBack is a store that was restored from a backup while it was watched.
type goneBack struct {
	storage.KV
	back bool
}

func (g *goneBack) List(ctx context.Context, prefix, after string, limit int) ([]storage.Entry, int64, error) {
	if g.back {
		return nil, 0, nil
	}
	return g.KV.List(ctx, prefix, after, limit)
}

func (g *goneBack) Watch(ctx context.Context, prefix string, after int64, f func(storage.Changes) error) error {
	if g.back {
		return storage.ErrCompacted
	}
	return g.KV.Watch(ctx, prefix, after, f)
}

// TestRevocationsGoneBack forgets nothing when its store does [F26].
func TestRevocationsGoneBack(t *testing.T) {
	kv, _ := openBolt(t, storage.BoltOptions{})
	v := ofClient("web", second)
	first, stop := revocations(t, kv)
	if _, err := first.Add(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	stop()
	g := &goneBack{KV: kv}
	r, err := storage.NewStore(g).Revocations(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	confirmed := r.Confirmed()
	g.back = true
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if !r.Revoked(v.Name(), second) || !r.Confirmed().Equal(confirmed) {
		t.Error("what the store has forgotten was taken over")
	}
}

// TestRevocationsKept draws revocations, restarts and other nodes: what was
// acknowledged is revoked from then on, here at once, elsewhere soon, and after
// every start [V2, V6].
func TestRevocationsKept(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		path := filepath.Join(dir, fmt.Sprintf("%d.db", n))
		open := func() storage.KV {
			kv, err := storage.OpenBolt(path, storage.BoltOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return kv
		}
		kv := open()
		here, stopHere := revocations(t, kv)
		there, stopThere := revocations(t, kv)
		want := map[sts.RevocationName]time.Time{}
		hold := func(r *storage.Revocations) bool {
			for name, before := range want {
				if !r.Revoked(name, before) || r.Revoked(name, before.Add(time.Second)) {
					return false
				}
			}
			return r.Count() == len(want)
		}
		for range rapid.IntRange(3, 12).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0:
				stopHere()
				stopThere()
				if err := kv.Close(); err != nil {
					t.Fatal(err)
				}
				kv = open()
				here, stopHere = revocations(t, kv)
				there, stopThere = revocations(t, kv)
			case 1:
				here, stopHere, there, stopThere = there, stopThere, here, stopHere
				begin := time.Now()
				for !hold(here) && time.Since(begin) < 5*time.Second {
					runtime.Gosched()
				}
			default:
				v := ofClient(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "client"), second.Add(time.Duration(rapid.IntRange(0, 9).Draw(t, "before"))*time.Second))
				v.Expires = time.Time{}
				if _, err := here.Add(context.Background(), v); err != nil {
					t.Fatal(err)
				}
				if v.Before.After(want[v.Name()]) {
					want[v.Name()] = v.Before
				}
				if !here.Revoked(v.Name(), v.Before) {
					t.Fatal("not in force when it was acknowledged")
				}
			}
			if !hold(here) {
				t.Fatalf("%d of %d revocations are not as they were acknowledged", here.Count(), len(want))
			}
		}
		begin := time.Now()
		for !hold(there) {
			if time.Since(begin) > 5*time.Second {
				t.Fatal("another node has not heard of it")
			}
			runtime.Gosched()
		}
		stopHere()
		stopThere()
		if err := errors.Join(kv.Close()); err != nil {
			t.Fatal(err)
		}
	})
}

// manyRevoked is a store with a number of revocations that it makes as they are read.
type manyRevoked struct {
	storage.KV
	entries []storage.Entry
}

func (m *manyRevoked) List(_ context.Context, _, after string, limit int) ([]storage.Entry, int64, error) {
	i, found := slices.BinarySearchFunc(m.entries, after, func(e storage.Entry, key string) int { return strings.Compare(e.Key, key) })
	if found {
		i++
	}
	return m.entries[i:min(i+limit, len(m.entries))], 1, nil
}

// BenchmarkRevocations takes over a million revocations at a start, without the
// time of the store, and looks one up.
func BenchmarkRevocations(b *testing.B) {
	const total = 1_000_000
	kv := &manyRevoked{entries: make([]storage.Entry, total)}
	of := func(i int) sts.Revocation {
		return sts.Revocation{Kind: sts.RevokeToken, Issuer: "self", Value: fmt.Sprintf("jti %022d", i)}
	}
	for i := range kv.entries {
		v := of(i)
		kv.entries[i] = storage.Entry{
			Key:   "revoked/token/" + v.Name().String(),
			Value: fmt.Appendf(nil, `- {"kind":"token","issuer":"self","value":"%s","expires":"2030-01-01T00:00:00Z","created":"2030-01-01T00:00:00Z","by":"client web"}`, v.Value),
		}
	}
	slices.SortFunc(kv.entries, func(a, b storage.Entry) int { return strings.Compare(a.Key, b.Key) })
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	begin := time.Now()
	r, err := storage.NewStore(kv).Revocations(b.Context())
	if err != nil || r.Count() != total {
		b.Fatal(err, r.Count())
	}
	took := time.Since(begin)
	runtime.GC()
	runtime.ReadMemStats(&after)
	v := of(77)
	for b.Loop() {
		if !r.Revoked(v.Name(), second) {
			b.Fatal("not revoked")
		}
	}
	b.ReportMetric(took.Seconds(), "s/start")
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB")
}
