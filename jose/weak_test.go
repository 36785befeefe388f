package jose

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"math/big"
	"runtime"
	"strings"
	"testing"
	"time"
)

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// signedES256 is a good token with its key.
func signedES256(t testing.TB) (string, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	input := SigningInput(Header{Algorithm: ES256, KeyID: "k", Type: "at+jwt"}, []byte(`{"sub":"x"}`))
	sig, err := Sign(ES256, key, input)
	if err != nil {
		t.Fatal(err)
	}
	return Compact(input, sig), key
}

// TestForgedSignatures puts signatures under a good token that mean something to
// careless arithmetic.
func TestForgedSignatures(t *testing.T) {
	token, key := signedES256(t)
	parts := strings.Split(token, ".")
	input := []byte(parts[0] + "." + parts[1])
	good, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		t.Fatal(err)
	}
	n := elliptic.P256().Params().N
	fill := func(r, s *big.Int) []byte {
		out := make([]byte, 64)
		r.FillBytes(out[:32])
		s.FillBytes(out[32:])
		return out
	}
	r, s := new(big.Int).SetBytes(good[:32]), new(big.Int).SetBytes(good[32:])
	forged := map[string][]byte{
		"J-12 63 bytes": good[:63], "J-12 65 bytes": append(append([]byte{}, good...), 0), "J-12 128 bytes": append(append([]byte{}, good...), good...),
		"J-12 empty": {}, "J-10 r and s swapped": fill(s, r),
	}
	edge := map[string]*big.Int{"0": new(big.Int), "1": big.NewInt(1), "n-1": new(big.Int).Sub(n, big.NewInt(1)), "n": n}
	for a, x := range edge {
		for b, y := range edge {
			forged[fmt.Sprintf("J-09 r=%s s=%s", a, b)] = fill(x, y)
		}
		forged["J-10 r="+a] = fill(x, s)
		forged["J-10 s="+a] = fill(r, x)
	}
	if sum := new(big.Int).Add(r, n); sum.BitLen() <= 256 {
		forged["J-10 r+n"] = fill(sum, s)
	}
	for name, sig := range forged {
		if err := Verify(ES256, key.Public(), input, sig); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	// J-15: the other root is a valid signature too, so the text of a token is not
	// its identity.
	if err := Verify(ES256, key.Public(), input, fill(r, new(big.Int).Sub(n, s))); err != nil {
		t.Errorf("J-15: %v", err)
	}
}

