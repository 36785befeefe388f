package sts_test

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// unproven is the sentence of every assertion whose signer is not proven.
const unproven = "check which client the client_assertion names"

// TestAssertion edits a good assertion of a client's own key in one way each.
func TestAssertion(t *testing.T) {
	const now = 1_800_000_000
	long := strings.Repeat("x", 257)
	for name, tc := range map[string]struct {
		header, claims map[string]any
		request        func(*fixture, *sts.TokenRequest)
		says           string // of the refusal; empty: granted
	}{
		"A-01 good":               {},
		"A-01 five minutes":       {claims: map[string]any{"exp": now + 300}},
		"A-01 with client_id":     {request: func(_ *fixture, r *sts.TokenRequest) { r.Credential.ClientID = "signer" }},
		"A-06 typ JWT":            {header: map[string]any{"typ": "JWT"}},
		"A-06 no typ":             {header: map[string]any{"typ": absent}},
		"A-06 media type":         {header: map[string]any{"typ": "application/Client-Authentication+JWT"}},
		"A-06 typ at+jwt":         {header: map[string]any{"typ": "at+jwt"}, says: unproven},
		"A-06 typ dpop+jwt":       {header: map[string]any{"typ": "dpop+jwt"}, says: unproven},
		"no kid, one key":         {header: map[string]any{"kid": absent}},
		"A-02 token endpoint":     {claims: map[string]any{"aud": selfIssuer + "/oauth2/token"}, says: "its aud must be the issuer identifier"},
		"A-03 aud in a list":      {claims: map[string]any{"aud": []string{selfIssuer}}, says: "its aud must be the issuer identifier"},
		"A-04 aud of two":         {claims: map[string]any{"aud": []string{selfIssuer, "x"}}, says: "its aud must be the issuer identifier"},
		"aud of the JWKS":         {claims: map[string]any{"aud": selfIssuer + "/.well-known/jwks.json"}, says: "its aud must be the issuer identifier"},
		"A-07 iss is not sub":     {claims: map[string]any{"sub": "publisher"}, says: unproven},
		"A-07 no sub":             {claims: map[string]any{"sub": absent}, says: unproven},
		"A-07 no iss":             {claims: map[string]any{"iss": absent}, says: unproven},
		"A-07 neither":            {claims: map[string]any{"iss": absent, "sub": absent}, says: unproven},
		"A-07 other client_id":    {request: func(_ *fixture, r *sts.TokenRequest) { r.Credential.ClientID = "publisher" }, says: unproven},
		"A-07 secret's client_id": {request: func(_ *fixture, r *sts.TokenRequest) { r.Credential.ClientID = "web" }, says: unproven},
		"A-08 no exp":             {claims: map[string]any{"exp": absent}, says: "has no exp claim"},
		"A-08 exp 5 min ago":      {claims: map[string]any{"exp": now - 300, "iat": now - 400}, says: "more than the allowed skew of 30s ago"},
		"A-08 lives an hour":      {claims: map[string]any{"exp": now + 3600}, says: "lives longer than the 5m0s"},
		"A-08 a second too long":  {claims: map[string]any{"exp": now + 301}, says: "lives longer than the 5m0s"},
		"A-08 old, long lived":    {claims: map[string]any{"exp": now + 60, "iat": now - 300}, says: "lives longer than the 5m0s"},
		"A-08 no iat, too long":   {claims: map[string]any{"exp": now + 301, "iat": absent}, says: "lives longer than the 5m0s"},
		"A-08 no iat":             {claims: map[string]any{"exp": now + 300, "iat": absent}},
		"A-08 lives a year":       {claims: map[string]any{"exp": now + 31_536_000}, says: "lives longer"},
		"A-09 nbf in 8 s":         {claims: map[string]any{"nbf": now + 8}},
		"A-09 nbf in 60 s":        {claims: map[string]any{"nbf": now + 60}, says: "nbf is more than 30s in the future"},
		"iat in 60 s":             {claims: map[string]any{"iat": now + 60, "exp": now + 90}, says: "iat is more than 30s in the future"},
		"A-10 no jti":             {claims: map[string]any{"jti": absent}, says: "has no jti claim"},
		"A-10 jti number":         {claims: map[string]any{"jti": 1}, says: "has no jti claim"},
		"A-10 jti empty":          {claims: map[string]any{"jti": ""}, says: "has no jti claim"},
		"A-10 jti long":           {claims: map[string]any{"jti": long}, says: "has no jti claim"},
		"A-20 secret's client":    {claims: map[string]any{"iss": "web", "sub": "web"}, says: unproven},
		"unknown client":          {claims: map[string]any{"iss": "nobody", "sub": "nobody"}, says: unproven},
		"A-37 of another client":  {claims: map[string]any{"iss": "publisher", "sub": "publisher"}, header: map[string]any{"kid": "publisher-1"}, says: unproven},
		"federated client":        {claims: map[string]any{"iss": "pod", "sub": "pod"}, says: unproven},
		"A-43 other case":         {claims: map[string]any{"iss": "Signer", "sub": "Signer"}, says: unproven},
		"A-43 trailing space":     {claims: map[string]any{"iss": "signer ", "sub": "signer "}, says: unproven},
		"J-27 kid of no key":      {header: map[string]any{"kid": "other"}, says: unproven},
		"J-06 HS256":              {header: map[string]any{"alg": "HS256"}, says: unproven},
		"J-07 RS256":              {header: map[string]any{"alg": "RS256"}, says: unproven},
		"J-08 ES384":              {header: map[string]any{"alg": "ES384"}, says: unproven},
		"alg ES512":               {header: map[string]any{"alg": "ES512"}, says: unproven},
		"A-38 iss is ours":        {claims: map[string]any{"iss": selfIssuer, "sub": selfIssuer}, says: unproven},
		"J-25 iss of an Issuer":   {claims: map[string]any{"iss": "https://idp.example.com", "sub": "https://idp.example.com"}, says: unproven},
		"JWT-SVID by its own key": {request: func(_ *fixture, r *sts.TokenRequest) {
			r.Credential.Method, r.Credential.AssertionType = sts.SPIFFEJWT, sts.JWTSPIFFE
		}, says: unproven},
	} {
		t.Run(name, func(t *testing.T) {
			f := newAssertionFixture(t)
			r := by(f.assertion(t, "signer", tc.header, tc.claims))
			if tc.request != nil {
				tc.request(f, &r)
			}
			if tc.says == "" {
				_, claims := f.token(t, r)
				rec := f.audit.last()
				if claims["sub"] != "signer" || rec.AuthMethod != sts.PrivateKeyJWT || rec.Client != "signer" || rec.Assertion.Unverified || rec.Assertion.JTI == "" {
					t.Errorf("claims %v, record %+v, assertion %+v", claims, rec, rec.Assertion)
				}
				return
			}
			e := f.assertAssertionRefused(t, r)
			if !strings.Contains(e.Message, tc.says) {
				t.Errorf("%s; want %q", e.Message, tc.says)
			}
			f.token(t, by(f.assertion(t, "signer", nil, nil)))
		})
	}
}

