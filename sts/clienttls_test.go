package sts_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/workload-sts/sts/sts"
)

// TestClientByCertificate edits a good certificate, or who is asked for, in one
// way each.
func TestClientByCertificate(t *testing.T) {
	dns := sts.ClientTLS{SANDNS: "orders.example.com"}
	dn := sts.ClientTLS{SubjectDN: `CN=orders,OU=shop,O=Example\, Inc.`}
	for name, tc := range map[string]struct {
		client sts.ClientTLS
		edit   func(*x509.Certificate)
		ok     bool
	}{
		"good: M-04 the second DNS name": {dns, nil, true},
		"good: subject":                  {dn, nil, true},
		"good: subject in lower types":   {sts.ClientTLS{SubjectDN: `cn=orders,ou=shop,o=Example\2c Inc.`}, nil, true},
		"good: subject by OID":           {sts.ClientTLS{SubjectDN: `2.5.4.3=orders,OU=shop,O=Example\, Inc.`}, nil, true},
		"good: URI":                      {sts.ClientTLS{SANURI: "https://orders.example.com/app"}, nil, true},
		"good: IP":                       {sts.ClientTLS{SANIP: "192.0.2.7"}, nil, true},
		"good: IPv6 in another spelling": {sts.ClientTLS{SANIP: "2001:db8:0:0::7"}, nil, true},
		"good: email":                    {sts.ClientTLS{SANEmail: "orders@example.com"}, nil, true},
		"good: no extended key usage":    {dns, func(c *x509.Certificate) { c.ExtKeyUsage = nil }, true},
		"M-04 another DNS name":          {sts.ClientTLS{SANDNS: "stock.example.com"}, nil, false},
		"M-04 suffix":                    {sts.ClientTLS{SANDNS: "example.com"}, nil, false},
		"M-04 other case":                {sts.ClientTLS{SANDNS: "Orders.example.com"}, nil, false},
		"M-04 wildcard in the SAN":       {dns, func(c *x509.Certificate) { c.DNSNames = []string{"*.example.com"} }, false},
		"M-04 trailing dot in the SAN":   {dns, func(c *x509.Certificate) { c.DNSNames = []string{"xorders.example.com"} }, false},
		"M-04 common name only":          {dns, func(c *x509.Certificate) { c.DNSNames, c.Subject.CommonName = nil, "orders.example.com" }, false},
		"M-04 DNS name as an email":      {dns, func(c *x509.Certificate) { c.DNSNames, c.EmailAddresses = nil, []string{"orders.example.com"} }, false},
		"M-04 name as a URI":             {dns, func(c *x509.Certificate) { c.DNSNames, c.URIs = nil, []*url.URL{uri("orders.example.com")} }, false},
		"M-05 NUL in the DNS name":       {dns, func(c *x509.Certificate) { rawSAN(c, 2, "orders.example.com\x00.evil.example") }, false},
		"M-04 URI in another case":       {sts.ClientTLS{SANURI: "https://orders.example.com/app"}, func(c *x509.Certificate) { rawSAN(c, 6, "HTTPS://orders.example.com/app") }, false},
		"M-04 URI as a prefix":           {sts.ClientTLS{SANURI: "https://orders.example.com"}, nil, false},
		"M-04 another IP":                {sts.ClientTLS{SANIP: "192.0.2.70"}, nil, false},
		"M-04 IP mapped into IPv6":       {sts.ClientTLS{SANIP: "192.0.2.9"}, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.ParseIP("::ffff:192.0.2.8")} }, false},
		"M-04 email in another case":     {sts.ClientTLS{SANEmail: "Orders@example.com"}, nil, false},
		"subject: other common name":     {dn, func(c *x509.Certificate) { c.Subject.CommonName = "Orders" }, false},
		"subject: one part more":         {dn, func(c *x509.Certificate) { c.Subject.Country = []string{"DE"} }, false},
		"subject: one part less":         {dn, func(c *x509.Certificate) { c.Subject.OrganizationalUnit = nil }, false},
		"subject: other order":           {sts.ClientTLS{SubjectDN: `O=Example\, Inc.,OU=shop,CN=orders`}, nil, false},
		"subject: comma inside a value":  {dn, func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: `orders,OU=shop,O=Example\, Inc.`} }, false},
		"subject: plus inside a value":   {sts.ClientTLS{SubjectDN: "CN=orders+OU=shop"}, func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "orders+OU=shop"} }, false},
		"subject: quote inside a value":  {sts.ClientTLS{SubjectDN: "CN=orders,OU=shop"}, func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: `orders",2.5.4.11="shop`} }, false},
		"subject: another type":          {sts.ClientTLS{SubjectDN: "CN=orders"}, func(c *x509.Certificate) { c.Subject = pkix.Name{OrganizationalUnit: []string{"orders"}} }, false},
		"M-06 expired":                   {dns, func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(30 * time.Second) }, false},
		"M-06 not yet valid":             {dns, func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(2 * time.Minute) }, false},
		"M-06 for servers only":          {dns, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, false},
		"M-06 for something unknown only": {dns, func(c *x509.Certificate) {
			c.ExtKeyUsage, c.UnknownExtKeyUsage = nil, []asn1.ObjectIdentifier{{1, 2, 3}}
		}, false},
		"M-06 an authority's": {dns, func(c *x509.Certificate) {
			c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
		}, false},
		"a SPIFFE ID is no URI here": {sts.ClientTLS{SPIFFE: &sts.ClientSPIFFE{ID: "spiffe://example.org/orders"}}, func(c *x509.Certificate) { c.URIs = []*url.URL{uri("spiffe://example.org/orders")} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newTLSFixture(t, &tc.client)
			template := leafTemplate(f.now)
			if tc.edit != nil {
				tc.edit(template)
			}
			r := f.request(t, template, "")
			if !tc.ok {
				f.assertRefused(t, r, sts.InvalidClient)
				return
			}
			if _, claims := f.token(t, r); claims["sub"] != "orders" {
				t.Errorf("claims %v", claims)
			}
			if rec := f.audit.last(); rec.AuthMethod != sts.TLSClientAuth || len(rec.Certificate) != 43 || rec.Client != "orders" {
				t.Errorf("record %+v", rec)
			}
		})
	}
}

