package e2e

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/workload-sts/sts/internal/etcdtest"
	"github.com/workload-sts/sts/internal/testserver"
)

// startEtcd starts a server with its own keys on an etcd. more are lines of the
// configuration.
func startEtcd(t *testing.T, c *etcdtest.Cluster, more ...string) *node {
	t.Helper()
	var key [32]byte
	rand.Read(key[:])
	address := testserver.FreeAddress(t)
	return startEtcdAs(t, c, "http://"+address, address, []byte(base64.StdEncoding.EncodeToString(key[:])), more...)
}

// joinEtcd starts another server of the same issuer, with the same keys.
func joinEtcd(t *testing.T, c *etcdtest.Cluster, first *node, more ...string) *node {
	t.Helper()
	key, err := os.ReadFile(filepath.Join(first.dir, "signing.key"))
	if err != nil {
		t.Fatal(err)
	}
	return startEtcdAs(t, c, first.env["STS_ISSUER"], testserver.FreeAddress(t), key, more...)
}

func startEtcdAs(t *testing.T, c *etcdtest.Cluster, issuer, httpAddr string, key []byte, more ...string) *node {
	t.Helper()
	dir := t.TempDir()
	grpcAddr := testserver.FreeAddress(t)
	if err := os.WriteFile(filepath.Join(dir, "signing.key"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`issuer: %[4]s
http: {listen: "%[1]s"}
grpc: {listen: "%[2]s"}
storage: %[3]s
audit: {file: audit.jsonl}
admin: {token_file: admin.token, socket: {path: admin.sock}}
keys: {sets: [{name: default, local: {key_file: signing.key}}]}
`, httpAddr, grpcAddr, strings.Replace(etcdStorage(c), "{etcd: {", "{etcd: {request_timeout: 1s, ", 1), issuer) + strings.Join(more, "\n")
	config := filepath.Join(dir, "stsd.yaml")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	token := adminToken(t, dir)
	n := start(t, "serve", "--config", config)
	n.dir = dir
	n.env = map[string]string{
		"STS_ISSUER": issuer, "STS_HTTP": "http://" + httpAddr, "STS_GRPC": grpcAddr,
		"STS_ADMIN_TOKEN": token, "STS_ADMIN_SOCKET": filepath.Join(dir, "admin.sock"),
	}
	return n
}

// TestEtcdOutage cuts a server off from etcd, kills etcd, and restores it from a
// backup, while a client authenticates by assertions: nothing is used up that cannot be
// remembered, what needs no store goes on, and all is good again by itself, or when
// an operator says so and it begins anew [F20, F21, F26, B-02].
func TestEtcdOutage(t *testing.T) {
	c := etcdtest.Start(t, 1)
	n := startEtcd(t, c)
	s := newSigner(t, "app", jose.ES256)
	n.apply(t, s.yaml(t)+"kind: Audience\nname: demo\nscopes: [demo.read]\n")
	form := func() url.Values { return assertionForm(s.assertion(t, n, nil), "jwt-bearer") }
	works := func(what string, limit time.Duration) {
		t.Helper()
		for deadline := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
			r := n.post(t, form(), nil)
			if r.status == http.StatusOK {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: no token within %v: %d %s\n%s", what, limit, r.status, r.raw, n.log)
			}
		}
	}
	refused := func(what string) {
		t.Helper()
		for range 2 {
			begun := time.Now()
			r := n.post(t, form(), nil)
			if r.status != http.StatusServiceUnavailable || r.str("error") != "temporarily_unavailable" || r.header.Get("Retry-After") == "" {
				t.Errorf("%s: %d %s", what, r.status, r.raw)
			}
			if took := time.Since(begun); took > 8*time.Second {
				t.Errorf("%s: refused after %v", what, took)
			}
		}
		if set := get(t, n.env["STS_HTTP"]+"/.well-known/jwks.json"); !strings.Contains(set.raw, `"kid"`) {
			t.Errorf("%s: the key set: %s", what, set.raw)
		}
	}
	works("at first", 5*time.Second)
	m := c.Members[0]

	m.Proxy.Blackhole()
	refused("cut off")
	m.Proxy.Heal()
	works("after it was cut off", 10*time.Second)

	once := form()
	if r := n.post(t, once, nil); r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.raw)
	}
	m.Kill(t)
	refused("killed")
	m.Restart(t)
	works("after it was killed", 10*time.Second)
	if r := n.post(t, once, nil); r.status != http.StatusUnauthorized {
		t.Errorf("an assertion was used again after etcd was killed: %d %s", r.status, r.raw)
	}

	snapshot := c.Snapshot(t)
	lost := form()
	if r := n.post(t, lost, nil); r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.raw)
	}
	works("before the restore", 5*time.Second)
	c.Restore(t, snapshot, "restored")
	refused("restored")
	out, stderr, code := n.stsctl(t, "", "storage", "confirm", "--accept-rollback", "--store", "etcd:"+c.Endpoints()[0],
		"--etcd-ca-file", c.CA.File, "--etcd-cert-file", c.CertFile, "--etcd-key-file", c.KeyFile)
	if code != 0 || !strings.Contains(out, "the id of the etcd cluster was") {
		t.Fatalf("confirm: %d %s%s", code, out, stderr)
	}
	// What runs knows more than the backup, so it ends, and begins anew.
	select {
	case <-n.done:
	case <-time.After(15 * time.Second):
		t.Fatalf("the server goes on by what it knew before:\n%s", n.log)
	}
	if code := n.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(n.log.String(), "start it anew") {
		t.Errorf("it ended with %d:\n%s", code, n.log)
	}
	again := start(t, n.cmd.Args[1:]...)
	again.dir, again.env = n.dir, n.env
	n = again
	if out, _, _ := n.stsctl(t, "", "revocations"); !strings.Contains(out, "all, issued until") {
		t.Errorf("what was issued before the restore counts:\n%s", out)
	}
	// Assertions that could have been accepted before then are not told from used
	// ones; this one is made as late as clocks may differ.
	late := func(claims map[string]any) { claims["iat"] = time.Now().Add(28 * time.Second).Unix() }
	form = func() url.Values { return assertionForm(s.assertion(t, n, late), "jwt-bearer") }
	works("after an operator has confirmed", 15*time.Second)
	if r := n.post(t, lost, nil); r.status == http.StatusOK {
		t.Errorf("an assertion was used again after a restore: %d %s", r.status, r.raw)
	}
}
