package vault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func kindError(k Kind) *Error { return &Error{Kind: k, Err: fmt.Errorf("vault: %s", k)} }

// TestSignerCircuit: which answers open the circuit, and after how many calls.
func TestSignerCircuit(t *testing.T) {
	dialed := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	for _, test := range []struct {
		name   string
		answer signFunc
		calls  int
		reason string
	}{
		{"sealed", fails(kindError(Sealed)), 1, "sealed"},
		{"uninitialised", fails(kindError(Uninitialised)), 1, "uninitialised"},
		{"denied", fails(kindError(Denied)), 1, "denied"},
		{"no key", fails(kindError(NoKey)), 1, "no key"},
		{"throttled", fails(kindError(Throttled)), 1, "throttled"},
		{"connection refused", fails(&Error{Kind: Unreachable, Err: dialed}), 1, "connection refused"},
		{"connection broken", fails(kindError(Unreachable)), 3, "unreachable"},
		{"standby", fails(kindError(Standby)), 3, "standby"},
		{"failed", fails(kindError(Failed)), 3, "failed"},
		{"garbage", fails(kindError(Garbage)), 3, "garbage"},
		{"another error", fails(errors.New("something else")), 3, "something else"},
		{"hanging", hangs, 3, "vault does not answer within 2s"},
		{"too few results", func(context.Context, signRequest) ([]signResult, error) { return nil, nil }, 3, "0 results to 1"},
		{"no item signed", func(context.Context, signRequest) ([]signResult, error) {
			return []signResult{{Err: kindError(Failed)}}, nil
		}, 3, "failed"},
		{"version gone", func(context.Context, signRequest) ([]signResult, error) {
			return []signResult{{Err: kindError(NoKey)}}, nil
		}, 1, "no key"},
	} {
		t.Run(test.name, func(t *testing.T) {
			withSigner(t, Batching{}, func(t *testing.T, v *fakeVault, s *Signer) {
				v.set(test.answer)
				for range test.calls {
					if err := s.Err(); err != nil {
						t.Fatalf("open after %d calls: %v", len(v.sizes()), err)
					}
					if o := sign(t.Context(), s, "x"); o.err == nil {
						t.Fatal("signed")
					}
					synctest.Wait()
				}
				refused(t, sign(t.Context(), s, "x"), test.reason, 0)
				if err := s.Err(); err == nil || len(v.sizes()) != test.calls || s.Stats().Opened != 1 {
					t.Errorf("%v after %d calls: %+v", err, len(v.sizes()), s.Stats())
				}
				recovers(t, v, s, max(time.Second, time.Until(s.circuit.until)+mostPause))
			})
		})
	}
}

