package server

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"log/slog"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestAuthoritiesAreChecked refuses files that would let the wrong ones vouch.
func TestAuthoritiesAreChecked(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, "clients", nil)
	leaf := ca.issue(t, "orders.example.com")
	self := (*certAuthority)(nil).issue(t, "orders.example.com")
	noSign := newAuthority(t, "no sign", nil)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(3), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	noSign.cert = (&certAuthority{template, noSign.key}).sign(t, template, noSign.key)
	file := filepath.Join(dir, "ca.pem")
	for name, tc := range map[string]struct {
		write func()
		says  string
	}{
		"good":                         {func() { writePEM(t, file, "CERTIFICATE", ca.cert.Raw) }, ""},
		"M-08 a leaf":                  {func() { writePEM(t, file, "CERTIFICATE", ca.cert.Raw, leaf.Certificate[0]) }, "is not an authority's"},
		"M-08 a self-signed leaf":      {func() { writePEM(t, file, "CERTIFICATE", self.Certificate[0]) }, "is not an authority's"},
		"M-08 may not sign":            {func() { writePEM(t, file, "CERTIFICATE", noSign.cert.Raw) }, "is not an authority's"},
		"a key among the certificates": {func() { writePEM(t, file, "PRIVATE KEY", []byte("secret")) }, `"PRIVATE KEY"`},
		"nothing":                      {func() { writePEM(t, file, "CERTIFICATE") }, "no PEM block"},
		"garbage":                      {func() { writePEM(t, file, "CERTIFICATE", []byte("garbage")) }, "certificate 1"},
		"missing":                      {func() { os.Remove(file) }, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.write()
			err := CheckClientCertificates(ClientCertificateFiles{CA: file})
			if (err == nil) != (tc.says == "") || err != nil && !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v", err)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Error("the content of a file is in the error")
			}
			err = CheckClientCertificates(ClientCertificateFiles{SPIFFE: map[string]string{"example.org": file}})
			if (err == nil) != (tc.says == "") {
				t.Errorf("as a bundle: %v", err)
			}
		})
	}
}

// list is a revocation list of an authority.
func (a *certAuthority) list(t *testing.T, until time.Time, edit func(*x509.RevocationList), revoked ...*x509.Certificate) []byte {
	t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: until}
	for _, c := range revoked {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: time.Now()})
	}
	if edit != nil {
		edit(l)
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, a.cert, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestRevokedCertificates holds that a list takes effect with the next request.
func TestRevokedCertificates(t *testing.T) {
	dir := t.TempDir()
	ca, other := newAuthority(t, "clients", nil), newAuthority(t, "clients", nil)
	middle := newAuthority(t, "middle", ca)
	leaf, good := ca.issue(t, "orders.example.com").Leaf, ca.issue(t, "stock.example.com").Leaf
	below := middle.issue(t, "below.example.com").Leaf
	files := ClientCertificateFiles{CA: filepath.Join(dir, "ca.pem"), CRL: filepath.Join(dir, "crl.pem")}
	writePEM(t, files.CA, "CERTIFICATE", ca.cert.Raw)
	next := time.Now().Add(time.Hour)
	middle.cert.SerialNumber = big.NewInt(1)
	use := func(der ...[]byte) error {
		writePEM(t, files.CRL, "X509 CRL", der...)
		return CheckClientCertificates(files)
	}
	if err := use(ca.list(t, next, nil)); err != nil {
		t.Fatal(err)
	}
	c, err := ReloadingClientCertificates(files, nil, time.Hour, discard())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	check := func(name string, revoked bool, now time.Time, chain ...*x509.Certificate) {
		t.Helper()
		if err := c.verifier(chain)("", now); (err != nil) != revoked {
			t.Errorf("%s: %v", name, err)
		}
	}
	check("M-09 not listed", false, time.Now(), leaf)
	check("M-09 chain not listed", false, time.Now(), below, middle.cert)
	check("M-09 list too old", true, next.Add(-time.Millisecond).Add(time.Second), leaf)
	if err := use(ca.list(t, next, nil, leaf)); err != nil {
		t.Fatal(err)
	}
	if err := c.load(); err != nil {
		t.Fatal(err)
	}
	check("M-09 listed", true, time.Now(), leaf)
	check("M-09 another", false, time.Now(), good)
	if err := use(ca.list(t, next, nil, middle.cert)); err != nil {
		t.Fatal(err)
	}
	if err := c.load(); err != nil {
		t.Fatal(err)
	}
	check("M-09 the intermediate listed", true, time.Now(), below, middle.cert)
	for name, der := range map[string][]byte{
		"in the name of an authority": other.list(t, next, nil),
		"of a kind that is not understood": ca.list(t, next, func(l *x509.RevocationList) {
			l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 1}}}
		}),
		"garbage": []byte("garbage"),
	} {
		if err := use(der); err == nil {
			t.Errorf("a list %s is accepted", name)
		}
	}
	if err := use(ca.list(t, next, nil), ca.list(t, next, nil, leaf)); err == nil {
		t.Error("two lists of one authority are accepted")
	}
	if err := c.load(); err == nil {
		t.Error("loaded")
	}
	check("M-09 the last good list stays", true, time.Now(), below, middle.cert)
}

