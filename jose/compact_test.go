package jose

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"math/big"
	"strings"
	"sync"
	"testing"
)

// signers has a private key for every algorithm.
var signers = sync.OnceValue(func() map[Algorithm]crypto.Signer {
	must := func(k crypto.Signer, err error) crypto.Signer {
		if err != nil {
			panic(err)
		}
		return k
	}
	ec := func(c elliptic.Curve) crypto.Signer { k, err := ecdsa.GenerateKey(c, rand.Reader); return must(k, err) }
	rsaSigner := func() crypto.Signer { k, err := rsa.GenerateKey(rand.Reader, minRSA); return must(k, err) }()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	m := map[Algorithm]crypto.Signer{
		ES256: ec(elliptic.P256()), ES384: ec(elliptic.P384()), ES512: ec(elliptic.P521()), EdDSA: must(ed, err),
	}
	for _, a := range []Algorithm{RS256, RS384, RS512, PS256, PS384, PS512} {
		m[a] = rsaSigner
	}
	return m
})

const goodPayload = `{"sub":"alice","exp":1800000000}`

func segment(s string) string { return b64([]byte(s)) }

// signed is a token with a true signature over any header and payload.
func signed(t testing.TB, a Algorithm, header, payload string) string {
	t.Helper()
	input := segment(header) + "." + segment(payload)
	sig, err := Sign(a, signers()[a], []byte(input))
	if err != nil {
		t.Fatal(err)
	}
	return Compact([]byte(input), sig)
}

// accept takes the path of a presented token with the right key.
func accept(a Algorithm, token string) (map[string]any, error) {
	j, err := Parse(token)
	if err != nil {
		return nil, err
	}
	if err := j.Verify(Key{ID: "k1", Algorithm: a, Public: signers()[a].Public()}); err != nil {
		return nil, err
	}
	return j.Claims()
}

