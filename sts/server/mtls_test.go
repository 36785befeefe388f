package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// certAuthority signs certificates of the tests.
type certAuthority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(tb testing.TB, name string, parent *certAuthority) *certAuthority {
	tb.Helper()
	a := &certAuthority{}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if parent == nil {
		parent = &certAuthority{template, a.key}
	}
	a.cert = parent.sign(tb, template, a.key)
	return a
}

func (a *certAuthority) sign(tb testing.TB, template *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return cert
}

// issue returns a certificate of a client for a DNS name, or for a URI.
func (a *certAuthority) issue(tb testing.TB, name string, edit ...func(*x509.Certificate)) tls.Certificate {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if u, err := url.Parse(name); err == nil && u.IsAbs() {
		template.URIs = []*url.URL{u}
	} else {
		template.DNSNames = []string{name}
	}
	for _, e := range edit {
		e(template)
	}
	if a == nil {
		a = &certAuthority{template, key} // self-signed
	}
	cert := a.sign(tb, template, key)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

func writePEM(tb testing.TB, file, kind string, ders ...[]byte) {
	tb.Helper()
	var b []byte
	for _, der := range ders {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})...)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		tb.Fatal(err)
	}
}

func pemOf(c tls.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}))
}

// mutual is a fixture whose listeners ask for certificates. Its clients are
// orders, by a DNS name, svid, by a SPIFFE ID, and self, by the key of ownCert.
type mutual struct {
	*fixture
	ca, spire *certAuthority
	files     ClientCertificateFiles
	clients   *ClientCertificates
	orders    tls.Certificate
	own       tls.Certificate
}

