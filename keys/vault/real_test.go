package vault

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/workload-sts/sts/internal/testserver"
	"github.com/workload-sts/sts/internal/vaulttest"
	"github.com/workload-sts/sts/jose"
)

// leastPolicy is what a signer needs, and the policy default beside it.
const leastPolicy = `
path "transit/keys/+"        { capabilities = ["read"] }
path "transit/keys/+/rotate" { capabilities = ["update"] }
path "transit/sign/+"        { capabilities = ["update"] }
path "transit/encrypt/+"     { capabilities = ["update"] }
path "transit/decrypt/+"     { capabilities = ["update"] }
`

// realVault is a real Vault and a client of it by AppRole.
type realVault struct {
	*vaulttest.Server
	config Config
}

// startVault starts a Vault with the key sts and a role with a policy.
func startVault(t *testing.T, options ...vaulttest.Option) realVault {
	t.Helper()
	if testing.Short() {
		t.Skip("it starts a Vault")
	}
	v := realVault{Server: vaulttest.Start(t, options...)}
	v.Transit(t, "sts", "ecdsa-p256")
	v.Policy(t, "sts", leastPolicy)
	v.config = v.approle(t, map[string]any{"token_policies": []string{"sts"}})
	return v
}

// approle makes a configuration for the role "test" with some fields.
func (v realVault) approle(t *testing.T, fields map[string]any) Config {
	t.Helper()
	roleID, secretID := v.AppRoleWith(t, "test", fields)
	return Config{Addresses: []string{v.Addr}, Login: Login{AppRole: &AppRole{RoleID: roleID, SecretIDFile: secretFile(t, secretID)}}}
}

// signOnce signs with version 1 of the key sts.
func signOnce(t testing.TB, c *Client) error {
	results, err := c.Key("transit", "sts").sign(t.Context(), signRequest{1, jose.ES256, [][]byte{hashed(jose.ES256, nil)}})
	if err != nil {
		return err
	}
	return results[0].Err
}

func TestVault(t *testing.T) {
	t.Parallel()
	v := startVault(t)
	client := ready(t, v.config)
	t.Run("signs", func(t *testing.T) {
		for a, keyType := range algorithms {
			name := "sts-" + strings.ToLower(string(a))
			v.Transit(t, name, keyType)
			k := client.Key("transit", name)
			checkSigns(t, k, a, 1)
			if err := k.Rotate(t.Context()); err != nil {
				t.Fatal(err)
			}
			checkSigns(t, k, a, 1)
			checkSigns(t, k, a, 2)
		}
	})
	t.Run("signs one input, as empty as can be", func(t *testing.T) {
		v.Transit(t, "empty", "ed25519")
		k := client.Key("transit", "empty")
		results, err := k.sign(t.Context(), signRequest{1, jose.EdDSA, [][]byte{{}}})
		if err != nil || results[0].Err != nil {
			t.Error(err, results)
		}
	})
	t.Run("encrypts", func(t *testing.T) {
		v.Transit(t, "wrap", "aes256-gcm96")
		k := client.Key("transit", "wrap")
		sealed, err := k.Encrypt(t.Context(), []byte("a private key"), []byte("its name"))
		if err != nil {
			t.Fatal(err)
		}
		open, err := k.Decrypt(t.Context(), sealed, []byte("its name"))
		if err != nil || string(open) != "a private key" {
			t.Errorf("got %q, %v", open, err)
		}
		for _, bad := range []struct{ sealed, associated string }{{sealed, "another name"}, {sealed, ""}, {"vault:v1:AAAA", ""}, {"", ""}} {
			_, err = k.Decrypt(t.Context(), bad.sealed, []byte(bad.associated))
			wantKind(t, err, Refused)
		}
		_, err = k.Decrypt(t.Context(), strings.Replace(sealed, "v1", "v2", 1), []byte("its name"))
		wantKind(t, err, NoKey)
	})
	t.Run("has no such key", func(t *testing.T) { v.missing(t) })
	t.Run("disabled versions", func(t *testing.T) { v.disabled(t) })
	t.Run("capabilities", func(t *testing.T) { v.capabilities(t) })
	t.Run("limits", func(t *testing.T) { v.throttled(t) })
}

// missing is about a key that is not there, for who may make one [F09].
func (v realVault) missing(t *testing.T) {
	root := ready(t, Config{Addresses: []string{v.Addr}, Login: Login{TokenFile: secretFile(t, v.RootToken)}})
	k := root.Key("transit", "missing")
	_, err := k.Info(t.Context())
	wantKind(t, err, NoKey)
	_, err = k.sign(t.Context(), signRequest{1, jose.ES256, [][]byte{hashed(jose.ES256, nil)}})
	wantKind(t, err, NoKey)
	_, err = k.Encrypt(t.Context(), []byte("x"), nil)
	wantKind(t, err, NoKey)
	_, err = k.Decrypt(t.Context(), "vault:v1:AAAA", nil)
	wantKind(t, err, NoKey)
	wantKind(t, k.Rotate(t.Context()), NoKey)
	_, err = k.Info(t.Context())
	wantKind(t, err, NoKey)
	_, err = root.Key("elsewhere", "sts").Info(t.Context())
	wantKind(t, err, NoKey)
}

