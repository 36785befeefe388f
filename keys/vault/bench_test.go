package vault

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/workload-sts/sts/jose"
)

// localVault takes the time of a Vault on this machine, with two cores: 285 µs
// for a call, and 45 µs for each signature in it.
func localVault() signFunc {
	cores := make(chan struct{}, 2)
	return func(_ context.Context, r signRequest) ([]signResult, error) {
		cores <- struct{}{}
		defer func() { <-cores }()
		end := time.Now().Add(285*time.Microsecond + time.Duration(len(r.Inputs))*45*time.Microsecond)
		for time.Now().Before(end) {
			runtime.Gosched() // sleeping is not exact enough
		}
		return make([]signResult, len(r.Inputs)), nil
	}
}

func BenchmarkSigner(b *testing.B) {
	input := make([]byte, 600)
	direct := func(call signFunc) func(context.Context, []byte) ([]byte, error) {
		return func(ctx context.Context, input []byte) ([]byte, error) {
			sent, _ := appendSigned(nil, jose.ES256, input)
			r, err := call(ctx, signRequest{Version: 1, Algorithm: jose.ES256, Inputs: [][]byte{sent}})
			return r[0].Signature, err
		}
	}
	for _, callers := range []int{1, 64} {
		name := map[int]string{1: "Lone", 64: "Callers64"}[callers]
		b.Run(name+"/OneCallEach", func(b *testing.B) {
			benchmarkSign(b, callers, input, direct(localVault()))
		})
		b.Run(name+"/Batched", func(b *testing.B) {
			s := newSigner(localVault(), 1, jose.ES256, Batching{})
			defer s.Close()
			benchmarkSign(b, callers, input, s.Sign)
			st := s.Stats()
			b.ReportMetric(float64(st.Signatures)/float64(st.Calls), "signatures/call")
		})
	}
}

// benchmarkSign has callers who want the next signature as soon as they have one.
func benchmarkSign(b *testing.B, callers int, input []byte, sign func(context.Context, []byte) ([]byte, error)) {
	b.ReportAllocs()
	turns := make(chan struct{}, callers)
	ended := make(chan error, callers)
	for range callers {
		go func() {
			var err error
			for range turns {
				if err == nil {
					_, err = sign(context.Background(), input)
				}
			}
			ended <- err
		}()
	}
	for b.Loop() {
		turns <- struct{}{}
	}
	close(turns)
	for range callers {
		if err := <-ended; err != nil {
			b.Error(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "signatures/s")
}

// BenchmarkRefusal is what a signature costs while the circuit is open.
func BenchmarkRefusal(b *testing.B) {
	s := newSigner(fails(kindError(Sealed)), 1, jose.ES256, Batching{})
	defer s.Close()
	input := make([]byte, 600)
	s.Sign(b.Context(), input)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Sign(b.Context(), input); err == nil {
			b.Fatal("signed")
		}
	}
}