// rawSAN sets one subject alternative name that the library would not write.
func rawSAN(c *x509.Certificate, tag int, value string) {
	der, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: []byte(value)}})
	if err != nil {
		panic(err)
	}
	c.DNSNames, c.URIs, c.EmailAddresses, c.IPAddresses = nil, nil, nil, nil
	c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: der}}
}

// TestClientCertificateWhoAsks holds what a good certificate does not do.
func TestClientCertificateWhoAsks(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(*testing.T, *tlsFixture, *sts.TokenRequest)
		code sts.Code
	}{
		"good": {},
		"good: the secret of another beside a certificate of a mesh": {edit: func(_ *testing.T, f *tlsFixture, r *sts.TokenRequest) {
			certs, verified := r.Certificates, r.ClientVerified
			*r = f.credentials("web")
			r.Certificates, r.ClientVerified = certs, verified
		}},
		"unknown client":       {func(_ *testing.T, _ *tlsFixture, r *sts.TokenRequest) { r.Credential.ClientID = "nobody" }, sts.InvalidClient},
		"client with a secret": {func(_ *testing.T, _ *tlsFixture, r *sts.TokenRequest) { r.Credential.ClientID = "web" }, sts.InvalidClient},
		"A-43 other case":      {func(_ *testing.T, _ *tlsFixture, r *sts.TokenRequest) { r.Credential.ClientID = "Orders" }, sts.InvalidClient},
		"no client id":         {func(_ *testing.T, _ *tlsFixture, r *sts.TokenRequest) { r.Credential = sts.Credential{} }, sts.InvalidClient},
		"no certificate":       {func(_ *testing.T, _ *tlsFixture, r *sts.TokenRequest) { r.Certificates = nil }, sts.InvalidClient},
		"no authorities":       {func(_ *testing.T, _ *tlsFixture, r *sts.TokenRequest) { r.ClientVerified = nil }, sts.InvalidClient},
		"of another authority": {func(t *testing.T, f *tlsFixture, r *sts.TokenRequest) {
			*r = f.request(t, leafTemplate(f.now), "example.org")
		}, sts.InvalidClient},
		"signed by itself":    {func(t *testing.T, f *tlsFixture, r *sts.TokenRequest) { *r = f.selfSigned(t, leafTemplate(f.now)) }, sts.InvalidClient},
		"M-09 authority gone": {func(t *testing.T, f *tlsFixture, _ *sts.TokenRequest) { delete(f.authorities, "") }, sts.InvalidClient},
		"client disabled": {func(t *testing.T, f *tlsFixture, _ *sts.TokenRequest) {
			f.put(t, sts.Client{Name: "orders", Disabled: true, TLS: &sts.ClientTLS{SANDNS: "orders.example.com"}})
		}, sts.InvalidClient},
		"M-06 expires meanwhile": {func(_ *testing.T, f *tlsFixture, _ *sts.TokenRequest) { f.now = f.now.Add(time.Hour) }, sts.InvalidClient},
		"A-20 a secret, no certificate": {func(_ *testing.T, _ *tlsFixture, r *sts.TokenRequest) {
			r.Certificates, r.ClientVerified = nil, nil
			r.Credential = sts.Credential{Method: sts.SecretPost, ClientID: "orders", Secret: canary}
		}, sts.InvalidClient},
		"A-19 a secret and the certificate": {func(_ *testing.T, _ *tlsFixture, r *sts.TokenRequest) {
			r.Credential = sts.Credential{Method: sts.SecretBasic, ClientID: "orders", Secret: canary}
		}, sts.InvalidRequest},
		"A-19 a secret and another certificate": {func(t *testing.T, f *tlsFixture, r *sts.TokenRequest) {
			*r = f.selfSigned(t, leafTemplate(f.now))
			r.Credential = sts.Credential{Method: sts.SecretBasic, ClientID: "orders", Secret: canary}
		}, sts.InvalidClient},
		"a wrong secret beside a certificate of a mesh": {func(_ *testing.T, f *tlsFixture, r *sts.TokenRequest) {
			r.Credential = sts.Credential{Method: sts.SecretBasic, ClientID: "web", Secret: canary + "wrong"}
		}, sts.InvalidClient},
	} {
		t.Run(name, func(t *testing.T) {
			f := newTLSFixture(t, &sts.ClientTLS{SANDNS: "orders.example.com"})
			r := f.request(t, leafTemplate(f.now), "")
			if tc.edit != nil {
				tc.edit(t, f, &r)
			}
			if tc.code == "" {
				f.token(t, r)
				return
			}
			f.assertRefused(t, r, tc.code)
		})
	}
}

