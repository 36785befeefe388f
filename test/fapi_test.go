package e2e

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestFAPI2 holds the server to the modules of the OpenID conformance plan "FAPI 2
// Security Profile Final" for client credentials, in each variant of its two
// parameters. The sub-tests are named as the suite names its modules; what they
// check is what these modules check. The protected resource is the admin interface.
func TestFAPI2(t *testing.T) {
	t.Parallel()
	s := startFAPI(t)
	for _, v := range s.variants {
		t.Run(v.name(), func(t *testing.T) {
			for _, m := range fapiModules {
				if m.applies != nil && !m.applies(v) {
					continue
				}
				t.Run("fapi2-security-profile-final-"+m.name, func(t *testing.T) { m.run(t, v) })
			}
		})
	}
}

func byAssertion(v *fapiVariant) bool { return !v.mtlsAuth }
func byDPoP(v *fapiVariant) bool      { return !v.mtlsBound }

// fapiModules are those of the plan, in its order.
var fapiModules = []struct {
	name    string
	applies func(*fapiVariant) bool // nil: to all
	run     func(*testing.T, *fapiVariant)
}{
	{"discovery-end-point-verification", nil, fapiDiscovery},
	{"happy-flow", nil, fapiHappyFlow},
	{"access-token-type-header-case-sensitivity", nil, fapiSchemeCase},
	{"check-dpop-proof-nbf-exp", byDPoP, func(t *testing.T, v *fapiVariant) {
		v.flow(t, v.first, func(_, claims map[string]any) {
			claims["nbf"], claims["exp"] = time.Now().Unix(), time.Now().Add(5*time.Minute).Unix()
		})
	}},
	{"ensure-dpopproof-with-iat-10seconds-before-succeeds", byDPoP, func(t *testing.T, v *fapiVariant) {
		v.flow(t, v.first, func(_, claims map[string]any) { claims["iat"] = time.Now().Add(-10 * time.Second).Unix() })
	}},
	{"ensure-dpopproof-with-iat-10seconds-after-succeeds", byDPoP, func(t *testing.T, v *fapiVariant) {
		v.flow(t, v.first, func(_, claims map[string]any) { claims["iat"] = time.Now().Add(10 * time.Second).Unix() })
	}},
	{"ensure-client-id-in-token-endpoint", nil, fapiOtherClientID},
	{"ensure-holder-of-key-required", nil, fapiHolderOfKey},
	{"ensure-signed-client-assertion-with-RS256-fails", byAssertion, func(t *testing.T, v *fapiVariant) {
		other := *v.first
		other.alg = "RS256"
		v.assertionRefused(t, v.assert(t, &other, nil), "invalid_client")
	}},
	{"ensure-client-assertion-in-token-endpoint", byAssertion, func(t *testing.T, v *fapiVariant) {
		v.assertionRefused(t, url.Values{"client_id": {v.first.id}}, "invalid_client", "invalid_request")
	}},
	{"ensure-client-assertion-with-exp-is-5-minutes-in-past-fails", byAssertion, func(t *testing.T, v *fapiVariant) {
		past := v.assert(t, v.first, func(claims map[string]any) { claims["exp"] = time.Now().Add(-5 * time.Minute).Unix() })
		v.assertionRefused(t, past, "invalid_client", "invalid_request")
	}},
	{"ensure-client-assertion-with-wrong-aud-fails", byAssertion, func(t *testing.T, v *fapiVariant) {
		wrong := v.assert(t, v.first, func(claims map[string]any) { claims["aud"] = "https://resources.example.net/api/userinfo" })
		v.assertionRefused(t, wrong, "invalid_client", "invalid_request")
	}},
	{"ensure-client-assertion-with-no-sub-fails", byAssertion, func(t *testing.T, v *fapiVariant) {
		none := v.assert(t, v.first, func(claims map[string]any) { delete(claims, "sub") })
		v.assertionRefused(t, none, "invalid_client", "invalid_request")
	}},
	{"dpop-negative-tests", byDPoP, fapiNegativeProofs},
}

