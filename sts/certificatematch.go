package sts

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/mail"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/workload-sts/sts/jose"
)

// certificateMatch is a ClientTLS ready to be compared with certificates.
type certificateMatch struct {
	method AuthMethod
	field  string // of ClientTLS, for the record
	want   string // what that expects
	spiffe bool   // the authority must be that of the trust domain
	// names returns what a certificate says of itself, of which one must be meant.
	names func(*x509.Certificate) ([]string, error)
	meant func(name string) bool
}

// newCertificateMatch compiles a ClientTLS, or says which field is wrong, and how.
func newCertificateMatch(t *ClientTLS) (*certificateMatch, string, error) {
	var matches []func() (*certificateMatch, string, error)
	add := func(present bool, f func() (*certificateMatch, string, error)) {
		if present {
			matches = append(matches, f)
		}
	}
	add(t.SubjectDN != "", func() (*certificateMatch, string, error) { return matchSubject(t.SubjectDN) })
	add(t.SANURI != "", func() (*certificateMatch, string, error) { return matchURI(t.SANURI) })
	add(t.SANDNS != "", func() (*certificateMatch, string, error) { return matchDNS(t.SANDNS) })
	add(t.SANIP != "", func() (*certificateMatch, string, error) { return matchIP(t.SANIP) })
	add(t.SANEmail != "", func() (*certificateMatch, string, error) { return matchEmail(t.SANEmail) })
	add(t.SPIFFE != nil, func() (*certificateMatch, string, error) { return matchSPIFFE(t.SPIFFE) })
	add(t.SelfSigned != nil, func() (*certificateMatch, string, error) { return matchKey(t.SelfSigned.JWKS) })
	if len(matches) != 1 {
		return nil, "", errors.New("exactly one of subject_dn, san_uri, san_dns, san_ip, san_email, spiffe and self_signed says which certificate is meant")
	}
	m, field, err := matches[0]()
	if err != nil {
		return nil, field, err
	}
	return m, "", nil
}

// isNamed returns nil if what a certificate says of itself is what is meant.
func (m *certificateMatch) isNamed(c *x509.Certificate) error {
	names, err := m.names(c)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(names, m.meant) {
		return nil
	}
	presented := "none"
	if len(names) > 0 {
		presented = show(strings.Join(names, ", "), true)
	}
	return &mismatch{RecordReason: certificateReason(m.field, presented, m.want)}
}

// CertificateName is by which certificate somebody other than a client is known,
// by the rules for clients.
type CertificateName struct{ match *certificateMatch }

// NewCertificateName returns the name of a ClientTLS, or what is wrong with it.
func NewCertificateName(t *ClientTLS) (CertificateName, error) {
	m, _, err := newCertificateMatch(t)
	return CertificateName{m}, err
}

// Proves returns nil if certificates, leaf first, prove at a time that who has
// them is meant. Whether authorities vouch for them, verified says as it does in a
// [TokenRequest]; it is asked only if the name is right.
func (n CertificateName) Proves(certificates []*x509.Certificate, verified func(string, time.Time) error, now time.Time) error {
	if len(certificates) == 0 {
		return errors.New("no certificate")
	}
	if err := n.match.isNamed(certificates[0]); err != nil {
		return err
	}
	return worthOf(certificates, verified, now).proves(n.match)
}

// exactly is a match of one name [RFC 8705 §2.1.2].
func exactly(field, want string, names func(*x509.Certificate) ([]string, error)) *certificateMatch {
	return &certificateMatch{
		method: TLSClientAuth, field: field, want: want, names: names,
		meant: func(name string) bool { return name == want },
	}
}

func matchSubject(text string) (*certificateMatch, string, error) {
	dn, err := parseDistinguishedName(text)
	if err != nil {
		return nil, "subject_dn", err
	}
	return exactly("subject_dn", string(dn), func(c *x509.Certificate) ([]string, error) {
		name, err := subjectName(c.RawSubject)
		return []string{string(name)}, err
	}), "", nil
}

func matchURI(uri string) (*certificateMatch, string, error) {
	u, err := url.Parse(uri)
	switch {
	case err != nil || !u.IsAbs() || !visible(uri) || len(uri) > maxSPIFFEID:
		return nil, "san_uri", fmt.Errorf("must be an absolute URI of at most %d visible ASCII characters", maxSPIFFEID)
	case strings.EqualFold(u.Scheme, "spiffe"):
		return nil, "san_uri", errors.New("a SPIFFE ID belongs into `spiffe: {id: ...}`, where only the authorities of its trust domain can vouch for it")
	}
	return exactly("san_uri", uri, sanURIs), "", nil
}

