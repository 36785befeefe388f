package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

func credentialsGrant(n *node) url.Values {
	return url.Values{"grant_type": {"client_credentials"}, "audience": {n.env["STS_AUDIENCE"]}}
}

// TestSecondStart holds that a second start on a directory keeps the signing
// key, the secrets and the resources.
func TestSecondStart(t *testing.T) {
	dir := t.TempDir()
	n := startDev(t, dir)
	n.apply(t, "kind: Audience\nname: kept\nscopes: [kept.read]\n")
	keys := get(t, n.env["STS_HTTP"]+"/.well-known/jwks.json")
	n.stop(t)

	again := startDev(t, dir)
	if again.env["STS_CLIENT_SECRET"] != n.env["STS_CLIENT_SECRET"] || again.env["STS_ADMIN_TOKEN"] != n.env["STS_ADMIN_TOKEN"] {
		t.Error("the second start made new secrets")
	}
	if after := get(t, again.env["STS_HTTP"]+"/.well-known/jwks.json"); after.raw != keys.raw {
		t.Errorf("keys after the second start\n%s\nbefore\n%s", after.raw, keys.raw)
	}
	out, stderr, code := again.stsctl(t, "", "get", "audience", "kept", "-o", "yaml")
	if code != 0 || !strings.Contains(out, "kept.read") {
		t.Errorf("the applied audience is gone: %s%s", out, stderr)
	}
	if r := again.token(t, credentialsGrant(again)); r.status != http.StatusOK {
		t.Errorf("the demo client's secret is refused: %s", r.raw)
	}
}

// TestDeletedStaysDeleted holds that the demo resources are made once: a second
// start leaves what the user did with them as it is.
func TestDeletedStaysDeleted(t *testing.T) {
	dir := t.TempDir()
	n := startDev(t, dir)
	for _, kind := range []string{"rule", "audience"} {
		if _, stderr, code := n.stsctl(t, "", "delete", kind, "demo"); code != 0 {
			t.Fatal(stderr)
		}
	}
	n.apply(t, "kind: Audience\nname: mine\nidentifiers: [demo]\n")
	before, _, _ := n.stsctl(t, "", "get", "all", "-o", "yaml")
	n.stop(t)

	again := startDev(t, dir)
	if after, _, _ := again.stsctl(t, "", "get", "all", "-o", "yaml"); after != before {
		t.Errorf("after the second start\n%s\nbefore\n%s", after, before)
	}
	if out := again.stdout.String(); strings.Contains(out, "get a token") || !strings.Contains(out, "stsctl get all") {
		t.Errorf("it shows how to use what is not there:\n%s", out)
	}
	if _, stderr, code := again.stsctl(t, "", "delete", "client", "demo"); code != 0 {
		t.Fatal(stderr)
	}
	again.stop(t)
	third := startDev(t, dir)
	if _, ok := third.env["STS_CLIENT_ID"]; ok {
		t.Errorf("the environment names a client that is not there: %v", third.env)
	}
	if _, stderr, code := third.stsctl(t, "", "get", "client", "demo"); code == 0 || !strings.Contains(stderr, "not_found") {
		t.Errorf("the deleted client is back: %s", stderr)
	}
}

// TestDevSecretsReplaced holds that a lost environment file is no dead end.
func TestDevSecretsReplaced(t *testing.T) {
	dir := t.TempDir()
	n := startDev(t, dir)
	n.stop(t)
	if err := os.Remove(filepath.Join(dir, "dev.env")); err != nil {
		t.Fatal(err)
	}
	again := startDev(t, dir)
	if r := again.token(t, credentialsGrant(again)); r.status != http.StatusOK {
		t.Errorf("token with the new secret: %s", r.raw)
	}
	if _, stderr, code := again.stsctl(t, "", "get", "clients"); code != 0 {
		t.Errorf("the new admin token is refused: %s", stderr)
	}
}

// TestDevLoopbackOnly holds that a development server cannot be put on a network.
func TestDevLoopbackOnly(t *testing.T) {
	for _, args := range [][]string{
		{"--http", "0.0.0.0:0"}, {"--grpc", "0.0.0.0:0"}, {"--http", ":0"}, {"--http", "192.0.2.1:0"}, {"--http", "[::]:0"}, {"--http", "example.com:80"},
	} {
		_, stderr, code := command(t, os.Environ(), "", filepath.Join(bin, "stsd"), append([]string{"serve", "--dev", "--data", t.TempDir()}, args...)...)
		if code != 1 || !strings.Contains(stderr, "loopback") {
			t.Errorf("serve --dev %v: exit code %d, %q", args, code, stderr)
		}
	}
}

