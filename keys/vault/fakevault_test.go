package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/workload-sts/sts/jose"
)

// fakeVault answers calls as a test says, and keeps what it was asked. It is for
// time and order, which a real Vault does not let a test choose.
type fakeVault struct {
	begin time.Time

	mu      sync.Mutex
	answer  signFunc // of calls from now on; nil: signed after a millisecond
	calls   []sentCall
	probes  []sentCall
	now     [2]int // calls and probes under way
	most    [2]int
	touched bool // an input changed while a call was under way
}

// sentCall is a call as it reached Vault.
type sentCall struct {
	at     time.Duration // since the beginning
	inputs []string
}

const fakeLatency = time.Millisecond

func (v *fakeVault) sign(ctx context.Context, r signRequest) ([]signResult, error) {
	c := sentCall{at: time.Since(v.begin)}
	for _, in := range r.Inputs {
		c.inputs = append(c.inputs, string(in))
	}
	kind := 0
	v.mu.Lock()
	if c.inputs[0] == probeInput {
		kind = 1
		v.probes = append(v.probes, c)
	} else {
		v.calls = append(v.calls, c)
	}
	v.now[kind]++
	v.most[kind] = max(v.most[kind], v.now[kind])
	answer := v.answer
	v.mu.Unlock()
	if answer == nil {
		answer = after(fakeLatency, signs)
	}
	results, err := answer(ctx, r)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.now[kind]--
	for i, in := range r.Inputs {
		v.touched = v.touched || string(in) != c.inputs[i]
	}
	return results, err
}

func (v *fakeVault) set(answer signFunc) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.answer = answer
}

// sizes are those of the calls so far.
func (v *fakeVault) sizes() []int {
	v.mu.Lock()
	defer v.mu.Unlock()
	var n []int
	for _, c := range v.calls {
		n = append(n, len(c.inputs))
	}
	return n
}

// sentProbes are the probes so far.
func (v *fakeVault) sentProbes() []sentCall {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.probes)
}

func signature(input string) string { return "signature over " + input }

func signs(_ context.Context, r signRequest) ([]signResult, error) {
	var results []signResult
	for _, in := range r.Inputs {
		results = append(results, signResult{Signature: []byte(signature(string(in)))})
	}
	return results, nil
}

func fails(err error) signFunc {
	return func(context.Context, signRequest) ([]signResult, error) { return nil, err }
}

func hangs(ctx context.Context, _ signRequest) ([]signResult, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// after answers as f does, later.
func after(d time.Duration, f signFunc) signFunc {
	return func(ctx context.Context, r signRequest) ([]signResult, error) {
		select {
		case <-time.After(d):
			return f(ctx, r)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// withSigner runs a test with a clock of its own. At its end, all goroutines of the
// signer must have ended.
func withSigner(t *testing.T, b Batching, f func(t *testing.T, v *fakeVault, s *Signer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		v := &fakeVault{begin: time.Now()}
		s := newSigner(v.sign, 1, jose.EdDSA, b)
		defer s.Close()
		f(t, v, s)
	})
}

// outcome is what a caller got, and how long that took.
type outcome struct {
	sig  string
	err  error
	took time.Duration
}

// sign signs an input once, and uses its memory for something else after that.
func sign(ctx context.Context, s *Signer, input string) outcome {
	b := []byte(input)
	start := time.Now()
	sig, err := s.Sign(ctx, b)
	clear(b)
	return outcome{string(sig), err, time.Since(start)}
}

// callers begin n callers, whose inputs are prefix and a number, in this order.
// The function returned waits for all of them.
func callers(ctx context.Context, s *Signer, prefix string, n int) func() []outcome {
	got := make([]outcome, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { got[i] = sign(ctx, s, fmt.Sprint(prefix, i)) })
		synctest.Wait()
	}
	return func() []outcome { wg.Wait(); return got }
}

// own fails unless all callers have their own signatures.
func own(t *testing.T, prefix string, got []outcome) {
	t.Helper()
	for i, o := range got {
		if o.err != nil || o.sig != signature(fmt.Sprint(prefix, i)) {
			t.Errorf("%s%d: got %q, %v", prefix, i, o.sig, o.err)
		}
	}
}

// refused fails unless there is no signature for this reason, after this time.
func refused(t *testing.T, o outcome, reason string, took time.Duration) {
	t.Helper()
	u, ok := errors.AsType[*Unavailable](o.err)
	if !ok || !strings.Contains(o.err.Error(), reason) || o.sig != "" || o.took != took {
		t.Errorf("got %q, %v after %v; want %q after %v", o.sig, o.err, o.took, reason, took)
		return
	}
	if u.RetryAfter < comeBack || u.Dependency() != "vault" {
		t.Errorf("come back to %s after %v", u.Dependency(), u.RetryAfter)
	}
}
