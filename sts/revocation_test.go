package sts_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// maxStaleness of the fixture leaves a slow test the time that it needs.
const maxStaleness = time.Hour

var admin = sts.Principal{Name: "tester", Method: "token", Peer: "192.0.2.1"}

// revoke revokes for an administrator, which must work.
func (f *fixture) revoke(t testing.TB, r sts.Revoke) sts.Revocation {
	t.Helper()
	r.Reason = "test"
	made, err := f.service.Revoke(t.Context(), admin, r)
	if err != nil || made.Unrecorded != nil {
		t.Fatal(err, made.Unrecorded)
	}
	done := made.Revocation
	if rec := f.audit.last(); rec.Admin == nil || rec.Admin.By != admin || rec.Event != sts.EventRevoke || rec.Outcome != "allow" || rec.Revocation == nil || rec.Revocation.Value != done.Value || rec.Revocation.By != "tester" {
		t.Fatalf("recorded as %+v", rec)
	}
	return done
}

// introspect asks as a client, which must get an answer.
func (f *fixture) introspect(t testing.TB, client, token string) sts.Introspection {
	t.Helper()
	found, err := f.service.Introspect(t.Context(), sts.IntrospectionRequest{Caller: f.caller(client), Token: token})
	if err != nil {
		t.Fatal(err)
	}
	if !found.Active && found.Claims != nil {
		t.Fatalf("of a token that is not active it is said: %v", found.Claims)
	}
	return found
}

func (f *fixture) caller(client string) sts.TokenRequest {
	return sts.TokenRequest{Credential: f.credentials(client).Credential}
}

// withAuditor lets the client web introspect whatever is for other.
func (f *fixture) withAuditor(t testing.TB) *fixture {
	t.Helper()
	f.apply(t, sts.Change{Put: []sts.Resource{{Audience: &sts.Audience{Name: "other", Scopes: []string{"read", "write", "admin"}, Introspectors: []string{"web"}}}}})
	return f
}

