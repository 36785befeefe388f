package sts_test

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/workload-sts/sts/internal/ststest"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

const registration = selfIssuer + "/oauth2/register"

// newRegistrationFixture lets the client web register by the templates agents and
// partners, the second of which needs a software statement of the idp. Clients with
// the label tier: agent may read at api.
func newRegistrationFixture(t testing.TB) *fixture {
	t.Helper()
	f := newFixture(t)
	f.registered = ststest.NewRegistrations()
	f.restart(t, nil)
	f.apply(t, sts.Change{Put: []sts.Resource{
		{ClientTemplate: f.agents()},
		{ClientTemplate: &sts.ClientTemplate{
			Name: "partners", Methods: []sts.AuthMethod{sts.SecretBasic}, Labels: map[string]string{"tier": "partner"},
			Statement: &sts.SoftwareStatement{Issuer: "idp", Claims: map[string]any{"sub": "catalogue", "approved": true}},
		}},
		{Audience: &sts.Audience{Name: "registration", Identifiers: []string{registration}, Scopes: []string{"sts.register.agents", "sts.register.partners"}}},
		rule("registrars", policy.Rule{Requester: policy.Requester{Clients: []string{"web"}}, Allow: allow("registration", "sts.register.agents", "sts.register.partners")}),
		rule("agents", policy.Rule{Requester: policy.Requester{Labels: map[string]string{"tier": "agent"}}, Allow: allow("api", "read")}),
	}})
	return f
}

func (f *fixture) agents() *sts.ClientTemplate {
	return &sts.ClientTemplate{
		Name: "agents", Methods: []sts.AuthMethod{sts.SecretBasic, sts.PrivateKeyJWT, sts.TLSClientAuth}, JWKSHosts: []string{"keys.example.com", "*.agents.example.com"},
		Labels: map[string]string{"tier": "agent"}, MaxClients: 5, ExpireUnused: 10 * time.Hour, MaxLifetime: 1000 * time.Hour,
	}
}

// initial is an initial access token of the client web.
func (f *fixture) initial(t testing.TB, scope string) string {
	t.Helper()
	r := f.credentials("web")
	r.Audiences, r.Scope = []string{registration}, scope
	token, _ := f.token(t, r)
	return token.Value
}

func bearer(token string) sts.TokenUse {
	return sts.TokenUse{Scheme: sts.SchemeBearer, Token: token, Source: sts.Source{Peer: "192.0.2.1"}}
}

// register registers a client that must be accepted.
func (f *fixture) register(t testing.TB, template string, metadata map[string]any) sts.Registered {
	t.Helper()
	done, err := f.service.Register(t.Context(), sts.RegistrationRequest{Use: bearer(f.initial(t, "sts.register."+template)), Metadata: metadata})
	if err != nil {
		t.Fatalf("%v; record %+v", err, f.audit.last())
	}
	return done
}

// as is a client credentials request of a registered client by its secret.
func as(done sts.Registered) sts.TokenRequest {
	return sts.TokenRequest{
		Grant: sts.ClientCredentials, Audiences: []string{"api"},
		Credential: sts.Credential{Method: sts.SecretBasic, ClientID: done.Name, Secret: done.ClientSecret},
	}
}

// refusedBy holds what every refusal has in common: nothing is registered or
// changed, and the record denies it and has no secret.
func (f *fixture) refusedBy(t testing.TB, want sts.Code, secrets []string, do func() error) *sts.Error {
	t.Helper()
	before := f.registered.All()
	err := do()
	e, ok := errors.AsType[*sts.Error](err)
	if !ok || e.Code != want || e.Decision == "" {
		t.Fatalf("%v, want %s", err, want)
	}
	if !maps.Equal(before, f.registered.All()) {
		t.Error("what is registered has changed")
	}
	rec := f.audit.last()
	if rec.Event != sts.EventRegister || rec.Outcome != "deny" || rec.Error != want || rec.Decision != e.Decision || rec.Registration == nil {
		t.Errorf("record %+v", rec)
	}
	line, err := json.Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range secrets {
		if secret != "" && strings.Contains(string(line)+e.Message, secret) {
			t.Errorf("a secret came out: %s %s", line, e.Message)
		}
	}
	return e
}

