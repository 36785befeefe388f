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
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/workload-sts/sts/internal/testserver"
	"github.com/workload-sts/sts/jose"
)

// proofOf is a DPoP proof for a URL by a new key of an algorithm.
func proofOf(t *testing.T, alg jose.Algorithm, url string) string {
	t.Helper()
	var key crypto.Signer
	var err error
	switch alg {
	case jose.EdDSA:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case jose.RS256, jose.PS256:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		key, err = ecdsa.GenerateKey(map[jose.Algorithm]elliptic.Curve{
			jose.ES256: elliptic.P256(), jose.ES384: elliptic.P384(), jose.ES512: elliptic.P521(),
		}[alg], rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	claims := fmt.Appendf(nil, `{"jti":%q,"htm":"POST","htu":%q,"iat":%d}`, rand.Text(), url, time.Now().Unix())
	proof, err := jose.SignProof(alg, key, claims)
	if err != nil {
		t.Fatal(err)
	}
	return proof
}

// startNonces starts a server as an operator sets it up, that demands nonces in
// proofs, with the client, audience and rule of a development server.
func startNonces(t *testing.T) *node {
	t.Helper()
	dir := t.TempDir()
	writeSigningKey(t, dir)
	httpAddr, grpcAddr := testserver.FreeAddress(t), testserver.FreeAddress(t)
	file := filepath.Join(dir, "stsd.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, `issuer: http://%[1]s
http: {listen: "%[1]s"}
grpc: {listen: "%[2]s"}
storage: {bolt_file: sts.db}
audit: {file: audit.jsonl}
admin: {token_file: admin.token}
keys: {sets: [{name: default, local: {key_file: signing.key}}]}
dpop: {require_nonce: true, grpc_url: "http://%[2]s"}
`, httpAddr, grpcAddr), 0o600); err != nil {
		t.Fatal(err)
	}
	token := adminToken(t, dir)
	n := start(t, "serve", "--config", file)
	n.dir = dir
	n.env = map[string]string{
		"STS_ISSUER": "http://" + httpAddr, "STS_HTTP": "http://" + httpAddr, "STS_GRPC": grpcAddr,
		"STS_ADMIN_TOKEN": token,
		"STS_CLIENT_ID":   "demo", "STS_AUDIENCE": "demo",
	}
	n.applyDemo(t)
	return n
}

// TestNodeDPoP has the clients of the npm ecosystem get bound tokens, from a server
// that demands nonces and from one that does not.
func TestNodeDPoP(t *testing.T) {
	for name, begin := range map[string]func(*testing.T) *node{
		"with nonces": startNonces, "without nonces": func(t *testing.T) *node { return startDev(t, t.TempDir()) },
	} {
		t.Run(name, func(t *testing.T) {
			n := begin(t)
			out, stderr, code := command(t, n.environ(), "", "node", filepath.Join("node", "dpop.mjs"))
			if code != 0 || !strings.Contains(out, "ok: resource server") {
				t.Fatalf("%s\n%s", out, stderr)
			}
		})
	}
}

// TestStsctlDPoP gets bound tokens by stsctl, over gRPC.
func TestStsctlDPoP(t *testing.T) {
	for name, begin := range map[string]func(*testing.T) *node{
		"with nonces": startNonces, "without nonces": func(t *testing.T) *node { return startDev(t, t.TempDir()) },
	} {
		t.Run(name, func(t *testing.T) {
			n := begin(t)
			key := filepath.Join(t.TempDir(), "dpop.key")
			out, stderr, code := n.stsctl(t, "", "token", "--audience", "demo", "--dpop-key", key, "-o", "json")
			var issued struct {
				AccessToken string `json:"access_token"`
				TokenType   string `json:"token_type"`
			}
			if err := json.Unmarshal([]byte(out), &issued); code != 0 || err != nil || issued.TokenType != "DPoP" {
				t.Fatalf("%s%s", out, stderr)
			}
			if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("key file %v, %v", info, err)
			}
			bound := verify(t, n.env["STS_ISSUER"], "demo", issued.AccessToken)
			next, stderr, code := n.stsctl(t, issued.AccessToken, "exchange", "--subject-token", "-", "--audience", "demo", "--dpop-key", key)
			if code != 0 {
				t.Fatalf("%s", stderr)
			}
			kept := verify(t, n.env["STS_ISSUER"], "demo", strings.TrimSpace(next))
			if fmt.Sprint(kept["cnf"]) != fmt.Sprint(bound["cnf"]) || bound["cnf"] == nil {
				t.Errorf("cnf %v became %v", bound["cnf"], kept["cnf"])
			}
			// Without the key, or with another, the token is of no use [T-38].
			for _, more := range [][]string{nil, {"--dpop-key", key + ".other"}} {
				_, stderr, code := n.stsctl(t, issued.AccessToken, append([]string{"exchange", "--subject-token", "-", "--audience", "demo"}, more...)...)
				if code != 1 || !strings.Contains(stderr, "invalid_dpop_proof") {
					t.Errorf("%v: %d %s", more, code, stderr)
				}
			}
			r := n.token(t, url.Values{
				"grant_type": {grantExchange}, "subject_token": {issued.AccessToken}, "subject_token_type": {typeAccessToken}, "audience": {"demo"},
			})
			if r.str("error") != "invalid_dpop_proof" || r.status != 400 {
				t.Errorf("%d %s", r.status, r.raw)
			}
		})
	}
}

// TestStsctlDPoPAdmin administers with a token that is bound to a key, by unary calls
// and by streams.
func TestStsctlDPoPAdmin(t *testing.T) {
	for name, begin := range map[string]func(*testing.T) *node{
		"with nonces": startNonces, "without nonces": func(t *testing.T) *node { return startDev(t, t.TempDir()) },
	} {
		t.Run(name, func(t *testing.T) {
			n := begin(t)
			n.apply(t, fmt.Sprintf(`
kind: Audience
name: admin
identifiers: ["%s/v1"]
scopes: [sts.admin.read, sts.admin.write]
binding: dpop
---
kind: Rule
name: admin
requester: {clients: [demo]}
allow: {audiences: [admin], scopes: [sts.admin.read, sts.admin.write]}
`, n.env["STS_ISSUER"]))
			key := filepath.Join(t.TempDir(), "admin.key")
			token, stderr, code := n.stsctl(t, "", "token", "--audience", n.env["STS_ISSUER"]+"/v1", "--dpop-key", key, "-o", "token")
			if code != 0 {
				t.Fatal(stderr)
			}
			n.env["STS_ADMIN_TOKEN"] = strings.TrimSpace(token)
			delete(n.env, "STS_ADMIN_SOCKET")
			// More than one gRPC message takes.
			var many strings.Builder
			for i := range 400 {
				fmt.Fprintf(&many, "kind: Client\nname: c%d\ndescription: %s\n---\n", i, strings.Repeat("x", 900))
			}
			backup := filepath.Join(t.TempDir(), "backup.db")
			for _, args := range [][]string{{"get", "client", "demo"}, {"keys", "status"}, {"apply", "-f", "-"}, {"storage", "backup", backup}} {
				if _, stderr, code := n.stsctl(t, many.String(), append(args, "--dpop-key", key)...); code != 0 {
					t.Errorf("%v: %s", args, stderr)
				}
			}
			for says, args := range map[string][]string{
				"":               {"get", "client", "demo"}, // without a proof
				"no such file":   {"get", "client", "demo", "--dpop-key", key + ".other"},
				"there is none;": {"get", "client", "demo", "--dpop-key", key, "--addr", "unix:///run/none"},
			} {
				if _, stderr, code := n.stsctl(t, "", args...); code == 0 || !strings.Contains(stderr, says) {
					t.Errorf("%v: %d %s", args, code, stderr)
				}
			}
			if _, err := os.Stat(key + ".other"); err == nil {
				t.Error("a key was made that no token is bound to")
			}
		})
	}
}
