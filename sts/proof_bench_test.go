package sts_test

import (
	"slices"
	"testing"
	"time"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/sts"
)

// BenchmarkProof compares requests with a secret alone and with a proof as well:
// ratio is what the proof costs above the secret, as a multiple of the raw
// verification of its signature. Rounds alternate, and the median counts.
func BenchmarkProof(b *testing.B) {
	const rounds, each = 15, 200
	f, p := newFixture(b), newProver(b)
	key := jose.Key{Algorithm: p.alg, Public: p.key.Public()}
	took := func(run func(i int)) float64 {
		begin := time.Now()
		for i := range each {
			run(i)
		}
		return float64(time.Since(begin)) / each
	}
	var ratios, plain, with, raw []float64
	for b.Loop() {
		ratios, plain, with, raw = nil, nil, nil, nil
		for range rounds {
			secret := f.credentials("web")
			proofs := make([]sts.TokenRequest, each)
			parsed := make([]*jose.JWS, each)
			for i := range proofs {
				proofs[i] = proven(secret, p.proof(b, f, nil, nil))
				parsed[i], _, _ = jose.ParseProof(proofs[i].Proof)
			}
			must := func(r sts.TokenRequest) {
				if _, err := f.service.Token(b.Context(), r); err != nil {
					b.Fatal(err)
				}
			}
			a := took(func(int) { must(secret) })
			c := took(func(i int) { must(proofs[i]) })
			v := took(func(i int) {
				if err := parsed[i].Verify(key); err != nil {
					b.Fatal(err)
				}
			})
			ratios, plain, with, raw = append(ratios, (c-a)/v), append(plain, a), append(with, c), append(raw, v)
		}
	}
	b.ReportMetric(0, "ns/op")
	for unit, all := range map[string][]float64{"ratio": ratios, "secret-ns": plain, "proof-ns": with, "verify-ns": raw} {
		slices.Sort(all)
		b.ReportMetric(all[len(all)/2], unit)
	}
}
