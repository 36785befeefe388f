package vault

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/workload-sts/sts/internal/vaulttest"
)

func TestInfo(t *testing.T) {
	stub := vaulttest.NewStub(t, vaulttest.StubConfig{})
	client := ready(t, rootConfig(t, stub))
	for _, keyType := range []string{"ecdsa-p256", "ecdsa-p384", "ed25519", "rsa-2048", "aes256-gcm96"} {
		t.Run(keyType, func(t *testing.T) {
			stub.AddKey(t, keyType, keyType)
			stub.Rotate(t, keyType)
			info, err := client.Key("transit", keyType).Info(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if info.Type != keyType || info.Latest != 2 || len(info.Versions) != 2 {
				t.Errorf("got %+v", info)
			}
			for n, v := range info.Versions {
				if time.Since(v.Created).Abs() > time.Minute {
					t.Errorf("version %d is of %s", n, v.Created)
				}
				if keyType == "aes256-gcm96" {
					if v.PublicKey != nil {
						t.Errorf("version %d has a public key", n)
					}
					continue
				}
				if want := stub.PublicKey(t, keyType, n).(interface{ Equal(x crypto.PublicKey) bool }); !want.Equal(v.PublicKey) {
					t.Errorf("version %d has another public key", n)
				}
			}
		})
	}
	_, err := client.Key("transit", "missing").Info(t.Context())
	wantKind(t, err, NoKey)
}

// keyJSON is an answer to keys/NAME, with one edit.
func keyJSON(t *testing.T, edit func(data map[string]any)) []byte {
	t.Helper()
	stub := vaulttest.NewStub(t, vaulttest.StubConfig{})
	stub.AddKey(t, "sts", "ecdsa-p256")
	answer := stub.Do(t, http.MethodGet, "transit/keys/sts", nil)
	edit(answer["data"].(map[string]any))
	b, err := json.Marshal(answer)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseInfo(t *testing.T) {
	first := func(data map[string]any) map[string]any {
		return data["keys"].(map[string]any)["1"].(map[string]any)
	}
	tests := []struct {
		name string
		edit func(data map[string]any)
		ok   bool
	}{
		{"as it is", func(map[string]any) {}, true},
		{"derived", func(data map[string]any) { data["derived"] = true; first(data)["public_key"] = "" }, true},
		{"auto rotation with a unit", func(data map[string]any) { data["auto_rotate_period"] = "720h" }, true},
		{"no keys", func(data map[string]any) { delete(data, "keys") }, false},
		{"no type", func(data map[string]any) { data["type"] = "" }, false},
		{"another type", func(data map[string]any) { data["type"] = "rsa-2048" }, false},
		{"type of no key", func(data map[string]any) { data["type"] = "hybrid" }, false},
		{"latest 0", func(data map[string]any) { data["latest_version"] = 0 }, false},
		{"version 0", func(data map[string]any) { data["keys"] = map[string]any{"0": first(data)} }, false},
		{"version 01", func(data map[string]any) { data["keys"] = map[string]any{"01": first(data)} }, false},
		{"version after the latest", func(data map[string]any) { data["keys"] = map[string]any{"2": first(data)} }, false},
		{"version of another type", func(data map[string]any) { data["keys"] = map[string]any{"1": []any{}} }, false},
		{"public key not PEM", func(data map[string]any) { first(data)["public_key"] = "AAAA" }, false},
		{"public key of another kind", func(data map[string]any) {
			first(data)["public_key"] = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
		}, false},
		{"public key not DER", func(data map[string]any) {
			first(data)["public_key"] = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
		}, false},
		{"two public keys", func(data map[string]any) {
			first(data)["public_key"] = strings.Repeat(first(data)["public_key"].(string), 2)
		}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseInfo(keyJSON(t, tt.edit))
			if tt.ok {
				wantKind(t, err, 0)
			} else {
				wantKind(t, err, Garbage)
			}
		})
	}
}

// TestInfoOfDangerousKeys is about what a key that signs tokens should not have
// [Y-07].
func TestInfoOfDangerousKeys(t *testing.T) {
	info, err := parseInfo(keyJSON(t, func(data map[string]any) {
		for _, name := range []string{"exportable", "allow_plaintext_backup", "deletion_allowed", "derived", "soft_deleted"} {
			data[name] = true
		}
		data["auto_rotate_period"] = 3600
		data["min_encryption_version"] = 1
	}))
	if err != nil {
		t.Fatal(err)
	}
	if !info.Exportable || !info.PlaintextBackup || !info.DeletionAllowed || !info.Derived || !info.SoftDeleted || info.AutoRotate != time.Hour {
		t.Errorf("got %+v", info)
	}
	if info.Signs(1) {
		t.Error("a key that is marked as deleted signs")
	}
}

func TestInfoSigns(t *testing.T) {
	i := Info{Latest: 3, MinEncryption: 3, Versions: map[int]Version{2: {}, 3: {}}}
	for version, want := range map[int]bool{0: false, 1: false, 2: false, 3: true, 4: false} {
		if got := i.Signs(version); got != want {
			t.Errorf("version %d: %t, want %t", version, got, want)
		}
	}
}

func FuzzParseInfo(f *testing.F) {
	f.Add([]byte(`{"data":{"type":"ed25519","latest_version":1,"keys":{"1":{"public_key":"11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=","creation_time":"2024-01-01T00:00:00Z"}}}}`))
	f.Add([]byte(`{"data":{"type":"aes256-gcm96","latest_version":1,"keys":{"1":1700000000}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		info, err := parseInfo(body)
		if err != nil {
			wantKind(t, err, Garbage)
			return
		}
		for n, v := range info.Versions {
			switch v.PublicKey.(type) {
			case nil, *ecdsa.PublicKey, *rsa.PublicKey, ed25519.PublicKey:
			default:
				t.Errorf("version %d has a %T", n, v.PublicKey)
			}
		}
	})
}

// TestCapabilities is about a token that may do more than a signer needs [Y-08].
func TestCapabilities(t *testing.T) {
	may := map[string][]string{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var asked struct{ Paths []string }
		if r.URL.Path == "/v1/sys/capabilities-self" && json.NewDecoder(r.Body).Decode(&asked) == nil {
			data := map[string][]string{}
			for _, p := range asked.Paths {
				if data[p] = may[p]; data[p] == nil {
					data[p] = []string{"deny"}
				}
			}
			json.NewEncoder(w).Encode(map[string]any{"data": data})
			return
		}
		json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"ttl": 0}})
	}))
	t.Cleanup(server.Close)
	k := ready(t, Config{Addresses: []string{server.URL}, Login: Login{TokenFile: secretFile(t, "token")}}).Key("transit", "sts")
	may["transit/keys/sts"] = []string{"read"}
	may["transit/keys/sts/rotate"] = []string{"update"}
	may["transit/sign/sts"] = []string{"update"}
	for _, tt := range []struct {
		path string
		has  []string
		want []string
	}{
		{"transit/sign/sts", []string{"update"}, nil},
		{"transit/keys/sts", []string{"delete", "read", "update"}, []string{"delete transit/keys/sts", "update transit/keys/sts"}},
		{"transit/encrypt/sts", []string{"create", "update"}, []string{"create transit/encrypt/sts"}},
		{"transit/keys/sts/config", []string{"update"}, []string{"update transit/keys/sts/config"}},
		{"transit/keys/sts/trim", []string{"update"}, []string{"update transit/keys/sts/trim"}},
		{"transit/export/signing-key/sts", []string{"read"}, []string{"read transit/export/signing-key/sts"}},
		{"transit/backup/sts", []string{"read"}, []string{"read transit/backup/sts"}},
		{"transit/restore/sts", []string{"root"}, []string{"root transit/restore/sts"}},
	} {
		t.Run(tt.path, func(t *testing.T) {
			was := may[tt.path]
			may[tt.path] = tt.has
			defer func() { may[tt.path] = was }()
			broader, err := k.Capabilities(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(broader, tt.want) {
				t.Errorf("got %q, want %q", broader, tt.want)
			}
		})
	}
}
