package vault

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"
)

const (
	maxSecret = 64 << 10 // of a token, a secret id, the token of a service account
	maxPEM    = 1 << 20
)

// read returns a file, which must not be larger than it can be.
func read(file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, plain(err, file)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, plain(err, file)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", file, limit)
	}
	return b, nil
}

func plain(err error, file string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is missing", file)
	}
	return err
}

// readSecret returns the one line that a file holds. Errors do not repeat it.
func readSecret(file string) (secret, error) {
	b, err := read(file, maxSecret)
	if err != nil {
		return "", err
	}
	s := strings.TrimSpace(string(b))
	if s == "" {
		return "", fmt.Errorf("%s is empty", file)
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("%s must hold one line of printable characters", file)
	}
	return secret(s), nil
}

// secret does not show itself in a log or an error.
type secret string

func (secret) String() string       { return "[secret]" }
func (secret) GoString() string     { return "[secret]" }
func (secret) LogValue() slog.Value { return slog.StringValue("[secret]") }

// files is what the files of a connection held when they were read.
type files struct {
	ca, cert, key []byte
	roots         *x509.CertPool   // nil: the system's
	pair          *tls.Certificate // nil: none
}

// readFiles reads the files of a connection and checks that they fit together.
func readFiles(c Config) (files, error) {
	f, err := readRoots(c)
	if err != nil {
		return files{}, fmt.Errorf("ca file: %w", err)
	}
	if c.CertFile == "" {
		return f, nil
	}
	pair, err := readPair(c)
	if err != nil {
		return files{}, fmt.Errorf("client certificate: %w", err)
	}
	f.cert, f.key, f.pair = pair.cert, pair.key, pair.pair
	return f, nil
}

// readRoots reads whose certificates to trust.
func readRoots(c Config) (files, error) {
	var f files
	if c.CAFile == "" {
		return f, nil
	}
	var err error
	if f.ca, err = read(c.CAFile, maxPEM); err != nil {
		return files{}, err
	}
	f.roots = x509.NewCertPool()
	if !f.roots.AppendCertsFromPEM(f.ca) {
		return files{}, fmt.Errorf("%s holds no certificate in PEM", c.CAFile)
	}
	return f, nil
}

// readPair reads the client certificate, which there is.
func readPair(c Config) (files, error) {
	var f files
	var err error
	if f.cert, err = read(c.CertFile, maxPEM); err != nil {
		return files{}, err
	}
	if f.key, err = read(c.KeyFile, maxPEM); err != nil {
		return files{}, fmt.Errorf("its key: %w", err)
	}
	pair, err := tls.X509KeyPair(f.cert, f.key)
	if err != nil {
		return files{}, fmt.Errorf("%s with key %s: %w", c.CertFile, c.KeyFile, err)
	}
	f.pair = &pair
	return f, nil
}

func (f files) equal(o files) bool {
	return bytes.Equal(f.ca, o.ca) && bytes.Equal(f.cert, o.cert) && bytes.Equal(f.key, o.key)
}

const (
	maxBody       = 4 << 20
	maxHeader     = 64 << 10
	idleInPool    = time.Minute
	idlePerServer = 64
)

// transport returns what makes connections with these files. It is HTTP/1.1 only:
// there a connection that does not answer is given up with the request that
// waits for it, and not kept for the next.
func (f files) transport(c Config) *http.Transport {
	t := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: f.roots, ServerName: c.ServerName}
	if f.pair != nil {
		// Even if the server does not name the authority among those that it takes: the
		// auth method has its own.
		t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return f.pair, nil }
	}
	var only http.Protocols
	only.SetHTTP1(true)
	return &http.Transport{
		Proxy:                  nil, // not from the environment
		DialContext:            c.dial,
		TLSClientConfig:        t,
		TLSHandshakeTimeout:    c.Timeout,
		Protocols:              &only,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    idlePerServer,
		IdleConnTimeout:        idleInPool,
		MaxResponseHeaderBytes: maxHeader,
	}
}
