package e2e

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/workload-sts/sts/internal/etcdtest"
)

// registrationResources let the client registrar, whose secret is given by its hash,
// register agents, which may read payments.
func registrationResources(issuer, hash string) string {
	return `
kind: ClientTemplate
name: agents
methods: [client_secret_basic, private_key_jwt]
jwks_hosts: [keys.example.com]
labels: {tier: agent}
---
kind: Audience
name: registration
identifiers: [` + issuer + `/oauth2/register]
scopes: [sts.register.agents]
---
kind: Audience
name: payments
scopes: [payments.read]
---
kind: Client
name: registrar
secrets: [{hash: "` + hash + `"}]
---
kind: Rule
name: registrars
requester: {clients: [registrar]}
allow: {audiences: [registration], scopes: [sts.register.agents]}
---
kind: Rule
name: agents
requester: {labels: {tier: agent}}
allow: {audiences: [payments], scopes: [payments.read]}
`
}

// registrar sets registration up and returns an initial access token.
func (n *node) registrar(t *testing.T) string {
	t.Helper()
	out, stderr, code := n.stsctl(t, "", "secret", "new", "-o", "json")
	if code != 0 {
		t.Fatal(stderr)
	}
	var secret map[string]string
	if err := json.Unmarshal([]byte(out), &secret); err != nil {
		t.Fatal(err)
	}
	n.apply(t, registrationResources(n.env["STS_ISSUER"], secret["hash"]))
	form := url.Values{"grant_type": {"client_credentials"}, "audience": {n.env["STS_ISSUER"] + "/oauth2/register"}}
	r := n.post(t, form, func(r *http.Request) { r.SetBasicAuth("registrar", secret["secret"]) })
	token := r.str("access_token")
	if token == "" {
		t.Fatal(r.raw)
	}
	return token
}

// TestRegistration registers clients with openid-client, and looks at them as an
// operator does. They survive a kill.
func TestRegistration(t *testing.T) {
	dir := t.TempDir()
	n := startTLSIn(t, dir, "", "registration: {enabled: true}")
	initial := n.registrar(t)
	env := append(n.environ(), "STS_INITIAL_ACCESS_TOKEN="+initial, "NODE_EXTRA_CA_CERTS="+os.Getenv("SSL_CERT_FILE"))
	out, stderr, code := command(t, env, "", "node", filepath.Join("node", "registration.mjs"))
	if code != 0 || strings.Count(out, "ok: ") != 4 {
		t.Fatalf("%s\n%s\n%s", out, stderr, n.log)
	}
	doc := get(t, n.env["STS_HTTP"]+"/.well-known/openid-configuration")
	if doc.str("registration_endpoint") != n.env["STS_ISSUER"]+"/oauth2/register" {
		t.Errorf("registration_endpoint %q", doc.str("registration_endpoint"))
	}
	events := map[string]int{}
	for _, rec := range n.recorded(t, "register") {
		if r, ok := rec["registration"].(map[string]any); ok {
			events[r["action"].(string)+" "+rec["outcome"].(string)]++
		}
	}
	for _, want := range []string{"register allow", "register deny", "update allow", "delete allow", "read deny"} {
		if events[want] == 0 {
			t.Errorf("no record of %s: %v", want, events)
		}
	}
	out, stderr, code = n.stsctl(t, "", "client", "registered", "list", "-o", "json")
	if code != 0 {
		t.Fatal(stderr)
	}
	var list struct{ Clients []struct{ Name string } }
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list.Clients) != 1 {
		t.Fatalf("%v %s", err, out)
	}
	name := list.Clients[0].Name
	if out, stderr, code := n.stsctl(t, "", "client", "registered", "delete", name); code != 0 || !strings.Contains(out, "is deleted") {
		t.Errorf("%s%s", out, stderr)
	}
	if out, stderr, code := n.stsctl(t, "", "client", "registered", "list"); code != 0 || !strings.Contains(out, "no client is registered") {
		t.Errorf("%s%s", out, stderr)
	}
}

// TestRegistrationSurvives registers clients, kills the server, and finds what was
// acknowledged: who was registered can authenticate, and who was deleted cannot.
func TestRegistrationSurvives(t *testing.T) {
	dir := t.TempDir()
	n := startTLSIn(t, dir, "", "registration: {enabled: true}")
	initial := n.registrar(t)
	kept, deleted := n.register(t, initial), n.register(t, initial)
	n.registration(t, http.MethodDelete, deleted, http.StatusNoContent)
	n.kill(t)
	env := n.env
	n = start(t, "serve", "--config", filepath.Join(dir, "stsd.yaml"))
	n.env = env
	if r := n.asRegistered(t, kept); r.status != http.StatusOK {
		t.Errorf("who was registered: %d %s", r.status, r.raw)
	}
	if r := n.asRegistered(t, deleted); r.status != http.StatusUnauthorized {
		t.Errorf("who was deleted: %d %s", r.status, r.raw)
	}
}

// TestRegistrationNodes registers and deletes at one node of two on one etcd: the
// other knows within a second or so.
func TestRegistrationNodes(t *testing.T) {
	c := etcdtest.Start(t, 1)
	first := startEtcd(t, c, "registration: {enabled: true}")
	second := joinEtcd(t, c, first, "registration: {enabled: true}")
	initial := first.registrar(t)
	client := first.register(t, initial)
	took := until(t, "registered", func() bool { return second.asRegistered(t, client).status == http.StatusOK })
	second.registration(t, http.MethodDelete, client, http.StatusNoContent)
	gone := until(t, "deleted", func() bool { return first.asRegistered(t, client).status == http.StatusUnauthorized })
	t.Logf("registered at the other node after %s, deleted after %s", took, gone)
	if took > 5*time.Second || gone > 5*time.Second { // a second, on a machine that is not busy
		t.Errorf("registered at the other node after %s, deleted after %s", took, gone)
	}
}

// register registers a client that must be accepted.
func (n *node) register(t *testing.T, initial string) map[string]any {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, n.env["STS_HTTP"]+"/oauth2/register", strings.NewReader(`{"client_name":"a"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+initial)
	r := do(t, req)
	if r.status != http.StatusCreated {
		t.Fatalf("%d %s", r.status, r.raw)
	}
	return r.body
}

// registration calls the URL of a client, by its path, with its token.
func (n *node) registration(t *testing.T, method string, client map[string]any, want int) {
	t.Helper()
	u, err := url.Parse(client["registration_client_uri"].(string))
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, n.env["STS_HTTP"]+u.Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+client["registration_access_token"].(string))
	if r := do(t, req); r.status != want {
		t.Errorf("%d %s", r.status, r.raw)
	}
}

func (n *node) asRegistered(t *testing.T, client map[string]any) reply {
	t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "audience": {"payments"}}
	return n.post(t, form, func(r *http.Request) { r.SetBasicAuth(client["client_id"].(string), client["client_secret"].(string)) })
}

// until waits for a condition.
func until(t *testing.T, what string, holds func() bool) time.Duration {
	t.Helper()
	begin := time.Now()
	for !holds() {
		if time.Since(begin) > 20*time.Second {
			t.Fatalf("%s: not within 20 s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(begin)
}
