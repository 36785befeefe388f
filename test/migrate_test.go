package e2e

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/workload-sts/sts/internal/etcdtest"
)

// TestMigrate moves a service from etcd to a file, which is refused while a server
// uses the etcd: the client works on, and what was revoked stays so.
func TestMigrate(t *testing.T) {
	c := etcdtest.Start(t, 1)
	n := startEtcd(t, c)
	n.applyDemo(t)
	n.env["STS_CLIENT_ID"] = "demo"
	form := url.Values{"grant_type": {"client_credentials"}, "audience": {"demo"}}
	kept, revoked := n.token(t, form).str("access_token"), n.token(t, form).str("access_token")
	if _, stderr, code := n.stsctl(t, "", "revoke", "--token", revoked, "--reason", "leaked"); code != 0 {
		t.Fatalf("revoke: %s", stderr)
	}

	file := filepath.Join(n.dir, "sts.db")
	migrate := func() (string, string, int) {
		t.Helper()
		return n.stsctl(t, "", "storage", "migrate", "--from", "etcd:"+strings.Join(c.Endpoints(), ","), "--to", "bolt:"+file,
			"--etcd-ca-file", c.CA.File, "--etcd-cert-file", c.CertFile, "--etcd-key-file", c.KeyFile)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := migrate(); code == 0 || !strings.Contains(stderr, "servers use the store") || !strings.Contains(stderr, host) {
		t.Errorf("migrating while a server runs: exit code %d: %s", code, stderr)
	}
	n.stop(t)
	if stdout, stderr, code := migrate(); code != 0 || !strings.Contains(stdout, "copied and compared") {
		t.Fatalf("migrate: exit code %d: %s%s", code, stdout, stderr)
	}

	config := filepath.Join(n.dir, "stsd.yaml")
	text := readFile(t, config)
	before, rest, _ := strings.Cut(text, "storage: ")
	_, after, _ := strings.Cut(rest, "\n")
	if err := os.WriteFile(config, []byte(before+"storage: {bolt_file: sts.db}\n"+after), 0o600); err != nil {
		t.Fatal(err)
	}
	m := start(t, "serve", "--config", config)
	m.dir, m.env = n.dir, n.env
	exchange := func(token string) reply {
		return m.token(t, url.Values{"grant_type": {grantExchange}, "subject_token": {token}, "subject_token_type": {typeAccessToken}, "audience": {"demo"}})
	}
	if r := m.token(t, form); r.status != http.StatusOK {
		t.Errorf("a token of the moved service: %d %s", r.status, r.raw)
	}
	if r := exchange(kept); r.status != http.StatusOK {
		t.Errorf("a token from before: %d %s", r.status, r.raw)
	}
	if r := exchange(revoked); r.status != http.StatusBadRequest {
		t.Errorf("a token that was revoked before: %d %s", r.status, r.raw)
	}
}
