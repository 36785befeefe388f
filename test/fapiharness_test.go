package e2e

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	gojose "github.com/go-jose/go-jose/v4"

	"github.com/workload-sts/sts/internal/testserver"
	"github.com/workload-sts/sts/jose"
)

// The names by which the clients of TestFAPI2 know the server. Nothing resolves
// them: connections go to where the server listens.
const (
	fapiIssuer      = "https://sts.example.com"
	fapiResourceURL = fapiIssuer + "/v1/resources"
	fapiResource    = fapiResourceURL + "?kind=Audience"
	fapiScope       = "sts.admin.read"
)

// fapiServer is a server as the plan wants one: a public name, TLS, and tokens for
// its resource that are bound.
type fapiServer struct {
	*node
	address  string
	clients  *authority
	plain    *http.Client // without a certificate
	variants []*fapiVariant
}

// fapiVariant is one choice of the plan's parameters client_auth_type and
// sender_constrain, with its two clients.
type fapiVariant struct {
	*fapiServer
	mtlsAuth, mtlsBound bool // else private_key_jwt, DPoP
	first, second       *fapiClient
}

func (v *fapiVariant) name() string {
	return "client_auth_type=" + map[bool]string{true: "mtls", false: "private_key_jwt"}[v.mtlsAuth] +
		",sender_constrain=" + map[bool]string{true: "mtls", false: "dpop"}[v.mtlsBound]
}

// fapiClient is a client with all that it may have to prove.
type fapiClient struct {
	id, kid  string
	alg      string // of assertions
	key      crypto.Signer
	proofAlg string
	proofKey crypto.Signer
	certKey  *ecdsa.PrivateKey
	cert     []byte
	http     *http.Client // shows the certificate
}

