package sts

import (
	"errors"
	"strings"
)

// Bounds of a SPIFFE ID, in bytes [SPIFFE-ID §2.3].
const (
	maxSPIFFEID    = 2048
	maxTrustDomain = 255
)

// spiffeScheme begins every SPIFFE ID, in just this case.
const spiffeScheme = "spiffe://"

// SPIFFEID is a SPIFFE ID that is well-formed. Its zero value is none.
type SPIFFEID struct{ trustDomain, path string }

// ParseSPIFFEID reads a SPIFFE ID [SPIFFE-ID §2]. There is one spelling of each,
// so two are the same if their texts are: nothing is unescaped, folded or tidied
// up. What is not that spelling is refused.
func ParseSPIFFEID(s string) (SPIFFEID, error) {
	if len(s) > maxSPIFFEID {
		return SPIFFEID{}, errors.New("a SPIFFE ID has at most 2048 bytes")
	}
	rest, ok := strings.CutPrefix(s, spiffeScheme)
	if !ok {
		return SPIFFEID{}, errors.New("a SPIFFE ID begins with spiffe://, in lower case")
	}
	id := SPIFFEID{trustDomain: rest}
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		id.trustDomain, id.path = rest[:i], rest[i:]
	}
	if err := checkTrustDomain(id.trustDomain); err != nil {
		return SPIFFEID{}, err
	}
	if err := checkSPIFFEPath(id.path, ""); err != nil {
		return SPIFFEID{}, err
	}
	return id, nil
}

// TrustDomain is the name of the trust domain, such as example.org.
func (id SPIFFEID) TrustDomain() string { return id.trustDomain }

// Path begins with a slash, or is empty for the trust domain itself.
func (id SPIFFEID) Path() string { return id.path }

// String is the text that was parsed; empty for the zero value.
func (id SPIFFEID) String() string {
	if id.trustDomain == "" {
		return ""
	}
	return spiffeScheme + id.trustDomain + id.path
}

// checkTrustDomain checks the name of a trust domain [SPIFFE-ID §2.1]. It has no
// port and no user, whose colon and @ are not among its characters.
func checkTrustDomain(name string) error {
	if name == "" || len(name) > maxTrustDomain {
		return errors.New("the name of a trust domain has 1 to 255 bytes")
	}
	if strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("-._", r)
	}) {
		return errors.New("the name of a trust domain has lower case letters, digits and -._ only")
	}
	return nil
}

// checkSPIFFEPath checks the path of a SPIFFE ID [SPIFFE-ID §2.2], which may have
// more characters, for a pattern.
func checkSPIFFEPath(path, more string) error {
	if path == "" {
		return nil
	}
	if path[0] != '/' {
		return errors.New("the path of a SPIFFE ID begins with a slash")
	}
	for segment := range strings.SplitSeq(path[1:], "/") {
		switch {
		case segment == "":
			return errors.New("the path of a SPIFFE ID has no empty segment and no slash at its end")
		case segment == "." || segment == "..":
			return errors.New("the path of a SPIFFE ID has no segment of one or two dots")
		case strings.ContainsFunc(segment, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-._"+more, r)
		}):
			return errors.New("the path of a SPIFFE ID has letters, digits and -._ only, in segments")
		}
	}
	return nil
}