// TestClientIDAlone holds that whoever sends a client_id and no more is told so, the
// same for every client: it is what a certificate that got lost looks like.
func TestClientIDAlone(t *testing.T) {
	f := newTLSFixture(t, &sts.ClientTLS{SANDNS: "orders.example.com"})
	for _, id := range []string{"orders", "web", "nobody"} {
		e := f.assertRefused(t, sts.TokenRequest{Grant: sts.ClientCredentials, Credential: sts.Credential{Method: sts.SecretPost, ClientID: id}}, sts.InvalidClient)
		if !strings.Contains(e.Message, "client_id came alone") {
			t.Errorf("%s: %s", id, e.Message)
		}
	}
}

func (f *fixture) put(t testing.TB, c sts.Client) {
	t.Helper()
	f.apply(t, sts.Change{Put: []sts.Resource{{Client: &c}}})
}

// TestCertificateFailuresLookTheSame holds that an answer does not tell an unknown
// client from one that another certificate proves, or from one with secrets; and
// that each verifies as many chains.
func TestCertificateFailuresLookTheSame(t *testing.T) {
	f := newTLSFixture(t, &sts.ClientTLS{SANDNS: "orders.example.com"})
	f.put(t, sts.Client{Name: "spiffe", TLS: &sts.ClientTLS{SPIFFE: &sts.ClientSPIFFE{ID: "spiffe://example.org/x"}}})
	f.put(t, sts.Client{Name: "self", TLS: &sts.ClientTLS{SelfSigned: &sts.ClientSelfSigned{JWKS: jwks(t, newKey(t))}}})
	f.put(t, sts.Client{Name: "off", Disabled: true})
	stranger := leafTemplate(f.now)
	stranger.DNSNames = []string{"stranger.example.com"}
	for _, cred := range []sts.Credential{{Method: sts.TLSClientAuth}, {Method: sts.SecretPost, Secret: canary + "wrong"}} {
		var messages []string
		verified := map[int]bool{}
		for _, client := range []string{"nobody", "orders", "spiffe", "self", "off", "web"} {
			r := f.request(t, stranger, "")
			cred.ClientID = client
			r.Credential = cred
			f.verified = 0
			messages = append(messages, f.assertRefused(t, r, sts.InvalidClient).Message)
			verified[f.verified] = true
		}
		if len(slices.Compact(messages)) != 1 || len(verified) != 1 {
			t.Errorf("the answers differ: %q, chains verified %v", messages, verified)
		}
	}
}