// TestRevocationKinds revokes by everything that a chain of tokens can be revoked
// by: the token of an issuer, what web got for it, and what api got for that. Each
// row says which of the three count afterwards.
func TestRevocationKinds(t *testing.T) {
	type tokens struct {
		foreign, first, second string
		claims                 [3]map[string]any
	}
	str := func(m map[string]any, name string) string { s, _ := m[name].(string); return s }
	for name, row := range map[string]struct {
		revoke                 func(tokens) sts.Revoke
		foreign, first, second bool
	}{
		"nothing":                      {nil, true, true, true},
		"T-34 N-14 first token by jti": {func(x tokens) sts.Revoke { return sts.Revoke{Kind: sts.RevokeToken, Value: str(x.claims[1], "jti")} }, true, false, false},
		"first token itself":           {func(x tokens) sts.Revoke { return sts.Revoke{Kind: sts.RevokeToken, Token: x.first} }, true, false, false},
		"second token by jti":          {func(x tokens) sts.Revoke { return sts.Revoke{Kind: sts.RevokeToken, Value: str(x.claims[2], "jti")} }, true, true, false},
		"another jti":                  {func(tokens) sts.Revoke { return sts.Revoke{Kind: sts.RevokeToken, Value: "other"} }, true, true, true},
		"N-14 foreign token itself":    {func(x tokens) sts.Revoke { return sts.Revoke{Kind: sts.RevokeToken, Token: x.foreign} }, false, false, false},
		"foreign token by jti": {func(x tokens) sts.Revoke {
			return sts.Revoke{Kind: sts.RevokeToken, Issuer: "idp", Value: str(x.claims[0], "jti")}
		}, false, false, false},
		"N-15 its jti as one of ours":   {func(x tokens) sts.Revoke { return sts.Revoke{Kind: sts.RevokeToken, Value: str(x.claims[0], "jti")} }, true, true, true},
		"N-15 its jti as a transaction": {func(x tokens) sts.Revoke { return sts.Revoke{Kind: sts.RevokeTxn, Value: str(x.claims[1], "jti")} }, true, true, true},
		"transaction":                   {func(x tokens) sts.Revoke { return sts.Revoke{Kind: sts.RevokeTxn, Value: str(x.claims[1], "txn")} }, true, false, false},
		"subject":                       {func(tokens) sts.Revoke { return sts.Revoke{Kind: sts.RevokeSubject, Value: "idp:user-1"} }, false, false, false},
		"subject of another name":       {func(tokens) sts.Revoke { return sts.Revoke{Kind: sts.RevokeSubject, Value: "user-1"} }, true, true, true},
		"client that it went through":   {func(tokens) sts.Revoke { return sts.Revoke{Kind: sts.RevokeClient, Value: "web"} }, true, false, false},
		"client that has it":            {func(tokens) sts.Revoke { return sts.Revoke{Kind: sts.RevokeClient, Value: "api"} }, true, true, false},
		"issuer":                        {func(tokens) sts.Revoke { return sts.Revoke{Kind: sts.RevokeIssuer, Value: "idp"} }, false, false, false},
		"another issuer":                {func(tokens) sts.Revoke { return sts.Revoke{Kind: sts.RevokeIssuer, Value: "ci"} }, true, true, true},
		"key of the issuer":             {func(tokens) sts.Revoke { return sts.Revoke{Kind: sts.RevokeKey, Issuer: "idp", Value: "idp-1"} }, false, true, true},
		"everything":                    {func(tokens) sts.Revoke { return sts.Revoke{Kind: sts.RevokeAll} }, false, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t).withAuditor(t)
			r := f.exchange(t)
			x := tokens{foreign: r.Subject.Token}
			jws, err := jose.Parse(x.foreign)
			if err != nil {
				t.Fatal(err)
			}
			if x.claims[0], err = jws.Claims(); err != nil {
				t.Fatal(err)
			}
			first, claims := f.token(t, r)
			x.first, x.claims[1] = first.Value, claims
			second, claims := f.token(t, f.next("api", "other", x.first))
			x.second, x.claims[2] = second.Value, claims
			if row.revoke != nil {
				f.revoke(t, row.revoke(x))
			}
			f.now = f.now.Add(2 * time.Second) // so that what is issued then is not revoked too
			for _, ask := range []struct {
				what    string
				counts  bool
				request sts.TokenRequest
			}{{"foreign", row.foreign, r}, {"first", row.first, f.next("api", "other", x.first)}} {
				if ask.counts {
					f.token(t, ask.request)
					continue
				}
				e := f.assertRefused(t, ask.request, sts.InvalidRequest)
				if rec := f.audit.last(); !strings.Contains(e.Message, "revoked") || len(rec.Reasons) != 1 || !strings.HasPrefix(rec.Reasons[0].Presented, "revoked by ") {
					t.Errorf("exchange of the %s token: %v, recorded %+v", ask.what, e, rec.Reasons)
				}
			}
			if got := f.introspect(t, "api", x.first).Active; got != row.first {
				t.Errorf("first token: active %t", got)
			}
			if got := f.introspect(t, "web", x.second).Active; got != row.second {
				t.Errorf("second token: active %t", got)
			}
		})
	}
}

// TestRevocationBefore combines revocations of everything, of a client and of a
// subject that begin before, in and after the second in which a token was issued:
// the strictest counts, and that of the same second blocks [N-06, N-07].
func TestRevocationBefore(t *testing.T) {
	kinds := []sts.Revoke{{Kind: sts.RevokeAll}, {Kind: sts.RevokeClient, Value: "web"}, {Kind: sts.RevokeSubject, Value: "web"}}
	offsets := []time.Duration{0, -time.Second, 900 * time.Millisecond, time.Second} // the first stands for none
	for i := range len(offsets) * len(offsets) * len(offsets) {
		f := newFixture(t)
		f.now = f.now.Add(500 * time.Millisecond)
		token, _ := f.token(t, f.credentials("web"))
		blocked, of := false, i
		for _, r := range kinds {
			offset := offsets[of%len(offsets)]
			of /= len(offsets)
			if offset == 0 {
				continue
			}
			r.Before = f.now.Truncate(time.Second).Add(offset)
			blocked = blocked || offset > 0
			f.revoke(t, r)
			r.Before = f.now.Add(-time.Hour) // an earlier one takes nothing back
			f.revoke(t, r)
		}
		if got := f.introspect(t, "web", token.Value).Active; got == blocked {
			t.Errorf("combination %d: active %t", i, got)
		}
	}
}

