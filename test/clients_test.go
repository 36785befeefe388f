package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
	"golang.org/x/oauth2/google/externalaccount"
)

const (
	grantExchange   = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeAccessToken = "urn:ietf:params:oauth:token-type:access_token"
	typeJWT         = "urn:ietf:params:oauth:token-type:jwt"
	typeIDToken     = "urn:ietf:params:oauth:token-type:id_token"
)

// verify verifies a token with nothing but the discovery document, as
// github.com/coreos/go-oidc does for a resource server.
func verify(t *testing.T, issuer, audience, token string) map[string]any {
	t.Helper()
	return verifyBy(t, t.Context(), issuer, audience, token)
}

// verifyBy verifies it by the HTTP client of a context.
func verifyBy(t *testing.T, ctx context.Context, issuer, audience, token string) map[string]any {
	t.Helper()
	provider, err := oidc.NewProvider(ctx, issuer)
	if err != nil {
		t.Fatalf("go-oidc discovery: %v", err)
	}
	idToken, err := provider.Verifier(&oidc.Config{ClientID: audience}).Verify(ctx, token)
	if err != nil {
		t.Fatalf("go-oidc: %v", err)
	}
	var claims map[string]any
	if err := idToken.Claims(&claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

// TestOAuth2ClientCredentials gets tokens with golang.org/x/oauth2, by both ways
// to present a secret, and verifies them with go-oidc.
func TestOAuth2ClientCredentials(t *testing.T) {
	n := startDev(t, t.TempDir())
	for name, style := range map[string]oauth2.AuthStyle{"basic": oauth2.AuthStyleInHeader, "post": oauth2.AuthStyleInParams} {
		t.Run(name, func(t *testing.T) {
			c := clientcredentials.Config{
				ClientID: n.env["STS_CLIENT_ID"], ClientSecret: n.env["STS_CLIENT_SECRET"], AuthStyle: style,
				TokenURL: n.env["STS_HTTP"] + "/oauth2/token", Scopes: []string{"demo.read"},
				EndpointParams: url.Values{"audience": {n.env["STS_AUDIENCE"]}},
			}
			token, err := c.Token(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if token.TokenType != "Bearer" || time.Until(token.Expiry) < 50*time.Minute {
				t.Errorf("token type %q, expiry %v; want Bearer and about an hour", token.TokenType, token.Expiry)
			}
			claims := verify(t, n.env["STS_ISSUER"], n.env["STS_AUDIENCE"], token.AccessToken)
			if claims["sub"] != "demo" || claims["client_id"] != "demo" || claims["scope"] != "demo.read" {
				t.Errorf("claims %v", claims)
			}
		})
	}
}

// TestExternalAccount exchanges a workload's token by the library that reads
// Google's external_account configurations. It sends an `options` parameter of
// its own and a client's credentials only if it has them.
func TestExternalAccount(t *testing.T) {
	issuer := newIssuer(t)
	n := startDev(t, t.TempDir())
	n.apply(t, issuer.yaml("ci", "self_presented: true")+`---
kind: Rule
name: ci
subject: {issuer: ci, claims: {sub: job-1}}
allow: {audiences: [demo], scopes: [demo.read]}
`)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(issuer.token(t, n, nil)), 0o600); err != nil {
		t.Fatal(err)
	}
	source, err := externalaccount.NewTokenSource(t.Context(), externalaccount.Config{
		Audience: "demo", SubjectTokenType: typeJWT, TokenURL: n.env["STS_HTTP"] + "/oauth2/token",
		Scopes:           []string{"demo.read"},
		CredentialSource: &externalaccount.CredentialSource{File: file, Format: externalaccount.Format{Type: "text"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	token, err := source.Token()
	if err != nil {
		t.Fatal(err)
	}
	claims := verify(t, n.env["STS_ISSUER"], "demo", token.AccessToken)
	if claims["sub"] != "ci:job-1" {
		t.Errorf("sub %q, want ci:job-1", claims["sub"])
	}
}

// TestNodeClients runs the clients of the npm ecosystem that hold servers to the
// letter of the RFCs.
func TestNodeClients(t *testing.T) {
	n := startDev(t, t.TempDir())
	for _, script := range []string{"openid-client.mjs", "oauth4webapi.mjs"} {
		t.Run(script, func(t *testing.T) {
			out, stderr, code := command(t, n.environ(), "", "node", filepath.Join("node", script))
			if code != 0 {
				t.Fatalf("%s\n%s", out, stderr)
			}
			if !strings.Contains(out, "ok: client credentials") || !strings.Contains(out, "ok: token exchange") {
				t.Errorf("the script did not reach its end:\n%s", out)
			}
		})
	}
}

// TestNodeProvider trusts an OpenID provider of another project and exchanges
// what it issues.
func TestNodeProvider(t *testing.T) {
	n := startDev(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p := startScript(ctx, t, n, "provider.mjs")
	n.apply(t, `
kind: Issuer
name: provider
issuer: `+p["issuer"]+`
algorithms: [RS256]
token_types: [access_token, jwt]
allow_networks: [127.0.0.0/8]
insecure_http: true
---
kind: Rule
name: provider
requester: {clients: [demo]}
subject: {issuer: provider, claims: {client_id: foreign}}
allow: {audiences: [demo], scopes: [demo.read]}
`)
	r := n.token(t, url.Values{
		"grant_type": {grantExchange}, "subject_token": {p["token"]}, "subject_token_type": {typeAccessToken}, "audience": {"demo"},
	})
	if r.status != http.StatusOK {
		t.Fatalf("%d %s\n%s", r.status, r.raw, n.log)
	}
	claims := verify(t, n.env["STS_ISSUER"], "demo", r.str("access_token"))
	if claims["sub"] != "provider:foreign" {
		t.Errorf("sub %q, want provider:foreign", claims["sub"])
	}
	if act, _ := claims["act"].(map[string]any); act["sub"] != "demo" {
		t.Errorf("act %v, want the client demo", claims["act"])
	}
}

// TestSecondServer trusts another stsd and exchanges its tokens.
func TestSecondServer(t *testing.T) {
	upstream, n := startDev(t, t.TempDir()), startDev(t, t.TempDir())
	upstream.apply(t, "kind: Audience\nname: other\nidentifiers: ["+n.env["STS_ISSUER"]+"]\n---\n"+
		"kind: Rule\nname: other\nrequester: {clients: [demo]}\nallow: {audiences: [other]}\n")
	n.apply(t, `
kind: Issuer
name: upstream
issuer: `+upstream.env["STS_ISSUER"]+`
token_types: [access_token]
allow_networks: [127.0.0.0/8]
insecure_http: true
---
kind: Rule
name: upstream
requester: {clients: [demo]}
subject: {issuer: upstream, claims: {sub: demo}}
allow: {audiences: [demo], scopes: [demo.read]}
`)
	foreign := upstream.token(t, url.Values{"grant_type": {"client_credentials"}, "audience": {n.env["STS_ISSUER"]}})
	if foreign.status != http.StatusOK {
		t.Fatalf("upstream: %s", foreign.raw)
	}
	r := n.token(t, url.Values{
		"grant_type": {grantExchange}, "subject_token": {foreign.str("access_token")}, "subject_token_type": {typeAccessToken}, "audience": {"demo"},
	})
	if r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.raw)
	}
	if claims := verify(t, n.env["STS_ISSUER"], "demo", r.str("access_token")); claims["sub"] != "upstream:demo" {
		t.Errorf("sub %q, want upstream:demo", claims["sub"])
	}
}

// TestCurl pastes what the server prints, into a shell.
func TestCurl(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed on this machine")
	}
	n := startDev(t, t.TempDir())
	script := n.printed(t, "Paste into another terminal:")
	dir := t.TempDir()
	out, stderr, code := command(t, os.Environ(), "cd "+dir+"\n"+script, "sh", "-e")
	if code != 0 {
		t.Fatalf("exit code %d\n%s\n%s", code, out, stderr)
	}
	var first map[string]any
	if err := json.NewDecoder(strings.NewReader(strings.TrimSpace(out))).Decode(&first); err != nil || first["access_token"] == nil {
		t.Errorf("the first command printed no token: %v\n%s", err, out)
	}
	for _, want := range []string{`"issued_token_type":"` + typeAccessToken + `"`, `"scope":"demo.read"`, "verified"} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %s:\n%s", want, out)
		}
	}
}