// fapiDiscovery checks what the metadata must say [FAPI2-SP-FINAL §5.3.2.1, §5.4].
func fapiDiscovery(t *testing.T, v *fapiVariant) {
	document := fapiIssuer + "/.well-known/oauth-authorization-server"
	r := v.get(t, nil, document, nil)
	if r.status != http.StatusOK || !strings.HasPrefix(r.header.Get("Content-Type"), "application/json") {
		t.Fatalf("%d %s %s", r.status, r.header.Get("Content-Type"), r.raw)
	}
	// The issuer is what the document was found by [RFC 8414 §3.3].
	if r.str("issuer") != fapiIssuer || !strings.HasPrefix(r.str("token_endpoint"), "https://") {
		t.Errorf("issuer %q, token_endpoint %q", r.str("issuer"), r.str("token_endpoint"))
	}
	has := func(name string, wanted ...string) {
		t.Helper()
		values, _ := r.body[name].([]any)
		if !slices.ContainsFunc(values, func(v any) bool { s, _ := v.(string); return slices.Contains(wanted, s) }) {
			t.Errorf("%s is %v, has none of %v", name, values, wanted)
		}
	}
	has("grant_types_supported", "client_credentials")
	has("token_endpoint_auth_methods_supported", "private_key_jwt", "tls_client_auth", "self_signed_tls_client_auth")
	has("token_endpoint_auth_signing_alg_values_supported", "PS256", "ES256", "EdDSA")
	if v.mtlsAuth {
		has("token_endpoint_auth_methods_supported", "tls_client_auth", "self_signed_tls_client_auth")
	} else {
		has("token_endpoint_auth_methods_supported", "private_key_jwt")
	}
	if v.mtlsBound {
		if r.body["tls_client_certificate_bound_access_tokens"] != true { // [RFC 8705 §3.3]
			t.Errorf("tls_client_certificate_bound_access_tokens is %v", r.body["tls_client_certificate_bound_access_tokens"])
		}
	} else {
		has("dpop_signing_alg_values_supported", "PS256", "ES256", "EdDSA")
	}
	if u := r.str("registration_endpoint"); u != "" && !strings.HasPrefix(u, "https://") {
		t.Errorf("registration_endpoint %q", u)
	}
}

// fapiHappyFlow gets tokens for two clients, uses them, and looks at TLS.
func fapiHappyFlow(t *testing.T, v *fapiVariant) {
	v.checkTLS(t)
	first := v.flow(t, v.first, nil)
	// No token for longer than this one [RFC 6749 §4.4.3], kept by nobody.
	if _, refresh := first.body["refresh_token"]; refresh || first.header.Get("Cache-Control") != "no-store" {
		t.Errorf("A-44: %s, Cache-Control %q", first.raw, first.header.Get("Cache-Control"))
	}
	token := first.str("access_token")
	// A token in the query is no token [FAPI2-SP-FINAL §5.3.4].
	if r := v.get(t, v.first, fapiResource+"&access_token="+token, nil); r.status != http.StatusUnauthorized && r.status != http.StatusBadRequest {
		t.Errorf("in the query: %d %s", r.status, r.raw)
	}
	for _, accept := range []string{"application/json;charset=UTF-8", "application/json, application/*+json, */*"} {
		r := v.use(t, v.first, token, nil, func(r *http.Request) { r.Header.Set("Accept", accept) })
		if r.status != http.StatusOK {
			t.Errorf("Accept %s: %d %s", accept, r.status, r.raw)
		}
	}
	second := v.flow(t, v.second, nil)
	if second.str("access_token") == token {
		t.Error("two clients got one token")
	}
	if !v.mtlsBound {
		return
	}
	// [M-10] The token is of no use without the certificate, with another, and with
	// another certificate of the same key.
	renewed := v.reissued(t, v.first)
	for name, by := range map[string]*fapiClient{"no certificate": nil, "another certificate": v.second, "another certificate of the same key": renewed} {
		t.Run("M-10 "+name, func(t *testing.T) {
			r := v.get(t, by, fapiResource, func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) })
			if r.status != http.StatusUnauthorized || !strings.Contains(r.header.Get("WWW-Authenticate"), `error="invalid_token"`) {
				t.Errorf("%d %q %s", r.status, r.header.Get("WWW-Authenticate"), r.raw)
			}
		})
	}
}

