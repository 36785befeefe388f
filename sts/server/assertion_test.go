package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// noClientKeys is a sts.ClientKeys without clients.
type noClientKeys struct{}

func (noClientKeys) Check(*sts.ClientKey) error                 { return nil }
func (noClientKeys) Status(string) (_ sts.IssuerStatus, _ bool) { return }
func (noClientKeys) Trust(map[string]*sts.ClientKey)            {}

func (noClientKeys) Key(context.Context, string, string, jose.Algorithm) (jose.Key, error) {
	return jose.Key{}, jose.ErrUnknownKey
}

// signer adds a client that signs assertions, and returns what makes them.
func (f *fixture) signer(tb testing.TB) func(edit func(claims map[string]any)) string {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	set, err := jose.NewKeySet(jose.Key{ID: "k", Algorithm: jose.ES256, Public: key.Public()})
	if err != nil {
		tb.Fatal(err)
	}
	jwks, err := json.Marshal(set)
	if err != nil {
		tb.Fatal(err)
	}
	_, err = f.service.Apply(tb.Context(), sts.Change{Put: []sts.Resource{
		{Client: &sts.Client{Name: "signer", PrivateKeyJWT: &sts.ClientKey{JWKS: string(jwks)}}},
		{Rule: &policy.Rule{Name: "signer", Requester: policy.Requester{Clients: []string{"signer"}}, Allow: policy.Allow{Audiences: []string{"api"}, Scopes: []string{"read"}}}},
	}})
	if err != nil {
		tb.Fatal(err)
	}
	return func(edit func(map[string]any)) string {
		claims := map[string]any{"iss": "signer", "sub": "signer", "aud": issuer, "exp": time.Now().Unix() + 60, "jti": rand.Text()}
		if edit != nil {
			edit(claims)
		}
		payload, err := json.Marshal(claims)
		if err != nil {
			tb.Fatal(err)
		}
		input := jose.SigningInput(jose.Header{Algorithm: jose.ES256, KeyID: "k", Type: "client-authentication+jwt"}, payload)
		sig, err := jose.Sign(jose.ES256, key, input)
		if err != nil {
			tb.Fatal(err)
		}
		return jose.Compact(input, sig)
	}
}

