package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	gojose "github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/jose"
)

// TestDiscoveryIsTrue walks the discovery documents and does everything that
// they announce, and what they do not announce is not there [promise 8, Y-10].
func TestDiscoveryIsTrue(t *testing.T) {
	n := startDev(t, t.TempDir())
	base := n.env["STS_HTTP"]
	oidc := get(t, base+"/.well-known/openid-configuration")
	oauth := get(t, base+"/.well-known/oauth-authorization-server")
	if oidc.raw != oauth.raw {
		t.Errorf("the two documents differ:\n%s\n%s", oidc.raw, oauth.raw)
	}
	if oidc.str("issuer") != n.env["STS_ISSUER"] {
		t.Errorf("issuer %q, want %q", oidc.str("issuer"), n.env["STS_ISSUER"])
	}
	list := func(name string) []string {
		var out []string
		values, _ := oidc.body[name].([]any)
		for _, v := range values {
			out = append(out, v.(string))
		}
		return out
	}
	own, domain := newSigner(t, "signer", gojose.ES256), newIssuer(t)
	n.apply(t, own.yaml(t)+domain.yaml("domain")+`---
kind: Client
name: svid
federated: {issuer: domain, claims: {sub: "spiffe://example.org/a"}}
---
kind: Rule
name: exchange
requester: {clients: [signer, svid]}
subject: {issuer: self, claims: {sub: demo}, accept_unaddressed: true}
allow: {audiences: [demo], scopes: [demo.read]}
---
`+ruleFor("svid"))
	methods := map[string]func(*http.Request, url.Values){
		"client_secret_basic": func(r *http.Request, _ url.Values) {
			r.SetBasicAuth(n.env["STS_CLIENT_ID"], n.env["STS_CLIENT_SECRET"])
		},
		"client_secret_post": func(_ *http.Request, f url.Values) {
			f.Set("client_id", n.env["STS_CLIENT_ID"])
			f.Set("client_secret", n.env["STS_CLIENT_SECRET"])
		},
		"private_key_jwt": func(_ *http.Request, f url.Values) {
			f.Set("client_assertion", own.assertion(t, n, nil))
			f.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		},
		"spiffe_jwt": func(_ *http.Request, f url.Values) {
			f.Set("client_assertion", domain.token(t, n, func(_ map[gojose.HeaderKey]any, claims map[string]any) { claims["sub"] = "spiffe://example.org/a" }))
			f.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe")
		},
	}
	subject := n.token(t, credentialsGrant(n)).str("access_token")
	grants := map[string]url.Values{
		"client_credentials": credentialsGrant(n),
		grantExchange:        {"grant_type": {grantExchange}, "subject_token": {subject}, "subject_token_type": {typeAccessToken}, "audience": {"demo"}},
	}
	keys := get(t, oidc.str("jwks_uri"))
	algorithms := map[string]bool{}
	for _, k := range keys.body["keys"].([]any) {
		key := k.(map[string]any)
		algorithms[key["alg"].(string)] = true
		if _, private := key["d"]; private || key["use"] != "sig" || key["kid"] == "" {
			t.Errorf("published key %v", key) // [Y-09]
		}
	}
	if got := list("id_token_signing_alg_values_supported"); len(got) != len(algorithms) || !algorithms[got[0]] {
		t.Errorf("algorithms %v, keys %v", got, algorithms)
	}
	if got := list("grant_types_supported"); len(got) != len(grants) {
		t.Errorf("grants %v", got)
	}
	if got := list("token_endpoint_auth_methods_supported"); len(got) != len(methods) {
		t.Errorf("authentication methods %v", got)
	}
	for _, alg := range list("token_endpoint_auth_signing_alg_values_supported") {
		s := newSigner(t, "signer-"+strings.ToLower(alg), gojose.SignatureAlgorithm(alg))
		n.apply(t, s.yaml(t))
		if r := n.post(t, assertionForm(s.assertion(t, n, nil), "jwt-bearer"), nil); r.status != http.StatusOK {
			t.Errorf("%s: %s", alg, r.raw)
		}
	}
	for _, grant := range list("grant_types_supported") {
		for _, method := range list("token_endpoint_auth_methods_supported") {
			form := url.Values{}
			for k, v := range grants[grant] {
				form[k] = slices.Clone(v)
			}
			var edit func(*http.Request)
			if method == "client_secret_basic" {
				edit = func(r *http.Request) { methods[method](r, nil) }
			} else {
				methods[method](nil, form)
			}
			if r := n.post(t, form, edit); r.status != http.StatusOK || r.header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s with %s: status %d, Cache-Control %q, %s", grant, method, r.status, r.header.Get("Cache-Control"), r.raw)
			}
		}
	}
	// The other endpoints know who asks by the same methods, and a workload revokes
	// without any; none is announced that does not work.
	for _, endpoint := range []string{"introspection", "revocation"} {
		announced := list(endpoint + "_endpoint_auth_methods_supported")
		if want := len(methods) + map[string]int{"revocation": 1}[endpoint]; len(announced) != want {
			t.Errorf("%s: %v", endpoint, announced)
		}
		for method := range methods {
			form := url.Values{"token": {"x"}}
			if method != "client_secret_basic" {
				methods[method](nil, form)
			}
			r := n.postTo(t, oidc.str(endpoint+"_endpoint"), form, func(r *http.Request) {
				if method == "client_secret_basic" {
					methods[method](r, nil)
				}
			})
			if !slices.Contains(announced, method) || r.status != http.StatusOK {
				t.Errorf("%s with %s: %d %s", endpoint, method, r.status, r.raw)
			}
		}
	}
	if got := list("introspection_signing_alg_values_supported"); len(got) != len(algorithms) || !algorithms[got[0]] {
		t.Errorf("algorithms of introspection %v, keys %v", got, algorithms)
	}
	// Every algorithm of proofs is accepted, and another is not.
	for _, alg := range append(list("dpop_signing_alg_values_supported"), "ES512") {
		proof := proofOf(t, jose.Algorithm(alg), oidc.str("token_endpoint"))
		r := n.post(t, credentialsGrant(n), func(r *http.Request) {
			methods["client_secret_basic"](r, nil)
			r.Header.Set("DPoP", proof)
		})
		if announced := alg != "ES512"; announced != (r.str("token_type") == "DPoP") {
			t.Errorf("a proof by %s: %d %s", alg, r.status, r.raw)
		}
	}
	// What is not announced is refused.
	for _, grant := range []string{"authorization_code", "refresh_token", "password", "urn:ietf:params:oauth:grant-type:jwt-bearer", "urn:ietf:params:oauth:grant-type:device_code"} {
		if r := n.token(t, url.Values{"grant_type": {grant}}); r.str("error") != "unsupported_grant_type" {
			t.Errorf("%s: %s", grant, r.raw)
		}
	}
	for _, absent := range []string{"authorization_endpoint", "registration_endpoint", "userinfo_endpoint"} {
		if _, ok := oidc.body[absent]; ok {
			t.Errorf("%s is announced", absent)
		}
	}
	for _, path := range []string{"/oauth2/register", "/oauth2/authorize", "/debug/pprof/", "/debug/vars"} {
		res, err := http.Post(base+path, "application/x-www-form-urlencoded", strings.NewReader("token=x"))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusNotFound {
			t.Errorf("%s answers %d, and the documents do not announce it", path, res.StatusCode)
		}
	}
}

