package jose

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Keys of the examples in the RFCs.
const (
	rfc7515RSA  = `{"kty":"RSA","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}`
	rfc7515P256 = `{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}`
	rfc7515P521 = `{"kty":"EC","crv":"P-521","x":"AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk","y":"ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2"}`
	rfc8037Ed   = `{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`
	rfc7638RSA  = `{"kty":"RSA","alg":"RS256","kid":"2011-04-29","e":"AQAB","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"}`
)

func oneKey(t testing.TB, jwk string) Key {
	t.Helper()
	set, left, err := ParseKeySet([]byte(`{"keys":[` + jwk + `]}`))
	if err != nil || len(left) > 0 || set.Len() != 1 {
		t.Fatalf("%v, left out %v", err, left)
	}
	return slices.Collect(set.All())[0]
}

func TestExamplesOfRFCs(t *testing.T) {
	const joe = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
	for _, tc := range []struct{ name, jwk, header, payload, signature string }{
		{"RFC 7515 A.2", rfc7515RSA, "eyJhbGciOiJSUzI1NiJ9", joe, "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"},
		{"RFC 7515 A.3", rfc7515P256, "eyJhbGciOiJFUzI1NiJ9", joe, "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"},
		{"RFC 7515 A.4", rfc7515P521, "eyJhbGciOiJFUzUxMiJ9", "UGF5bG9hZA", "AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn"},
		{"RFC 8037 A.4", rfc8037Ed, "eyJhbGciOiJFZERTQSJ9", "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc", "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			key := oneKey(t, tc.jwk)
			j, err := Parse(tc.header + "." + tc.payload + "." + tc.signature)
			if err != nil {
				t.Fatal(err)
			}
			if err := j.Verify(key); err != nil {
				t.Error(err)
			}
			claims, err := j.Claims()
			if isJoe := tc.payload == joe; isJoe != (err == nil) || isJoe && (claims["iss"] != "joe" || claims["exp"] != int64(1300819380)) {
				t.Errorf("%v, %v", claims, err)
			}
		})
	}
}