// fapiSchemeCase writes the scheme of the authorization in the other case [RFC 9110
// §11.1].
func fapiSchemeCase(t *testing.T, v *fapiVariant) {
	t.Run("D-25", func(t *testing.T) {
		token := v.flow(t, v.first, nil)
		r := v.use(t, v.first, token.str("access_token"), nil, func(r *http.Request) {
			scheme, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
			r.Header.Set("Authorization", invertCase(scheme)+" "+value)
		})
		if r.status != http.StatusOK {
			t.Errorf("%d %s", r.status, r.raw)
		}
	})
}

func invertCase(s string) string {
	return strings.Map(func(r rune) rune {
		if upper := strings.ToUpper(string(r)); upper != string(r) {
			return rune(upper[0])
		}
		return rune(strings.ToLower(string(r))[0])
	}, s)
}

// fapiOtherClientID has the second client's name with what the first one proves.
func fapiOtherClientID(t *testing.T, v *fapiVariant) {
	mixed := *v.first
	mixed.id = v.second.id
	r := v.token(t, &mixed, nil, func(form url.Values) { form.Set("client_id", v.second.id) })
	fapiRefused(t, r, "invalid_client", "invalid_grant")
}

// fapiHolderOfKey asks for a token and proves no key for it.
func fapiHolderOfKey(t *testing.T, v *fapiVariant) {
	v.checkTLS(t)
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {fapiScope}}
	v.authenticate(t, v.first, form)
	connection := v.first
	if v.mtlsBound {
		connection = nil
	}
	r := v.post(t, connection, form, nil)
	switch {
	case !v.mtlsBound:
		fapiRefused(t, r, "invalid_request", "invalid_grant", "invalid_dpop_proof")
	case v.mtlsAuth:
		fapiRefused(t, r, "invalid_client", "invalid_request")
	default:
		fapiRefused(t, r, "invalid_client", "invalid_grant", "invalid_request")
	}
}

// fapiRefused checks an error of the token endpoint [RFC 6749 §5.2].
func fapiRefused(t *testing.T, r reply, codes ...string) {
	t.Helper()
	if _, issued := r.body["access_token"]; issued {
		t.Fatalf("issued: %d", r.status)
	}
	if r.status != http.StatusBadRequest && (r.status != http.StatusUnauthorized || r.str("error") != "invalid_client") {
		t.Errorf("status %d: %s", r.status, r.raw)
	}
	if !strings.HasPrefix(r.header.Get("Content-Type"), "application/json") || !slices.Contains(codes, r.str("error")) {
		t.Errorf("%s %s, want one of %v", r.header.Get("Content-Type"), r.raw, codes)
	}
	if strings.ContainsFunc(r.str("error_description"), func(c rune) bool { return c < 0x20 || c > 0x7e || c == '"' || c == '\\' }) {
		t.Errorf("error_description %q", r.str("error_description"))
	}
	if _, there := r.body["error_uri"]; there {
		t.Errorf("error_uri in %s", r.raw)
	}
}