// TestDiscoveryTwins holds that gRPC says what HTTP says.
func TestDiscoveryTwins(t *testing.T) {
	n := startDev(t, t.TempDir())
	conn, err := grpc.NewClient(n.env["STS_GRPC"], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	discovery := stsv1.NewDiscoveryServiceClient(conn)
	metadata, err := discovery.GetProviderMetadata(t.Context(), &stsv1.GetProviderMetadataRequest{})
	if err != nil {
		t.Fatal(err)
	}
	doc := get(t, n.env["STS_HTTP"]+"/.well-known/openid-configuration")
	if metadata.Issuer != doc.str("issuer") || metadata.TokenEndpoint != doc.str("token_endpoint") || metadata.JwksUri != doc.str("jwks_uri") {
		t.Errorf("gRPC %v, HTTP %s", metadata, doc.raw)
	}
	keys, err := discovery.GetJwks(t.Context(), &stsv1.GetJwksRequest{})
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.Get(doc.str("jwks_uri"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(raw, &set); err != nil {
		t.Fatal(err)
	}
	if len(set.Keys) != len(keys.Keys) || set.Keys[0]["kid"] != keys.Keys[0].Kid || set.Keys[0]["x"] != keys.Keys[0].X {
		t.Errorf("gRPC %v, HTTP %s", keys, raw)
	}
	// [P-22] A verifier may cache no longer than the rotation allows.
	if cc := res.Header.Get("Cache-Control"); !strings.Contains(cc, "max-age=300") || keys.MaxAgeSeconds != 300 {
		t.Errorf("Cache-Control %q, max_age_seconds %d", cc, keys.MaxAgeSeconds)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, doc.str("jwks_uri"), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("If-None-Match", res.Header.Get("ETag"))
	again, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	again.Body.Close()
	if again.StatusCode != http.StatusNotModified {
		t.Errorf("a request with the ETag %q answers %d", res.Header.Get("ETag"), again.StatusCode)
	}
}