// TestBundleOfAuthorities takes the authorities of a trust domain from its SPIFFE
// bundle, and refuses one that has something else in their place [S-07].
func TestBundleOfAuthorities(t *testing.T) {
	dir := t.TempDir()
	ca, other := newAuthority(t, "example.org", nil), newAuthority(t, "example.org", nil)
	const id = "spiffe://example.org/ns/prod/sa/orders"
	leaf := ca.issue(t, id).Leaf
	files := ClientCertificateFiles{SPIFFE: map[string]string{"example.org": filepath.Join(dir, "bundle.json")}}
	key := func(cert *x509.Certificate, use string) string {
		return fmt.Sprintf(`{"kty":"EC","use":%q,"crv":"P-256","x":"AA","y":"AA","x5c":[%q]}`, use, base64.StdEncoding.EncodeToString(cert.Raw))
	}
	write := func(keys ...string) {
		t.Helper()
		bundle := `{"spiffe_sequence":7,"spiffe_refresh_hint":300,"keys":[` + strings.Join(keys, ",") + `]}`
		if err := os.WriteFile(files.SPIFFE["example.org"], []byte(bundle), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(key(ca.cert, "x509-svid"))
	c, err := ReloadingClientCertificates(files, nil, time.Hour, discard())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	counts := func() bool { return c.verifier([]*x509.Certificate{leaf})("example.org", time.Now()) == nil }
	if !counts() {
		t.Error("an authority of the bundle does not count")
	}
	for name, keys := range map[string][]string{
		"a leaf":         {key(ca.cert, "x509-svid"), key(leaf, "x509-svid")},
		"for JWT-SVIDs":  {key(ca.cert, "jwt-svid")},
		"of another use": {key(ca.cert, "sig")},
		"none":           {},
		"two in one key": {`{"kty":"EC","use":"x509-svid","x5c":["AA","AA"]}`},
		"no certificate": {`{"kty":"EC","use":"x509-svid"}`},
		"garbage":        {`{"kty":"EC","use":"x509-svid","x5c":["AA\n"]}`},
	} {
		write(keys...)
		if err := CheckClientCertificates(files); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if c.load() == nil || !counts() {
			t.Errorf("%s: the last good bundle does not stay", name)
		}
	}
	write(key(other.cert, "x509-svid"))
	if err := c.load(); err != nil || counts() {
		t.Errorf("an authority that is gone counts, %v", err)
	}
}

// TestRevokedByIntermediate holds that the list of an intermediate authority counts
// where a chain leads through it, and for no other authority of its name [M-09].
func TestRevokedByIntermediate(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, "clients", nil)
	middle, namesake := newAuthority(t, "middle", ca), newAuthority(t, "middle", ca)
	leaf, good, others := middle.issue(t, "a.example.com").Leaf, middle.issue(t, "b.example.com").Leaf, namesake.issue(t, "c.example.com").Leaf
	files := ClientCertificateFiles{CA: filepath.Join(dir, "ca.pem"), CRL: filepath.Join(dir, "crl.pem")}
	writePEM(t, files.CA, "CERTIFICATE", ca.cert.Raw)
	next := time.Now().Add(time.Hour)
	others.SerialNumber = leaf.SerialNumber // in its list it would be meant
	writePEM(t, files.CRL, "X509 CRL", middle.list(t, next, nil, leaf), newAuthority(t, "stranger", nil).list(t, time.Now().Add(-time.Minute), nil))
	c, err := ReloadingClientCertificates(files, nil, time.Hour, discard())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 2 { // found, and remembered
		for _, row := range []struct {
			name    string
			refused bool
			now     time.Time
			chain   []*x509.Certificate
		}{
			{"listed", true, time.Now(), []*x509.Certificate{leaf, middle.cert}},
			{"not listed", false, time.Now(), []*x509.Certificate{good, middle.cert}},
			{"list too old", true, next.Add(time.Millisecond), []*x509.Certificate{good, middle.cert}},
			{"of a namesake", false, time.Now(), []*x509.Certificate{others, namesake.cert}},
		} {
			if err := c.verifier(row.chain)("", row.now); (err != nil) != row.refused {
				t.Errorf("M-09 %s: %v", row.name, err)
			}
		}
	}
}

// TestAuthoritiesReload takes over changed files by itself, and keeps the last good
// ones.
func TestAuthoritiesReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.pem")
	first, second := newAuthority(t, "first", nil), newAuthority(t, "second", nil)
	writePEM(t, file, "CERTIFICATE", first.cert.Raw)
	var log syncBuffer
	c, err := ReloadingClientCertificates(ClientCertificateFiles{CA: file}, nil, time.Millisecond, slog.New(slog.NewJSONHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	counts := func(a *certAuthority) bool {
		return c.verifier([]*x509.Certificate{a.issue(t, "orders.example.com").Leaf})("", time.Now()) == nil
	}
	if !counts(first) || counts(second) {
		t.Fatal("the wrong authority counts")
	}
	if err := os.WriteFile(file, []byte("half a cert"), 0o600); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return strings.Contains(log.String(), "cannot be used") })
	if !counts(first) {
		t.Error("the last good authority does not stay")
	}
	writePEM(t, file, "CERTIFICATE", second.cert.Raw)
	waitFor(t, func() bool { return counts(second) })
	if counts(first) {
		t.Error("the removed authority still counts")
	}
	if strings.Count(log.String(), "cannot be used") > 2 {
		t.Errorf("one file is complained about again and again: %s", log.String())
	}
}

