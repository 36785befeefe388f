package vault

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/workload-sts/sts/internal/vaulttest"
	"github.com/workload-sts/sts/jose"
)

// algorithms are the key types of the algorithms that sign does.
var algorithms = map[jose.Algorithm]string{
	jose.ES256: "ecdsa-p256", jose.ES384: "ecdsa-p384", jose.EdDSA: "ed25519", jose.RS256: "rsa-2048", jose.PS256: "rsa-2048",
}

// hashed is what sign takes for an input.
func hashed(a jose.Algorithm, input []byte) []byte {
	switch a {
	case jose.EdDSA:
		return input
	case jose.ES384:
		d := sha512.Sum384(input)
		return d[:]
	}
	d := sha256.Sum256(input)
	return d[:]
}

// checkSigns signs three inputs with a version, and verifies the signatures as
// those who get a token do.
func checkSigns(t *testing.T, k *Key, a jose.Algorithm, version int) {
	t.Helper()
	info, err := k.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	inputs := [][]byte{[]byte("first"), []byte("second"), bytes.Repeat([]byte("x"), 3000)}
	r := signRequest{Version: version, Algorithm: a}
	for _, in := range inputs {
		r.Inputs = append(r.Inputs, hashed(a, in))
	}
	results, err := k.sign(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	for i, got := range results {
		if got.Err != nil {
			t.Fatal(got.Err)
		}
		if err := jose.Verify(a, info.Versions[version].PublicKey, inputs[i], got.Signature); err != nil {
			t.Errorf("input %d: %v", i, err)
		}
	}
}

func TestSign(t *testing.T) {
	stub := vaulttest.NewStub(t, vaulttest.StubConfig{})
	client := ready(t, rootConfig(t, stub))
	for a, keyType := range algorithms {
		t.Run(string(a), func(t *testing.T) {
			stub.AddKey(t, "sts-"+string(a), keyType)
			stub.Rotate(t, "sts-"+string(a))
			k := client.Key("transit", "sts-"+string(a))
			checkSigns(t, k, a, 1)
			checkSigns(t, k, a, 2)
		})
	}
}

// TestSignSaysAll is about what Vault has another default for [Y-01, Y-02, Y-03].
func TestSignSaysAll(t *testing.T) {
	for a, want := range map[jose.Algorithm]map[string]any{
		jose.ES256: {"prehashed": true, "hash_algorithm": "sha2-256"},
		jose.ES384: {"prehashed": true, "hash_algorithm": "sha2-384"},
		jose.EdDSA: {"prehashed": false},
		jose.RS256: {"prehashed": true, "hash_algorithm": "sha2-256", "signature_algorithm": "pkcs1v15"},
		jose.PS256: {"prehashed": true, "hash_algorithm": "sha2-256", "signature_algorithm": "pss", "salt_length": "hash"},
	} {
		t.Run(string(a), func(t *testing.T) {
			stub := vaulttest.NewStub(t, vaulttest.StubConfig{})
			stub.AddKey(t, "sts", algorithms[a])
			k := ready(t, rootConfig(t, stub)).Key("transit", "sts")
			if _, err := k.sign(t.Context(), signRequest{1, a, [][]byte{hashed(a, nil)}}); err != nil {
				t.Fatal(err)
			}
			sent := stub.Requests(vaulttest.Sign)
			if len(sent) != 1 {
				t.Fatalf("%d requests to sign", len(sent))
			}
			body := sent[0].Body
			delete(body, "batch_input")
			want["marshaling_algorithm"], want["key_version"] = "jws", 1.0
			if fmt.Sprint(body) != fmt.Sprint(want) {
				t.Errorf("sent %v, want %v", body, want)
			}
		})
	}
}

// TestSignAnswers is about answers that are not what was asked for [Y-04, F11].
func TestSignAnswers(t *testing.T) {
	edit := func(f func(item map[string]any)) vaulttest.Fault {
		return vaulttest.Edit(func(answer map[string]any) {
			f(answer["data"].(map[string]any)["batch_results"].([]any)[1].(map[string]any))
		})
	}
	signature := func(s string) vaulttest.Fault {
		return edit(func(item map[string]any) { item["signature"] = s })
	}
	tests := []struct {
		name  string
		fault vaulttest.Fault
		call  Kind // of the call
		item  Kind // of the second of the three inputs
	}{
		{name: "right", fault: vaulttest.Edit(func(map[string]any) {})},
		{name: "right, with members that are not known", fault: edit(func(item map[string]any) { item["more"] = []any{1} })},
		{name: "one item failed", fault: vaulttest.FailedItem(1), item: Refused},
		{name: "one item of a version that is disabled", fault: edit(func(item map[string]any) {
			item["error"] = "requested version for signing is less than the minimum encryption key version"
		}), item: NoKey},
		{name: "other version", fault: signature("vault:v2:AAAA"), item: Garbage},
		{name: "version 0", fault: signature("vault:v0:AAAA"), item: Garbage},
		{name: "version 01", fault: signature("vault:v01:AAAA"), item: Garbage},
		{name: "version 10", fault: signature("vault:v10:AAAA"), item: Garbage},
		{name: "other prefix", fault: signature("vault:1:AAAA"), item: Garbage},
		{name: "no signature", fault: signature(""), item: Garbage},
		{name: "empty signature", fault: signature("vault:v1:"), item: Garbage},
		{name: "base64, not base64url", fault: signature("vault:v1:+/+/"), item: Garbage},
		{name: "padding", fault: signature("vault:v1:AAA="), item: Garbage},
		{name: "bits after the end", fault: signature("vault:v1:AB"), item: Garbage},
		{name: "line break", fault: signature("vault:v1:AA\nAA"), item: Garbage},
		{name: "one result less", fault: vaulttest.Edit(func(answer map[string]any) {
			data := answer["data"].(map[string]any)
			data["batch_results"] = data["batch_results"].([]any)[:2]
		}), call: Garbage},
		{name: "no results", fault: vaulttest.Edit(func(answer map[string]any) { answer["data"] = nil }), call: Garbage},
		{name: "results of another type", fault: vaulttest.Edit(func(answer map[string]any) { answer["data"] = "hello" }), call: Garbage},
		{name: "not JSON", fault: vaulttest.Garbage(), call: Garbage},
		{name: "truncated", fault: vaulttest.Truncated(), call: Garbage},
		{name: "huge", fault: vaulttest.Huge(maxBody + 1000), call: Garbage},
		{name: "400", fault: vaulttest.Status(http.StatusBadRequest), call: Refused},
		{name: "403", fault: vaulttest.Status(http.StatusForbidden), call: Denied},
		{name: "404", fault: vaulttest.Status(http.StatusNotFound), call: NoKey},
		{name: "429", fault: vaulttest.TooMany(3e9), call: Throttled},
		{name: "500", fault: vaulttest.Status(http.StatusInternalServerError), call: Failed},
		{name: "501", fault: vaulttest.Status(http.StatusNotImplemented), call: Uninitialised},
		{name: "503", fault: vaulttest.Status(http.StatusServiceUnavailable), call: Sealed},
		{name: "reset", fault: vaulttest.Reset(), call: Unreachable},
	}
	stub := vaulttest.NewStub(t, vaulttest.StubConfig{})
	stub.AddKey(t, "sts", "ecdsa-p256")
	k := ready(t, rootConfig(t, stub)).Key("transit", "sts")
	digest := hashed(jose.ES256, nil)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			stub.Inject(vaulttest.Sign, tt.fault)
			defer stub.Heal(vaulttest.Sign)
			results, err := k.sign(t.Context(), signRequest{1, jose.ES256, [][]byte{digest, digest, digest}})
			wantKind(t, err, tt.call)
			if err != nil {
				if e := err.(*Error); (e.Kind == Throttled) != (e.RetryAfter == 3e9) {
					t.Errorf("retry after %s", e.RetryAfter)
				}
				return
			}
			wantKind(t, results[0].Err, 0)
			wantKind(t, results[1].Err, tt.item)
			wantKind(t, results[2].Err, 0)
		})
	}
}