// assertAssertionRefused holds what a refused assertion has in common: the answer
// of any failure, a cause for the operator, nothing used up and nobody asked.
func (f *fixture) assertAssertionRefused(t testing.TB, r sts.TokenRequest) *sts.Error {
	t.Helper()
	uses, asked := f.replay.uses, f.clients.asked
	e := f.assertRefused(t, r, sts.InvalidClient)
	if f.replay.uses != uses {
		t.Error("an assertion that is refused uses up its jti")
	}
	if f.clients.asked != asked && !strings.Contains(t.Name(), "A-37") {
		t.Error("keys were asked for")
	}
	if rec := f.audit.last(); e.Err == nil || rec.Assertion == nil || rec.Assertion.Hash == "" && rec.Assertion.JTI == "" {
		t.Errorf("the record %+v of %v does not say what was wrong with what", rec, e)
	}
	return e
}

// TestAssertionSkew pins the boundaries of the allowed skew [C-06].
func TestAssertionSkew(t *testing.T) {
	for offset, ok := range map[int64]bool{-1: true, 0: true, 29: true, 30: false, 31: false} {
		f := newAssertionFixture(t)
		r := by(f.assertion(t, "signer", nil, map[string]any{"exp": f.now.Unix() - offset, "iat": f.now.Unix() - 100}))
		if ok {
			f.token(t, r)
			continue
		}
		if e := f.assertAssertionRefused(t, r); !strings.Contains(e.Message, "the allowed skew of 30s") {
			t.Errorf("exp %d s ago: %s", offset, e.Message)
		}
	}
}

