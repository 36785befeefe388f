package sts_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

var proofTarget = sts.ProofTarget{Method: "POST", URI: selfIssuer + "/oauth2/token"}

// prover is a key of a client, which proves to have it.
type prover struct {
	alg jose.Algorithm
	key crypto.Signer
}

func newProver(t testing.TB) prover {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return prover{jose.ES256, key}
}

func (p prover) jkt(t testing.TB) string {
	t.Helper()
	jkt, err := jose.Thumbprint(p.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return jkt
}

// jwk is the public key as a member of a header.
func (p prover) jwk(t testing.TB) map[string]any {
	t.Helper()
	b, err := json.Marshal(jose.Key{Public: p.key.Public()})
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// proof is a good proof but for the edits, with a true signature.
func (p prover) proof(t testing.TB, f *fixture, header, claims map[string]any) string {
	t.Helper()
	h := edit(map[string]any{"typ": "dpop+jwt", "alg": string(p.alg), "jwk": p.jwk(t)}, header)
	c := edit(map[string]any{"jti": rand.Text(), "htm": "POST", "htu": proofTarget.URI, "iat": f.now.Unix()}, claims)
	rawHeader, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	rawClaims, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return p.sign(t, rawHeader, rawClaims)
}

func (p prover) sign(t testing.TB, header, claims []byte) string {
	t.Helper()
	input := slices.Concat(b64(header), []byte("."), b64(claims))
	sig, err := jose.Sign(p.alg, p.key, input)
	if err != nil {
		t.Fatal(err)
	}
	return jose.Compact(input, sig)
}

// proven is a request with a proof.
func proven(r sts.TokenRequest, proof string) sts.TokenRequest {
	r.Proof, r.ProofTarget = proof, proofTarget
	return r
}

func ath(token string) string {
	sum := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// The proofs of RFC 9449, figures 2, 6 and 12.
const (
	rfcHeader = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19."
	rfcFig2   = rfcHeader + "eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg"
	rfcFig6   = rfcHeader + "eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjY1Mjk2fQ.pAqut2IRDm_De6PR93SYmGBPXpwrAk90e8cP2hjiaG5QsGSuKDYW7_X620BxqhvYC8ynrrvZLTk41mSRroapUA"
	rfcFig12  = rfcHeader + "eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
	rfcJKT    = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
)

// TestProofOfRFC presents the examples of RFC 9449.
func TestProofOfRFC(t *testing.T) {
	t.Run("D-01", func(t *testing.T) {
		for name, tc := range map[string]struct {
			proof, method, uri string
			iat                int64
		}{
			"figure 2":  {rfcFig2, "POST", "https://server.example.com/token", 1562262616},
			"figure 6":  {rfcFig6, "POST", "https://server.example.com/token", 1562265296},
			"figure 12": {rfcFig12, "GET", "https://resource.example.org/protectedresource", 1562262618},
		} {
			f := newFixture(t)
			f.now = time.Unix(tc.iat, 0)
			r := f.credentials("web")
			r.Proof, r.ProofTarget = tc.proof, sts.ProofTarget{Method: tc.method, URI: tc.uri}
			token, claims := f.token(t, r)
			if got := claims["cnf"].(map[string]any)["jkt"]; got != rfcJKT || token.Scheme != "DPoP" {
				t.Errorf("%s: token_type %s, bound to %v", name, token.Scheme, got)
			}
			if rec := f.audit.last(); rec.Issued.JKT != rfcJKT || rec.Proof == nil || rec.Proof.JKT != rfcJKT {
				t.Errorf("%s: record %+v", name, rec)
			}
		}
		if got := ath("Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"); got != "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo" {
			t.Errorf("ath %s", got)
		}
	})
	t.Run("D-02", func(t *testing.T) {
		f := newFixture(t)
		f.replay.now = func() time.Time { return f.now }
		r := f.credentials("web")
		r.ProofTarget = sts.ProofTarget{Method: "POST", URI: "https://server.example.com/token"}
		f.now = time.Unix(1562262616, 0)
		r.Proof = rfcFig2
		f.token(t, r)
		f.assertRefused(t, r, sts.InvalidDPoPProof)
		f.now = time.Unix(1562265296, 0)
		r.Proof = rfcFig6 // of the same jti
		f.token(t, r)
	})
}

// TestProof changes one thing of a good proof.
func TestProof(t *testing.T) {
	type edits = map[string]any
	minute := func(f *fixture, seconds int64) int64 { return f.now.Unix() + seconds }
	for name, tc := range map[string]struct {
		header, claims edits
		later          func(*fixture) edits // claims that need the clock
		code           sts.Code
	}{
		"good":                        {},
		"D-06 typ missing":            {header: edits{"typ": absent}, code: sts.InvalidDPoPProof},
		"D-06 typ JWT":                {header: edits{"typ": "JWT"}, code: sts.InvalidDPoPProof},
		"D-06 typ in capitals":        {header: edits{"typ": "DPoP+JWT"}},
		"D-06 typ of a token":         {header: edits{"typ": "at+jwt"}, code: sts.InvalidDPoPProof},
		"D-07 alg missing":            {header: edits{"alg": absent}, code: sts.InvalidDPoPProof},
		"D-07 J-01 alg none":          {header: edits{"alg": "none"}, code: sts.InvalidDPoPProof},
		"D-07 alg HS256":              {header: edits{"alg": "HS256"}, code: sts.InvalidDPoPProof},
		"D-07 J-62 alg ES256K":        {header: edits{"alg": "ES256K"}, code: sts.InvalidDPoPProof},
		"J-08 alg of another curve":   {header: edits{"alg": "ES384"}, code: sts.InvalidDPoPProof},
		"J-03 alg in small letters":   {header: edits{"alg": "es256"}, code: sts.InvalidDPoPProof},
		"D-08 jwk missing":            {header: edits{"jwk": absent}, code: sts.InvalidDPoPProof},
		"D-08 jwk null":               {header: edits{"jwk": nil}, code: sts.InvalidDPoPProof},
		"D-08 jwk a string":           {header: edits{"jwk": "x"}, code: sts.InvalidDPoPProof},
		"D-08 jwk empty":              {header: edits{"jwk": edits{}}, code: sts.InvalidDPoPProof},
		"D-08 jwk oct":                {header: edits{"jwk": edits{"kty": "oct", "k": "c2VjcmV0"}}, code: sts.InvalidDPoPProof},
		"D-09 kid for the jwk":        {header: edits{"jwk": absent, "kid": "idp-1"}, code: sts.InvalidDPoPProof},
		"D-09 J-31 x5c beside it":     {header: edits{"x5c": []string{"MIIB"}}, code: sts.InvalidDPoPProof},
		"J-30 jku beside it":          {header: edits{"jku": "https://evil.example.com"}, code: sts.InvalidDPoPProof},
		"J-32 crit":                   {header: edits{"crit": []string{"exp"}}, code: sts.InvalidDPoPProof},
		"J-33 b64":                    {header: edits{"b64": false}, code: sts.InvalidDPoPProof},
		"J-39 cty":                    {header: edits{"cty": "JWT"}, code: sts.InvalidDPoPProof},
		"D-26 kid and extra header":   {header: edits{"kid": "x", "extra": edits{"a": 1}}},
		"D-10 jti missing":            {claims: edits{"jti": absent}, code: sts.InvalidDPoPProof},
		"D-10 jti a number":           {claims: edits{"jti": 1}, code: sts.InvalidDPoPProof},
		"D-10 jti empty":              {claims: edits{"jti": ""}, code: sts.InvalidDPoPProof},
		"D-10 jti of 256":             {claims: edits{"jti": strings.Repeat("j", 256)}},
		"D-10 jti of 257":             {claims: edits{"jti": strings.Repeat("j", 257)}, code: sts.InvalidDPoPProof},
		"htm missing":                 {claims: edits{"htm": absent}, code: sts.InvalidDPoPProof},
		"htm GET":                     {claims: edits{"htm": "GET"}, code: sts.InvalidDPoPProof},
		"htm in small letters":        {claims: edits{"htm": "post"}, code: sts.InvalidDPoPProof},
		"D-12 htu missing":            {claims: edits{"htu": absent}, code: sts.InvalidDPoPProof},
		"D-12 htu a list":             {claims: edits{"htu": []string{proofTarget.URI}}, code: sts.InvalidDPoPProof},
		"D-12 htu of another path":    {claims: edits{"htu": selfIssuer + "/oauth2/tokens"}, code: sts.InvalidDPoPProof},
		"D-12 htu of another host":    {claims: edits{"htu": "https://evil.example.com/oauth2/token"}, code: sts.InvalidDPoPProof},
		"D-12 htu with a user":        {claims: edits{"htu": "https://a@sts.example.com/oauth2/token"}, code: sts.InvalidDPoPProof},
		"D-12 htu http":               {claims: edits{"htu": "http://sts.example.com/oauth2/token"}, code: sts.InvalidDPoPProof},
		"D-12 htu malformed":          {claims: edits{"htu": "https://%zz"}, code: sts.InvalidDPoPProof},
		"D-12 htu a path":             {claims: edits{"htu": "/oauth2/token"}, code: sts.InvalidDPoPProof},
		"D-12 htu empty":              {claims: edits{"htu": ""}, code: sts.InvalidDPoPProof},
		"D-13":                        {claims: edits{"htu": proofTarget.URI + "?q#f"}},
		"D-14 capitals":               {claims: edits{"htu": "HTTPS://STS.Example.COM/oauth2/token"}},
		"D-14 port":                   {claims: edits{"htu": "https://sts.example.com:443/oauth2/token"}},
		"D-14 empty port":             {claims: edits{"htu": "https://sts.example.com:/oauth2/token"}},
		"D-14 other port":             {claims: edits{"htu": "https://sts.example.com:80/oauth2/token"}, code: sts.InvalidDPoPProof},
		"D-15 slash":                  {claims: edits{"htu": proofTarget.URI + "/"}, code: sts.InvalidDPoPProof},
		"D-15 dot":                    {claims: edits{"htu": selfIssuer + "/oauth2/./token"}, code: sts.InvalidDPoPProof},
		"D-15 encoded letter":         {claims: edits{"htu": selfIssuer + "/oauth2/%74oken"}},
		"D-15 encoded slash":          {claims: edits{"htu": selfIssuer + "/oauth2%2ftoken"}, code: sts.InvalidDPoPProof},
		"D-15 path in capitals":       {claims: edits{"htu": selfIssuer + "/OAuth2/token"}, code: sts.InvalidDPoPProof},
		"iat missing":                 {claims: edits{"iat": absent}, code: sts.InvalidDPoPProof},
		"C-05 iat a string":           {claims: edits{"iat": "1800000000"}, code: sts.InvalidDPoPProof},
		"iat beyond numbers":          {claims: edits{"iat": 9.3e18}, code: sts.InvalidDPoPProof},
		"iat 60 s ago":                {later: func(f *fixture) edits { return edits{"iat": minute(f, -60)} }},
		"iat 61 s ago":                {later: func(f *fixture) edits { return edits{"iat": minute(f, -61)} }, code: sts.InvalidDPoPProof},
		"iat in 60 s":                 {later: func(f *fixture) edits { return edits{"iat": minute(f, 60)} }},
		"iat in 61 s":                 {later: func(f *fixture) edits { return edits{"iat": minute(f, 61)} }, code: sts.InvalidDPoPProof},
		"D-19 iat an hour ago":        {later: func(f *fixture) edits { return edits{"iat": minute(f, -3600)} }, code: sts.InvalidDPoPProof},
		"D-26 exp and nbf that hold":  {later: func(f *fixture) edits { return edits{"exp": minute(f, 30), "nbf": minute(f, -5), "x": 1} }},
		"D-26 expired":                {later: func(f *fixture) edits { return edits{"exp": minute(f, -31)} }, code: sts.InvalidDPoPProof},
		"D-26 not valid yet":          {later: func(f *fixture) edits { return edits{"nbf": minute(f, 31)} }, code: sts.InvalidDPoPProof},
		"D-26 exp a string":           {claims: edits{"exp": "never"}, code: sts.InvalidDPoPProof},
		"D-26 nonce that nobody asks": {claims: edits{"nonce": "x"}},
		"ath of no token":             {claims: edits{"ath": "x"}}, // client credentials: there is none
		"ath a number":                {claims: edits{"ath": 1}, code: sts.InvalidDPoPProof},
	} {
		t.Run(name, func(t *testing.T) {
			f, p := newFixture(t), newProver(t)
			claims := tc.claims
			if tc.later != nil {
				claims = tc.later(f)
			}
			r := proven(f.credentials("web"), p.proof(t, f, tc.header, claims))
			if tc.code != "" {
				f.assertRefused(t, r, tc.code)
				return
			}
			token, got := f.token(t, r)
			if cnf, _ := got["cnf"].(map[string]any); cnf["jkt"] != p.jkt(t) || len(cnf) != 1 || token.Scheme != "DPoP" {
				t.Errorf("token_type %s, cnf %v", token.Scheme, cnf)
			}
		})
	}
}

// TestProofKeys presents proofs by keys that are not good, or not public.
func TestProofKeys(t *testing.T) {
	f, p := newFixture(t), newProver(t)
	with := func(name string, value any) map[string]any {
		return map[string]any{"jwk": edit(p.jwk(t), map[string]any{name: value})}
	}
	small := func() prover {
		t.Setenv("GODEBUG", "rsa1024min=0")
		key, err := rsa.GenerateKey(rand.Reader, 1024)
		if err != nil {
			t.Fatal(err)
		}
		return prover{jose.RS256, key}
	}()
	smallHeader := map[string]any{"alg": "ES256", "jwk": small.jwk(t)}
	other := newProver(t)
	good := p.proof(t, f, nil, nil)
	for name, proof := range map[string]string{
		"D-08 J-57 private member":   p.proof(t, f, with("d", "AAAA"), nil),
		"D-08 J-57 symmetric member": p.proof(t, f, with("k", "AAAA"), nil),
		"D-08 J-16 off the curve":    p.proof(t, f, with("x", p.jwk(t)["y"]), nil),
		"D-08 J-16 short coordinate": p.proof(t, f, with("x", "AA"), nil),
		"D-08 RSA of 1024 bits":      p.proof(t, f, smallHeader, nil),
		"J-58 for encryption":        p.proof(t, f, with("use", "enc"), nil),
		"J-58 not to verify":         p.proof(t, f, with("key_ops", []string{"sign"}), nil),
		"J-07 of another algorithm":  p.proof(t, f, with("alg", "ES384"), nil),
		"D-09 signed by another key": p.proof(t, f, map[string]any{"jwk": other.jwk(t)}, nil),
		"J-12 signature cut":         good[:len(good)-2],
		"J-63 claims changed":        good[:strings.IndexByte(good, '.')] + p.proof(t, f, nil, nil)[strings.IndexByte(good, '.'):strings.LastIndexByte(good, '.')] + good[strings.LastIndexByte(good, '.'):],
		"J-40 quotes":                `"` + good + `"`,
		"J-42 line break":            good + "\n",
		"J-46 dots":                  "..",
		"J-46 two proofs in one":     good + ", " + good,
		"J-48 alg twice":             p.sign(t, []byte(`{"typ":"dpop+jwt","alg":"none","alg":"ES256"}`), []byte(`{}`)),
		"J-51 claims a list":         p.sign(t, mustJSON(t, map[string]any{"typ": "dpop+jwt", "alg": "ES256", "jwk": p.jwk(t)}), []byte(`[]`)),
		"J-49 jti twice":             p.sign(t, mustJSON(t, map[string]any{"typ": "dpop+jwt", "alg": "ES256", "jwk": p.jwk(t)}), []byte(`{"jti":"a","jti":"b"}`)),
		"J-55 trailing data":         p.sign(t, mustJSON(t, map[string]any{"typ": "dpop+jwt", "alg": "ES256", "jwk": p.jwk(t)}), []byte(`{"jti":"a"}{}`)),
		"P-08 long":                  p.proof(t, f, nil, map[string]any{"x": strings.Repeat("x", 9000)}),
	} {
		t.Run(name, func(t *testing.T) { f.assertRefused(t, proven(f.credentials("web"), proof), sts.InvalidDPoPProof) })
	}
	t.Run("other algorithms", func(t *testing.T) {
		p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		_, ed, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []prover{{jose.ES384, p384}, {jose.EdDSA, ed}, {jose.PS256, rsaKey}} {
			f.token(t, proven(f.credentials("web"), p.proof(t, f, nil, nil)))
		}
		// D-07: known to package jose, and not announced.
		for _, alg := range []jose.Algorithm{jose.RS256, jose.RS512} {
			f.assertRefused(t, proven(f.credentials("web"), prover{alg, rsaKey}.proof(t, f, nil, nil)), sts.InvalidDPoPProof)
		}
	})
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestProofIsNotACredential holds that a proof does not stand in for a client, and
// is not looked at before there is one.
func TestProofIsNotACredential(t *testing.T) {
	f, p := newFixture(t), newProver(t)
	r := proven(f.credentials("web"), p.proof(t, f, nil, nil))
	r.Credential.Secret = "wrong"
	f.assertRefused(t, r, sts.InvalidClient)
	r.Credential = sts.Credential{}
	f.assertRefused(t, r, sts.InvalidClient)
	// A proof that the policy denies is not used up.
	r = proven(f.credentials("web"), r.Proof)
	r.Scope = "admin"
	f.assertRefused(t, r, sts.InvalidScope)
	r.Scope = "read"
	f.token(t, r)
}

// TestProofOnce uses a proof again [D-20].
func TestProofOnce(t *testing.T) {
	f, p := newFixture(t), newProver(t)
	r := proven(f.credentials("web"), p.proof(t, f, nil, nil))
	f.token(t, r)
	e := f.assertRefused(t, r, sts.InvalidDPoPProof)
	if !strings.Contains(f.audit.last().Reasons[0].Presented, "used before") {
		t.Errorf("%v, record %+v", e, f.audit.last())
	}
	f.restart(t, nil) // another node, or another start, on the same store
	f.assertRefused(t, r, sts.InvalidDPoPProof)
	// The same jti of another key is another proof.
	jti := map[string]any{"jti": "same"}
	f.token(t, proven(r, p.proof(t, f, nil, jti)))
	f.token(t, proven(r, newProver(t).proof(t, f, nil, jti)))

	r.Proof = p.proof(t, f, nil, nil)
	var granted atomic.Int32
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			if _, err := f.service.Token(t.Context(), r); err == nil {
				granted.Add(1)
			}
		})
	}
	all.Wait()
	if granted.Load() != 1 {
		t.Errorf("%d tokens for one proof", granted.Load())
	}
	// D-21: what cannot be remembered is not accepted.
	f.replay.err = errors.New("full")
	if e := f.assertRefused(t, proven(r, p.proof(t, f, nil, nil)), sts.Unavailable); e.RetryAfter == 0 {
		t.Error("it does not say when to come back")
	}
}

// TestNonce has proofs carry nonces [D-18, D-19].
func TestNonce(t *testing.T) {
	f, p := newFixture(t), newProver(t)
	key := []byte("0123456789abcdef0123456789abcdef")
	f.restart(t, key)
	ask := func(claims map[string]any) sts.TokenRequest {
		return proven(f.credentials("web"), p.proof(t, f, nil, claims))
	}
	nonce := func(s string) map[string]any { return map[string]any{"nonce": s} }
	first := f.assertRefused(t, ask(nil), sts.UseDPoPNonce).Nonce
	if first == "" {
		t.Fatal("no nonce in the refusal")
	}
	token, _ := f.token(t, ask(nonce(first)))
	if token.Nonce == "" {
		t.Error("no nonce for the next proof")
	}
	for name, wrong := range map[string]string{
		"of letters": "abc", "empty": "", "changed": first[:10] + "_" + first[11:], "cut": first[:len(first)-1], "with a line break": first + "\n", "of zeros": strings.Repeat("A", len(first)),
	} {
		if e := f.assertRefused(t, ask(nonce(wrong)), sts.UseDPoPNonce); e.Nonce == "" || e.Nonce == wrong {
			t.Errorf("%s: nonce %q", name, e.Nonce)
		}
	}
	f.assertRefused(t, ask(map[string]any{"nonce": 1}), sts.UseDPoPNonce)
	// The nonce takes the place of the clock of the client, which may be wrong.
	f.token(t, ask(map[string]any{"nonce": first, "iat": f.now.Unix() - 3600}))
	f.assertRefused(t, ask(map[string]any{"nonce": first, "iat": absent}), sts.InvalidDPoPProof)
	// Once is once, however often the nonce is used.
	again := ask(nonce(first))
	f.token(t, again)
	f.assertRefused(t, again, sts.InvalidDPoPProof)

	f.restart(t, key)
	f.token(t, ask(nonce(first)))
	f.restart(t, []byte("another key of another service .."))
	f.assertRefused(t, ask(nonce(first)), sts.UseDPoPNonce)
	f.restart(t, key)
	f.now = f.now.Add(2*time.Minute - time.Second)
	f.token(t, ask(nonce(first)))
	f.now = f.now.Add(time.Second)
	f.assertRefused(t, ask(nonce(first)), sts.UseDPoPNonce)
	// The key of nonces changes within their life, which does not show.
	late := f.assertRefused(t, ask(nil), sts.UseDPoPNonce).Nonce
	for range 60 {
		f.now = f.now.Add(time.Minute)
		token, _ := f.token(t, ask(nonce(late)))
		late = token.Nonce
	}
	// Of the future, which is no clock that is a little ahead.
	f.now = f.now.Add(-time.Minute)
	f.assertRefused(t, ask(nonce(late)), sts.UseDPoPNonce)
}

// TestBoundExchange exchanges tokens that are bound to a key.
func TestBoundExchange(t *testing.T) {
	f, p, other := newFixture(t), newProver(t), newProver(t)
	first := f.exchange(t)
	_, err := f.service.Token(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	bound, claims := f.token(t, proven(first, p.proof(t, f, nil, nil)))
	if claims["cnf"].(map[string]any)["jkt"] != p.jkt(t) {
		t.Fatalf("claims %v", claims)
	}
	next := func(proof string) sts.TokenRequest {
		r := f.credentials("api")
		r.Grant, r.Audiences, r.Subject = sts.TokenExchange, []string{"other"}, sts.Presented{Token: bound.Value, Type: sts.AccessToken}
		if proof == "" {
			return r
		}
		return proven(r, proof)
	}
	good := map[string]any{"ath": ath(bound.Value)}
	t.Run("T-38 no proof", func(t *testing.T) { f.assertRefused(t, next(""), sts.InvalidDPoPProof) })
	t.Run("T-38 proof of another key", func(t *testing.T) {
		f.assertRefused(t, next(other.proof(t, f, nil, good)), sts.InvalidDPoPProof)
		f.assertRefused(t, next(other.proof(t, f, nil, nil)), sts.InvalidDPoPProof)
	})
	t.Run("D-22 ath missing", func(t *testing.T) { f.assertRefused(t, next(p.proof(t, f, nil, nil)), sts.InvalidDPoPProof) })
	t.Run("D-22 ath of another token", func(t *testing.T) {
		f.assertRefused(t, next(p.proof(t, f, nil, map[string]any{"ath": ath("x")})), sts.InvalidDPoPProof)
	})
	t.Run("T-38 T-40 kept", func(t *testing.T) {
		token, claims := f.token(t, next(p.proof(t, f, nil, good)))
		if cnf := claims["cnf"].(map[string]any); cnf["jkt"] != p.jkt(t) || len(cnf) != 1 || token.Scheme != "DPoP" {
			t.Errorf("token_type %s, cnf %v", token.Scheme, cnf)
		}
	})
	t.Run("ath of another token when none is bound", func(t *testing.T) {
		f.assertRefused(t, proven(f.exchange(t), p.proof(t, f, nil, good)), sts.InvalidDPoPProof)
		r := f.exchange(t)
		f.token(t, proven(r, p.proof(t, f, nil, map[string]any{"ath": ath(r.Subject.Token)})))
	})
	t.Run("C-19 of another issuer", func(t *testing.T) {
		r := f.exchange(t)
		r.Subject.Token = f.foreign(t, "idp", nil, map[string]any{"cnf": map[string]any{"jkt": p.jkt(t)}})
		f.assertRefused(t, r, sts.InvalidDPoPProof)
		f.token(t, proven(r, p.proof(t, f, nil, map[string]any{"ath": ath(r.Subject.Token)})))
		for name, cnf := range map[string]any{
			"null": nil, "a list": []any{}, "a string": "x", "empty": map[string]any{}, "another": map[string]any{"kid": "x"},
			"jkt a number": map[string]any{"jkt": 1}, "jkt empty": map[string]any{"jkt": ""}, "one more": map[string]any{"jkt": p.jkt(t), "jku": "x"},
		} {
			r := f.exchange(t)
			r.Subject.Token = f.foreign(t, "idp", nil, map[string]any{"cnf": cnf})
			if e := f.assertRefused(t, proven(r, p.proof(t, f, nil, map[string]any{"ath": ath(r.Subject.Token)})), sts.InvalidRequest); e == nil {
				t.Error(name)
			}
		}
	})
	t.Run("bound actor token", func(t *testing.T) {
		r := f.exchange(t)
		r.Actor = f.agent(t)
		r.Actor.Token = f.foreign(t, "idp", nil, map[string]any{"sub": "agent-1", "cnf": map[string]any{"jkt": p.jkt(t)}})
		f.assertRefused(t, r, sts.InvalidDPoPProof)
		f.assertRefused(t, proven(r, p.proof(t, f, nil, nil)), sts.InvalidDPoPProof)
		f.token(t, proven(r, p.proof(t, f, nil, map[string]any{"ath": ath(r.Actor.Token)})))
	})
	t.Run("T-22 not an access token", func(t *testing.T) {
		f.apply(t, sts.Change{Put: []sts.Resource{rule("web-jwt", policy.Rule{
			Requester: policy.Requester{Clients: []string{"web"}}, Subject: &policy.Party{Issuer: "idp"},
			Allow: policy.Allow{Audiences: []string{"api"}, Scopes: []string{"read"}, TokenTypes: []string{"jwt"}},
		})}})
		r := proven(f.exchange(t), p.proof(t, f, nil, nil))
		r.RequestedType = sts.JWT
		token, claims := f.token(t, r)
		if claims["cnf"].(map[string]any)["jkt"] != p.jkt(t) || token.Scheme != "N_A" {
			t.Errorf("token_type %s, cnf %v", token.Scheme, claims["cnf"])
		}
	})
	t.Run("the workload itself", func(t *testing.T) {
		_, claims := f.token(t, proven(f.selfPresented(t), p.proof(t, f, nil, nil)))
		if claims["cnf"].(map[string]any)["jkt"] != p.jkt(t) {
			t.Errorf("cnf %v", claims["cnf"])
		}
	})
}

// TestCertificateBinding binds tokens to the certificate of the connection.
func TestCertificateBinding(t *testing.T) {
	f, p := newFixture(t), newProver(t)
	mine, another := []*x509.Certificate{{Raw: []byte("mine")}, {Raw: []byte("authority")}}, []*x509.Certificate{{Raw: []byte("another")}}
	x5t := ath("mine")
	f.apply(t, sts.Change{Put: []sts.Resource{
		{Audience: &sts.Audience{Name: "api", Scopes: []string{"read", "write", "admin"}, Binding: policy.MTLSBinding}},
		{Audience: &sts.Audience{Name: "other", Scopes: []string{"read", "write", "admin"}}},
	}})
	r := f.exchange(t)
	e := f.assertRefused(t, r, sts.InvalidRequest)
	if !strings.Contains(e.Message, "certificate") {
		t.Errorf("%s", e.Message)
	}
	f.assertRefused(t, proven(r, p.proof(t, f, nil, nil)), sts.InvalidRequest) // [B-07]
	r.Certificates = mine
	token, claims := f.token(t, r)
	if cnf := claims["cnf"].(map[string]any); cnf["x5t#S256"] != x5t || len(cnf) != 1 || token.Scheme != "Bearer" || f.audit.last().Issued.X5T != x5t {
		t.Errorf("token_type %s, cnf %v", token.Scheme, cnf)
	}
	next := f.credentials("api")
	next.Grant, next.Audiences, next.Subject = sts.TokenExchange, []string{"other"}, sts.Presented{Token: token.Value, Type: sts.AccessToken}
	t.Run("T-39", func(t *testing.T) {
		f.assertRefused(t, next, sts.InvalidRequest)
		next.Certificates = another
		f.assertRefused(t, next, sts.InvalidRequest)
		f.assertRefused(t, proven(next, p.proof(t, f, nil, nil)), sts.InvalidRequest)
	})
	next.Certificates = mine
	if _, claims := f.token(t, next); claims["cnf"].(map[string]any)["x5t#S256"] != x5t {
		t.Errorf("cnf %v", claims["cnf"])
	}
	// The other key that the same request proves.
	if _, claims := f.token(t, proven(next, p.proof(t, f, nil, nil))); claims["cnf"].(map[string]any)["jkt"] != p.jkt(t) {
		t.Errorf("cnf %v", claims["cnf"])
	}
	// Nobody asks for it.
	own := f.credentials("web")
	own.Certificates = mine
	if _, claims := f.token(t, own); claims["cnf"] != nil {
		t.Errorf("cnf %v", claims["cnf"])
	}
}

// TestDemandedBinding has a client, a rule and an audience demand a binding.
func TestDemandedBinding(t *testing.T) {
	certificate := []*x509.Certificate{{Raw: []byte("mine")}}
	for name, tc := range map[string]struct {
		client          bool
		rule, audience  policy.Binding
		proof, mtls     bool
		code            sts.Code
		confirmed, kind string
	}{
		"D-27 client":                           {client: true, code: sts.InvalidDPoPProof},
		"D-27 B-07 client with a certificate":   {client: true, mtls: true, code: sts.InvalidDPoPProof},
		"D-27 client with a proof":              {client: true, proof: true, confirmed: "jkt", kind: "DPoP"},
		"client against audience":               {client: true, audience: policy.MTLSBinding, proof: true, mtls: true, code: sts.InvalidTarget},
		"rule dpop":                             {rule: policy.DPoPBinding, code: sts.InvalidDPoPProof},
		"rule dpop with a certificate":          {rule: policy.DPoPBinding, mtls: true, code: sts.InvalidDPoPProof},
		"rule dpop with a proof":                {rule: policy.DPoPBinding, proof: true, confirmed: "jkt", kind: "DPoP"},
		"rule mtls":                             {rule: policy.MTLSBinding, code: sts.InvalidRequest},
		"rule mtls with a proof":                {rule: policy.MTLSBinding, proof: true, mtls: true, code: sts.InvalidRequest},
		"rule mtls with a certificate":          {rule: policy.MTLSBinding, mtls: true, confirmed: "x5t#S256", kind: "Bearer"},
		"rule any":                              {rule: policy.AnyBinding, code: sts.InvalidRequest},
		"rule any with a certificate":           {rule: policy.AnyBinding, mtls: true, confirmed: "x5t#S256", kind: "Bearer"},
		"rule any with both":                    {rule: policy.AnyBinding, proof: true, mtls: true, confirmed: "jkt", kind: "DPoP"},
		"rule none":                             {rule: policy.NoBinding, kind: "Bearer"},
		"audience dpop":                         {audience: policy.DPoPBinding, code: sts.InvalidDPoPProof},
		"audience any":                          {audience: policy.AnyBinding, code: sts.InvalidRequest},
		"audience any with a certificate":       {audience: policy.AnyBinding, mtls: true, confirmed: "x5t#S256", kind: "Bearer"},
		"audience mtls with both":               {audience: policy.MTLSBinding, proof: true, mtls: true, confirmed: "x5t#S256", kind: "Bearer"},
		"audience mtls and rule dpop with both": {audience: policy.MTLSBinding, rule: policy.DPoPBinding, proof: true, mtls: true, code: sts.InvalidDPoPProof},
	} {
		t.Run(name, func(t *testing.T) {
			f, p := newFixture(t), newProver(t)
			client, _, err := f.service.Resource(sts.Ref{Kind: sts.KindClient, Name: "web"})
			if err != nil {
				t.Fatal(err)
			}
			demanding := *client.Client
			demanding.DPoPBound = tc.client
			f.apply(t, sts.Change{Put: []sts.Resource{
				{Client: &demanding},
				{Audience: &sts.Audience{Name: "web", Scopes: []string{"read", "write", "admin"}, Binding: tc.audience}},
				rule("web-itself", policy.Rule{
					Requester: policy.Requester{Clients: []string{"web"}}, Require: policy.Require{Binding: tc.rule}, Allow: allow("web", "read", "write"),
				}),
			}})
			r := f.credentials("web")
			if tc.proof {
				r = proven(r, p.proof(t, f, nil, nil))
			}
			if tc.mtls {
				r.Certificates = certificate
			}
			if tc.code != "" {
				f.assertRefused(t, r, tc.code)
				return
			}
			token, claims := f.token(t, r)
			cnf, _ := claims["cnf"].(map[string]any)
			if _, ok := cnf[tc.confirmed]; ok != (tc.confirmed != "") || token.Scheme != tc.kind {
				t.Errorf("token_type %s, cnf %v", token.Scheme, cnf)
			}
		})
	}
	f := newFixture(t)
	_, err := f.service.Apply(t.Context(), sts.Change{Put: []sts.Resource{
		{Audience: &sts.Audience{Name: "web", Binding: "tls"}},
		rule("r", policy.Rule{Requester: policy.Requester{Clients: []string{"web"}}, Require: policy.Require{Binding: "DPoP"}, Allow: allow("other", "read")}),
	}})
	e, _ := errors.AsType[*sts.Error](err)
	if e == nil || len(e.Problems) < 2 {
		t.Errorf("%v", err)
	}
}

// FuzzProof presents anything as a proof: nothing panics, and what is granted is
// bound to the key that signed the proof. Once only.
func FuzzProof(f *testing.F) {
	fx, p := newFixture(f), newProver(f)
	good := p.proof(f, fx, nil, map[string]any{"jti": "one"})
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add("")
	f.Add(rfcFig2)
	f.Add(p.proof(f, fx, map[string]any{"jwk": map[string]any{"kty": "RSA", "n": "AQ", "e": "AQAB"}}, nil))
	f.Add(p.proof(f, fx, nil, map[string]any{"htu": "https://sts.example.com:443/oauth2/%74oken"}))
	used := map[string]bool{}
	f.Fuzz(func(t *testing.T, proof string) {
		r := proven(fx.credentials("web"), proof)
		token, err := fx.service.Token(t.Context(), r)
		if err != nil {
			return
		}
		jws, err := jose.Parse(token.Value)
		if err != nil {
			t.Fatal(err)
		}
		claims, err := jws.Claims()
		if err != nil {
			t.Fatal(err)
		}
		if proof == "" {
			return
		}
		signed, key, err := jose.ParseProof(proof)
		if err != nil || signed.Verify(key) != nil {
			t.Fatalf("%q was accepted", proof)
		}
		jkt, err := jose.Thumbprint(key.Public)
		if cnf, _ := claims["cnf"].(map[string]any); err != nil || cnf["jkt"] != jkt || used[proof] {
			t.Errorf("%q was accepted, cnf %v, %v", proof, cnf, err)
		}
		used[proof] = true
	})
}
