package keys

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/workload-sts/sts/internal/vaulttest"
	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/keys/vault"
)

// realVault is a Vault with a key of each algorithm, and a client with no more
// rights than deploy/vault gives.
type realVault struct {
	*vaulttest.Server
	client *vault.Client
}

var transitNames = map[jose.Algorithm]string{
	jose.ES256: "ecdsa-p256", jose.ES384: "ecdsa-p384", jose.EdDSA: "ed25519", jose.RS256: "rsa-2048", jose.PS256: "rsa-2048",
}

func startVault(t testing.TB, options ...vaulttest.Option) realVault {
	t.Helper()
	s := vaulttest.Start(t, options...)
	for _, alg := range allAlgorithms {
		s.Transit(t, "k-"+string(alg), transitNames[alg])
	}
	s.Transit(t, "wrap", "aes256-gcm96")
	return realVault{s, newClient(t, s, s.Addr)}
}

// newClient logs in at an address with the rights of a server of ours, for keys of
// any name.
func newClient(t testing.TB, s *vaulttest.Server, address string) *vault.Client {
	t.Helper()
	rights, err := os.ReadFile("../deploy/vault/sts.hcl")
	if err != nil {
		t.Fatal(err)
	}
	policy := strings.NewReplacer("/sts-wrap", "/+", "/sts", "/+").Replace(string(rights))
	s.Policy(t, "sts", policy)
	file := filepath.Join(t.TempDir(), "token")
	write(t, file, s.Token(t, "sts", time.Hour))
	c, err := vault.Open(vault.Config{Addresses: []string{address}, Login: vault.Login{TokenFile: file}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

func (v realVault) key(alg jose.Algorithm) *vault.Key {
	return v.client.Key("transit", "k-"+string(alg))
}

func TestVault(t *testing.T) {
	v := startVault(t)
	testContract(t, backend{
		provider: func(_ testing.TB, alg jose.Algorithm) Provider { return Vault(v.key(alg), VaultOptions{}) },
		rotate: func(t testing.TB, alg jose.Algorithm) {
			v.Do(t, http.MethodPost, "transit/keys/k-"+string(alg)+"/rotate", nil)
		},
	})
}

func TestWrapped(t *testing.T) {
	v := startVault(t)
	testContract(t, backend{provider: func(testing.TB, jose.Algorithm) Provider {
		return Wrapped(v.client.Key("transit", "wrap"))
	}})
}

// TestWrappedOutage lets Vault be gone after the start: tokens are signed, a
// restart publishes and waits, and signs when Vault is back.
func TestWrappedOutage(t *testing.T) {
	v := startVault(t, vaulttest.WithDir(""))
	f := newFixture(t, jose.ES256, Wrapped(v.client.Key("transit", "wrap")))
	r := f.open(t)
	kid := signs(t, r, "default")
	v.Seal(t)
	if signs(t, r, "default") != kid {
		t.Error("another key")
	}
	again := f.open(t)
	if again.KeySet().Len() != 1 {
		t.Error("nothing is published")
	}
	_, _, err := again.Sign(t.Context(), "default", "at+jwt", nil)
	if !dependsOn(err, "vault") || !dependsOn(again.Ready(), "vault") || len(again.Status()[0].Problems) == 0 {
		t.Errorf("%v, %v, %q", err, again.Ready(), again.Status()[0].Problems)
	}
	v.Unseal(t)
	awaitSigns(t, again, kid)
	if len(again.Status()[0].Problems) != 0 {
		t.Errorf("%q", again.Status()[0].Problems)
	}
	if bytes.Contains(f.store.data, []byte("PRIVATE")) || !bytes.Contains(f.store.data, []byte(base64.StdEncoding.EncodeToString([]byte("vault:v1:")))) {
		t.Errorf("stored: %s", f.store.data)
	}
}

// awaitSigns tends a Ring until it signs with a key.
func awaitSigns(t *testing.T, r *Ring, kid string) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		r.tend(t)
		_, got, err := r.Sign(t.Context(), "default", "at+jwt", []byte(`{}`))
		if err == nil && got == kid {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("key %s, %v; want %s", got, err, kid)
		}
	}
}

func dependsOn(err error, what string) bool {
	var d interface{ Dependency() string }
	return errors.As(err, &d) && d.Dependency() == what
}

// TestWrongWrapping holds that keys which another transit key encrypted are an
// error, and that nothing is overwritten.
func TestWrongWrapping(t *testing.T) {
	v := startVault(t)
	v.Transit(t, "other", "aes256-gcm96")
	f := newFixture(t, jose.ES256, Wrapped(v.client.Key("transit", "wrap")))
	f.open(t)
	before := bytes.Clone(f.store.data)
	f.Sets[0].Provider = Wrapped(v.client.Key("transit", "other"))
	if _, err := Open(t.Context(), f.Config); err == nil || !strings.Contains(err.Error(), "another key than it was encrypted with") {
		t.Errorf("%v", err)
	}
	if !bytes.Equal(f.store.data, before) {
		t.Error("something was written")
	}
}

// TestUnfitKeys begins with transit keys that are not fit to sign: nothing is
// made, and the error says what to do [Y-07, F09].
func TestUnfitKeys(t *testing.T) {
	v := startVault(t)
	v.Do(t, http.MethodPost, "transit/keys/exportable", map[string]any{"type": "ecdsa-p256", "exportable": true})
	v.Do(t, http.MethodPost, "transit/keys/backup", map[string]any{"type": "ecdsa-p256", "allow_plaintext_backup": true})
	v.Transit(t, "deletable", "ecdsa-p256")
	v.Do(t, http.MethodPost, "transit/keys/deletable/config", map[string]any{"deletion_allowed": true})
	v.Do(t, http.MethodPost, "transit/keys/derived", map[string]any{"type": "ed25519", "derived": true})
	for name, tc := range map[string]struct {
		alg  jose.Algorithm
		says string
	}{
		"missing":    {jose.ES256, "vault write -f transit/keys/missing type=ecdsa-p256"},
		"exportable": {jose.ES256, "exportable=true"},
		"backup":     {jose.ES256, "allow_plaintext_backup=true"},
		"deletable":  {jose.ES256, "transit/keys/deletable/config deletion_allowed=false"},
		"derived":    {jose.EdDSA, "derived=true"},
		"k-ES384":    {jose.ES256, "is of type ecdsa-p384, and algorithm ES256 needs ecdsa-p256"},
		"k-RS256":    {jose.ES256, "is of type rsa-2048"},
		"wrap":       {jose.ES256, "is of type aes256-gcm96"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, tc.alg, Vault(v.client.Key("transit", name), VaultOptions{}))
			if _, err := Open(t.Context(), f.Config); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v; want an error that says %q", err, tc.says)
			}
			if f.store.data != nil {
				t.Errorf("stored: %s", f.store.data)
			}
		})
	}
	if status, _ := v.Try(t, http.MethodGet, "transit/keys/missing", nil); status != http.StatusNotFound {
		t.Error("Y: a transit key was made")
	}
	// Later it is a warning.
	f := newFixture(t, jose.ES256, Vault(v.key(jose.ES256), VaultOptions{}))
	r := f.open(t)
	v.Do(t, http.MethodPost, "transit/keys/k-ES256/config", map[string]any{"deletion_allowed": true})
	f.clock.advance(time.Minute)
	r.tend(t)
	signs(t, r, "default")
	if p := r.Status()[0].Problems; len(p) != 1 || !strings.Contains(p[0], "deletion_allowed=false") {
		t.Errorf("%q", p)
	}
}