// TestAssertionOnce holds that an assertion authenticates once.
func TestAssertionOnce(t *testing.T) {
	t.Run("A-12 again, for another grant", func(t *testing.T) {
		f := newAssertionFixture(t)
		r := by(f.assertion(t, "signer", nil, nil))
		f.token(t, r)
		for _, again := range []sts.TokenRequest{r, {
			Grant: sts.TokenExchange, Credential: r.Credential, Audiences: []string{"api"},
			Subject: sts.Presented{Token: f.foreign(t, "idp", nil, nil), Type: sts.JWT},
		}} {
			if e := f.assertRefused(t, again, sts.InvalidClient); !strings.Contains(e.Message, "was used before") {
				t.Error(e.Message)
			}
		}
	})
	t.Run("A-12 again, at introspection and revocation", func(t *testing.T) {
		f := newAssertionFixture(t)
		r := by(f.assertion(t, "signer", nil, nil))
		token, _ := f.token(t, r)
		_, introspect := f.service.Introspect(t.Context(), sts.IntrospectionRequest{Caller: r, Token: token.Value})
		_, revoke := f.service.RevokeToken(t.Context(), sts.RevokeTokenRequest{Caller: r, Token: token.Value})
		for _, err := range []error{introspect, revoke} {
			if e, _ := errors.AsType[*sts.Error](err); e == nil || e.Code != sts.InvalidClient || !strings.Contains(e.Message, "was used before") {
				t.Errorf("%v", err)
			}
		}
		// And the other way round.
		r = by(f.assertion(t, "signer", nil, nil))
		if _, err := f.service.Introspect(t.Context(), sts.IntrospectionRequest{Caller: r, Token: token.Value}); err != nil {
			t.Fatal(err)
		}
		f.assertRefused(t, r, sts.InvalidClient)
	})
	t.Run("A-15 the same jti of another client", func(t *testing.T) {
		f := newAssertionFixture(t)
		f.token(t, by(f.assertion(t, "signer", nil, map[string]any{"jti": "same"})))
		f.token(t, by(f.assertion(t, "publisher", nil, map[string]any{"jti": "same"})))
		f.token(t, by(f.federatedToken(t, "job", nil, map[string]any{"jti": "same"})))
	})
	t.Run("A-16 a bad signature uses nothing up", func(t *testing.T) {
		f := newAssertionFixture(t)
		claims := map[string]any{"jti": "mine"}
		good := f.assertion(t, "signer", nil, claims)
		forged := signAs(t, f.clients.signers["stranger"], map[string]any{"alg": "ES256", "kid": "signer-1"}, map[string]any{
			"iss": "signer", "sub": "signer", "aud": selfIssuer, "exp": f.now.Unix() + 60, "jti": "mine",
		})
		f.assertAssertionRefused(t, by(forged))
		f.assertAssertionRefused(t, by(f.assertion(t, "signer", nil, map[string]any{"jti": "mine", "aud": "x"})))
		f.token(t, by(good))
	})
	t.Run("how long it is remembered", func(t *testing.T) {
		f := newAssertionFixture(t)
		now := f.now.Unix()
		f.token(t, by(f.assertion(t, "signer", nil, map[string]any{"iat": now - 10, "exp": now + 50})))
		if l := f.replay.last; l.since.Unix() != now-40 || l.until.Unix() != now+80 {
			t.Errorf("from %s until %s", l.since, l.until)
		}
		f.token(t, by(f.assertion(t, "signer", nil, map[string]any{"iat": absent, "exp": now + 50})))
		if l := f.replay.last; l.since.Unix() != now-250 || l.until.Unix() != now+80 {
			t.Errorf("without iat: from %s until %s", l.since, l.until)
		}
	})
	t.Run("no rule for the client", func(t *testing.T) {
		f := newAssertionFixture(t)
		r := by(f.assertion(t, "signer", nil, nil))
		r.Audiences = []string{"other"}
		f.assertRefused(t, r, sts.InvalidTarget)
		r.Audiences = []string{"web"}
		f.assertRefused(t, r, sts.InvalidClient)
	})
}

// waiting is an error that says when to come back.
type waiting struct {
	error
	wait time.Duration
}

func (w waiting) RetryAfter() time.Duration { return w.wait }
func (w waiting) Unwrap() error             { return w.error }

// TestReplayStoreFails holds that nothing is accepted unchecked [D-21].
func TestReplayStoreFails(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		says string
		wait time.Duration
	}{
		"full":      {errors.New("full"), "make a new one and try again later", 2 * time.Second},
		"forgotten": {waiting{sts.ErrForgotten, 40 * time.Second}, "make a new one after the time to wait", 40 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			f := newAssertionFixture(t)
			f.replay.err = tc.err
			e := f.assertRefused(t, by(f.assertion(t, "signer", nil, nil)), sts.Unavailable)
			if !strings.Contains(e.Message, tc.says) || e.RetryAfter != tc.wait {
				t.Errorf("%s, in %s", e.Message, e.RetryAfter)
			}
			f.replay.err = nil
			f.token(t, by(f.assertion(t, "signer", nil, nil)))
		})
	}
	f := newAssertionFixture(t)
	f.replay.failed = errors.New("the disk is gone")
	if m := f.service.Ready(t.Context())[sts.CapabilityIssue]; m == nil || m.Dependency != sts.DependencyReplay {
		t.Errorf("ready with a store that is gone: %v", m)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := f.service.Run(ctx); !errors.Is(err, f.replay.failed) {
		t.Errorf("it runs on: %v", err)
	}
}