// TestSignExampleOfRFC signs the example of RFC 8037 A.4, whose signature is
// deterministic.
func TestSignExampleOfRFC(t *testing.T) {
	seed, err := base64.RawURLEncoding.DecodeString("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A")
	if err != nil {
		t.Fatal(err)
	}
	input := SigningInput(Header{Algorithm: EdDSA}, []byte("Example of Ed25519 signing"))
	sig, err := Sign(EdDSA, ed25519.NewKeyFromSeed(seed), input)
	if err != nil {
		t.Fatal(err)
	}
	const want = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
	if got := Compact(input, sig); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestThumbprints(t *testing.T) {
	for _, tc := range []struct{ name, jwk, want string }{
		{"RFC 7638 3.1", rfc7638RSA, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"},
		{"RFC 8037 A.3", rfc8037Ed, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"},
	} {
		if got, err := Thumbprint(oneKey(t, tc.jwk).Public); err != nil || got != tc.want {
			t.Errorf("%s: %s, %v; want %s", tc.name, got, err, tc.want)
		}
	}
	if _, err := Thumbprint("no key"); err == nil {
		t.Error("a thumbprint of no key")
	}
}

// TestKeySetsAreReadAsWritten writes the keys of every algorithm and reads them.
func TestKeySetsAreReadAsWritten(t *testing.T) {
	var keys []Key
	for a, s := range signers() {
		keys = append(keys, Key{ID: string(a), Algorithm: a, Public: s.Public()})
	}
	set, err := NewKeySet(keys...)
	if err != nil {
		t.Fatal(err)
	}
	written, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	read, left, err := ParseKeySet(written)
	if err != nil || len(left) > 0 || read.Len() != len(keys) {
		t.Fatalf("%v, left out %v", err, left)
	}
	for _, k := range keys {
		got, ok := read.Key(k.ID)
		if !ok || got.Algorithm != k.Algorithm {
			t.Errorf("%s: %+v", k.ID, got)
		}
		j, err := Parse(signed(t, k.Algorithm, `{"alg":"`+k.ID+`","kid":"`+k.ID+`"}`, goodPayload))
		if err != nil || j.Verify(got) != nil {
			t.Errorf("%s: the key that was read does not verify", k.ID)
		}
	}
	for _, private := range []string{`"d"`, `"p"`, `"q"`, `"dp"`, `"dq"`, `"qi"`, `"k"`} {
		if strings.Contains(string(written), private+":") {
			t.Errorf("J-57: %s is written", private)
		}
	}
	if empty, err := json.Marshal(KeySet{}); err != nil || string(empty) != `{"keys":[]}` {
		t.Errorf("%s, %v", empty, err)
	}
}

// TestKeySetForms covers what makes a whole set malformed.
func TestKeySetForms(t *testing.T) {
	many := func(n int) string {
		keys := make([]string, n)
		for i := range keys {
			keys[i] = fmt.Sprintf(`{"kid":"%d",%s`, i, rfc7515P256[1:])
		}
		return `{"keys":[` + strings.Join(keys, ",") + `]}`
	}
	for _, tc := range []struct {
		name, set string
		keys      int // -1: refused
	}{
		{"good", `{"keys":[` + rfc7515P256 + `]}`, 1},
		{"empty", `{"keys":[]}`, 0},
		{"two without kid", `{"keys":[` + rfc7515P256 + `,` + rfc8037Ed + `]}`, 2},
		{"100 keys", many(100), 100},
		{"101 keys", many(101), -1},
		{"J-28 oct beside EC", `{"keys":[{"kty":"oct","alg":"HS256","k":"AAAA"},` + rfc7515P256 + `]}`, 1},
		{"J-48 keys twice", `{"keys":[],"keys":[]}`, -1},
		{"J-50 Keys", `{"Keys":[` + rfc7515P256 + `]}`, -1},
		{"no keys", `{}`, -1},
		{"keys is an object", `{"keys":{}}`, -1},
		{"a key alone", rfc7515P256, -1},
		{"list", `[` + rfc7515P256 + `]`, -1},
		{"J-55 behind", `{"keys":[]} x`, -1},
		{"not JSON", `<html>`, -1},
		{"empty body", ``, -1},
		{"too long", `{"keys":[],"x":"` + strings.Repeat("x", maxKeySetSize) + `"}`, -1},
		{"J-42 line break in a coordinate", `{"keys":[` + strings.Replace(rfc7515P256, "f83O", `f83O\n`, 1) + `]}`, 0},
		{"J-43 unused bits", `{"keys":[` + strings.Replace(rfc7515P256, "RVEU", "RVEV", 1) + `]}`, 0},
		{"leading zero of a modulus", `{"keys":[` + strings.Replace(rfc7515RSA, "ofgW", "AACh", 1) + `]}`, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			set, _, err := ParseKeySet([]byte(tc.set))
			if refused := err != nil; refused != (tc.keys < 0) || refused && !errors.Is(err, ErrMalformed) {
				t.Fatalf("%d keys, %v", set.Len(), err)
			}
			if set.Len() != max(tc.keys, 0) {
				t.Errorf("%d keys, want %d", set.Len(), tc.keys)
			}
		})
	}
	if _, err := NewKeySet(Key{ID: "a"}, Key{ID: "a"}); !errors.Is(err, ErrMalformed) {
		t.Errorf("J-26: %v", err)
	}
}

// TestSignedIsVerified signs any payload with each algorithm. What was signed
// verifies; with one byte changed, it is refused.
func TestSignedIsVerified(t *testing.T) {
	for a, signer := range signers() {
		t.Run(string(a), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				h := Header{Algorithm: a, KeyID: rapid.StringMatching(`[ -~é]{0,40}`).Draw(t, "kid"), Type: rapid.SampledFrom([]string{"", "jwt", "at+jwt"}).Draw(t, "typ")}
				payload := rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "payload")
				input := SigningInput(h, payload)
				sig, err := Sign(a, signer, input)
				if err != nil {
					t.Fatal(err)
				}
				token := Compact(input, sig)
				key := Key{ID: h.KeyID, Algorithm: a, Public: signer.Public()}
				j, err := Parse(token)
				if err != nil || j.Header != h || string(j.Payload) != string(payload) {
					t.Fatalf("%+v, %v; signed %+v", j, err, h)
				}
				if err := j.Verify(key); err != nil {
					t.Fatal(err)
				}
				changed := []byte(token)
				at := rapid.IntRange(0, len(changed)-1).Draw(t, "at")
				changed[at] ^= rapid.ByteRange(1, 255).Draw(t, "change")
				if j, err := Parse(string(changed)); err == nil && j.Verify(key) == nil {
					t.Fatalf("byte %d was changed", at)
				}
			})
		})
	}
}

// TestEveryByteCounts changes every byte of one token [J-43, J-63].
func TestEveryByteCounts(t *testing.T) {
	token, private := signedES256(t)
	key := Key{ID: "k", Algorithm: ES256, Public: private.Public()}
	for at := range len(token) {
		for _, c := range []byte("A-_.z0=\n") {
			changed := token[:at] + string(rune(c)) + token[at+1:]
			if changed == token {
				continue
			}
			if j, err := Parse(changed); err == nil && j.Verify(key) == nil {
				t.Errorf("byte %d changed to %q is accepted", at, c)
			}
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	for _, a := range []Algorithm{ES256, EdDSA, RS256, PS256} {
		b.Run(string(a), func(b *testing.B) {
			token := signed(b, a, `{"alg":"`+string(a)+`","kid":"k1","typ":"at+jwt"}`, goodPayload)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := accept(a, token); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	token := signed(b, ES256, `{"alg":"ES256","kid":"k1","typ":"at+jwt"}`, goodPayload)
	b.ReportAllocs()
	for b.Loop() {
		j, err := Parse(token)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := j.Claims(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	for _, a := range []Algorithm{ES256, EdDSA, RS256, PS256} {
		b.Run(string(a), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				input := SigningInput(Header{Algorithm: a, KeyID: "k1", Type: "at+jwt"}, []byte(goodPayload))
				sig, err := Sign(a, signers()[a], input)
				if err != nil {
					b.Fatal(err)
				}
				Compact(input, sig)
			}
		})
	}
}
