package sts_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// memKeys signs with keys in memory: the sets default, of ES256, and cloud, of
// EdDSA.
type memKeys struct {
	sets    []*memKey
	signed  int
	err     error         // of Sign, Rotate and Revoke
	down    error         // of Ready
	longest time.Duration // MaxTokenLifetime
	seen    []string      // verifiers of Delivered
	maxAge  time.Duration // how long the key set may be cached
	onSign  func()        // called first by Sign, if there is one
}

type memKey struct {
	jose.Key
	set    string
	signer crypto.Signer
}

func newMemKeys(t testing.TB) *memKeys {
	t.Helper()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &memKeys{
		sets:    []*memKey{newMemKey(t, "default", jose.ES256, ec), newMemKey(t, "cloud", jose.EdDSA, ed)},
		longest: 24 * time.Hour,
		maxAge:  time.Minute,
	}
}

func newMemKey(t testing.TB, set string, alg jose.Algorithm, signer crypto.Signer) *memKey {
	t.Helper()
	id, err := jose.Thumbprint(signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	return &memKey{jose.Key{ID: id, Algorithm: alg, Public: signer.Public()}, set, signer}
}

func (k *memKeys) of(set string) *memKey {
	i := slices.IndexFunc(k.sets, func(m *memKey) bool { return m.set == set })
	if i < 0 {
		return nil
	}
	return k.sets[i]
}

func (k *memKeys) Sign(ctx context.Context, set, typ string, payload []byte) (string, string, error) {
	if k.onSign != nil {
		k.onSign()
	}
	if err := errors.Join(k.err, ctx.Err()); err != nil {
		return "", "", err
	}
	key := k.of(set)
	if key == nil {
		return "", "", errors.New("no such set")
	}
	k.signed++
	input := jose.SigningInput(jose.Header{Algorithm: key.Algorithm, KeyID: key.ID, Type: typ}, payload)
	sig, err := jose.Sign(key.Algorithm, key.signer, input)
	return jose.Compact(input, sig), key.ID, err
}

func (k *memKeys) KeySet() jose.KeySet {
	var keys []jose.Key
	for _, m := range k.sets {
		keys = append(keys, m.Key)
	}
	set, err := jose.NewKeySet(keys...)
	if err != nil {
		panic(err)
	}
	return set
}

func (k *memKeys) MaxAge() time.Duration                    { return k.maxAge }
func (k *memKeys) Has(set string) bool                      { return k.of(set) != nil }
func (k *memKeys) MaxTokenLifetime() time.Duration          { return k.longest }
func (k *memKeys) Ready() error                             { return k.down }
func (k *memKeys) Delivered(_ jose.KeySet, verifier string) { k.seen = append(k.seen, verifier) }
func (k *memKeys) status(m *memKey) sts.KeyStatus           { return sts.KeyStatus{Set: m.set, KID: m.ID} }

func (k *memKeys) Status() []sts.KeySetStatus {
	var out []sts.KeySetStatus
	for _, m := range k.sets {
		out = append(out, sts.KeySetStatus{Name: m.set, Algorithm: string(m.Algorithm), Keys: []sts.KeyStatus{k.status(m)}})
	}
	return out
}

func (k *memKeys) Rotate(_ context.Context, set string) (sts.KeyStatus, error) {
	if k.err != nil {
		return sts.KeyStatus{}, k.err
	}
	if m := k.of(set); m != nil {
		return k.status(m), nil
	}
	return sts.KeyStatus{}, &sts.Error{Code: sts.NotFound, Message: "there is no such key set"}
}

func (k *memKeys) Revoke(_ context.Context, kid string) (sts.KeyRevocation, error) {
	if k.err != nil {
		return sts.KeyRevocation{}, k.err
	}
	i := slices.IndexFunc(k.sets, func(m *memKey) bool { return m.ID == kid })
	if i < 0 {
		return sts.KeyRevocation{}, &sts.Error{Code: sts.NotFound, Message: "there is no such key"}
	}
	gone := k.sets[i]
	k.sets = slices.Delete(slices.Clone(k.sets), i, i+1)
	return sts.KeyRevocation{Revoked: k.status(gone)}, nil
}

// vaultDown is an error as the keys make it.
type vaultDown struct{ after time.Duration }

func (vaultDown) Error() string               { return "https://10.1.2.3:8200 is sealed" }
func (vaultDown) Dependency() string          { return "vault" }
func (v vaultDown) RetryAfter() time.Duration { return v.after }

// TestKeySets holds that the key set of the Audience signs, and one token is
// signed once.
func TestKeySets(t *testing.T) {
	f := newFixture(t)
	several := allow("api", "read")
	several.Audiences, several.MultipleAudiences = []string{"api", "other"}, true
	f.apply(t, sts.Change{Put: []sts.Resource{
		{Audience: &sts.Audience{Name: "other", KeySet: "cloud", Scopes: []string{"read", "write", "admin"}}},
		rule("web-both", policy.Rule{Requester: policy.Requester{Clients: []string{"web"}}, Allow: several}),
	}})
	for audience, set := range map[string]string{"api": "default", "other": "cloud"} {
		r := f.credentials("web")
		r.Audiences = []string{audience}
		token, _ := f.token(t, r)
		jws, err := jose.Parse(token.Value)
		if err != nil {
			t.Fatal(err)
		}
		if key := f.keys.of(set); jws.Header.KeyID != key.ID || jws.Header.Algorithm != key.Algorithm || f.audit.last().Issued.KID != key.ID {
			t.Errorf("a token for %s is signed by %s with %s, recorded as %+v", audience, jws.Header.KeyID, jws.Header.Algorithm, f.audit.last().Issued)
		}
	}
	r := f.credentials("web")
	r.Audiences = []string{"api", "other"}
	if e := f.assertRefused(t, r, sts.InvalidTarget); !strings.Contains(e.Message, "one token each") {
		t.Errorf("the refusal does not say what to do: %v", e)
	}
	f.apply(t, sts.Change{Put: []sts.Resource{{Audience: &sts.Audience{Name: "api", KeySet: "cloud", Scopes: []string{"read", "write", "admin"}}}}})
	f.token(t, r)
	if algorithms := f.service.Metadata().Algorithms; !slices.Equal(algorithms, []string{"ES256", "EdDSA"}) {
		t.Errorf("the discovery document says %v", algorithms)
	}
}

// TestRevokedKey holds that a token whose key was revoked is worth nothing here,
// however often it was exchanged before, and that caller and operator can tell.
func TestRevokedKey(t *testing.T) {
	f := newFixture(t)
	f.apply(t, sts.Change{Put: []sts.Resource{{Audience: &sts.Audience{Name: "other", Scopes: []string{"read", "write", "admin"}, KeySet: "cloud"}}}})
	first, _ := f.token(t, f.exchange(t)) // signed by default
	r := f.credentials("api")
	r.Grant, r.Audiences = sts.TokenExchange, []string{"other"}
	r.Subject = sts.Presented{Token: first.Value, Type: sts.AccessToken}
	f.token(t, r)
	f.token(t, r)
	done, err := f.service.Revoke(t.Context(), sts.Principal{}, sts.Revoke{Kind: sts.RevokeKey, Value: f.keys.of("default").ID, Reason: "test"})
	if err != nil || done.Key.Revoked.Set != "default" {
		t.Fatalf("%+v, %v", done, err)
	}
	e := f.assertRefused(t, r, sts.InvalidRequest)
	if !strings.Contains(e.Message, "revoked") || !strings.Contains(f.audit.last().Reason, "revoked") {
		t.Errorf("%v, recorded as %q", e, f.audit.last().Reason)
	}
	if set, _ := f.service.KeySet(); set.Len() != 1 {
		t.Errorf("%d keys are published", set.Len())
	}
}

// TestKeysOutage holds what callers, health and the operator are told when keys
// cannot sign.
func TestKeysOutage(t *testing.T) {
	f := newFixture(t)
	for _, row := range []struct {
		name       string
		err        error
		retry      time.Duration
		dependency string
	}{
		{"says nothing", errors.New("broken"), 2 * time.Second, "signing key"},
		{"says when and what", vaultDown{7 * time.Second}, 7 * time.Second, "vault"},
		{"an hour at most", vaultDown{30 * time.Hour}, time.Hour, "vault"},
		{"now", vaultDown{0}, 2 * time.Second, "vault"},
		{"wrapped", errors.Join(errors.New("signing"), vaultDown{time.Minute}), time.Minute, "vault"},
	} {
		t.Run(row.name, func(t *testing.T) {
			f.keys.err = row.err
			e := f.assertRefused(t, f.credentials("web"), sts.Unavailable)
			if e.RetryAfter != row.retry || strings.Contains(e.Message, "10.1.2.3") {
				t.Errorf("%v after %s, want %s", e, e.RetryAfter, row.retry)
			}
			m := f.service.Ready(t.Context())[sts.CapabilityIssue]
			if m == nil || m.Dependency != row.dependency || !errors.Is(m.Err, row.err) {
				t.Errorf("missing %+v, want %s", m, row.dependency)
			}
			f.keys.err = nil
			f.token(t, f.credentials("web"))
			if m := f.service.Ready(t.Context())[sts.CapabilityIssue]; m != nil {
				t.Errorf("still missing after a token was signed: %+v", m)
			}
		})
	}
	// Without a request the keys say it themselves.
	f.keys.down = vaultDown{}
	ready := f.service.Ready(t.Context())
	if m := ready[sts.CapabilityIssue]; m == nil || m.Dependency != "vault" || ready[sts.CapabilityVerify] != nil || ready[sts.CapabilityAdmin] != nil {
		t.Errorf("ready %v", ready)
	}
	f.keys.down = nil
	// A caller that goes away while its token is signed says nothing about them.
	ctx, cancel := context.WithCancel(t.Context())
	f.keys.onSign = cancel
	if _, err := f.service.Token(ctx, f.credentials("web")); err == nil {
		t.Error("no error")
	}
	if m := f.service.Ready(t.Context())[sts.CapabilityIssue]; m != nil {
		t.Errorf("a caller that went away: %+v", m)
	}
}

// TestStaleKeySet holds that a node whose key set may lack a key that signs asks to
// be left out by verifiers.
func TestStaleKeySet(t *testing.T) {
	f := newFixture(t)
	f.keys.maxAge = 0
	ready := f.service.Ready(t.Context())
	if m := ready[sts.CapabilityVerify]; m == nil || m.Dependency != sts.DependencyStorage {
		t.Errorf("%+v", m)
	}
	f.keys.maxAge = time.Second
	if m := f.service.Ready(t.Context())[sts.CapabilityVerify]; m != nil {
		t.Errorf("%+v", m)
	}
}

// TestKeyAdmin holds how the outcomes of Rotate and Revoke reach an operator.
func TestKeyAdmin(t *testing.T) {
	f := newFixture(t)
	if key, err := f.service.RotateKey(t.Context(), sts.Principal{}, "cloud"); err != nil || key.Set != "cloud" {
		t.Errorf("%+v, %v", key, err)
	}
	if sets := f.service.Keys(); len(sets) != 2 || sets[0].Name != "default" {
		t.Errorf("%+v", sets)
	}
	set, _ := f.service.KeySet()
	f.service.KeySetDelivered(set, "somebody")
	if !slices.Equal(f.keys.seen, []string{"somebody"}) {
		t.Errorf("delivered to %v", f.keys.seen)
	}
	both := func(set, kid string) []error {
		_, rotate := f.service.RotateKey(t.Context(), sts.Principal{}, set)
		_, revoke := f.service.Revoke(t.Context(), sts.Principal{}, sts.Revoke{Kind: sts.RevokeKey, Value: kid, Reason: "test"})
		return []error{rotate, revoke}
	}
	for _, err := range both("none", "none") {
		if e, _ := errors.AsType[*sts.Error](err); e == nil || e.Code != sts.NotFound {
			t.Errorf("%v", err)
		}
	}
	f.keys.err = vaultDown{time.Minute}
	for _, err := range both("default", f.keys.of("default").ID) {
		if e, _ := errors.AsType[*sts.Error](err); e == nil || e.Code != sts.Unavailable || e.RetryAfter != time.Minute || strings.Contains(e.Message, "sealed") {
			t.Errorf("%v", err)
		}
	}
}

// TestTokenLifetimeOfKeys holds that no Audience outlives the keys: not one that
// asks for it, not one that asks for nothing, and not one that is stored.
func TestTokenLifetimeOfKeys(t *testing.T) {
	f := newFixture(t)
	f.apply(t, sts.Change{Put: []sts.Resource{{Audience: &sts.Audience{Name: "long", MaxTTL: 20 * time.Minute}}}})
	f.keys.longest = 15 * time.Minute
	change := func(ttl time.Duration) error {
		_, err := f.service.Apply(t.Context(), sts.Change{Put: []sts.Resource{
			{Audience: &sts.Audience{Name: "new", MaxTTL: ttl}}, {Audience: &sts.Audience{Name: "long", MaxTTL: 15 * time.Minute}},
		}})
		return err
	}
	e, _ := errors.AsType[*sts.Error](change(16 * time.Minute))
	if e == nil || e.Code != sts.InvalidResource || len(e.Problems) != 1 || e.Problems[0].Field != "max_ttl" ||
		!strings.Contains(e.Problems[0].Message, "is 16m0s") || !strings.Contains(e.Problems[0].Message, "at most 15m0s") {
		t.Errorf("%+v", e)
	}
	restart := func() error {
		_, err := sts.New(t.Context(), sts.Config{Issuer: selfIssuer, Store: f.store, Keys: f.keys, IssuerKeys: f.issuers, ClientKeys: f.clients, Replay: f.replay, Audit: f.audit, Revocations: f.revoked})
		return err
	}
	if err := restart(); err == nil || !strings.Contains(err.Error(), `"long": max_ttl: is 20m0s`) || !strings.Contains(err.Error(), "15m0s") {
		t.Errorf("a start with a stored audience that outlives the keys: %v", err)
	}
	if err := change(15 * time.Minute); err != nil {
		t.Error(err)
	}
	if err := restart(); err != nil {
		t.Error(err)
	}
	if token, _ := f.token(t, f.credentials("web")); token.ExpiresIn != 15*time.Minute {
		t.Errorf("a token of an audience without max_ttl lives %s", token.ExpiresIn)
	}
}
