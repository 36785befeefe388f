package server

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/sts"
)

// ClientCertificateFiles name where the authorities are that may have issued
// certificates of clients, in PEM; those of trust domains in PEM or as a SPIFFE
// bundle.
type ClientCertificateFiles struct {
	CA     string            // empty: none
	SPIFFE map[string]string // by trust domain
	CRL    string            // revocation lists of authorities above, or of intermediate ones; empty: none
}

// ClientCertificates says whose certificates count on a listener.
type ClientCertificates struct {
	files   ClientCertificateFiles
	proxies []TrustedProxy
	log     *slog.Logger
	read    map[string]file // contents as of the last look; used by one goroutine
	current atomic.Pointer[authorities]
	*looking
}

// ReloadingClientCertificates returns the authorities in files, which are looked
// at again every so often. Files that cannot be used are not: the last good ones
// stay and the log says why. Close ends the looking.
func ReloadingClientCertificates(files ClientCertificateFiles, proxies []TrustedProxy, every time.Duration, log *slog.Logger) (*ClientCertificates, error) {
	c := &ClientCertificates{files: files, proxies: proxies, log: log}
	if err := c.load(); err != nil {
		return nil, err
	}
	c.looking = lookEvery(every, c.reload)
	return c, nil
}

// CheckClientCertificates says what is wrong with files of authorities.
func CheckClientCertificates(files ClientCertificateFiles) error {
	_, err := readAuthorities(files, readAll(files))
	return err
}

func (c *ClientCertificates) reload() {
	if err := c.load(); err != nil {
		c.log.Error("the changed authorities of client certificates cannot be used; the last good ones stay", "error", err)
	}
}

// load takes over the files if they have changed.
func (c *ClientCertificates) load() error {
	read := readAll(c.files)
	if c.read != nil && maps.EqualFunc(read, c.read, func(a, b file) bool { return a.same(b) }) {
		return nil
	}
	c.read = read
	a, err := readAuthorities(c.files, read)
	if err != nil {
		return err
	}
	if c.current.Swap(a) != nil {
		c.log.Info("authorities of client certificates replaced")
	}
	return nil
}

// file is what was found when it was looked at.
type file struct {
	data []byte
	err  error
}

func (f file) same(g file) bool {
	return bytes.Equal(f.data, g.data) && (f.err == nil) == (g.err == nil)
}

func readAll(files ClientCertificateFiles) map[string]file {
	out := map[string]file{}
	for _, name := range slices.Concat([]string{files.CA, files.CRL}, slices.Collect(maps.Values(files.SPIFFE))) {
		if name != "" {
			data, err := os.ReadFile(name)
			out[name] = file{data, err}
		}
	}
	return out
}

// authorities are those of one look at the files.
type authorities struct {
	pools   map[string]*x509.CertPool // by trust domain; "" for those of none
	revoked *revocations              // nil: no lists are configured
}

func readAuthorities(files ClientCertificateFiles, read map[string]file) (*authorities, error) {
	a := &authorities{pools: map[string]*x509.CertPool{}}
	var all []*x509.Certificate
	add := func(trustDomain, name string) error {
		if name == "" {
			return nil
		}
		certs, err := readAnchors(name, read[name])
		if err != nil {
			return err
		}
		a.pools[trustDomain] = x509.NewCertPool()
		for _, cert := range certs {
			a.pools[trustDomain].AddCert(cert)
		}
		all = append(all, certs...)
		return nil
	}
	if err := add("", files.CA); err != nil {
		return nil, err
	}
	for _, domain := range slices.Sorted(maps.Keys(files.SPIFFE)) {
		if err := add(domain, files.SPIFFE[domain]); err != nil {
			return nil, err
		}
	}
	if files.CRL == "" {
		return a, nil
	}
	var err error
	a.revoked, err = readRevocations(files.CRL, read[files.CRL], all)
	return a, err
}

