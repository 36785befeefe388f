package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/keys"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// configure writes a configuration with sections of its own and loads it.
func configure(t *testing.T, dir, sections string) (string, error) {
	t.Helper()
	file := filepath.Join(dir, "stsd.yaml")
	text := `issuer: https://sts.example.com
http: {listen: "127.0.0.1:0"}
grpc: {listen: "127.0.0.1:0"}
storage: {bolt_file: sts.db}
audit: {file: audit.jsonl}
` + sections
	for name, content := range map[string]string{file: text, filepath.Join(dir, "signing.key"): strings.Repeat("A", 43) + "=\n"} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, err := loadConfig(file)
	return file, err
}

const localSets = `keys:
  sets:
    - {name: default, local: {key_file: signing.key}}
    - {name: cloud, algorithm: EdDSA, local: {key_file: signing.key}}
`

// openNode wires a service as a file says, without serving it.
func openNode(t *testing.T, dir, sections string) (*node, error) {
	t.Helper()
	file, err := configure(t, dir, sections)
	if err != nil {
		return nil, err
	}
	c, err := loadConfig(file)
	if err != nil {
		return nil, err
	}
	return open(t.Context(), c, false, io.Discard)
}

// TestSchedule holds the defaults of a schedule, and what follows from what is
// set.
func TestSchedule(t *testing.T) {
	def := keys.DefaultSchedule()
	for sections, want := range map[string]keys.Schedule{
		"":                             def,
		"rotation: {}\n":               def,
		"rotation: {period: 0s}\n":     {PublishAhead: def.PublishAhead, Retain: def.Retain, MaxAge: def.MaxAge, Skew: def.Skew},
		"rotation: {clock_skew: 2m}\n": {Period: def.Period, PublishAhead: def.PublishAhead, Retain: 24*time.Hour + 2*time.Minute, MaxAge: def.MaxAge, Skew: 2 * time.Minute},
		"rotation: {retain: 1h, jwks_max_age: 20m, publish_ahead: 21m, period: 2h, clock_skew: 1m}\n": {
			Period: 2 * time.Hour, PublishAhead: 21 * time.Minute, Retain: time.Hour, MaxAge: 20 * time.Minute, Skew: time.Minute,
		},
	} {
		file, err := configure(t, t.TempDir(), localSets+sections)
		if err != nil {
			t.Errorf("%s: %v", sections, err)
			continue
		}
		c, err := loadConfig(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := schedule(c.Rotation); got != want {
			t.Errorf("%s: %+v, want %+v", sections, got, want)
		}
	}
}

// TestVaultConfig holds that what a file says of Vault arrives where it is
// reached, with its defaults.
func TestVaultConfig(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"token", "secret-id"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("s.0123456789\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const sets = "keys:\n  sets: [{name: default, vault: {key: sts}}]\n  vault:\n    addresses: [\"https://vault.internal:8200\"]\n"
	for name, row := range map[string]struct{ section, want string }{
		"token":      {"    login: {token_file: token}\n", `TokenFile:"DIR/token"`},
		"app role":   {"    login: {app_role: {role_id: r, secret_id_file: secret-id, mount: m}}\n", `AppRole:&{m r DIR/secret-id}`},
		"kubernetes": {"    login: {kubernetes: {role: r, token_file: token}}\n", `Kubernetes:&{ r DIR/token}`},
	} {
		t.Run(name, func(t *testing.T) {
			file, err := configure(t, dir, sets+row.section)
			if err != nil {
				t.Fatal(err)
			}
			c, err := loadConfig(file)
			if err != nil {
				t.Fatal(err)
			}
			got := vaultConfig(c.Keys.Vault)
			shown := fmt.Sprintf("TokenFile:%q AppRole:%v Kubernetes:%v", got.Login.TokenFile, got.Login.AppRole, got.Login.Kubernetes)
			if !strings.Contains(shown, strings.ReplaceAll(row.want, "DIR", dir)) || got.Timeout != 2*time.Second || len(got.Addresses) != 1 {
				t.Errorf("%s %+v, want %s", shown, got, row.want)
			}
			o := vaultOptions(c.Keys.Vault)
			if o.VerifyOneIn != 1 || o.Batching.Size != 64 || o.Batching.Calls != 8 || o.Batching.Queue != 1024 || o.Batching.Delay != 5*time.Millisecond || o.Batching.Timeout != 2*time.Second {
				t.Errorf("options %+v", o)
			}
		})
	}
}

// TestKeyStatusIsWhole fills every field of what the ring says and looks for it
// in what the domain gets.
func TestKeyStatusIsWhole(t *testing.T) {
	var in keys.KeyStatus
	v := reflect.ValueOf(&in).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); f.Interface().(type) {
		case string:
			f.SetString(v.Type().Field(i).Name)
		case time.Time:
			f.Set(reflect.ValueOf(time.Unix(int64(i)+1, 0)))
		default:
			f.SetInt(int64(i) + 1)
		}
	}
	out := reflect.ValueOf(keyStatus(in))
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if got := out.FieldByName(name); !got.IsValid() || fmt.Sprint(got) != fmt.Sprint(v.Field(i)) {
			t.Errorf("%s became %v", name, got)
		}
	}
	if out.NumField() != v.NumField() {
		t.Errorf("%d fields, the ring has %d", out.NumField(), v.NumField())
	}
}