// fapiNegativeProofs uses a token with proofs that are wrong in one way each, and
// some that are right in an unusual one [RFC 9449 §4.3].
func fapiNegativeProofs(t *testing.T, v *fapiVariant) {
	for _, c := range []*fapiClient{v.first, v.second} { // RSA and EC
		t.Run(c.proofAlg, func(t *testing.T) {
			token := v.flow(t, c, nil).str("access_token")
			for _, b := range fapiProofBlocks(t, v, c, token) {
				if b.only != "" && b.only != c.proofAlg {
					continue
				}
				t.Run(b.name, func(t *testing.T) {
					r := v.use(t, c, token, b.proof, b.request)
					if b.accepted && r.status != http.StatusOK {
						t.Errorf("refused: %d %s", r.status, r.raw)
					}
					if b.accepted {
						return
					}
					if r.status != http.StatusUnauthorized { // 400 or 401; we answer with a challenge
						t.Errorf("%d %s", r.status, r.raw)
					}
					challenges := r.header.Values("WWW-Authenticate")
					if !slices.ContainsFunc(challenges, func(c string) bool { // [RFC 9449 §7.1]
						return strings.HasPrefix(c, "DPoP ") && strings.Contains(c, "error=") && strings.Contains(c, "algs=")
					}) {
						t.Errorf("challenges %q", challenges)
					}
				})
			}
		})
	}
}

// fapiBlock is a step of the module.
type fapiBlock struct {
	name     string
	accepted bool
	only     string           // with keys of this algorithm
	proof    func(*fapiProof) // edits the proof
	request  func(*http.Request)
}

func fapiProofBlocks(t *testing.T, v *fapiVariant, c *fapiClient, token string) []fapiBlock {
	header := func(name string, value any) func(*fapiProof) {
		return func(p *fapiProof) { p.header[name] = value }
	}
	claim := func(name string, value any) func(*fapiProof) {
		return func(p *fapiProof) { p.claims[name] = value }
	}
	without := func(name string) func(*fapiProof) {
		return func(p *fapiProof) { delete(p.header, name); delete(p.claims, name) }
	}
	after := func(edit func(string) string) func(*fapiProof) {
		return func(p *fapiProof) { p.after = edit }
	}
	jti := rand.Text()
	host := strings.TrimPrefix(fapiIssuer, "https://")
	path := strings.TrimPrefix(fapiResourceURL, fapiIssuer)
	noProof := func(r *http.Request) { r.Header.Del("DPoP") }
	return []fapiBlock{
		{name: "all upper case header", accepted: true, request: func(r *http.Request) {
			r.Header["DPOP"] = r.Header["Dpop"]
			delete(r.Header, "Dpop")
		}},
		{name: "more than one DPoP header", request: func(r *http.Request) {
			r.Header.Add("DPoP", v.proof(t, c, http.MethodGet, fapiResourceURL, token, nil))
		}},
		{name: "not a well-formed JWT", proof: after(func(s string) string { return s[:strings.LastIndex(s, ".")] })},
		{name: "typ missing", proof: without("typ")},
		{name: "alg missing", proof: after(func(s string) string {
			first, rest, _ := strings.Cut(s, ".")
			raw, _ := base64.RawURLEncoding.DecodeString(first)
			return base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(raw), `"alg"`, `"alg2"`, 1))) + "." + rest
		})},
		{name: "jwk missing", proof: without("jwk")},
		{name: "jti missing", proof: without("jti")},
		{name: "htm missing", proof: without("htm")},
		{name: "htu missing", proof: without("htu")},
		{name: "iat missing", proof: without("iat")},
		{name: "D-22 ath missing", proof: without("ath")},
		{name: "invalid typ", proof: header("typ", "dpop+jwt+wrongyousee")},
		{name: "signed by RS256", only: "PS256", proof: func(p *fapiProof) { p.header["alg"], p.alg = "RS256", "RS256" }},
		{name: "alg none", proof: after(func(s string) string {
			return base64.RawURLEncoding.EncodeToString([]byte(`{"alg": "none", "typ": "dpop+jwt"}`)) + "." + strings.Split(s, ".")[1] + "."
		})},
		{name: "invalid signature", proof: after(func(s string) string {
			at := strings.LastIndex(s, ".") + 1
			sig, _ := base64.RawURLEncoding.DecodeString(s[at:])
			sig[len(sig)/2] ^= 0x5a
			return s[:at] + base64.RawURLEncoding.EncodeToString(sig)
		})},
		{name: "jwk with the private key", proof: func(p *fapiProof) { p.header["jwk"] = p.private }},
		{name: "incorrect htm", proof: claim("htm", "PUT")},
		{name: "htu with query and fragment", accepted: true, proof: claim("htu", fapiResourceURL+"?allthedoors#sunnydisposition")},
		{name: "htu without the query of the request", accepted: true, proof: claim("htu", fapiResourceURL)},
		{name: "htu of another URL", proof: claim("htu", fapiResourceURL+"ohnonotagain")},
		{name: "iat one hour in the future", proof: claim("iat", time.Now().Add(time.Hour).Unix())},
		{name: "iat one hour in the past", proof: claim("iat", time.Now().Add(-time.Hour).Unix())},
		{name: "first use of a jti", accepted: true, proof: claim("jti", jti)},
		{name: "second use of the same jti", proof: claim("jti", jti)},
		{name: "D-22 ath incorrect", proof: claim("ath", base64.RawURLEncoding.EncodeToString(make([]byte, 32)))},
		{name: "signed with another key", proof: func(p *fapiProof) { p.key = newFAPIKey(t, c.proofAlg); p.header["jwk"] = jwkOf(t, p.key.Public()) }},
		{name: "extra members in header and claims", accepted: true, proof: func(p *fapiProof) {
			p.header["tx_id"], p.claims["tx_id_key"] = time.Now().Add(time.Hour).Unix(), time.Now().Add(time.Hour).Unix()
		}},
		{name: "htu with scheme and host in upper case", accepted: true, proof: claim("htu", "HTTPS://"+strings.ToUpper(host)+path)},
		{name: "htu with the default port", accepted: true, proof: claim("htu", "https://"+host+":443"+path)},
		{name: "D-24 without a proof", request: noProof},
		{name: "D-24 without a proof, as Bearer", request: func(r *http.Request) {
			noProof(r)
			r.Header.Set("Authorization", "Bearer "+token)
		}},
		{name: "D-24 with a proof, as Bearer", request: func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }},
		{name: "a correct proof still works", accepted: true},
	}
}

