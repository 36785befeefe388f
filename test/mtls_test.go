package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
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

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

// mutualNode is a server that asks for certificates, with clients orders, by a DNS
// name, orders-self, by its key, and orders-svid, by a SPIFFE ID.
type mutualNode struct {
	*node
	clients, spire *authority
}

func startMutualTLS(t *testing.T) *mutualNode {
	t.Helper()
	m := &mutualNode{}
	dir := t.TempDir()
	for name, to := range map[string]**authority{"clients.pem": &m.clients, "example.org.pem": &m.spire} {
		a, err := newAuthority()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), a.pem, 0o600); err != nil {
			t.Fatal(err)
		}
		*to = a
	}
	m.node = startTLSIn(t, dir, `, client_certificates: {ca_file: clients.pem, spiffe_bundles: [{trust_domain: example.org, ca_file: example.org.pem}]}`)
	m.clients.client(t, dir, "orders", func(c *x509.Certificate) { c.DNSNames = []string{"orders.example.com"} })
	self := m.selfSigned(t, dir, "self")
	jwks, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: self.PublicKey}}})
	if err != nil {
		t.Fatal(err)
	}
	m.apply(t, `
kind: Audience
name: payments
scopes: [payments.read]
---
kind: Client
name: orders
tls: {san_dns: orders.example.com}
---
kind: Client
name: orders-self
tls: {self_signed: {jwks: '`+string(jwks)+`'}}
---
kind: Client
name: orders-svid
tls: {spiffe: {trust_domain: example.org, path: /ns/*/sa/orders}}
---
kind: Rule
name: orders
requester: {clients: [orders, orders-self, orders-svid]}
allow: {audiences: [payments], scopes: [payments.read]}
---
kind: Rule
name: again
requester: {clients: [orders, orders-self, orders-svid]}
subject: {issuer: self, accept_unaddressed: true}
allow: {audiences: [payments], scopes: [payments.read]}
`)
	return m
}

// client writes NAME.crt and NAME.key, a certificate of a client.
func (a *authority) client(t *testing.T, dir, name string, edit func(*x509.Certificate)) (der []byte, key *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	edit(template)
	parent, signer := template, key
	if a != nil {
		parent, signer = a.cert, a.key
	}
	if der, err = x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer); err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".crt": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return der, key
}

