package sts_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// TestExchange edits a good exchange in one way each.
func TestExchange(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(*testing.T, *fixture, *sts.TokenRequest)
		code sts.Code // empty: granted
	}{
		"good":                       {},
		"T-01 subject_token missing": {func(_ *testing.T, _ *fixture, r *sts.TokenRequest) { r.Subject.Token = "" }, sts.InvalidRequest},
		"T-02 type missing":          {func(_ *testing.T, _ *fixture, r *sts.TokenRequest) { r.Subject.Type = "" }, sts.InvalidRequest},
		"T-02 type unknown":          {func(_ *testing.T, _ *fixture, r *sts.TokenRequest) { r.Subject.Type = "urn:x" }, sts.InvalidRequest},
		"T-02 type saml2": {func(_ *testing.T, _ *fixture, r *sts.TokenRequest) {
			r.Subject.Type = "urn:ietf:params:oauth:token-type:saml2"
		}, sts.InvalidRequest},
		"T-02 type refresh_token": {func(_ *testing.T, _ *fixture, r *sts.TokenRequest) {
			r.Subject.Type = "urn:ietf:params:oauth:token-type:refresh_token"
		}, sts.InvalidRequest},
		"T-03 actor_token without type":       {func(t *testing.T, f *fixture, r *sts.TokenRequest) { r.Actor.Token = f.foreign(t, "idp", nil, nil) }, sts.InvalidRequest},
		"T-03 actor_token_type without token": {func(_ *testing.T, _ *fixture, r *sts.TokenRequest) { r.Actor.Type = sts.JWT }, sts.InvalidRequest},
		"T-04 JWT declared as access_token":   {func(_ *testing.T, _ *fixture, r *sts.TokenRequest) { r.Subject.Type = sts.AccessToken }, sts.InvalidRequest},
		"T-04 at+jwt declared as jwt": {func(t *testing.T, f *fixture, r *sts.TokenRequest) {
			r.Subject.Token = f.foreign(t, "idp", map[string]any{"typ": "at+jwt"}, nil)
		}, sts.InvalidRequest},
		"T-04 at+jwt declared as id_token": {func(t *testing.T, f *fixture, r *sts.TokenRequest) {
			r.Subject = sts.Presented{Token: f.foreign(t, "idp", map[string]any{"typ": "at+jwt"}, nil), Type: sts.IDToken}
		}, sts.InvalidRequest},
		"at+jwt as access_token": {func(t *testing.T, f *fixture, r *sts.TokenRequest) {
			r.Subject = sts.Presented{Token: f.foreign(t, "idp", map[string]any{"typ": "application/AT+JWT"}, nil), Type: sts.AccessToken}
		}, ""},
		"T-06 id_token for another client": {func(t *testing.T, f *fixture, r *sts.TokenRequest) {
			r.Subject = sts.Presented{Token: f.foreign(t, "idp", nil, map[string]any{"aud": "web"}), Type: sts.IDToken}
		}, sts.InvalidRequest},
		"T-08 audience without a rule": {func(_ *testing.T, _ *fixture, r *sts.TokenRequest) { r.Audiences = []string{"other"} }, sts.InvalidTarget},
		"T-08 audience unknown":        {func(_ *testing.T, _ *fixture, r *sts.TokenRequest) { r.Audiences = []string{"nowhere"} }, sts.InvalidTarget},
		"T-09 the same as a resource": {func(_ *testing.T, _ *fixture, r *sts.TokenRequest) {
			r.Audiences, r.Resources = nil, []string{"https://other.example.com"}
		}, sts.InvalidTarget},
		"T-10 one allowed, one not": {func(_ *testing.T, _ *fixture, r *sts.TokenRequest) { r.Audiences = []string{"api", "other"} }, sts.InvalidTarget},
		"T-10 17 audiences":         {func(_ *testing.T, _ *fixture, r *sts.TokenRequest) { r.Audiences = slices.Repeat([]string{"api"}, 17) }, sts.InvalidRequest},
		"the same audience twice":   {func(_ *testing.T, _ *fixture, r *sts.TokenRequest) { r.Audiences = []string{"api", "api"} }, ""},
		"resource with a fragment": {func(_ *testing.T, _ *fixture, r *sts.TokenRequest) {
			r.Resources = []string{"https://api.example.com#x"}
		}, sts.InvalidTarget},
		"resource is relative":                         {func(_ *testing.T, _ *fixture, r *sts.TokenRequest) { r.Resources = []string{"/api"} }, sts.InvalidTarget},
		"T-14 scope of the rule, of a subject without": {func(_ *testing.T, _ *fixture, r *sts.TokenRequest) { r.Scope = "read write" }, ""},
		"T-14 scope wider than the rule":               {func(_ *testing.T, _ *fixture, r *sts.TokenRequest) { r.Scope = "read admin" }, sts.InvalidScope},
		"P-09 scope with a quote":                      {func(_ *testing.T, _ *fixture, r *sts.TokenRequest) { r.Scope = `re"ad` }, sts.InvalidScope},
		"scope with two spaces":                        {func(_ *testing.T, _ *fixture, r *sts.TokenRequest) { r.Scope = "read  write" }, sts.InvalidScope},
		"T-21 requested type unknown": {func(_ *testing.T, _ *fixture, r *sts.TokenRequest) {
			r.RequestedType = "urn:ietf:params:oauth:token-type:saml2"
		}, sts.InvalidRequest},
		"T-21 requested refresh_token": {func(_ *testing.T, _ *fixture, r *sts.TokenRequest) {
			r.RequestedType = "urn:ietf:params:oauth:token-type:refresh_token"
		}, sts.InvalidRequest},
		"T-21 id_token without a rule": {func(_ *testing.T, _ *fixture, r *sts.TokenRequest) { r.RequestedType = sts.IDToken }, sts.InvalidRequest},
		"T-24 actor without a rule for it": {func(t *testing.T, f *fixture, r *sts.TokenRequest) {
			r.Actor = sts.Presented{Token: f.foreign(t, "idp", nil, map[string]any{"sub": "agent-2"}), Type: sts.JWT}
		}, sts.InvalidRequest},
		"actor with a rule for it": {func(t *testing.T, f *fixture, r *sts.TokenRequest) { r.Actor = f.agent(t) }, ""},
		"T-25 may_act of another issuer": {func(t *testing.T, f *fixture, r *sts.TokenRequest) {
			r.Actor = f.agent(t)
			r.Subject.Token = f.foreign(t, "idp", nil, map[string]any{"may_act": map[string]any{"sub": "agent-1", "iss": "https://ci.example.com"}})
		}, sts.InvalidRequest},
		"T-25 may_act of another subject": {func(t *testing.T, f *fixture, r *sts.TokenRequest) {
			r.Actor = f.agent(t)
			r.Subject.Token = f.foreign(t, "idp", nil, map[string]any{"may_act": map[string]any{"sub": "agent-2"}})
		}, sts.InvalidRequest},
		"may_act is met": {func(t *testing.T, f *fixture, r *sts.TokenRequest) {
			r.Actor = f.agent(t)
			r.Subject.Token = f.foreign(t, "idp", nil, map[string]any{"may_act": map[string]any{"sub": "agent-1"}})
		}, ""},
		"T-26 may_act and no actor": {func(t *testing.T, f *fixture, r *sts.TokenRequest) {
			r.Subject.Token = f.foreign(t, "idp", nil, map[string]any{"may_act": map[string]any{"sub": "agent-1"}})
		}, sts.InvalidRequest},
		"may_act is not an object": {func(t *testing.T, f *fixture, r *sts.TokenRequest) {
			r.Subject.Token = f.foreign(t, "idp", nil, map[string]any{"may_act": "agent-1"})
		}, sts.InvalidRequest},
		"may_act names nobody": {func(t *testing.T, f *fixture, r *sts.TokenRequest) {
			r.Subject.Token = f.foreign(t, "idp", nil, map[string]any{"may_act": map[string]any{}})
		}, sts.InvalidRequest},
		"T-30 act of an issuer that may not": {func(t *testing.T, f *fixture, r *sts.TokenRequest) {
			r.Subject.Token = f.foreign(t, "idp", nil, map[string]any{"act": map[string]any{"sub": "x"}})
		}, sts.InvalidRequest},
		"T-33 the actor is the subject": {func(_ *testing.T, _ *fixture, r *sts.TokenRequest) { r.Actor = r.Subject }, sts.InvalidRequest},
		"T-36 subject of another rule": {func(t *testing.T, f *fixture, r *sts.TokenRequest) {
			r.Subject.Token = f.foreign(t, "idp", nil, map[string]any{"sub": "user-2"})
		}, sts.InvalidRequest},
		"T-37 issuer without a rule for this client": {func(t *testing.T, f *fixture, r *sts.TokenRequest) { r.Subject.Token = f.foreign(t, "ci", nil, nil) }, sts.InvalidRequest},
		"T-38 token bound to a key": {func(t *testing.T, f *fixture, r *sts.TokenRequest) {
			r.Subject.Token = f.foreign(t, "idp", nil, map[string]any{"cnf": map[string]any{"jkt": "x"}})
		}, sts.InvalidDPoPProof},
		"T-39 token bound to a certificate": {func(t *testing.T, f *fixture, r *sts.TokenRequest) {
			r.Subject.Token = f.foreign(t, "idp", nil, map[string]any{"cnf": map[string]any{"x5t#S256": "x"}})
		}, sts.InvalidRequest},
		"T-43 subject undecodable": {func(_ *testing.T, _ *fixture, r *sts.TokenRequest) { r.Subject.Token = "x.y.z" }, sts.InvalidRequest},
		"T-43 subject 1 MB long":   {func(_ *testing.T, _ *fixture, r *sts.TokenRequest) { r.Subject.Token = strings.Repeat("a", 1<<20) }, sts.InvalidRequest},
		"unknown grant":            {func(_ *testing.T, _ *fixture, r *sts.TokenRequest) { r.Grant = "password" }, sts.UnsupportedGrantType},
		"grant missing":            {func(_ *testing.T, _ *fixture, r *sts.TokenRequest) { r.Grant = "" }, sts.InvalidRequest},
		"malformed by the wire": {func(_ *testing.T, _ *fixture, r *sts.TokenRequest) {
			r.Malformed = &sts.Error{Code: sts.InvalidRequest, Message: "bad"}
		}, sts.InvalidRequest},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			r := f.exchange(t)
			if tc.edit != nil {
				tc.edit(t, f, &r)
			}
			if tc.code != "" {
				f.assertRefused(t, r, tc.code)
				r = f.exchange(t) // nothing is lost: the good request goes on working
			}
			_, claims := f.token(t, r)
			if claims["sub"] != "idp:user-1" || claims["aud"] != "api" {
				t.Errorf("claims %v", claims)
			}
		})
	}
}

