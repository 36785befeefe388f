package storage

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workload-sts/sts/policy"
)

// TestCount races for the uses of one transaction: exactly as many are had as there
// are, and what one rule has left is not taken by a call that another one refuses.
func TestCount(t *testing.T) {
	s, kv := newStore(t)
	defer kv.Close()
	until := time.Now().Add(time.Hour)
	var had atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				exhausted, err := s.Count(t.Context(), "txn", []policy.Uses{{Rule: "a", Most: 7}, {Rule: "b", Most: 100}}, until)
				switch {
				case err != nil:
					t.Error(err)
				case exhausted == "":
					had.Add(1)
				case exhausted != "a":
					t.Errorf("%q is exhausted", exhausted)
				}
			}
		})
	}
	wg.Wait()
	if had.Load() != 7 {
		t.Errorf("%d uses of 7", had.Load())
	}
	if e, n, err := s.count(t.Context(), countPrefix+"txn/b"); err != nil || n != 7 || e.Expires.Before(until) {
		t.Errorf("b was counted %d times, until %s: %v", n, e.Expires, err)
	}
	if exhausted, err := s.Count(t.Context(), "other", []policy.Uses{{Rule: "a", Most: 1}}, until); exhausted != "" || err != nil {
		t.Errorf("another transaction: %q, %v", exhausted, err)
	}
	// An earlier end does not shorten it, and what is no number is not taken for 0.
	if _, err := s.Count(t.Context(), "other", []policy.Uses{{Rule: "a", Most: 2}}, until.Add(-time.Minute)); err != nil {
		t.Error(err)
	}
	if e, _, _ := s.count(t.Context(), countPrefix+"other/a"); e.Expires.Before(until) {
		t.Errorf("ends at %s", e.Expires)
	}
	_, _, err := kv.Txn(t.Context(), nil, []Op{{Key: countPrefix + "bad/a", Value: []byte("x")}})
	must(t, err)
	if exhausted, err := s.Count(t.Context(), "bad", []policy.Uses{{Rule: "a", Most: 2}}, until); err == nil {
		t.Errorf("%q is exhausted", exhausted)
	}
}
