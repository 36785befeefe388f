package vaulttest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// vault is what the contract is run on.
type vault struct {
	*Client
	addKey     func(name, typ string)
	rotate     func(name string)
	setMinimum func(name string, decryption, encryption int)
}

// TestContract runs the same calls on a real Vault and on the stub: what the
// stub says is what a Vault says.
func TestContract(t *testing.T) {
	t.Run("real", func(t *testing.T) {
		s := Start(t)
		testContract(t, vault{
			Client: s.Client,
			addKey: func(name, typ string) { s.Transit(t, name, typ) },
			rotate: func(name string) { s.Do(t, "POST", "transit/keys/"+name+"/rotate", nil) },
			setMinimum: func(name string, decryption, encryption int) {
				s.Do(t, "POST", "transit/keys/"+name+"/config", map[string]any{"min_decryption_version": decryption, "min_encryption_version": encryption})
			},
		})
	})
	t.Run("stub", func(t *testing.T) {
		s := NewStub(t, StubConfig{})
		testContract(t, vault{
			Client:     s.Client,
			addKey:     func(name, typ string) { s.AddKey(t, name, typ) },
			rotate:     func(name string) { s.Rotate(t, name) },
			setMinimum: func(name string, decryption, encryption int) { s.SetMinimum(t, name, decryption, encryption) },
		})
	})
}

func testContract(t *testing.T, v vault) {
	message := []byte("header.payload")
	in256, in384 := sha256.Sum256(message), sha512.Sum384(message)
	for _, c := range []struct {
		typ, hash string
		input     []byte
		options   map[string]any
	}{
		{"ecdsa-p256", "/sha2-256", in256[:], map[string]any{"prehashed": true}},
		{"ecdsa-p384", "/sha2-384", in384[:], map[string]any{"prehashed": true}},
		{"ecdsa-p384", "/sha2-384", message, nil},
		{"ed25519", "", message, nil},
		{"rsa-2048", "/sha2-256", in256[:], map[string]any{"prehashed": true, "signature_algorithm": "pkcs1v15"}},
		{"rsa-2048", "/sha2-256", in256[:], map[string]any{"prehashed": true, "signature_algorithm": "pss", "salt_length": "hash"}},
	} {
		t.Run(fmt.Sprint(c.typ, c.options["signature_algorithm"]), func(t *testing.T) {
			v.addKey(c.typ, c.typ)
			v.rotate(c.typ)
			keys := publicKeys(t, v.Do(t, "GET", "transit/keys/"+c.typ, nil))
			if len(keys) < 2 {
				t.Fatalf("%d versions of a rotated key", len(keys))
			}
			body := map[string]any{"marshaling_algorithm": "jws", "key_version": 1}
			for name, value := range c.options {
				body[name] = value
			}
			body["input"] = base64.StdEncoding.EncodeToString(c.input)
			one := data(t, v.Do(t, "POST", "transit/sign/"+c.typ+c.hash, body))
			checkSignature(t, one, keys[1], 1, message)

			delete(body, "key_version")
			checkSignature(t, data(t, v.Do(t, "POST", "transit/sign/"+c.typ+c.hash, body)), keys[len(keys)], len(keys), message)

			body["batch_input"] = []any{
				map[string]any{"input": body["input"], "reference": "first"},
				map[string]any{"input": "not base64!"},
				map[string]any{"reference": "third"},
				map[string]any{"input": body["input"]},
			}
			body["key_version"] = 1
			delete(body, "input")
			results := data(t, v.Do(t, "POST", "transit/sign/"+c.typ+c.hash, body))["batch_results"].([]any)
			if len(results) != 4 {
				t.Fatalf("%d results of a batch of 4", len(results))
			}
			checkSignature(t, results[0].(map[string]any), keys[1], 1, message)
			checkSignature(t, results[3].(map[string]any), keys[1], 1, message)
			for i, want := range map[int]string{1: "unable to decode input as base64: illegal base64 data at input byte 3", 2: "missing input"} {
				if item := results[i].(map[string]any); item["error"] != want || item["signature"] != nil {
					t.Errorf("result %d is %v, want the error %q", i, item, want)
				}
			}
			if r := results[0].(map[string]any)["reference"]; r != "first" {
				t.Errorf("the reference is %v", r)
			}
		})
	}
	t.Run("versions", func(t *testing.T) { testVersions(t, v) })
	t.Run("encrypt", func(t *testing.T) { testEncrypt(t, v) })
	t.Run("errors", func(t *testing.T) { testErrors(t, v) })
}