// TestPrivateFiles holds that nobody else on the machine can read what the
// server keeps [L-10].
func TestPrivateFiles(t *testing.T) {
	n := startDev(t, t.TempDir())
	for _, name := range []string{"sts.db", "signing.key", "audit.jsonl", "dev.env"} {
		info, err := os.Stat(filepath.Join(n.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
}

// TestSecretsStayInside gets and exchanges tokens, makes mistakes, and looks for
// secrets in everything that the server wrote [L-01].
func TestSecretsStayInside(t *testing.T) {
	n := startDev(t, t.TempDir())
	issued := n.token(t, credentialsGrant(n)).str("access_token")
	canary := "canary-" + strings.Repeat("s3cr3t", 8)
	n.token(t, url.Values{"grant_type": {grantExchange}, "subject_token": {issued}, "subject_token_type": {typeAccessToken}, "audience": {"demo"}})
	for _, form := range []url.Values{
		{"grant_type": {canary}}, {"grant_type": {"client_credentials"}, "audience": {canary}}, {"grant_type": {"client_credentials"}, "scope": {canary}},
		{"grant_type": {grantExchange}, "subject_token": {canary}, "subject_token_type": {typeJWT}},
		{"grant_type": {grantExchange}, "subject_token": {issued + canary}, "subject_token_type": {typeAccessToken}},
	} {
		if r := n.token(t, form); strings.Contains(r.raw, canary) || r.status == http.StatusOK {
			t.Errorf("%v: status %d, %s", form, r.status, r.raw)
		}
	}
	// A script took the wrong variable.
	for _, secret := range []string{issued, n.env["STS_CLIENT_SECRET"], canary} {
		for _, name := range []string{"audience", "resource", "scope", "requested_token_type", "client_id"} {
			form := url.Values{"grant_type": {grantExchange}, "subject_token": {issued}, "subject_token_type": {typeAccessToken}, "audience": {"demo"}}
			form.Set(name, secret)
			for _, r := range []reply{n.token(t, form), n.post(t, form, nil)} {
				if r.status == http.StatusOK {
					t.Errorf("%s: status %d", name, r.status)
				}
			}
		}
	}
	n.post(t, credentialsGrant(n), func(r *http.Request) { r.SetBasicAuth("demo", canary) })
	conn, err := grpc.NewClient(n.env["STS_GRPC"], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// [G-15] Metadata is neither logged nor answered.
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Basic "+canary, "x-secret", canary)
	if _, err := stsv1.NewTokenServiceClient(conn).IssueToken(ctx, &stsv1.IssueTokenRequest{ClientSecret: canary}); err == nil || strings.Contains(err.Error(), canary) {
		t.Errorf("gRPC: %v", err)
	}
	metrics := getRaw(t, n.env["STS_HTTP"]+"/metrics")
	audit, err := os.ReadFile(filepath.Join(n.dir, "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	tokenParts := strings.Split(issued, ".")
	for where, text := range map[string]string{"log": n.log.String(), "metrics": metrics, "audit": string(audit), "stdout": n.stdout.String()} {
		for what, secret := range map[string]string{
			"client secret": n.env["STS_CLIENT_SECRET"], "admin token": n.env["STS_ADMIN_TOKEN"],
			"a token's signature": tokenParts[2], "a token's claims": tokenParts[1],
		} {
			if strings.Contains(text, secret) {
				t.Errorf("the %s contains %s", where, what)
			}
		}
		if strings.Contains(text, canary) {
			t.Errorf("the %s contains what a caller sent", where)
		}
	}
}

// TestOneRecordPerDecision joins answers with the audit log: each has exactly one
// record, found by the decision id in the answer [L-08, V5].
func TestOneRecordPerDecision(t *testing.T) {
	n := startDev(t, t.TempDir())
	before := len(n.audit(t))
	good := n.token(t, credentialsGrant(n))
	denied := n.token(t, url.Values{"grant_type": {"client_credentials"}, "audience": {"nowhere"}})
	repeated := n.token(t, url.Values{"grant_type": {"client_credentials"}, "scope": {"a", "b"}})
	records := n.audit(t)[before:]
	if len(records) != 3 {
		t.Fatalf("%d records for 3 decisions", len(records))
	}
	for i, want := range []struct {
		reply
		outcome, code string
	}{{good, "allow", ""}, {denied, "deny", "invalid_target"}, {repeated, "deny", "invalid_request"}} {
		r := records[i]
		if code, _ := r["error"].(string); r["outcome"] != want.outcome || code != want.code || want.str("error") != want.code {
			t.Errorf("record %d: %v; answer %s", i, r, want.raw)
		}
		if id, _ := r["decision"].(string); id == "" || want.outcome == "deny" && !strings.Contains(want.str("error_description"), id) {
			t.Errorf("decision id %q is not in the answer %s", r["decision"], want.raw)
		}
	}
	issued, _ := records[0]["issued"].(map[string]any)
	claims := verify(t, n.env["STS_ISSUER"], "demo", good.str("access_token"))
	if issued["jti"] != claims["jti"] || issued["txn"] != claims["txn"] {
		t.Errorf("the record names jti %v and txn %v, the token %v and %v", issued["jti"], issued["txn"], claims["jti"], claims["txn"])
	}
}

func get(t *testing.T, url string) reply {
	t.Helper()
	r := reply{raw: getRaw(t, url)}
	if err := json.Unmarshal([]byte(r.raw), &r.body); err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	return r
}

func getRaw(t *testing.T, url string) string {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: status %d, %v", url, res.StatusCode, err)
	}
	return string(body)
}
