package vault

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/workload-sts/sts/internal/vaulttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what happens at once.
const patience = 10 * time.Second

// secretFile makes a file with one line.
func secretFile(t testing.TB, line string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	writeFile(t, path, line+"\n")
	return path
}

// writeFile replaces a file as those who rotate secrets do: at once.
func writeFile(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// rootConfig is a configuration with the root token of a stub.
func rootConfig(t testing.TB, stub *vaulttest.Stub) Config {
	t.Helper()
	return Config{Addresses: []string{stub.Addr}, Login: Login{TokenFile: secretFile(t, stub.RootToken)}}
}

// approleConfig is a configuration with the AppRole of a stub.
func approleConfig(t testing.TB, stub *vaulttest.Stub) Config {
	t.Helper()
	return Config{Addresses: []string{stub.Addr}, Login: Login{AppRole: &AppRole{RoleID: "role-id", SecretIDFile: secretFile(t, "secret-id")}}}
}

// open opens a client that ends with the test.
func open(t testing.TB, c Config) *Client {
	t.Helper()
	client, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// ready opens a client and waits for its login.
func ready(t testing.TB, c Config) *Client {
	t.Helper()
	client := open(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := client.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return client
}

// wantKind fails the test if an error is not of a kind.
func wantKind(t testing.TB, err error, want Kind) {
	t.Helper()
	if got := kindOfError(err); got != want {
		t.Fatalf("error of kind %q, want %q: %v", got, want, err)
	}
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, within time.Duration, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, what)
		}
	}
}