// TestSVID edits a good X.509-SVID in one way each.
func TestSVID(t *testing.T) {
	one := sts.ClientSPIFFE{ID: "spiffe://example.org/ns/prod/sa/orders"}
	path := func(p string) sts.ClientSPIFFE { return sts.ClientSPIFFE{TrustDomain: "example.org", Path: p} }
	id := func(s string) func(*x509.Certificate) { return func(c *x509.Certificate) { rawSAN(c, 6, s) } }
	for name, tc := range map[string]struct {
		client sts.ClientSPIFFE
		edit   func(*x509.Certificate)
		domain string // of the authority; empty: example.org
		ok     bool
	}{
		"good":                             {client: one, ok: true},
		"good: with DNS names":             {client: one, edit: func(c *x509.Certificate) { c.DNSNames = []string{"a", "b"} }, ok: true},
		"good: path":                       {client: path("/ns/prod/sa/*"), ok: true},
		"good: part of a segment":          {client: path("/ns/p*d/sa/ord*s"), ok: true},
		"good: exact path":                 {client: path("/ns/prod/sa/orders"), ok: true},
		"S-07 prefix":                      {client: path("/ns/prod"), edit: id("spiffe://example.org/ns/prod-evil/sa/x")},
		"S-07 star in another segment":     {client: path("/ns/prod/*"), edit: id("spiffe://example.org/ns/prod-evil/sa")},
		"S-07 star does not span segments": {client: path("/ns/*/orders")},
		"S-07 a segment more":              {client: path("/ns/prod/sa/*"), edit: id("spiffe://example.org/ns/prod/sa/orders/x")},
		"S-07 a segment less":              {client: path("/ns/prod/sa/*"), edit: id("spiffe://example.org/ns/prod/sa")},
		"another ID":                       {client: one, edit: id("spiffe://example.org/ns/prod/sa/stock")},
		"S-01 other case of the path":      {client: one, edit: id("spiffe://example.org/ns/prod/sa/Orders")},
		"S-01 other case of the scheme":    {client: one, edit: id("Spiffe://example.org/ns/prod/sa/orders")},
		"S-01 slash at the end":            {client: one, edit: id("spiffe://example.org/ns/prod/sa/orders/")},
		"S-01 escaped":                     {client: one, edit: id("spiffe://example.org/ns/prod/sa/order%73")},
		"S-01 dots":                        {client: one, edit: id("spiffe://example.org/ns/prod/sa/x/../orders")},
		"S-01 query":                       {client: one, edit: id("spiffe://example.org/ns/prod/sa/orders?x")},
		"S-01 port":                        {client: one, edit: id("spiffe://example.org:443/ns/prod/sa/orders")},
		"M-12 no URI":                      {client: one, edit: func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"orders"} }},
		"M-12 two URIs":                    {client: one, edit: func(c *x509.Certificate) { c.URIs = append(c.URIs, uri("spiffe://example.org/other")) }},
		"M-12 another URI beside":          {client: one, edit: func(c *x509.Certificate) { c.URIs = append(c.URIs, uri("https://example.org")) }},
		"M-12 an authority's":              {client: one, edit: func(c *x509.Certificate) { c.IsCA = true }},
		"M-12 may sign certificates":       {client: one, edit: func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }},
		"M-12 may sign lists":              {client: one, edit: func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }},
		"M-12 may not sign":                {client: one, edit: func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }},
		"M-12 no path":                     {client: path("/*"), edit: id("spiffe://example.org")},
		"M-12 wrong trust domain":          {client: one, edit: id("spiffe://other.example/ns/prod/sa/orders"), domain: "other.example"},
		"M-12 another domain's authority":  {client: one, domain: "other.example"},
		"M-12 authority of none":           {client: one, domain: "-"},
		"M-06 expired":                     {client: one, edit: func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(time.Second) }},
		"M-06 for servers only":            {client: one, edit: func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }},
	} {
		t.Run(name, func(t *testing.T) {
			f := newTLSFixture(t, &sts.ClientTLS{SPIFFE: &tc.client})
			template := svidTemplate(f.now)
			if tc.edit != nil {
				tc.edit(template)
			}
			domain := "example.org"
			switch tc.domain {
			case "":
			case "-":
				domain = ""
			default:
				domain = tc.domain
			}
			r := f.request(t, template, domain)
			if tc.ok {
				f.token(t, r)
				return
			}
			f.assertRefused(t, r, sts.InvalidClient)
		})
	}
}