// TestRevocationOfThisMoment issues nothing that is revoked from the start: what is
// issued in the rest of a second in which tokens were revoked has the same iat.
func TestRevocationOfThisMoment(t *testing.T) {
	f := newFixture(t)
	f.revoke(t, sts.Revoke{Kind: sts.RevokeClient, Value: "web"})
	if e := f.assertRefused(t, f.credentials("web"), sts.Unavailable); e.RetryAfter != time.Second {
		t.Errorf("come back after %s", e.RetryAfter)
	}
	f.token(t, f.selfPresented(t)) // somebody else
	f.now = f.now.Add(time.Second)
	token, _ := f.token(t, f.credentials("web"))
	if !f.introspect(t, "web", token.Value).Active {
		t.Error("a token that was issued afterwards does not count")
	}
}

// TestRevokedFederation lets no revoked token of an issuer authenticate a client.
func TestRevokedFederation(t *testing.T) {
	f := newFixture(t)
	f.apply(t, sts.Change{Put: []sts.Resource{
		{Client: &sts.Client{Name: "job", Federated: &sts.FederatedIdentity{Issuer: "idp", Claims: map[string]any{"sub": "job-7"}}}},
		rule("job", policy.Rule{Requester: policy.Requester{Clients: []string{"job"}}, Allow: allow("web", "read")}),
	}})
	assertion := f.foreign(t, "idp", nil, map[string]any{"sub": "job-7"})
	r := sts.TokenRequest{Grant: sts.ClientCredentials, Audiences: []string{"web"}, Credential: sts.Credential{Method: sts.PrivateKeyJWT, Assertion: assertion, AssertionType: sts.JWTBearer}}
	token, claims := f.token(t, r)
	if len(claims["lineage"].([]any)) != 1 {
		t.Errorf("lineage %v", claims["lineage"])
	}
	// Such a client may ask, too.
	if found, err := f.service.Introspect(t.Context(), sts.IntrospectionRequest{Caller: sts.TokenRequest{Credential: r.Credential}, Token: token.Value}); err != nil || found.Active {
		t.Errorf("introspection by the client: %t, %v", found.Active, err)
	}
	if _, err := f.service.RevokeToken(t.Context(), sts.RevokeTokenRequest{Caller: sts.TokenRequest{Credential: r.Credential}, Token: canary}); err != nil {
		t.Errorf("revocation by the client: %v", err)
	}
	f.revoke(t, sts.Revoke{Kind: sts.RevokeToken, Token: assertion})
	f.assertRefused(t, r, sts.InvalidClient)
	if f.introspect(t, "web", token.Value).Active {
		t.Error("what was got by a token that is revoked counts")
	}
}

// TestRevokeToken revokes as clients do.
func TestRevokeToken(t *testing.T) {
	for name, row := range map[string]struct {
		edit   func(f *fixture, r *sts.RevokeTokenRequest)
		want   sts.Code // empty: done
		counts bool     // still
	}{
		"good":                      {func(*fixture, *sts.RevokeTokenRequest) {}, "", false},
		"N-08 of another client":    {func(f *fixture, r *sts.RevokeTokenRequest) { r.Caller = f.caller("api") }, sts.UnauthorizedClient, true},
		"N-01 without a client":     {func(_ *fixture, r *sts.RevokeTokenRequest) { r.Caller = sts.TokenRequest{} }, sts.InvalidClient, true},
		"wrong secret":              {func(_ *fixture, r *sts.RevokeTokenRequest) { r.Caller.Credential.Secret = canary }, sts.InvalidClient, true},
		"N-09 garbage":              {func(_ *fixture, r *sts.RevokeTokenRequest) { r.Token = canary }, "", true},
		"garbage, without a client": {func(_ *fixture, r *sts.RevokeTokenRequest) { r.Token, r.Caller = canary, sts.TokenRequest{} }, sts.InvalidClient, true},
		"nothing":                   {func(_ *fixture, r *sts.RevokeTokenRequest) { r.Token = "" }, sts.InvalidRequest, true},
		"too long":                  {func(_ *fixture, r *sts.RevokeTokenRequest) { r.Token = strings.Repeat("x", jose.MaxTokenSize+1) }, sts.InvalidRequest, true},
		"token of an issuer":        {func(f *fixture, r *sts.RevokeTokenRequest) { r.Token = f.foreign(t, "idp", nil, nil) }, "", true},
		"N-10 store fails":          {func(f *fixture, r *sts.RevokeTokenRequest) { f.revoked.err = errors.New("EIO") }, sts.Unavailable, true},
		"cannot be recorded":        {func(f *fixture, r *sts.RevokeTokenRequest) { f.audit.err = errors.New("EIO") }, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			token, _ := f.token(t, f.credentials("web"))
			r := sts.RevokeTokenRequest{Caller: f.caller("web"), Token: token.Value}
			row.edit(f, &r)
			_, err := f.service.RevokeToken(t.Context(), r)
			e, _ := errors.AsType[*sts.Error](err)
			switch {
			case row.want == "" && err != nil, row.want != "" && (e == nil || e.Code != row.want):
				t.Errorf("%v, want %q", err, row.want)
			case e != nil && f.audit.err == nil && (f.audit.last().Event != sts.EventRevoke || f.audit.last().Outcome != "deny" || e.Decision == ""):
				t.Errorf("recorded as %+v", f.audit.last())
			}
			f.audit.err, f.revoked.err = nil, nil
			if got := f.introspect(t, "web", token.Value).Active; got != row.counts {
				t.Errorf("active %t", got)
			}
		})
	}
}