// TestPublishedKeys asks for keys of a client that publishes them, and of no other.
func TestPublishedKeys(t *testing.T) {
	f := newAssertionFixture(t)
	if len(f.clients.trusted) != 1 || f.clients.trusted["publisher"] == nil {
		t.Errorf("keys can be asked for of %v", f.clients.trusted)
	}
	_, claims := f.token(t, by(f.assertion(t, "publisher", nil, nil)))
	if claims["sub"] != "publisher" || f.clients.asked != 1 || f.issuers.asked != 0 {
		t.Errorf("claims %v, asked %d times", claims, f.clients.asked)
	}
	t.Run("A-32 key removed", func(t *testing.T) {
		f.assertRefused(t, by(f.assertion(t, "publisher", map[string]any{"kid": "publisher-0"}, nil)), sts.InvalidClient)
	})
	t.Run("keys cannot be had", func(t *testing.T) {
		f.clients.err = errors.New("refused")
		e := f.assertRefused(t, by(f.assertion(t, "publisher", nil, nil)), sts.Unavailable)
		if e.RetryAfter == 0 {
			t.Error("it does not say when to come back")
		}
		f.clients.err = nil
	})
	t.Run("I-22 nothing is asked for before all else has passed", func(t *testing.T) {
		for _, r := range []sts.TokenRequest{
			by(f.assertion(t, "publisher", map[string]any{"alg": "RS512"}, nil)),
			by(f.assertion(t, "publisher", map[string]any{"typ": "at+jwt"}, nil)),
			by(f.assertion(t, "publisher", nil, map[string]any{"sub": "x"})),
			by(f.assertion(t, "stranger", nil, nil)),
		} {
			f.assertAssertionRefused(t, r)
		}
		f.apply(t, sts.Change{Put: []sts.Resource{{Client: &sts.Client{Name: "publisher", Disabled: true, PrivateKeyJWT: &sts.ClientKey{JWKSURI: "https://publisher.example.com/jwks"}}}}})
		f.assertAssertionRefused(t, by(f.assertion(t, "publisher", nil, nil)))
	})
}

// TestTokenEndpointAudience accepts what older clients send, of those that may.
func TestTokenEndpointAudience(t *testing.T) {
	f := newAssertionFixture(t)
	f.apply(t, sts.Change{Put: []sts.Resource{{Client: &sts.Client{Name: "signer", PrivateKeyJWT: &sts.ClientKey{JWKS: f.clients.jwks(t, "signer-1"), AcceptTokenEndpointAudience: true}}}}})
	const endpoint = selfIssuer + "/oauth2/token"
	for _, aud := range []any{selfIssuer, endpoint, []string{selfIssuer}, []string{endpoint, selfIssuer}} {
		f.token(t, by(f.assertion(t, "signer", nil, map[string]any{"aud": aud})))
	}
	for _, aud := range []any{endpoint + "/", []string{endpoint, "x"}, []string{}, "x", nil} {
		f.assertAssertionRefused(t, by(f.assertion(t, "signer", nil, map[string]any{"aud": aud})))
	}
}

// TestSeveralKeys lets a client sign with any of its keys that the header names.
func TestSeveralKeys(t *testing.T) {
	f := newAssertionFixture(t)
	f.apply(t, sts.Change{Put: []sts.Resource{{Client: &sts.Client{Name: "signer", PrivateKeyJWT: &sts.ClientKey{JWKS: f.clients.jwks(t, "a", "b")}}}}})
	for _, kid := range []string{"a", "b"} {
		f.token(t, by(f.assertion(t, "signer", map[string]any{"kid": kid}, nil)))
	}
	f.assertAssertionRefused(t, by(f.assertion(t, "signer", map[string]any{"kid": "signer-1"}, nil)))
	t.Run("J-24 kid missing, two keys", func(t *testing.T) {
		f.assertAssertionRefused(t, by(f.assertion(t, "signer", map[string]any{"kid": absent}, nil)))
	})
}