// TestAssertionOnEveryFace presents assertions over the form, JSON and gRPC.
func TestAssertionOnEveryFace(t *testing.T) {
	f := newFixture(t)
	sign := f.signer(t)
	good := func() ask {
		return ask{method: "issue", params: map[string][]string{
			"audience": {"api"}, "client_assertion": {sign(nil)}, "client_assertion_type": {string(sts.JWTBearer)},
		}}
	}
	faces := map[string]func(testing.TB, ask) answer{"form": f.form, "json": f.json, "grpc": f.grpc}
	subject := f.form(t, f.good()).token
	for _, row := range []struct {
		name string
		edit func(*ask)
		want sts.Code
	}{
		{"A-01", func(*ask) {}, ""},
		{"A-01 client_id", func(a *ask) { a.params["client_id"] = []string{"signer"} }, ""},
		{"A-01 exchange", func(a *ask) {
			a.method = "exchange"
			a.params["subject_token"], a.params["subject_token_type"] = []string{subject}, []string{string(sts.AccessToken)}
		}, sts.InvalidRequest}, // authenticated: no rule for it
		{"A-07 another client_id", func(a *ask) { a.params["client_id"] = []string{"web"} }, sts.InvalidClient},
		{"A-18 no type", func(a *ask) { delete(a.params, "client_assertion_type") }, sts.InvalidRequest},
		{"A-18 another type", func(a *ask) {
			a.params["client_assertion_type"] = []string{"urn:ietf:params:oauth:client-assertion-type:saml2-bearer"}
		}, sts.InvalidRequest},
		{"A-18 type alone", func(a *ask) { delete(a.params, "client_assertion") }, sts.InvalidRequest},
		{"A-19 A-42 Basic beside it", func(a *ask) { a.auth = []string{basicAuth("web", f.secret)} }, sts.InvalidRequest},
		{"A-19 Basic of the same client", func(a *ask) { a.auth = []string{basicAuth("signer", f.secret)} }, sts.InvalidRequest},
		{"A-19 secret beside it", func(a *ask) {
			a.params["client_id"], a.params["client_secret"] = []string{"web"}, []string{f.secret}
		}, sts.InvalidRequest},
		{"A-21 forged, beside a good secret", func(a *ask) {
			a.params["client_assertion"] = []string{"e30.e30.x"}
			a.params["client_id"], a.params["client_secret"] = []string{"web"}, []string{f.secret}
		}, sts.InvalidRequest},
		{"A-21 forged type, beside a good secret", func(a *ask) {
			delete(a.params, "client_assertion")
			a.auth = []string{basicAuth("web", f.secret)}
		}, sts.InvalidRequest},
		{"J-43 not an assertion", func(a *ask) { a.params["client_assertion"] = []string{canary} }, sts.InvalidClient},
		{"P-08 too long", func(a *ask) { a.params["client_assertion"] = []string{strings.Repeat("a", maxToken+1)} }, sts.InvalidRequest},
		{"A-02 token endpoint", func(a *ask) {
			a.params["client_assertion"] = []string{sign(func(c map[string]any) { c["aud"] = issuer + "/oauth2/token" })}
		}, sts.InvalidClient},
		{"jwt-spiffe", func(a *ask) { a.params["client_assertion_type"] = []string{string(sts.JWTSPIFFE)} }, sts.InvalidClient},
	} {
		t.Run(row.name, func(t *testing.T) {
			for face, do := range faces {
				a := good()
				row.edit(&a)
				b := f.before()
				got := do(t, a)
				if row.want != "" {
					f.assertRefused(t, b, got, row.want)
					f.assertNumbers(t, face, got, row.want)
					continue
				}
				if got.token == "" {
					t.Fatalf("%s: %s", face, got.raw)
				}
				b = f.before()
				f.assertRefused(t, b, do(t, a), sts.InvalidClient)
			}
		})
	}
	t.Run("P-02 in the query", func(t *testing.T) {
		for _, name := range []string{"client_assertion", "client_assertion_type"} {
			req := f.request(t, http.MethodPost, "/oauth2/token?"+name+"="+url.QueryEscape(canary), strings.NewReader("grant_type=client_credentials"))
			req.Header.Set("Content-Type", formType)
			b := f.before()
			f.assertRefused(t, b, f.do(t, req), sts.InvalidRequest)
		}
	})
	t.Run("A-19 two assertions", func(t *testing.T) {
		form := url.Values{"grant_type": {"client_credentials"}, "client_assertion": {sign(nil), sign(nil)}, "client_assertion_type": {string(sts.JWTBearer)}}
		req := f.request(t, http.MethodPost, "/oauth2/token", strings.NewReader(form.Encode()))
		req.Header.Set("Content-Type", formType)
		b := f.before()
		f.assertRefused(t, b, f.do(t, req), sts.InvalidRequest)
	})
}

// TestWatchWithAssertion holds that a watch does not begin with what could not go
// on.
func TestWatchWithAssertion(t *testing.T) {
	f := newFixture(t)
	sign := f.signer(t)
	a := ask{params: map[string][]string{"audience": {"api"}, "client_assertion": {sign(nil)}, "client_assertion_type": {string(sts.JWTBearer)}}}
	b := f.before()
	stream, err := stsv1.NewTokenServiceClient(f.conn).WatchToken(t.Context(), &stsv1.WatchTokenRequest{Request: &stsv1.WatchTokenRequest_Issue{Issue: a.issue()}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	got := answerOf(err)
	f.assertRefused(t, b, got, sts.InvalidRequest)
	if got.grpc != codes.InvalidArgument {
		t.Errorf("%v", got.grpc)
	}
}