// TestRevokeTokenType refuses to revoke what nobody asks about [RFC 7009 §2.2.1].
func TestRevokeTokenType(t *testing.T) {
	f := newFixture(t)
	f.apply(t, sts.Change{Put: []sts.Resource{rule("types", policy.Rule{
		Requester: policy.Requester{Clients: []string{"web"}}, Allow: policy.Allow{Audiences: []string{"web"}, TokenTypes: []string{"jwt"}},
	})}})
	r := f.credentials("web")
	r.RequestedType = sts.JWT
	token, _ := f.token(t, r)
	if _, err := f.service.RevokeToken(t.Context(), sts.RevokeTokenRequest{Caller: f.caller("web"), Token: token.Value}); codeOf(err) != sts.UnsupportedTokenType {
		t.Errorf("%v", err)
	}
	if f.introspect(t, "web", token.Value).Active {
		t.Error("a token that is no access token is active [N-13]")
	}
}

// TestRevokeWorkloadToken revokes what was issued to a workload: whoever presents
// it may.
func TestRevokeWorkloadToken(t *testing.T) {
	f := newFixture(t)
	token, _ := f.token(t, f.selfPresented(t))
	if _, err := f.service.RevokeToken(t.Context(), sts.RevokeTokenRequest{Caller: f.caller("web"), Token: token.Value}); codeOf(err) != sts.UnauthorizedClient {
		t.Errorf("by a client: %v", err)
	}
	if !f.introspect(t, "api", token.Value).Active {
		t.Fatal("it was revoked by another")
	}
	if _, err := f.service.RevokeToken(t.Context(), sts.RevokeTokenRequest{Token: token.Value}); err != nil {
		t.Fatal(err)
	}
	if f.introspect(t, "api", token.Value).Active {
		t.Error("it is active still")
	}
}

func codeOf(err error) sts.Code {
	e, ok := errors.AsType[*sts.Error](err)
	if !ok {
		return ""
	}
	return e.Code
}