// TestRegistration registers a client, which then gets what the labels of its
// template let it have, and nothing else; and reads, changes and deletes it.
func TestRegistration(t *testing.T) {
	f := newRegistrationFixture(t)
	done := f.register(t, "agents", map[string]any{
		"client_name": "Agent <script>", "software_id": "s1", "contacts": []any{"a@example.com"}, "redirect_uris": []any{"https://a.example.com/cb"},
		"client_id": "web", "client_secret": canary, "labels": map[string]any{"tier": "admin"}, "audiences": []any{"api"},
		"internal.admin": true, "scope": "admin",
	})
	members := done.Members()
	if !strings.HasPrefix(done.Name, "agents~") || len(done.Name) != len("agents~")+26 || members["client_id"] != done.Name {
		t.Errorf("client_id %q", done.Name)
	}
	if len(done.ClientSecret) < 43 || done.ClientSecret == canary || members["client_secret"] != done.ClientSecret || members["client_secret_expires_at"] != f.now.Add(1000*time.Hour).Unix() {
		t.Errorf("secret %v", members)
	}
	if members["registration_client_uri"] != registration+"/"+done.Name || members["scope"] != nil || members["internal.admin"] != nil || members["labels"] != nil || members["contacts"] != nil {
		t.Errorf("members %v", members)
	}
	rec := f.audit.last()
	if rec.Event != sts.EventRegister || rec.Outcome != "allow" || rec.Registration.Client != done.Name || rec.Registration.Template != "agents" || rec.Subject.Sub != "web" {
		t.Errorf("record %+v %+v", rec, rec.Registration)
	}
	kept, err := json.Marshal([]any{f.registered.All()[done.Name], rec})
	if err != nil || strings.Contains(string(kept), done.ClientSecret) || strings.Contains(string(kept), done.AccessToken) {
		t.Errorf("a secret is kept: %s", kept)
	}
	token, claims := f.token(t, as(done))
	if claims["sub"] != done.Name || claims["scope"] != "read" {
		t.Errorf("claims %v", claims)
	}
	other := as(done)
	other.Audiences = []string{"web"}
	f.assertRefused(t, other, sts.InvalidTarget)

	own := sts.RegistrationRequest{Use: bearer(done.AccessToken), ClientID: done.Name}
	read, err := f.service.ReadRegistration(t.Context(), own)
	if err != nil || read.Name != done.Name || read.ClientSecret != "" || read.Metadata.Name != "Agent <script>" || read.AccessToken != done.AccessToken {
		t.Fatalf("%+v, %v", read, err)
	}
	t.Run("a change without the secret makes a new one", func(t *testing.T) {
		change := own
		change.Metadata = map[string]any{"client_id": done.Name, "client_name": "new"}
		changed, err := f.service.UpdateRegistration(t.Context(), change)
		if err != nil || changed.ClientSecret == "" || changed.ClientSecret == done.ClientSecret || changed.Metadata.SoftwareID != "" {
			t.Fatalf("%+v, %v", changed, err)
		}
		f.assertRefused(t, as(done), sts.InvalidClient)
		done.ClientSecret = changed.ClientSecret
		f.token(t, as(done))
		change.Metadata["client_secret"] = done.ClientSecret
		if changed, err = f.service.UpdateRegistration(t.Context(), change); err != nil || changed.ClientSecret != "" {
			t.Fatalf("%+v, %v", changed, err)
		}
		f.token(t, as(done))
	})
	t.Run("R-12 deleted", func(t *testing.T) {
		if active := f.introspected(t, token.Value); !active {
			t.Fatal("not active before it is deleted")
		}
		if _, err := f.service.DeleteRegistration(t.Context(), own); err != nil {
			t.Fatal(err)
		}
		if rec := f.audit.last(); rec.Outcome != "allow" || rec.Registration.Action != "delete" {
			t.Errorf("record %+v", rec)
		}
		f.assertRefused(t, as(done), sts.InvalidClient)
		if f.introspected(t, token.Value) {
			t.Error("its token is active")
		}
		f.refusedBy(t, sts.Unauthenticated, nil, func() error { _, err := f.service.ReadRegistration(t.Context(), own); return err })
	})
}

// introspected tells whether the client api is told that a token is active.
func (f *fixture) introspected(t testing.TB, token string) bool {
	t.Helper()
	found, err := f.service.Introspect(t.Context(), sts.IntrospectionRequest{Caller: f.credentials("api"), Token: token})
	if err != nil {
		t.Fatal(err)
	}
	return found.Active
}