// TestSpellings changes how a good token is written [J-43, J-44].
func TestSpellings(t *testing.T) {
	token, _ := signedES256(t)
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	accepted := 0
	for _, c := range alphabet {
		if _, err := Parse(token[:len(token)-1] + string(c)); err == nil {
			accepted++ // an encoding whose unused bits are zero
		}
	}
	if accepted != 4 {
		t.Errorf("%d last characters are accepted, want 4: two bits of the last character count", accepted)
	}
	for name, spelled := range map[string]string{
		"padding": token + "==", "plus": strings.Replace(token, "e", "+", 1), "percent": strings.Replace(token, ".", "%2E", 1),
		"question mark": token[:5] + "?" + token[5:], "CR": token[:9] + "\r" + token[9:], "LF at the end": token + "\n", "NUL": token + "\x00", "BOM": "\ufeff" + token,
	} {
		if _, err := Parse(spelled); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// TestSerializations presents what is not a compact JWS; nothing of it may cost
// more than looking at it.
func TestSerializations(t *testing.T) {
	seg := func(s string) string { return b64([]byte(s)) }
	for name, token := range map[string]string{
		"J-34 flattened JSON":    `{"protected":"` + seg(`{"alg":"ES256"}`) + `","payload":"e30","signature":"AA"}`,
		"J-36 JWE":               seg(`{"alg":"A128KW","enc":"A128GCM"}`) + "..AAAA.AAAA.AAAA",
		"J-37 JWE with zip":      seg(`{"alg":"dir","enc":"A128GCM","zip":"DEF"}`) + "..AAAA." + strings.Repeat("A", 8000) + ".AAAA",
		"J-38 PBES2":             seg(`{"alg":"PBES2-HS256+A128KW","enc":"A128GCM","p2c":2147483647,"p2s":"AAAA"}`) + ".AAAA.AAAA.AAAA.AAAA",
		"J-38 PBES2 as a JWS":    seg(`{"alg":"PBES2-HS256+A128KW","p2c":2147483647}`) + ".e30.AAAA",
		"J-46 a million dots":    strings.Repeat(".", 1_000_000),
		"J-46 dots":              strings.Repeat(".", MaxTokenSize),
		"J-46 empty":             "",
		"J-46 two dots":          "..",
		"J-53 deep header":       seg(strings.Repeat(`{"a":`, 3000)+"1"+strings.Repeat("}", 3000)) + ".e30.AAAA",
		"J-56 a member too many": seg(`{"alg":"ES256"`+strings.Repeat(`,"x":1`, 1)+`}`) + "." + seg("{"+many(257)+"}") + ".AAAA",
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			begin := time.Now()
			j, err := Parse(token)
			if err == nil {
				_, err = j.Claims()
			}
			if err == nil {
				t.Error("accepted")
			}
			if strings.Contains(fmt.Sprint(err), "AAAA") {
				t.Errorf("the error repeats the input: %v", err)
			}
			runtime.ReadMemStats(&after)
			if d := time.Since(begin); d > 50*time.Millisecond {
				t.Errorf("took %s", d)
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 {
				t.Errorf("allocated %d bytes", grown)
			}
		})
	}
}

func many(n int) string {
	members := make([]string, n)
	for i := range members {
		members[i] = fmt.Sprintf(`"m%d":%d`, i, i)
	}
	return strings.Join(members, ",")
}

// TestWeakKeys puts keys into a set that must not verify anything, beside a good
// one that must go on working.
func TestWeakKeys(t *testing.T) {
	good, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	goodJWK, err := Key{ID: "good", Algorithm: ES256, Public: good.Public()}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	point, err := good.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	x, y := point[1:33], point[33:]
	ec := func(x, y []byte, more string) string {
		return fmt.Sprintf(`{"kty":"EC","crv":"P-256","kid":"weak","x":"%s","y":"%s"%s}`, b64(x), b64(y), more)
	}
	rsaKey := func(n []byte, e string) string {
		return fmt.Sprintf(`{"kty":"RSA","kid":"weak","n":"%s","e":"%s"}`, b64(n), e)
	}
	modulus := oddBytes(256)
	flipped := append([]byte{}, y...)
	flipped[31] ^= 1
	for name, jwk := range map[string]string{
		"J-16 off the curve":        ec(x, flipped, ""),
		"J-16 the origin":           ec(make([]byte, 32), make([]byte, 32), ""),
		"J-16 x beyond p":           ec([]byte(strings.Repeat("\xff", 32)), y, ""),
		"J-16 a byte missing":       ec(x[1:], y, ""),
		"J-18 16,384 bits":          rsaKey(oddBytes(2048), "AQAB"),
		"J-18 100,000 bits":         rsaKey(oddBytes(12500), "AQAB"),
		"J-18 1,024 bits":           rsaKey(oddBytes(128), "AQAB"),
		"J-19 e = 1":                rsaKey(modulus, "AQ"),
		"J-19 e even":               rsaKey(modulus, "BA"),
		"J-19 e beyond 31 bits":     rsaKey(modulus, "_____w"),
		"J-19 e beyond 32 bits":     rsaKey(modulus, "AQAAAAE"),
		"J-28 oct":                  `{"kty":"oct","kid":"weak","k":"AAAA"}`,
		"J-57 private EC":           ec(x, y, `,"d":"AAAA"`),
		"J-58 use enc":              ec(x, y, `,"use":"enc"`),
		"J-58 key_ops encrypt":      ec(x, y, `,"key_ops":["encrypt"]`),
		"J-07 alg of another type":  ec(x, y, `,"alg":"RS256"`),
		"J-08 alg of another curve": ec(x, y, `,"alg":"ES384"`),
		"J-62 alg unknown":          ec(x, y, `,"alg":"ES256K"`),
		"J-08 crv of another size":  strings.Replace(ec(x, y, ""), "P-256", "P-384", 1),
		"crv unknown":               strings.Replace(ec(x, y, ""), "P-256", "secp256k1", 1),
		"X25519":                    `{"kty":"OKP","crv":"X25519","kid":"weak","x":"` + b64(x) + `"}`,
		"kid is a number":           strings.Replace(ec(x, y, ""), `"weak"`, "1", 1),
		"not an object":             `7`,
	} {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			set, left, err := ParseKeySet([]byte(`{"keys":[` + jwk + `,` + string(goodJWK) + `]}`))
			if err != nil {
				t.Fatal(err)
			}
			if d := time.Since(begin); d > 50*time.Millisecond {
				t.Errorf("took %s", d)
			}
			if _, ok := set.Key("weak"); ok || set.Len() != 1 || len(left) != 1 {
				t.Errorf("%d keys, left out %v", set.Len(), left)
			}
			if _, ok := set.Key("good"); !ok {
				t.Error("the good key of the set is gone")
			}
		})
	}
	t.Run("J-26 one kid twice", func(t *testing.T) {
		if _, _, err := ParseKeySet([]byte(`{"keys":[` + string(goodJWK) + `,` + string(goodJWK) + `]}`)); err == nil {
			t.Error("accepted")
		}
	})
	t.Run("J-26 one kid twice, one unusable", func(t *testing.T) {
		if _, _, err := ParseKeySet([]byte(`{"keys":[` + strings.Replace(ec(x, flipped, ""), "weak", "good", 1) + `,` + string(goodJWK) + `]}`)); err == nil {
			t.Error("accepted")
		}
	})
}

