package server

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// hardened returns a copy of a configuration that offers nothing old; nil stays
// nil.
func hardened(c *tls.Config) *tls.Config {
	if c == nil {
		return nil
	}
	c = c.Clone()
	c.MinVersion = max(c.MinVersion, tls.VersionTLS12)
	// For TLS 1.2, the recommended ones and no others [RFC 9325 §4.2], as FAPI 2
	// demands (§5.2.2); those of 1.3 are all good.
	c.CipherSuites = []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	}
	return c
}

// ReloadingTLS returns a server configuration with the certificate in two PEM
// files, which are looked at again every so often. A pair that cannot be read or
// does not fit together is not used; the last good one stays and the log says
// why. Closing ends the looking.
//
// It does not use grpc's pemfile provider, which writes the contents of the key
// file into a log when the pair does not fit.
func ReloadingTLS(certFile, keyFile string, every time.Duration, log *slog.Logger) (*tls.Config, io.Closer, error) {
	r := &certificate{certFile: certFile, keyFile: keyFile, log: log}
	if err := r.load(); err != nil {
		return nil, nil, err
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return r.current.Load(), nil
		},
	}
	return config, lookEvery(every, r.reload), nil
}

// certificate is a certificate that follows its files.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger
	certPEM, keyPEM   []byte // as of the last look; used by one goroutine
	current           atomic.Pointer[tls.Certificate]
}

// load takes over the files if they have changed. A pair that was looked at is
// not looked at again until it changes.
func (r *certificate) load() error {
	certPEM, err := os.ReadFile(r.certFile)
	if err != nil {
		return fmt.Errorf("reading the certificate: %w", err)
	}
	keyPEM, err := os.ReadFile(r.keyFile)
	if err != nil {
		return fmt.Errorf("reading the key of the certificate: %w", err)
	}
	if bytes.Equal(certPEM, r.certPEM) && bytes.Equal(keyPEM, r.keyPEM) {
		return nil
	}
	r.certPEM, r.keyPEM = certPEM, keyPEM
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return fmt.Errorf("%s and %s: %w", r.certFile, r.keyFile, err)
	}
	if r.current.Swap(&pair) != nil {
		r.log.Info("certificate replaced", "file", r.certFile, "not_after", pair.Leaf.NotAfter)
	}
	return nil
}

func (r *certificate) reload() {
	if err := r.load(); err != nil {
		r.log.Error("the changed certificate cannot be used; the last good one stays", "error", err)
	}
}