// recovers lets Vault sign again and fails unless the signer does so in time.
func recovers(t *testing.T, v *fakeVault, s *Signer, within time.Duration) {
	t.Helper()
	v.set(nil)
	start := time.Now()
	for time.Since(start) <= within {
		if o := sign(t.Context(), s, "y"); o.err == nil {
			if s.Err() != nil {
				t.Errorf("signs in spite of %v", s.Err())
			}
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Errorf("not back within %v: %v", within, s.Err())
}

// TestSignerFailuresInARow: a success between failures keeps the circuit closed.
func TestSignerFailuresInARow(t *testing.T) {
	withSigner(t, Batching{}, func(t *testing.T, v *fakeVault, s *Signer) {
		for i := range 10 * tolerated {
			v.set(fails(kindError(Failed)))
			if i%tolerated == 0 {
				v.set(nil)
			}
			sign(t.Context(), s, "x")
			synctest.Wait()
		}
		if s.Err() != nil || len(v.sizes()) != 10*tolerated {
			t.Errorf("%v after %d calls", s.Err(), len(v.sizes()))
		}
	})
}

// TestSignerAfresh: what was before the circuit opened does not count after it.
func TestSignerAfresh(t *testing.T) {
	withSigner(t, Batching{}, func(t *testing.T, v *fakeVault, s *Signer) {
		v.set(hangs)
		for range tolerated {
			sign(t.Context(), s, "x")
			synctest.Wait()
		}
		v.set(nil)
		time.Sleep(2 * time.Second)
		v.set(fails(kindError(Failed)))
		if sign(t.Context(), s, "x"); s.Err() != nil || s.Stats().Opened != 1 {
			t.Errorf("%v, %+v", s.Err(), s.Stats())
		}
		// Calls used to take all the time there is, but one waits no longer for them.
		v.set(after(100*time.Millisecond, signs))
		first, second := callers(t.Context(), s, "x", 1), callers(t.Context(), s, "x", 1)
		own(t, "x", first())
		if o := second()[0]; o.err != nil || o.took != 100*time.Millisecond+s.limits.Delay {
			t.Errorf("%+v", o)
		}
	})
}

// TestSignerReason: those who wait are refused when the circuit opens, and the
// reason is what Vault answered last.
func TestSignerReason(t *testing.T) {
	withSigner(t, Batching{Calls: 1}, func(t *testing.T, v *fakeVault, s *Signer) {
		const latency = 100 * time.Millisecond
		v.set(after(latency, fails(kindError(Sealed))))
		for _, o := range callers(t.Context(), s, "x", 10)() {
			refused(t, o, "vault: sealed", latency)
			if e, ok := errors.AsType[*Error](o.err); !ok || e.Kind != Sealed {
				t.Errorf("%v is not an Error", o.err)
			}
		}
		v.set(fails(kindError(Unreachable)))
		time.Sleep(mostPause + latency)
		refused(t, sign(t.Context(), s, "x"), "vault: unreachable", 0)
		if st := s.Stats(); len(v.sizes()) != 1 || st.Refused != 10 || st.Failures != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// TestSignerThrottled: Vault is left alone as long as it says, within bounds.
func TestSignerThrottled(t *testing.T) {
	const step = time.Millisecond
	for says, rest := range map[time.Duration]time.Duration{
		0: defaultRest, 3 * time.Second: 3 * time.Second, time.Hour: maxRest, time.Millisecond: leastPause,
	} {
		withSigner(t, Batching{}, func(t *testing.T, v *fakeVault, s *Signer) {
			e := kindError(Throttled)
			e.RetryAfter = says
			v.set(fails(e))
			for range 3 { // once from a call, then from probes
				begin, probes := time.Now(), len(v.sentProbes())
				o := sign(t.Context(), s, "x")
				u, ok := errors.AsType[*Unavailable](o.err)
				if want := max(comeBack, rest); !ok || u.RetryAfter > want || u.RetryAfter < want-step {
					t.Errorf("says %v: %v, %+v", says, o.err, u)
				}
				for len(v.sentProbes()) == probes {
					time.Sleep(step)
				}
				synctest.Wait()
				if waited := time.Since(begin); waited < rest-step || waited > rest+mostPause {
					t.Errorf("says %v: probed after %v", says, waited)
				}
			}
			recovers(t, v, s, maxRest+mostPause+time.Second)
		})
	}
}

// TestSignerProbes: they are not JWS signing inputs, come at their pace, and do
// not wait for those that hang.
func TestSignerProbes(t *testing.T) {
	withSigner(t, Batching{}, func(t *testing.T, v *fakeVault, s *Signer) {
		v.set(fails(kindError(Sealed)))
		sign(t.Context(), s, "x")
		time.Sleep(time.Minute)
		last := time.Duration(0)
		for _, p := range v.sentProbes() {
			if pause := p.at - last; pause < leastPause || pause > mostPause || p.inputs[0] != probeInput {
				t.Errorf("probe %q after %v", p.inputs, pause)
			}
			last = p.at
		}
		if n := len(v.sentProbes()); n < 120 || n > 240 || v.most[1] != 1 || s.Stats().Probes != uint64(n) {
			t.Errorf("%d probes, %d at a time", n, v.most[1])
		}
	})
	withSigner(t, Batching{}, func(t *testing.T, v *fakeVault, s *Signer) {
		v.set(fails(kindError(Sealed)))
		sign(t.Context(), s, "x")
		v.set(hangs)
		time.Sleep(time.Minute)
		last := time.Duration(0)
		for _, p := range v.sentProbes() {
			if pause := p.at - last; pause > 800*time.Millisecond {
				t.Errorf("a probe after %v", pause)
			}
			last = p.at
		}
	})
	for range 20 {
		withSigner(t, Batching{}, func(t *testing.T, v *fakeVault, s *Signer) {
			v.set(fails(kindError(Sealed)))
			sign(t.Context(), s, "x")
			v.set(hangs)
			time.Sleep(rand.N(10 * time.Second))
			recovers(t, v, s, time.Second)
			if v.most[1] > maxProbes {
				t.Errorf("%d probes at a time", v.most[1])
			}
			synctest.Wait()
			if v.now[1] != 0 {
				t.Errorf("%d probes are left", v.now[1])
			}
		})
	}
}

// TestSignerOldCalls: the end of calls from before the circuit opened neither
// closes it nor opens it again.
func TestSignerOldCalls(t *testing.T) {
	withSigner(t, Batching{Delay: time.Millisecond}, func(t *testing.T, v *fakeVault, s *Signer) {
		v.set(after(100*time.Millisecond, signs))
		good := callers(t.Context(), s, "good", 1)
		time.Sleep(time.Millisecond)
		v.set(after(1900*time.Millisecond, fails(kindError(Sealed))))
		bad := callers(t.Context(), s, "bad", 1)
		time.Sleep(2 * time.Millisecond)
		v.set(fails(kindError(Denied)))
		refused(t, sign(t.Context(), s, "x"), "denied", time.Millisecond)
		v.set(hangs)
		own(t, "good", good())
		if s.Err() == nil {
			t.Error("an old success closed the circuit")
		}
		recovers(t, v, s, time.Second)
		if o := bad()[0]; o.err == nil {
			t.Errorf("%+v", o)
		}
		synctest.Wait()
		if s.Err() != nil {
			t.Errorf("an old failure opened the circuit: %v", s.Err())
		}
	})
}

// TestSignerNoHerd: what goes out when the circuit closes is bounded.
func TestSignerNoHerd(t *testing.T) {
	b := Batching{Size: 4, Calls: 2}
	withSigner(t, b, func(t *testing.T, v *fakeVault, s *Signer) {
		v.set(fails(kindError(Sealed)))
		sign(t.Context(), s, "x")
		v.set(nil)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				for sign(ctx, s, fmt.Sprint(i)).err != nil && ctx.Err() == nil {
					time.Sleep(time.Millisecond)
				}
			})
		}
		wg.Wait()
		if st := s.Stats(); v.most[0] > b.Calls || st.Signatures != 200 || st.Opened != 1 {
			t.Errorf("%d calls at a time, %+v", v.most[0], st)
		}
		for _, n := range v.sizes() {
			if n > b.Size {
				t.Errorf("a call for %d", n)
			}
		}
	})
}
