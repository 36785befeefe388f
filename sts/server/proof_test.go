package server

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/sts"
)

const grpcURL = "https://grpc.example.com:8444"

func withGRPCURL(c *Config) { c.GRPCURL = grpcURL }

func newProofKey(tb testing.TB) crypto.Signer {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// proofFor is a good proof but for the edits.
func proofFor(tb testing.TB, key crypto.Signer, url string, edits map[string]any) string {
	tb.Helper()
	claims := map[string]any{"jti": rand.Text(), "htm": "POST", "htu": url, "iat": time.Now().Unix()}
	maps.Copy(claims, edits)
	b, err := json.Marshal(claims)
	if err != nil {
		tb.Fatal(err)
	}
	proof, err := jose.SignProof(jose.ES256, key, b)
	if err != nil {
		tb.Fatal(err)
	}
	return proof
}

// headed is a proof with a header of its own, which the key signs all the same.
func headed(tb testing.TB, key crypto.Signer, url string, edits map[string]any) string {
	tb.Helper()
	good := proofFor(tb, key, url, nil)
	first, rest, _ := strings.Cut(good, ".")
	payload, _, _ := strings.Cut(rest, ".")
	raw, err := base64.RawURLEncoding.DecodeString(first)
	if err != nil {
		tb.Fatal(err)
	}
	var header map[string]any
	if err := json.Unmarshal(raw, &header); err != nil {
		tb.Fatal(err)
	}
	for name, v := range edits {
		if header[name] = v; v == nil {
			delete(header, name)
		}
	}
	if raw, err = json.Marshal(header); err != nil {
		tb.Fatal(err)
	}
	input := []byte(base64.RawURLEncoding.EncodeToString(raw) + "." + payload)
	sig, err := jose.Sign(jose.ES256, key, input)
	if err != nil {
		tb.Fatal(err)
	}
	return jose.Compact(input, sig)
}

// proofFaces are the faces, each with the URL that its proofs are for.
var proofFaces = map[string]struct {
	url  string
	call func(*fixture, testing.TB, ask) answer
}{
	"form": {issuer + "/oauth2/token", (*fixture).form},
	"json": {issuer + "/v1/token:issue", (*fixture).json},
	"grpc": {grpcURL + stsv1.TokenService_IssueToken_FullMethodName, (*fixture).grpc},
}

// TestProofByEachFace sends proofs by each face.
func TestProofByEachFace(t *testing.T) {
	key := newProofKey(t)
	for name, face := range proofFaces {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, withGRPCURL)
			send := func(proofs ...string) answer {
				a := f.good()
				a.proofs = proofs
				return face.call(f, t, a)
			}
			good := func(edits map[string]any) string { return proofFor(t, key, face.url, edits) }
			got := send(good(nil))
			if got.token == "" || got.kind != "DPoP" {
				t.Fatalf("good: %+v", got)
			}
			jkt, err := jose.Thumbprint(key.Public())
			if err != nil {
				t.Fatal(err)
			}
			if cnf, _ := claimsOf(t, got.token)["cnf"].(map[string]any); cnf["jkt"] != jkt {
				t.Errorf("cnf %v", cnf)
			}
			twice := good(nil)
			if got := send(twice); got.token == "" {
				t.Errorf("%+v", got)
			}
			rows := map[string][]string{
				"D-04 two":                  {good(nil), good(nil)},
				"D-04 the same twice":       {twice, twice},
				"D-04 in one":               {good(nil) + ", " + good(nil)},
				"empty":                     {""},
				"D-09":                      {good(nil)[:300]},
				"D-06 typ missing":          {headed(t, key, face.url, map[string]any{"typ": nil})},
				"D-06 typ JWT":              {headed(t, key, face.url, map[string]any{"typ": "JWT"})},
				"D-07 alg missing":          {headed(t, key, face.url, map[string]any{"alg": nil})},
				"D-07 alg none":             {headed(t, key, face.url, map[string]any{"alg": "none"})},
				"D-07 alg HS256":            {headed(t, key, face.url, map[string]any{"alg": "HS256"})},
				"D-08 jwk missing":          {headed(t, key, face.url, map[string]any{"jwk": nil})},
				"D-08 jwk oct":              {headed(t, key, face.url, map[string]any{"jwk": map[string]any{"kty": "oct", "k": "AAAA"}})},
				"D-08 jwk private":          {headed(t, key, face.url, map[string]any{"jwk": map[string]any{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "d": "AA"}})},
				"D-09 kid for the jwk":      {headed(t, key, face.url, map[string]any{"jwk": nil, "kid": "x"})},
				"D-10 jti missing":          {good(map[string]any{"jti": nil})},
				"D-10 jti a number":         {good(map[string]any{"jti": 1})},
				"D-10 jti empty":            {good(map[string]any{"jti": ""})},
				"D-10 jti of 257":           {good(map[string]any{"jti": strings.Repeat("j", 257)})},
				"D-12 other path":           {good(map[string]any{"htu": face.url + "s"})},
				"D-12 a list":               {good(map[string]any{"htu": []string{face.url}})},
				"D-15 slash":                {good(map[string]any{"htu": face.url + "/"})},
				"D-16 where it listens":     {good(map[string]any{"htu": f.url + "/oauth2/token"})},
				"D-16 spoofed host":         {good(map[string]any{"htu": "https://attacker.example/oauth2/token"})},
				"D-19":                      {good(map[string]any{"iat": time.Now().Unix() - 3600})},
				"D-20":                      {twice},
				"D-26 expired":              {good(map[string]any{"exp": time.Now().Unix() - 60})},
				"a method of its own":       {good(map[string]any{"htm": "GET"})},
				"L-01 a secret for a proof": {f.secret},
			}
			for other, elsewhere := range proofFaces { // D-28
				if other != name {
					rows["for "+other] = []string{proofFor(t, key, elsewhere.url, nil)}
				}
			}
			for row, proofs := range rows {
				t.Run(row, func(t *testing.T) {
					b := f.before()
					f.assertRefused(t, b, send(proofs...), sts.InvalidDPoPProof)
				})
			}
			if got := send(good(map[string]any{"htu": "https://attacker.example"})); !strings.Contains(got.message, "which is "+face.url) {
				t.Errorf("the refusal does not say what htu must be: %q", got.message)
			}
			for row, url := range map[string]string{
				"D-13": face.url + "?q#f", "D-14": strings.Replace(face.url, "https://", "HTTPS://", 1),
			} {
				if got := send(good(map[string]any{"htu": url})); got.token == "" {
					t.Errorf("%s: %+v", row, got)
				}
			}
			if got := send(headed(t, key, face.url, map[string]any{"typ": "DPoP+JWT"})); got.token == "" {
				t.Errorf("D-06: %+v", got)
			}
			t.Run("D-27", func(t *testing.T) {
				demanding := &sts.Client{Name: "web", DPoPBound: true, Secrets: []sts.ClientSecret{{Hash: mustHash(t, f.secret)}}}
				if _, err := f.service.Apply(t.Context(), sts.Change{Put: []sts.Resource{{Client: demanding}}}); err != nil {
					t.Fatal(err)
				}
				b := f.before()
				f.assertRefused(t, b, send(), sts.InvalidDPoPProof)
				if got := send(good(nil)); got.kind != "DPoP" {
					t.Errorf("%+v", got)
				}
			})
		})
	}
}

