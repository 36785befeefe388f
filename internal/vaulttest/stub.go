package vaulttest

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/workload-sts/sts/internal/testserver"
)

// Stub is a fake Vault with the part of the API that a signer uses: the logins
// of AppRole, Kubernetes and TLS certificates, lookup and renewal of tokens, and
// transit keys in memory. It answers as Vault 1.13 does, until a test injects a
// [Fault]. Its methods are safe for concurrent use.
type Stub struct {
	*Client          // acts as root
	Addr      string // http://127.0.0.1:port, or https
	RootToken string // does not expire

	config StubConfig
	served chan struct{} // closed when the stub stops

	mu       sync.Mutex
	tokens   map[string]*stubToken
	logins   int // that were granted
	keys     map[string]*stubKey
	faults   map[Class]*injected
	counts   map[Class]int
	requests []Request
	changed  chan struct{} // closed when a request has been counted
}

// StubConfig says what a stub accepts. The zero value is a plain Vault.
type StubConfig struct {
	Server  *testserver.CA // serve HTTPS with a certificate of it
	Clients *testserver.CA // ask for client certificates of it, for the login by certificate

	Mount            string // of transit; empty: "transit"
	RoleID, SecretID string // of AppRole; empty: "role-id" and "secret-id"
	Role, JWT        string // of Kubernetes; empty: "role" and any token

	TokenTTL, TokenMaxTTL time.Duration // of a login; zero: 1h and 24h
	NotRenewable          bool
}

// A Class is a kind of call.
type Class string

// The classes of calls. AnyCall stands for all of them.
const (
	Login   Class = "login"  // auth/MOUNT/login
	Lookup  Class = "lookup" // auth/token/lookup-self
	Renew   Class = "renew"  // auth/token/renew-self
	Read    Class = "read"   // transit/keys/NAME
	Sign    Class = "sign"
	Encrypt Class = "encrypt"
	Decrypt Class = "decrypt"
	Health  Class = "health" // sys/health
	Unknown Class = "unknown"
	AnyCall Class = "any"
)

// Request is a call that the stub has received.
type Request struct {
	Class  Class
	Method string
	Path   string // without /v1/
	Header http.Header
	Body   map[string]any // nil if there was none or it was not JSON
	Client string         // common name of the client's certificate
	Time   time.Time
}

// maxRequests is how many requests are kept. Later ones are only counted.
const maxRequests = 10_000

// NewStub starts a stub, and stops it with the test.
func NewStub(t testing.TB, c StubConfig) *Stub {
	t.Helper()
	for field, value := range map[*string]string{&c.Mount: "transit", &c.RoleID: "role-id", &c.SecretID: "secret-id", &c.Role: "role"} {
		if *field == "" {
			*field = value
		}
	}
	if c.TokenTTL == 0 {
		c.TokenTTL = time.Hour
	}
	if c.TokenMaxTTL == 0 {
		c.TokenMaxTTL = 24 * time.Hour
	}
	s := &Stub{
		Client: newClient(), RootToken: "hvs.stub-root", config: c, served: make(chan struct{}), changed: make(chan struct{}),
		tokens: map[string]*stubToken{}, keys: map[string]*stubKey{}, faults: map[Class]*injected{}, counts: map[Class]int{},
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	if c.Server != nil {
		server.TLS = stubTLS(t, c)
		server.Config.ErrorLog = log.New(io.Discard, "", 0) // tests mean handshakes to fail
		server.StartTLS()
		s.Client.trust(c.Server)
	} else {
		server.Start()
	}
	s.Addr = server.URL
	s.Client.base, s.Client.token = s.Addr, s.RootToken
	t.Cleanup(func() {
		close(s.served)
		server.Close()
	})
	return s
}

func stubTLS(t testing.TB, c StubConfig) *tls.Config {
	t.Helper()
	certFile, keyFile := c.Server.Issue(t, "vault")
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}}
	if c.Clients != nil {
		config.ClientCAs = x509.NewCertPool()
		config.ClientCAs.AddCert(c.Clients.Certificate)
		config.ClientAuth = tls.RequestClientCert
	}
	return config
}

