package vault

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/workload-sts/sts/jose"
)

func TestSignerWhatIsSent(t *testing.T) {
	input := []byte("header.payload")
	short, long := sha256.Sum256(input), sha512.Sum384(input)
	for alg, want := range map[jose.Algorithm][]byte{
		jose.ES256: short[:], jose.ES384: long[:], jose.RS256: short[:], jose.PS256: short[:], jose.EdDSA: input,
	} {
		var sent signRequest
		s := newSigner(func(_ context.Context, r signRequest) ([]signResult, error) {
			sent = signRequest{r.Version, r.Algorithm, [][]byte{bytes.Clone(r.Inputs[0])}}
			return []signResult{{Signature: []byte("s")}}, nil
		}, 7, alg, Batching{})
		sig, err := s.Sign(t.Context(), input)
		if err != nil || string(sig) != "s" || sent.Version != 7 || sent.Algorithm != alg || !bytes.Equal(sent.Inputs[0], want) {
			t.Errorf("%s: %q, %v; sent %+v", alg, sig, err, sent)
		}
		s.Close()
	}
	s := newSigner(signs, 1, "HS256", Batching{})
	defer s.Close()
	if _, err := s.Sign(t.Context(), input); err == nil {
		t.Error("signed with HS256")
	}
}

// TestSignerLone: who is alone never waits for others.
func TestSignerLone(t *testing.T) {
	withSigner(t, Batching{}, func(t *testing.T, v *fakeVault, s *Signer) {
		for i := range 100 {
			o := sign(t.Context(), s, "a")
			if o.err != nil || o.sig != signature("a") || o.took != fakeLatency {
				t.Fatalf("%d: %+v", i, o)
			}
			if i%2 == 0 {
				time.Sleep(time.Duration(i) * time.Millisecond)
			}
		}
		synctest.Wait()
		if got := s.Stats(); got != (Stats{Calls: 100, Signatures: 100, Sizes: [8]uint64{100}}) {
			t.Errorf("%+v", got)
		}
	})
}

func TestSignerClose(t *testing.T) {
	withSigner(t, Batching{Calls: 4, Size: 1, Delay: time.Hour}, func(t *testing.T, v *fakeVault, s *Signer) {
		v.set(hangs)
		got := callers(t.Context(), s, "x", 4)
		more := callers(t.Context(), s, "y", 4)
		time.Sleep(time.Millisecond)
		s.Close()
		s.Close()
		for _, o := range slices.Concat(got(), more()) {
			refused(t, o, "closed", time.Millisecond)
		}
		refused(t, sign(t.Context(), s, "z"), "closed", 0)
		if st := s.Stats(); s.Err() == nil || st.Calls != 4 || st.Opened != 0 {
			t.Errorf("%v; %+v", s.Err(), st)
		}
	})
	withSigner(t, Batching{Delay: time.Hour}, func(t *testing.T, v *fakeVault, s *Signer) {
		v.set(hangs)
		got := callers(t.Context(), s, "x", 2) // the second waits for Delay
		s.Close()
		for _, o := range got() {
			refused(t, o, "closed", 0)
		}
		if waited := time.Since(v.begin); waited != 0 {
			t.Errorf("closed after %v", waited)
		}
	})
	withSigner(t, Batching{}, func(t *testing.T, v *fakeVault, s *Signer) {
		v.set(fails(&Error{Kind: Sealed, Err: errors.New("sealed")}))
		sign(t.Context(), s, "x")
		v.set(hangs)
		time.Sleep(time.Second) // probes hang
		s.Close()
	})
}

// TestSignerRefusedCalls: an outage costs neither goroutines nor time.
func TestSignerRefusedCalls(t *testing.T) {
	s := newSigner(fails(&Error{Kind: Sealed, Err: errors.New("vault is sealed")}), 1, jose.ES256, Batching{})
	defer s.Close()
	s.Sign(t.Context(), []byte("x"))
	if s.Err() == nil || s.Err().Error() != "vault is sealed" {
		t.Fatal(s.Err())
	}
	before := runtime.NumGoroutine()
	start := time.Now()
	const n = 10_000
	for range n {
		if _, err := s.Sign(t.Context(), []byte("x")); err == nil {
			t.Fatal("signed")
		}
	}
	if each := time.Since(start) / n; each > 100*time.Microsecond {
		t.Errorf("a refusal takes %v", each)
	}
	if now := runtime.NumGoroutine(); now > before+maxProbes {
		t.Errorf("%d goroutines, %d before", now, before)
	}
	if got := s.Stats(); got.Refused != n || got.Calls != 1 {
		t.Errorf("%+v", got)
	}
}

// TestSignerBaseline: an outage under load leaves nothing behind.
func TestSignerBaseline(t *testing.T) {
	heap := func() int64 {
		for range 3 { // pools are empty after two
			runtime.GC()
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	withSigner(t, Batching{}, func(t *testing.T, v *fakeVault, s *Signer) {
		own(t, "x", callers(t.Context(), s, "x", 1)())
		before := heap()
		most := 0
		v.set(hangs)
		var wg sync.WaitGroup
		for i := range 20_000 {
			wg.Go(func() { sign(t.Context(), s, fmt.Sprint(i)) })
			time.Sleep(200 * time.Microsecond)
			st := s.Stats()
			most = max(most, st.Waiting)
		}
		wg.Wait()
		if s.Err() == nil || most > s.limits.Queue || len(v.sizes()) > s.limits.Calls+tolerated {
			t.Errorf("%v, %d waiting, %d calls", s.Err(), most, len(v.sizes()))
		}
		recovers(t, v, s, time.Second)
		synctest.Wait()
		if grown := heap() - before; grown > 1<<20 || s.waiting.length != 0 || s.sent.length != 0 || s.calls != 0 {
			t.Errorf("%d bytes more than before; %d waiting, %d sent", grown, s.waiting.length, s.sent.length)
		}
	})
}