// disabled is about versions that do not sign any more [F10].
func (v realVault) disabled(t *testing.T) {
	v.Transit(t, "old", "ecdsa-p256")
	k := ready(t, v.config).Key("transit", "old")
	sign := func(version int) error {
		results, err := k.sign(t.Context(), signRequest{version, jose.ES256, [][]byte{hashed(jose.ES256, nil)}})
		if err != nil {
			t.Fatal(err)
		}
		return results[0].Err
	}
	wantKind(t, sign(2), NoKey) // not made yet
	for range 2 {
		if err := k.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	v.Do(t, http.MethodPost, "transit/keys/old/config", map[string]any{"min_encryption_version": 2})
	wantKind(t, sign(1), NoKey)
	wantKind(t, sign(2), 0)
	v.Do(t, http.MethodPost, "transit/keys/old/config", map[string]any{"min_decryption_version": 3, "min_encryption_version": 3})
	v.Do(t, http.MethodPost, "transit/keys/old/trim", map[string]any{"min_available_version": 3})
	wantKind(t, sign(2), NoKey)
	info, err := k.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.MinAvailable != 3 || info.MinDecryption != 3 || info.MinEncryption != 3 || info.Latest != 3 || len(info.Versions) != 1 {
		t.Errorf("got %+v", info)
	}
	if info.Signs(1) || info.Signs(2) || !info.Signs(3) {
		t.Errorf("signs with others than 3: %+v", info)
	}
}

// capabilities is about a token that may do more than a signer needs [Y-08].
func (v realVault) capabilities(t *testing.T) {
	broader, err := ready(t, v.config).Key("transit", "sts").Capabilities(t.Context())
	if err != nil || len(broader) != 0 {
		t.Errorf("got %q, %v", broader, err)
	}
	v.Policy(t, "broad", `path "transit/*" { capabilities = ["create", "read", "update", "delete"] }`)
	token := v.Token(t, "broad", time.Hour)
	c := Config{Addresses: []string{v.Addr}, Login: Login{TokenFile: secretFile(t, token)}}
	broader, err = ready(t, c).Key("transit", "sts").Capabilities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"delete transit/keys/sts", "update transit/keys/sts/config", "read transit/export/signing-key/sts",
		"read transit/backup/sts", "update transit/keys/sts/trim", "update transit/restore/sts", "create transit/encrypt/sts",
	} {
		if !slices.Contains(broader, want) {
			t.Errorf("%q is not in %q", want, broader)
		}
	}
}

// throttled is about a quota of Vault's [F12].
func (v realVault) throttled(t *testing.T) {
	v.Do(t, http.MethodPost, "sys/quotas/config", map[string]any{"enable_rate_limit_response_headers": true})
	v.Do(t, http.MethodPost, "sys/quotas/rate-limit/sts", map[string]any{"path": "transit/sign/sts", "rate": 1, "interval": "10s"})
	client := ready(t, v.config)
	if err := signOnce(t, client); err != nil {
		t.Fatal(err)
	}
	err := signOnce(t, client)
	wantKind(t, err, Throttled)
	if after := retryAfterOf(err); after < time.Second || after > 11*time.Second {
		t.Errorf("again after %s", after)
	}
	if err := client.Err(); err != nil {
		t.Errorf("vault can be used, but: %v", err)
	}
	v.Do(t, http.MethodDelete, "sys/quotas/rate-limit/sts", nil)
}

