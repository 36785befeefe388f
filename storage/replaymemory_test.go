package storage

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestReplayMemory(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	r := NewReplayMemory(func() time.Time { return now })
	r.most = 100
	use := func(space, key string, life time.Duration) bool {
		t.Helper()
		fresh, err := r.Use(t.Context(), space, key, now, now.Add(life))
		if err != nil {
			t.Fatal(err)
		}
		return fresh
	}
	if !use("a", "1", time.Minute) || use("a", "1", time.Minute) {
		t.Error("the first use is fresh and no other")
	}
	if !use("b", "1", time.Minute) || !use("a", "2", 0) { // [N-15]
		t.Error("another space or key is another use")
	}
	now = now.Add(time.Minute)
	if use("a", "1", time.Minute) {
		t.Error("forgotten too early")
	}
	now = now.Add(2 * time.Second)
	if !use("a", "1", time.Minute) {
		t.Error("remembered for ever")
	}
	now = now.Add(time.Hour)
	for i := range 100 {
		if !use("c", fmt.Sprint(i), time.Minute) {
			t.Fatalf("%d is not fresh", i)
		}
	}
	// D-21: what is full refuses, and forgets nothing that counts.
	if fresh, err := r.Use(t.Context(), "c", "more", now, now.Add(time.Minute)); fresh || !errors.Is(err, ErrReplayFull) {
		t.Errorf("full: %v, %v", fresh, err)
	}
	if use("c", "0", time.Minute) {
		t.Error("forgotten when full")
	}
	now = now.Add(2 * time.Minute)
	if !use("c", "more", time.Minute) || len(r.used) != 1 || len(r.expires) != 1 {
		t.Errorf("%d uses, %d seconds remembered", len(r.used), len(r.expires))
	}
}

// D-20: of many at once, one is fresh.
func TestReplayMemoryAtOnce(t *testing.T) {
	r := NewReplayMemory(nil)
	var fresh atomic.Int32
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			if ok, err := r.Use(t.Context(), "s", "k", time.Now(), time.Now().Add(time.Minute)); err == nil && ok {
				fresh.Add(1)
			}
		})
	}
	all.Wait()
	if fresh.Load() != 1 {
		t.Errorf("%d were fresh", fresh.Load())
	}
}