// TestProofHeader holds what is special about the header over HTTP.
func TestProofHeader(t *testing.T) {
	f, key := newFixture(t), newProofKey(t)
	for path, body := range map[string]string{"/oauth2/token": "grant_type=client_credentials&audience=api", "/v1/token:issue": `{"audience":"api"}`} {
		send := func(edit func(*http.Request)) answer {
			req := f.request(t, http.MethodPost, path, strings.NewReader(body))
			req.Header.Set("Content-Type", map[bool]string{true: "application/json", false: "application/x-www-form-urlencoded"}[body[0] == '{'])
			req.Header["Authorization"] = []string{basicAuth("web", f.secret)}
			edit(req)
			return f.do(t, req)
		}
		proof := func() string { return proofFor(t, key, issuer+path, nil) }
		// D-03: as it is written does not matter.
		for _, name := range []string{"DPOP", "dpop", "DPoP"} {
			if got := send(func(r *http.Request) { r.Header[name] = []string{proof()} }); got.kind != "DPoP" {
				t.Errorf("%s %s: %+v", path, name, got)
			}
		}
		// D-16: what the request says of the host does not count.
		if got := send(func(r *http.Request) {
			r.Host = "attacker.example"
			r.Header.Set("X-Forwarded-Host", "attacker.example")
			r.Header.Set("X-Forwarded-Proto", "http")
			r.Header.Set("Forwarded", "host=attacker.example")
			r.Header.Set("DPoP", proof())
		}); got.kind != "DPoP" {
			t.Errorf("%s: %+v", path, got)
		}
		b := f.before()
		f.assertRefused(t, b, send(func(r *http.Request) {
			r.Host = "attacker.example"
			r.Header.Set("X-Forwarded-Host", "attacker.example")
			r.Header.Set("DPoP", proofFor(t, key, "https://attacker.example"+path, nil))
		}), sts.InvalidDPoPProof)
		// Metadata cannot be smuggled in, so this is a request without a proof.
		if got := send(func(r *http.Request) { r.Header.Set("Grpc-Metadata-Dpop", proof()) }); got.kind != "Bearer" {
			t.Errorf("%s: %+v", path, got)
		}
		// D-13: nor does a query.
		if got := send(func(r *http.Request) { r.URL.RawQuery = "x=1"; r.Header.Set("DPoP", proof()) }); got.kind != "DPoP" {
			t.Errorf("%s: %+v", path, got)
		}
	}
}