// agent is a good actor token.
func (f *fixture) agent(t testing.TB) sts.Presented {
	return sts.Presented{Token: f.foreign(t, "idp", nil, map[string]any{"sub": "agent-1"}), Type: sts.JWT}
}

// next exchanges a token of ours further.
func (f *fixture) next(client, audience, token string) sts.TokenRequest {
	r := f.credentials(client)
	r.Grant, r.Audiences, r.Subject = sts.TokenExchange, []string{audience}, sts.Presented{Token: token, Type: sts.AccessToken}
	return r
}

// TestOwnTokens exchanges tokens of this service.
func TestOwnTokens(t *testing.T) {
	f := newFixture(t)
	r := f.exchange(t)
	r.Scope = "read"
	first, claims := f.token(t, r)
	if act := claims["act"].(map[string]any); act["sub"] != "web" || act["iss"] != selfIssuer || act["act"] != nil {
		t.Fatalf("act %v, want the client web", act)
	}
	t.Run("T-13 scope omitted", func(t *testing.T) {
		second, claims2 := f.token(t, f.next("api", "other", first.Value))
		if claims2["scope"] != "read" || !slices.Equal(second.Scopes, []string{"read"}) {
			t.Errorf("scope %q, want what the subject had", claims2["scope"])
		}
		if claims2["txn"] != claims["txn"] || claims2["jti"] == claims["jti"] || claims2["exp"].(int64) > claims["exp"].(int64) {
			t.Errorf("claims %v after %v", claims2, claims)
		}
		act := claims2["act"].(map[string]any)
		if below, _ := act["act"].(map[string]any); act["sub"] != "api" || below["sub"] != "web" {
			t.Errorf("T-28 act %v, want api on top of web", act)
		}
		if rec := f.audit.last(); !slices.Equal(rec.Issued.Act, []string{"api", "web"}) || rec.Subject.JTI != claims["jti"] || rec.Issued.JTI != claims2["jti"] {
			t.Errorf("T-46 record %+v", rec)
		}
	})
	t.Run("T-12 T-15 scope wider than the subject", func(t *testing.T) {
		wider := f.next("api", "other", first.Value)
		wider.Scope = "read write"
		f.assertRefused(t, wider, sts.InvalidScope)
	})
	t.Run("T-16 audience without a rule for the hop", func(t *testing.T) {
		f.assertRefused(t, f.next("api", "web", first.Value), sts.InvalidTarget)
	})
	t.Run("T-04 declared as jwt", func(t *testing.T) {
		r := f.next("api", "other", first.Value)
		r.Subject.Type = sts.JWT
		f.assertRefused(t, r, sts.InvalidRequest)
	})
	t.Run("T-07 not addressed to the client", func(t *testing.T) {
		itself, _ := f.token(t, f.credentials("web"))
		f.assertRefused(t, f.next("api", "other", itself.Value), sts.InvalidRequest)
		f.apply(t, sts.Change{Put: []sts.Resource{rule("by-name", policy.Rule{
			Requester: policy.Requester{Clients: []string{"api"}}, Subject: &policy.Party{Issuer: policy.Self, AcceptUnaddressed: true}, Allow: allow("other", "read"),
		})}})
		f.token(t, f.next("api", "other", itself.Value))
	})
	t.Run("a workload cannot present a token of ours", func(t *testing.T) {
		r := f.next("api", "other", first.Value)
		r.Credential = sts.Credential{}
		f.assertRefused(t, r, sts.InvalidClient)
	})
	t.Run("the client itself, narrower", func(t *testing.T) {
		itself, _ := f.token(t, f.credentials("web"))
		r := f.next("web", "web", itself.Value)
		r.Scope = "read"
		if _, claims := f.token(t, r); claims["act"] != nil || claims["scope"] != "read" || claims["sub"] != "web" {
			t.Errorf("claims %v", claims)
		}
	})
}

