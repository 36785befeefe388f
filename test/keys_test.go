package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
)

// keyStatus is what `stsctl keys status -o json` says of a key.
type keyStatus struct {
	KID, Role string
	Verifiers int
}

// keys returns the keys of the set default, by role.
func (n *node) keys(t *testing.T) map[string]keyStatus {
	t.Helper()
	out, stderr, code := n.stsctl(t, "", "keys", "status", "-o", "json")
	var status struct {
		Sets []struct {
			Name string
			Keys []keyStatus
		} `json:"key_sets"`
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil || code != 0 || len(status.Sets) != 1 || status.Sets[0].Name != "default" {
		t.Fatalf("keys status: exit code %d, %v: %s%s", code, err, out, stderr)
	}
	found := map[string]keyStatus{}
	for _, k := range status.Sets[0].Keys {
		found[k.Role] = k
	}
	return found
}

// header returns the header of a token.
func header(t *testing.T, token string) map[string]any {
	t.Helper()
	first, _, _ := strings.Cut(token, ".")
	raw, err := base64.RawURLEncoding.DecodeString(first)
	var h map[string]any
	if err == nil {
		err = json.Unmarshal(raw, &h)
	}
	if err != nil {
		t.Fatalf("%q is not a token: %v", token, err)
	}
	return h
}

// TestKeysOfAnOperator takes the keys of a server through what an operator does:
// look, rotate, see who has the next key, and revoke the one that signs.
func TestKeysOfAnOperator(t *testing.T) {
	n := startDev(t, t.TempDir())
	jwks := n.env["STS_HTTP"] + "/.well-known/jwks.json"
	first := n.keys(t)["current"]
	issued := n.token(t, credentialsGrant(n)).str("access_token")
	if kid := header(t, issued)["kid"]; kid != first.KID {
		t.Errorf("%v signed, and %s is said to", kid, first.KID)
	}

	out, stderr, code := n.stsctl(t, "", "keys", "rotate")
	if code != 0 || !strings.Contains(out, "it signs in 59m") && !strings.Contains(out, "it signs in 1h0m") {
		t.Fatalf("rotate: exit code %d: %s%s", code, out, stderr)
	}
	next := n.keys(t)["next"]
	if text, _, _ := n.stsctl(t, "", "keys", "status"); !strings.Contains(text, "WARNING: nobody has fetched the next key") {
		t.Errorf("nobody has fetched the next key, and nobody is told:\n%s", text)
	}
	for _, agent := range []string{"orders/1", "payments/1", "orders/1"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, jwks, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("User-Agent", agent)
		if r := do(t, req); len(r.body["keys"].([]any)) != 2 || !strings.Contains(r.raw, next.KID) {
			t.Errorf("the next key is not published: %s", r.raw)
		}
	}
	if text, _, _ := n.stsctl(t, "", "keys", "status"); !strings.Contains(text, "the next key has been fetched by 2 distinct verifiers; it signs in ") {
		t.Errorf("2 verifiers have the next key, and this is said:\n%s", text)
	}
	if again := n.token(t, credentialsGrant(n)); header(t, again.str("access_token"))["kid"] != first.KID {
		t.Error("the next key signs before its time")
	}

	if _, stderr, code := n.stsctl(t, "", "keys", "revoke", "--", first.KID); code != 2 || !strings.Contains(stderr, "--yes") {
		t.Errorf("revoke without --yes: exit code %d: %s", code, stderr)
	}
	out, stderr, code = n.stsctl(t, "", "keys", "revoke", "--yes", "--", first.KID)
	if code != 0 || !strings.Contains(out, fmt.Sprintf("key %s signs now", next.KID)) || !strings.Contains(out, "(in 5m") {
		t.Fatalf("revoke: exit code %d: %s%s", code, out, stderr)
	}
	exchange := url.Values{"grant_type": {grantExchange}, "subject_token": {issued}, "subject_token_type": {typeAccessToken}, "audience": {"demo"}}
	if r := n.token(t, exchange); r.str("error") != "invalid_request" || !strings.Contains(r.str("error_description"), "revoked") {
		t.Errorf("exchange of a token of the revoked key: %s", r.raw)
	}
	fresh := n.token(t, credentialsGrant(n))
	verify(t, n.env["STS_ISSUER"], "demo", fresh.str("access_token"))
	if kid := header(t, fresh.str("access_token"))["kid"]; kid != next.KID {
		t.Errorf("%v signs after the revocation, not %s", kid, next.KID)
	}

	// All of it survives a kill.
	n.kill(t)
	again := startDev(t, n.dir)
	if keys := again.keys(t); keys["current"].KID != next.KID || keys["revoked"].KID != first.KID {
		t.Errorf("after a restart: %v", keys)
	}
	if r := get(t, again.env["STS_HTTP"]+"/.well-known/jwks.json"); strings.Contains(r.raw, first.KID) {
		t.Errorf("the revoked key is published again: %s", r.raw)
	}
	exchange.Set("subject_token", issued)
	if r := again.token(t, exchange); r.str("error") != "invalid_request" {
		t.Errorf("exchange of a token of the revoked key after a restart: %s", r.raw)
	}
	_, stderr, code = again.stsctl(t, "kind: Audience\nname: outside\nkey_set: defualt\n", "apply", "-f", "-")
	if code == 0 || !strings.Contains(stderr, `<stdin>:3:10: key_set: key set "defualt" is not in the configuration of the server; did you mean "default"?`) {
		t.Errorf("an unknown key set: exit code %d: %s", code, stderr)
	}
	if _, stderr, code := again.stsctl(t, "", "keys", "rotate", "outside"); code != 1 || !strings.Contains(stderr, "no key set of this name") {
		t.Errorf("rotate of an unknown set: exit code %d: %s", code, stderr)
	}
}

// TestStartFails holds that a server that cannot start says why, on one line.
func TestStartFails(t *testing.T) {
	n := startDev(t, t.TempDir())
	// The file of its database is locked.
	_, stderr, code := command(t, n.environ(), "", filepath.Join(bin, "stsd"), "serve", "--dev", "--data", n.dir, "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
	if code != 1 || !strings.HasPrefix(stderr, "stsd: ") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}