// TestUnfitWrapping begins with transit keys that nothing should be encrypted with.
func TestUnfitWrapping(t *testing.T) {
	v := startVault(t)
	v.Do(t, http.MethodPost, "transit/keys/exportable", map[string]any{"type": "aes256-gcm96", "exportable": true})
	v.Transit(t, "deletable", "aes256-gcm96")
	v.Do(t, http.MethodPost, "transit/keys/deletable/config", map[string]any{"deletion_allowed": true})
	for name, says := range map[string]string{
		"missing":    "vault write -f transit/keys/missing type=aes256-gcm96",
		"exportable": "exportable=true",
		"deletable":  "transit/keys/deletable/config deletion_allowed=false",
		"k-ES256":    "is of type ecdsa-p256, and signing keys are encrypted with one of aes128-gcm96",
	} {
		f := newFixture(t, jose.ES256, Wrapped(v.client.Key("transit", name)))
		if _, err := Open(t.Context(), f.Config); err == nil || !strings.Contains(err.Error(), says) || f.store.data != nil {
			t.Errorf("%s: %v; want an error that says %q", name, err, says)
		}
	}
}

// TestChangedAlgorithm restarts with an algorithm that the transit key is not for:
// what signs goes on, and no version is made that nothing could sign with.
func TestChangedAlgorithm(t *testing.T) {
	v := startVault(t)
	f := newFixture(t, jose.ES256, Vault(v.key(jose.ES256), VaultOptions{}))
	kid := signs(t, f.open(t), "default")
	f.Sets[0].Algorithm = jose.ES384
	r := f.open(t)
	f.clock.advance(f.Schedule.Period)
	r.tend(t)
	if _, err := r.Rotate(t.Context(), "default"); err == nil || !strings.Contains(err.Error(), "needs ecdsa-p384") {
		t.Errorf("rotated: %v", err)
	}
	if info, err := v.key(jose.ES256).Info(t.Context()); err != nil || info.Latest != 1 {
		t.Errorf("there is version %d, %v", info.Latest, err)
	}
	if signs(t, r, "default") != kid {
		t.Error("another key signs")
	}
}

