package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/workload-sts/sts/internal/testserver"
	"github.com/workload-sts/sts/internal/vaulttest"
)

// vaultNode is a server whose signing keys are in a real Vault, which was set up
// by the script that operators use. It reaches Vault through a proxy.
type vaultNode struct {
	*node
	vault  *vaulttest.Server
	proxy  *testserver.Proxy
	config string // file
	files  string // the directory that the set-up script has made
	secret string // of the client app
}

// quickRotation is a schedule for tests: a rotation each three seconds.
const quickRotation = `rotation: {period: 3s, publish_ahead: 3s, retain: 11s, jwks_max_age: 2s, clock_skew: 0.5s}
`

// vaultSet is a key set in Vault.
const vaultSet = `{name: default, vault: {key: sts}}`

// startVault starts a Vault, sets it up, and starts a server on it with a client,
// an audience and a rule.
func startVault(t *testing.T, set, more string) *vaultNode {
	t.Helper()
	v := newVault(t)
	n := v.start(t, "", "{bolt_file: sts.db}", set, more)
	n.addClient(t)
	return n
}

// vaultSetUp is a Vault that operators have set up for servers.
type vaultSetUp struct {
	vault  *vaulttest.Server
	proxy  *testserver.Proxy
	files  string // the directory that the script has made
	roleID string
}

func newVault(t *testing.T) *vaultSetUp {
	t.Helper()
	v := &vaultSetUp{vault: vaulttest.Start(t, vaulttest.WithDir("")), files: filepath.Join(t.TempDir(), "vault")}
	v.proxy = testserver.NewProxy(t, strings.TrimPrefix(v.vault.Addr, "http://"))
	env := append(os.Environ(), "VAULT_ADDR="+v.vault.Addr, "VAULT_TOKEN="+v.vault.RootToken)
	if out, stderr, code := command(t, env, "", "sh", "../deploy/vault/setup.sh", v.files); code != 0 {
		t.Fatalf("setup.sh ended with %d: %s%s", code, out, stderr)
	}
	roleID, err := os.ReadFile(filepath.Join(v.files, "role-id"))
	if err != nil {
		t.Fatal(err)
	}
	v.roleID = strings.TrimSpace(string(roleID))
	return v
}

// start starts a server of an issuer, which may have several.
func (v *vaultSetUp) start(t *testing.T, issuer, storage, set, more string) *vaultNode {
	t.Helper()
	n := &vaultNode{vault: v.vault, proxy: v.proxy, files: v.files}
	dir := t.TempDir()
	httpAddr, grpcAddr := testserver.FreeAddress(t), testserver.FreeAddress(t)
	if issuer == "" {
		issuer = httpAddr
	}
	n.config = filepath.Join(dir, "stsd.yaml")
	text := fmt.Sprintf(`issuer: http://%[7]s
http: {listen: "%[1]s"}
grpc: {listen: "%[2]s"}
storage: %[8]s
audit: {file: audit.jsonl}
admin: {token_file: admin.token, socket: {path: admin.sock}}
keys:
  vault:
    addresses: ["http://%[3]s"]
    login: {app_role: {role_id: %[4]s, secret_id_file: %[9]s/secret-id}}
  sets:
    - %[5]s
%[6]s`, httpAddr, grpcAddr, v.proxy.Addr, v.roleID, set, more, issuer, storage, v.files)
	if err := os.WriteFile(n.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	token := adminToken(t, dir)
	n.node = start(t, "serve", "--config", n.config)
	n.dir = dir
	n.env = map[string]string{
		"STS_ISSUER": "http://" + issuer, "STS_HTTP": "http://" + httpAddr, "STS_GRPC": grpcAddr,
		"STS_ADMIN_TOKEN": token, "STS_ADMIN_SOCKET": filepath.Join(dir, "admin.sock"),
	}
	return n
}

// addClient adds the client app, which may ask for tokens of ten seconds for the
// audience api.
func (n *vaultNode) addClient(t *testing.T) {
	t.Helper()
	out, stderr, code := n.stsctl(t, "", "secret", "new", "-o", "yaml")
	if code != 0 {
		t.Fatal(stderr)
	}
	var hash string
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch value = strings.Trim(value, `"'`); name {
		case "secret":
			n.secret = value
		case "hash":
			hash = value
		}
	}
	n.apply(t, fmt.Sprintf(`
kind: Audience
name: api
scopes: [api.read]
max_ttl: 10s
---
kind: Client
name: app
secrets: [{hash: "%s"}]
---
kind: Rule
name: app
requester: {clients: [app]}
allow: {audiences: [api], scopes: [api.read]}
`, hash))
}

// restart stops the server as an operator does and starts it again.
func (n *vaultNode) restart(t *testing.T) {
	t.Helper()
	n.stop(t)
	env, dir := n.env, n.dir
	n.node = start(t, "serve", "--config", n.config)
	n.env, n.dir = env, dir
}

// ask asks for a token as app.
func (n *vaultNode) ask(t *testing.T) reply {
	t.Helper()
	return n.post(t, url.Values{"grant_type": {"client_credentials"}, "audience": {"api"}}, func(r *http.Request) {
		r.SetBasicAuth("app", n.secret)
	})
}