func TestSignWithoutKey(t *testing.T) {
	stub := vaulttest.NewStub(t, vaulttest.StubConfig{})
	client := ready(t, rootConfig(t, stub))
	r := signRequest{1, jose.ES256, [][]byte{hashed(jose.ES256, nil)}}
	_, err := client.Key("transit", "missing").sign(t.Context(), r)
	wantKind(t, err, NoKey)
	_, err = client.Key("elsewhere", "missing").sign(t.Context(), r)
	wantKind(t, err, NoKey)
	before := stub.Count(vaulttest.AnyCall)
	for _, name := range []string{"", "..", "a/../b", "a b", "-a", "a?b", "ä"} {
		_, err = client.Key("transit", name).sign(t.Context(), r)
		wantKind(t, err, Refused)
	}
	for _, mount := range []string{"", "/transit", "transit/", "..", "a//b", "a/../sys", "a?b"} {
		_, err = client.Key(mount, "sts").sign(t.Context(), r)
		wantKind(t, err, Refused)
	}
	for _, bad := range []signRequest{{}, {0, jose.ES256, r.Inputs}, {1, jose.ES512, r.Inputs}, {1, jose.ES256, nil}} {
		_, err = client.Key("transit", "missing").sign(t.Context(), bad)
		wantKind(t, err, Refused)
	}
	if after := stub.Count(vaulttest.AnyCall); after != before {
		t.Errorf("%d requests for what cannot be one", after-before)
	}
}