func (m *mutualNode) selfSigned(t *testing.T, dir, name string) *x509.Certificate {
	t.Helper()
	der, _ := (*authority)(nil).client(t, dir, name, func(c *x509.Certificate) { c.DNSNames = []string{name} })
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func (m *mutualNode) pair(t *testing.T, name string) tls.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(m.dir, name+".crt"), filepath.Join(m.dir, name+".key"))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// issue asks for a token over gRPC by a connection with these credentials.
func (m *mutualNode) issue(t *testing.T, config *tls.Config, client string) (string, error) {
	t.Helper()
	conn, err := grpc.NewClient(m.env["STS_GRPC"], grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	resp, err := stsv1.NewTokenServiceClient(conn).IssueToken(t.Context(), &stsv1.IssueTokenRequest{ClientId: client, Audience: []string{"payments"}})
	return resp.GetAccessToken(), err
}

// TestNodeMutualTLS runs openid-client with its TlsClientAuth.
func TestNodeMutualTLS(t *testing.T) {
	m := startMutualTLS(t)
	for client, name := range map[string]string{"orders": "orders", "orders-self": "self"} {
		env := append(m.environ(), "STS_CLIENT_ID="+client, "STS_AUDIENCE=payments", "NODE_EXTRA_CA_CERTS="+os.Getenv("SSL_CERT_FILE"),
			"CERT="+filepath.Join(m.dir, name+".crt"), "KEY="+filepath.Join(m.dir, name+".key"))
		out, stderr, code := command(t, env, "", "node", filepath.Join("node", "mtls.mjs"))
		if code != 0 || !strings.Contains(out, "ok: client credentials") || !strings.Contains(out, "ok: token exchange") || !strings.Contains(out, "ok: no certificate") {
			t.Errorf("%s: %s\n%s", client, out, stderr)
		}
	}
	methods := map[any]int{}
	for _, r := range m.audit(t) {
		if r["outcome"] == "allow" {
			methods[r["auth_method"]]++
		}
	}
	if methods["tls_client_auth"] == 0 || methods["self_signed_tls_client_auth"] == 0 {
		t.Errorf("methods in the audit log: %v", methods)
	}
}

// TestGRPCMutualTLS authenticates by the credentials of grpc-go.
func TestGRPCMutualTLS(t *testing.T) {
	m := startMutualTLS(t)
	token, err := m.issue(t, &tls.Config{Certificates: []tls.Certificate{m.pair(t, "orders")}}, "orders")
	if err != nil {
		t.Fatalf("%v\n%s", err, m.log)
	}
	if claims := verify(t, m.env["STS_ISSUER"], "payments", token); claims["sub"] != "orders" {
		t.Errorf("claims %v", claims)
	}
	for name, config := range map[string]*tls.Config{
		"no certificate": {}, "another certificate": {Certificates: []tls.Certificate{m.pair(t, "self")}},
	} {
		if token, err := m.issue(t, config, "orders"); token != "" || status.Code(err).String() != "Unauthenticated" {
			t.Errorf("%s: %v", name, err)
		}
	}
	// stsctl, by flags and by the environment.
	out, stderr, code := m.stsctl(t, "", "token", "--client-id", "orders", "--audience", "payments",
		"--tls-cert", filepath.Join(m.dir, "orders.crt"), "--tls-key", filepath.Join(m.dir, "orders.key"))
	if code != 0 || strings.Count(out, ".") != 2 {
		t.Errorf("stsctl: exit code %d, %s%s", code, out, stderr)
	}
	m.env["STS_TLS_CERT"], m.env["STS_TLS_KEY"] = filepath.Join(m.dir, "self.crt"), filepath.Join(m.dir, "self.key")
	if _, stderr, code := m.stsctl(t, "", "exchange", "--client-id", "orders-self", "--audience", "payments", "--subject-token", strings.TrimSpace(out)); code != 0 {
		t.Errorf("stsctl exchange: exit code %d, %s", code, stderr)
	}
}

// workloadAPI hands out one X.509-SVID, as a SPIRE agent does.
type workloadAPI struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	svid *workload.X509SVID
}

func (w *workloadAPI) FetchX509SVID(_ *workload.X509SVIDRequest, s grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	if err := s.Send(&workload.X509SVIDResponse{Svids: []*workload.X509SVID{w.svid}}); err != nil {
		return err
	}
	<-s.Context().Done()
	return nil
}

// svidSource is the X.509 source of go-spiffe, fed over the Workload API.
func (m *mutualNode) svidSource(t *testing.T, id string, by *authority) *workloadapi.X509Source {
	t.Helper()
	u, err := url.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	der, key := by.client(t, m.dir, "svid", func(c *x509.Certificate) {
		c.URIs, c.BasicConstraintsValid = []*url.URL{u}, true
		c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	})
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	agent := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(agent, &workloadAPI{svid: &workload.X509SVID{SpiffeId: id, X509Svid: der, X509SvidKey: keyDER, Bundle: by.cert.Raw}})
	go agent.Serve(l)
	t.Cleanup(agent.Stop)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr("tcp://"+l.Addr().String())))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { source.Close() })
	return source
}

