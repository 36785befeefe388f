package sts_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/storage"
	"github.com/workload-sts/sts/sts"
)

// BenchmarkAssertion compares a request that an assertion authenticates with one
// that a secret does, and the difference with the raw verification. Rounds of the
// three alternate. The replay journal is a real one.
func BenchmarkAssertion(b *testing.B) {
	f := newAssertionFixture(b)
	replay, err := storage.OpenReplay(filepath.Join(b.TempDir(), "replay"), storage.ReplayOptions{New: true, Now: func() time.Time { return f.now }})
	if err != nil {
		b.Fatal(err)
	}
	defer replay.Close()
	f.service, err = sts.New(b.Context(), sts.Config{
		Issuer: selfIssuer, Store: f.store, Keys: f.keys, IssuerKeys: f.issuers, ClientKeys: f.clients, Replay: replay, Audit: f.audit, Revocations: f.revoked, Now: func() time.Time { return f.now },
	})
	if err != nil {
		b.Fatal(err)
	}
	const round = 50
	var secret, assertion, raw time.Duration
	timed := func(to *time.Duration, run func(i int)) {
		begin := time.Now()
		for i := range round {
			run(i)
		}
		*to += time.Since(begin)
	}
	ask := func(r sts.TokenRequest) {
		if _, err := f.service.Token(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
	bySecret := f.credentials("web")
	key := jose.Key{Public: f.clients.signers["signer"].Public()}
	for b.Loop() {
		requests := make([]sts.TokenRequest, round)
		parsed := make([]*jose.JWS, round)
		for i := range requests {
			requests[i] = by(f.assertion(b, "signer", nil, nil))
			if parsed[i], err = jose.Parse(requests[i].Credential.Assertion); err != nil {
				b.Fatal(err)
			}
		}
		timed(&secret, func(int) { ask(bySecret) })
		timed(&assertion, func(i int) { ask(requests[i]) })
		timed(&raw, func(i int) {
			if err := parsed[i].Verify(key); err != nil {
				b.Fatal(err)
			}
		})
		f.audit.records = nil
	}
	b.ReportMetric(float64(assertion-secret)/float64(raw), "verifications/assertion")
	b.ReportMetric(float64(raw)/float64(b.N*round), "ns/verification")
}