// TestNodeWithTwoKeySets wires a service with real keys and takes them through
// what an operator does.
func TestNodeWithTwoKeySets(t *testing.T) {
	dir := t.TempDir()
	n, err := openNode(t, dir, localSets)
	if err != nil {
		t.Fatal(err)
	}
	secret, hash := sts.NewSecret()
	_, err = n.service.Apply(t.Context(), sts.Change{Put: []sts.Resource{
		{Client: &sts.Client{Name: "web", Secrets: []sts.ClientSecret{{Hash: hash}}}},
		{Audience: &sts.Audience{Name: "api"}},
		{Audience: &sts.Audience{Name: "outside", KeySet: "cloud", MaxTTL: 12 * time.Hour}},
		{Rule: &policy.Rule{Name: "web", Requester: policy.Requester{Clients: []string{"web"}}, Allow: policy.Allow{Audiences: []string{"api", "outside"}}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	signedBy := func(n *node, audience string) jose.Header {
		t.Helper()
		token, err := n.service.Token(t.Context(), sts.TokenRequest{
			Grant: sts.ClientCredentials, Audiences: []string{audience}, Credential: sts.Credential{Method: sts.SecretBasic, ClientID: "web", Secret: secret},
		})
		if err != nil {
			t.Fatal(err)
		}
		jws, err := jose.Parse(token.Value)
		if err != nil {
			t.Fatal(err)
		}
		set, _ := n.service.KeySet()
		if key, ok := set.Key(jws.Header.KeyID); !ok || jws.Verify(key) != nil {
			t.Errorf("the token for %s does not verify with what is published", audience)
		}
		return jws.Header
	}
	api, outside := signedBy(n, "api"), signedBy(n, "outside")
	if api.Algorithm != jose.ES256 || outside.Algorithm != jose.EdDSA {
		t.Errorf("signed with %s and %s", api.Algorithm, outside.Algorithm)
	}
	if m := n.service.Ready(t.Context())[sts.CapabilityIssue]; m != nil {
		t.Errorf("not ready: %+v", m)
	}
	set, maxAge := n.service.KeySet()
	n.service.KeySetDelivered(set, "somebody")
	if set.Len() != 2 || maxAge <= 4*time.Minute || maxAge > 5*time.Minute {
		t.Errorf("%d keys for %s", set.Len(), maxAge)
	}
	next, err := n.service.RotateKey(t.Context(), sts.Principal{}, "cloud")
	if err != nil || next.Role != sts.KeyNext || time.Until(next.Signs) < 50*time.Minute {
		t.Fatalf("rotated to %+v, %v", next, err)
	}
	if again, err := n.service.RotateKey(t.Context(), sts.Principal{}, "cloud"); err != nil || again.KID != next.KID {
		t.Errorf("rotated twice to %+v, %v", again, err)
	}
	if signedBy(n, "outside").KeyID != outside.KeyID {
		t.Error("the next key signs before its time")
	}
	for _, s := range n.service.Keys() {
		for _, k := range s.Keys {
			if want := map[bool]int{true: 0, false: 1}[k.Role == sts.KeyNext]; k.Verifiers != want || k.Set != s.Name {
				t.Errorf("%+v, want %d verifiers", k, want)
			}
		}
	}
	done, err := n.service.Revoke(t.Context(), sts.Principal{}, sts.Revoke{Kind: sts.RevokeKey, Value: outside.KeyID, Reason: "test"})
	if err != nil || done.Key.Revoked.Role != sts.KeyRevoked || done.Key.Successor.KID != next.KID || time.Until(done.Key.AcceptedUntil) < 5*time.Minute {
		t.Errorf("%+v, %v", done, err)
	}
	if signedBy(n, "outside").KeyID != next.KID {
		t.Error("the successor does not sign")
	}
	_, rotate := n.service.RotateKey(t.Context(), sts.Principal{}, "nowhere")
	_, revoke := n.service.Revoke(t.Context(), sts.Principal{}, sts.Revoke{Kind: sts.RevokeKey, Value: "nowhere", Reason: "test"})
	for _, err := range []error{rotate, revoke} {
		if e, _ := errors.AsType[*sts.Error](err); e == nil || e.Code != sts.NotFound || strings.Contains(e.Message, "nowhere") {
			t.Errorf("%v", err)
		}
	}
	n.close()
	// A second start has the same keys; one whose keys do not stay published for
	// the tokens that are promised does not start.
	if _, err = openNode(t, dir, localSets+"rotation: {retain: 2h}\n"); err == nil || !strings.Contains(err.Error(), `"outside": max_ttl: is 12h0m0s`) {
		t.Fatalf("a start with tokens that outlive their keys: %v", err)
	}
	if n, err = openNode(t, dir, localSets); err != nil {
		t.Fatal(err)
	}
	defer n.close()
	if signedBy(n, "api").KeyID != api.KeyID || signedBy(n, "outside").KeyID != next.KID {
		t.Error("a second start signs with other keys")
	}
}
