package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// writeTestCertificate writes NAME.crt and NAME.key, of an authority or not.
func writeTestCertificate(t *testing.T, dir, name string, authority bool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: authority, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
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
}

// TestClientCertificatesConfig edits a good configuration in one way each.
func TestClientCertificatesConfig(t *testing.T) {
	const proxies = "\n  trusted_proxies: "
	for name, tc := range map[string]struct {
		http string // what follows key_file in the TLS of the HTTP listener
		says string // empty: good
	}{
		"good":                        {", client_certificates: {ca_file: ca.crt, spiffe_bundles: [{trust_domain: example.org, ca_file: ca.crt}]}}", ""},
		"good: self-signed alone":     {", client_certificates: {}}", ""},
		"good: proxies":               {", client_certificates: {ca_file: ca.crt}}" + proxies + "[{san_dns: edge.internal}, {san_uri: 'spiffe://example.org/edge', format: xfcc}]", ""},
		"no such file":                {", client_certificates: {ca_file: none.crt}}", "http.tls.client_certificates.ca_file: cannot be read"},
		"M-08 a leaf":                 {", client_certificates: {ca_file: tls.crt}}", "http.tls.client_certificates: .*is not an authority's"},
		"M-08 a leaf in a bundle":     {", client_certificates: {spiffe_bundles: [{trust_domain: a, ca_file: tls.crt}]}}", "is not an authority's"},
		"trust domain as an ID":       {", client_certificates: {spiffe_bundles: [{trust_domain: 'spiffe://a', ca_file: ca.crt}]}}", "spiffe_bundles\\[0\\].trust_domain: must be the name"},
		"trust domain twice":          {", client_certificates: {spiffe_bundles: [{trust_domain: a, ca_file: ca.crt}, {trust_domain: a, ca_file: ca.crt}]}}", "spiffe_bundles\\[1\\].trust_domain: is given twice"},
		"no list":                     {", client_certificates: {ca_file: ca.crt, crl_file: ca.crt}}", "PEM block"},
		"M-01 proxies, nothing asked": {"}" + proxies + "[{san_dns: edge.internal}]", "http.trusted_proxies: needs tls.client_certificates"},
		"M-01 proxies, no authority":  {", client_certificates: {}}" + proxies + "[{san_dns: edge.internal}]", "http.trusted_proxies: needs tls.client_certificates"},
		"proxy without a name":        {", client_certificates: {ca_file: ca.crt}}" + proxies + "[{format: xfcc}]", "trusted_proxies\\[0\\]: needs san_dns or san_uri"},
		"proxy by a wildcard":         {", client_certificates: {ca_file: ca.crt}}" + proxies + "[{san_dns: '*.internal'}]", "wildcards are not accepted"},
		"proxy, unknown format":       {", client_certificates: {ca_file: ca.crt}}" + proxies + "[{san_dns: a, format: pem}]", "must be one of rfc9440, xfcc, escaped_pem"},
		"M-02 proxy, underscores":     {", client_certificates: {ca_file: ca.crt}}" + proxies + "[{san_dns: a, header: X_Client_Cert}]", "trusted_proxies\\[0\\].header: must be the name of a header"},
		"proxy, another's header":     {", client_certificates: {ca_file: ca.crt}}" + proxies + "[{san_dns: a, header: Authorization}]", "another meaning"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			writeTestCertificate(t, dir, "tls", false)
			writeTestCertificate(t, dir, "ca", true)
			file := filepath.Join(dir, "stsd.yaml")
			config := "issuer: https://sts.example.com\nhttp:\n  listen: 127.0.0.1:8443\n  tls: {cert_file: tls.crt, key_file: tls.key" + tc.http + `
grpc: {listen: "127.0.0.1:9443"}
storage: {bolt_file: sts.db}
keys: {sets: [{name: default, local: {key_file: signing.key}}]}
audit: {file: audit.jsonl}
`
			for name, text := range map[string]string{file: config, filepath.Join(dir, "signing.key"): "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n"} {
				if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			c, err := loadConfig(file)
			if tc.says == "" {
				if err != nil {
					t.Fatal(err)
				}
				for _, p := range c.Http.TrustedProxies {
					if p.Header == "" || p.Format == "" {
						t.Errorf("no defaults: %v", p)
					}
				}
				return
			}
			found, ok := errors.AsType[problems](err)
			if !ok || len(found) != 1 || !regexp.MustCompile(tc.says).MatchString(found[0].String()) || !strings.HasPrefix(found[0].String(), file+":") {
				t.Errorf("%v", err)
			}
		})
	}
}
