package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"

	"github.com/workload-sts/sts/sts"
)

// TestPresetsPage applies the resources that docs/presets.md shows, and holds the
// page to the presets and the risks that there are.
func TestPresetsPage(t *testing.T) {
	page, err := os.ReadFile("../docs/presets.md")
	if err != nil {
		t.Fatal(err)
	}
	n := startDev(t, t.TempDir())
	for i, block := range strings.Split(string(page), "```yaml\n") {
		if i > 0 {
			block, _, _ = strings.Cut(block, "```")
			n.apply(t, block)
		}
	}
	for _, preset := range sts.Presets() {
		if !strings.Contains(string(page), "\n## "+preset+"\n") || !strings.Contains(string(page), "\npreset: "+preset) {
			t.Errorf("preset %s has no section with an example", preset)
		}
	}
	for risk, meaning := range sts.RiskMeanings() {
		if !strings.Contains(string(page), "| `"+risk+"` | "+meaning+" |\n") {
			t.Errorf("risk %s is not in the table, or not with its meaning: %s", risk, meaning)
		}
	}
}

// TestUnsafeRule applies an unsafe rule as a user does: it is refused at its place
// in the file, with what to do, and accepted with the risk by name.
func TestUnsafeRule(t *testing.T) {
	n := startDev(t, t.TempDir())
	file := filepath.Join(t.TempDir(), "ci.yaml")
	rule := `kind: Issuer
name: github
preset: github-actions
self_presented: true
---
kind: Rule
name: deploy
subject:
  issuer: github
  claims: {repository: octo/app, ref: refs/heads/main, event_name: push}
allow: {audiences: [demo]}
`
	apply := func(yaml string) (string, int) {
		if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		_, stderr, code := n.stsctl(t, "", "apply", "-f", file)
		return stderr, code
	}
	stderr, code := apply(rule)
	if code == 0 || !strings.Contains(stderr, "ci.yaml:10:") || !strings.Contains(stderr, "add repository_id") || !strings.Contains(stderr, "accept_risks: [github-name-only]") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if stderr, code := apply(rule + "accept_risks: [github-name-only]\n"); code != 0 {
		t.Errorf("exit %d: %s", code, stderr)
	}
	stdout, _, _ := n.stsctl(t, "", "get", "rule", "deploy")
	if !strings.Contains(stdout, "accept_risks: [github-name-only]") && !strings.Contains(stdout, "- github-name-only") {
		t.Errorf("what was accepted is not shown: %s", stdout)
	}
}

// selfExchange presents a workload's own token.
func selfExchange(t *testing.T, n *node, token string) reply {
	t.Helper()
	return n.post(t, url.Values{"grant_type": {grantExchange}, "subject_token": {token}, "subject_token_type": {typeJWT}, "audience": {"demo"}}, nil)
}

func sign(t *testing.T, alg jose.SignatureAlgorithm, key crypto.Signer, kid string, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", kid))
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// cluster is an API server that knows its service accounts: it publishes its key,
// to who may see it, and reviews tokens, as kube-apiserver does.
type cluster struct {
	*httptest.Server
	key *rsa.PrivateKey
	own string // token of our service's account

	mu      sync.Mutex
	deleted bool // the pod of the tokens
	reviews int
}

const clusterIssuer = "https://kubernetes.default.svc.cluster.local"

func newCluster(t *testing.T) *cluster {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{key: key}
	c.own = c.token(t, "https://kubernetes.default.svc", "sts", "stsd")
	mux := http.NewServeMux()
	mux.HandleFunc("POST /apis/authentication.k8s.io/v1/tokenreviews", c.review)
	mux.HandleFunc("GET /openid/v1/jwks", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+c.own {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Header().Set("Content-Type", "application/jwk-set+json")
		json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "sa-1", Algorithm: "RS256", Use: "sig"}}})
	})
	c.Server = httptest.NewTLSServer(mux)
	t.Cleanup(c.Close)
	return c
}

// token is a bound service account token, with the claims and the key type of the
// API server.
func (c *cluster) token(t *testing.T, audience, namespace, account string) string {
	t.Helper()
	now := time.Now().Unix()
	return sign(t, jose.RS256, c.key, "sa-1", map[string]any{
		"aud": []string{audience}, "exp": now + 3607, "iat": now, "nbf": now, "iss": clusterIssuer, "jti": rand.Text(),
		"sub": "system:serviceaccount:" + namespace + ":" + account,
		"kubernetes.io": map[string]any{
			"namespace": namespace, "node": map[string]any{"name": "node-1", "uid": "58456cb0-dd00-45ed-b797-5578fdceaced"},
			"pod":            map[string]any{"name": account + "-5d9c", "uid": "778a530c-b3f4-47c0-9cd5-ab018fb64f33"},
			"serviceaccount": map[string]any{"name": account, "uid": "a087d5a0-e1dd-43ec-93ac-f13d89cd13af"}, "warnafter": now + 3600,
		},
	})
}

