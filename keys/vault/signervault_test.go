package vault

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/workload-sts/sts/internal/testserver"
	"github.com/workload-sts/sts/internal/vaulttest"
	"github.com/workload-sts/sts/jose"
)

// stubSigner is a signer for version 1 of a key of a stub.
func stubSigner(t *testing.T, b Batching) (*vaulttest.Stub, *Key, *Signer) {
	t.Helper()
	stub := vaulttest.NewStub(t, vaulttest.StubConfig{})
	stub.AddKey(t, "sts", "ecdsa-p256")
	k := ready(t, rootConfig(t, stub)).Key("transit", "sts")
	s := k.Signer(1, jose.ES256, b)
	t.Cleanup(s.Close)
	return stub, k, s
}

// TestSignerSigns: signatures that shared calls verify, each over its own input.
func TestSignerSigns(t *testing.T) {
	t.Parallel()
	stub, k, s := stubSigner(t, Batching{})
	info, err := k.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stub.Inject(vaulttest.Sign, vaulttest.Delay(20*time.Millisecond))
	const n = 64
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			for j := range 3 {
				input := fmt.Appendf(nil, "header.%d.%d", i, j)
				sig, err := s.Sign(t.Context(), input)
				if err == nil {
					err = jose.Verify(jose.ES256, info.Versions[1].PublicKey, input, sig)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if calls := stub.Count(vaulttest.Sign); calls > 3*n/4 {
		t.Errorf("%d calls for %d signatures", calls, 3*n)
	}
}

// TestSignerOutages: in each kind of outage, callers are refused in time, and at
// once when the circuit is open; Vault gets no more than a few calls; and when it
// is well again, so is the signer.
func TestSignerOutages(t *testing.T) {
	t.Parallel()
	const timeout = 500 * time.Millisecond
	for name, test := range map[string]struct {
		fault vaulttest.Fault
		kinds []Kind
		most  int // calls until the circuit is open
	}{
		"sealed":    {vaulttest.Status(503), []Kind{Sealed}, 2},
		"not there": {vaulttest.Status(501), []Kind{Uninitialised}, 2},
		"denied":    {vaulttest.Status(403), []Kind{Denied}, 4}, // it may log in and ask again
		"no key":    {vaulttest.Status(404), []Kind{NoKey}, 2},
		"throttled": {vaulttest.TooMany(time.Second), []Kind{Throttled}, 2},
		"failing":   {vaulttest.Status(500), []Kind{Failed}, 4},
		"garbage":   {vaulttest.Garbage(), []Kind{Garbage}, 4},
		"hanging":   {vaulttest.Hang(), []Kind{Unreachable}, 4},
		"resetting": {vaulttest.Reset(), []Kind{Unreachable}, 8}, // some connections from the pool are replaced
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stub, _, s := stubSigner(t, Batching{Calls: 2, Timeout: timeout})
			if _, err := s.Sign(t.Context(), []byte("before")); err != nil {
				t.Fatal(err)
			}
			before := stub.Count(vaulttest.Sign)
			stub.Inject(vaulttest.Sign, test.fault)
			for s.Err() == nil {
				signBatch(t, s, 20, timeout+patience/20)
			}
			opened := stub.Count(vaulttest.Sign) - before
			if opened > test.most {
				t.Errorf("%d calls until the circuit opened", opened)
			}
			for _, err := range signBatch(t, s, 1000, patience/20) {
				e, ok := errors.AsType[*Error](err)
				if !ok || !slices.Contains(test.kinds, e.Kind) {
					t.Fatalf("refused with %v", err)
				}
			}
			if n := stub.Count(vaulttest.Sign) - before - opened; n > 4 { // probes
				t.Errorf("%d calls after that", n)
			}
			stub.Heal()
			eventually(t, "signs again", defaultRest+time.Second, func() bool {
				_, err := s.Sign(t.Context(), []byte("after"))
				return err == nil
			})
		})
	}
}

// signBatch has n callers sign at the same time, and fails if one gets a
// signature or waits for too long.
func signBatch(t *testing.T, s *Signer, n int, within time.Duration) []error {
	t.Helper()
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			start := time.Now()
			_, errs[i] = s.Sign(t.Context(), []byte("x"))
			if took := time.Since(start); errs[i] == nil || took > within {
				t.Errorf("%v after %v", errs[i], took)
			}
		})
	}
	wg.Wait()
	return errs
}

// TestSignerRefusedDial: when nothing listens any more, the first call opens the
// circuit.
func TestSignerRefusedDial(t *testing.T) {
	t.Parallel()
	stub := vaulttest.NewStub(t, vaulttest.StubConfig{})
	stub.AddKey(t, "sts", "ecdsa-p256")
	proxy := testserver.NewProxy(t, stub.Addr)
	c := rootConfig(t, stub)
	c.Addresses = []string{proxy.Addr}
	s := ready(t, c).Key("transit", "sts").Signer(1, jose.ES256, Batching{})
	defer s.Close()
	if _, err := s.Sign(t.Context(), []byte("x")); err != nil {
		t.Fatal(err)
	}
	proxy.Refuse()
	for deadline := time.Now().Add(5 * time.Second); ; {
		_, err := s.Sign(t.Context(), []byte("x"))
		if !errors.Is(err, syscall.ECONNREFUSED) && time.Now().Before(deadline) {
			continue // a connection from before was cut
		}
		if s.Err() == nil {
			t.Errorf("the circuit is closed after %v", err)
		}
		break
	}
	proxy.Heal()
	for deadline := time.Now().Add(time.Second + time.Second/2); ; time.Sleep(10 * time.Millisecond) {
		if _, err := s.Sign(t.Context(), []byte("x")); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}