// TestSPIFFEMutualTLS presents X.509-SVIDs that go-spiffe gets from a Workload API.
func TestSPIFFEMutualTLS(t *testing.T) {
	m := startMutualTLS(t)
	for name, row := range map[string]struct {
		id string
		by *authority
		ok bool
	}{
		"good":                    {"spiffe://example.org/ns/prod/sa/orders", m.spire, true},
		"S-07 another path":       {"spiffe://example.org/ns/prod/sa/stock", m.spire, false},
		"M-12 authority of none":  {"spiffe://example.org/ns/prod/sa/orders", m.clients, false},
		"M-12 wrong trust domain": {"spiffe://other.example/ns/prod/sa/orders", m.spire, false},
		"S-07 a segment more":     {"spiffe://example.org/ns/prod/x/sa/orders", m.spire, false},
	} {
		t.Run(name, func(t *testing.T) {
			source := m.svidSource(t, row.id, row.by)
			token, err := m.issue(t, &tls.Config{GetClientCertificate: tlsconfig.GetClientCertificate(source)}, "orders-svid")
			if (err == nil) != row.ok || (token != "") != row.ok {
				t.Errorf("%v", err)
			}
			if err != nil && status.Code(err).String() != "Unauthenticated" {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestMutualTLSDiscovery holds that the documents announce certificates where they
// are asked for, and only there.
func TestMutualTLSDiscovery(t *testing.T) {
	for name, row := range map[string]struct {
		n    func() *node
		want []string
	}{
		"asked for":         {func() *node { return startMutualTLS(t).node }, []string{"tls_client_auth", "self_signed_tls_client_auth"}},
		"self-signed alone": {func() *node { return startTLSIn(t, t.TempDir(), ", client_certificates: {}") }, []string{"self_signed_tls_client_auth"}},
		"not asked for":     {func() *node { return startTLS(t) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			doc := get(t, row.n().env["STS_HTTP"]+"/.well-known/oauth-authorization-server")
			var got []string
			for _, v := range doc.body["token_endpoint_auth_methods_supported"].([]any) {
				if method := v.(string); strings.Contains(method, "tls_client_auth") {
					got = append(got, method)
				}
			}
			if !slices.Equal(got, row.want) {
				t.Errorf("%v, want %v", got, row.want)
			}
		})
	}
}

// TestClientAuthorityReload removes the authority of clients under a running
// server.
func TestClientAuthorityReload(t *testing.T) {
	t.Parallel()
	m := startMutualTLS(t)
	config := &tls.Config{Certificates: []tls.Certificate{m.pair(t, "orders")}, ClientSessionCache: tls.NewLRUClientSessionCache(4)}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	c := &http.Client{Transport: transport}
	ask := func() int {
		res, err := c.PostForm(m.env["STS_HTTP"]+"/oauth2/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {"orders"}, "audience": {"payments"}})
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		io.Copy(io.Discard, res.Body)
		return res.StatusCode
	}
	if got := ask(); got != http.StatusOK {
		t.Fatal(got)
	}
	next, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.dir, "clients.pem"), next.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	// [M-09] The connection stays, and what its certificate proves does not.
	for deadline := time.Now().Add(30 * time.Second); ask() != http.StatusUnauthorized; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the removed authority still counts after 30 s")
		}
	}
}

// TestHandshakeFlood opens connections that never begin a handshake; others are
// served meanwhile, and those are closed [M-13].
func TestHandshakeFlood(t *testing.T) {
	t.Parallel()
	m := startMutualTLS(t)
	const flood = 5000
	addrs := []string{strings.TrimPrefix(m.env["STS_HTTP"], "https://"), m.env["STS_GRPC"]}
	var conns []net.Conn
	for i := range flood {
		c, err := net.Dial("tcp", addrs[i%2])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	begin := time.Now()
	if _, err := m.issue(t, &tls.Config{Certificates: []tls.Certificate{m.pair(t, "orders")}}, "orders"); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("another client waited %s", took)
	}
	for _, c := range conns {
		if err := c.SetReadDeadline(begin.Add(15 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("a connection without a handshake is open after 15 s")
		}
	}
	if took := time.Since(begin); took > 12*time.Second {
		t.Errorf("closed after %s", took)
	}
}
