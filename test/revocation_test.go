package e2e

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// withIntrospector lets the demo client ask about its own tokens.
func withIntrospector(t *testing.T, n *node) {
	n.apply(t, `
kind: Audience
name: demo
scopes: [demo.read, demo.write]
introspectors: [demo]
---
kind: Rule
name: again
requester: {clients: [demo]}
subject: {issuer: self}
allow: {audiences: [demo], scopes: [demo.read]}
`)
}

// TestNodeRevocation asks and revokes with the clients of the npm ecosystem.
func TestNodeRevocation(t *testing.T) {
	n := startDev(t, t.TempDir())
	withIntrospector(t, n)
	out, stderr, code := command(t, n.environ(), "", "node", filepath.Join("node", "revocation.mjs"))
	if code != 0 || strings.Count(out, "ok: ") != 7 {
		t.Fatalf("%s\n%s", out, stderr)
	}
}

// TestRevokeCommands revokes as an operator does, and what is revoked stays so
// after the process was killed [V2, V6].
func TestRevokeCommands(t *testing.T) {
	dir := t.TempDir()
	n := startDev(t, dir)
	withIntrospector(t, n)
	token := n.token(t, credentialsGrant(n)).str("access_token")
	active := func(n *node) any {
		t.Helper()
		r := n.postTo(t, n.env["STS_HTTP"]+"/oauth2/introspect", url.Values{"token": {token}}, func(r *http.Request) {
			r.SetBasicAuth(n.env["STS_CLIENT_ID"], n.env["STS_CLIENT_SECRET"])
		})
		if r.status != http.StatusOK {
			t.Fatalf("%d %s", r.status, r.raw)
		}
		return r.body["active"]
	}
	if active(n) != true {
		t.Fatal("a new token is not active")
	}
	file := filepath.Join(dir, "token.jwt")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, stderr, code := n.stsctl(t, "", "revoke", "--token", "@"+file, "--reason", "leaked"); code != 0 || strings.Contains(out+stderr, token) {
		t.Fatalf("%s%s", out, stderr)
	}
	if active(n) != false {
		t.Error("active after it was revoked")
	}
	n.kill(t)
	n = startDev(t, dir)
	if active(n) != false {
		t.Error("active after a restart")
	}
	out, stderr, code := n.stsctl(t, "", "revocations")
	if code != 0 || !strings.Contains(out, "token jti ") || !strings.Contains(out, "leaked") {
		t.Errorf("%s%s", out, stderr)
	}
	begin := time.Now()
	if out, stderr, code := n.stsctl(t, "", "revoke", "--client", "demo", "--reason", "test"); code != 0 {
		t.Fatalf("%s%s", out, stderr)
	}
	// Tokens that are issued in the same second would be revoked from the start.
	for {
		r := n.token(t, credentialsGrant(n))
		if r.status == http.StatusOK {
			break
		}
		if r.status != http.StatusServiceUnavailable || time.Since(begin) > 5*time.Second {
			t.Fatalf("%d %s", r.status, r.raw)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