// Requests returns the calls of some classes in the order they came in; of all
// classes if none is given.
func (s *Stub) Requests(classes ...Class) []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Request
	for _, r := range s.requests {
		if len(classes) == 0 {
			out = append(out, r)
		}
		for _, c := range classes {
			if r.Class == c || c == AnyCall {
				out = append(out, r)
				break
			}
		}
	}
	return out
}

// Count returns how many calls of a class have come in.
func (s *Stub) Count(c Class) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[c]
}

// Await returns when n calls of a class have come in, answered or not.
func (s *Stub) Await(t testing.TB, c Class, n int) {
	t.Helper()
	late := time.After(patience)
	for {
		s.mu.Lock()
		got, changed := s.counts[c], s.changed
		s.mu.Unlock()
		if got >= n {
			return
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("%d calls of class %s after %v, want %d", got, c, patience, n)
		}
	}
}

// serve takes a call: records it, lets a fault have its way, and answers.
func (s *Stub) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 32<<20))
	if err != nil {
		return
	}
	call := s.record(r, body)
	fault, healed := s.faultFor(call.Class)
	if !s.hold(r, fault, healed) {
		panic(http.ErrAbortHandler)
	}
	switch {
	case fault.reset:
		reset(w)
	case fault.redirect != "":
		w.Header().Set("Location", strings.TrimSuffix(fault.redirect, "/")+r.URL.RequestURI())
		w.WriteHeader(http.StatusTemporaryRedirect)
	case fault.write != nil:
		fault.write(w)
	default:
		s.respond(w, call, r, fault)
	}
}

func (s *Stub) respond(w http.ResponseWriter, call Request, r *http.Request, fault Fault) {
	a := answer{status: fault.status, errors: fault.errors}
	if fault.status == 0 {
		a = s.answer(call, r, fault)
	}
	if fault.edit != nil && a.body != nil {
		fault.edit(a.body)
	}
	data := a.encode()
	if fault.body != nil {
		data = fault.body(data)
	}
	maps.Copy(w.Header(), fault.header)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", fmt.Sprint(len(data)))
	w.WriteHeader(a.status)
	w.Write(data)
}

// record decides the class of a call and counts it.
func (s *Stub) record(r *http.Request, body []byte) Request {
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	call := Request{Class: s.class(r.Method, path), Method: r.Method, Path: path, Header: r.Header.Clone(), Time: time.Now()}
	if json.Unmarshal(body, &call.Body) != nil {
		call.Body = nil
	}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		call.Client = r.TLS.PeerCertificates[0].Subject.CommonName
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[call.Class]++
	s.counts[AnyCall]++
	if len(s.requests) < maxRequests {
		s.requests = append(s.requests, call)
	}
	close(s.changed)
	s.changed = make(chan struct{})
	return call
}

func (s *Stub) class(method, path string) Class {
	if mount, ok := strings.CutPrefix(path, "auth/"); ok {
		switch {
		case strings.HasSuffix(mount, "/login"):
			return Login
		case mount == "token/lookup-self":
			return Lookup
		case mount == "token/renew-self":
			return Renew
		}
		return Unknown
	}
	if path == "sys/health" {
		return Health
	}
	rest, _ := strings.CutPrefix(path, s.config.Mount+"/")
	op, _, _ := strings.Cut(rest, "/")
	switch {
	case op == "keys" && method == http.MethodGet:
		return Read
	case op == "sign" || op == "encrypt" || op == "decrypt":
		return Class(op)
	}
	return Unknown
}

// reset ends a connection with RST, which a caller sees as a failure of the
// network.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if c, ok := conn.(*tls.Conn); ok {
		conn = c.NetConn()
	}
	if c, ok := conn.(*net.TCPConn); ok {
		c.SetLinger(0)
	}
	conn.Close()
}
