package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/workload-sts/sts/jose"
)

// TestSignerCoalescing: what is wanted while a call is under way goes out when it ends,
// spread over two calls, and those who come back stay together.
func TestSignerCoalescing(t *testing.T) {
	withSigner(t, Batching{Delay: time.Hour}, func(t *testing.T, v *fakeVault, s *Signer) {
		first := callers(t.Context(), s, "first", 1)
		rest := callers(t.Context(), s, "rest", 63)
		own(t, "first", first())
		own(t, "rest", rest())
		if got := v.sizes(); !slices.Equal(got, []int{1, 32, 31}) {
			t.Errorf("calls for %v", got)
		}
		for i, c := range v.calls {
			if want := min(time.Duration(i), 1) * fakeLatency; c.at != want {
				t.Errorf("call %d began after %v, not %v", i, c.at, want)
			}
		}
		few := callers(t.Context(), s, "few", 1+worthwhile)
		own(t, "few", few())
		if got := v.sizes()[3:]; !slices.Equal(got, []int{1, worthwhile}) {
			t.Errorf("calls for %v", got)
		}
	})
}

// TestSignerFurtherCall: another call is made beside one that is under way when there
// are enough for a whole one, or when the first has waited for Delay.
func TestSignerFurtherCall(t *testing.T) {
	slow := after(500*time.Millisecond, signs)
	t.Run("full", func(t *testing.T) {
		withSigner(t, Batching{Size: 4, Calls: 3, Delay: time.Hour}, func(t *testing.T, v *fakeVault, s *Signer) {
			v.set(slow)
			got := callers(t.Context(), s, "x", 1+3)
			if n := len(v.sizes()); n != 1 {
				t.Errorf("%d calls for 4", n)
			}
			more := callers(t.Context(), s, "y", 1+4+1)
			synctest.Wait()
			if sizes := v.sizes(); !slices.Equal(sizes, []int{1, 4, 4}) || s.Stats().UnderWay != 3 || s.Stats().Waiting != 1 {
				t.Errorf("calls for %v; %+v", sizes, s.Stats())
			}
			own(t, "x", got())
			own(t, "y", more())
		})
	})
	t.Run("delay", func(t *testing.T) {
		const delay, apart = 20 * time.Millisecond, 8 * time.Millisecond
		withSigner(t, Batching{Delay: delay, Calls: 3}, func(t *testing.T, v *fakeVault, s *Signer) {
			v.set(slow)
			var waits []func() []outcome
			for i := range 5 {
				waits = append(waits, callers(t.Context(), s, fmt.Sprint(i, "-"), 1))
				time.Sleep(apart)
			}
			for i, wait := range waits {
				own(t, fmt.Sprint(i, "-"), wait())
			}
			// The first call is for 0, the second for 1, 2 and 3, the third for 4.
			want := []time.Duration{0, apart + delay, 4*apart + delay}
			for i, c := range v.calls {
				if c.at != want[i] || len(v.calls) != len(want) {
					t.Errorf("call %d of %d, for %q, began after %v", i, len(v.calls), c.inputs, c.at)
				}
			}
		})
	})
}

// TestSignerFurtherCallAfterAnother: Delay counts for each, not from when it was
// first waited for.
func TestSignerFurtherCallAfterAnother(t *testing.T) {
	withSigner(t, Batching{Delay: 20 * time.Millisecond}, func(t *testing.T, v *fakeVault, s *Signer) {
		v.set(after(15*time.Millisecond, signs))
		var waits []func() []outcome
		for range 3 { // at 0, 10 and 20 ms; the second is sent at 15 ms
			waits = append(waits, callers(t.Context(), s, "x", 1))
			v.set(after(time.Second, signs))
			time.Sleep(10 * time.Millisecond)
		}
		for _, wait := range waits {
			own(t, "x", wait())
		}
		if len(v.calls) != 3 || v.calls[1].at != 15*time.Millisecond || v.calls[2].at != 40*time.Millisecond {
			t.Errorf("%+v", v.calls)
		}
	})
}