func newMutual(t *testing.T, proxies ...TrustedProxy) *mutual {
	t.Helper()
	dir := t.TempDir()
	m := &mutual{ca: newAuthority(t, "clients", nil), spire: newAuthority(t, "example.org", nil)}
	m.files = ClientCertificateFiles{CA: filepath.Join(dir, "ca.pem"), SPIFFE: map[string]string{"example.org": filepath.Join(dir, "spire.pem")}}
	writePEM(t, m.files.CA, "CERTIFICATE", m.ca.cert.Raw)
	writePEM(t, m.files.SPIFFE["example.org"], "CERTIFICATE", m.spire.cert.Raw)
	m.orders, m.own = m.ca.issue(t, "orders.example.com"), (*certAuthority)(nil).issue(t, "self.example.com")
	certFile, keyFile := writeCertificate(t, dir, "server")
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	serverTLS := &tls.Config{Certificates: []tls.Certificate{pair}}
	m.reload(t, proxies...)
	m.fixture = newFixture(t, func(c *Config) {
		c.HTTPTLS, c.GRPCTLS, c.HTTPClients, c.GRPCClients = serverTLS, serverTLS, m.clients, m.clients
	})
	key, err := json.Marshal(map[string]any{"keys": []any{map[string]string{
		"kty": "EC", "crv": "P-256", "x": coordinate(m.own, 1), "y": coordinate(m.own, 33),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	var put []sts.Resource
	for name, how := range map[string]sts.ClientTLS{
		"orders": {SANDNS: "orders.example.com"}, "self": {SelfSigned: &sts.ClientSelfSigned{JWKS: string(key)}},
		"svid":  {SPIFFE: &sts.ClientSPIFFE{TrustDomain: "example.org", Path: "/ns/*/sa/orders"}},
		"proxy": {SANDNS: "proxy.example.com"},
	} {
		put = append(put, sts.Resource{Client: &sts.Client{Name: name, TLS: &how}}, sts.Resource{Rule: &policy.Rule{
			Name: name, Requester: policy.Requester{Clients: []string{name}}, Allow: policy.Allow{Audiences: []string{"api"}, Scopes: []string{"read"}},
		}})
	}
	if _, err := m.service.Apply(t.Context(), sts.Change{Put: put}); err != nil {
		t.Fatal(err)
	}
	return m
}

// coordinate is one of the key of a certificate, at its place in the point.
func coordinate(c tls.Certificate, at int) string {
	point, err := c.Leaf.PublicKey.(*ecdsa.PublicKey).Bytes()
	if err != nil {
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(point[at : at+32])
}

// reload has the files looked at as they are looked at every so often.
func (m *mutual) reload(t *testing.T, proxies ...TrustedProxy) {
	t.Helper()
	if m.clients == nil {
		c, err := ReloadingClientCertificates(m.files, proxies, time.Hour, discard())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		m.clients = c
		return
	}
	if err := m.clients.load(); err != nil {
		t.Fatal(err)
	}
}

// as is a client of every face, with a certificate or none.
type as struct {
	m    *mutual
	http *http.Client
	conn *grpc.ClientConn
}

func (m *mutual) as(t *testing.T, cert *tls.Certificate) *as {
	t.Helper()
	config := &tls.Config{InsecureSkipVerify: true, ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	if cert != nil {
		config.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if len(info.AcceptableCAs) > 0 {
				t.Error("the server names authorities, so clients with other certificates do not show them")
			}
			return cert, nil
		}
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	conn, err := grpc.NewClient(m.grpcAddr, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		t.Fatal(err)
	}
	a := &as{m, &http.Client{Transport: transport}, conn}
	t.Cleanup(func() { transport.CloseIdleConnections(); conn.Close() })
	return a
}

// ask asks for a token of a client at each face, with headers that become
// metadata over gRPC.
func (a *as) ask(t *testing.T, params url.Values, header http.Header) map[string]answer {
	t.Helper()
	if params.Get("audience") == "" {
		params.Set("audience", "api")
	}
	body := map[string]string{}
	for name := range params {
		body[name] = params.Get(name)
	}
	jsonBody, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	form := url.Values{"grant_type": {"client_credentials"}}
	for name, values := range params {
		form[name] = values
	}
	ctx := t.Context()
	for name, values := range header {
		for _, v := range values {
			ctx = metadata.AppendToOutgoingContext(ctx, strings.ToLower(name), v)
		}
	}
	resp, err := stsv1.NewTokenServiceClient(a.conn).IssueToken(ctx, &stsv1.IssueTokenRequest{
		ClientId: params.Get("client_id"), ClientSecret: params.Get("client_secret"), Audience: []string{params.Get("audience")},
	})
	overGRPC := answerOf(err)
	overGRPC.token = resp.GetAccessToken()
	return map[string]answer{
		"form": a.post(t, "/oauth2/token", "application/x-www-form-urlencoded", []byte(form.Encode()), header),
		"json": a.post(t, "/v1/token:issue", "application/json", jsonBody, header),
		"grpc": overGRPC,
	}
}

func (a *as) post(t *testing.T, path, contentType string, body []byte, header http.Header) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+a.m.httpAddr+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := a.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var reply struct {
		Error       sts.Code `json:"error"`
		Description string   `json:"error_description"`
		AccessToken string   `json:"access_token"`
	}
	if err := json.Unmarshal(raw, &reply); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return answer{
		code: reply.Error, message: reply.Description, token: reply.AccessToken, http: resp.StatusCode, raw: string(raw),
		decision: resp.Header.Get(headerDecisionID), header: resp.Header,
	}
}

// expect asks at each face; code is empty for a token.
func (a *as) expect(t *testing.T, code sts.Code, params url.Values, header http.Header) {
	t.Helper()
	b := a.m.before()
	for face, got := range a.ask(t, params, header) {
		if got.code != code || (got.token == "") != (code != "") {
			t.Errorf("%s: %q, want %q: %s", face, got.code, code, got.raw)
		}
		if code == sts.InvalidClient && face != "grpc" && got.http != http.StatusUnauthorized {
			t.Errorf("%s: status %d", face, got.http)
		}
		a.m.assertNoCanary(t, got.raw)
	}
	records, signed := a.m.audit.all()[b.records:], a.m.keys.signed.Load()-b.signed
	if len(records) != 3 || code != "" && signed != 0 || code == "" && signed != 3 {
		t.Errorf("%d records and %d signatures for three requests", len(records), signed)
	}
	for _, r := range records {
		if (r.Outcome == "deny") != (code != "") {
			t.Errorf("record %+v", r)
		}
	}
}

func client(id string) url.Values { return url.Values{"client_id": {id}} }

// TestMutualTLS asks for tokens with certificates of every kind, at every face.
func TestMutualTLS(t *testing.T) {
	m := newMutual(t)
	root := newAuthority(t, "stranger", nil)
	ofStranger := root.issue(t, "orders.example.com")
	svid := m.spire.issue(t, "spiffe://example.org/ns/prod/sa/orders")
	foreign := m.ca.issue(t, "spiffe://example.org/ns/prod/sa/orders")
	middle := newAuthority(t, "middle", m.ca)
	chained := middle.issue(t, "orders.example.com")
	unchained := chained
	chained.Certificate = append(chained.Certificate[:1:1], middle.cert.Raw)
	long := chained
	for range maxChain {
		long.Certificate = append(long.Certificate[:len(long.Certificate):len(long.Certificate)], middle.cert.Raw)
	}
	server := m.ca.issue(t, "orders.example.com", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	expired := m.ca.issue(t, "orders.example.com", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) })
	wildcard := m.ca.issue(t, "*.example.com")
	secret := url.Values{"client_id": {"web"}, "client_secret": {m.secret}}
	for name, tc := range map[string]struct {
		cert   *tls.Certificate
		params url.Values
		code   sts.Code
	}{
		"good":                            {&m.orders, client("orders"), ""},
		"good: self-signed":               {&m.own, client("self"), ""},
		"good: SVID":                      {&svid, client("svid"), ""},
		"good: with an intermediate":      {&chained, client("orders"), ""},
		"good: a secret, no certificate":  {nil, secret, ""},
		"good: a secret in a mesh":        {&svid, secret, ""},
		"good: a secret, any certificate": {&ofStranger, secret, ""},
		"no client id":                    {&m.orders, url.Values{}, sts.InvalidClient},
		"no certificate":                  {nil, client("orders"), sts.InvalidClient},
		"another client":                  {&m.orders, client("self"), sts.InvalidClient},
		"unknown client":                  {&m.orders, client("nobody"), sts.InvalidClient},
		"client with secrets":             {&m.orders, client("web"), sts.InvalidClient},
		"of a stranger":                   {&ofStranger, client("orders"), sts.InvalidClient},
		"M-04 wildcard":                   {&wildcard, client("orders"), sts.InvalidClient},
		"M-06 expired":                    {&expired, client("orders"), sts.InvalidClient},
		"M-06 for servers":                {&server, client("orders"), sts.InvalidClient},
		"M-07 another key":                {&ofStranger, client("self"), sts.InvalidClient},
		"M-11 long chain":                 {&long, client("orders"), sts.InvalidClient},
		"M-12 of no trust domain":         {&foreign, client("svid"), sts.InvalidClient},
		"intermediate missing":            {&unchained, client("orders"), sts.InvalidClient},
		"A-19 a secret too":               {&m.orders, url.Values{"client_id": {"orders"}, "client_secret": {m.secret}}, sts.InvalidRequest},
	} {
		t.Run(name, func(t *testing.T) {
			m.as(t, tc.cert).expect(t, tc.code, tc.params, nil)
			m.as(t, &m.orders).expect(t, "", client("orders"), nil) // ends the failures in a row, which slow a client down
		})
	}
}

// TestForwardedHeadersAreIgnored holds that a header with a certificate says
// nothing unless a trusted proxy sends it [M-01, M-03].
func TestForwardedHeadersAreIgnored(t *testing.T) {
	name, err := sts.NewCertificateName(&sts.ClientTLS{SANDNS: "proxy.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	for what, proxies := range map[string][]TrustedProxy{
		"no proxy":      nil,
		"another proxy": {{Name: name, Header: "Client-Cert", Format: ForwardedRFC9440}},
	} {
		m := newMutual(t, proxies...)
		victim := url.PathEscape(pemOf(m.orders))
		pretender := newAuthority(t, "pretender", nil).issue(t, "proxy.example.com")
		other := m.ca.issue(t, "notproxy.example.com")
		for header, value := range map[string]string{
			"Client-Cert":             ":" + base64.StdEncoding.EncodeToString(m.orders.Certificate[0]) + ":",
			"X-Forwarded-Client-Cert": `Cert="` + victim + `"`, "X-Ssl-Client-Cert": victim, "Ssl_client_cert": victim, "X-Client-Cert": victim,
			"Grpc-Metadata-Client-Cert":             ":" + base64.StdEncoding.EncodeToString(m.orders.Certificate[0]) + ":",
			"Grpc-Metadata-X-Forwarded-Client-Cert": `Cert="` + victim + `"`,
		} {
			for who, cert := range map[string]*tls.Certificate{"nobody": nil, "another client": &m.own, "a pretender": &pretender, "not the proxy": &other} {
				t.Run("M-01 M-03 "+what+" "+header+" "+who, func(t *testing.T) {
					m.as(t, cert).expect(t, sts.InvalidClient, client("orders"), http.Header{header: {value}})
				})
			}
		}
	}
}

// TestTrustedProxy forwards certificates as proxies do, and as attackers behind
// them would like [M-02].
func TestTrustedProxy(t *testing.T) {
	name, err := sts.NewCertificateName(&sts.ClientTLS{SANDNS: "proxy.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	der := func(c tls.Certificate) string { return ":" + base64.StdEncoding.EncodeToString(c.Certificate[0]) + ":" }
	escaped := func(cs ...tls.Certificate) string {
		var b strings.Builder
		for _, c := range cs {
			b.WriteString(strings.NewReplacer("\n", "%0A", " ", "%20", "+", "%2B", "/", "%2F", "=", "%3D").Replace(pemOf(c)))
		}
		return b.String()
	}
	for format, header := range ForwardedFormats {
		m := newMutual(t, TrustedProxy{Name: name, Header: header, Format: format})
		proxyCert := m.ca.issue(t, "proxy.example.com")
		proxy := m.as(t, &proxyCert)
		middle := newAuthority(t, "middle", m.ca)
		chained, other := middle.issue(t, "orders.example.com"), m.ca.issue(t, "other.example.com")
		over := tls.Certificate{Certificate: [][]byte{middle.cert.Raw}}
		type row struct {
			header http.Header
			client string
			code   sts.Code
		}
		h := http.CanonicalHeaderKey(header)
		one := func(v ...string) http.Header { return http.Header{h: v} }
		good := map[ForwardedFormat]func(tls.Certificate) string{
			ForwardedRFC9440: der, ForwardedEscapedPEM: func(c tls.Certificate) string { return escaped(c) },
			ForwardedXFCC: func(c tls.Certificate) string {
				return `By=spiffe://example.org/proxy;Hash=abc;Cert="` + escaped(c) + `";Subject="CN=\"a\",O=b;c";URI=;DNS=a;DNS=b`
			},
		}[format]
		v := good(m.orders)
		rows := map[string]row{
			"good":                            {one(v), "orders", ""},
			"good: self-signed":               {one(good(m.own)), "self", ""},
			"none":                            {nil, "orders", sts.InvalidClient},
			"none, and the proxy's own":       {nil, "proxy", sts.InvalidClient},
			"another's":                       {one(good(other)), "orders", sts.InvalidClient},
			"an intermediate is missing":      {one(good(chained)), "orders", sts.InvalidClient},
			"M-02 twice":                      {one(v, v), "orders", sts.InvalidClient},
			"M-02 twice, other first":         {one(good(other), v), "orders", sts.InvalidClient},
			"M-02 underscores beside":         {http.Header{h: {v}, strings.ReplaceAll(h, "-", "_"): {v}}, "orders", sts.InvalidClient},
			"M-02 underscores alone":          {http.Header{strings.ReplaceAll(h, "-", "_"): {v}}, "orders", sts.InvalidClient},
			"M-02 one underscore":             {http.Header{strings.Replace(h, "-", "_", 1): {v}}, "orders", sts.InvalidClient},
			"M-02 joined":                     {one(good(other) + ", " + v), "orders", sts.InvalidClient},
			"M-02 joined, other way":          {one(v + "," + good(other)), "orders", sts.InvalidClient},
			"garbage":                         {one("x"), "orders", sts.InvalidClient},
			"cut":                             {one(v[:len(v)/2]), "orders", sts.InvalidClient},
			"M-03 as metadata of the gateway": {http.Header{"Grpc-Metadata-" + h: {v}}, "orders", sts.InvalidClient},
		}
		switch format {
		case ForwardedRFC9440:
			rows["good: chain"] = row{http.Header{h: {der(chained)}, "Client-Cert-Chain": {der(over) + ", " + der(tls.Certificate{Certificate: [][]byte{m.ca.cert.Raw}})}}, "orders", ""}
			rows["M-02 chain twice"] = row{http.Header{h: {der(chained)}, "Client-Cert-Chain": {der(over), der(over)}}, "orders", sts.InvalidClient}
			rows["chain alone"] = row{http.Header{"Client-Cert-Chain": {v}}, "orders", sts.InvalidClient}
			rows["parameters"] = row{one(v + ";a=b"), "orders", sts.InvalidClient}
			rows["not padded"] = row{one(":" + strings.TrimRight(strings.Trim(v, ":"), "=") + "A:"), "orders", sts.InvalidClient}
			rows["space inside"] = row{one(v[:20] + " " + v[20:]), "orders", sts.InvalidClient}
		case ForwardedXFCC:
			rows["good: chain"] = row{one(`Chain="` + escaped(chained, over) + `"`), "orders", ""}
			rows["good: cert and chain"] = row{one(`Cert="` + escaped(chained) + `";Chain="` + escaped(chained, over) + `"`), "orders", ""}
			rows["cert and another chain"] = row{one(`Cert="` + escaped(m.orders) + `";Chain="` + escaped(chained, over) + `"`), "orders", sts.InvalidClient}
			rows["M-02 two certs"] = row{one(`Cert="` + escaped(other) + `";cert="` + escaped(m.orders) + `"`), "orders", sts.InvalidClient}
			rows["names alone"] = row{one(`URI=https://x;DNS=orders.example.com;Hash=00`), "orders", sts.InvalidClient}
			rows["open quote"] = row{one(`Cert="` + escaped(m.orders)), "orders", sts.InvalidClient}
			rows["quote inside"] = row{one(`URI=a";Cert="` + escaped(m.orders) + `"`), "orders", sts.InvalidClient}
		case ForwardedEscapedPEM:
			rows["two certificates"] = row{one(escaped(m.orders, other)), "orders", sts.InvalidClient}
			rows["text before"] = row{one("x%0A" + v), "orders", sts.InvalidClient}
			rows["text after"] = row{one(v + "x"), "orders", sts.InvalidClient}
			rows["bad escape"] = row{one(v + "%zz"), "orders", sts.InvalidClient}
		}
		for what, r := range rows {
			t.Run(string(format)+" "+what, func(t *testing.T) { proxy.expect(t, r.code, client(r.client), r.header) })
		}
		t.Run(string(format)+" M-09 the authority of the proxy is gone", func(t *testing.T) {
			writePEM(t, m.files.CA, "CERTIFICATE", newAuthority(t, "next", nil).cert.Raw)
			m.reload(t)
			proxy.expect(t, sts.InvalidClient, client("self"), one(good(m.own)))
		})
	}
}

// TestResumedSession removes an authority under clients that are connected, and
// that resume TLS sessions [M-09].
func TestResumedSession(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run("M-09 "+tls.VersionName(version), func(t *testing.T) {
			m := newMutual(t)
			connected := m.as(t, &m.orders)
			connected.expect(t, "", client("orders"), nil)
			cache := tls.NewLRUClientSessionCache(4)
			ask := func() (answer, bool) {
				config := &tls.Config{InsecureSkipVerify: true, ClientSessionCache: cache, Certificates: []tls.Certificate{m.orders}, MaxVersion: version, ServerName: "localhost"}
				resumed := false
				transport := &http.Transport{DialTLSContext: nil, TLSClientConfig: config}
				config.VerifyConnection = func(s tls.ConnectionState) error { resumed = s.DidResume; return nil }
				defer transport.CloseIdleConnections()
				a := &as{m: m, http: &http.Client{Transport: transport}}
				form := url.Values{"grant_type": {"client_credentials"}, "client_id": {"orders"}, "audience": {"api"}}
				return a.post(t, "/oauth2/token", "application/x-www-form-urlencoded", []byte(form.Encode()), nil), resumed
			}
			if got, resumed := ask(); got.token == "" || resumed {
				t.Fatalf("first: %s, resumed %t", got.raw, resumed)
			}
			if got, resumed := ask(); got.token == "" || !resumed {
				t.Fatalf("second: %s, resumed %t: the test would prove nothing", got.raw, resumed)
			}
			writePEM(t, m.files.CA, "CERTIFICATE", newAuthority(t, "next", nil).cert.Raw)
			m.reload(t)
			if got, resumed := ask(); got.code != sts.InvalidClient || !resumed {
				t.Errorf("resumed after the authority was removed: %s, resumed %t", got.raw, resumed)
			}
			connected.expect(t, sts.InvalidClient, client("orders"), nil)
		})
	}
}

// TestWatchedCertificate ends a watch when the authority is removed.
func TestWatchedCertificate(t *testing.T) {
	m := newMutual(t)
	a := m.as(t, &m.orders)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	rule := sts.Resource{Rule: &policy.Rule{
		Name: "orders", Requester: policy.Requester{Clients: []string{"orders"}}, Allow: policy.Allow{Audiences: []string{"api"}, Scopes: []string{"read"}, TTL: 10 * time.Second},
	}}
	if _, err := m.service.Apply(ctx, sts.Change{Put: []sts.Resource{rule}}); err != nil {
		t.Fatal(err)
	}
	watch, err := stsv1.NewTokenServiceClient(a.conn).WatchToken(ctx, &stsv1.WatchTokenRequest{
		Request: &stsv1.WatchTokenRequest_Issue{Issue: &stsv1.IssueTokenRequest{ClientId: "orders", Audience: []string{"api"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	writePEM(t, m.files.CA, "CERTIFICATE", newAuthority(t, "next", nil).cert.Raw)
	m.reload(t)
	if _, err := watch.Recv(); answerOf(err).code != sts.InvalidClient {
		t.Errorf("the watch goes on: %v", err)
	}
}
