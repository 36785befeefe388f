package sts_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"errors"
	"math/big"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// singleFixture has an Issuer ci whose tokens are used once.
func singleFixture(t *testing.T) *fixture {
	t.Helper()
	f := newFixture(t)
	f.apply(t, sts.Change{Put: []sts.Resource{{Issuer: &sts.Issuer{Name: "ci", Issuer: "https://ci.example.com", SelfPresented: true, SingleUse: true}}}})
	return f
}

// TestSingleUse lets each token be exchanged once: told apart by its jti, or by what
// is signed, and never by its whole text [J-15, J-43].
func TestSingleUse(t *testing.T) {
	for name, claims := range map[string]map[string]any{"jti": nil, "no jti": {"jti": absent}} {
		t.Run(name, func(t *testing.T) {
			f := singleFixture(t)
			r := f.selfPresented(t)
			r.Subject.Token = f.foreign(t, "ci", nil, claims)
			f.token(t, r)
			if last := f.replay.last; !last.since.Equal(f.now.Add(-sts.Skew)) || !last.until.Equal(f.now.Add(600*time.Second+sts.Skew)) {
				t.Errorf("to be remembered from %s until %s", last.since, last.until)
			}
			f.assertRefused(t, r, sts.InvalidRequest)
			if rec := f.audit.last(); rec.Reasons[0].Predicate != "subject_token.jti" || rec.Subject.Unverified {
				t.Errorf("%+v", rec)
			}
			r.Subject.Token = otherSignature(t, f.issuers.signers["ci"], r.Subject.Token)
			f.assertRefused(t, r, sts.InvalidRequest)
			if n := len(f.replay.used); n != 1 {
				t.Errorf("%d things remembered", n)
			}
			r.Subject.Token = f.foreign(t, "ci", nil, map[string]any{"iat": absent})
			f.token(t, r)
			if last := f.replay.last; !last.since.Equal(f.now.Add(600*time.Second - 24*time.Hour - sts.Skew)) {
				t.Errorf("without iat to be remembered from %s", last.since)
			}
		})
	}
}

// otherSignature writes the signature of an ES256 token in the other way that
// verifies: s becomes n - s.
func otherSignature(t *testing.T, key *ecdsa.PrivateKey, token string) string {
	t.Helper()
	at := strings.LastIndexByte(token, '.') + 1
	sig, err := base64.RawURLEncoding.DecodeString(token[at:])
	if err != nil {
		t.Fatal(err)
	}
	s := new(big.Int).Sub(elliptic.P256().Params().N, new(big.Int).SetBytes(sig[32:]))
	s.FillBytes(sig[32:])
	return token[:at] + base64.RawURLEncoding.EncodeToString(sig)
}

// TestSingleUseAtOnce presents one token many times at once: one token comes of it.
func TestSingleUseAtOnce(t *testing.T) {
	f := singleFixture(t)
	r := f.selfPresented(t)
	var granted atomic.Int64
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			if _, err := f.service.Token(t.Context(), r); err == nil {
				granted.Add(1)
			}
		})
	}
	wg.Wait()
	if granted.Load() != 1 {
		t.Errorf("%d tokens for one", granted.Load())
	}
}

// TestSingleUseRefused holds that a token is not used up by a request that is
// refused, and that one that cannot be remembered is not accepted.
func TestSingleUseRefused(t *testing.T) {
	f := singleFixture(t)
	r := f.selfPresented(t)
	bad := r
	bad.Scope = "admin"
	f.assertRefused(t, bad, sts.InvalidScope)
	bad = r
	bad.Audiences = []string{"other"}
	f.assertRefused(t, bad, sts.InvalidTarget)
	if len(f.replay.used) != 0 {
		t.Errorf("used up: %v", f.replay.used)
	}
	f.replay.err = errors.New("disk full")
	if e := f.assertRefused(t, r, sts.Unavailable); e.RetryAfter == 0 {
		t.Errorf("%+v", e)
	}
	f.replay.err = nil
	f.token(t, r)
}

// TestSingleUseActor holds that actor tokens are used up too, and tokens of Issuers
// without single_use are not.
func TestSingleUseActor(t *testing.T) {
	f := singleFixture(t)
	f.apply(t, sts.Change{Put: []sts.Resource{rule("ci-acts", policy.Rule{
		Requester: policy.Requester{Clients: []string{"web"}}, Subject: &policy.Party{Issuer: "idp"}, Actor: &policy.Party{Issuer: "ci"}, Allow: allow("api", "read"),
	})}})
	r := f.exchange(t)
	r.Actor = sts.Presented{Token: f.foreign(t, "ci", nil, nil), Type: sts.JWT}
	f.token(t, r)
	f.assertRefused(t, r, sts.InvalidRequest)
	if rec := f.audit.last(); rec.Reasons[len(rec.Reasons)-1].Predicate != "actor_token.jti" {
		t.Errorf("%+v", rec.Reasons)
	}
	if len(f.replay.used) != 1 {
		t.Errorf("%v", f.replay.used)
	}
	r.Actor.Token = f.foreign(t, "ci", nil, nil)
	f.token(t, r)
}
