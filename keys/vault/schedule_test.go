package vault

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/workload-sts/sts/jose"
)

// visit is a caller in a schedule.
type visit struct {
	at       time.Duration
	patience time.Duration // 0: no limit of its own
}

// schedule is one random case: limits, callers, and what Vault answers to one
// call after the other.
type schedule struct {
	limits  Batching
	visits  []visit
	answers []signFunc
}

func drawSchedule(t *rapid.T) schedule {
	ms := func(from, to int, label string) time.Duration {
		return time.Duration(rapid.IntRange(from, to).Draw(t, label)) * time.Millisecond
	}
	var c schedule
	c.limits = Batching{
		Size:    rapid.IntRange(1, 40).Draw(t, "size"),
		Calls:   rapid.IntRange(1, 4).Draw(t, "calls"),
		Delay:   ms(1, 20, "delay"),
		Queue:   rapid.IntRange(1, 40).Draw(t, "queue"),
		Timeout: ms(50, 500, "timeout"),
	}
	for range rapid.IntRange(1, 150).Draw(t, "callers") {
		v := visit{at: ms(0, 300, "at")}
		if rapid.IntRange(0, 3).Draw(t, "leaves") == 0 {
			v.patience = ms(1, 100, "patience")
		}
		c.visits = append(c.visits, v)
	}
	for range rapid.IntRange(1, 20).Draw(t, "answers") {
		latency := ms(0, 60, "latency")
		answer := signs
		switch rapid.IntRange(0, 9).Draw(t, "answer") {
		case 0:
			answer = fails(kindError(Kind(rapid.IntRange(int(Unreachable), int(Garbage)).Draw(t, "kind"))))
		case 1:
			answer = hangs
		case 2:
			answer = someSigned(rapid.IntRange(1, 3).Draw(t, "every"))
		}
		c.answers = append(c.answers, after(latency, answer))
	}
	return c
}

// someSigned signs all but each n-th.
func someSigned(n int) signFunc {
	return func(ctx context.Context, r signRequest) ([]signResult, error) {
		results, err := signs(ctx, r)
		for i := range results {
			if i%n == 0 {
				results[i] = signResult{Err: errors.New("not this one")}
			}
		}
		return results, err
	}
}

// TestSignerProperty: whatever comes and whatever Vault does, each caller gets
// its own signature or an error in time, the bounds hold, and it works again when
// Vault does.
func TestSignerProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := drawSchedule(rt)
		var errs []error
		synctest.Test(t, func(t *testing.T) { errs = c.run(t) })
		if err := errors.Join(errs...); err != nil {
			rt.Fatal(err)
		}
	})
}

// run returns what is wrong. The bubble fails if a goroutine is left.
func (c schedule) run(t *testing.T) (errs []error) {
	v := &fakeVault{begin: time.Now()}
	next := 0
	v.set(func(ctx context.Context, r signRequest) ([]signResult, error) {
		v.mu.Lock()
		answer := c.answers[next%len(c.answers)]
		next++
		v.mu.Unlock()
		return answer(ctx, r)
	})
	s := newSigner(v.sign, 1, jose.EdDSA, c.limits)
	defer s.Close()
	got := make([]error, len(c.visits))
	var wg sync.WaitGroup
	for i, visit := range c.visits {
		wg.Go(func() {
			time.Sleep(visit.at)
			got[i] = c.visit(t.Context(), s, fmt.Sprint("input ", i), visit)
		})
	}
	wg.Wait()
	v.set(nil)
	time.Sleep(defaultRest + mostPause + c.limits.Timeout) // 429 says how long it wants to rest
	if o := sign(t.Context(), s, "last"); o.err != nil {
		errs = append(errs, fmt.Errorf("does not recover: %w", o.err))
	}
	synctest.Wait()
	return append(append(errs, got...), c.check(v, s.Stats())...)
}

// visit signs once and returns what is wrong with the outcome.
func (c schedule) visit(ctx context.Context, s *Signer, input string, v visit) error {
	most := c.limits.Timeout
	if v.patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, v.patience)
		defer cancel()
		most = min(most, v.patience)
	}
	o := sign(ctx, s, input)
	_, unavailable := errors.AsType[*Unavailable](o.err)
	switch {
	case o.took > most:
		return fmt.Errorf("%s: waited for %v", input, o.took)
	case o.err == nil && o.sig != signature(input):
		return fmt.Errorf("%s: got %q", input, o.sig)
	case o.err != nil && !unavailable && (ctx.Err() == nil || !errors.Is(o.err, ctx.Err())):
		return fmt.Errorf("%s: got %w", input, o.err)
	}
	return nil
}

// check returns what is wrong with what reached Vault.
func (c schedule) check(v *fakeVault, st Stats) (errs []error) {
	sent := map[string]int{}
	total := 0
	for _, call := range v.calls {
		if len(call.inputs) > c.limits.Size {
			errs = append(errs, fmt.Errorf("a call for %d", len(call.inputs)))
		}
		for _, in := range call.inputs {
			sent[in]++
			total++
			if sent[in] > 1 {
				errs = append(errs, fmt.Errorf("%s was sent twice", in))
			}
		}
	}
	if v.most[0] > c.limits.Calls || v.most[1] > maxProbes || v.touched {
		errs = append(errs, fmt.Errorf("%v calls and probes at a time; input changed: %v", v.most, v.touched))
	}
	sizes := uint64(0)
	for _, n := range st.Sizes {
		sizes += n
	}
	if st.Waiting != 0 || st.UnderWay != 0 || st.Calls != uint64(len(v.calls)) || st.Calls != sizes ||
		st.Signatures+st.Failures != uint64(total) || st.Probes != uint64(len(v.probes)) {
		errs = append(errs, fmt.Errorf("%d calls for %d: %+v", len(v.calls), total, st))
	}
	return errs
}
