package sts_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"sync"
	"testing"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// memClients has the keys of clients that sign their assertions: signer has them
// in its resource, publisher at a URL.
type memClients struct {
	signers map[string]*ecdsa.PrivateKey
	mu      sync.Mutex
	trusted map[string]*sts.ClientKey
	asked   int
	err     error
}

func newMemClients(t testing.TB) *memClients {
	t.Helper()
	m := &memClients{signers: map[string]*ecdsa.PrivateKey{}}
	for _, name := range []string{"signer", "publisher", "stranger"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		m.signers[name] = key
	}
	return m
}

func (m *memClients) Check(k *sts.ClientKey) error {
	if k.JWKSURI == "bad" {
		return errors.New("jwks_uri must be an https URL")
	}
	return nil
}

func (m *memClients) Trust(clients map[string]*sts.ClientKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trusted = clients
}

func (m *memClients) Key(_ context.Context, client, kid string, _ jose.Algorithm) (jose.Key, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked++
	if m.err != nil {
		return jose.Key{}, m.err
	}
	if m.trusted[client] == nil || kid != client+"-1" {
		return jose.Key{}, jose.ErrUnknownKey
	}
	return jose.Key{ID: kid, Algorithm: jose.ES256, Public: m.signers[client].Public()}, nil
}

func (m *memClients) Status(client string) (sts.IssuerStatus, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.trusted[client] == nil {
		return sts.IssuerStatus{}, false
	}
	out := sts.IssuerStatus{Name: client, Source: "jwks_uri", Keys: []sts.IssuerKey{{ID: client + "-1", Algorithm: "ES256"}}}
	if m.err != nil {
		out.Problem = m.err.Error()
	}
	return out, true
}

// jwks is the key set of a client, as it is written into its resource.
func (m *memClients) jwks(t testing.TB, kids ...string) string {
	t.Helper()
	var keys []jose.Key
	for _, kid := range kids {
		keys = append(keys, jose.Key{ID: kid, Algorithm: jose.ES256, Public: m.signers["signer"].Public()})
	}
	set, err := jose.NewKeySet(keys...)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// newAssertionFixture adds clients that authenticate by assertion: signer and
// publisher by keys of their own, job, pod and spiffe by tokens of the issuers.
func newAssertionFixture(t testing.TB) *fixture {
	t.Helper()
	f := newFixture(t)
	federated := func(name string, id sts.FederatedIdentity) sts.Resource {
		return sts.Resource{Client: &sts.Client{Name: name, Federated: &id}}
	}
	clients := []string{"signer", "publisher", "job", "pod", "svid"}
	resources := []sts.Resource{
		{Client: &sts.Client{Name: "signer", PrivateKeyJWT: &sts.ClientKey{JWKS: f.clients.jwks(t, "signer-1")}}},
		{Client: &sts.Client{Name: "publisher", PrivateKeyJWT: &sts.ClientKey{JWKSURI: "https://publisher.example.com/jwks"}}},
		federated("job", sts.FederatedIdentity{Issuer: "ci", Claims: map[string]any{"sub": "job-1"}, SingleUse: true}),
		federated("pod", sts.FederatedIdentity{Issuer: "idp", Claims: map[string]any{"sub": "pod-1", "ns": "prod", "uid": int64(7)}}),
		federated("svid", sts.FederatedIdentity{Issuer: "idp", Claims: map[string]any{"sub": "spiffe://example.org/a"}}),
		rule("assertions", policy.Rule{Requester: policy.Requester{Clients: clients}, Allow: allow("web", "read")}),
		rule("assertion-users", policy.Rule{
			Requester: policy.Requester{Clients: clients}, Subject: &policy.Party{Issuer: "idp", Claims: map[string]any{"sub": "user-1"}}, Allow: allow("api", "read"),
		}),
	}
	f.apply(t, sts.Change{Put: resources})
	return f
}

// assertion is an assertion of a client that signs by itself, good but for the
// edits.
func (f *fixture) assertion(t testing.TB, client string, header, claims map[string]any) string {
	t.Helper()
	return signAs(t, f.clients.signers[client], edit(map[string]any{"alg": "ES256", "kid": client + "-1", "typ": "client-authentication+jwt"}, header), edit(map[string]any{
		"iss": client, "sub": client, "aud": selfIssuer, "iat": f.now.Unix(), "exp": f.now.Unix() + 60, "jti": rand.Text(),
	}, claims))
}

func signAs(t testing.TB, key *ecdsa.PrivateKey, header, claims map[string]any) string {
	t.Helper()
	m := &memIssuers{signers: map[string]*ecdsa.PrivateKey{"": key}}
	return m.sign(t, "", header, claims)
}

// federatedToken is a token of an issuer that is the assertion of a client.
func (f *fixture) federatedToken(t testing.TB, client string, header, claims map[string]any) string {
	t.Helper()
	issuer, own := "idp", map[string]any{"sub": "pod-1", "ns": "prod", "uid": 7}
	switch client {
	case "job":
		issuer, own = "ci", nil
	case "svid":
		own = map[string]any{"sub": "spiffe://example.org/a"}
	}
	for k, v := range claims {
		if own == nil {
			own = map[string]any{}
		}
		own[k] = v
	}
	return f.foreign(t, issuer, header, own)
}

// by is a client credentials request that an assertion authenticates.
func by(assertion string) sts.TokenRequest {
	return sts.TokenRequest{
		Grant: sts.ClientCredentials, Audiences: []string{"web"},
		Credential: sts.Credential{Method: sts.PrivateKeyJWT, Assertion: assertion, AssertionType: sts.JWTBearer},
	}
}