// TestHeaders has one edit of a good header in each row; the signature is true.
func TestHeaders(t *testing.T) {
	for _, tc := range []struct {
		name, header string
		want         error
	}{
		{"good", `{"alg":"ES256","kid":"k1","typ":"at+jwt"}`, nil},
		{"J-01", `{"alg":"none","kid":"k1"}`, ErrAlgorithm},
		{"J-02 None", `{"alg":"None"}`, ErrAlgorithm},
		{"J-02 NONE", `{"alg":"NONE"}`, ErrAlgorithm},
		{"J-02 nOnE", `{"alg":"nOnE"}`, ErrAlgorithm},
		{"J-02 noNE", `{"alg":"noNE"}`, ErrAlgorithm},
		{"J-03 es256", `{"alg":"es256"}`, ErrAlgorithm},
		{"J-03 Es256", `{"alg":"Es256"}`, ErrAlgorithm},
		{"J-03 space behind", `{"alg":"ES256 "}`, ErrAlgorithm},
		{"J-03 space before", `{"alg":" ES256"}`, ErrAlgorithm},
		{"J-03 NUL", `{"alg":"ES256\u0000"}`, ErrAlgorithm},
		{"J-04 null", `{"alg":null}`, ErrAlgorithm},
		{"J-04 number", `{"alg":0}`, ErrAlgorithm},
		{"J-04 bool", `{"alg":true}`, ErrAlgorithm},
		{"J-04 list", `{"alg":["ES256"]}`, ErrAlgorithm},
		{"J-04 object", `{"alg":{}}`, ErrAlgorithm},
		{"J-04 empty", `{"alg":""}`, ErrAlgorithm},
		{"J-04 missing", `{"kid":"k1"}`, ErrAlgorithm},
		{"J-06 HS256", `{"alg":"HS256"}`, ErrAlgorithm},
		{"J-07 RS256", `{"alg":"RS256"}`, ErrKeyMismatch},
		{"J-08 ES384", `{"alg":"ES384"}`, ErrKeyMismatch},
		{"J-30 jku", `{"alg":"ES256","jku":"https://evil.example/jwks"}`, ErrMalformed},
		{"J-30 jku null", `{"alg":"ES256","jku":null}`, ErrMalformed},
		{"J-30 jku empty", `{"alg":"ES256","jku":""}`, ErrMalformed},
		{"J-30 jku number", `{"alg":"ES256","jku":0}`, ErrMalformed},
		{"J-30 x5u", `{"alg":"ES256","x5u":"https://evil.example/c"}`, ErrMalformed},
		{"J-30 x5u list", `{"alg":"ES256","x5u":[]}`, ErrMalformed},
		{"J-30 x5u object", `{"alg":"ES256","x5u":{}}`, ErrMalformed},
		{"J-30 jwk", `{"alg":"ES256","jwk":{"kty":"EC"}}`, ErrMalformed},
		{"J-31", `{"alg":"ES256","x5c":["MIIB"]}`, ErrMalformed},
		{"J-32 empty", `{"alg":"ES256","crit":[]}`, ErrMalformed},
		{"J-32 exp", `{"alg":"ES256","crit":["exp"],"exp":1}`, ErrMalformed},
		{"J-32 b64", `{"alg":"ES256","crit":["b64"],"b64":false}`, ErrMalformed},
		{"J-32 absent", `{"alg":"ES256","crit":["x"]}`, ErrMalformed},
		{"J-32 text", `{"alg":"ES256","crit":"b64"}`, ErrMalformed},
		{"J-32 null", `{"alg":"ES256","crit":null}`, ErrMalformed},
		{"J-33", `{"alg":"ES256","b64":false}`, ErrMalformed},
		{"J-33 true", `{"alg":"ES256","b64":true}`, ErrMalformed},
		{"J-37 zip", `{"alg":"ES256","zip":"DEF"}`, ErrMalformed},
		{"J-38 p2c", `{"alg":"PBES2-HS256+A128KW","p2c":2147483647}`, ErrMalformed},
		{"J-39", `{"alg":"ES256","cty":"JWT"}`, ErrMalformed},
		{"J-39 lower case", `{"alg":"ES256","cty":"jwt"}`, ErrMalformed},
		{"J-39 media type", `{"alg":"ES256","cty":"application/JWT"}`, ErrMalformed},
		{"J-39 not a string", `{"alg":"ES256","cty":["JWT"]}`, ErrMalformed},
		{"cty of something else", `{"alg":"ES256","cty":"json"}`, nil},
		{"J-48", `{"alg":"none","alg":"ES256"}`, ErrMalformed},
		{"J-48 reverse", `{"alg":"ES256","alg":"none"}`, ErrMalformed},
		{"J-48 escaped name", `{"alg":"ES256","\u0061lg":"none"}`, ErrMalformed},
		{"J-50 ALG", `{"ALG":"ES256"}`, ErrAlgorithm},
		{"J-50 Alg beside alg", `{"alg":"ES256","Alg":"none"}`, nil},
		{"J-50 Kelvin sign", `{"alg":"ES256","\u212Aid":"other"}`, nil},
		{"J-52 null", `null`, ErrMalformed},
		{"J-52 list", `[]`, ErrMalformed},
		{"J-52 text", `"ES256"`, ErrMalformed},
		{"J-52 number", `1`, ErrMalformed},
		{"J-52 empty", ``, ErrMalformed},
		{"J-54 not UTF-8", "{\"alg\":\"ES256\",\"kid\":\"\xff\"}", ErrMalformed},
		{"J-55 two objects", `{"alg":"ES256"}{"alg":"none"}`, ErrMalformed},
		{"J-55 text behind", `{"alg":"ES256"} x`, ErrMalformed},
		{"J-60 parameters", `{"alg":"ES256","typ":"at+jwt; v=1"}`, ErrMalformed},
		{"J-60 not a string", `{"alg":"ES256","typ":1}`, ErrMalformed},
		{"J-61", `{"alg":"Ed25519"}`, ErrAlgorithm},
		{"J-62 ML-DSA-44", `{"alg":"ML-DSA-44"}`, ErrAlgorithm},
		{"J-62 ES256K", `{"alg":"ES256K"}`, ErrAlgorithm},
		{"J-62 RSA-OAEP", `{"alg":"RSA-OAEP"}`, ErrAlgorithm},
		{"J-62 dir", `{"alg":"dir"}`, ErrAlgorithm},
		{"other kid", `{"alg":"ES256","kid":"k2"}`, ErrKeyMismatch},
		{"no kid", `{"alg":"ES256"}`, nil},
		{"empty kid", `{"alg":"ES256","kid":""}`, ErrMalformed},
		{"null kid", `{"alg":"ES256","kid":null}`, ErrMalformed},
		{"number kid", `{"alg":"ES256","kid":1}`, ErrMalformed},
		{"kid of a line", `{"alg":"ES256","kid":"k1\n"}`, ErrMalformed},
		{"long kid", `{"alg":"ES256","kid":"` + strings.Repeat("k", 129) + `"}`, ErrMalformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := accept(ES256, signed(t, ES256, tc.header, goodPayload))
			if !errors.Is(err, tc.want) {
				t.Errorf("%v, want %v", err, tc.want)
			}
		})
	}
}