func matchDNS(name string) (*certificateMatch, string, error) {
	if len(name) > 253 || strings.ContainsFunc(name, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune("-._", r)
	}) {
		return nil, "san_dns", errors.New("must be a DNS name; wildcards are not accepted, and an international name is written in its xn-- form")
	}
	return exactly("san_dns", name, func(c *x509.Certificate) ([]string, error) { return c.DNSNames, nil }), "", nil
}

func matchIP(text string) (*certificateMatch, string, error) {
	ip, err := netip.ParseAddr(text)
	if err != nil || ip.Zone() != "" || ip.Is4In6() {
		return nil, "san_ip", errors.New("must be one IPv4 or IPv6 address")
	}
	return exactly("san_ip", ip.String(), func(c *x509.Certificate) ([]string, error) {
		var out []string
		for _, raw := range c.IPAddresses {
			if a, ok := netip.AddrFromSlice(raw); ok {
				out = append(out, a.String())
			}
		}
		return out, nil
	}), "", nil
}

func matchEmail(address string) (*certificateMatch, string, error) {
	if a, err := mail.ParseAddress(address); err != nil || a.Address != address || !visible(address) {
		return nil, "san_email", errors.New("must be one email address, without a name")
	}
	return exactly("san_email", address, func(c *x509.Certificate) ([]string, error) { return c.EmailAddresses, nil }), "", nil
}

func matchSPIFFE(s *ClientSPIFFE) (*certificateMatch, string, error) {
	m := &certificateMatch{
		method: TLSClientAuth, field: "spiffe", spiffe: true,
		names: func(c *x509.Certificate) ([]string, error) {
			id, err := svid(c)
			return []string{id.String()}, err
		},
	}
	switch {
	case s.ID != "" && (s.TrustDomain != "" || s.Path != ""):
		return nil, "spiffe", errors.New("is either an id, or a trust_domain and a path")
	case s.ID != "":
		id, err := ParseSPIFFEID(s.ID)
		if err != nil {
			return nil, "spiffe.id", err
		}
		if id.Path() == "" {
			return nil, "spiffe.id", errors.New("names a trust domain; the SPIFFE ID of a workload has a path")
		}
		m.want, m.meant = s.ID, func(name string) bool { return name == s.ID }
	default:
		if err := checkTrustDomain(s.TrustDomain); err != nil {
			return nil, "spiffe.trust_domain", err
		}
		if s.Path == "" || strings.Contains(s.Path, "**") || len(s.Path) > maxSPIFFEID {
			return nil, "spiffe.path", errors.New("must be a path such as /ns/prod/sa/*, in which * stands for characters within one segment")
		}
		if err := checkSPIFFEPath(s.Path, "*"); err != nil {
			return nil, "spiffe.path", err
		}
		m.want = spiffeScheme + s.TrustDomain + s.Path
		m.meant = func(name string) bool {
			id, err := ParseSPIFFEID(name)
			// Of what path.Match understands, a pattern of these characters has only *.
			ok, bad := path.Match(s.Path, id.Path())
			return err == nil && bad == nil && ok && id.TrustDomain() == s.TrustDomain
		}
	}
	return m, "", nil
}

// maxClientKeys bounds the keys of self-signed certificates.
const maxClientKeys = 10

// matchKey is for certificates that are known by their key [RFC 8705 §2.2].
func matchKey(jwks string) (*certificateMatch, string, error) {
	const field = "self_signed.jwks"
	set, left, err := jose.ParseKeySet([]byte(jwks))
	switch {
	case err != nil:
		return nil, field, err
	case len(left) > 0:
		return nil, field, left[0]
	case set.Len() == 0 || set.Len() > maxClientKeys:
		return nil, field, fmt.Errorf("must have 1 to %d keys", maxClientKeys)
	}
	names := map[string]bool{}
	var want []string
	for k := range set.All() {
		name, err := jose.Thumbprint(k.Public)
		if err != nil {
			return nil, field, err
		}
		names[name], want = true, append(want, name)
	}
	// A thumbprint covers all that makes a key [RFC 7638 §3.2].
	return &certificateMatch{
		method: SelfSignedTLSClientAuth, field: "key", want: strings.Join(want, " or "),
		names: func(c *x509.Certificate) ([]string, error) {
			name, err := jose.Thumbprint(c.PublicKey)
			return []string{name}, err
		},
		meant: func(name string) bool { return names[name] },
	}, "", nil
}