// TestRevokeRefusals says what is wrong with what an administrator asks for.
func TestRevokeRefusals(t *testing.T) {
	f := newFixture(t)
	good := sts.Revoke{Kind: sts.RevokeClient, Value: "web", Reason: "test"}
	for name, row := range map[string]struct {
		edit  func(*sts.Revoke)
		field string
		want  sts.Code
	}{
		"good":                         {func(*sts.Revoke) {}, "", ""},
		"kind":                         {func(r *sts.Revoke) { r.Kind = "tokens" }, "kind", sts.InvalidRequest},
		"no reason":                    {func(r *sts.Revoke) { r.Reason = " " }, "reason", sts.InvalidRequest},
		"long reason":                  {func(r *sts.Revoke) { r.Reason = strings.Repeat("x", 256) }, "reason", sts.InvalidRequest},
		"client that does not exist":   {func(r *sts.Revoke) { r.Value = "wep" }, "value", sts.NotFound},
		"issuer that does not exist":   {func(r *sts.Revoke) { r.Kind = sts.RevokeIssuer }, "value", sts.NotFound},
		"jti of an unknown issuer":     {func(r *sts.Revoke) { r.Kind, r.Issuer = sts.RevokeToken, "nobody" }, "issuer", sts.NotFound},
		"issuer of a client":           {func(r *sts.Revoke) { r.Issuer = "idp" }, "issuer", sts.InvalidRequest},
		"value of all":                 {func(r *sts.Revoke) { r.Kind = sts.RevokeAll }, "value", sts.InvalidRequest},
		"subject without a name":       {func(r *sts.Revoke) { r.Kind, r.Value = sts.RevokeSubject, "" }, "value", sts.InvalidRequest},
		"before with a transaction":    {func(r *sts.Revoke) { r.Kind, r.Before = sts.RevokeTxn, f.now }, "before", sts.InvalidRequest},
		"before in the far future":     {func(r *sts.Revoke) { r.Before = f.now.Add(time.Hour) }, "before", sts.InvalidRequest},
		"until in the very far future": {func(r *sts.Revoke) { r.Until = f.now.AddDate(11, 0, 0) }, "until", sts.InvalidRequest},
		"token and jti":                {func(r *sts.Revoke) { r.Kind, r.Token = sts.RevokeToken, "x" }, "token", sts.InvalidRequest},
		"garbage for a token":          {func(r *sts.Revoke) { r.Kind, r.Value, r.Token = sts.RevokeToken, "", canary }, "token", sts.InvalidRequest},
		"key that does not exist":      {func(r *sts.Revoke) { r.Kind, r.Value = sts.RevokeKey, "none" }, "", sts.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			r := good
			row.edit(&r)
			_, err := f.service.Revoke(t.Context(), admin, r)
			e, _ := errors.AsType[*sts.Error](err)
			if codeOf(err) != row.want || e != nil && e.Field != row.field {
				t.Errorf("%v, want %s for %s", err, row.want, row.field)
			}
			if rec := f.audit.last(); rec.Event != sts.EventRevoke || (rec.Outcome == "deny") != (err != nil) {
				t.Errorf("recorded as %+v", rec)
			}
		})
	}
}

// TestRevokeKey takes a key of ours out of the key set: what it signed does not
// count any more [Y-06].
func TestRevokeKey(t *testing.T) {
	f := newFixture(t)
	token, _ := f.token(t, f.credentials("web"))
	jws, err := jose.Parse(token.Value)
	if err != nil {
		t.Fatal(err)
	}
	f.revoke(t, sts.Revoke{Kind: sts.RevokeKey, Value: jws.Header.KeyID})
	if f.introspect(t, "web", token.Value).Active {
		t.Error("a token of a key that is revoked is active")
	}
}

// TestStaleness issues nothing, exchanges nothing and calls nothing active when it
// is not known any more what is revoked [V2, B-06].
func TestStaleness(t *testing.T) {
	f := newFixture(t)
	token, _ := f.token(t, f.credentials("web"))
	good := f.exchange(t)
	f.revoked.lag = maxStaleness - 20*time.Second
	f.token(t, f.credentials("web"))
	f.revoked.lag = maxStaleness + time.Second
	f.assertRefused(t, f.credentials("web"), sts.Unavailable)
	f.assertRefused(t, good, sts.Unavailable)
	if _, err := f.service.Introspect(t.Context(), sts.IntrospectionRequest{Caller: f.caller("web"), Token: token.Value}); codeOf(err) != sts.Unavailable {
		t.Errorf("introspection: %v", err)
	}
	if m := f.service.Ready(t.Context())[sts.CapabilityIssue]; m == nil || m.Dependency != sts.DependencyStorage {
		t.Errorf("ready: %+v", m)
	}
	f.revoked.lag = 0
	f.token(t, f.credentials("web"))
}

// TestDeletedClient makes tokens of a client that is gone or disabled count no more
//
func TestDeletedClient(t *testing.T) {
	for name, change := range map[string]func(c *sts.Client) sts.Change{
		"disabled": func(c *sts.Client) sts.Change {
			c.Disabled = true
			return sts.Change{Put: []sts.Resource{{Client: c}}}
		},
		"deleted": func(c *sts.Client) sts.Change {
			return sts.Change{Delete: []sts.Ref{{Kind: sts.KindClient, Name: c.Name}, {Kind: sts.KindRule, Name: "web-itself"}, {Kind: sts.KindRule, Name: "web-users"}, {Kind: sts.KindRule, Name: "web-acted"}}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			token, _ := f.token(t, f.exchange(t))
			if !f.introspect(t, "api", token.Value).Active {
				t.Fatal("not active")
			}
			r, _, err := f.service.Resource(sts.Ref{Kind: sts.KindClient, Name: "web"})
			if err != nil {
				t.Fatal(err)
			}
			c := *r.Client
			f.apply(t, change(&c))
			if f.introspect(t, "api", token.Value).Active {
				t.Error("active still")
			}
			f.assertRefused(t, f.next("api", "other", token.Value), sts.InvalidRequest)
		})
	}
}