// TestBroadToken warns of a token that may do more than it needs [Y-08].
func TestBroadToken(t *testing.T) {
	v := startVault(t)
	v.Policy(t, "broad", `path "transit/*" { capabilities = ["create", "read", "update", "delete", "list"] }`)
	file := filepath.Join(t.TempDir(), "token")
	write(t, file, v.Token(t, "broad", time.Hour))
	c, err := vault.Open(vault.Config{Addresses: []string{v.Addr}, Login: vault.Login{TokenFile: file}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, jose.ES256, Vault(c.Key("transit", "k-ES256"), VaultOptions{}))
	r := f.open(t)
	r.tend(t)
	if p := strings.Join(r.Status()[0].Problems, "\n"); !strings.Contains(p, "delete transit/keys/k-ES256") || !strings.Contains(p, "export") {
		t.Errorf("%s", p)
	}
	f = newFixture(t, jose.ES256, Vault(v.key(jose.ES256), VaultOptions{}))
	r = f.open(t)
	r.tend(t)
	if p := r.Status()[0].Problems; len(p) != 0 {
		t.Errorf("the policy of deploy/vault is too broad: %q", p)
	}
}

// TestLostVersions takes away the version that signs, in every way Vault has. It
// is reported, not signed with, and stays published; nothing is made in its place
// until an operator says so [F09, F10, Y-12].
func TestLostVersions(t *testing.T) {
	for name, lose := range map[string]func(*testing.T, realVault){
		"disabled to sign": func(t *testing.T, v realVault) {
			v.Do(t, http.MethodPost, "transit/keys/k-ES256/rotate", nil)
			v.Do(t, http.MethodPost, "transit/keys/k-ES256/config", map[string]any{"min_encryption_version": 2})
		},
		"disabled to verify": func(t *testing.T, v realVault) {
			v.Do(t, http.MethodPost, "transit/keys/k-ES256/rotate", nil)
			v.Do(t, http.MethodPost, "transit/keys/k-ES256/config", map[string]any{"min_decryption_version": 2})
		},
		"trimmed": func(t *testing.T, v realVault) {
			v.Do(t, http.MethodPost, "transit/keys/k-ES256/rotate", nil)
			v.Do(t, http.MethodPost, "transit/keys/k-ES256/config", map[string]any{"min_decryption_version": 2, "min_encryption_version": 2})
			v.Do(t, http.MethodPost, "transit/keys/k-ES256/trim", map[string]any{"min_available_version": 2})
		},
		"deleted": func(t *testing.T, v realVault) {
			v.Do(t, http.MethodPost, "transit/keys/k-ES256/config", map[string]any{"deletion_allowed": true})
			v.Do(t, http.MethodDelete, "transit/keys/k-ES256", nil)
		},
		"deleted and made anew": func(t *testing.T, v realVault) {
			v.Do(t, http.MethodPost, "transit/keys/k-ES256/config", map[string]any{"deletion_allowed": true})
			v.Do(t, http.MethodDelete, "transit/keys/k-ES256", nil)
			v.Transit(t, "k-ES256", "ecdsa-p256")
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := startVault(t)
			f := newFixture(t, jose.ES256, Vault(v.key(jose.ES256), VaultOptions{}))
			r := f.open(t)
			lost := signs(t, r, "default")
			lose(t, v)
			// Before it has been noticed: Vault refuses, or what it signs does not verify.
			if token, _, err := r.Sign(t.Context(), "default", "at+jwt", nil); err == nil && name != "disabled to verify" {
				t.Errorf("a token that nobody can verify: %s", token)
			}
			f.clock.advance(time.Minute)
			r.tend(t)
			r.tend(t)
			if _, _, err := r.Sign(t.Context(), "default", "at+jwt", nil); !dependsOn(err, "vault") {
				t.Errorf("signed, or: %v", err)
			}
			if _, ok := r.KeySet().Key(lost); !ok {
				t.Error("the key is not published any more, and its tokens live")
			}
			if p := r.Status()[0].Problems; len(p) == 0 {
				t.Error("no problem is reported")
			}
			roles := rolesOf(r, "default")
			if name == "deleted" {
				if len(roles) != 1 {
					t.Fatalf("%v", roles)
				}
				return
			}
			// The other version is announced like any other; an operator can make it sign
			// at once.
			if len(roles) != 2 || roles[lost] != Current {
				t.Fatalf("%v", roles)
			}
			out, err := r.Revoke(t.Context(), lost)
			if err != nil || out.Successor.KID == "" || out.Successor.KID == lost {
				t.Fatalf("%+v, %v", out, err)
			}
			r.tend(t)
			if kid := signs(t, r, "default"); kid != out.Successor.KID {
				t.Errorf("key %s signs", kid)
			}
		})
	}
}

