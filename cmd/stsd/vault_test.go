package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/workload-sts/sts/internal/testserver"
	"github.com/workload-sts/sts/internal/vaulttest"
	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// vaultSections is a configuration with a set in Vault and one that it wraps,
// which reaches a stub over TLS.
func vaultSections(t *testing.T, dir string, stub *vaulttest.Stub, ca, clients *testserver.CA, login string) string {
	t.Helper()
	for name, content := range map[string]string{"token": stub.RootToken, "secret-id": "secret-id", "jwt": "eyJhbGciOiJSUzI1NiJ9.e30.AA"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	certFile, keyFile := clients.Issue(t, "stsd")
	return fmt.Sprintf(`keys:
  sets:
    - {name: default, vault: {key: sts}}
    - {name: wrapped, algorithm: EdDSA, vault_wrapped: {key: sts-wrap}}
  vault:
    addresses: [%q]
    namespace: team-a
    ca_file: %q
    server_name: localhost
    cert_file: %q
    key_file: %q
    login: %s
`, stub.Addr, ca.File, certFile, keyFile, login)
}

// TestVaultLogins wires a service by each way to log in, and issues a token of
// each key set.
func TestVaultLogins(t *testing.T) {
	for name, login := range map[string]string{
		"token file":  "{token_file: token}",
		"app role":    "{app_role: {role_id: role-id, secret_id_file: secret-id}}",
		"kubernetes":  "{kubernetes: {role: role, token_file: jwt}}",
		"certificate": "{certificate: {}}",
	} {
		t.Run(name, func(t *testing.T) {
			ca, clients := testserver.NewCA(t), testserver.NewCA(t)
			stub := vaulttest.NewStub(t, vaulttest.StubConfig{Server: ca, Clients: clients})
			stub.AddKey(t, "sts", "ecdsa-p256")
			stub.AddKey(t, "sts-wrap", "aes256-gcm96")
			dir := t.TempDir()
			n, err := openNode(t, dir, vaultSections(t, dir, stub, ca, clients, login))
			if err != nil {
				t.Fatal(err)
			}
			defer n.close()
			ask := issuing(t, n)
			for audience, alg := range map[string]jose.Algorithm{"api": jose.ES256, "fast": jose.EdDSA} {
				token, err := ask(audience)
				if err != nil {
					t.Fatal(err)
				}
				jws, err := jose.Parse(token.Value)
				if err != nil {
					t.Fatal(err)
				}
				set, _ := n.service.KeySet()
				if key, ok := set.Key(jws.Header.KeyID); !ok || jws.Header.Algorithm != alg || jws.Verify(key) != nil {
					t.Errorf("the token for %s, signed with %s, does not verify with what is published", audience, jws.Header.Algorithm)
				}
			}
			for _, r := range stub.Requests(vaulttest.Sign, vaulttest.Read, vaulttest.Encrypt) {
				if r.Header.Get("X-Vault-Namespace") != "team-a" || r.Client != "stsd" {
					t.Errorf("%s %s was sent for namespace %q by client %q", r.Method, r.Path, r.Header.Get("X-Vault-Namespace"), r.Client)
				}
			}
			want := map[string]string{"default": "transit/keys/sts version 1", "wrapped": "in the storage, encrypted by transit/keys/sts-wrap"}
			for _, s := range n.service.Keys() {
				if len(s.Keys) != 1 || s.Keys[0].Location != want[s.Name] {
					t.Errorf("key set %s has keys %+v, want one in %s", s.Name, s.Keys, want[s.Name])
				}
			}
		})
	}
}

// TestVaultSealed holds what callers, verifiers and operators are told while
// Vault is sealed: what it is needed for is refused with a time to come back and
// everything else goes on.
func TestVaultSealed(t *testing.T) {
	ca, clients := testserver.NewCA(t), testserver.NewCA(t)
	stub := vaulttest.NewStub(t, vaulttest.StubConfig{Server: ca, Clients: clients})
	stub.AddKey(t, "sts", "ecdsa-p256")
	stub.AddKey(t, "sts-wrap", "aes256-gcm96")
	dir := t.TempDir()
	n, err := openNode(t, dir, vaultSections(t, dir, stub, ca, clients, "{token_file: token}"))
	if err != nil {
		t.Fatal(err)
	}
	defer n.close()
	ask := issuing(t, n)
	stub.Inject(vaulttest.AnyCall, vaulttest.Status(http.StatusServiceUnavailable))
	begin := time.Now()
	_, err = ask("api")
	e, _ := errors.AsType[*sts.Error](err)
	if e == nil || e.Code != sts.Unavailable || e.RetryAfter <= 0 || strings.Contains(e.Message, "127.0.0.1") {
		t.Errorf("%v", err)
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("the refusal took %s", took)
	}
	if _, err := ask("fast"); err != nil {
		t.Errorf("a wrapped key needs Vault only at the start: %v", err)
	}
	if set, _ := n.service.KeySet(); set.Len() != 2 {
		t.Errorf("%d keys are published", set.Len())
	}
	await(t, "readiness to name Vault", func() bool {
		m := n.service.Ready(t.Context())[sts.CapabilityIssue]
		return m != nil && m.Dependency == "vault"
	})
	_, err = n.service.RotateKey(t.Context(), sts.Principal{}, sts.DefaultKeySet)
	if e, _ := errors.AsType[*sts.Error](err); e == nil || e.Code != sts.Unavailable || strings.Contains(e.Message, "127.0.0.1") {
		t.Errorf("a rotation: %v", err)
	}
	stub.Heal(vaulttest.AnyCall)
	await(t, "a token after Vault is back", func() bool { _, err := ask("api"); return err == nil })
	if m := n.service.Ready(t.Context())[sts.CapabilityIssue]; m != nil {
		t.Errorf("not ready although tokens are issued: %+v", m)
	}
}

// TestFirstStartNeedsVault holds that a server without any keys does not start
// without Vault, and says what is missing.
func TestFirstStartNeedsVault(t *testing.T) {
	ca, clients := testserver.NewCA(t), testserver.NewCA(t)
	stub := vaulttest.NewStub(t, vaulttest.StubConfig{Server: ca, Clients: clients})
	stub.AddKey(t, "sts-wrap", "aes256-gcm96")
	dir := t.TempDir()
	sections := vaultSections(t, dir, stub, ca, clients, "{token_file: token}")
	_, err := openNode(t, dir, sections)
	if err == nil || !strings.Contains(err.Error(), "vault has no key transit/keys/sts: make it with `vault write -f transit/keys/sts type=ecdsa-p256`") {
		t.Errorf("a start without the key: %v", err)
	}
	stub.AddKey(t, "sts", "ecdsa-p256")
	n, err := openNode(t, dir, sections)
	if err != nil {
		t.Fatal(err)
	}
	n.close()
}

// issuing adds a client that may get tokens of each key set, and returns how it
// does.
func issuing(t *testing.T, n *node) func(audience string) (sts.Token, error) {
	t.Helper()
	change, request := client()
	change.Put = append(change.Put, sts.Resource{Audience: &sts.Audience{Name: "fast", KeySet: "wrapped"}})
	change.Put[2].Rule.Allow.Audiences = []string{"api", "fast"}
	if _, err := n.service.Apply(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	return func(audience string) (sts.Token, error) { return n.service.Token(t.Context(), request(audience)) }
}

// client returns a change that makes a client which may have tokens for the
// audience api, and its requests.
func client() (sts.Change, func(audience string) sts.TokenRequest) {
	secret, hash := sts.NewSecret()
	change := sts.Change{Put: []sts.Resource{
		{Client: &sts.Client{Name: "web", Secrets: []sts.ClientSecret{{Hash: hash}}}},
		{Audience: &sts.Audience{Name: "api"}},
		{Rule: &policy.Rule{Name: "web", Requester: policy.Requester{Clients: []string{"web"}}, Allow: policy.Allow{Audiences: []string{"api"}}}},
	}}
	return change, func(audience string) sts.TokenRequest {
		return sts.TokenRequest{
			Grant: sts.ClientCredentials, Audiences: []string{audience},
			Credential: sts.Credential{Method: sts.SecretBasic, ClientID: "web", Secret: secret},
		}
	}
}

// await waits for what happens at once, but not before a call has returned.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