// readAnchors reads authorities, in PEM or in a SPIFFE bundle. All of them must be
// such.
func readAnchors(name string, f file) ([]*x509.Certificate, error) {
	if f.err != nil {
		return nil, fmt.Errorf("reading authorities of client certificates: %w", f.err)
	}
	certs, err := parseAnchors(f.data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for i, cert := range certs {
		if err := checkAnchor(cert); err != nil {
			return nil, fmt.Errorf("%s: certificate %d (%s) %w", name, i+1, cert.Subject, err)
		}
	}
	return certs, nil
}

func parseAnchors(data []byte) ([]*x509.Certificate, error) {
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		b, left, err := jose.ParseBundle(data)
		if err == nil {
			err = errors.Join(left...)
		}
		if err == nil && len(b.Authorities) == 0 {
			err = errors.New("is a SPIFFE bundle without a key whose use is x509-svid")
		}
		return b.Authorities, err
	}
	blocks, err := pemBlocks(data, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	var out []*x509.Certificate
	for i, der := range blocks {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", i+1, err)
		}
		out = append(out, cert)
	}
	return out, nil
}

// checkAnchor refuses what is no CA certificate: a leaf in the place of an
// authority would vouch for itself, whatever it was issued for.
func checkAnchor(cert *x509.Certificate) error {
	if !cert.BasicConstraintsValid || !cert.IsCA || cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return errors.New("is not an authority's: it lacks CA:TRUE or the key usage keyCertSign")
	}
	return sts.CheckCertificateStrength(cert)
}

// pemBlocks returns the contents of the blocks of a file, which are all of one
// type. There is at least one.
func pemBlocks(data []byte, kind string) ([][]byte, error) {
	var out [][]byte
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		if block.Type != kind {
			return nil, fmt.Errorf("has a PEM block %q among those of %s", block.Type, kind)
		}
		out, data = append(out, block.Bytes), rest
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("has no PEM block %s", kind)
	}
	return out, nil
}

// Bounds of a chain that a client presents. What does not fit is not looked at.
const (
	maxChain       = 6        // certificates
	maxCertificate = 16 << 10 // bytes of one
)

// verifier returns what a TokenRequest has to verify a chain, leaf first. It asks
// the authorities of the moment when it is called.
func (c *ClientCertificates) verifier(chain []*x509.Certificate) func(string, time.Time) error {
	return func(trustDomain string, now time.Time) error {
		return c.current.Load().verify(chain, trustDomain, now)
	}
}

func (a *authorities) verify(chain []*x509.Certificate, trustDomain string, now time.Time) error {
	roots, ok := a.pools[trustDomain]
	switch {
	case !ok && trustDomain == "":
		return errors.New("no ca_file of client_certificates is configured where the request came in")
	case !ok:
		return errors.New("no bundle is configured for the trust domain of the certificate where the request came in")
	case len(chain) > maxChain:
		return fmt.Errorf("more than %d certificates", maxChain)
	}
	intermediates := x509.NewCertPool()
	for i, cert := range chain {
		if len(cert.Raw) > maxCertificate {
			return fmt.Errorf("a certificate of more than %d bytes", maxCertificate)
		}
		// Here, and not in what is found, so that no key costs more than it should.
		if err := sts.CheckCertificateStrength(cert); err != nil {
			return err
		}
		if i > 0 {
			intermediates.AddCert(cert)
		}
	}
	found, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return whyNot(err)
	}
	return a.notRevoked(found, now)
}

// whyNot says why a chain does not verify without repeating what is in it, which
// anybody can have written.
func whyNot(err error) error {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return errors.New("the certificate does not lead to an authority of clients where the request came in")
	}
	invalid, ok := errors.AsType[x509.CertificateInvalidError](err)
	if !ok {
		return errors.New("the certificate has an extension that is marked as critical and not understood, or is otherwise not valid")
	}
	switch invalid.Reason {
	case x509.Expired:
		return errors.New("the certificate, or one of its authorities, has expired or is not valid yet")
	case x509.IncompatibleUsage:
		return errors.New("the certificate is not for clients: its extended key usage, or that of an authority, lacks clientAuth")
	default:
		return errors.New("the certificate breaks a rule of its authorities: a constraint on names, on the length of the chain, or on who may sign")
	}
}