// TestSelfSignedClient is self_signed_tls_client_auth: the key is the proof [M-07].
func TestSelfSignedClient(t *testing.T) {
	known := func(f *tlsFixture, keys ...*ecdsa.PrivateKey) {
		f.put(t, sts.Client{Name: "orders", TLS: &sts.ClientTLS{SelfSigned: &sts.ClientSelfSigned{JWKS: jwks(t, keys...)}}})
	}
	f := newTLSFixture(t, &sts.ClientTLS{SelfSigned: &sts.ClientSelfSigned{JWKS: jwks(t, newKey(t))}})
	template := leafTemplate(f.now)
	r := f.selfSigned(t, template)
	t.Run("M-07 not in the keys", func(t *testing.T) { f.assertRefused(t, r, sts.InvalidClient) })
	known(f, f.key)
	t.Run("good", func(t *testing.T) {
		f.token(t, r)
		if rec := f.audit.last(); rec.AuthMethod != sts.SelfSignedTLSClientAuth {
			t.Errorf("record %+v", rec)
		}
	})
	t.Run("good: as openssl makes it, an authority's", func(t *testing.T) {
		ca := leafTemplate(f.now)
		ca.IsCA, ca.ExtKeyUsage, ca.KeyUsage = true, nil, 0
		f.token(t, f.selfSigned(t, ca))
	})
	t.Run("good: no authorities at all", func(t *testing.T) {
		r := r
		r.ClientVerified = nil
		f.token(t, r)
	})
	t.Run("good: renewed with the same key", func(t *testing.T) {
		renewed := leafTemplate(f.now)
		renewed.SerialNumber = big.NewInt(99)
		f.token(t, f.selfSigned(t, renewed))
	})
	t.Run("M-07 same subject, another key", func(t *testing.T) {
		other := newKey(t)
		f.assertRefused(t, f.with(sign(t, template, template, other.Public(), other)), sts.InvalidClient)
	})
	for name, edit := range map[string]func(*x509.Certificate){
		"M-06 expired":          func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(time.Second) },
		"M-06 not yet valid":    func(c *x509.Certificate) { c.NotBefore = f.now.Add(time.Second) },
		"M-06 for servers only": func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} },
	} {
		t.Run(name, func(t *testing.T) {
			c := leafTemplate(f.now)
			edit(c)
			f.assertRefused(t, f.selfSigned(t, c), sts.InvalidClient)
		})
	}
	t.Run("M-07 keys rotated", func(t *testing.T) {
		next := newKey(t)
		renewed := f.with(sign(t, template, template, next.Public(), next))
		known(f, f.key, next)
		f.token(t, r)
		f.token(t, renewed)
		known(f, next)
		f.assertRefused(t, r, sts.InvalidClient)
		f.token(t, renewed)
	})
}