// assertionRefused posts a request with this authentication, and all else right.
func (v *fapiVariant) assertionRefused(t *testing.T, authentication url.Values, codes ...string) {
	t.Helper()
	r := v.token(t, v.first, nil, func(form url.Values) {
		for _, name := range []string{"client_id", "client_assertion", "client_assertion_type"} {
			form.Del(name)
		}
		for name, values := range authentication {
			form[name] = values
		}
	})
	fapiRefused(t, r, codes...)
}

// flow gets a token, checks the answer, and uses the token.
func (v *fapiVariant) flow(t *testing.T, c *fapiClient, edit func(header, claims map[string]any)) reply {
	t.Helper()
	proof := func(p *fapiProof) {
		if edit != nil {
			edit(p.header, p.claims)
		}
	}
	r := v.token(t, c, proof, nil)
	wantType := map[bool]string{true: "Bearer", false: "DPoP"}[v.mtlsBound]
	expires, _ := r.body["expires_in"].(float64)
	token := r.str("access_token")
	if r.status != http.StatusOK || r.str("token_type") != wantType || expires <= 0 || len(token) < 22 {
		t.Fatalf("%d %s", r.status, r.raw)
	}
	if _, there := r.body["id_token"]; there {
		t.Errorf("an ID token in %s", r.raw)
	}
	claims := v.verify(t, token)
	cnf, _ := claims["cnf"].(map[string]any)
	if want := v.confirmation(c); len(cnf) != 1 || cnf[want[0]] != want[1] {
		t.Errorf("cnf %v, want %v", cnf, want)
	}
	if claims["sub"] != c.id || fmt.Sprint(claims["scope"]) != fapiScope {
		t.Errorf("claims %v", claims)
	}
	used := v.use(t, c, token, proof, nil)
	if used.status != http.StatusOK || used.header.Get("Date") == "" {
		t.Errorf("the resource: %d %s", used.status, used.raw)
	}
	return r
}
