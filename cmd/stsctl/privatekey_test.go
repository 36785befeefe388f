package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/workload-sts/sts/jose"
)

// TestPrivateKeyFormats reads keys as openssl writes them, and other tools do.
func TestPrivateKeyFormats(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	parameters := block("EC PARAMETERS", []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7})
	for name, tc := range map[string]struct {
		file []byte
		alg  jose.Algorithm // empty: refused
	}{
		"PKCS #8":                {block("PRIVATE KEY", pkcs8), jose.ES256},
		"SEC 1":                  {block("EC PRIVATE KEY", sec1), jose.ES256},
		"SEC 1 after parameters": {slices.Concat(parameters, block("EC PRIVATE KEY", sec1)), jose.ES256},
		"PKCS #1":                {block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(r)), jose.PS256},
		"parameters alone":       {file: parameters},
		"encrypted":              {file: block("ENCRYPTED PRIVATE KEY", pkcs8)},
		"a certificate":          {file: block("CERTIFICATE", pkcs8)},
		"of another kind":        {file: block("EC PRIVATE KEY", pkcs8)},
		"nothing":                {},
	} {
		file := filepath.Join(t.TempDir(), "key.pem")
		if err := os.WriteFile(file, tc.file, 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := readPrivateKey("--client-key", file, "")
		if (err == nil) != (tc.alg != "") || k.alg != tc.alg {
			t.Errorf("%s: alg %q, %v", name, k.alg, err)
		}
	}
}