// testVersions asks for versions that a key does not have or may not use.
func testVersions(t *testing.T, v vault) {
	v.addKey("versions", "ecdsa-p256")
	for range 3 {
		v.rotate("versions")
	}
	v.setMinimum("versions", 2, 3)
	read := data(t, v.Do(t, "GET", "transit/keys/versions", nil))
	listed := read["keys"].(map[string]any)
	if _, ok := listed["1"]; ok || len(listed) != 3 || read["latest_version"] != 4.0 || read["min_encryption_version"] != 3.0 {
		t.Errorf("a key of 4 versions, from min_decryption_version 2 on, reads as %v", read)
	}
	const input = "aGVsbG8="
	for version, want := range map[int]string{
		-1: "requested version for signing is negative",
		1:  "requested version for signing is less than the minimum encryption key version",
		2:  "requested version for signing is less than the minimum encryption key version",
		3:  "",
		5:  "requested version for signing is higher than the latest key version",
	} {
		checkVersion(t, v, version, input, want)
	}
	v.setMinimum("versions", 2, 0)
	checkVersion(t, v, 1, input, "no such key version")
	checkVersion(t, v, 2, input, "")
}

func checkVersion(t *testing.T, v vault, version int, input, want string) {
	t.Helper()
	status, answer := v.Try(t, "POST", "transit/sign/versions", map[string]any{"input": input, "key_version": version})
	switch {
	case want == "" && status != 200:
		t.Errorf("version %d: %d %v", version, status, answer)
	case want != "" && (status != 500 || fmt.Sprint(answer["errors"]) != "[1 error occurred:\n\t* "+want+"\n\n]"):
		t.Errorf("version %d: %d %v, want 500 and %q", version, status, answer, want)
	}
	results := data(t, v.Do(t, "POST", "transit/sign/versions", map[string]any{
		"batch_input": []any{map[string]any{"input": input}}, "key_version": version,
	}))["batch_results"].([]any)
	if got, _ := results[0].(map[string]any)["error"].(string); got != want {
		t.Errorf("version %d in a batch: %q, want %q", version, got, want)
	}
}

func testEncrypt(t *testing.T, v vault) {
	v.addKey("sealing", "aes256-gcm96")
	const plain, associated, other = "aGVsbG8=", "Zm9y", "bm90"
	ciphertext := data(t, v.Do(t, "POST", "transit/encrypt/sealing", map[string]any{"plaintext": plain, "associated_data": associated}))["ciphertext"]
	decrypt := func(ciphertext, associated any) (int, map[string]any) {
		return v.Try(t, "POST", "transit/decrypt/sealing", map[string]any{"ciphertext": ciphertext, "associated_data": associated})
	}
	if status, answer := decrypt(ciphertext, associated); status != 200 || data(t, answer)["plaintext"] != plain {
		t.Errorf("decrypt: %d %v", status, answer)
	}
	for name, c := range map[string]struct {
		ciphertext, associated any
		want                   string
	}{
		"other associated data": {ciphertext, other, "cipher: message authentication failed"},
		"no associated data":    {ciphertext, "", "cipher: message authentication failed"},
		"later version":         {strings.Replace(ciphertext.(string), "v1", "v9", 1), associated, "invalid ciphertext: version is too new"},
		"no prefix":             {"garbage", associated, "invalid ciphertext: no prefix"},
	} {
		if status, answer := decrypt(c.ciphertext, c.associated); status != 400 || fmt.Sprint(answer["errors"]) != "["+c.want+"]" {
			t.Errorf("%s: %d %v, want 400 and %q", name, status, answer, c.want)
		}
	}
}