// TestOneMethod holds that a client has the one method that it is set up with.
func TestOneMethod(t *testing.T) {
	f := newAssertionFixture(t)
	secret, hash := sts.NewSecret()
	t.Run("A-20 a secret for a client with a key", func(t *testing.T) {
		r := f.credentials("web")
		r.Credential.ClientID = "signer"
		f.assertRefused(t, r, sts.InvalidClient)
	})
	t.Run("A-31 A-38 our own token", func(t *testing.T) {
		token, _ := f.token(t, f.credentials("web"))
		f.assertAssertionRefused(t, by(token.Value))
	})
	t.Run("A-36 one token twice", func(t *testing.T) {
		for _, client := range []string{"pod", "job"} {
			r := by(f.federatedToken(t, client, nil, nil))
			r.Grant = sts.TokenExchange
			r.Subject = sts.Presented{Token: r.Credential.Assertion, Type: sts.JWT}
			f.assertRefused(t, r, sts.InvalidRequest)
			r.Subject.Token = f.foreign(t, "idp", nil, nil)
			r.Actor = sts.Presented{Token: r.Credential.Assertion, Type: sts.JWT}
			f.assertRefused(t, r, sts.InvalidRequest)
		}
	})
	inline := f.clients.jwks(t, "a")
	private := `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}]}`
	sub := map[string]any{"sub": "x"}
	for name, tc := range map[string]struct {
		client sts.Client
		field  string
	}{
		"good":                 {sts.Client{Name: "x", PrivateKeyJWT: &sts.ClientKey{JWKS: inline, Algorithms: []string{"ES256"}}}, ""},
		"no method":            {sts.Client{Name: "x"}, ""},
		"A-19 two methods":     {sts.Client{Name: "x", Secrets: []sts.ClientSecret{{Hash: hash}}, PrivateKeyJWT: &sts.ClientKey{JWKS: inline}}, "secrets"},
		"A-19 two others":      {sts.Client{Name: "x", PrivateKeyJWT: &sts.ClientKey{JWKS: inline}, Federated: &sts.FederatedIdentity{Issuer: "idp", Claims: sub}}, "private_key_jwt"},
		"A-19 a certificate":   {sts.Client{Name: "x", PrivateKeyJWT: &sts.ClientKey{JWKS: inline}, TLS: &sts.ClientTLS{SANDNS: "x.example.com"}}, "tls"},
		"A-19 file and URL":    {sts.Client{Name: "x", PrivateKeyJWT: &sts.ClientKey{JWKSFile: "/x", JWKSURI: "https://x.example.com"}}, "private_key_jwt.jwks_uri"},
		"A-19 two key sources": {sts.Client{Name: "x", PrivateKeyJWT: &sts.ClientKey{JWKS: inline, JWKSURI: "https://x.example.com"}}, "private_key_jwt.jwks_uri"},
		"no keys":              {sts.Client{Name: "x", PrivateKeyJWT: &sts.ClientKey{}}, "private_key_jwt"},
		"empty set":            {sts.Client{Name: "x", PrivateKeyJWT: &sts.ClientKey{JWKS: `{"keys":[]}`}}, "private_key_jwt.jwks"},
		"not a set":            {sts.Client{Name: "x", PrivateKeyJWT: &sts.ClientKey{JWKS: `x`}}, "private_key_jwt.jwks"},
		"J-57 private key":     {sts.Client{Name: "x", PrivateKeyJWT: &sts.ClientKey{JWKS: private}}, "private_key_jwt.jwks"},
		"J-28 symmetric key":   {sts.Client{Name: "x", PrivateKeyJWT: &sts.ClientKey{JWKS: `{"keys":[{"kty":"oct","k":"AAAA"}]}`}}, "private_key_jwt.jwks"},
		"bad URL":              {sts.Client{Name: "x", PrivateKeyJWT: &sts.ClientKey{JWKSURI: "bad"}}, "private_key_jwt"},
		"J-05 HS256":           {sts.Client{Name: "x", PrivateKeyJWT: &sts.ClientKey{JWKS: inline, Algorithms: []string{"HS256"}}}, "private_key_jwt.algorithms[0]"},
		"named like an issuer": {sts.Client{Name: "https://idp.example.com", PrivateKeyJWT: &sts.ClientKey{JWKS: inline}}, "name"},
		"named like us":        {sts.Client{Name: selfIssuer, PrivateKeyJWT: &sts.ClientKey{JWKS: inline}}, "name"},
		"no such issuer":       {sts.Client{Name: "x", Federated: &sts.FederatedIdentity{Issuer: "idq", Claims: sub}}, "federated.issuer"},
		"nothing pinned":       {sts.Client{Name: "x", Federated: &sts.FederatedIdentity{Issuer: "idp", Claims: map[string]any{"ns": "x"}}}, "federated.claims"},
		"no claims":            {sts.Client{Name: "x", Federated: &sts.FederatedIdentity{Issuer: "idp"}}, "federated.claims"},
		"a list of values":     {sts.Client{Name: "x", Federated: &sts.FederatedIdentity{Issuer: "idp", Claims: map[string]any{"sub": []any{"a", "b"}}}}, "federated.claims.sub"},
		"a pattern":            {sts.Client{Name: "x", Federated: &sts.FederatedIdentity{Issuer: "idp", Claims: map[string]any{"sub": "a*"}}}, "federated.claims.sub"},
		"an empty value":       {sts.Client{Name: "x", Federated: &sts.FederatedIdentity{Issuer: "idp", Claims: map[string]any{"sub": ""}}}, "federated.claims.sub"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := f.service.Apply(t.Context(), sts.Change{DryRun: true, Put: []sts.Resource{{Client: &tc.client}}})
			e, _ := errors.AsType[*sts.Error](err)
			switch {
			case tc.field == "" && err != nil:
				t.Fatalf("%v %+v", err, e.Problems)
			case tc.field == "":
			case e == nil || len(e.Problems) != 1 || e.Problems[0].Field != tc.field:
				t.Fatalf("%v %+v; want a problem of %s", err, e, tc.field)
			case strings.Contains(fmt.Sprint(e.Problems), "nWGxne"):
				t.Error("a private key is echoed")
			}
		})
	}
	_ = secret
}