// review answers as the API server does: with the audiences that the question and
// the token have in common.
func (c *cluster) review(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reviews++
	if r.Header.Get("Authorization") != "Bearer "+c.own {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	var in struct {
		APIVersion, Kind string
		Spec             struct {
			Token     string
			Audiences []string
		}
	}
	body, _ := io.ReadAll(r.Body)
	if err := json.Unmarshal(body, &in); err != nil || in.Kind != "TokenReview" || in.APIVersion != "authentication.k8s.io/v1" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	status := map[string]any{"user": map[string]any{}, "error": "[invalid bearer token, Token has been invalidated]"}
	var claims struct {
		Sub string   `json:"sub"`
		Aud []string `json:"aud"`
	}
	parsed, err := jwt.ParseSigned(in.Spec.Token, []jose.SignatureAlgorithm{jose.RS256})
	if err == nil && parsed.Claims(c.key.Public(), &claims) == nil && !c.deleted {
		var common []string
		for _, a := range in.Spec.Audiences {
			if slices.Contains(claims.Aud, a) {
				common = append(common, a)
			}
		}
		if len(common) > 0 {
			status = map[string]any{"authenticated": true, "audiences": common, "user": map[string]any{
				"username": claims.Sub, "uid": "a087d5a0-e1dd-43ec-93ac-f13d89cd13af", "groups": []string{"system:serviceaccounts", "system:authenticated"},
				"extra": map[string]any{"authentication.kubernetes.io/pod-name": []string{"deployer-5d9c"}},
			}}
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	json.NewEncoder(w).Encode(map[string]any{
		"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": map[string]any{"creationTimestamp": nil},
		"spec": map[string]any{"token": in.Spec.Token, "audiences": in.Spec.Audiences}, "status": status,
	})
}

// files writes what a pod finds in /var/run/secrets.
func (c *cluster) files(t *testing.T) (ca, token string) {
	t.Helper()
	dir := t.TempDir()
	ca, token = filepath.Join(dir, "ca.crt"), filepath.Join(dir, "token")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate().Raw})
	for file, content := range map[string][]byte{ca: certificate, token: []byte(c.own)} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return ca, token
}

// indented is the certificate as the block of a YAML value.
func (c *cluster) indented() string {
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate().Raw})
	return "  " + strings.ReplaceAll(strings.TrimSpace(string(certificate)), "\n", "\n  ") + "\n"
}

// TestKubernetes lets pods present their tokens, verified by the API server, and by
// keys that it shows to who may see them.
func TestKubernetes(t *testing.T) {
	const rule = `---
kind: Rule
name: deployer
subject: {issuer: cluster, claims: {sub: "system:serviceaccount:prod:deployer"}}
allow: {audiences: [demo], scopes: [demo.read]}
`
	const issuer = "kind: Issuer\nname: cluster\npreset: kubernetes\nissuer: " + clusterIssuer + "\nself_presented: true\nallow_networks: [127.0.0.0/8]\n"
	t.Run("token review", func(t *testing.T) {
		c, n := newCluster(t), startDev(t, t.TempDir())
		ca, own := c.files(t)
		n.apply(t, issuer+"token_review: {api_server: '"+c.URL+"', ca_file: "+ca+", token_file: "+own+"}\n"+rule)
		good := c.token(t, n.env["STS_ISSUER"], "prod", "deployer")
		for range 3 {
			if r := selfExchange(t, n, good); r.status != http.StatusOK {
				t.Fatalf("%s\n%s", r.raw, n.log)
			}
		}
		for name, token := range map[string]string{
			"K-02 for the API server":   c.token(t, "https://kubernetes.default.svc", "prod", "deployer"),
			"K-10 another namespace":    c.token(t, n.env["STS_ISSUER"], "prod-evil", "deployer"),
			"K-04 of another cluster":   newCluster(t).token(t, n.env["STS_ISSUER"], "prod", "deployer"),
			"J-27 signature of another": good[:strings.LastIndexByte(good, '.')] + c.own[strings.LastIndexByte(c.own, '.'):],
		} {
			if r := selfExchange(t, n, token); r.status != http.StatusBadRequest || r.str("error") != "invalid_request" {
				t.Errorf("%s: %d %s", name, r.status, r.raw)
			}
		}
		c.mu.Lock()
		if c.reviews != 4 { // the good one, that of another namespace, and two that are not of the cluster
			t.Errorf("%d reviews", c.reviews)
		}
		c.deleted = true
		c.mu.Unlock()
		if r := selfExchange(t, n, c.token(t, n.env["STS_ISSUER"], "prod", "deployer")); r.status != http.StatusBadRequest {
			t.Errorf("K-06 the pod is gone: %s", r.raw)
		}
		stdout, stderr, code := n.stsctl(t, "", "issuer", "status", "cluster")
		if code != 0 || !strings.Contains(stdout, "issuer cluster: token_review, a token was reviewed") {
			t.Errorf("%s%s", stdout, stderr)
		}
		c.Close()
		r := selfExchange(t, n, c.token(t, n.env["STS_ISSUER"], "prod", "deployer"))
		if r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" {
			t.Errorf("API server down: %d %s", r.status, r.raw)
		}
	})
	t.Run("keys of the API server", func(t *testing.T) {
		c, n := newCluster(t), startDev(t, t.TempDir())
		_, own := c.files(t)
		n.apply(t, issuer+"jwks_uri: "+c.URL+"/openid/v1/jwks\ntoken_file: "+own+"\nca_certificates: |\n"+c.indented()+rule)
		if r := selfExchange(t, n, c.token(t, n.env["STS_ISSUER"], "prod", "deployer")); r.status != http.StatusOK {
			t.Errorf("%s\n%s", r.raw, n.log)
		}
		stdout, _, _ := n.stsctl(t, "", "issuer", "status")
		if !strings.Contains(stdout, "issuer cluster: jwks_uri, fetched ") || !strings.Contains(stdout, "  sa-1    RS256") {
			t.Error(stdout)
		}
	})
}