func TestTypes(t *testing.T) {
	for typ, want := range map[string]string{
		"at+jwt": "at+jwt", "AT+JWT": "at+jwt", "application/at+jwt": "at+jwt", "Application/AT+JWT": "at+jwt", "JWT": "jwt", "": "",
	} {
		j, err := Parse(signed(t, ES256, `{"alg":"ES256","typ":"`+typ+`"}`, goodPayload))
		if err != nil || j.Header.Type != want {
			t.Errorf("J-60: typ %q: %+v, %v", typ, j, err)
		}
	}
}

// TestPayloads has one edit of a good payload in each row; the signature is true.
func TestPayloads(t *testing.T) {
	many := func(n int, each string) string { return strings.TrimSuffix(strings.Repeat(each+",", n), ",") }
	members := func(n int) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(`"` + string(rune('a'+i%26)) + strings.Repeat("x", i/26) + `":1,`)
		}
		return "{" + strings.TrimSuffix(b.String(), ",") + "}"
	}
	deep := func(n int) string { return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) }
	for _, tc := range []struct {
		name, payload string
		good          bool
	}{
		{"good", goodPayload, true},
		{"J-49", `{"aud":"good","aud":"evil"}`, false},
		{"J-49 sub", `{"sub":"a","exp":1,"sub":"a"}`, false},
		{"J-49 escaped", `{"sub":"a","\u0073ub":"b"}`, false},
		{"J-49 act", `{"act":{"sub":"a","sub":"b"}}`, false},
		{"J-49 cnf", `{"cnf":{"jkt":"a","jkt":"b"}}`, false},
		{"J-49 kubernetes.io", `{"kubernetes.io":{"pod":{"name":"a","name":"b"}}}`, false},
		{"J-49 in a list", `{"x":[{"a":1,"a":2}]}`, false},
		{"J-51 list", `[]`, false},
		{"J-51 text", `"x"`, false},
		{"J-51 number", `1`, false},
		{"J-51 null", `null`, false},
		{"J-51 bool", `true`, false},
		{"J-51 empty", ``, false},
		{"J-51 not JSON", `sub=alice`, false},
		{"J-51 cut off", `{"sub":"a"`, false},
		{"J-51 name without value", `{"sub"}`, false},
		{"J-51 trailing comma", `{"sub":"a",}`, false},
		{"J-54 not UTF-8", "{\"sub\":\"\xff\"}", false},
		{"J-54 lone surrogate", `{"sub":"\ud800"}`, false},
		{"J-54 lone low surrogate", `{"sub":"\udc00"}`, false},
		{"J-54 pair", `{"sub":"\ud83d\ude00"}`, true},
		{"J-54 raw NUL", "{\"sub\":\"a\x00\"}", false},
		{"J-54 overlong", "{\"sub\":\"\xc0\xaf\"}", false},
		{"J-55 object behind", `{"sub":"a"}{"sub":"b"}`, false},
		{"J-55 text behind", `{"sub":"a"} x`, false},
		{"J-55 NUL behind", "{\"sub\":\"a\"}\x00", false},
		{"BOM", "\ufeff" + goodPayload, false},
		{"white space around", " \n" + goodPayload + "\t", true},
		{"J-56 256 members", members(256), true},
		{"J-56 257 members", members(257), false},
		{"J-56 1,001 members", members(1001)[:8000], false},
		{"J-56 inner members", `{"a":` + members(257) + `}`, false},
		{"J-56 1,000 entries", `{"aud":[` + many(1000, `"a"`) + `]}`, true},
		{"J-56 1,001 entries", `{"aud":[` + many(1001, `"a"`) + `]}`, false},
		{"depth 32", deep(32), true},
		{"depth 33", deep(33), false},
		{"depth of lists", `{"a":` + strings.Repeat("[", 32) + strings.Repeat("]", 32) + `}`, false},
		{"depth 1,000", deep(1000), false},
		{"comment", `{"sub":"a"/**/}`, false},
		{"NaN", `{"exp":NaN}`, false},
		{"leading zero", `{"exp":01}`, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			claims, err := accept(ES256, signed(t, ES256, `{"alg":"ES256"}`, tc.payload))
			if (err == nil) != tc.good {
				t.Fatalf("%v", err)
			}
			if err != nil && (!errors.Is(err, ErrMalformed) || claims != nil) {
				t.Errorf("%v with claims %v", err, claims)
			}
		})
	}
}

func TestCaseOfNames(t *testing.T) {
	claims, err := accept(ES256, signed(t, ES256, `{"alg":"ES256"}`, `{"aud":"x","AUD":"y","Sub":"z"}`))
	if err != nil || claims["aud"] != "x" || claims["AUD"] != "y" || claims["sub"] != nil {
		t.Errorf("J-50: %v, %v", claims, err)
	}
}

