package sts_test

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

var allScopes = []string{"a", "b", "c", "d"}

// TestPromises draws a world of clients, audiences and rules and lets a token
// wander through it, one exchange after the other, by whoever and for whatever.
// Whatever is granted keeps the promises that no rule can break [T-44].
func TestPromises(t *testing.T) {
	names := []string{"n0", "n1", "n2", "n3"}
	provers := []prover{newProver(t), newProver(t)}
	outer, exchanged := t, 0
	rapid.Check(t, func(t *rapid.T) {
		f := randomWorld(t, newFixture(outer), names)
		held := []granted{}
		for range rapid.IntRange(6, 30).Draw(t, "steps") {
			r, from := randomRequest(t, f, names, held)
			r = randomProof(t, outer, f, provers, from, r)
			before := len(f.audit.records)
			token, err := f.service.Token(t.Context(), r)
			if len(f.audit.records) != before+1 {
				t.Fatalf("%d records for one decision", len(f.audit.records)-before)
			}
			rec := f.audit.last()
			if err != nil {
				if rec.Outcome != "deny" || rec.Issued != nil {
					t.Fatalf("%v is recorded as %+v", err, rec)
				}
				continue
			}
			got := parseGranted(t, f, token)
			if rec.Outcome != "allow" || rec.Issued.JTI != got.str("jti") || rec.Issued.KID != got.kid {
				t.Fatalf("the record %+v is not that of the token %v", rec, got.claims)
			}
			holdPromises(t, r, from, got)
			holdBinding(t, r, from, got)
			if from != nil && from.claims["cnf"] != nil {
				exchanged++
			}
			holdKeySet(t, f, got)
			f.holdClaims(t, got)
			held = append(held, got)
		}
	})
	if exchanged == 0 {
		t.Error("no token that is bound was ever exchanged: the worlds are of no use")
	}
}

// granted is a token that was issued, with what it says.
type granted struct {
	token  string
	kid    string
	claims map[string]any
}

func (g granted) str(name string) string { s, _ := g.claims[name].(string); return s }
func (g granted) scopes() []string       { return strings.Fields(g.str("scope")) }
func (g granted) audience() string       { return g.str("aud") }

// actors are the subjects of the act chain, outermost first.
func (g granted) actors() []string {
	var out []string
	for act, ok := g.claims["act"].(map[string]any); ok; act, ok = act["act"].(map[string]any) {
		out = append(out, act["sub"].(string))
	}
	return out
}

// parseGranted verifies a token as a verifier does [promise 5], strictly.
func parseGranted(t *rapid.T, f *fixture, token sts.Token) granted {
	jws, err := jose.Parse(token.Value)
	if err != nil {
		t.Fatal(err)
	}
	key, ok := f.keys.KeySet().Key(jws.Header.KeyID)
	if !ok || jws.Verify(key) != nil || jws.Header.Type != "at+jwt" {
		t.Fatal("the token is not an access token that the published key of its kid verifies")
	}
	claims, err := jws.Claims()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"iss", "sub", "aud", "jti", "client_id", "txn"} { // [RFC 9068 §2.2]
		if s, _ := claims[name].(string); s == "" {
			t.Fatalf("the token has no %s: %v", name, claims)
		}
	}
	return granted{token.Value, jws.Header.KeyID, claims}
}

// holdPromises compares a token with the request and the token it came from.
func holdPromises(t *rapid.T, r sts.TokenRequest, from *granted, got granted) {
	if len(r.Scope) > 0 && !slices.Equal(slices.Compact(slices.Sorted(slices.Values(strings.Fields(r.Scope)))), got.scopes()) {
		t.Fatalf("asked for %q, granted %v", r.Scope, got.scopes())
	}
	if from == nil {
		if got.str("sub") != r.Credential.ClientID || len(got.actors()) > 0 {
			t.Fatalf("client credentials of %s give %v", r.Credential.ClientID, got.claims)
		}
		return
	}
	for _, scope := range got.scopes() {
		if !slices.Contains(from.scopes(), scope) {
			t.Fatalf("scope grew from %v to %v", from.scopes(), got.scopes())
		}
	}
	if got.claims["exp"].(int64) > from.claims["exp"].(int64) {
		t.Fatalf("exp went from %v to %v", from.claims["exp"], got.claims["exp"])
	}
	if got.str("txn") != from.str("txn") || got.str("sub") != from.str("sub") || got.str("jti") == from.str("jti") {
		t.Fatalf("%v became %v", from.claims, got.claims)
	}
	old, now := from.actors(), got.actors()
	if len(now) < len(old) || len(now) > len(old)+1 || !slices.Equal(now[len(now)-len(old):], old) {
		t.Fatalf("the chain of actors went from %v to %v", old, now)
	}
	// Promise 2: addressed or issued to who exchanged it; each client is the
	// audience of its name here, and no rule accepts anything else.
	client := r.Credential.ClientID
	if from.audience() != client && from.str("client_id") != client {
		t.Fatalf("%s exchanged a token for %s, issued to %s", client, from.audience(), from.str("client_id"))
	}
}