// TestLifetime holds that a token never outlives what it came from [T-18, T-19,
// RFC 8693 App. A.1].
func TestLifetime(t *testing.T) {
	f := newFixture(t)
	r := f.exchange(t)
	r.Actor = f.agent(t)
	r.Actor.Token = f.foreign(t, "idp", nil, map[string]any{"sub": "agent-1", "exp": f.now.Unix() + 60})
	token, claims := f.token(t, r)
	if claims["exp"] != f.now.Unix()+60 || token.ExpiresIn != time.Minute {
		t.Errorf("T-18 exp %v, expires in %s; want that of the actor token, 60 s", claims["exp"], token.ExpiresIn)
	}
	for _, left := range []int64{2, 0, -10} {
		r := f.exchange(t)
		r.Subject.Token = f.foreign(t, "idp", nil, map[string]any{"exp": f.now.Unix() + left, "iat": f.now.Unix() - 60})
		f.assertRefused(t, r, sts.InvalidRequest)
	}
}

// TestIssuedTypes holds what is issued for each requested type [T-20, T-21, T-22,
// T-48].
func TestIssuedTypes(t *testing.T) {
	f := newFixture(t)
	a := allow("api", "read")
	a.TokenTypes = []string{"jwt", "id_token"}
	a.Claims = map[string]string{"team": `"payments"`, "user": "subject.sub"}
	f.apply(t, sts.Change{Put: []sts.Resource{rule("web-users", policy.Rule{
		Requester: policy.Requester{Clients: []string{"web"}}, Subject: &policy.Party{Issuer: "idp", Claims: map[string]any{"sub": "user-1"}}, Allow: a,
	})}})
	common := []string{"act", "aud", "exp", "iat", "iss", "jti", "sub", "team", "txn", "user"}
	for requested, want := range map[sts.TokenType]struct {
		scheme, typ string
		more        []string
	}{
		sts.AccessToken: {"Bearer", "at+jwt", []string{"client_id", "exchanges", "lineage", "scope"}},
		sts.JWT:         {"N_A", "JWT", []string{"client_id", "scope"}},
		sts.IDToken:     {"N_A", "JWT", []string{"azp"}},
	} {
		r := f.exchange(t)
		r.Subject.Token = f.foreign(t, "idp", nil, map[string]any{
			"nonce": "n", "auth_time": 1, "at_hash": "x", "client_id": "evil", "scope": "admin", "roles": []string{"root"}, "groups": []string{"g"},
		})
		r.RequestedType = requested
		token, claims := f.token(t, r)
		names := slices.Sorted(maps.Keys(claims))
		if wantNames := slices.Sorted(slices.Values(append(want.more, common...))); !slices.Equal(names, wantNames) {
			t.Errorf("%s: claims %v, want %v [C-19, T-48]", requested, names, wantNames)
		}
		if token.Issued != requested || token.Scheme != want.scheme {
			t.Errorf("%s: issued %s as %s", requested, token.Issued, token.Scheme)
		}
		if claims["team"] != "payments" || claims["user"] != "user-1" || claims["iss"] != selfIssuer {
			t.Errorf("%s: claims %v", requested, claims)
		}
		if requested != sts.AccessToken {
			f.assertRefused(t, f.next("api", "other", token.Value), sts.InvalidRequest)
		}
	}
}

