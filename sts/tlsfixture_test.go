package sts_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// testAuthority signs certificates of clients.
type testAuthority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newTestAuthority(t testing.TB, name string, now time.Time) *testAuthority {
	t.Helper()
	a := &testAuthority{key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert = sign(t, template, template, a.key.Public(), a.key)
	return a
}

func sign(t testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// leafTemplate is a good certificate of the client orders, under every name that a
// client can be known by but a SPIFFE ID.
func leafTemplate(now time.Time) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(7), NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour),
		Subject:  pkix.Name{CommonName: "orders", OrganizationalUnit: []string{"shop"}, Organization: []string{"Example, Inc."}},
		DNSNames: []string{"other.example.com", "orders.example.com"}, EmailAddresses: []string{"orders@example.com"},
		IPAddresses: []net.IP{net.IPv4(192, 0, 2, 7).To4(), net.ParseIP("2001:db8::7")}, URIs: []*url.URL{uri("https://orders.example.com/app")},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
}

// svidTemplate is a good X.509-SVID of spiffe://example.org/ns/prod/sa/orders.
func svidTemplate(now time.Time) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(8), NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour),
		URIs: []*url.URL{uri("spiffe://example.org/ns/prod/sa/orders")}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
}

func uri(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}

// tlsFixture is a fixture with a client orders, authorities for the trust domains
// example.org and other.example, and one for certificates of none.
type tlsFixture struct {
	*fixture
	authorities map[string]*testAuthority // by trust domain
	key         *ecdsa.PrivateKey         // of the client
	verified    int                       // how often a chain was verified
}

func newTLSFixture(t testing.TB, orders *sts.ClientTLS) *tlsFixture {
	t.Helper()
	f := &tlsFixture{fixture: newFixture(t), authorities: map[string]*testAuthority{}, key: newKey(t)}
	for _, domain := range []string{"", "example.org", "other.example"} {
		f.authorities[domain] = newTestAuthority(t, "authority of "+domain, f.now)
	}
	f.apply(t, sts.Change{Put: []sts.Resource{
		{Client: &sts.Client{Name: "orders", TLS: orders}},
		rule("orders", policy.Rule{Requester: policy.Requester{Clients: []string{"orders"}}, Allow: allow("api", "read")}),
	}})
	return f
}

// request is a request of orders with the certificate that a template makes, which
// the authority of a trust domain signs.
func (f *tlsFixture) request(t testing.TB, template *x509.Certificate, domain string) sts.TokenRequest {
	t.Helper()
	a := f.authorities[domain]
	return f.with(sign(t, template, a.cert, f.key.Public(), a.key))
}

// selfSigned is a request of orders with a certificate that it signed itself.
func (f *tlsFixture) selfSigned(t testing.TB, template *x509.Certificate) sts.TokenRequest {
	t.Helper()
	return f.with(sign(t, template, template, f.key.Public(), f.key))
}

func (f *tlsFixture) with(chain ...*x509.Certificate) sts.TokenRequest {
	return sts.TokenRequest{
		Grant: sts.ClientCredentials, Audiences: []string{"api"},
		Credential:   sts.Credential{Method: sts.TLSClientAuth, ClientID: "orders"},
		Certificates: chain,
		ClientVerified: func(domain string, now time.Time) error {
			f.verified++
			roots := x509.NewCertPool()
			if a, ok := f.authorities[domain]; ok {
				roots.AddCert(a.cert)
			}
			_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
			return err
		},
	}
}

// jwks has the public keys of keys.
func jwks(t testing.TB, keys ...*ecdsa.PrivateKey) string {
	t.Helper()
	var list []jose.Key
	for _, k := range keys {
		list = append(list, jose.Key{Public: k.Public()})
	}
	set, err := jose.NewKeySet(list...)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