// confirmation is what a token is bound to, by one key at most.
func (g granted) confirmation() (name, thumbprint string) {
	cnf, _ := g.claims["cnf"].(map[string]any)
	for name, v := range cnf {
		return name, v.(string)
	}
	return "", ""
}

// holdBinding holds that a token that is bound was proven and stays bound, to a
// key that the same request proves [T-38, T-39, T-40].
func holdBinding(t *rapid.T, r sts.TokenRequest, from *granted, got granted) {
	proves := map[string]string{}
	if jws, key, err := jose.ParseProof(r.Proof); err == nil && jws.Verify(key) == nil {
		proves["jkt"], _ = jose.Thumbprint(key.Public)
	}
	if len(r.Certificates) > 0 {
		proves["x5t#S256"] = ath(string(r.Certificates[0].Raw))
	}
	name, thumbprint := got.confirmation()
	if name != "" && proves[name] != thumbprint {
		t.Fatalf("bound to %s %s, proven %v", name, thumbprint, proves)
	}
	if from == nil {
		return
	}
	if old, was := from.confirmation(); old != "" && (proves[old] != was || name == "") {
		t.Fatalf("bound to %s %s, proven %v, became %s %s", old, was, proves, name, thumbprint)
	}
}

// randomProof adds what the request proves to have: mostly what the token that is
// exchanged is bound to, if it is.
func randomProof(t *rapid.T, tb testing.TB, f *fixture, provers []prover, from *granted, r sts.TokenRequest) sts.TokenRequest {
	prove := func(p prover) {
		claims := map[string]any{}
		if r.Subject.Token != "" && rapid.IntRange(0, 15).Draw(t, "ath") > 0 {
			claims["ath"] = ath(r.Subject.Token)
		}
		r = proven(r, p.proof(tb, f, nil, claims))
	}
	certificates := []string{"c1", "c2"}
	if from != nil && rapid.IntRange(0, 7).Draw(t, "as bound") > 0 {
		_, bound := from.confirmation()
		for _, p := range provers {
			if p.jkt(tb) == bound {
				prove(p)
			}
		}
		for _, c := range certificates {
			if ath(c) == bound {
				r.Certificates = []*x509.Certificate{{Raw: []byte(c)}}
			}
		}
	}
	if r.Proof == "" && rapid.IntRange(0, 2).Draw(t, "proof") == 0 {
		prove(rapid.SampledFrom(provers).Draw(t, "prover"))
	}
	if cert := rapid.SampledFrom(append(certificates, "", "")).Draw(t, "certificate"); cert != "" && r.Certificates == nil {
		r.Certificates = []*x509.Certificate{{Raw: []byte(cert)}}
	}
	return r
}

// holdKeySet holds a token to be signed by the key set of its audience.
func holdKeySet(t *rapid.T, f *fixture, got granted) {
	r, _, err := f.service.Resource(sts.Ref{Kind: sts.KindAudience, Name: got.audience()})
	if err != nil {
		t.Fatal(err)
	}
	set := r.Audience.KeySet
	if set == "" {
		set = sts.DefaultKeySet
	}
	if want := f.keys.of(set).ID; got.kid != want {
		t.Fatalf("a token for %s is signed by %s, not by %s of key set %s", got.audience(), got.kid, want, set)
	}
}

// holdClaims holds that a claim of a rule, which has the rule's name here, comes
// with a scope that the rule allows: whoever gives a scope away does not keep what
// came with it, nor gets it back.
func (f *fixture) holdClaims(t *rapid.T, got granted) {
	for name := range got.claims {
		r, _, err := f.service.Resource(sts.Ref{Kind: sts.KindRule, Name: name})
		if err != nil || len(r.Rule.Allow.Scopes) == 0 {
			continue
		}
		if !slices.ContainsFunc(got.scopes(), func(s string) bool { return slices.Contains(r.Rule.Allow.Scopes, s) }) {
			t.Fatalf("the claim of a rule for %v is in a token for %v", r.Rule.Allow.Scopes, got.scopes())
		}
	}
}

