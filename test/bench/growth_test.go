package bench

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workload-sts/sts/storage"
	"github.com/workload-sts/sts/sts"
)

// TestGrowth holds that a service costs what an empty one costs when its store is
// full, starts in seconds, and forgets what has expired while it works. What is
// measured is compared in pairs, and the best counts: a request that looks at all
// there is would be many times as slow in each [F37].
func TestGrowth(t *testing.T) {
	const clients, rules, revocations, uses = 20_000, 2_000, 50_000, 50_000
	empty, full := newService(t), newService(t)
	for change := range bigChanges(clients, rules) {
		_, err := full.sts.Apply(t.Context(), sts.Change{Put: change})
		must(t, err)
	}
	full.revokeMany(t, revocations, time.Now().Add(time.Hour))
	use, done := full.using(), atomic.Int64{}
	for done.Load() < uses {
		measure(t, func(ctx context.Context, n int64) error { done.Add(1); return use(ctx, n) }, 100*time.Millisecond)
	}
	for name, path := range map[string]struct{ empty, full call }{
		"client credentials": {empty.credentialsGRPC, full.credentialsGRPC},
		"exchange":           {empty.seen(t), full.seen(t)},
		"single use":         {empty.using(), use},
	} {
		var best, less float64
		for range 7 {
			a, b := measure(t, path.empty, 100*time.Millisecond), measure(t, path.full, 100*time.Millisecond)
			best, less = max(best, b.perSecond/a.perSecond), max(less, a.allocs/b.allocs)
		}
		if best < 0.67 || less < 0.9 {
			t.Errorf("%s: at best %.2f of the speed beside an empty store, and 1/%.2f of the allocations", name, best, less)
		}
	}

	file, began := full.copied(t), time.Now()
	kv, err := storage.OpenBolt(file, storage.BoltOptions{})
	must(t, err)
	defer kv.Close()
	full.start(kv)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it starts in %v", took)
	}

	over := time.Now().Add(5 * time.Second)
	full.revokeMany(t, revocations, over)
	time.Sleep(time.Until(over))
	loaded, end := context.WithCancel(t.Context())
	defer end()
	go func() {
		for loaded.Err() == nil {
			full.credentialsGRPC(loaded, next.Add(1))
		}
	}()
	for deadline := time.Now().Add(30 * time.Second); full.revoked.Count() > revocations || full.stored(t, "revoked/") > revocations; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d revocations are known and %d stored 30 s after %d of them had expired", full.revoked.Count(), full.stored(t, "revoked/"), revocations)
		}
	}
}

// using uses something that was not used before.
func (s *service) using() call {
	return func(ctx context.Context, n int64) error {
		fresh, err := s.replay.Use(ctx, sts.ReplayClientAssertion, fmt.Sprint("jti ", n), time.Now(), time.Now().Add(time.Hour))
		if err == nil && !fresh {
			err = fmt.Errorf("%d was used before", n)
		}
		return err
	}
}

// stored counts the keys with a prefix.
func (s *service) stored(t *testing.T, prefix string) (n int) {
	for after := ""; ; {
		list, _, err := s.kv.List(t.Context(), prefix, after, 1000)
		must(t, err)
		if len(list) == 0 {
			return n
		}
		n, after = n+len(list), list[len(list)-1].Key
	}
}