// TestAssertionFailuresLookTheSame holds that an answer does not tell an unknown
// client, a wrong key and another method apart.
func TestAssertionFailuresLookTheSame(t *testing.T) {
	f := newAssertionFixture(t)
	stranger := map[string]*ecdsa.PrivateKey{"": f.clients.signers["stranger"]}
	messages := map[string]bool{}
	for _, client := range []string{"signer", "web", "pod", "nobody"} {
		token := (&memIssuers{signers: stranger}).sign(t, "", map[string]any{"alg": "ES256", "kid": "signer-1"}, map[string]any{
			"iss": client, "sub": client, "aud": selfIssuer, "exp": f.now.Unix() + 60, "jti": "x",
		})
		e := f.assertAssertionRefused(t, by(token))
		messages[fmt.Sprint(e.Message, e.Field, e.RetryAfter)] = true
	}
	if len(messages) != 1 {
		t.Errorf("the answers differ: %v", messages)
	}
}

// TestFederated edits a good token of an issuer that is a client's assertion.
func TestFederated(t *testing.T) {
	for name, tc := range map[string]struct {
		client         string
		header, claims map[string]any
		request        func(*sts.TokenRequest)
		says           string
	}{
		"A-34 pod":                      {client: "pod"},
		"A-34 client_id":                {client: "pod", request: func(r *sts.TokenRequest) { r.Credential.ClientID = "pod" }},
		"A-34 another client_id":        {client: "pod", request: func(r *sts.TokenRequest) { r.Credential.ClientID = "svid" }, says: unproven},
		"A-34 unknown client_id":        {client: "pod", request: func(r *sts.TokenRequest) { r.Credential.ClientID = "nobody" }, says: unproven},
		"A-34 another subject":          {client: "pod", claims: map[string]any{"sub": "pod-2"}, says: unproven},
		"A-34 another claim":            {client: "pod", claims: map[string]any{"ns": "prod-evil"}, says: unproven},
		"A-34 claim missing":            {client: "pod", claims: map[string]any{"ns": absent}, says: unproven},
		"A-34 claim of another type":    {client: "pod", claims: map[string]any{"uid": "7"}, says: unproven},
		"A-34 claim a list with it":     {client: "pod", claims: map[string]any{"ns": []string{"prod"}}, says: unproven},
		"A-34 of another issuer":        {client: "job", claims: map[string]any{"sub": "pod-1", "ns": "prod", "uid": 7}, says: unproven},
		"aud is not ours":               {client: "pod", claims: map[string]any{"aud": "https://x.example.com"}, says: "is not addressed to this service"},
		"aud in a list":                 {client: "pod", claims: map[string]any{"aud": []string{selfIssuer}}},
		"S-03 aud of two":               {client: "pod", claims: map[string]any{"aud": []string{selfIssuer, "x"}}, says: "its aud has other values too"},
		"C-01 no exp":                   {client: "pod", claims: map[string]any{"exp": absent}, says: "has no exp claim"},
		"expired":                       {client: "pod", claims: map[string]any{"exp": 1_799_999_000, "iat": 1_799_998_000}, says: "the allowed skew of 30s"},
		"C-07 lives a year":             {client: "pod", claims: map[string]any{"exp": 1_831_536_000}, says: "lives longer"},
		"an access token":               {client: "pod", header: map[string]any{"typ": "at+jwt"}, says: unproven},
		"client-authentication+jwt":     {client: "pod", header: map[string]any{"typ": "client-authentication+jwt"}, says: unproven},
		"J-27 kid of no key":            {client: "pod", header: map[string]any{"kid": "x"}, says: unproven},
		"J-25 kid of the other issuer":  {client: "pod", header: map[string]any{"kid": "ci-1"}, says: unproven},
		"bound to a key":                {client: "pod", claims: map[string]any{"cnf": map[string]any{"jkt": "x"}}, says: "is bound to a key"},
		"JWT-SVID":                      {client: "svid", request: spiffe},
		"JWT-SVID as a JWT":             {client: "svid"},
		"JWT-SVID without a SPIFFE ID":  {client: "pod", request: spiffe, says: "its sub is not a SPIFFE ID"},
		"once":                          {client: "job"},
		"once, without jti":             {client: "job", claims: map[string]any{"jti": absent}},
		"once, without iat":             {client: "job", claims: map[string]any{"iat": absent}},
		"iss of nobody":                 {client: "pod", claims: map[string]any{"iss": "https://nobody.example.com"}, says: unproven},
		"iss of nobody, as SVID":        {client: "svid", claims: map[string]any{"iss": "https://nobody.example.com"}, request: spiffe, says: unproven},
		"J-64 expired and badly signed": {client: "pod", header: map[string]any{"kid": "ci-1"}, claims: map[string]any{"exp": 1}, says: unproven},
	} {
		t.Run(name, func(t *testing.T) {
			f := newAssertionFixture(t)
			r := by(f.federatedToken(t, tc.client, tc.header, tc.claims))
			if tc.request != nil {
				tc.request(&r)
			}
			if tc.says != "" {
				if e := f.assertAssertionRefused(t, r); !strings.Contains(e.Message, tc.says) {
					t.Errorf("%s; want %q", e.Message, tc.says)
				}
				r = by(f.federatedToken(t, tc.client, nil, nil))
			}
			_, claims := f.token(t, r)
			rec := f.audit.last()
			method := sts.FederatedJWT
			if r.Credential.Method == sts.SPIFFEJWT {
				method = sts.SPIFFEJWT
			}
			if claims["sub"] != tc.client || rec.AuthMethod != method || rec.Assertion.Issuer == "" || rec.Assertion.Sub == "" {
				t.Errorf("claims %v, record %+v", claims, rec)
			}
			if _, err := f.service.Token(t.Context(), r); (err == nil) != (tc.client != "job") {
				t.Errorf("again: %v", err)
			}
		})
	}
}