// TestForeignActors reads an act chain that an Issuer is allowed to assert [T-27,
// T-31].
func TestForeignActors(t *testing.T) {
	f := newFixture(t)
	f.apply(t, sts.Change{Put: []sts.Resource{{Issuer: &sts.Issuer{Name: "idp", Issuer: "https://idp.example.com", AllowAct: true}}}})
	exchange := func(act any) sts.TokenRequest {
		r := f.exchange(t)
		r.Subject.Token = f.foreign(t, "idp", nil, map[string]any{"act": act})
		return r
	}
	_, claims := f.token(t, exchange(map[string]any{"sub": "x", "exp": 1, "scope": "admin", "cnf": map[string]any{}, "act": map[string]any{"sub": "y"}}))
	if got := fmt.Sprint(claims["act"]); got != fmt.Sprint(map[string]any{
		"sub": "web", "iss": selfIssuer, "client_id": "web", "act": map[string]any{"sub": "x", "act": map[string]any{"sub": "y"}},
	}) {
		t.Errorf("act %s", got)
	}
	deep := map[string]any{"sub": "a0"}
	for i := range 1000 {
		deep = map[string]any{"sub": fmt.Sprintf("a%d", i+1), "act": deep}
	}
	for name, act := range map[string]any{
		"not an object": "x", "null": nil, "without sub": map[string]any{"iss": "x"}, "deep": deep,
		"5 actors": chainOf(5), "4 actors and the client": chainOf(4),
	} {
		t.Run(name, func(t *testing.T) { f.assertRefused(t, exchange(act), sts.InvalidRequest) })
	}
	f.token(t, exchange(chainOf(3)))
}