func testErrors(t *testing.T, v vault) {
	v.addKey("plain", "ecdsa-p256")
	input := map[string]any{"input": "aGVsbG8="}
	for name, c := range map[string]struct {
		client       *Client
		method, path string
		body         any
		status       int
		errors       string
	}{
		"good":             {v.Client, "POST", "transit/sign/plain", input, 200, "<nil>"},
		"read no key":      {v.Client, "GET", "transit/keys/none", nil, 404, "[]"},
		"sign no key":      {v.Client, "POST", "transit/sign/none", input, 400, "[encryption key not found]"},
		"cannot sign":      {v.Client, "POST", "transit/sign/sealing", input, 400, "[key type aes256-gcm96 does not support signing]"},
		"empty batch":      {v.Client, "POST", "transit/sign/plain", map[string]any{"batch_input": []any{}}, 400, "[missing batch input to process]"},
		"bad base64":       {v.Client, "POST", "transit/sign/plain", map[string]any{"input": "!"}, 0, ""},
		"unknown hash":     {v.Client, "POST", "transit/sign/plain/sha2-1", input, 400, `[invalid hash algorithm "sha2-1"]`},
		"marshaling":       {v.Client, "POST", "transit/sign/plain", map[string]any{"marshaling_algorithm": "x"}, 400, `[invalid marshaling type "x"]`},
		"no mount":         {v.Client, "GET", "elsewhere/keys/plain", nil, 404, `[no handler for route "elsewhere/keys/plain". route entry not found.]`},
		"wrong token":      {v.As("hvs.wrong"), "POST", "transit/sign/plain", input, 403, "[permission denied]"},
		"no token":         {v.As(""), "GET", "transit/keys/plain", nil, 403, "[permission denied]"},
		"lookup, no token": {v.As("hvs.wrong"), "GET", "auth/token/lookup-self", nil, 403, "[permission denied]"},
		"renew, no token":  {v.As("hvs.wrong"), "POST", "auth/token/renew-self", nil, 403, "[permission denied]"},
	} {
		if c.status == 0 {
			c.status, c.errors = 400, "[unable to decode input as base64: illegal base64 data at input byte 0]"
		}
		if status, answer := c.client.Try(t, c.method, c.path, c.body); status != c.status || fmt.Sprint(answer["errors"]) != c.errors {
			t.Errorf("%s: %d %v, want %d %s", name, status, answer["errors"], c.status, c.errors)
		}
	}
	if status, answer := v.Try(t, http.MethodGet, "sys/health", nil); status != 200 || answer["sealed"] != false || answer["initialized"] != true {
		t.Errorf("health: %d %v", status, answer)
	}
}

func data(t *testing.T, answer map[string]any) map[string]any {
	t.Helper()
	d, ok := answer["data"].(map[string]any)
	if !ok {
		t.Fatalf("the answer has no data: %v", answer)
	}
	return d
}

// publicKeys reads the versions of a key.
func publicKeys(t *testing.T, answer map[string]any) map[int]crypto.PublicKey {
	t.Helper()
	keys := map[int]crypto.PublicKey{}
	for label, v := range data(t, answer)["keys"].(map[string]any) {
		version, err := strconv.Atoi(label)
		if err != nil {
			t.Fatal(err)
		}
		text := v.(map[string]any)["public_key"].(string)
		if block, _ := pem.Decode([]byte(text)); block != nil {
			if keys[version], err = x509.ParsePKIXPublicKey(block.Bytes); err != nil {
				t.Fatal(err)
			}
			continue
		}
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(raw) != ed25519.PublicKeySize {
			t.Fatalf("public key %q: %v", text, err)
		}
		keys[version] = ed25519.PublicKey(raw)
	}
	return keys
}

// checkSignature verifies a signature in the form of JWS.
func checkSignature(t *testing.T, result map[string]any, key crypto.PublicKey, version int, message []byte) {
	t.Helper()
	if err := verify(result, key, version, message); err != nil {
		t.Errorf("%v: %v", result, err)
	}
}

func verify(result map[string]any, key crypto.PublicKey, version int, message []byte) error {
	signature, _ := result["signature"].(string)
	text, ok := strings.CutPrefix(signature, fmt.Sprintf("vault:v%d:", version))
	if !ok || result["key_version"] != float64(version) {
		return fmt.Errorf("not of version %d", version)
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return err
	}
	in256, in384 := sha256.Sum256(message), sha512.Sum384(message)
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		size, digest := 32, in256[:]
		if key.Params().BitSize == 384 {
			size, digest = 48, in384[:]
		}
		if len(raw) != 2*size {
			return fmt.Errorf("%d bytes, not %d", len(raw), 2*size)
		}
		ok = ecdsa.Verify(key, digest, new(big.Int).SetBytes(raw[:size]), new(big.Int).SetBytes(raw[size:]))
	case ed25519.PublicKey:
		ok = ed25519.Verify(key, message, raw)
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(key, crypto.SHA256, in256[:], raw) == nil ||
			rsa.VerifyPSS(key, crypto.SHA256, in256[:], raw, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
	}
	if !ok {
		return fmt.Errorf("the signature does not verify")
	}
	return nil
}