// TestSPIFFE lets a workload present a JWT-SVID that go-spiffe accepts, verified by
// a bundle that go-spiffe has written, and follows the file when it changes.
func TestSPIFFE(t *testing.T) {
	domain := spiffeid.RequireTrustDomainFromString("example.org")
	file := filepath.Join(t.TempDir(), "bundle.json")
	keys := map[string]*ecdsa.PrivateKey{}
	write := func(sequence uint64, kids ...string) {
		b := spiffebundle.New(domain)
		b.SetSequenceNumber(sequence)
		b.SetRefreshHint(time.Minute)
		for _, kid := range kids {
			if keys[kid] == nil {
				key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
				if err != nil {
					t.Fatal(err)
				}
				keys[kid] = key
			}
			if err := b.AddJWTAuthority(kid, keys[kid].Public()); err != nil {
				t.Fatal(err)
			}
		}
		text, err := b.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file+".new", text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	write(1, "a")
	n := startDev(t, t.TempDir())
	n.apply(t, "kind: Issuer\nname: mesh\npreset: spiffe\nself_presented: true\nspiffe_bundle: {trust_domain: example.org, file: "+file+`}
---
kind: Rule
name: mesh
subject: {issuer: mesh, claim_globs: {sub: "spiffe://example.org/ns/prod/sa/*"}}
allow: {audiences: [demo], scopes: [demo.read]}
`)
	svid := func(kid, id string, edit map[string]any) string {
		now := time.Now().Unix()
		claims := map[string]any{"sub": id, "aud": []string{n.env["STS_ISSUER"]}, "iat": now, "exp": now + 300}
		for name, v := range edit {
			claims[name] = v
		}
		return sign(t, jose.ES256, keys[kid], kid, claims)
	}
	const id = "spiffe://example.org/ns/prod/sa/deployer"
	good := svid("a", id, nil)
	theirs := jwtbundle.New(domain)
	if err := theirs.AddJWTAuthority("a", keys["a"].Public()); err != nil {
		t.Fatal(err)
	}
	if _, err := jwtsvid.ParseAndValidate(good, theirs, []string{n.env["STS_ISSUER"]}); err != nil {
		t.Fatalf("go-spiffe does not accept the token: %v", err)
	}
	if r := selfExchange(t, n, good); r.status != http.StatusOK {
		t.Fatalf("%s\n%s", r.raw, n.log)
	}
	for name, token := range map[string]string{
		"S-03 two audiences":       svid("a", id, map[string]any{"aud": []string{n.env["STS_ISSUER"], "other"}}),
		"S-04 other trust domain":  svid("a", "spiffe://evil.org/ns/prod/sa/deployer", nil),
		"S-07 begins alike":        svid("a", "spiffe://example.org/ns/prod-evil/sa/deployer", nil),
		"S-07 another depth":       svid("a", "spiffe://example.org/ns/prod/sa/x/y", nil),
		"S-01 not in its spelling": svid("a", "spiffe://example.org/ns/prod/sa//deployer", nil),
		"S-02 without exp":         svid("a", id, map[string]any{"exp": nil}),
	} {
		if r := selfExchange(t, n, token); r.status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, r.status, r.raw)
		}
	}
	write(2, "b")
	time.Sleep(1100 * time.Millisecond) // a file is looked at once in a second for a key that is missing
	if r := selfExchange(t, n, svid("b", id, nil)); r.status != http.StatusOK {
		t.Errorf("after the rotation: %s\n%s", r.raw, n.log)
	}
	if r := selfExchange(t, n, good); r.status != http.StatusBadRequest {
		t.Errorf("S-08 by an authority that was removed: %d %s", r.status, r.raw)
	}
}
