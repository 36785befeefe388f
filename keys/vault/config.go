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

// Check tells all that is wrong with a configuration and its files, without
// asking Vault.
func (c Config) Check() error {
	c = c.withDefaults()
	errs := []error{c.checkAddresses(), c.Login.check(c)}
	if strings.ContainsFunc(c.Namespace, func(r rune) bool { return r <= ' ' || r > '~' }) {
		errs = append(errs, errors.New("namespace: must be a path of printable characters without spaces"))
	}
	if c.Timeout < 0 || c.Timeout > maxTimeout {
		errs = append(errs, fmt.Errorf("timeout: must be between 0 and %s", maxTimeout))
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		errs = append(errs, errors.New("client certificate: set both its file and the file of its key, or neither"))
	} else if _, err := readFiles(c); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (c Config) checkAddresses() error {
	if len(c.Addresses) == 0 {
		return errors.New("addresses: name at least one, such as https://vault.example.com:8200")
	}
	var errs []error
	for i, a := range c.Addresses {
		if err := checkAddress(a); err != nil {
			errs = append(errs, fmt.Errorf("addresses: %w", err))
		}
		if slices.Contains(c.Addresses[:i], a) {
			errs = append(errs, fmt.Errorf("addresses: %s is there twice", a))
		}
	}
	return errors.Join(errs...)
}

// checkAddress refuses what a token must not be sent to in the clear.
func checkAddress(a string) error {
	u, err := url.Parse(a)
	switch {
	case err != nil, u.Hostname() == "", u.Opaque != "":
		return errors.New("there is one that is not a URL, such as https://vault.example.com:8200")
	case u.User != nil:
		return errors.New("there is one with a user or password: write it without")
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return fmt.Errorf("%s must not have a query or fragment", u.Redacted())
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return fmt.Errorf("%s must be https: http is for loopback addresses", a)
	case u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("%s must begin with https://", a)
	case strings.Contains(u.Path, "..") || strings.Contains(u.Path, "//") || strings.HasSuffix(u.Path, "/v1"):
		return fmt.Errorf("%s must have a plain path, or none: /v1 is added", a)
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

// check looks at the one method that is set, defaults filled in.
func (l Login) check(c Config) error {
	var errs []error
	methods := 0
	add := func(err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("login: %w", err))
		}
	}
	if l.TokenFile != "" {
		methods++
		_, err := readSecret(l.TokenFile)
		add(err)
	}
	if a := l.AppRole; a != nil {
		methods++
		add(checkMount(a.Mount))
		if a.RoleID == "" {
			add(errors.New("approle needs a role id"))
		}
		if a.SecretIDFile == "" {
			add(errors.New("approle needs the file of a secret id"))
		} else {
			_, err := readSecret(a.SecretIDFile)
			add(err)
		}
	}
	if k := l.Kubernetes; k != nil {
		methods++
		add(checkMount(k.Mount))
		if k.Role == "" {
			add(errors.New("kubernetes needs a role"))
		}
		_, err := readSecret(k.TokenFile)
		add(err)
	}
	if cert := l.Certificate; cert != nil {
		methods++
		add(checkMount(cert.Mount))
		if c.CertFile == "" {
			add(errors.New("certificate needs a client certificate: set its file and the file of its key"))
		}
		for _, a := range c.Addresses {
			if strings.HasPrefix(a, "http:") {
				add(fmt.Errorf("certificate needs TLS: %s must be https", a))
			}
		}
	}
	if methods != 1 {
		errs = append(errs, fmt.Errorf("login: set exactly one method, not %d", methods))
	}
	return errors.Join(errs...)
}