// TestSignerOneFailedItem: it fails one token.
func TestSignerOneFailedItem(t *testing.T) {
	withSigner(t, Batching{}, func(t *testing.T, v *fakeVault, s *Signer) {
		v.set(after(fakeLatency, func(ctx context.Context, r signRequest) ([]signResult, error) {
			results, err := signs(ctx, r)
			for i, in := range r.Inputs {
				if string(in) == "x3" {
					results[i] = signResult{Err: &Error{Kind: Failed, Err: errors.New("cannot sign this one")}}
				}
			}
			return results, err
		}))
		for range 5 { // more often than calls may fail
			got := callers(t.Context(), s, "x", 8)()
			refused(t, got[3], "cannot sign this one", 2*fakeLatency)
			got[3] = outcome{sig: signature("x3")}
			own(t, "x", got)
		}
		if st := s.Stats(); s.Err() != nil || st.Failures != 5 || st.FailedCalls != 0 || st.Signatures != 35 {
			t.Errorf("%v, %+v", s.Err(), st)
		}
	})
}

// TestSignerLeaving: callers who give up hold nobody, and are not sent if there is time.
func TestSignerLeaving(t *testing.T) {
	withSigner(t, Batching{Calls: 1}, func(t *testing.T, v *fakeVault, s *Signer) {
		v.set(after(100*time.Millisecond, signs))
		ctx, cancel := context.WithCancel(t.Context())
		sent := callers(ctx, s, "sent", 1)
		leaving := callers(ctx, s, "leaving", 10)
		staying := callers(t.Context(), s, "staying", 3)
		time.Sleep(10 * time.Millisecond)
		cancel()
		for _, o := range slices.Concat(sent(), leaving()) {
			if !errors.Is(o.err, context.Canceled) || o.took != 10*time.Millisecond {
				t.Errorf("%+v", o)
			}
		}
		if st := s.Stats(); st.Waiting != 3 || st.Abandoned != 11 {
			t.Errorf("%+v", st)
		}
		own(t, "staying", staying())
		if got := v.sizes(); !slices.Equal(got, []int{1, 3}) || time.Since(v.begin) != 200*time.Millisecond {
			t.Errorf("calls for %v in %v", got, time.Since(v.begin))
		}
		if o := sign(ctx, s, "late"); !errors.Is(o.err, context.Canceled) || len(v.sizes()) != 2 {
			t.Errorf("with a ctx that has ended: %+v", o)
		}
	})
	// A call that only impatient callers wait for is not cut short, and does not
	// count against Vault.
	withSigner(t, Batching{}, func(t *testing.T, v *fakeVault, s *Signer) {
		v.set(after(time.Second, signs))
		for range 2 * tolerated {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			if o := sign(ctx, s, "x"); !errors.Is(o.err, context.DeadlineExceeded) {
				t.Errorf("%+v", o)
			}
			cancel()
			time.Sleep(2 * time.Second)
		}
		if st := s.Stats(); s.Err() != nil || st.Signatures != 2*tolerated {
			t.Errorf("%v, %+v", s.Err(), st)
		}
	})
}

func TestSignerQueueFull(t *testing.T) {
	withSigner(t, Batching{Queue: 5, Calls: 1, Delay: time.Hour}, func(t *testing.T, v *fakeVault, s *Signer) {
		got := callers(t.Context(), s, "x", 1+5)
		refused(t, sign(t.Context(), s, "too many"), "too many", 0)
		own(t, "x", got())
		own(t, "y", callers(t.Context(), s, "y", 1+5)())
		if st := s.Stats(); st.Refused != 1 || s.Err() != nil {
			t.Errorf("%+v", st)
		}
	})
}