// oddBytes is an odd number of n bytes.
func oddBytes(n int) []byte { return []byte(strings.Repeat("\xC3", n)) }

// TestROCA holds that a modulus with the fingerprint is refused, and others are
// not [J-20].
func TestROCA(t *testing.T) {
	// A product of primes has the fingerprint if it is a power of 65537 modulo each
	// small prime; 65537 to any power does.
	n := new(big.Int).Exp(big.NewInt(65537), big.NewInt(127), nil)
	if !roca(n) {
		t.Error("a modulus with the fingerprint is not recognised")
	}
	if roca(new(big.Int).Add(n, big.NewInt(2))) {
		t.Error("a modulus without the fingerprint is refused")
	}
}

// FuzzParse holds that no token panics, and that what is accepted has one
// spelling [J-66].
func FuzzParse(f *testing.F) {
	token, _ := signedES256(f)
	f.Add(token)
	f.Add("")
	f.Add("..")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	for _, token := range vectorTokens(f) {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		j, err := Parse(token)
		if err != nil {
			return
		}
		if again := Compact(append([]byte{}, j.input...), j.signature); again != token {
			t.Errorf("%q is accepted and is also spelled %q", token, again)
		}
		j.Claims()
	})
}

// FuzzParseObject holds that no JSON panics.
func FuzzParseObject(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":[1,2.5,{"b":null}],"c":"\u00e9"}`, `{"a":1,"a":2}`, `[`, `{"x":1e999}`, "{\"\xff\":1}"} {
		f.Add([]byte(s))
	}
	for _, token := range vectorTokens(f) {
		if j, err := Parse(token); err == nil {
			f.Add(j.Payload)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := ParseObject(b); err == nil && len(m) > maxMembers {
			t.Errorf("%d members", len(m))
		}
	})
}

// FuzzParseKeySet holds that no key set panics, and that what is accepted can
// verify, and be written and read again [J-66].
func FuzzParseKeySet(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"},{"kty":"OKP","crv":"Ed25519","x":"AAAA"}]}`))
	for _, set := range vectorKeySets(f) {
		f.Add(set)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		set, _, err := ParseKeySet(b)
		if err != nil {
			return
		}
		written, err := set.MarshalJSON()
		if err != nil {
			t.Errorf("a key set that was read cannot be written: %v", err)
		}
		again, skipped, err := ParseKeySet(written)
		if rewritten, _ := again.MarshalJSON(); err != nil || len(skipped) > 0 || !bytes.Equal(rewritten, written) {
			t.Errorf("%s is written as %s and read as %s: %v %v", b, written, rewritten, skipped, err)
		}
		for k := range set.All() {
			if Verify(ES256, k.Public, []byte("x"), make([]byte, 64)) == nil {
				t.Error("a signature of zeros verifies")
			}
		}
	})
}