// TestRegistrationMetadata edits a good registration in one way each.
func TestRegistrationMetadata(t *testing.T) {
	f := newRegistrationFixture(t)
	private := map[string]any{"keys": []any{map[string]any{"kty": "EC", "crv": "P-256", "kid": "k", "x": canary, "y": "x", "d": canary}}}
	rows := map[string]struct {
		edit map[string]any
		code sts.Code
	}{
		"good":        {code: ""},
		"good by key": {edit: map[string]any{"token_endpoint_auth_method": "private_key_jwt", "client_name": nil, "jwks": f.jwksObject(t)}},
		"good by uri": {edit: map[string]any{"token_endpoint_auth_method": "private_key_jwt", "jwks_uri": "https://a.agents.example.com/jwks"}},
		"good by tls": {edit: map[string]any{"token_endpoint_auth_method": "tls_client_auth", "tls_client_auth_san_dns": "a.example.com"}},

		"R-06 jwks and jwks_uri":       {map[string]any{"token_endpoint_auth_method": "private_key_jwt", "jwks": f.jwksObject(t), "jwks_uri": "https://keys.example.com/jwks"}, sts.InvalidClientMetadata},
		"R-07 another method":          {map[string]any{"token_endpoint_auth_method": "self_signed_tls_client_auth", "jwks": f.jwksObject(t)}, sts.InvalidClientMetadata},
		"R-07 no method":               {map[string]any{"token_endpoint_auth_method": "none"}, sts.InvalidClientMetadata},
		"R-07 another grant":           {map[string]any{"grant_types": []any{"authorization_code"}}, sts.InvalidClientMetadata},
		"response types":               {map[string]any{"response_types": []any{"code"}}, sts.InvalidClientMetadata},
		"J-57 private key":             {map[string]any{"token_endpoint_auth_method": "private_key_jwt", "jwks": private}, sts.InvalidClientMetadata},
		"no keys":                      {map[string]any{"token_endpoint_auth_method": "private_key_jwt"}, sts.InvalidClientMetadata},
		"empty key set":                {map[string]any{"token_endpoint_auth_method": "private_key_jwt", "jwks": map[string]any{"keys": []any{}}}, sts.InvalidClientMetadata},
		"jwks as text":                 {map[string]any{"token_endpoint_auth_method": "private_key_jwt", "jwks": "{}"}, sts.InvalidClientMetadata},
		"keys beside a secret":         {map[string]any{"jwks": f.jwksObject(t)}, sts.InvalidClientMetadata},
		"symmetric alg":                {map[string]any{"token_endpoint_auth_method": "private_key_jwt", "jwks": f.jwksObject(t), "token_endpoint_auth_signing_alg": "HS256"}, sts.InvalidClientMetadata},
		"two names of a certificate":   {map[string]any{"token_endpoint_auth_method": "tls_client_auth", "tls_client_auth_san_dns": "a.example.com", "tls_client_auth_san_ip": "192.0.2.1"}, sts.InvalidClientMetadata},
		"wildcard of a certificate":    {map[string]any{"token_endpoint_auth_method": "tls_client_auth", "tls_client_auth_san_dns": "*.example.com"}, sts.InvalidClientMetadata},
		"SPIFFE ID as a URI":           {map[string]any{"token_endpoint_auth_method": "tls_client_auth", "tls_client_auth_san_uri": "spiffe://example.org/a"}, sts.InvalidClientMetadata},
		"R-14 long name":               {map[string]any{"client_name": strings.Repeat("x", 1<<20)}, sts.InvalidClientMetadata},
		"R-14 right to left":           {map[string]any{"client_name": "a\u202egnp.exe"}, sts.InvalidClientMetadata},
		"R-14 line break":              {map[string]any{"client_name": "a\nb"}, sts.InvalidClientMetadata},
		"R-14 name of another type":    {map[string]any{"client_name": []any{"a"}}, sts.InvalidClientMetadata},
		"statement that nobody trusts": {map[string]any{"software_statement": "e30.e30.x"}, sts.UnapprovedSoftwareStatement},
	}
	for _, uri := range []string{
		"http://keys.example.com/jwks", "file:///etc/passwd", "data:application/json,{}", "gopher://keys.example.com", "javascript:alert(1)",
	} {
		rows["R-02 "+uri] = struct {
			edit map[string]any
			code sts.Code
		}{map[string]any{"token_endpoint_auth_method": "private_key_jwt", "jwks_uri": uri}, sts.InvalidClientMetadata}
	}
	for _, host := range []string{
		"127.0.0.1", "localhost", "[::1]", "0.0.0.0", "169.254.169.254", "10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "[fd00::1]", "[::ffff:127.0.0.1]",
		"2130706433", "0x7f.1", "127.1", "keys.example.com.evil.example.net", "evil.example.net", "user@keys.example.com", "keys.example.com:22", "keys.example.com.",
		"KEYS.example.com", "a.b.agents.example.com", "agents.example.com", ".agents.example.com", "keys.example.com%2f@evil.example.net", `keys.example.com\@evil.example.net`,
		"169.254.169.254#keys.example.com", "x.agents.example.com@evil.example.net",
	} {
		rows["R-03 "+host] = struct {
			edit map[string]any
			code sts.Code
		}{map[string]any{"token_endpoint_auth_method": "private_key_jwt", "jwks_uri": "https://" + host + "/jwks"}, sts.InvalidClientMetadata}
	}
	f.apply(t, sts.Change{Put: []sts.Resource{{ClientTemplate: func() *sts.ClientTemplate { a := f.agents(); a.MaxPerMinute = 6000; return a }()}}})
	for name, tc := range rows {
		t.Run(name, func(t *testing.T) {
			metadata := map[string]any{"client_name": "agent"}
			maps.Copy(metadata, tc.edit)
			req := sts.RegistrationRequest{Use: bearer(f.initial(t, "sts.register.agents")), Metadata: metadata}
			if tc.code == "" {
				done := f.register(t, "agents", metadata)
				if _, err := f.service.DeleteRegistration(t.Context(), sts.RegistrationRequest{Use: bearer(done.AccessToken), ClientID: done.Name}); err != nil {
					t.Fatal(err)
				}
				return
			}
			f.refusedBy(t, tc.code, []string{canary}, func() error { _, err := f.service.Register(t.Context(), req); return err })
		})
	}
}