// TestVaultLosesTokens is about tokens that end before their time [F07, F09].
func TestVaultLosesTokens(t *testing.T) {
	t.Parallel()
	v := startVault(t)
	client := ready(t, v.config)
	revoke := func() {
		token := client.session.view.Load().grant.token
		v.Do(t, http.MethodPost, "auth/token/revoke", map[string]any{"token": string(token)})
	}
	t.Run("revoked", func(t *testing.T) {
		revoke()
		if err := signOnce(t, client); err != nil {
			t.Error(err)
		}
	})
	t.Run("policy removed", func(t *testing.T) {
		token := client.session.view.Load().grant.token
		v.Do(t, http.MethodDelete, "sys/policies/acl/sts", nil)
		for range 20 {
			wantKind(t, signOnce(t, client), Denied)
		}
		if err := client.Err(); err != nil {
			t.Errorf("vault can be used, but: %v", err)
		}
		v.Policy(t, "sts", leastPolicy)
		eventually(t, "the policy is back", 2*time.Second, func() bool { return signOnce(t, client) == nil })
		if client.session.view.Load().grant.token != token {
			t.Error("a policy that denies made a login")
		}
	})
	t.Run("secret id ended", func(t *testing.T) {
		c := v.approle(t, map[string]any{"token_policies": []string{"sts"}, "secret_id_num_uses": 1})
		once := ready(t, c)
		c.filesEvery = 50 * time.Millisecond
		again := open(t, c)
		err := signOnce(t, again)
		wantKind(t, err, Denied)
		if !strings.Contains(err.Error(), c.Login.AppRole.SecretIDFile) {
			t.Errorf("the error does not name the file: %v", err)
		}
		_, secretID := v.AppRoleWith(t, "test", map[string]any{"token_policies": []string{"sts"}})
		writeFile(t, c.Login.AppRole.SecretIDFile, secretID)
		eventually(t, "a login with the new secret id", time.Second, func() bool { return signOnce(t, again) == nil })
		if err := signOnce(t, once); err != nil {
			t.Error(err)
		}
	})
}

// TestVaultShortTokens: nothing fails while tokens are renewed to their longest
// life and replaced [F06].
func TestVaultShortTokens(t *testing.T) {
	t.Parallel()
	v := startVault(t)
	c := v.approle(t, map[string]any{"token_policies": []string{"sts"}, "token_ttl": "2s", "token_max_ttl": "3s"})
	client := ready(t, c)
	tokens := map[secret]bool{}
	for began := time.Now(); time.Since(began) < 5*time.Second; time.Sleep(20 * time.Millisecond) {
		if err := signOnce(t, client); err != nil {
			t.Fatalf("after %s: %v", time.Since(began), err)
		}
		tokens[client.session.view.Load().grant.token] = true
	}
	if len(tokens) < 2 || len(tokens) > 5 {
		t.Errorf("%d tokens in 5 seconds of tokens for 3", len(tokens))
	}
}

// TestVaultOutage is about a Vault that is sealed, stopped, killed and restarted
// [F01, F03, F05].
func TestVaultOutage(t *testing.T) {
	t.Parallel()
	v := startVault(t, vaulttest.WithDir(""))
	v.config.Timeout = 500 * time.Millisecond
	client := ready(t, v.config)
	for _, outage := range []struct {
		name   string
		breaks func()
		kind   Kind
		mends  func()
	}{
		{"sealed", func() { v.Seal(t) }, Sealed, func() { v.Unseal(t) }},
		{"stopped", func() { v.Pause(t) }, Unreachable, func() { v.Resume(t) }},
		{"killed", func() { v.Kill(t) }, Unreachable, func() { v.Restart(t); v.Unseal(t) }},
		{"restarted, sealed", func() { v.Restart(t) }, Sealed, func() { v.Unseal(t) }},
	} {
		t.Run(outage.name, func(t *testing.T) {
			outage.breaks()
			began := time.Now()
			wantKind(t, signOnce(t, client), outage.kind)
			if d := time.Since(began); d > 2*v.config.Timeout {
				t.Errorf("failed after %s", d)
			}
			eventually(t, "it is found that vault cannot be used", 2*time.Second, func() bool { return kindOfError(client.Err()) == outage.kind })
			outage.mends()
			eventually(t, "vault is used again", 2*time.Second, func() bool { return client.Err() == nil && signOnce(t, client) == nil })
		})
	}
}

// TestVaultCertificate logs in by certificate, with TLS.
func TestVaultCertificate(t *testing.T) {
	t.Parallel()
	ca, clients := testserver.NewCA(t), testserver.NewCA(t)
	v := startVault(t, vaulttest.WithTLS(ca, clients))
	v.CertRole(t, clients, "sts")
	cert, key := clients.Issue(t, "node-1")
	for _, role := range []string{"", "test"} {
		c := Config{
			Addresses: []string{v.Addr}, CAFile: ca.File, CertFile: cert, KeyFile: key, Login: Login{Certificate: &Certificate{Role: role}},
		}
		client := ready(t, c)
		if err := signOnce(t, client); err != nil {
			t.Error(err)
		}
		if _, err := client.session.renewed(t.Context(), client.session.view.Load().grant); err != nil {
			t.Error(err)
		}
		c.CertFile, c.KeyFile = testserver.NewCA(t).Issue(t, "node-1")
		wantKind(t, signOnce(t, open(t, c)), Denied)
	}
	c := v.config
	c.CAFile, c.ServerName = ca.File, "vault.example.com"
	err := signOnce(t, open(t, c))
	wantKind(t, err, Unreachable)
	if !strings.Contains(fmt.Sprint(err), "certificate is valid for") {
		t.Errorf("the error does not say that the name is wrong: %v", err)
	}
}
