package e2e

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// issuer is a trusted issuer in the hands of the test. What its server answers
// can be replaced.
type issuer struct {
	*httptest.Server
	key     *ecdsa.PrivateKey
	fetches atomic.Int64
	jwks    atomic.Pointer[http.HandlerFunc]
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{key: key}
	i.answer(func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k1", Algorithm: "ES256", Use: "sig"}}})
	})
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(map[string]any{"issuer": i.URL, "jwks_uri": i.URL + "/jwks"})
	})
	mux.HandleFunc("/jwks", func(w http.ResponseWriter, r *http.Request) {
		i.fetches.Add(1)
		(*i.jwks.Load())(w, r)
	})
	i.Server = httptest.NewServer(mux)
	t.Cleanup(i.Close)
	return i
}

// answer replaces what the JWKS endpoint does.
func (i *issuer) answer(h http.HandlerFunc) { i.jwks.Store(&h) }

// yaml is the Issuer resource; more are further lines of it.
func (i *issuer) yaml(name string, more ...string) string {
	return "kind: Issuer\nname: " + name + "\nissuer: " + i.URL + "\nallow_networks: [127.0.0.0/8]\ninsecure_http: true\n" + strings.Join(more, "\n") + "\n"
}

// token is a good token for a server, of the subject job-1, with an edit.
func (i *issuer) token(t *testing.T, n *node, edit func(header map[jose.HeaderKey]any, claims map[string]any)) string {
	t.Helper()
	now := time.Now().Unix()
	header := map[jose.HeaderKey]any{"kid": "k1", "typ": "JWT"}
	claims := map[string]any{"iss": i.URL, "sub": "job-1", "aud": n.env["STS_ISSUER"], "iat": now, "exp": now + 600, "jti": rand.Text()}
	if edit != nil {
		edit(header, claims)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: i.key}, &jose.SignerOptions{ExtraHeaders: header})
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// startScript runs a script that prints one JSON object and then serves until
// ctx ends.
func startScript(ctx context.Context, t *testing.T, n *node, script string) map[string]string {
	t.Helper()
	cmd := exec.CommandContext(ctx, "node", filepath.Join("node", script))
	cmd.Env = n.environ()
	cmd.Stderr = os.Stderr
	cmd.WaitDelay = 5 * time.Second
	stdin, err := cmd.StdinPipe() // its end tells the script to stop
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); cmd.Wait() })
	var out map[string]string
	lines := bufio.NewScanner(stdout)
	for lines.Scan() { // the library prints warnings first
		if json.Unmarshal(lines.Bytes(), &out) == nil {
			return out
		}
	}
	t.Fatalf("%s ended before it was ready", script)
	return nil
}
