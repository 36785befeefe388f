package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/sts"
	"google.golang.org/grpc/metadata"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/internal/testserver"
)

// authority signs the certificates of the tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

var testCA *authority

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, err
}

// issue writes a certificate for 127.0.0.1 and its key.
func (a *authority) issue(t *testing.T, dir string, serial int64) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file+".new", pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// startTLS starts a server as an operator sets it up: by a file, with TLS on
// both listeners. more are lines of the file.
func startTLS(t *testing.T, more ...string) *node {
	t.Helper()
	return startTLSIn(t, t.TempDir(), "", more...)
}

// startTLSIn starts it in a directory, with more settings of TLS.
func startTLSIn(t *testing.T, dir, settings string, more ...string) *node {
	t.Helper()
	testCA.issue(t, dir, 2)
	var wrapping [32]byte
	rand.Read(wrapping[:])
	if err := os.WriteFile(filepath.Join(dir, "signing.key"), []byte(base64.StdEncoding.EncodeToString(wrapping[:])+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	httpAddr, grpcAddr := testserver.FreeAddress(t), testserver.FreeAddress(t)
	config := fmt.Sprintf(`issuer: https://%[1]s
http:
  listen: %[1]s
  tls: {cert_file: tls.crt, key_file: tls.key%[3]s}
grpc:
  listen: %[2]s
  tls: {cert_file: tls.crt, key_file: tls.key%[3]s}
storage: {bolt_file: sts.db}
keys: {sets: [{name: default, local: {key_file: signing.key}}]}
audit: {file: audit.jsonl}
admin: {token_file: admin.token}
`, httpAddr, grpcAddr, settings) + strings.Join(more, "\n")
	token := adminToken(t, dir)
	file := filepath.Join(dir, "stsd.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	n := start(t, "serve", "--config", file)
	n.dir = dir
	n.env = map[string]string{
		"STS_ISSUER": "https://" + httpAddr, "STS_HTTP": "https://" + httpAddr, "STS_GRPC": grpcAddr,
		"STS_ADMIN_TOKEN": token, "STS_ADMIN_SOCKET": filepath.Join(dir, "admin.sock"),
	}
	return n
}

// TestGRPCCredentials makes a gRPC call with the token that grpc-go's own STS
// credentials exchange: they post JSON, over https only, and authenticate no
// client.
func TestGRPCCredentials(t *testing.T) {
	issuer := newIssuer(t)
	n := startTLS(t)
	n.apply(t, issuer.yaml("ci", "self_presented: true")+`---
kind: Audience
name: orders
scopes: [orders.read]
---
kind: Rule
name: ci
subject: {issuer: ci, claims: {sub: job-1}}
allow: {audiences: [orders], scopes: [orders.read]}
`)
	tokenFile := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(tokenFile, []byte(issuer.token(t, n, nil)), 0o600); err != nil {
		t.Fatal(err)
	}
	perRPC, err := sts.NewCredentials(sts.Options{
		TokenExchangeServiceURI: n.env["STS_HTTP"] + "/v1/token:exchange",
		Audience:                "orders", Scope: "orders.read", SubjectTokenPath: tokenFile, SubjectTokenType: typeJWT,
	})
	if err != nil {
		t.Fatal(err)
	}
	// The server called is one of the test's, which looks at what arrives.
	var got string
	certFile, keyFile := testCA.issue(t, t.TempDir(), 3)
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	upstream := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&cert)), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(s.Context())
		got = strings.Join(md.Get("authorization"), ",")
		return s.SendMsg(&stsv1.GetJwksResponse{})
	}))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go upstream.Serve(l)
	defer upstream.Stop()
	roots := x509.NewCertPool()
	roots.AddCert(testCA.cert)
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(credentials.NewClientTLSFromCert(roots, "")), grpc.WithPerRPCCredentials(perRPC))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Invoke(t.Context(), "/upstream.Orders/Get", &stsv1.GetJwksRequest{}, &stsv1.GetJwksResponse{}); err != nil {
		t.Fatalf("%v\n%s", err, n.log)
	}
	token, ok := strings.CutPrefix(got, "Bearer ")
	if !ok {
		t.Fatalf("authorization %q", got)
	}
	if claims := verify(t, n.env["STS_ISSUER"], "orders", token); claims["sub"] != "ci:job-1" || claims["scope"] != "orders.read" {
		t.Errorf("claims %v", claims)
	}
}

// TestCertificateReload replaces the certificate under a running server.
func TestCertificateReload(t *testing.T) {
	n := startTLS(t)
	serial := func(addr string) int64 {
		roots := x509.NewCertPool()
		roots.AddCert(testCA.cert)
		conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: roots, NextProtos: []string{"h2"}})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	addrs := []string{strings.TrimPrefix(n.env["STS_HTTP"], "https://"), n.env["STS_GRPC"]}
	for _, addr := range addrs {
		if got := serial(addr); got != 2 {
			t.Fatalf("%s presents certificate %d, want 2", addr, got)
		}
	}
	testCA.issue(t, n.dir, 9)
	for _, addr := range addrs {
		deadline := time.Now().Add(30 * time.Second)
		for serial(addr) != 9 {
			if time.Now().After(deadline) {
				t.Fatalf("%s still presents the old certificate after 30 s", addr)
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
	// [M-14] The live listener, not the configuration, refuses old protocols.
	for _, addr := range addrs {
		_, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10})
		if err == nil {
			t.Errorf("%s accepts TLS 1.1", addr)
		}
	}
}