// TestForms has one edit of a good token in each row.
func TestForms(t *testing.T) {
	good := signed(t, ES256, `{"alg":"ES256","kid":"k1"}`, goodPayload)
	part := strings.Split(good, ".")
	h, p, s := part[0], part[1], part[2]
	sig, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	with := func(sig []byte) string { return Compact([]byte(h+"."+p), sig) }
	jwe := func(header string) string { return segment(header) + "..AAAA.AAAA.AAAA" }
	rows := []struct{ name, token string }{
		{"good", good},
		{"J-01 empty signature", segment(`{"alg":"none"}`) + "." + p + "."},
		{"J-01 no last dot", segment(`{"alg":"none"}`) + "." + p},
		{"J-01 signature left out", h + "." + p + "."},
		{"J-12 63 bytes", with(sig[:63])},
		{"J-12 65 bytes", with(append(append([]byte{}, sig...), 0))},
		{"J-12 128 bytes", with(append(append([]byte{}, sig...), sig...))},
		{"J-12 zero before", with(append([]byte{0}, sig...))},
		{"J-34 flattened", `{"protected":"` + h + `","payload":"` + p + `","signature":"` + s + `"}`},
		{"J-34 general", `{"payload":"` + p + `","signatures":[{"protected":"` + h + `","signature":"` + s + `"}]}`},
		{"J-36", jwe(`{"alg":"A128KW","enc":"A128GCM"}`)},
		{"J-36 dir", jwe(`{"alg":"dir","enc":"A128GCM"}`)},
		{"J-37", jwe(`{"alg":"dir","enc":"A128GCM","zip":"DEF"}`)},
		{"J-38", jwe(`{"alg":"PBES2-HS256+A128KW","enc":"A128GCM","p2c":2147483647,"p2s":"AAAA"}`)},
		{"J-39 nested", segment(`{"alg":"ES256","cty":"JWT"}`) + "." + segment(good) + "." + s},
		{"J-40 brace", "{" + good},
		{"J-40 quotes", `"` + good + `"`},
		{"J-40 angle", "<" + good + ">"},
		{"J-40 Bearer", "Bearer " + good},
		{"J-40 %2E", strings.ReplaceAll(good, ".", "%2E")},
		{"J-40 padding", h + "." + p + "==." + s},
		{"J-40 standard alphabet", h + "." + p + "+." + s},
		{"J-42 CR", h[:4] + "\r" + h[4:] + "." + p + "." + s},
		{"J-42 LF", h + "." + p[:4] + "\n" + p[4:] + "." + s},
		{"J-42 CRLF", h + "." + p + "." + s[:4] + "\r\n" + s[4:]},
		{"J-42 LF at the end", good + "\n"},
		{"J-42 LF before a dot", h + "\n." + p + "." + s},
		{"J-45 space before", " " + good},
		{"J-45 space behind", good + " "},
		{"J-45 NUL", good + "\x00"},
		{"J-45 BOM", "\ufeff" + good},
		{"J-45 zero width", h + "\u200b." + p + "." + s},
		{"J-46 0 segments", ""},
		{"J-46 1 segment", h},
		{"J-46 2 segments", h + "." + p},
		{"J-46 4 segments", good + "." + s},
		{"J-46 6 segments", good + "." + good},
		{"J-46 dots", "..."},
		{"J-46 two dots", ".."},
		{"J-63 white space", segment(`{"alg": "ES256","kid":"k1"}`) + "." + p + "." + s},
		{"J-63 order", segment(`{"kid":"k1","alg":"ES256"}`) + "." + p + "." + s},
		{"no header", "." + p + "." + s},
		{"other payload", h + "." + segment(`{"sub":"eve"}`) + "." + s},
		{"too long", good + strings.Repeat("A", MaxTokenSize)},
	}
	for _, tc := range rows {
		t.Run(tc.name, func(t *testing.T) {
			claims, err := accept(ES256, tc.token)
			if (err == nil) != (tc.name == "good") {
				t.Fatalf("%v", err)
			}
			if err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrAlgorithm) && !errors.Is(err, ErrSignature) {
				t.Errorf("not one of the errors of this package: %v", err)
			}
			if err != nil && claims != nil {
				t.Errorf("claims %v of a refused token", claims)
			}
		})
	}
}