// TestRevokeAfterDeletion holds that the deletion of a client does not reach what
// others got for its tokens, that who revokes by its name is told so, and that this
// is revoked by the subject of that name.
func TestRevokeAfterDeletion(t *testing.T) {
	f := newFixture(t)
	f.apply(t, sts.Change{Put: []sts.Resource{{Audience: &sts.Audience{Name: "other", Scopes: []string{"read", "write", "admin"}, Introspectors: []string{"api"}}}}})
	first, _ := f.token(t, f.exchange(t))
	next, _ := f.token(t, f.next("api", "other", first.Value))
	f.apply(t, sts.Change{Delete: []sts.Ref{{Kind: sts.KindClient, Name: "web"}, {Kind: sts.KindRule, Name: "web-itself"}, {Kind: sts.KindRule, Name: "web-users"}, {Kind: sts.KindRule, Name: "web-acted"}}})
	if !f.introspect(t, "api", next.Value).Active {
		t.Fatal("what another client got is not active")
	}
	_, err := f.service.Revoke(t.Context(), admin, sts.Revoke{Kind: sts.RevokeClient, Value: "web", Reason: "test"})
	if e, ok := errors.AsType[*sts.Error](err); !ok || e.Code != sts.NotFound || !strings.Contains(e.Message, "subject") {
		t.Errorf("%v", err)
	}
	f.revoke(t, sts.Revoke{Kind: sts.RevokeSubject, Value: "web"})
	if f.introspect(t, "api", next.Value).Active {
		t.Error("active after the subject was revoked")
	}
}

// TestLineageBound ends a chain of exchanges that could not be revoked as a whole.
func TestLineageBound(t *testing.T) {
	f := newFixture(t)
	f.apply(t, sts.Change{Put: []sts.Resource{rule("again", policy.Rule{
		Requester: policy.Requester{Clients: []string{"web"}}, Subject: &policy.Party{Issuer: policy.Self}, Allow: allow("web", "read"),
	})}})
	token, claims := f.token(t, f.credentials("web"))
	for i := range 17 {
		r := f.credentials("web")
		r.Grant, r.Subject = sts.TokenExchange, sts.Presented{Token: token.Value, Type: sts.AccessToken}
		if i == 16 {
			f.assertRefused(t, r, sts.InvalidRequest)
			break
		}
		txn := claims["txn"]
		token, claims = f.token(t, r)
		if lineage, _ := claims["lineage"].([]any); len(lineage) != i+1 || claims["txn"] != txn {
			t.Fatalf("after %d exchanges: %v", i+1, claims)
		}
	}
}

// TestIntrospectionBound tells which key a token is bound to, for who lets somebody
// in by it to check, and revokes one of a workload with proof of the key only.
func TestIntrospectionBound(t *testing.T) {
	f := newFixture(t)
	p := newProver(t)
	r := f.credentials("web")
	r.Proof, r.ProofTarget = p.proof(t, f, nil, nil), proofTarget
	token, _ := f.token(t, r)
	found := f.introspect(t, "web", token.Value)
	if cnf, _ := found.Claims["cnf"].(map[string]any); found.Claims["token_type"] != "DPoP" || cnf["jkt"] != p.jkt(t) {
		t.Errorf("%v", found.Claims)
	}
	r = f.selfPresented(t)
	r.Proof, r.ProofTarget = p.proof(t, f, nil, nil), proofTarget
	token, _ = f.token(t, r)
	for _, row := range []struct {
		proof  string
		want   sts.Code
		active bool
	}{
		{"", sts.InvalidDPoPProof, true},
		{newProver(t).proof(t, f, nil, nil), sts.InvalidDPoPProof, true},
		{p.proof(t, f, nil, nil), "", false},
	} {
		_, err := f.service.RevokeToken(t.Context(), sts.RevokeTokenRequest{Caller: sts.TokenRequest{Proof: row.proof, ProofTarget: proofTarget}, Token: token.Value})
		if active := f.introspect(t, "api", token.Value).Active; codeOf(err) != row.want || active != row.active {
			t.Errorf("%v, active %t; want %q", err, active, row.want)
		}
	}
}