func startFAPI(t *testing.T) *fapiServer {
	t.Helper()
	dir := t.TempDir()
	clients, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	testCA.issue(t, dir, 2)
	var wrapping [32]byte
	rand.Read(wrapping[:])
	httpAddr, grpcAddr := testserver.FreeAddress(t), testserver.FreeAddress(t)
	for name, content := range map[string]string{
		"clients.pem": string(clients.pem),
		"signing.key": base64.StdEncoding.EncodeToString(wrapping[:]) + "\n",
		"stsd.yaml": fmt.Sprintf(`issuer: %s
http: {listen: "%s", tls: {cert_file: tls.crt, key_file: tls.key, client_certificates: {ca_file: clients.pem}}}
grpc: {listen: "%s", tls: {cert_file: tls.crt, key_file: tls.key}}
storage: {bolt_file: sts.db}
keys: {sets: [{name: default, local: {key_file: signing.key}}]}
audit: {file: audit.jsonl}
admin: {token_file: admin.token}
`, fapiIssuer, httpAddr, grpcAddr),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	admin := adminToken(t, dir)
	s := &fapiServer{node: start(t, "serve", "--config", filepath.Join(dir, "stsd.yaml")), address: httpAddr, clients: clients}
	s.dir = dir
	s.env = map[string]string{"STS_ISSUER": fapiIssuer, "STS_GRPC": grpcAddr, "STS_ADMIN_TOKEN": admin}
	s.plain = s.connection(t, nil, nil)
	yaml := fmt.Sprintf("kind: Audience\nname: admin\nidentifiers: [%q]\nscopes: [%s]\n", fapiIssuer+"/v1", fapiScope)
	for _, mtlsAuth := range []bool{false, true} {
		for _, mtlsBound := range []bool{false, true} {
			v := &fapiVariant{fapiServer: s, mtlsAuth: mtlsAuth, mtlsBound: mtlsBound}
			// With RSA keys the suite tells RS256 from PS256.
			v.first, v.second = s.newClient(t, len(s.variants)*2, "PS256"), s.newClient(t, len(s.variants)*2+1, "ES256")
			yaml += v.yaml(t)
			s.variants = append(s.variants, v)
		}
	}
	s.apply(t, yaml)
	return s
}

func (s *fapiServer) newClient(t *testing.T, n int, alg string) *fapiClient {
	t.Helper()
	certKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id := fmt.Sprintf("client-%d", n)
	c := &fapiClient{id: id, kid: id + "-1", alg: alg, key: newFAPIKey(t, alg), proofAlg: alg, proofKey: newFAPIKey(t, alg), certKey: certKey}
	c.cert = s.certify(t, c)
	c.http = s.connection(t, c.cert, certKey)
	return c
}

// certify makes a certificate for a client's key.
func (s *fapiServer) certify(t *testing.T, c *fapiClient) []byte {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{c.id + ".example.com"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, s.clients.cert, c.certKey.Public(), s.clients.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// reissued is the client with another certificate of the same key.
func (v *fapiVariant) reissued(t *testing.T, c *fapiClient) *fapiClient {
	t.Helper()
	again := *c
	again.cert = v.certify(t, c)
	again.http = v.connection(t, again.cert, c.certKey)
	return &again
}

// connection is a client of HTTP that knows the server by its public name, and
// shows a certificate unless it is nil.
func (s *fapiServer) connection(t *testing.T, cert []byte, key *ecdsa.PrivateKey) *http.Client {
	config := s.tlsConfig()
	if cert != nil {
		config.Certificates = []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}}
	}
	transport := &http.Transport{
		TLSClientConfig: config,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, s.address)
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

func (s *fapiServer) tlsConfig() *tls.Config {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(testCA.pem)
	return &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
}

// yaml are the two clients, and what they may.
func (v *fapiVariant) yaml(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	for _, c := range []*fapiClient{v.first, v.second} {
		fmt.Fprintf(&out, "---\nkind: Client\nname: %s\ndpop_bound_access_tokens: %t\n", c.id, !v.mtlsBound)
		if v.mtlsAuth {
			fmt.Fprintf(&out, "tls: {san_dns: %s.example.com}\n", c.id)
			continue
		}
		key := jwkOf(t, c.key.Public())
		key["kid"], key["alg"], key["use"] = c.kid, c.alg, "sig"
		set, err := json.Marshal(map[string]any{"keys": []any{key}})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "private_key_jwt: {jwks: '%s'}\n", set)
	}
	binding := map[bool]string{true: "mtls", false: "dpop"}[v.mtlsBound]
	fmt.Fprintf(&out, "---\nkind: Rule\nname: %s\nrequester: {clients: [%s, %s]}\nallow: {audiences: [admin], scopes: [%s]}\nrequire: {binding: %s}\n",
		v.first.id, v.first.id, v.second.id, fapiScope, binding)
	return out.String()
}

func newFAPIKey(t *testing.T, alg string) crypto.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	if alg == "PS256" {
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// jwkOf is a key, public or private, as a JWK.
func jwkOf(t *testing.T, key any) map[string]any {
	t.Helper()
	data, err := gojose.JSONWebKey{Key: key}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// signed makes a JWS, whatever is in its header.
func signed(t *testing.T, alg string, key crypto.Signer, header, claims map[string]any) string {
	t.Helper()
	var parts []string
	for _, part := range []map[string]any{header, claims} {
		data, err := json.Marshal(part)
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, base64.RawURLEncoding.EncodeToString(data))
	}
	input := []byte(strings.Join(parts, "."))
	sig, err := jose.Sign(jose.Algorithm(alg), key, input)
	if err != nil {
		t.Fatal(err)
	}
	return jose.Compact(input, sig)
}

// fapiProof is a DPoP proof before it is signed.
type fapiProof struct {
	header, claims map[string]any
	alg            string
	key            crypto.Signer
	private        map[string]any      // the key with its private part
	after          func(string) string // what becomes of it when it is signed; may be nil
}

// proof makes a proof for a request with a token, which may be empty.
func (v *fapiVariant) proof(t *testing.T, c *fapiClient, method, target, token string, edit func(*fapiProof)) string {
	t.Helper()
	p := &fapiProof{
		header:  map[string]any{"typ": "dpop+jwt", "alg": c.proofAlg, "jwk": jwkOf(t, c.proofKey.Public())},
		claims:  map[string]any{"jti": rand.Text(), "htm": method, "htu": target, "iat": time.Now().Unix()},
		alg:     c.proofAlg,
		key:     c.proofKey,
		private: jwkOf(t, c.proofKey),
	}
	if token != "" {
		sum := sha256.Sum256([]byte(token))
		p.claims["ath"] = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	if edit != nil {
		edit(p)
	}
	proof := signed(t, p.alg, p.key, p.header, p.claims)
	if p.after != nil {
		proof = p.after(proof)
	}
	return proof
}

// assert is the authentication of a client by an assertion. As that of the suite,
// it has no typ.
func (v *fapiVariant) assert(t *testing.T, c *fapiClient, edit func(claims map[string]any)) url.Values {
	t.Helper()
	now := time.Now().Unix()
	claims := map[string]any{"iss": c.id, "sub": c.id, "aud": fapiIssuer, "iat": now, "exp": now + 60, "jti": rand.Text()}
	if edit != nil {
		edit(claims)
	}
	return url.Values{
		"client_assertion":      {signed(t, c.alg, c.key, map[string]any{"alg": c.alg, "kid": c.kid}, claims)},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
	}
}

// authenticate puts the authentication into a form; a certificate is in the
// connection.
func (v *fapiVariant) authenticate(t *testing.T, c *fapiClient, form url.Values) {
	t.Helper()
	if v.mtlsAuth {
		form.Set("client_id", c.id) // [RFC 8705 §2]
		return
	}
	for name, values := range v.assert(t, c, nil) {
		form[name] = values
	}
}

// token asks for one as the variant does, with edits of the proof and the form.
func (v *fapiVariant) token(t *testing.T, c *fapiClient, proof func(*fapiProof), edit func(url.Values)) reply {
	t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {fapiScope}}
	v.authenticate(t, c, form)
	if edit != nil {
		edit(form)
	}
	return v.post(t, c, form, func(r *http.Request) {
		if !v.mtlsBound {
			r.Header.Set("DPoP", v.proof(t, c, http.MethodPost, fapiIssuer+"/oauth2/token", "", proof))
		}
	})
}

// post posts a form to the token endpoint, by the connection of a client, or one
// without a certificate.
func (v *fapiVariant) post(t *testing.T, c *fapiClient, form url.Values, edit func(*http.Request)) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, fapiIssuer+"/oauth2/token", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if edit != nil {
		edit(req)
	}
	by := v.plain
	if c != nil && (v.mtlsAuth || v.mtlsBound) {
		by = c.http
	}
	return doBy(t, by, req)
}

// get asks for what is at a URL. The certificate is shown only where tokens are
// bound to it.
func (v *fapiVariant) get(t *testing.T, c *fapiClient, at string, edit func(*http.Request)) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at, nil)
	if err != nil {
		t.Fatal(err)
	}
	if edit != nil {
		edit(req)
	}
	by := v.plain
	if c != nil && v.mtlsBound {
		by = c.http
	}
	return doBy(t, by, req)
}

