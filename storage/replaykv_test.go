package storage_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/workload-sts/sts/internal/etcdtest"
	"github.com/workload-sts/sts/storage"
	"github.com/workload-sts/sts/sts"
)

// lossy loses answers of transactions, and does some of them late.
type lossy struct {
	storage.KV
	lose func(n int64) (before, after bool)
	n    atomic.Int64
	late sync.WaitGroup
}

func (l *lossy) Txn(ctx context.Context, compare []storage.Compare, ops []storage.Op) (int64, bool, error) {
	before, after := l.lose(l.n.Add(1))
	if before { // it is done when nobody waits for it any more
		l.late.Go(func() { l.KV.Txn(context.Background(), compare, ops) })
		return 0, false, fmt.Errorf("lost: %w", storage.ErrDoubt)
	}
	revision, done, err := l.KV.Txn(ctx, compare, ops)
	if after {
		return 0, false, fmt.Errorf("lost: %w", storage.ErrDoubt)
	}
	return revision, done, err
}

func newBolt(t *testing.T) storage.KV {
	t.Helper()
	kv, err := storage.OpenBolt(filepath.Join(t.TempDir(), "sts.db"), storage.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kv.Close() })
	return kv
}

func newReplayKV(t *testing.T, kv storage.KV, o storage.ReplayKVOptions) *storage.ReplayKV {
	t.Helper()
	r := storage.NewReplayKV(kv, o)
	t.Cleanup(func() { r.Close() })
	return r
}

// TestReplayKVOnce lets many nodes use many things at once, while answers are lost:
// each is used by one at most, and by one exactly if no call has an error.
func TestReplayKVOnce(t *testing.T) {
	kv := &lossy{KV: newBolt(t), lose: func(n int64) (bool, bool) { return n%7 == 3, n%5 == 2 }}
	const nodes, things = 4, 40
	var fresh, failed [things]atomic.Int64
	var wg sync.WaitGroup
	now := time.Now()
	for range nodes {
		r := newReplayKV(t, kv, storage.ReplayKVOptions{})
		wg.Go(func() {
			for i := range things {
				ok, err := r.Use(t.Context(), sts.ReplayDPoP, strings.Repeat("long", 1000)+fmt.Sprint(i), now, now.Add(time.Minute))
				switch {
				case err != nil:
					failed[i].Add(1)
				case ok:
					fresh[i].Add(1)
				}
			}
		})
	}
	wg.Wait()
	kv.late.Wait()
	total := int64(0)
	for i := range things {
		n, errs := fresh[i].Load(), failed[i].Load()
		if total += n; n > 1 || n == 0 && errs == 0 {
			t.Errorf("thing %d was used for the first time by %d nodes, %d failed", i, n, errs)
		}
	}
	if total < things/2 {
		t.Errorf("only %d of %d were used", total, things)
	}
	r := newReplayKV(t, kv.KV, storage.ReplayKVOptions{})
	if ok, err := r.Use(t.Context(), sts.ReplayClientAssertion, strings.Repeat("long", 1000)+"1", now, now.Add(time.Minute)); !ok || err != nil {
		t.Errorf("the same key of another space: %v, %v", ok, err)
	}
}