// TestSpellingsOfSegments changes unused bits of each segment [J-43].
func TestSpellingsOfSegments(t *testing.T) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	good := signed(t, ES256, `{"alg":"ES256" }`, `{"sub":"al" }`) // 16 and 13 bytes: both have unused bits
	accepted := 0
	for _, end := range []int{strings.IndexByte(good, '.'), strings.LastIndexByte(good, '.'), len(good)} {
		for i := range len(alphabet) {
			if _, err := accept(ES256, good[:end-1]+alphabet[i:i+1]+good[end:]); err == nil {
				accepted++
			}
		}
	}
	if accepted != 3 {
		t.Errorf("%d spellings of one token are accepted, want the true one of each segment", accepted)
	}
}

// TestECDSAScalars covers J-09 and J-10 on every curve.
func TestECDSAScalars(t *testing.T) {
	for _, a := range []Algorithm{ES256, ES384, ES512} {
		pub := signers()[a].Public()
		n, size := specs[a].curve.Params().N, specs[a].size
		raw := func(r, s *big.Int) []byte {
			return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
		}
		one := big.NewInt(1)
		edge := []*big.Int{new(big.Int), one, new(big.Int).Sub(n, one), n, new(big.Int).Add(n, one)}
		refused := 0
		for _, r := range edge {
			for _, s := range edge {
				if errors.Is(Verify(a, pub, []byte("x"), raw(r, s)), ErrSignature) {
					refused++
				}
			}
		}
		if refused != 25 {
			t.Errorf("J-09: %s: %d of 25 refused", a, refused)
		}
		sig, err := Sign(a, signers()[a], []byte("x"))
		if err != nil || Verify(a, pub, []byte("x"), sig) != nil {
			t.Fatalf("%s: %v", a, err)
		}
		r, s := new(big.Int).SetBytes(sig[:size]), new(big.Int).SetBytes(sig[size:])
		limit := new(big.Int).Lsh(one, uint(8*size))
		for _, pair := range [][2]*big.Int{{new(big.Int).Add(r, n), s}, {r, new(big.Int).Add(s, n)}} {
			if pair[0].Cmp(limit) < 0 && pair[1].Cmp(limit) < 0 && Verify(a, pub, []byte("x"), raw(pair[0], pair[1])) == nil {
				t.Errorf("J-10: %s: a scalar beyond the order is accepted", a)
			}
		}
	}
}

// TestAlgorithmsAndKeys tries every algorithm with every key [J-07, J-08].
func TestAlgorithmsAndKeys(t *testing.T) {
	for a := range specs {
		token := signed(t, a, `{"alg":"`+string(a)+`"}`, goodPayload)
		j, err := Parse(token)
		if err != nil {
			t.Fatal(err)
		}
		for b := range specs {
			err := j.Verify(Key{Algorithm: b, Public: signers()[b].Public()})
			if (err == nil) != (a == b) || err != nil && !errors.Is(err, ErrKeyMismatch) {
				t.Errorf("%s token, %s key: %v", a, b, err)
			}
			fits := signers()[a].Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(signers()[b].Public())
			if err := j.Verify(Key{Public: signers()[b].Public()}); (err == nil) != fits {
				t.Errorf("%s token, key of %s for any algorithm: %v", a, b, err)
			}
		}
	}
	if err := Verify("none", signers()[ES256].Public(), nil, nil); !errors.Is(err, ErrAlgorithm) {
		t.Errorf("none: %v", err)
	}
	if _, err := Sign("HS256", signers()[ES256], nil); !errors.Is(err, ErrAlgorithm) {
		t.Errorf("HS256: %v", err)
	}
	if err := Verify(ES256, nil, nil, nil); !errors.Is(err, ErrKeyMismatch) {
		t.Errorf("no key: %v", err)
	}
	if err := Verify(EdDSA, ed25519.PublicKey{1}, nil, nil); !errors.Is(err, ErrKeyMismatch) {
		t.Errorf("short key: %v", err)
	}
}

// TestErrorsDoNotRepeatTheToken looks for what a caller sent in what it gets back.
func TestErrorsDoNotRepeatTheToken(t *testing.T) {
	const canary = "canary4711"
	for _, token := range []string{
		canary, canary + "!", segment(`{"alg":"`+canary+`"}`) + ".AAAA.AAAA", segment(`{"alg":"ES256","`+canary+`":1,"`+canary+`":2}`) + ".AAAA.AAAA",
		segment(`{"alg":"ES256","kid":"`+canary+`\n"}`) + ".AAAA.AAAA", segment(`{"alg":`+canary+`}`) + ".AAAA.AAAA", segment(`{"`+canary) + ".AAAA.AAAA",
		segment(`{"alg":"ES256","typ":"`+canary+`;"}`) + ".AAAA.AAAA",
	} {
		_, err := Parse(token)
		if err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("%v repeats the token, or accepts it", err)
		}
	}
}