// use asks the resource with a token.
func (v *fapiVariant) use(t *testing.T, c *fapiClient, token string, proof func(*fapiProof), edit func(*http.Request)) reply {
	t.Helper()
	return v.get(t, c, fapiResource, func(r *http.Request) {
		r.Header.Set("Authorization", "Bearer "+token)
		if !v.mtlsBound {
			r.Header.Set("Authorization", "DPoP "+token)
			r.Header.Set("DPoP", v.proof(t, c, http.MethodGet, fapiResourceURL, token, proof))
		}
		if edit != nil {
			edit(r)
		}
	})
}

// verify verifies a token as a resource server does.
func (v *fapiVariant) verify(t *testing.T, token string) map[string]any {
	t.Helper()
	return verifyBy(t, oidc.ClientContext(t.Context(), v.plain), fapiIssuer, fapiIssuer+"/v1", token)
}

// confirmation is the member of cnf that tokens of the client have, and its value.
func (v *fapiVariant) confirmation(c *fapiClient) [2]string {
	if v.mtlsBound {
		sum := sha256.Sum256(c.cert)
		return [2]string{"x5t#S256", base64.RawURLEncoding.EncodeToString(sum[:])}
	}
	sum, err := (&gojose.JSONWebKey{Key: c.proofKey.Public()}).Thumbprint(crypto.SHA256)
	if err != nil {
		return [2]string{"jkt", err.Error()}
	}
	return [2]string{"jkt", base64.RawURLEncoding.EncodeToString(sum)}
}

// fapiCiphers are the cipher suites that BCP 195 recommends for TLS 1.2 [RFC 9325
// §4.2]; the profile permits no others [FAPI2-SP-FINAL §5.2.2].
var fapiCiphers = []uint16{
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
}

// checkTLS tries versions and cipher suites of TLS.
func (s *fapiServer) checkTLS(t *testing.T) {
	t.Helper()
	dial := func(edit func(*tls.Config)) (tls.ConnectionState, error) {
		config := s.tlsConfig()
		edit(config)
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", s.address, config)
		if err != nil {
			return tls.ConnectionState{}, err
		}
		defer conn.Close()
		return conn.ConnectionState(), nil
	}
	for version := uint16(tls.VersionTLS10); version <= tls.VersionTLS13; version++ {
		_, err := dial(func(c *tls.Config) { c.MinVersion, c.MaxVersion = version, version })
		if (err == nil) != (version >= tls.VersionTLS12) {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
	}
	if state, err := dial(func(*tls.Config) {}); err != nil || state.Version != tls.VersionTLS13 {
		t.Errorf("preferred: %s, %v", tls.VersionName(state.Version), err)
	}
	var others []uint16
	for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if !slices.Contains(fapiCiphers, suite.ID) && slices.Contains(suite.SupportedVersions, tls.VersionTLS12) {
			others = append(others, suite.ID)
		}
	}
	for name, suites := range map[string][]uint16{"recommended": fapiCiphers, "others": others} {
		state, err := dial(func(c *tls.Config) { c.MaxVersion, c.CipherSuites = tls.VersionTLS12, suites })
		if (err == nil) != (name == "recommended") {
			t.Errorf("%s suites of TLS 1.2: %s, %v", name, tls.CipherSuiteName(state.CipherSuite), err)
		}
	}
}