// TestReplayKVClock puts clocks back, and restores the store.
func TestReplayKVClock(t *testing.T) {
	kv, start := newBolt(t), time.Now()
	var passed atomic.Int64
	o := storage.ReplayKVOptions{Now: func() time.Time { return start.Add(time.Duration(passed.Load())) }}
	use := func(r *storage.ReplayKV, key string, since, until time.Time) error {
		t.Helper()
		ok, err := r.Use(t.Context(), sts.ReplayDPoP, key, since, until)
		if err == nil && !ok {
			return errors.New("used")
		}
		return err
	}
	if err := use(newReplayKV(t, kv, o), "a", start, start.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	passed.Store(int64(2 * time.Minute))
	if err := use(newReplayKV(t, kv, o), "b", start, start.Add(3*time.Minute)); err != nil {
		t.Fatal(err)
	}
	// By now the first use may have been dropped. The clock of another node is slow.
	passed.Store(0)
	r := newReplayKV(t, kv, o)
	if err := use(r, "a", start, start.Add(time.Minute)); !errors.Is(err, sts.ErrForgotten) {
		t.Errorf("what was not good any more by another clock: %v", err)
	}
	if err := use(r, "c", start, start.Add(3*time.Minute)); err != nil {
		t.Errorf("what is good by either clock: %v", err)
	}
	o.Begins = start.Add(time.Second)
	r = newReplayKV(t, kv, o)
	err := use(r, "d", start, start.Add(3*time.Minute))
	var wait interface{ RetryAfter() time.Duration }
	if !errors.Is(err, sts.ErrForgotten) || !errors.As(err, &wait) || wait.RetryAfter() != 2*time.Second {
		t.Errorf("what could be used before the store was restored: %v", err)
	}
	if err := use(r, "d", o.Begins.Add(time.Second), start.Add(3*time.Minute)); err != nil {
		t.Errorf("what could not: %v", err)
	}
}

// TestReplayKVClocksDiffer puts the clock of one node ahead: the other says so, and
// when it is over [F38].
func TestReplayKVClocksDiffer(t *testing.T) {
	kv := newBolt(t)
	var ahead, behind atomic.Int64 // seconds
	clock := func(by *atomic.Int64) func() time.Time {
		return func() time.Time { return time.Now().Add(time.Duration(by.Load()) * time.Second) }
	}
	var log lockedLog
	right := newReplayKV(t, kv, storage.ReplayKVOptions{Now: clock(&behind), Log: slog.New(slog.NewTextHandler(&log, nil))})
	gauge := func() string {
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(right.Collector())
		families, err := registry.Gather()
		if err != nil {
			t.Error(err)
		}
		return fmt.Sprint(families)
	}
	note := func() { // a node notes its clock when it is used first
		t.Helper()
		now := time.Now().Add(time.Duration(ahead.Load()) * time.Second)
		if _, err := newReplayKV(t, kv, storage.ReplayKVOptions{Now: clock(&ahead)}).Use(t.Context(), sts.ReplayDPoP, fmt.Sprint(now), now, now.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := right.Use(t.Context(), sts.ReplayDPoP, "a", time.Now(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	ahead.Store(4)
	note()
	until(t, "the difference is known", func() bool { return strings.Contains(gauge(), "value:4") || strings.Contains(gauge(), "value:3") })
	if log.String() != "" {
		t.Errorf("an alarm for four seconds: %s", log.String())
	}
	ahead.Store(8)
	note()
	until(t, "the alarm is given", func() bool { return strings.Count(log.String(), "is wrong") == 1 })
	if !strings.Contains(log.String(), "behind=8s") && !strings.Contains(log.String(), "behind=7s") {
		t.Errorf("the alarm: %s", log.String())
	}
	// A clock that is nearer does not hide it for a while.
	behind.Store(6)
	ahead.Store(9)
	note()
	time.Sleep(20 * time.Millisecond)
	if strings.Contains(log.String(), "agree again") {
		t.Errorf("it is over too soon: %s", log.String())
	}
	behind.Store(800)
	ahead.Store(800)
	note()
	until(t, "its end is told", func() bool { return strings.Contains(log.String(), "agree again") })
}

// TestReplayKVOnEtcd lets two nodes use the same things, kills etcd in between, and
// pauses it.
func TestReplayKVOnEtcd(t *testing.T) {
	t.Parallel() // it waits most of the time
	c := etcdtest.Start(t, 1)
	o := etcdOptions(c)
	o.RequestTimeout = time.Second
	a := newReplayKV(t, openEtcd(t, o), storage.ReplayKVOptions{})
	b := newReplayKV(t, openEtcd(t, o), storage.ReplayKVOptions{})
	now := time.Now()
	use := func(r *storage.ReplayKV, key string) (bool, error) {
		return r.Use(t.Context(), sts.ReplayClientAssertion, key, now, now.Add(5*time.Minute))
	}
	var wins atomic.Int64
	var wg sync.WaitGroup
	const things = 100
	for i := range things {
		for _, r := range []*storage.ReplayKV{a, b} {
			wg.Go(func() {
				ok, err := use(r, fmt.Sprint(i))
				if err != nil {
					t.Error(err)
				}
				if ok {
					wins.Add(1)
				}
			})
		}
	}
	wg.Wait()
	if wins.Load() != things {
		t.Errorf("%d things were used for the first time %d times", things, wins.Load())
	}
	m := c.Members[0]
	m.Kill(t)
	if ok, err := use(a, "while it is down"); ok || err == nil {
		t.Errorf("used without a store: %v, %v", ok, err)
	}
	m.Restart(t)
	for i := range things {
		var ok bool
		c.Try(t, func(context.Context) (err error) { ok, err = use(b, fmt.Sprint(i)); return err })
		if ok {
			t.Errorf("thing %d was used again after etcd was killed", i)
		}
	}
}

// lockedLog is what was logged.
type lockedLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