func TestEncrypt(t *testing.T) {
	stub := vaulttest.NewStub(t, vaulttest.StubConfig{})
	stub.AddKey(t, "wrap", "aes256-gcm96")
	k := ready(t, rootConfig(t, stub)).Key("transit", "wrap")
	sealed, err := k.Encrypt(t.Context(), []byte("a private key"), []byte("its name"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(sealed, "private") {
		t.Errorf("not encrypted: %q", sealed)
	}
	open, err := k.Decrypt(t.Context(), sealed, []byte("its name"))
	if err != nil || string(open) != "a private key" {
		t.Errorf("got %q, %v", open, err)
	}
	_, err = k.Decrypt(t.Context(), sealed, []byte("another name"))
	wantKind(t, err, Refused)
	_, err = k.Decrypt(t.Context(), "vault:v1:AAAA", nil)
	wantKind(t, err, Refused)
}

// TestEncryptMakesNoKey: Vault would, if the token may [F09].
func TestEncryptMakesNoKey(t *testing.T) {
	stub := vaulttest.NewStub(t, vaulttest.StubConfig{})
	_, err := ready(t, rootConfig(t, stub)).Key("transit", "missing").Encrypt(t.Context(), []byte("x"), nil)
	wantKind(t, err, NoKey)
	if n := stub.Count(vaulttest.Encrypt); n != 0 {
		t.Errorf("%d requests to encrypt with a key that is missing", n)
	}
}

func FuzzSigned(f *testing.F) {
	f.Add([]byte(`{"data":{"batch_results":[{"signature":"vault:v1:AAAA","key_version":1},{"error":"no such key version"}]}}`))
	f.Add([]byte(`{"data":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		results, err := signed(body, 2, 1)
		if err != nil {
			wantKind(t, err, Garbage)
			return
		}
		if len(results) != 2 {
			t.Fatalf("%d results", len(results))
		}
		for _, r := range results {
			if (r.Err == nil) != (len(r.Signature) > 0) {
				t.Errorf("a signature of %d bytes with error %v", len(r.Signature), r.Err)
			}
		}
	})
}
