package vaulttest

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/workload-sts/sts/internal/testserver"
)

// Client calls a Vault as the holder of one token. The methods are safe for
// concurrent use.
type Client struct {
	base  string
	token string
	http  *http.Client
}

func newClient() *Client {
	// A connection for each call: none is left over when a server restarts.
	return &Client{http: &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}}
}

// trust makes a client that has not been used speak TLS with servers of an
// authority.
func (c *Client) trust(ca *testserver.CA) {
	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate)
	c.http.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: roots}
}

// WithCertificate returns a client without a token that presents a certificate,
// as [CA.Issue] makes them. The server must have been started with TLS.
func (c *Client) WithCertificate(t testing.TB, certFile, keyFile string) *Client {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	transport := c.http.Transport.(*http.Transport).Clone()
	transport.TLSClientConfig.Certificates = []tls.Certificate{pair}
	return &Client{base: c.base, http: &http.Client{Timeout: patience, Transport: transport}}
}

// As returns a client with another token; an empty one sends none.
func (c *Client) As(token string) *Client {
	other := *c
	other.token = token
	return &other
}

// At returns a client that calls another address, such as a proxy's.
func (c *Client) At(base string) *Client {
	other := *c
	other.base = base
	return &other
}

// Do calls a path such as "transit/keys/name" and returns the JSON of the
// answer, nil if there is none. An answer that is not a success fails the test.
func (c *Client) Do(t testing.TB, method, path string, body any) map[string]any {
	t.Helper()
	status, answer := c.Try(t, method, path, body)
	if status >= 300 {
		t.Fatalf("%s %s: %d %v", method, path, status, answer["errors"])
	}
	return answer
}

// Try is like Do, and leaves it to the caller what the status means. Only a
// call without an answer fails the test.
func (c *Client) Try(t testing.TB, method, path string, body any) (status int, answer map[string]any) {
	t.Helper()
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		content = bytes.NewReader(data)
	}
	req, err := http.NewRequest(method, c.base+"/v1/"+path, content)
	if err != nil {
		t.Fatal(err)
	}
	if c.token != "" {
		req.Header.Set("X-Vault-Token", c.token)
	}
	res, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return res.StatusCode, nil
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		t.Fatalf("%s %s: %d %s: %v", method, path, res.StatusCode, strings.TrimSpace(string(data)), err)
	}
	return res.StatusCode, answer
}
