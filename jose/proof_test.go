package jose

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

const proofClaims = `{"jti":"1","htm":"POST","htu":"https://sts.example.com/oauth2/token","iat":1800000000}`

// proofHeader is the header of a proof by the key of an algorithm, good but for
// what is replaced in it.
func proofHeader(t testing.TB, a Algorithm, replace ...string) string {
	t.Helper()
	jwk, err := json.Marshal(Key{Public: signers()[a].Public()})
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer(replace...).Replace(`{"typ":"dpop+jwt","alg":"` + string(a) + `","jwk":` + string(jwk) + `}`)
}

func TestParseProof(t *testing.T) {
	for a := range specs {
		proof, err := SignProof(a, signers()[a], []byte(proofClaims))
		if err != nil {
			t.Fatal(err)
		}
		j, key, err := ParseProof(proof)
		if err != nil {
			t.Fatalf("%s: %v", a, err)
		}
		if err := j.Verify(key); err != nil || string(j.Payload) != proofClaims || key.ID != "" || key.Algorithm != a {
			t.Errorf("%s: %v, key %+v, payload %s", a, err, key, j.Payload)
		}
		// J-30: a key in the header is for proofs alone.
		if _, err := Parse(proof); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: Parse accepts the jwk of a proof: %v", a, err)
		}
		asToken := signed(t, a, strings.Replace(proofHeader(t, a), "dpop+jwt", "at+jwt", 1), proofClaims)
		if _, err := Parse(asToken); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: Parse accepts a jwk: %v", a, err)
		}
		if _, _, err := ParseProof(asToken); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: ParseProof accepts another typ: %v", a, err)
		}
	}
	for name, tc := range map[string]struct {
		replace []string
		err     error
	}{
		"D-06 no typ":               {[]string{`"typ":"dpop+jwt",`, ""}, ErrMalformed},
		"D-06 typ with a parameter": {[]string{"dpop+jwt", "dpop+jwt; v=1"}, ErrMalformed},
		"J-30 jku beside it":        {[]string{`"typ"`, `"jku":"https://evil.example","typ"`}, ErrMalformed},
		"J-31 x5c beside it":        {[]string{`"typ"`, `"x5c":[],"typ"`}, ErrMalformed},
		"J-32 crit":                 {[]string{`"typ"`, `"crit":["jwk"],"typ"`}, ErrMalformed},
		"D-08 no jwk":               {[]string{`"jwk"`, `"jwt"`}, ErrMalformed},
		"J-50 JWK":                  {[]string{`"jwk"`, `"JWK"`}, ErrMalformed},
		"D-08 private":              {[]string{`"kty"`, `"d":"AA","kty"`}, ErrMalformed},
		"J-49 twice in the jwk":     {[]string{`"kty"`, `"kty":"RSA","kty"`}, ErrMalformed},
		"J-08 other curve":          {[]string{"ES256", "ES384"}, ErrKeyMismatch},
		"J-07 RSA for EC":           {[]string{"ES256", "RS256"}, ErrKeyMismatch},
		"J-07 alg of the jwk":       {[]string{`"kty"`, `"alg":"ES512","kty"`}, ErrKeyMismatch},
		"D-07 none":                 {[]string{"ES256", "none"}, ErrAlgorithm},
	} {
		proof := signed(t, ES256, proofHeader(t, ES256, tc.replace...), proofClaims)
		if _, _, err := ParseProof(proof); !errors.Is(err, ErrMalformed) && !errors.Is(err, tc.err) || err == nil {
			t.Errorf("%s: %v, want %v", name, err, tc.err)
		}
	}
	// D-09: signed by another key than the one it shows.
	proof := signed(t, ES256, proofHeader(t, ES256), proofClaims)
	j, key, err := ParseProof(proof[:len(proof)-4] + "AAAA")
	if err == nil {
		err = j.Verify(key)
	}
	if !errors.Is(err, ErrSignature) {
		t.Errorf("changed signature: %v", err)
	}
}

// FuzzParseProof: nothing panics, and what is accepted is a proof whose key fits.
func FuzzParseProof(f *testing.F) {
	for a := range specs {
		proof, err := SignProof(a, signers()[a], []byte(proofClaims))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(proof)
		f.Add(proof[:len(proof)-1])
	}
	f.Add("..")
	f.Fuzz(func(t *testing.T, token string) {
		j, key, err := ParseProof(token)
		if err != nil {
			return
		}
		if j.Header.Type != typProof || key.Algorithm != j.Header.Algorithm || key.Algorithm.Fits(key.Public) != nil {
			t.Errorf("header %+v, key %+v", j.Header, key)
		}
		if _, err := Thumbprint(key.Public); err != nil {
			t.Error(err)
		}
		if _, err := Parse(token); err == nil {
			t.Error("a proof is accepted as a token")
		}
	})
}