// TestWeakCertificates holds that keys and signatures that can be forged prove
// nothing [M-06].
func TestWeakCertificates(t *testing.T) {
	f := newTLSFixture(t, &sts.ClientTLS{SANDNS: "orders.example.com"})
	ca := f.authorities[""]
	good := sign(t, leafTemplate(f.now), ca.cert, f.key.Public(), ca.key)
	f.token(t, f.with(good))
	t.Setenv("GODEBUG", "rsa1024min=0")
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("M-06 RSA of 1024 bits", func(t *testing.T) {
		f.assertRefused(t, f.with(sign(t, leafTemplate(f.now), ca.cert, small.Public(), ca.key)), sts.InvalidClient)
	})
	t.Run("M-06 P-224", func(t *testing.T) {
		f.assertRefused(t, f.with(sign(t, leafTemplate(f.now), ca.cert, p224.Public(), ca.key)), sts.InvalidClient)
	})
	t.Run("M-06 SHA-1", func(t *testing.T) {
		old := *good
		old.SignatureAlgorithm = x509.ECDSAWithSHA1
		f.assertRefused(t, f.with(&old), sts.InvalidClient)
	})
}

// TestClientTLSIsChecked applies clients that are not sound.
func TestClientTLSIsChecked(t *testing.T) {
	_, hash := sts.NewSecret()
	key := newKey(t)
	private := `{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA","d":"AA"}]}`
	for name, tc := range map[string]struct {
		client sts.Client
		field  string
		says   string
	}{
		"nothing":             {sts.Client{TLS: &sts.ClientTLS{}}, "tls", "exactly one"},
		"two":                 {sts.Client{TLS: &sts.ClientTLS{SANDNS: "a", SANIP: "192.0.2.1"}}, "tls", "exactly one"},
		"A-19 and secrets":    {sts.Client{TLS: &sts.ClientTLS{SANDNS: "a"}, Secrets: []sts.ClientSecret{{Hash: hash}}}, "tls", "one way"},
		"M-04 wildcard":       {sts.Client{TLS: &sts.ClientTLS{SANDNS: "*.example.com"}}, "tls.san_dns", "wildcard"},
		"network":             {sts.Client{TLS: &sts.ClientTLS{SANIP: "192.0.2.0/24"}}, "tls.san_ip", "one IPv4"},
		"mapped":              {sts.Client{TLS: &sts.ClientTLS{SANIP: "::ffff:192.0.2.1"}}, "tls.san_ip", "one IPv4"},
		"relative URI":        {sts.Client{TLS: &sts.ClientTLS{SANURI: "orders"}}, "tls.san_uri", "absolute"},
		"SPIFFE ID as a URI":  {sts.Client{TLS: &sts.ClientTLS{SANURI: "Spiffe://example.org/a"}}, "tls.san_uri", "spiffe: {id"},
		"email with a name":   {sts.Client{TLS: &sts.ClientTLS{SANEmail: "A <a@example.com>"}}, "tls.san_email", "one email"},
		"DN with spaces":      {sts.Client{TLS: &sts.ClientTLS{SubjectDN: "CN=a, O=b"}}, "tls.subject_dn", "spaces"},
		"DN of openssl":       {sts.Client{TLS: &sts.ClientTLS{SubjectDN: "/CN=a/O=b"}}, "tls.subject_dn", "type"},
		"DN without a value":  {sts.Client{TLS: &sts.ClientTLS{SubjectDN: "CN=a,"}}, "tls.subject_dn", "TYPE=VALUE"},
		"DN quoted":           {sts.Client{TLS: &sts.ClientTLS{SubjectDN: `CN="a"`}}, "tls.subject_dn", "backslash"},
		"DN bad escape":       {sts.Client{TLS: &sts.ClientTLS{SubjectDN: `CN=a\z`}}, "tls.subject_dn", "backslash"},
		"DN bad hex":          {sts.Client{TLS: &sts.ClientTLS{SubjectDN: `CN=#zz`}}, "tls.subject_dn", "DER"},
		"SPIFFE nothing":      {sts.Client{TLS: &sts.ClientTLS{SPIFFE: &sts.ClientSPIFFE{}}}, "tls.spiffe.trust_domain", "trust domain"},
		"SPIFFE both":         {sts.Client{TLS: &sts.ClientTLS{SPIFFE: &sts.ClientSPIFFE{ID: "spiffe://a/b", Path: "/b"}}}, "tls.spiffe", "either"},
		"S-01 SPIFFE ID":      {sts.Client{TLS: &sts.ClientTLS{SPIFFE: &sts.ClientSPIFFE{ID: "spiffe://A/b"}}}, "tls.spiffe.id", "lower case"},
		"SPIFFE domain alone": {sts.Client{TLS: &sts.ClientTLS{SPIFFE: &sts.ClientSPIFFE{ID: "spiffe://a"}}}, "tls.spiffe.id", "path"},
		"SPIFFE no path":      {sts.Client{TLS: &sts.ClientTLS{SPIFFE: &sts.ClientSPIFFE{TrustDomain: "a"}}}, "tls.spiffe.path", "path"},
		"SPIFFE two stars":    {sts.Client{TLS: &sts.ClientTLS{SPIFFE: &sts.ClientSPIFFE{TrustDomain: "a", Path: "/**"}}}, "tls.spiffe.path", "one segment"},
		"SPIFFE pattern":      {sts.Client{TLS: &sts.ClientTLS{SPIFFE: &sts.ClientSPIFFE{TrustDomain: "a", Path: "/[a-z]"}}}, "tls.spiffe.path", "letters"},
		"keys not JSON":       {sts.Client{TLS: &sts.ClientTLS{SelfSigned: &sts.ClientSelfSigned{JWKS: "x"}}}, "tls.self_signed.jwks", ""},
		"no keys":             {sts.Client{TLS: &sts.ClientTLS{SelfSigned: &sts.ClientSelfSigned{JWKS: `{"keys":[]}`}}}, "tls.self_signed.jwks", "1 to 10"},
		"J-57 private key":    {sts.Client{TLS: &sts.ClientTLS{SelfSigned: &sts.ClientSelfSigned{JWKS: private}}}, "tls.self_signed.jwks", "private"},
		"eleven keys": {sts.Client{TLS: &sts.ClientTLS{SelfSigned: &sts.ClientSelfSigned{
			JWKS: jwks(t, slices.Repeat([]*ecdsa.PrivateKey{key}, 11)...),
		}}}, "tls.self_signed.jwks", "1 to 10"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			tc.client.Name = "orders"
			_, err := f.service.Apply(t.Context(), sts.Change{Put: []sts.Resource{{Client: &tc.client}}})
			e, ok := err.(*sts.Error)
			if !ok || e.Code != sts.InvalidResource || len(e.Problems) != 1 {
				t.Fatalf("%v", err)
			}
			if p := e.Problems[0]; p.Field != tc.field || !strings.Contains(p.Message, tc.says) {
				t.Errorf("%s: %s", p.Field, p.Message)
			}
		})
	}
}