// TestSignerTimeout: nobody waits longer, whatever the calls do.
func TestSignerTimeout(t *testing.T) {
	const timeout = 2 * time.Second
	withSigner(t, Batching{Calls: 2, Delay: time.Hour}, func(t *testing.T, v *fakeVault, s *Signer) {
		v.set(func(context.Context, signRequest) ([]signResult, error) {
			time.Sleep(3 * time.Second) // does not even heed its ctx
			return nil, errors.New("hung")
		})
		for _, o := range callers(t.Context(), s, "x", 20)() {
			refused(t, o, "within 2s", timeout)
		}
		if got := v.sizes(); !slices.Equal(got, []int{1}) {
			t.Errorf("calls for %v", got)
		}
	})
}

// TestSignerTooLate: what cannot be answered in time is refused when that is known, and
// not sent.
func TestSignerTooLate(t *testing.T) {
	withSigner(t, Batching{Calls: 1, Size: 2, Queue: 100, Delay: time.Hour}, func(t *testing.T, v *fakeVault, s *Signer) {
		v.set(after(900*time.Millisecond, signs))
		for range 10 {
			own(t, "w", callers(t.Context(), s, "w", 1)()) // learn how long calls take
		}
		calls := len(v.sizes())
		got := callers(t.Context(), s, "x", 1+4)
		for i := range 5 {
			refused(t, sign(t.Context(), s, fmt.Sprint("no chance", i)), "within 2s", 0)
		}
		all := got()
		own(t, "x", all[:3])
		for _, o := range all[3:] {
			refused(t, o, "within 2s", 1800*time.Millisecond)
		}
		if n := len(v.sizes()) - calls; n != 2 {
			t.Errorf("%d calls", n)
		}
	})
}

// TestSignerAtOnce: what is sent at once is not taken for late, however long
// calls took before.
func TestSignerAtOnce(t *testing.T) {
	withSigner(t, Batching{}, func(t *testing.T, v *fakeVault, s *Signer) {
		v.set(func(ctx context.Context, r signRequest) ([]signResult, error) {
			time.Sleep(3 * time.Second)
			return signs(ctx, r)
		})
		for range 20 {
			refused(t, sign(t.Context(), s, "x"), "within 2s", 2*time.Second)
			time.Sleep(2 * time.Second)
		}
		if n := len(v.sizes()); n != 20 {
			t.Errorf("%d calls", n)
		}
	})
}

// TestSignerSlowIsNotDead: calls that nearly take Timeout are calls that succeed.
func TestSignerSlowIsNotDead(t *testing.T) {
	withSigner(t, Batching{}, func(t *testing.T, v *fakeVault, s *Signer) {
		v.set(after(1500*time.Millisecond, signs))
		for range 10 {
			own(t, "x", callers(t.Context(), s, "x", 1)())
		}
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				if o := sign(t.Context(), s, fmt.Sprint(i)); o.took > 2*time.Second {
					t.Errorf("%+v", o)
				}
			})
			time.Sleep(10 * time.Millisecond)
		}
		wg.Wait()
		st := s.Stats()
		if s.Err() != nil || st.Opened != 0 || st.FailedCalls != 0 || st.Signatures < 80 {
			t.Errorf("%v, %+v", s.Err(), st)
		}
	})
}

// TestSignerRegrouping: callers who come back at once form whole batches, instead of
// one with the fastest and one with the rest. With real time, for it is about
// what the scheduler does.
func TestSignerRegrouping(t *testing.T) {
	s := newSigner(after(fakeLatency, signs), 1, jose.ES256, Batching{})
	defer s.Close()
	var wg sync.WaitGroup
	const n, each = 64, 100
	for i := range n {
		wg.Go(func() {
			for j := range each {
				if o := sign(t.Context(), s, fmt.Sprint(i, j)); o.err != nil {
					t.Error(o.err)
				}
			}
		})
	}
	wg.Wait()
	st := s.Stats()
	if mean := float64(st.Signatures) / float64(st.Calls); st.Signatures != n*each || mean < 12 {
		t.Errorf("%.1f signatures a call: %+v", mean, st)
	}
}