// randomWorld has the same clients and audiences, and rules that are drawn.
func randomWorld(t *rapid.T, f *fixture, names []string) *fixture {
	var put []sts.Resource
	for _, name := range names {
		hash, err := sts.HashSecret(canary + name)
		if err != nil {
			t.Fatal(err)
		}
		f.secrets[name] = canary + name
		put = append(put,
			sts.Resource{Client: &sts.Client{Name: name, Audiences: []string{name}, Secrets: []sts.ClientSecret{{Hash: hash}}}},
			sts.Resource{Audience: &sts.Audience{Name: name, Scopes: allScopes, KeySet: rapid.SampledFrom([]string{"", "default", "cloud"}).Draw(t, "key set"),
				Binding: rapid.SampledFrom([]policy.Binding{"", "", "", "", "", "", policy.DPoPBinding, policy.MTLSBinding, policy.AnyBinding}).Draw(t, "binding")}})
	}
	some := func(label string, of []string) []string {
		return rapid.SliceOfNDistinct(rapid.SampledFrom(of), 1, len(of), rapid.ID[string]).Draw(t, label)
	}
	for i := range rapid.IntRange(1, 8).Draw(t, "rules") {
		r := policy.Rule{
			Requester: policy.Requester{Clients: some("clients", names)},
			Allow: policy.Allow{
				Audiences: some("audiences", names), Scopes: some("scopes", allScopes), Impersonate: rapid.Bool().Draw(t, "impersonate"),
			},
		}
		name := fmt.Sprintf("r%d", i)
		if rapid.Bool().Draw(t, "claim") {
			r.Allow.Claims = map[string]string{name: `"set"`}
		}
		r.Require.Binding = rapid.SampledFrom([]policy.Binding{"", "", "", "", "", policy.DPoPBinding, policy.MTLSBinding, policy.AnyBinding}).Draw(t, "require")
		if rapid.IntRange(0, 7).Draw(t, "without scopes") == 0 {
			r.Allow.Scopes = nil
		}
		if rapid.Bool().Draw(t, "exchange") {
			r.Subject = &policy.Party{Issuer: policy.Self}
		}
		put = append(put, rule(name, r))
	}
	if _, err := f.service.Apply(t.Context(), sts.Change{Put: put}); err != nil {
		t.Fatal(err)
	}
	return f
}

// randomRequest is a client credentials request, or the exchange of a token that
// was granted before.
func randomRequest(t *rapid.T, f *fixture, names []string, held []granted) (sts.TokenRequest, *granted) {
	r := f.credentials(rapid.SampledFrom(names).Draw(t, "client"))
	r.Audiences = []string{rapid.SampledFrom(names).Draw(t, "audience")}
	if rapid.Bool().Draw(t, "ask for scopes") {
		r.Scope = strings.Join(rapid.SliceOfN(rapid.SampledFrom(allScopes), 1, 3).Draw(t, "scope"), " ")
	}
	if len(held) == 0 || rapid.IntRange(0, 3).Draw(t, "grant") == 0 {
		return r, nil
	}
	from := rapid.SampledFrom(held).Draw(t, "subject")
	r.Grant, r.Subject = sts.TokenExchange, sts.Presented{Token: from.token, Type: sts.AccessToken}
	return r, &from
}

// FuzzSubjectToken presents anything as a subject token: nothing panics, and
// nothing is granted that was not signed for it [J-66].
func FuzzSubjectToken(f *testing.F) {
	fx := newFixture(f)
	good := fx.foreign(f, "idp", nil, nil)
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add("")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add(fx.foreign(f, "idp", map[string]any{"alg": "none"}, nil))
	f.Add(fx.foreign(f, "idp", nil, map[string]any{"act": map[string]any{"sub": "x"}}))
	f.Fuzz(func(t *testing.T, token string) {
		r := fx.exchange(t)
		r.Subject.Token = token
		if _, err := fx.service.Token(t.Context(), r); err == nil && token != good {
			t.Errorf("%q was exchanged", token)
		}
	})
}