func chainOf(n int) map[string]any {
	var act map[string]any
	for i := range n {
		below := act
		act = map[string]any{"sub": fmt.Sprintf("a%d", i)}
		if below != nil {
			act["act"] = below
		}
	}
	return act
}

// TestPolicyError holds that a rule that cannot be evaluated denies [T-45].
func TestPolicyError(t *testing.T) {
	f := newFixture(t)
	f.apply(t, sts.Change{Put: []sts.Resource{rule("web-users", policy.Rule{
		Requester: policy.Requester{Clients: []string{"web"}}, Subject: &policy.Party{Issuer: "idp"}, When: `subject.claims.missing == "x"`, Allow: allow("api"),
	})}})
	e := f.assertRefused(t, f.exchange(t), sts.InvalidRequest)
	if rec := f.audit.last(); len(rec.Reasons) == 0 || rec.Reasons[0].Predicate != "when" || !strings.Contains(rec.Reasons[0].Presented, "missing") {
		t.Errorf("%v: the record %+v does not say what is missing", e, rec)
	}
}

// TestSelfPresented lets a workload present its own token, where its Issuer
// allows that.
func TestSelfPresented(t *testing.T) {
	f := newFixture(t)
	_, claims := f.token(t, f.selfPresented(t))
	if claims["sub"] != "ci:job-1" || claims["client_id"] != "ci:job-1" || claims["act"] != nil || claims["scope"] != "read" {
		t.Errorf("claims %v", claims)
	}
	r := f.selfPresented(t)
	r.Subject.Token = f.foreign(t, "idp", nil, nil)
	f.assertRefused(t, r, sts.InvalidClient)
	r.Subject.Token = f.foreign(t, "ci", nil, map[string]any{"aud": "https://other.example.com"})
	f.assertRefused(t, r, sts.InvalidRequest)
	r.Subject.Token = f.foreign(t, "ci", nil, map[string]any{"sub": "job-2"})
	f.assertRefused(t, r, sts.InvalidRequest)
	r.Subject.Token = f.foreign(t, "ci", nil, map[string]any{"iss": "https://nobody.example.com"})
	f.assertRefused(t, r, sts.InvalidRequest)
	r = f.selfPresented(t)
	r.Grant = sts.ClientCredentials
	f.assertRefused(t, r, sts.InvalidClient)
}
