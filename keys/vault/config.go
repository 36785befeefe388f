// Package vault signs, encrypts and decrypts with keys of a transit engine of
// HashiCorp Vault, or OpenBao, that never leave it. It hides the protocol: login
// and renewal, several addresses, files that change, and what Vault's answers
// mean.
package vault

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Config says where Vault is and how to log in. Secrets are named by their
// files, which are read again when they change. Nothing is taken from the
// environment.
type Config struct {
	// Addresses are the base URLs of the nodes, such as https://vault:8200. A call
	// goes to the one that answered last, and to the next in order when that is
	// down, sealed, uninitialised, or a standby that does not forward.
	Addresses  []string
	Namespace  string // of the mounts; empty: the root namespace
	CAFile     string // PEM; whose certificates to trust; empty: those the system trusts
	ServerName string // expected in the server's certificate; empty: the host of the address
	// CertFile and KeyFile, PEM, are the client certificate, for listeners that ask
	// for one and for the Certificate login.
	CertFile, KeyFile string
	Login             Login
	Timeout           time.Duration // of one call, all addresses together; 0: 2s
	Log               *slog.Logger  // nil: no log

	// For tests.
	dial       func(ctx context.Context, network, address string) (net.Conn, error)
	filesEvery time.Duration // between looks at the files; 0: 2s
}

// Login is how to get a token. Exactly one method is set.
type Login struct {
	TokenFile   string // holds a token; it is renewed, and read again when it changes
	AppRole     *AppRole
	Kubernetes  *Kubernetes
	Certificate *Certificate
}

// AppRole logs in with a role id and a secret id.
type AppRole struct {
	Mount        string // empty: approle
	RoleID       string
	SecretIDFile string
}

// Kubernetes logs in with the token of a service account.
type Kubernetes struct {
	Mount     string // empty: kubernetes
	Role      string
	TokenFile string // empty: where Kubernetes puts it
}

// Certificate logs in with the client certificate.
type Certificate struct {
	Mount string // empty: cert
	Role  string // empty: the one that fits the certificate
}

const (
	defaultTimeout = 2 * time.Second
	maxTimeout     = time.Minute
	dialTimeout    = time.Second
	// serviceAccount is where Kubernetes puts the token.
	serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount/token"
)

// withDefaults fills in what is not set.
func (c Config) withDefaults() Config {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.filesEvery == 0 {
		c.filesEvery = filesEvery
	}
	if c.dial == nil {
		c.dial = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext
	}
	c.Addresses = slices.Clone(c.Addresses)
	if a := c.Login.AppRole; a != nil {
		copied := *a
		def(&copied.Mount, "approle")
		c.Login.AppRole = &copied
	}
	if k := c.Login.Kubernetes; k != nil {
		copied := *k
		def(&copied.Mount, "kubernetes")
		def(&copied.TokenFile, serviceAccount)
		c.Login.Kubernetes = &copied
	}
	if l := c.Login.Certificate; l != nil {
		copied := *l
		def(&copied.Mount, "cert")
		c.Login.Certificate = &copied
	}
	return c
}

// Problem is something that is wrong with a field of a Config. The message reads
// with the field before it.
type Problem struct {
	Field   string // as in the configuration file, such as login.app_role.role_id
	Message string
}

// Check tells all that is wrong with a configuration and its files, without
// asking Vault.
func (c Config) Check() []Problem {
	c = c.withDefaults()
	k := &checker{}
	k.addresses(c.Addresses)
	k.login(c)
	if strings.ContainsFunc(c.Namespace, func(r rune) bool { return r <= ' ' || r > '~' }) {
		k.bad("namespace", "must be a path of printable characters without spaces")
	}
	if c.Timeout < 0 || c.Timeout > maxTimeout {
		k.bad("timeout", "must be between 0 and %s", maxTimeout)
	}
	if _, err := readRoots(c); err != nil {
		k.bad("ca_file", "%v", err)
	}
	switch {
	case c.CertFile == "" && c.KeyFile != "":
		k.bad("cert_file", "is missing; key_file is its private key")
	case c.CertFile != "" && c.KeyFile == "":
		k.bad("key_file", "is missing; cert_file needs its private key")
	case c.CertFile != "":
		if _, err := readPair(c); err != nil {
			k.bad("cert_file", "cannot be used: %v", err)
		}
	}
	return k.problems
}