// stubbed is a fake Vault with one key of an algorithm, and a Ring on it.
func stubbed(t *testing.T, alg jose.Algorithm, o VaultOptions) (*vaulttest.Stub, *Ring) {
	t.Helper()
	stub := vaulttest.NewStub(t, vaulttest.StubConfig{})
	stub.AddKey(t, "sts", transitNames[alg])
	file := filepath.Join(t.TempDir(), "token")
	write(t, file, stub.RootToken)
	c, err := vault.Open(vault.Config{Addresses: []string{stub.Addr}, Login: vault.Login{TokenFile: file}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if err := c.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	return stub, newFixture(t, alg, Vault(c.Key("transit", "sts"), o)).open(t)
}

// TestBadSignatures lets Vault answer with what it must not: no token leaves
// [Y-01, Y-04, F11].
func TestBadSignatures(t *testing.T) {
	for name, fault := range map[string]vaulttest.Fault{
		"Y-01 ASN.1":       vaulttest.ASN1(),
		"Y-04 other label": vaulttest.WrongVersion(9),
		"Y-04 version 0": vaulttest.Edit(func(answer map[string]any) {
			for _, r := range answer["data"].(map[string]any)["batch_results"].([]any) {
				r := r.(map[string]any)
				r["signature"] = strings.Replace(r["signature"].(string), "vault:v1:", "vault:v0:", 1)
			}
		}),
		"Y-04 other input":   vaulttest.OtherInput(),
		"Y-04 truncated":     vaulttest.TruncatedSignature(),
		"Y-04 other version": vaulttest.SignedBy(2),
		"F11 garbage":        vaulttest.Garbage(),
		"F11 half an answer": vaulttest.Truncated(),
		"F11 a failed item":  vaulttest.FailedItem(0),
		"F11 a huge answer":  vaulttest.Huge(64 << 20),
	} {
		t.Run(name, func(t *testing.T) {
			stub, r := stubbed(t, jose.ES256, VaultOptions{VerifyOneIn: 1})
			signs(t, r, "default")
			stub.Rotate(t, "sts") // so that there is another version to sign with
			stub.Inject(vaulttest.Sign, fault)
			for range 3 {
				if token, _, err := r.Sign(t.Context(), "default", "at+jwt", []byte(`{}`)); err == nil {
					t.Fatalf("a bad token was let out: %s", token)
				}
			}
			stub.Heal()
			for deadline := time.Now().Add(3 * time.Second); ; time.Sleep(20 * time.Millisecond) {
				if _, _, err := r.Sign(t.Context(), "default", "at+jwt", []byte(`{}`)); err == nil {
					break
				} else if time.Now().After(deadline) {
					t.Fatal(err)
				}
			}
			signs(t, r, "default")
		})
	}
}

// TestWords holds that what is asked of Vault is said in JOSE's words, whatever
// Vault's defaults [Y-01, Y-02, Y-03], and that the version is pinned [promise 5].
func TestWords(t *testing.T) {
	for alg, want := range map[jose.Algorithm]map[string]any{
		jose.ES256: {"hash_algorithm": "sha2-256", "prehashed": true},
		jose.ES384: {"hash_algorithm": "sha2-384", "prehashed": true},
		jose.EdDSA: {"prehashed": false},
		jose.RS256: {"hash_algorithm": "sha2-256", "prehashed": true, "signature_algorithm": "pkcs1v15"},
		jose.PS256: {"hash_algorithm": "sha2-256", "prehashed": true, "signature_algorithm": "pss", "salt_length": "hash"},
	} {
		t.Run(string(alg), func(t *testing.T) {
			stub, r := stubbed(t, alg, VaultOptions{})
			signs(t, r, "default")
			stub.Rotate(t, "sts")
			signs(t, r, "default")
			want["marshaling_algorithm"] = "jws"
			want["key_version"] = 1
			calls := stub.Requests(vaulttest.Sign)
			if len(calls) != 2 {
				t.Fatalf("%d calls for two signatures", len(calls))
			}
			for _, call := range calls {
				for name, value := range want {
					if fmt.Sprint(call.Body[name]) != fmt.Sprint(value) {
						t.Errorf("%s is %v, want %v", name, call.Body[name], value)
					}
				}
			}
		})
	}
}

// TestSampling verifies one in four signatures, the first among them.
func TestSampling(t *testing.T) {
	stub, r := stubbed(t, jose.ES256, VaultOptions{VerifyOneIn: 4})
	stub.Inject(vaulttest.Sign, vaulttest.OtherInput())
	bad := 0
	for i := range 9 {
		_, _, err := r.Sign(t.Context(), "default", "at+jwt", []byte(`{}`))
		if err != nil {
			bad++
		}
		if i == 0 && err == nil {
			t.Error("the first signature of a key was not verified")
		}
	}
	if bad != 3 {
		t.Errorf("%d of 9 bad signatures were noticed, want 3", bad)
	}
}

// TestStoredMaterial holds that what is stored of a key in Vault is its name and
// version.
func TestStoredMaterial(t *testing.T) {
	_, r := stubbed(t, jose.ES256, VaultOptions{})
	k := r.stateNow().Keys[0]
	var m map[string]any
	if err := json.Unmarshal(k.Material, &m); err != nil || len(m) != 2 || m["key"] != "transit/keys/sts" || m["version"] != 1.0 {
		t.Errorf("%s", k.Material)
	}
	if at := r.Status()[0].Keys[0].Location; at != "transit/keys/sts version 1" {
		t.Errorf("location %q", at)
	}
}
