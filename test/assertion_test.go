package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// signer is a client that authenticates with a key of its own.
type signer struct {
	name string
	key  jose.JSONWebKey
}

func newSigner(t *testing.T, name string, alg jose.SignatureAlgorithm) signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch alg {
	case jose.ES256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.ES384:
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case jose.EdDSA:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	return signer{name, jose.JSONWebKey{Key: key, KeyID: name + "-1", Algorithm: string(alg), Use: "sig"}}
}

// yaml is the client with a rule for the audience demo.
func (s signer) yaml(t *testing.T) string {
	t.Helper()
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{s.key.Public()}})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("kind: Client\nname: %s\nprivate_key_jwt: {jwks: '%s'}\n---\n", s.name, set) + ruleFor(s.name)
}

func ruleFor(client string) string {
	return fmt.Sprintf("kind: Rule\nname: %s\nrequester: {clients: [%[1]s]}\nallow: {audiences: [demo], scopes: [demo.read]}\n---\n", client)
}

// assertion is a good assertion for a server, with an edit.
func (s signer) assertion(t *testing.T, n *node, edit func(claims map[string]any)) string {
	t.Helper()
	now := time.Now().Unix()
	claims := map[string]any{"iss": s.name, "sub": s.name, "aud": n.env["STS_ISSUER"], "iat": now, "exp": now + 60, "jti": rand.Text()}
	if edit != nil {
		edit(claims)
	}
	options := (&jose.SignerOptions{}).WithType("client-authentication+jwt").WithHeader("kid", s.key.KeyID)
	signing, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(s.key.Algorithm), Key: s.key.Key}, options)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signing).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func assertionForm(assertion, kind string) url.Values {
	return url.Values{
		"grant_type": {"client_credentials"}, "audience": {"demo"}, "client_assertion": {assertion},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:" + kind},
	}
}

// TestNodeAssertions authenticates the clients of the npm ecosystem with keys of
// every type.
func TestNodeAssertions(t *testing.T) {
	n := startDev(t, t.TempDir())
	keys := map[string]jose.JSONWebKey{}
	var yaml string
	for name, alg := range map[string]jose.SignatureAlgorithm{"node-ec": jose.ES256, "node-ed": jose.EdDSA, "node-rsa": jose.PS256} {
		s := newSigner(t, name, alg)
		keys[name] = s.key
		yaml += s.yaml(t)
	}
	n.apply(t, yaml)
	file := filepath.Join(t.TempDir(), "keys.json")
	data, err := json.Marshal(keys)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	out, stderr, code := command(t, append(n.environ(), "KEYS_FILE="+file), "", "node", filepath.Join("node", "private-key-jwt.mjs"))
	if code != 0 {
		t.Fatalf("%s\n%s\n%s", out, stderr, n.log)
	}
	if got := strings.Count(out, "ok: "); got != 12 {
		t.Errorf("%d of 12 steps:\n%s", got, out)
	}
}

// TestAssertionAcrossKills presents one assertion from many sides while the server
// is killed and started anew: there is one token at most.
func TestAssertionAcrossKills(t *testing.T) {
	dir := t.TempDir()
	s := newSigner(t, "signer", jose.ES256)
	n := startDev(t, dir, "--http", "127.0.0.1:0")
	n.apply(t, s.yaml(t))
	cycles := 6
	if testing.Short() {
		cycles = 2
	}
	total := int64(0)
	for cycle := range cycles {
		// Addressed to what the server is called now; its port changes.
		var assertions []string
		for range 20 {
			assertions = append(assertions, s.assertion(t, n, nil))
		}
		granted := make([]atomic.Int64, len(assertions))
		present := func(n *node) {
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					for i, a := range assertions {
						res, err := http.PostForm(n.env["STS_HTTP"]+"/oauth2/token", assertionForm(a, "jwt-bearer"))
						if err != nil {
							return // the server is dead
						}
						res.Body.Close()
						if res.StatusCode == http.StatusOK {
							granted[i].Add(1)
						}
					}
				})
			}
			all.Wait()
		}
		time.AfterFunc(time.Duration(1+cycle*3)*time.Millisecond, func() { n.cmd.Process.Kill() })
		present(n)
		n.kill(t)
		n = startDev(t, dir, "--http", strings.TrimPrefix(n.env["STS_HTTP"], "http://"))
		if strings.Contains(n.log.String(), "not known") {
			t.Fatalf("a kill lost what was used:\n%s", n.log)
		}
		present(n)
		for i := range granted {
			if got := granted[i].Load(); got > 1 {
				t.Fatalf("cycle %d: %d tokens for one assertion", cycle, got)
			}
			total += granted[i].Load()
		}
		if r := n.post(t, assertionForm(s.assertion(t, n, nil), "jwt-bearer"), nil); r.status != http.StatusOK && r.header.Get("Retry-After") == "" {
			t.Fatalf("a new assertion: %s", r.raw)
		}
	}
	if total < int64(cycles) {
		t.Errorf("only %d tokens in %d cycles", total, cycles)
	}
}