// check is Check as one error.
func (c Config) check() error {
	var errs []error
	for _, p := range c.Check() {
		errs = append(errs, fmt.Errorf("%s: %s", p.Field, p.Message))
	}
	return errors.Join(errs...)
}

// checker collects problems.
type checker struct{ problems []Problem }

func (k *checker) bad(field, format string, args ...any) {
	k.problems = append(k.problems, Problem{field, fmt.Sprintf(format, args...)})
}

func (k *checker) addresses(addresses []string) {
	if len(addresses) == 0 {
		k.bad("addresses", "is missing; name at least one, such as https://vault.internal:8200")
	}
	for i, a := range addresses {
		field := fmt.Sprintf("addresses[%d]", i)
		if err := checkAddress(a); err != nil {
			k.bad(field, "%v", err)
		} else if slices.Contains(addresses[:i], a) {
			k.bad(field, "is there twice: %s", a)
		}
	}
}

// checkAddress refuses what a token must not be sent to in the clear.
func checkAddress(a string) error {
	u, err := url.Parse(a)
	switch {
	case err != nil, u.Hostname() == "", u.Opaque != "":
		return errors.New("is not a URL, such as https://vault.internal:8200")
	case u.User != nil:
		return errors.New("has a user or password; write it without")
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return errors.New("must not have a query or fragment")
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return errors.New("must be https; http is for loopback addresses only")
	case u.Scheme != "https" && u.Scheme != "http":
		return errors.New("must begin with https://")
	case strings.Contains(u.Path, "..") || strings.Contains(u.Path, "//") || strings.HasSuffix(u.Path, "/v1"):
		return errors.New("must have a plain path, or none; /v1 is added")
	}
	return nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// login looks at the one method that is set, defaults filled in.
func (k *checker) login(c Config) {
	l, methods := c.Login, 0
	if l.TokenFile != "" {
		methods++
		k.secret("login.token_file", l.TokenFile)
	}
	if a := l.AppRole; a != nil {
		methods++
		k.mount("login.app_role.mount", a.Mount)
		k.given("login.app_role.role_id", a.RoleID)
		k.secret("login.app_role.secret_id_file", a.SecretIDFile)
	}
	if n := l.Kubernetes; n != nil {
		methods++
		k.mount("login.kubernetes.mount", n.Mount)
		k.given("login.kubernetes.role", n.Role)
		k.secret("login.kubernetes.token_file", n.TokenFile)
	}
	if cert := l.Certificate; cert != nil {
		methods++
		k.mount("login.certificate.mount", cert.Mount)
		if c.CertFile == "" && c.KeyFile == "" {
			k.bad("login.certificate", "needs a client certificate, which is the proof; set cert_file and key_file")
		}
		for i, a := range c.Addresses {
			if strings.HasPrefix(a, "http:") {
				k.bad(fmt.Sprintf("addresses[%d]", i), "must be https; a login by certificate needs TLS")
			}
		}
	}
	switch methods {
	case 0:
		k.bad("login", "is missing; give one of token_file, app_role, kubernetes and certificate")
	case 1:
	default:
		k.bad("login", "has %d methods; keep one", methods)
	}
}

func (k *checker) mount(field, mount string) {
	if err := checkMount(mount); err != nil {
		k.bad(field, "%v", err)
	}
}

func (k *checker) given(field, value string) {
	if value == "" {
		k.bad(field, "is missing")
	}
}

// secret looks whether a file holds a secret.
func (k *checker) secret(field, file string) {
	if file == "" {
		k.bad(field, "is missing")
		return
	}
	if _, err := readSecret(file); err != nil {
		k.bad(field, "%v", err)
	}
}