func spiffe(r *sts.TokenRequest) {
	r.Credential.Method, r.Credential.AssertionType = sts.SPIFFEJWT, sts.JWTSPIFFE
}

// TestFederatedAmbiguity holds that a token of two clients is neither, unless the
// request says which.
func TestFederatedAmbiguity(t *testing.T) {
	f := newAssertionFixture(t)
	f.apply(t, sts.Change{Put: []sts.Resource{
		{Client: &sts.Client{Name: "pods", Federated: &sts.FederatedIdentity{Issuer: "idp", Claims: map[string]any{"sub": "pod-1"}}}},
		rule("pods", policy.Rule{Requester: policy.Requester{Clients: []string{"pods"}}, Allow: allow("web", "read")}),
	}})
	r := by(f.federatedToken(t, "pod", nil, nil))
	f.assertAssertionRefused(t, r)
	for _, name := range []string{"pod", "pods"} {
		r.Credential.ClientID = name
		if _, claims := f.token(t, r); claims["sub"] != name {
			t.Errorf("%s became %v", name, claims["sub"])
		}
	}
	t.Run("A-31 disabled", func(t *testing.T) {
		f.apply(t, sts.Change{Put: []sts.Resource{{Client: &sts.Client{Name: "pod", Disabled: true, Federated: &sts.FederatedIdentity{Issuer: "idp", Claims: map[string]any{"sub": "pod-1"}}}}}})
		r.Credential.ClientID = "pod"
		f.assertAssertionRefused(t, r)
	})
	t.Run("its issuer is down", func(t *testing.T) {
		f.issuers.err = errors.New("refused")
		f.assertRefused(t, by(f.federatedToken(t, "svid", nil, nil)), sts.Unavailable)
		f.issuers.err = nil
	})
	t.Run("an Issuer that is in use stays", func(t *testing.T) {
		_, err := f.service.Apply(t.Context(), sts.Change{Delete: []sts.Ref{{Kind: sts.KindIssuer, Name: "idp"}}})
		e, _ := errors.AsType[*sts.Error](err)
		if e == nil || !slices.ContainsFunc(e.Problems, func(p sts.Problem) bool { return p.Ref.Name == "svid" && p.Field == "federated.issuer" }) {
			t.Errorf("%v", err)
		}
	})
}