func (f *fixture) jwksObject(t testing.TB) map[string]any {
	t.Helper()
	var out map[string]any
	if err := json.Unmarshal([]byte(f.clients.jwks(t, "k1")), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestInitialAccess registers with tokens that are no good initial access tokens
//
func TestInitialAccess(t *testing.T) {
	f := newRegistrationFixture(t)
	good := f.initial(t, "sts.register.agents")
	ordinary, _ := f.token(t, f.credentials("web"))
	both := f.initial(t, "sts.register.agents sts.register.partners")
	expired := f.initial(t, "sts.register.agents")
	for name, tc := range map[string]struct {
		use  sts.TokenUse
		code sts.Code
	}{
		"none":             {sts.TokenUse{}, sts.Unauthenticated},
		"garbage":          {bearer("garbage"), sts.Unauthenticated},
		"changed":          {bearer(good[:len(good)-8] + "AAAAAAAA"), sts.Unauthenticated},
		"another audience": {bearer(ordinary.Value), sts.Unauthenticated},
		"two templates":    {bearer(both), sts.InsufficientScope},
		"of an issuer":     {bearer(f.foreign(t, "idp", nil, map[string]any{"aud": registration, "scope": "sts.register.agents"})), sts.Unauthenticated},
		"DPoP scheme":      {sts.TokenUse{Scheme: sts.SchemeDPoP, Token: good}, sts.Unauthenticated},
	} {
		t.Run("R-01 "+name, func(t *testing.T) {
			f.refusedBy(t, tc.code, []string{tc.use.Token}, func() error {
				_, err := f.service.Register(t.Context(), sts.RegistrationRequest{Use: tc.use, Metadata: map[string]any{}})
				return err
			})
		})
	}
	register := func(token string) error {
		_, err := f.service.Register(t.Context(), sts.RegistrationRequest{Use: bearer(token), Metadata: map[string]any{}})
		return err
	}
	t.Run("R-01 revoked", func(t *testing.T) {
		if _, err := f.service.Revoke(t.Context(), sts.Principal{Name: "test"}, sts.Revoke{Kind: sts.RevokeToken, Token: both, Reason: "test"}); err != nil {
			t.Fatal(err)
		}
		f.refusedBy(t, sts.Unauthenticated, []string{both}, func() error { return register(both) })
	})
	t.Run("R-01 used up", func(t *testing.T) {
		once := f.agents()
		once.SingleUse = true
		f.apply(t, sts.Change{Put: []sts.Resource{{ClientTemplate: once}}})
		if err := register(good); err != nil {
			t.Fatal(err)
		}
		f.refusedBy(t, sts.Unauthenticated, []string{good}, func() error { return register(good) })
		// What was refused for another reason has not used it up.
		another := f.initial(t, "sts.register.agents")
		f.refusedBy(t, sts.InvalidClientMetadata, nil, func() error {
			_, err := f.service.Register(t.Context(), sts.RegistrationRequest{Use: bearer(another), Metadata: map[string]any{"token_endpoint_auth_method": "none"}})
			return err
		})
		if err := register(another); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("R-01 expired", func(t *testing.T) {
		f.now = f.now.Add(2 * time.Hour)
		f.refusedBy(t, sts.Unauthenticated, []string{expired}, func() error { return register(expired) })
	})
	t.Run("template is gone", func(t *testing.T) {
		token := f.initial(t, "sts.register.partners")
		f.apply(t, sts.Change{Put: []sts.Resource{
			{Audience: &sts.Audience{Name: "registration", Identifiers: []string{registration}, Scopes: []string{"sts.register.agents"}}},
			rule("registrars", policy.Rule{Requester: policy.Requester{Clients: []string{"web"}}, Allow: allow("registration", "sts.register.agents")}),
		}, Delete: []sts.Ref{{Kind: sts.KindClientTemplate, Name: "partners"}}})
		f.refusedBy(t, sts.Unauthenticated, nil, func() error { return register(token) })
	})
}

// TestInitialAccessBound registers with a token that is bound to a key.
func TestInitialAccessBound(t *testing.T) {
	f := newRegistrationFixture(t)
	p := newProver(t)
	r := f.credentials("web")
	r.Audiences, r.Scope = []string{registration}, "sts.register.agents"
	token, _ := f.token(t, proven(r, p.proof(t, f, nil, nil)))
	if token.Scheme != "DPoP" {
		t.Fatal(token.Scheme)
	}
	f.refusedBy(t, sts.Unauthenticated, []string{token.Value}, func() error {
		_, err := f.service.Register(t.Context(), sts.RegistrationRequest{Use: bearer(token.Value), Metadata: map[string]any{}})
		return err
	})
	use := bearer(token.Value)
	use.Scheme, use.ProofTarget = sts.SchemeDPoP, sts.ProofTarget{Method: "POST", URI: registration}
	use.Proof = p.proof(t, f, nil, map[string]any{"htu": registration, "ath": ath(token.Value)})
	if _, err := f.service.Register(t.Context(), sts.RegistrationRequest{Use: use, Metadata: map[string]any{}}); err != nil {
		t.Fatal(err)
	}
	f.refusedBy(t, sts.InvalidDPoPProof, []string{token.Value, use.Proof}, func() error {
		_, err := f.service.Register(t.Context(), sts.RegistrationRequest{Use: use, Metadata: map[string]any{}})
		return err
	})
}

// TestSoftwareStatement registers with statements that are good, and with others.
// What they say counts more than the request.
func TestSoftwareStatement(t *testing.T) {
	f := newRegistrationFixture(t)
	statement := func(edit map[string]any) string {
		claims := map[string]any{"sub": "catalogue", "approved": true, "client_name": "Known", "software_id": "id-1"}
		maps.Copy(claims, edit)
		return f.foreign(t, "idp", nil, claims)
	}
	register := func(metadata map[string]any) error {
		_, err := f.service.Register(t.Context(), sts.RegistrationRequest{Use: bearer(f.initial(t, "sts.register.partners")), Metadata: metadata})
		return err
	}
	done := f.register(t, "partners", map[string]any{"software_statement": statement(nil), "client_name": "Unknown", "software_version": "2"})
	if m := done.Metadata; m.Name != "Known" || m.SoftwareID != "id-1" || m.SoftwareVersion != "2" {
		t.Errorf("%+v", m)
	}
	if rec := f.audit.last().Registration; rec.Statement == nil || rec.Statement.Unverified || rec.Statement.Sub != "catalogue" {
		t.Errorf("record %+v", rec)
	}
	for name, tc := range map[string]struct {
		metadata map[string]any
		code     sts.Code
	}{
		"none":             {nil, sts.InvalidSoftwareStatement},
		"not a string":     {map[string]any{"software_statement": 1.0}, sts.InvalidSoftwareStatement},
		"garbage":          {map[string]any{"software_statement": "x"}, sts.InvalidSoftwareStatement},
		"expired":          {map[string]any{"software_statement": statement(map[string]any{"exp": f.now.Unix() - 600})}, sts.InvalidSoftwareStatement},
		"for another":      {map[string]any{"software_statement": statement(map[string]any{"aud": "https://other.example.com"})}, sts.InvalidSoftwareStatement},
		"other claims":     {map[string]any{"software_statement": statement(map[string]any{"approved": "true"})}, sts.UnapprovedSoftwareStatement},
		"other issuer":     {map[string]any{"software_statement": f.foreign(t, "ci", nil, map[string]any{"sub": "catalogue", "approved": true})}, sts.UnapprovedSoftwareStatement},
		"beyond its bound": {map[string]any{"software_statement": statement(map[string]any{"token_endpoint_auth_method": "private_key_jwt"})}, sts.InvalidClientMetadata},
	} {
		t.Run(name, func(t *testing.T) {
			text, _ := tc.metadata["software_statement"].(string)
			if len(text) < 20 {
				text = ""
			}
			f.refusedBy(t, tc.code, []string{text}, func() error { return register(tc.metadata) })
		})
	}
	t.Run("R-08 a change needs it as well", func(t *testing.T) {
		change := sts.RegistrationRequest{Use: bearer(done.AccessToken), ClientID: done.Name, Metadata: map[string]any{"client_id": done.Name}}
		f.refusedBy(t, sts.InvalidSoftwareStatement, nil, func() error { _, err := f.service.UpdateRegistration(t.Context(), change); return err })
	})
	t.Run("once, if the Issuer says so", func(t *testing.T) {
		f.apply(t, sts.Change{Put: []sts.Resource{{Issuer: &sts.Issuer{Name: "idp", Issuer: "https://idp.example.com", SingleUse: true}}}})
		s := map[string]any{"software_statement": statement(nil)}
		if err := register(s); err != nil {
			t.Fatal(err)
		}
		f.refusedBy(t, sts.InvalidSoftwareStatement, nil, func() error { return register(s) })
	})
}

// TestRegistrationToken uses registration access tokens where they do not belong.
func TestRegistrationToken(t *testing.T) {
	f := newRegistrationFixture(t)
	a, b := f.register(t, "agents", nil), f.register(t, "agents", nil)
	read := func(token, client string) error {
		_, err := f.service.ReadRegistration(t.Context(), sts.RegistrationRequest{Use: bearer(token), ClientID: client})
		return err
	}
	for name, token := range map[string]string{
		"none": "", "garbage": "not-a-token", "cut": b.AccessToken[:len(b.AccessToken)-1], "of nobody": "stsr_agents~0000.xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
		"an initial access token": f.initial(t, "sts.register.agents"), "the client's secret": b.ClientSecret,
	} {
		t.Run(name, func(t *testing.T) {
			e := f.refusedBy(t, sts.Unauthenticated, []string{token}, func() error { return read(token, b.Name) })
			unknown := f.refusedBy(t, sts.Unauthenticated, []string{token}, func() error { return read(token, "agents~nobody") })
			if e.Message != unknown.Message {
				t.Errorf("%q tells a client from one that is not there: %q", e.Message, unknown.Message)
			}
		})
	}
	for field, value := range map[string]any{
		"registration_access_token": a.AccessToken, "client_id_issued_at": 1.0, "client_secret_expires_at": 0.0, "registration_client_uri": a.URI, "client_id": b.Name, "client_secret": b.ClientSecret,
	} {
		t.Run("change with "+field, func(t *testing.T) {
			metadata := map[string]any{"client_id": a.Name, field: value}
			f.refusedBy(t, sts.InvalidClientMetadata, []string{a.AccessToken, b.ClientSecret}, func() error {
				_, err := f.service.UpdateRegistration(t.Context(), sts.RegistrationRequest{Use: bearer(a.AccessToken), ClientID: a.Name, Metadata: metadata})
				return err
			})
		})
	}
	t.Run("R-08 a change beyond the template", func(t *testing.T) {
		metadata := map[string]any{"client_id": a.Name, "client_secret": a.ClientSecret, "grant_types": []any{"client_credentials"}, "token_endpoint_auth_method": "client_secret_post"}
		f.refusedBy(t, sts.InvalidClientMetadata, []string{a.ClientSecret}, func() error {
			_, err := f.service.UpdateRegistration(t.Context(), sts.RegistrationRequest{Use: bearer(a.AccessToken), ClientID: a.Name, Metadata: metadata})
			return err
		})
	})
	t.Run("R-10 of another client", func(t *testing.T) {
		if err := read(a.AccessToken, b.Name); err == nil {
			t.Fatal("accepted")
		}
		f.refusedBy(t, sts.Unauthenticated, []string{a.AccessToken}, func() error { return read(a.AccessToken, a.Name) })
		if err := read(b.AccessToken, b.Name); err != nil {
			t.Error(err)
		}
		f.token(t, as(a)) // it goes on working
	})
}

// TestTemplateBounds changes a template under its clients.
func TestTemplateBounds(t *testing.T) {
	f := newRegistrationFixture(t)
	secret := f.register(t, "agents", nil)
	put := func(edit func(*sts.ClientTemplate)) {
		t.Helper()
		a := f.agents()
		edit(a)
		f.apply(t, sts.Change{Put: []sts.Resource{{ClientTemplate: a}}})
	}
	works := func(want bool) {
		t.Helper()
		if want {
			f.token(t, as(secret))
			return
		}
		f.assertRefused(t, as(secret), sts.InvalidClient)
		page, _ := f.service.RegisteredClients("agents", "", 10)
		if len(page) != 1 || page[0].Unfit == "" {
			t.Errorf("%+v", page)
		}
	}
	works(true)
	put(func(a *sts.ClientTemplate) { a.Methods = []sts.AuthMethod{sts.PrivateKeyJWT} })
	works(false)
	put(func(*sts.ClientTemplate) {})
	works(true)
	put(func(a *sts.ClientTemplate) { a.GrantTypes = []sts.GrantType{sts.TokenExchange} })
	works(false)
	put(func(a *sts.ClientTemplate) { a.Statement = &sts.SoftwareStatement{Issuer: "idp"} })
	works(false)
	put(func(a *sts.ClientTemplate) { a.Labels = nil })
	f.assertRefused(t, as(secret), sts.UnauthorizedClient)
	put(func(a *sts.ClientTemplate) { a.DPoPBound = true })
	f.assertRefused(t, as(secret), sts.InvalidDPoPProof)
	put(func(a *sts.ClientTemplate) { a.MaxClients = 1 })
	works(true)
	e := f.refusedBy(t, sts.TooManyRequests, nil, func() error {
		_, err := f.service.Register(t.Context(), sts.RegistrationRequest{Use: bearer(f.initial(t, "sts.register.agents")), Metadata: map[string]any{}})
		return err
	})
	if e.RetryAfter == 0 {
		t.Error("it does not say when to come back")
	}
	f.apply(t, sts.Change{Put: []sts.Resource{
		{Audience: &sts.Audience{Name: "registration", Identifiers: []string{registration}, Scopes: []string{"sts.register.partners"}}},
		rule("registrars", policy.Rule{Requester: policy.Requester{Clients: []string{"web"}}, Allow: allow("registration", "sts.register.partners")}),
	}, Delete: []sts.Ref{{Kind: sts.KindClientTemplate, Name: "agents"}}})
	works(false)
}

// TestRegistrationGrants holds a client to the grants that it registered for.
func TestRegistrationGrants(t *testing.T) {
	f := newRegistrationFixture(t)
	done := f.register(t, "agents", map[string]any{"grant_types": []any{string(sts.TokenExchange)}})
	f.assertRefused(t, as(done), sts.UnauthorizedClient)
}

// TestRegistrationRate registers too fast.
func TestRegistrationRate(t *testing.T) {
	f := newRegistrationFixture(t)
	a := f.agents()
	a.MaxClients, a.MaxPerMinute = 1000, 10
	f.apply(t, sts.Change{Put: []sts.Resource{{ClientTemplate: a}}})
	token := f.initial(t, "sts.register.agents")
	register := func() error {
		_, err := f.service.Register(t.Context(), sts.RegistrationRequest{Use: bearer(token), Metadata: map[string]any{}})
		return err
	}
	for range 10 {
		if err := register(); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		if e := f.refusedBy(t, sts.TooManyRequests, nil, register); e.RetryAfter < time.Second || e.RetryAfter > 6*time.Second {
			t.Fatalf("come back after %s", e.RetryAfter)
		}
	}
	f.now = f.now.Add(6 * time.Second)
	if err := register(); err != nil {
		t.Error(err)
	}
	f.refusedBy(t, sts.TooManyRequests, nil, register)
}

// TestRegistrationUnrecorded holds that nothing is registered that cannot be
// recorded, and that what cannot be stored is recorded as denied.
func TestRegistrationUnrecorded(t *testing.T) {
	f := newRegistrationFixture(t)
	use := bearer(f.initial(t, "sts.register.agents"))
	f.audit.err = errors.New("disk full")
	if _, err := f.service.Register(t.Context(), sts.RegistrationRequest{Use: use, Metadata: map[string]any{}}); err == nil || len(f.registered.All()) > 0 {
		t.Fatalf("%v, %d registered", err, len(f.registered.All()))
	}
	f.audit.err = nil
	f.registered.Break(errors.New("no store"))
	e := f.refusedBy(t, sts.Unavailable, nil, func() error {
		_, err := f.service.Register(t.Context(), sts.RegistrationRequest{Use: use, Metadata: map[string]any{}})
		return err
	})
	n := len(f.audit.records)
	if before := f.audit.records[n-2]; before.Decision != e.Decision || before.Outcome != "allow" {
		t.Errorf("the record before is %+v", before)
	}
}

// TestRegistrationDeletedUnrecorded holds that an audit log that does not work holds
// up no deletion, by the client itself or an administrator, and that it is recorded
// when the log works again. One that could not be done is recorded as such.
func TestRegistrationDeletedUnrecorded(t *testing.T) {
	full := errors.New("no space left on device")
	for name, del := range map[string]func(f *fixture, client sts.Registered) (sts.Registered, error){
		"by itself": func(f *fixture, client sts.Registered) (sts.Registered, error) {
			return f.service.DeleteRegistration(t.Context(), sts.RegistrationRequest{Use: bearer(client.AccessToken), ClientID: client.Name})
		},
		"by an administrator": func(f *fixture, client sts.Registered) (sts.Registered, error) {
			return f.service.DeleteRegisteredClient(t.Context(), admin, client.Name)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newRegistrationFixture(t)
			client, other := f.register(t, "agents", nil), f.register(t, "agents", nil)
			token, _ := f.token(t, as(client))
			f.audit.fail(full)
			done, err := del(f, client)
			if err != nil || !errors.Is(done.Unrecorded, full) || done.Decision == "" {
				t.Fatalf("deleted with %v, unrecorded because of %v", err, done.Unrecorded)
			}
			f.audit.fail(nil)
			if f.introspected(t, token.Value) {
				t.Error("its token is active")
			}
			before := len(f.audit.records)
			f.runOnce(t)
			if late := f.audit.last(); len(f.audit.records) != before+1 || !late.Late || late.Outcome != "allow" || late.Decision != done.Decision || late.Registration.Action != "delete" || late.Registration.Client != client.Name || late.Registration.Template != "agents" {
				t.Fatalf("recorded late: %+v", late)
			}
			f.registered.Break(errors.New("no store"))
			before = len(f.audit.records)
			if _, err := del(f, other); codeOf(err) != sts.Unavailable {
				t.Errorf("%v", err)
			}
			if got := f.audit.records[before:]; len(got) != 2 || got[0].Outcome != "allow" || got[1].Outcome != "deny" || got[0].Decision != got[1].Decision {
				t.Errorf("recorded %+v", got)
			}
		})
	}
}

// TestRegistrationExpires lets clients go that nobody uses, and keeps those that
// somebody does, on two nodes with one store.
func TestRegistrationExpires(t *testing.T) {
	f := newRegistrationFixture(t)
	here := f.service
	f.restart(t, nil) // another node
	there := f.service
	used, unused := f.register(t, "agents", nil), f.register(t, "agents", nil)
	begin := f.now
	for f.now.Sub(begin) < 30*time.Hour {
		f.now = f.now.Add(90 * time.Minute)
		f.service = here
		f.token(t, as(used))
		here.Renew(t.Context())
		there.Renew(t.Context())
		f.registered.Expire(f.now)
		f.service = there
		if f.now.Sub(begin) < 10*time.Hour {
			f.registeredIs(t, unused.Name, true)
		}
	}
	f.registeredIs(t, unused.Name, false)
	f.assertRefused(t, as(unused), sts.InvalidClient)
	f.token(t, as(used))
	before := len(f.audit.records)
	f.audit.fail(errors.New("disk full"))
	f.runOnce(t)
	f.audit.fail(nil)
	f.runOnce(t) // each node says once what it has seen go
	f.runOnce(t)
	if got := f.audit.records[before:]; len(got) != 1 || got[0].Event != sts.EventRegister || got[0].Outcome != "allow" || got[0].Decision == "" ||
		got[0].Registration.Action != "expire" || got[0].Registration.Client != unused.Name || got[0].Registration.Template != "agents" || !strings.Contains(got[0].Reason, "since "+begin.UTC().Format(time.RFC3339)) {
		t.Errorf("records of what expired: %+v", got)
	}
	if n := len(f.registered.All()); n != 1 {
		t.Errorf("%d are kept", n)
	}
	// Its time comes as well: the store is late, and it does not count.
	f.now = begin.Add(1000 * time.Hour)
	f.assertRefused(t, as(used), sts.InvalidClient)
	f.refusedBy(t, sts.Unauthenticated, nil, func() error {
		_, err := f.service.ReadRegistration(t.Context(), sts.RegistrationRequest{Use: bearer(used.AccessToken), ClientID: used.Name})
		return err
	})
	f.registered.Expire(f.now)
	f.runOnce(t)
	old := f.register(t, "agents", nil)
	for begin = f.now; f.now.Sub(begin) < 1000*time.Hour; f.now = f.now.Add(9 * time.Hour) {
		f.token(t, as(old))
		f.service.Renew(t.Context())
	}
	f.registered.Expire(f.now)
	f.runOnce(t)
	if last := f.audit.last(); last.Registration == nil || last.Registration.Action != "expire" || last.Registration.Client != old.Name || !strings.Contains(last.Reason, "max_lifetime") {
		t.Errorf("record of who was used to the end: %+v", last)
	}
	// What is deleted before its time has not expired.
	deleted := f.register(t, "agents", nil)
	if _, err := here.DeleteRegisteredClient(t.Context(), admin, deleted.Name); err != nil {
		t.Fatal(err)
	}
	before = len(f.audit.records)
	f.runOnce(t)
	if got := f.audit.records[before:]; len(got) > 0 {
		t.Errorf("recorded %+v", got)
	}
}

// TestRegistrationUsedLast holds that a client is not forgotten that was used just
// before the service ended.
func TestRegistrationUsedLast(t *testing.T) {
	f := newRegistrationFixture(t)
	client := f.register(t, "agents", nil)
	f.now = f.now.Add(2 * time.Hour)
	f.runOnce(t)
	f.token(t, as(client))
	f.runOnce(t)
	f.now = f.now.Add(10 * time.Hour) // it would have expired by now
	f.registered.Expire(f.now)
	f.restart(t, nil)
	f.token(t, as(client))
}

// runOnce does what runs beside requests, once.
func (f *fixture) runOnce(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.service.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) registeredIs(t *testing.T, name string, want bool) {
	t.Helper()
	page, _ := f.service.RegisteredClients("", "", 100)
	if got := slices.ContainsFunc(page, func(c sts.RegisteredClient) bool { return c.Name == name }); got != want {
		t.Fatalf("after %s: %s is registered: %t", f.now, name, got)
	}
}

// TestRegisteredByKey authenticates clients by keys that they registered, or
// publish.
func TestRegisteredByKey(t *testing.T) {
	f := newRegistrationFixture(t)
	inline := f.register(t, "agents", map[string]any{"token_endpoint_auth_method": "private_key_jwt", "jwks": f.jwksObject(t)})
	f.clients.signers[inline.Name] = f.clients.signers["signer"]
	published := f.register(t, "agents", map[string]any{"token_endpoint_auth_method": "private_key_jwt", "jwks_uri": "https://keys.example.com/jwks", "token_endpoint_auth_signing_alg": "ES256"})
	f.clients.signers[published.Name] = f.clients.signers["publisher"]
	for name, kid := range map[string]string{inline.Name: "k1", published.Name: published.Name + "-1"} {
		r := sts.TokenRequest{Grant: sts.ClientCredentials, Audiences: []string{"api"}, Credential: sts.Credential{
			Method: sts.PrivateKeyJWT, AssertionType: sts.JWTBearer, Assertion: f.assertionOf(t, f.clients.signers[name], name, kid),
		}}
		if _, claims := f.token(t, r); claims["client_id"] != name {
			t.Errorf("claims %v", claims)
		}
	}
	if k := f.clients.trusted[published.Name]; k == nil || k.JWKSURI != "https://keys.example.com/jwks" || k.InsecureHTTP || len(k.AllowNetworks) > 0 {
		t.Errorf("%+v", k)
	}
	if _, err := f.service.DeleteRegistration(t.Context(), sts.RegistrationRequest{Use: bearer(published.AccessToken), ClientID: published.Name}); err != nil {
		t.Fatal(err)
	}
	if f.clients.trusted[published.Name] != nil {
		t.Error("keys of a client that is gone can be fetched")
	}
}

// assertionOf is an assertion by a key.
func (f *fixture) assertionOf(t testing.TB, key *ecdsa.PrivateKey, client, kid string) string {
	t.Helper()
	saved := f.issuers.signers["idp"]
	defer func() { f.issuers.signers["idp"] = saved }()
	f.issuers.signers["idp"] = key
	return f.foreign(t, "idp", map[string]any{"kid": kid}, map[string]any{"iss": client, "sub": client, "exp": f.now.Unix() + 60})
}

// TestTemplateProblems applies templates, and what goes with them, that do not fit.
func TestTemplateProblems(t *testing.T) {
	f := newRegistrationFixture(t)
	for name, tc := range map[string]struct {
		edit  func(*sts.ClientTemplate)
		field string
	}{
		"name":              {func(a *sts.ClientTemplate) { a.Name = "Agents" }, "name"},
		"no method":         {func(a *sts.ClientTemplate) { a.Methods = nil }, "methods"},
		"unknown method":    {func(a *sts.ClientTemplate) { a.Methods = append(a.Methods, sts.FederatedJWT) }, "methods[3]"},
		"unknown grant":     {func(a *sts.ClientTemplate) { a.GrantTypes = []sts.GrantType{"password"} }, "grant_types[0]"},
		"address":           {func(a *sts.ClientTemplate) { a.JWKSHosts = []string{"10.0.0.1"} }, "jwks_hosts[0]"},
		"loopback":          {func(a *sts.ClientTemplate) { a.JWKSHosts = []string{"localhost"} }, "jwks_hosts[0]"},
		"every host":        {func(a *sts.ClientTemplate) { a.JWKSHosts = []string{"*"} }, "jwks_hosts[0]"},
		"every host of com": {func(a *sts.ClientTemplate) { a.JWKSHosts = []string{"*.com"} }, "jwks_hosts[0]"},
		"hosts for no key":  {func(a *sts.ClientTemplate) { a.Methods = []sts.AuthMethod{sts.SecretBasic} }, "jwks_hosts"},
		"too many clients":  {func(a *sts.ClientTemplate) { a.MaxClients = 10_001 }, "max_clients"},
		"rate":              {func(a *sts.ClientTemplate) { a.MaxPerMinute = -1 }, "max_per_minute"},
		"short":             {func(a *sts.ClientTemplate) { a.ExpireUnused = time.Minute }, "expire_unused"},
		"long life":         {func(a *sts.ClientTemplate) { a.MaxLifetime = 1e6 * time.Hour }, "max_lifetime"},
		"unknown issuer":    {func(a *sts.ClientTemplate) { a.Statement = &sts.SoftwareStatement{Issuer: "ipd"} }, "software_statement.issuer"},
		"claim with pattern": {func(a *sts.ClientTemplate) {
			a.Statement = &sts.SoftwareStatement{Issuer: "idp", Claims: map[string]any{"sub": "*"}}
		}, "software_statement.claims.sub"},
	} {
		t.Run(name, func(t *testing.T) {
			a := f.agents()
			tc.edit(a)
			f.assertProblem(t, sts.Resource{ClientTemplate: a}, tc.field)
		})
	}
	t.Run("a client that is named like one", func(t *testing.T) {
		f.assertProblem(t, sts.Resource{Client: &sts.Client{Name: "agents~x"}}, "name")
	})
	t.Run("a scope without a template", func(t *testing.T) {
		f.assertProblem(t, sts.Resource{Audience: &sts.Audience{Name: "registration", Identifiers: []string{registration}, Scopes: []string{"sts.register.agent"}}}, "scopes[0]")
	})
}

func (f *fixture) assertProblem(t *testing.T, r sts.Resource, field string) {
	t.Helper()
	_, err := f.service.Apply(t.Context(), sts.Change{Put: []sts.Resource{r}})
	e, ok := errors.AsType[*sts.Error](err)
	if !ok || !slices.ContainsFunc(e.Problems, func(p sts.Problem) bool { return p.Field == field && p.Ref == r.Ref() }) {
		t.Errorf("%v %s, want a problem with %s", err, fmt.Sprint(e), field)
	}
}

// TestNoRegistration holds that without registration nobody registers, and nobody
// who was registered counts.
func TestNoRegistration(t *testing.T) {
	f := newRegistrationFixture(t)
	done := f.register(t, "agents", nil)
	token := f.initial(t, "sts.register.agents")
	kept := f.registered
	f.registered = nil
	f.restart(t, nil)
	f.registered = kept
	f.assertRefused(t, as(done), sts.InvalidClient)
	f.refusedBy(t, sts.NotFound, nil, func() error {
		_, err := f.service.Register(t.Context(), sts.RegistrationRequest{Use: bearer(token), Metadata: map[string]any{}})
		return err
	})
	if f.service.Metadata().RegistrationEndpoint != "" {
		t.Error("the endpoint is announced")
	}
}
