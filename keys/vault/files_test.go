package vault

import (
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/workload-sts/sts/internal/testserver"
	"github.com/workload-sts/sts/internal/vaulttest"
)

// copyFile replaces a file with another.
func copyFile(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, to, string(b))
}

// TestCAIsReplaced: a client that does not trust Vault any more does again when
// the file has the new authority, with the session that it had [F13].
func TestCAIsReplaced(t *testing.T) {
	before, after := testserver.NewCA(t), testserver.NewCA(t)
	// Two nodes of one Vault: the second has a certificate of the new authority.
	old, renewed := vaulttest.NewStub(t, vaulttest.StubConfig{Server: before}), vaulttest.NewStub(t, vaulttest.StubConfig{Server: after})
	for _, stub := range []*vaulttest.Stub{old, renewed} {
		stub.AddKey(t, "sts", "ecdsa-p256")
	}
	var log lines
	c := rootConfig(t, old)
	c.Addresses = []string{old.Addr, renewed.Addr}
	c.CAFile = secretFile(t, before.PEM)
	c.Log, c.filesEvery = slog.New(slog.NewTextHandler(&log, nil)), 50*time.Millisecond
	client := ready(t, c)
	if err := readKey(client); err != nil {
		t.Fatal(err)
	}

	// A file that is not one changes nothing.
	writeFile(t, c.CAFile, "not PEM")
	eventually(t, "the log says that the file cannot be used", patience, func() bool {
		return strings.Contains(log.String(), "cannot be used; the last good ones stay")
	})
	if err := readKey(client); err != nil {
		t.Fatal(err)
	}

	old.Inject(vaulttest.AnyCall, vaulttest.Reset()) // it is gone
	wantKind(t, readKey(client), Unreachable)
	eventually(t, "vault is found to be down", patience, func() bool { return client.Err() != nil })
	writeFile(t, c.CAFile, after.PEM)
	eventually(t, "vault is trusted again", 5*time.Second, func() bool { return readKey(client) == nil })
	eventually(t, "vault is found to be up", time.Second, func() bool { return client.Err() == nil })
}

// TestClientCertificateIsReplaced: the next connection has the new one.
func TestClientCertificateIsReplaced(t *testing.T) {
	ca, clients := testserver.NewCA(t), testserver.NewCA(t)
	stub := vaulttest.NewStub(t, vaulttest.StubConfig{Server: ca, Clients: clients})
	stub.AddKey(t, "sts", "ecdsa-p256")
	dir := t.TempDir()
	c := Config{
		Addresses: []string{stub.Addr}, CAFile: ca.File, CertFile: dir + "/cert.pem", KeyFile: dir + "/key.pem",
		Login: Login{Certificate: &Certificate{}}, filesEvery: 50 * time.Millisecond,
	}
	use := func(name string) {
		cert, key := clients.Issue(t, name)
		copyFile(t, cert, c.CertFile)
		copyFile(t, key, c.KeyFile)
	}
	use("first")
	client := ready(t, c)
	use("second")
	eventually(t, "vault sees the new certificate", patience, func() bool {
		if err := readKey(client); err != nil {
			t.Fatal(err)
		}
		all := stub.Requests(vaulttest.Read)
		return all[len(all)-1].Client == "second"
	})
	if n := stub.Count(vaulttest.Login); n != 1 {
		t.Errorf("%d logins: the session was dropped", n)
	}
}

// TestSecretIsNotShown: not by accident either.
func TestSecretIsNotShown(t *testing.T) {
	var log lines
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "s", secret("hunter2"), "g", grant{token: "hunter2"})
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "s", secret("hunter2"), "g", grant{token: "hunter2"})
	if strings.Contains(log.String(), "hunter2") {
		t.Errorf("shown: %s", &log)
	}
}