// TestPublishedClientKeys fetches the keys of a client from where it publishes
// them, and for no other reason than an assertion of its own [I-18, A-32].
func TestPublishedClientKeys(t *testing.T) {
	n := startDev(t, t.TempDir())
	published := newIssuer(t)
	s := signer{"publisher", jose.JSONWebKey{Key: published.key, KeyID: "k1", Algorithm: "ES256"}}
	n.apply(t, fmt.Sprintf(`
kind: Client
name: publisher
private_key_jwt: {jwks_uri: "%s/jwks", allow_networks: [127.0.0.0/8], insecure_http: true}
---
`, published.URL)+ruleFor("publisher"))
	told := func(want ...string) {
		t.Helper()
		out, stderr, code := n.stsctl(t, "", "client", "status", "publisher")
		for _, w := range want {
			if code != 0 || !strings.Contains(out, w) {
				t.Errorf("status has no %q: %s%s", w, out, stderr)
			}
		}
	}
	told("its keys: jwks_uri, not asked yet")
	stranger := newSigner(t, "stranger", jose.ES256)
	if r := n.post(t, assertionForm(stranger.assertion(t, n, nil), "jwt-bearer"), nil); r.str("error") != "invalid_client" {
		t.Errorf("%s", r.raw)
	}
	if got := published.fetches.Load(); got != 0 {
		t.Errorf("an unknown client makes %d fetches", got)
	}
	if r := n.post(t, assertionForm(s.assertion(t, n, nil), "jwt-bearer"), nil); r.status != http.StatusOK {
		t.Fatalf("%s\n%s", r.raw, n.log)
	}
	for i := range 50 {
		s.key.KeyID = fmt.Sprint("random-", i)
		if r := n.post(t, assertionForm(s.assertion(t, n, nil), "jwt-bearer"), nil); r.str("error") != "invalid_client" {
			t.Fatalf("%s", r.raw)
		}
	}
	if got := published.fetches.Load(); got != 1 {
		t.Errorf("%d fetches", got)
	}
	told("its keys: jwks_uri, fetched ", "  k1 ")
	// A client's key source is not one of an issuer's.
	foreign := url.Values{"grant_type": {grantExchange}, "audience": {"demo"}, "subject_token_type": {typeJWT}, "subject_token": {published.token(t, n, nil)}}
	if r := n.token(t, foreign); r.status == http.StatusOK {
		t.Error("a client is taken for an issuer")
	}
	// One that cannot be had says why.
	n.apply(t, `
kind: Client
name: publisher
private_key_jwt: {jwks_uri: "http://127.0.0.1:1/jwks", allow_networks: [127.0.0.0/8], insecure_http: true}
`)
	if r := n.post(t, assertionForm(s.assertion(t, n, nil), "jwt-bearer"), nil); r.status == http.StatusOK {
		t.Error("a token without keys")
	}
	told("its keys: jwks_uri, never fetched", "PROBLEM: ", "connection refused")
}

// TestFederatedClient authenticates a workload by the token of its platform, again
// and again, as a service account token is used.
func TestFederatedClient(t *testing.T) {
	n := startDev(t, t.TempDir())
	cluster := newIssuer(t)
	n.apply(t, cluster.yaml("cluster")+`---
kind: Client
name: orders
federated: {issuer: cluster, claims: {sub: "system:serviceaccount:prod:orders"}}
---
`+ruleFor("orders"))
	token := cluster.token(t, n, func(_ map[jose.HeaderKey]any, claims map[string]any) {
		claims["sub"] = "system:serviceaccount:prod:orders"
		claims["aud"] = []string{n.env["STS_ISSUER"]}
	})
	for range 3 {
		r := n.post(t, assertionForm(token, "jwt-bearer"), nil)
		if r.status != http.StatusOK {
			t.Fatalf("%s\n%s", r.raw, n.log)
		}
		if claims := verify(t, n.env["STS_ISSUER"], "demo", r.str("access_token")); claims["sub"] != "orders" {
			t.Errorf("sub %v", claims["sub"])
		}
	}
	out, stderr, code := n.stsctl(t, "", "client", "status", "orders")
	if code != 0 || !strings.Contains(out, "authenticates by federated_jwt") || !strings.Contains(out, "ago") && !strings.Contains(out, "now") {
		t.Errorf("%d %s %s", code, out, stderr)
	}
}

// TestRotateSecret rotates a secret with stsctl; what was used when survives a
// restart.
func TestRotateSecret(t *testing.T) {
	dir := t.TempDir()
	n := startDev(t, dir)
	n.apply(t, "kind: Client\nname: orders\n---\n"+ruleFor("orders"))
	rotate := func(args ...string) string {
		out, stderr, code := n.stsctl(t, "", append([]string{"client", "rotate-secret", "orders", "-o", "json"}, args...)...)
		if code != 0 {
			t.Fatalf("%s", stderr)
		}
		var v struct{ Secret string }
		if err := json.Unmarshal([]byte(out), &v); err != nil {
			t.Fatal(err)
		}
		return v.Secret
	}
	works := func(secret string) bool {
		r := n.post(t, url.Values{"grant_type": {"client_credentials"}, "audience": {"demo"}}, func(r *http.Request) { r.SetBasicAuth("orders", secret) })
		return r.status == http.StatusOK
	}
	first := rotate()
	second := rotate()
	if !works(first) || !works(second) {
		t.Error("not both secrets work during the overlap")
	}
	third := rotate("--overlap", "0s")
	if works(first) || works(second) || !works(third) {
		t.Error("the secrets before work on")
	}
	n.stop(t)
	n = startDev(t, dir)
	if out, _, _ := n.stsctl(t, "", "client", "status", "orders"); strings.Contains(out, "never") || !strings.Contains(out, "client_secret") {
		t.Errorf("after a restart: %s", out)
	}
}