// TestRevocationName takes one spelling of a name.
func TestRevocationName(t *testing.T) {
	name := sts.Revocation{Kind: sts.RevokeAll}.Name()
	if got, ok := sts.ParseRevocationName(name.String()); !ok || got != name {
		t.Errorf("%v, %t", got, ok)
	}
	text := name.String()
	for _, bad := range []string{"", text[:21], text + "A", text[:20] + "\n" + text[21:], text[:21] + "_", text[:21] + "="} {
		if _, ok := sts.ParseRevocationName(bad); ok {
			t.Errorf("%q is taken", bad)
		}
	}
}

// TestIntrospection tells all that is in a token, to whom it may.
func TestIntrospection(t *testing.T) {
	f := newFixture(t).withAuditor(t)
	token, claims := f.token(t, f.exchange(t))
	found := f.introspect(t, "api", token.Value)
	want := maps.Clone(claims)
	delete(want, "lineage")
	want["token_type"] = "Bearer"
	if got := slices.Sorted(maps.Keys(found.Claims)); !slices.Equal(got, slices.Sorted(maps.Keys(want))) {
		t.Errorf("members %v, want %v", got, slices.Sorted(maps.Keys(want)))
	}
	for name, v := range want {
		if fmt.Sprint(found.Claims[name]) != fmt.Sprint(v) {
			t.Errorf("%s is %v, want %v", name, found.Claims[name], v)
		}
	}
	if records := len(f.audit.records); f.introspect(t, "api", token.Value).Active && len(f.audit.records) != records {
		t.Error("an answer that gives no right was recorded")
	}
	// The client that has it is not told, and that it asked is recorded [N-02].
	if f.introspect(t, "web", token.Value).Active {
		t.Error("active for a client that it is not addressed to")
	}
	if rec := f.audit.last(); rec.Event != sts.EventIntrospect || rec.Outcome != "deny" || rec.Error != "" || rec.Client != "web" || rec.Reasons[0].Predicate != "token.aud" || rec.Subject.JTI != claims["jti"] {
		t.Errorf("recorded as %+v", rec)
	}
	second, _ := f.token(t, f.next("api", "other", token.Value))
	if !f.introspect(t, "web", second.Value).Active || f.introspect(t, "api", second.Value).Active {
		t.Error("introspectors of an Audience, and nobody else, are told of its tokens")
	}
}

// TestIntrospectionInactive says of whatever is wrong that it is not active, and
// nothing else [N-04], without asking an issuer.
func TestIntrospectionInactive(t *testing.T) {
	f := newFixture(t)
	token, _ := f.token(t, f.credentials("web"))
	if !f.introspect(t, "web", token.Value).Active {
		t.Fatal("the good token is not active")
	}
	foreign := f.foreign(t, "idp", nil, nil)
	asked := f.issuers.asked
	tokens := map[string]string{"garbage": canary, "of an issuer": foreign, "twice": token.Value + token.Value, "space": token.Value + " "}
	for i := 1; i < len(token.Value); i += 7 {
		tokens[fmt.Sprintf("%d characters less", i)] = token.Value[:len(token.Value)-i]
	}
	for i := 0; i < len(token.Value); i += 5 {
		b := []byte(token.Value)
		b[i] ^= 1
		tokens[fmt.Sprintf("bit of byte %d flipped", i)] = string(b)
	}
	for name, text := range tokens {
		if f.introspect(t, "web", text).Active {
			t.Errorf("%s: active", name)
		}
	}
	if f.issuers.asked != asked {
		t.Error("an issuer was asked for keys")
	}
	f.now = f.now.Add(token.ExpiresIn)
	if f.introspect(t, "web", token.Value).Active {
		t.Error("active at its exp")
	}
}

