package vault

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/workload-sts/sts/internal/testserver"
)

func TestCheck(t *testing.T) {
	ca := testserver.NewCA(t)
	cert, key := ca.Issue(t, "client")
	_, otherKey := ca.Issue(t, "other")
	empty := secretFile(t, "")
	twoLines := secretFile(t, "one\ntwo")
	large := secretFile(t, strings.Repeat("x", maxSecret+1))
	good := func() Config {
		return Config{
			Addresses: []string{"https://vault-1.example.com:8200", "https://vault-2.example.com:8200/prefix"},
			Namespace: "team/a", CAFile: ca.File, ServerName: "vault", CertFile: cert, KeyFile: key,
			Login:   Login{AppRole: &AppRole{Mount: "team/approle", RoleID: "id", SecretIDFile: secretFile(t, "secret")}},
			Timeout: time.Second,
		}
	}
	tests := []struct {
		name string
		edit func(c *Config)
		want string // in the error; empty: none
	}{
		{"good", func(*Config) {}, ""},
		{"least", func(c *Config) {
			*c = Config{Addresses: []string{"http://127.0.0.1:8200"}, Login: Login{TokenFile: secretFile(t, "token")}}
		}, ""},
		{"kubernetes", func(c *Config) {
			c.Login = Login{Kubernetes: &Kubernetes{Role: "sts", TokenFile: secretFile(t, "jwt")}}
		}, ""},
		{"certificate", func(c *Config) { c.Login = Login{Certificate: &Certificate{}} }, ""},
		{"IPv6 loopback", func(c *Config) { c.Addresses = []string{"http://[::1]:8200"} }, ""},

		{"no address", func(c *Config) { c.Addresses = nil }, "name at least one"},
		{"no URL", func(c *Config) { c.Addresses = []string{"vault"} }, "is not a URL"},
		{"host and port", func(c *Config) { c.Addresses = []string{"vault:8200"} }, "is not a URL"},
		{"in the clear", func(c *Config) { c.Addresses = []string{"http://vault:8200"} }, "must be https"},
		{"other scheme", func(c *Config) { c.Addresses = []string{"ftp://vault"} }, "must begin with https"},
		{"user", func(c *Config) { c.Addresses = []string{"https://u:hunter2@vault"} }, "user or password"},
		{"query", func(c *Config) { c.Addresses = []string{"https://vault?a=b"} }, "query or fragment"},
		{"v1", func(c *Config) { c.Addresses = []string{"https://vault/v1"} }, "/v1 is added"},
		{"dots", func(c *Config) { c.Addresses = []string{"https://vault/a/../b"} }, "plain path"},
		{"twice", func(c *Config) { c.Addresses = append(c.Addresses, c.Addresses[0]) }, "is there twice"},
		{"namespace", func(c *Config) { c.Namespace = "a\r\nb" }, "namespace"},
		{"timeout", func(c *Config) { c.Timeout = time.Hour }, "timeout"},
		{"negative timeout", func(c *Config) { c.Timeout = -1 }, "timeout"},
		{"no CA file", func(c *Config) { c.CAFile = "/nowhere/ca.pem" }, "/nowhere/ca.pem is missing"},
		{"CA file without one", func(c *Config) { c.CAFile = key }, "no certificate in PEM"},
		{"certificate without key", func(c *Config) { c.KeyFile = "" }, "key_file: is missing"},
		{"key of another", func(c *Config) { c.KeyFile = otherKey }, "does not match"},
		{"no login", func(c *Config) { c.Login = Login{} }, "login: is missing"},
		{"two logins", func(c *Config) { c.Login.TokenFile = secretFile(t, "token") }, "login: has 2 methods"},
		{"no token file", func(c *Config) { c.Login = Login{TokenFile: "/nowhere/token"} }, "/nowhere/token is missing"},
		{"empty token file", func(c *Config) { c.Login = Login{TokenFile: empty} }, "is empty"},
		{"two lines", func(c *Config) { c.Login = Login{TokenFile: twoLines} }, "one line"},
		{"large token", func(c *Config) { c.Login = Login{TokenFile: large} }, "larger than"},
		{"no role id", func(c *Config) { c.Login.AppRole.RoleID = "" }, "login.app_role.role_id: is missing"},
		{"no secret id", func(c *Config) { c.Login.AppRole.SecretIDFile = "" }, "login.app_role.secret_id_file: is missing"},
		{"bad mount", func(c *Config) { c.Login.AppRole.Mount = "/approle/" }, "not a mount"},
		{"no role", func(c *Config) { c.Login = Login{Kubernetes: &Kubernetes{TokenFile: secretFile(t, "x")}} }, "login.kubernetes.role: is missing"},
		{"no service account", func(c *Config) { c.Login = Login{Kubernetes: &Kubernetes{Role: "x"}} }, "serviceaccount/token is missing"},
		{"no certificate", func(c *Config) { c.CertFile, c.KeyFile, c.Login = "", "", Login{Certificate: &Certificate{}} }, "needs a client certificate"},
		{"no TLS", func(c *Config) {
			c.Addresses, c.Login = []string{"http://127.0.0.1:1"}, Login{Certificate: &Certificate{}}
		}, "needs TLS"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := good()
			tt.edit(&c)
			err := c.check()
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want %q", err, tt.want)
			case err != nil && strings.Contains(err.Error(), "hunter2"):
				t.Errorf("the error has a password: %v", err)
			}
			if client, opened := Open(c); opened == nil {
				client.Close()
			} else if err == nil {
				t.Errorf("checked, but not opened: %v", opened)
			}
		})
	}
}

// TestCheckSaysAll: all problems at once.
func TestCheckSaysAll(t *testing.T) {
	err := Config{Addresses: []string{"http://vault", "ftp://vault"}, CAFile: "/nowhere", Timeout: -1}.check()
	for _, want := range []string{"must be https", "must begin with https", "/nowhere", "timeout", "login: is missing"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
}

func TestCheckKey(t *testing.T) {
	for _, ok := range [][2]string{{"transit", "sts"}, {"team/a/transit", "sts-es256.v1"}, {"_t-1.x", "a"}} {
		if err := CheckKey(ok[0], ok[1]); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range [][2]string{{"", "sts"}, {"transit", ""}, {"transit/", "sts"}, {"..", "sts"}, {"transit", "a/b"}, {"transit", ".a"}, {"transit", "a\n"}} {
		if err := CheckKey(bad[0], bad[1]); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestReadSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte("  hvs.token\r\n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := readSecret(path)
	if err != nil || string(got) != "hvs.token" {
		t.Errorf("got %v", err)
	}
	if _, err := readSecret(filepath.Dir(path)); err == nil {
		t.Error("a directory is a secret")
	}
}