// TestNonceByEachFace follows the challenge for a nonce [D-18].
func TestNonceByEachFace(t *testing.T) {
	key := newProofKey(t)
	for name, face := range proofFaces {
		t.Run(name, func(t *testing.T) {
			f := (&fixture{nonceKey: []byte("0123456789abcdef0123456789abcdef")}).start(t, withGRPCURL)
			send := func(edits map[string]any) answer {
				a := f.good()
				a.proofs = []string{proofFor(t, key, face.url, edits)}
				return face.call(f, t, a)
			}
			b := f.before()
			got := send(nil)
			f.assertRefused(t, b, got, sts.UseDPoPNonce)
			if got.nonce == "" {
				t.Fatalf("no nonce in %+v", got)
			}
			again := send(map[string]any{"nonce": got.nonce, "iat": 1})
			if again.token == "" || again.nonce == "" {
				t.Errorf("%+v", again)
			}
			if got := send(map[string]any{"nonce": again.nonce}); got.token == "" {
				t.Errorf("%+v", got)
			}
			if plain := face.call(f, t, f.good()); plain.token == "" || plain.nonce != "" {
				t.Errorf("without a proof: %+v", plain)
			}
		})
	}
}

// TestWatchTakesNoProof: a stream has one set of metadata, and each token needs a
// proof.
func TestWatchTakesNoProof(t *testing.T) {
	f, key := newFixture(t, withGRPCURL), newProofKey(t)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", basicAuth("web", f.secret),
		"dpop", proofFor(t, key, grpcURL+stsv1.TokenService_WatchToken_FullMethodName, nil))
	b := f.before()
	stream, err := stsv1.NewTokenServiceClient(f.conn).WatchToken(ctx, &stsv1.WatchTokenRequest{
		Request: &stsv1.WatchTokenRequest_Issue{Issue: f.good().issue()},
	}, grpc.WaitForReady(true))
	if err == nil {
		_, err = stream.Recv()
	}
	f.assertRefused(t, b, answerOf(err), sts.InvalidDPoPProof)
}

func claimsOf(tb testing.TB, token string) map[string]any {
	tb.Helper()
	jws, err := jose.Parse(token)
	if err != nil {
		tb.Fatal(err)
	}
	claims, err := jws.Claims()
	if err != nil {
		tb.Fatal(err)
	}
	return claims
}