// FuzzAssertion presents what is not an assertion: nobody gets in, nothing
// breaks, and nothing of it comes out.
func FuzzAssertion(f *testing.F) {
	fx := newAssertionFixture(f)
	for _, token := range []string{
		fx.assertion(f, "signer", nil, nil), fx.federatedToken(f, "pod", nil, map[string]any{"aud": "x"}),
		fx.assertion(f, "publisher", nil, map[string]any{"exp": json.RawMessage("1e999")}), "..", "",
	} {
		f.Add(token+"x", "")
		f.Add(token+"A", "signer")
	}
	var peers atomic.Int64
	f.Fuzz(func(t *testing.T, token, id string) {
		r := by(token)
		r.Source.Peer = fmt.Sprint(peers.Add(1)) // so that nothing is refused without a look
		r.Credential.ClientID = id
		_, err := fx.service.Token(t.Context(), r)
		if err == nil {
			t.Fatal("a token")
		}
		if e, ok := errors.AsType[*sts.Error](err); !ok || e.Code == sts.ServerError || e.Decision == "" {
			t.Fatalf("%v", err)
		}
		fx.audit.records = nil
	})
}

// TestAuthenticationTimeOfAssertions compares how long an assertion for an unknown
// client and one with a wrong key take, in pairs. A noisy machine gets three tries.
func TestAuthenticationTimeOfAssertions(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector changes what things cost")
	}
	f := newAssertionFixture(t)
	forged := func(client string) sts.TokenRequest {
		return by(signAs(t, f.clients.signers["stranger"], map[string]any{"alg": "ES256", "kid": "signer-1"}, map[string]any{
			"iss": client, "sub": client, "aud": selfIssuer, "exp": f.now.Unix() + 60, "jti": "x",
		}))
	}
	wrong, unknown, other := forged("signer"), forged("nobody"), forged("web")
	addresses := 0
	took := func(r sts.TokenRequest) time.Duration {
		r.Source.Peer = fmt.Sprint("host-", addresses)
		addresses++
		begin := time.Now()
		f.service.Token(t.Context(), r)
		return time.Since(begin)
	}
	var a, b, c float64
	for range 3 {
		var times [3][]time.Duration
		for i := range 3000 {
			for n := range times {
				n = (n + i) % len(times)
				times[n] = append(times[n], took([]sts.TokenRequest{wrong, unknown, other}[n]))
			}
		}
		for n := range times {
			slices.Sort(times[n])
		}
		median := func(n int) float64 { return float64(times[n][len(times[n])/2]) }
		a, b, c = median(0), median(1), median(2)
		if min(a, b, c) > 0.95*max(a, b, c) {
			return
		}
		f.audit.records = nil
	}
	t.Errorf("a wrong key takes %.0f ns, an unknown client %.0f ns, one of another method %.0f ns", a, b, c)
}

// TestFederatedOnceOfIssuer holds that an Issuer whose tokens are used once has them
// used once whatever for.
func TestFederatedOnceOfIssuer(t *testing.T) {
	f := newAssertionFixture(t)
	f.apply(t, sts.Change{Put: []sts.Resource{
		{Issuer: &sts.Issuer{Name: "idp", Issuer: "https://idp.example.com", SingleUse: true}},
		rule("pod-token", policy.Rule{Requester: policy.Requester{Clients: []string{"web"}}, Subject: &policy.Party{Issuer: "idp", Claims: map[string]any{"sub": "pod-1"}}, Allow: allow("api", "read")}),
	}})
	exchange := func(token string) sts.TokenRequest {
		r := f.credentials("web")
		r.Grant, r.Audiences, r.Subject = sts.TokenExchange, []string{"api"}, sts.Presented{Token: token, Type: sts.JWT}
		return r
	}
	token := f.federatedToken(t, "pod", nil, nil)
	f.token(t, by(token))
	f.assertRefused(t, by(token), sts.InvalidClient)
	f.assertRefused(t, exchange(token), sts.InvalidRequest)
	token = f.federatedToken(t, "pod", nil, nil)
	f.token(t, exchange(token))
	f.assertRefused(t, by(token), sts.InvalidClient)
}