// TestTrustDomainsApart holds that an authority vouches for its trust domain only.
func TestTrustDomainsApart(t *testing.T) {
	dir := t.TempDir()
	authorities := map[string]*certAuthority{"": newAuthority(t, "none", nil), "a.example": newAuthority(t, "a", nil), "b.example": newAuthority(t, "b", nil)}
	files := ClientCertificateFiles{SPIFFE: map[string]string{}}
	for domain, a := range authorities {
		file := filepath.Join(dir, "x"+domain)
		writePEM(t, file, "CERTIFICATE", a.cert.Raw)
		if domain == "" {
			files.CA = file
		} else {
			files.SPIFFE[domain] = file
		}
	}
	c, err := ReloadingClientCertificates(files, nil, time.Hour, discard())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for by, a := range authorities {
		leaf := a.issue(t, "spiffe://a.example/x").Leaf
		for _, asked := range []string{"", "a.example", "b.example", "c.example"} {
			if err := c.verifier([]*x509.Certificate{leaf})(asked, time.Now()); (err == nil) != (by == asked) {
				t.Errorf("signed by %q, asked for %q: %v", by, asked, err)
			}
		}
	}
}

// TestVerifyIsBounded holds that a chain made to be slow is not [M-11].
func TestVerifyIsBounded(t *testing.T) {
	ca := newAuthority(t, "clients", nil)
	file := filepath.Join(t.TempDir(), "ca.pem")
	writePEM(t, file, "CERTIFICATE", ca.cert.Raw)
	c, err := ReloadingClientCertificates(ClientCertificateFiles{CA: file}, nil, time.Hour, discard())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// Authorities of one name and key, each of which may have signed each.
	stranger := newAuthority(t, "loop", nil)
	chain := []*x509.Certificate{stranger.issue(t, "orders.example.com").Leaf}
	for range maxChain - 1 {
		chain = append(chain, newAuthority(t, "loop", stranger).cert)
	}
	begin := time.Now()
	if err := c.verifier(chain)("", time.Now()); err == nil {
		t.Error("accepted")
	}
	if took := time.Since(begin); took > 500*time.Millisecond {
		t.Errorf("took %s", took)
	}
	big := ca.issue(t, "orders.example.com", func(c *x509.Certificate) {
		for range 700 {
			c.URIs = append(c.URIs, &url.URL{Scheme: "https", Host: strings.Repeat("x", 30)})
		}
	})
	if err := c.verifier([]*x509.Certificate{big.Leaf})("", time.Now()); err == nil || !strings.Contains(err.Error(), "bytes") {
		t.Errorf("a certificate of %d bytes: %v", len(big.Leaf.Raw), err)
	}
}

// FuzzForwarded holds that no header makes a proxy's word mean more than one
// certificate, or the process end.
func FuzzForwarded(f *testing.F) {
	leaf := newAuthority(f, "clients", nil).issue(f, "orders.example.com")
	for _, seed := range []string{":AAAA:", `Cert="x";Chain="y"`, "%2D", url.PathEscape(pemOf(leaf)), `Cert="` + url.PathEscape(pemOf(leaf)) + `"`, `A="\"`, "a=b,c=d"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		for format, header := range ForwardedFormats {
			p := &TrustedProxy{Header: header, Format: format}
			chain, err := p.forwarded(map[string][]string{header: {value}})
			if err != nil && chain != nil || len(chain) > maxChain {
				t.Errorf("%s: %d certificates, %v", format, len(chain), err)
			}
		}
	})
}
