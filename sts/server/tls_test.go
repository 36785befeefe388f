package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// writeCertificate writes a fresh pair for localhost with a common name.
func writeCertificate(t *testing.T, dir, name string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

func name(t *testing.T, c *tls.Config) string {
	t.Helper()
	pair, err := c.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf.Subject.CommonName
}

// F49: a new pair is taken over, a mismatch is not.
func TestReloadingTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := writeCertificate(t, dir, "one")
	newCert, newKey := writeCertificate(t, dir, "two")
	var log syncBuffer
	c := &certificate{certFile: cert, keyFile: key, log: slog.New(slog.NewJSONHandler(&log, nil))}
	if err := c.load(); err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil }}
	move := func(from, to string) {
		t.Helper()
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	move(newCert, cert)
	if err := c.load(); err == nil || strings.Contains(err.Error(), "PRIVATE") {
		t.Errorf("a mismatch: %v", err)
	}
	if name(t, config) != "one" {
		t.Error("a mismatch was taken over")
	}
	move(newKey, key)
	if err := c.load(); err != nil {
		t.Fatal(err)
	}
	if name(t, config) != "two" {
		t.Error("the new pair was not taken over")
	}
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	if err := c.load(); err == nil || name(t, config) != "two" {
		t.Errorf("a missing file: %v", err)
	}
	if !strings.Contains(log.String(), "certificate replaced") {
		t.Error(log.String())
	}
}

func TestReloadingTLSWatches(t *testing.T) {
	dir := t.TempDir()
	cert, key := writeCertificate(t, dir, "one")
	config, closer, err := ReloadingTLS(cert, key, time.Millisecond, discard())
	if err != nil {
		t.Fatal(err)
	}
	defer closer.Close()
	newCert, newKey := writeCertificate(t, dir, "two")
	for from, to := range map[string]string{newCert: cert, newKey: key} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(5 * time.Second); name(t, config) != "two"; {
		if time.Now().After(deadline) {
			t.Fatal("the new pair was not taken over")
		}
		time.Sleep(time.Millisecond)
	}
	if _, _, err := ReloadingTLS(filepath.Join(dir, "none"), key, time.Hour, discard()); err == nil {
		t.Error("a missing file")
	}
}