// TestIntrospectionRefusals holds what callers must prove [N-01, A-12].
func TestIntrospectionRefusals(t *testing.T) {
	f := newFixture(t)
	token, _ := f.token(t, f.credentials("web"))
	for name, row := range map[string]struct {
		edit func(*sts.IntrospectionRequest)
		want sts.Code
	}{
		"nobody":       {func(r *sts.IntrospectionRequest) { r.Caller = sts.TokenRequest{} }, sts.InvalidClient},
		"wrong secret": {func(r *sts.IntrospectionRequest) { r.Caller.Credential.Secret = canary }, sts.InvalidClient},
		"no token":     {func(r *sts.IntrospectionRequest) { r.Token = "" }, sts.InvalidRequest},
		"malformed": {func(r *sts.IntrospectionRequest) {
			r.Caller.Malformed = &sts.Error{Code: sts.InvalidRequest, Message: "x"}
		}, sts.InvalidRequest},
		"bad proof": {func(r *sts.IntrospectionRequest) { r.Caller.Proof = canary }, sts.InvalidDPoPProof},
	} {
		r := sts.IntrospectionRequest{Caller: f.caller("web"), Token: token.Value}
		row.edit(&r)
		_, err := f.service.Introspect(t.Context(), r)
		if rec := f.audit.last(); codeOf(err) != row.want || rec.Event != sts.EventIntrospect || rec.Outcome != "deny" || rec.Error != row.want {
			t.Errorf("%s: %v, recorded as %+v", name, err, rec)
		}
	}
}

// TestSignedIntrospection makes responses that are for the caller alone, and never
// a token [RFC 9701, N-13].
func TestSignedIntrospection(t *testing.T) {
	f := newFixture(t)
	token, claims := f.token(t, f.credentials("web"))
	for name, text := range map[string]string{"active": token.Value, "inactive": canary} {
		found, err := f.service.Introspect(t.Context(), sts.IntrospectionRequest{Caller: f.caller("web"), Token: text, Signed: true})
		if err != nil {
			t.Fatal(err)
		}
		jws, err := jose.Parse(found.JWT)
		if err != nil {
			t.Fatal(err)
		}
		key, _ := f.keys.KeySet().Key(jws.Header.KeyID)
		if err := jws.Verify(key); err != nil || jws.Header.Type != "token-introspection+jwt" {
			t.Fatalf("%s: typ %s, %v", name, jws.Header.Type, err)
		}
		got, err := jws.Claims()
		if err != nil {
			t.Fatal(err)
		}
		inner := got["token_introspection"].(map[string]any)
		if got["iss"] != selfIssuer || got["aud"] != "web" || got["iat"] != f.now.Unix() || got["sub"] != nil || got["exp"] != nil {
			t.Errorf("%s: %v", name, got)
		}
		if inner["active"] != (name == "active") || name == "inactive" && len(inner) != 1 || name == "active" && inner["jti"] != claims["jti"] {
			t.Errorf("%s: %v", name, inner)
		}
		r := f.credentials("web")
		r.Grant, r.Subject = sts.TokenExchange, sts.Presented{Token: found.JWT, Type: sts.AccessToken}
		f.assertRefused(t, r, sts.InvalidRequest)
		if f.introspect(t, "web", found.JWT).Active {
			t.Errorf("%s: the response is an active token", name)
		}
	}
	f.keys.err = errors.New("sealed")
	if _, err := f.service.Introspect(t.Context(), sts.IntrospectionRequest{Caller: f.caller("web"), Token: token.Value, Signed: true}); codeOf(err) != sts.Unavailable {
		t.Errorf("without a signing key: %v", err)
	}
	if !f.introspect(t, "web", token.Value).Active {
		t.Error("a plain answer depends on a signing key [F01]")
	}
}

// TestRestored makes nothing count that was issued before the store was restored
// [B-02].
func TestRestored(t *testing.T) {
	f := newFixture(t)
	token, _ := f.token(t, f.credentials("web"))
	for i := range 2 {
		records := len(f.audit.records)
		if err := f.service.RevokeRestored(t.Context(), f.now); err != nil {
			t.Fatal(err)
		}
		if got := len(f.audit.records) - records; got != 1-i || f.audit.last().Event != sts.EventRevoke {
			t.Errorf("start %d: %d records, the last %+v", i, got, f.audit.last())
		}
	}
	f.now = f.now.Add(time.Second)
	if f.introspect(t, "web", token.Value).Active {
		t.Error("a token of before is active")
	}
	f.token(t, f.credentials("web"))
	f.now = f.now.Add(30 * 24 * time.Hour)
	clear(f.revoked.m)
	if err := f.service.RevokeRestored(t.Context(), f.now.Add(-20*24*time.Hour)); err != nil || f.revoked.Count() > 0 {
		t.Errorf("long ago: %d revocations, %v", f.revoked.Count(), err)
	}
}
