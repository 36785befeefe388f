package jose

import (
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"maps"
	"strings"
	"time"
)

// Bundle is what a SPIFFE bundle says [SPIFFE Trust Domain and Bundle §4].
type Bundle struct {
	Keys        KeySet              // of JWT-SVIDs
	Authorities []*x509.Certificate // of X.509-SVIDs
	Sequence    int64               // goes up with every change; 0: not said
	RefreshHint time.Duration       // how often to look for a change; 0: not said
}

// What the use of a key in a bundle is [SPIFFE Trust Domain and Bundle §4.2.2].
const (
	useJWT  = "jwt-svid"
	useX509 = "x509-svid"
)

// maxRefreshHint keeps a hint within what a time.Duration holds.
const maxRefreshHint = 366 * 24 * 3600

// ParseBundle reads a SPIFFE bundle. The second result says why a key was left
// out. One for JWT-SVIDs without an id is: a bundle may hold many, and a token
// says which one is meant. Whether an authority for X.509-SVIDs may be one, its
// certificate says, which is not looked at here.
func ParseBundle(b []byte) (Bundle, []error, error) {
	list, members, err := keyList(b)
	if err != nil {
		return Bundle{}, nil, err
	}
	var out Bundle
	for name, to := range map[string]*int64{"spiffe_sequence": &out.Sequence, "spiffe_refresh_hint": (*int64)(&out.RefreshHint)} {
		if v, present := members[name]; present {
			n, ok := v.(int64)
			if !ok || n < 0 {
				return Bundle{}, nil, fmt.Errorf("%w: %s is not a whole number", ErrMalformed, name)
			}
			*to = n
		}
	}
	out.RefreshHint = min(out.RefreshHint, maxRefreshHint) * time.Second
	var keys []any
	var left []error
	for i, v := range list {
		jwk, _ := v.(map[string]any)
		kid, _ := jwk["kid"].(string)
		switch {
		case jwk["use"] == useX509:
			cert, err := authority(jwk)
			if err != nil {
				left = append(left, fmt.Errorf("key %d: %w", i, err))
				continue
			}
			out.Authorities = append(out.Authorities, cert)
		case jwk["use"] != useJWT:
			left = append(left, fmt.Errorf("key %d: %w: its use is neither %s nor %s", i, ErrMalformed, useJWT, useX509))
		case kid == "":
			left = append(left, fmt.Errorf("key %d: %w: no kid", i, ErrMalformed))
		default:
			jwk = maps.Clone(jwk)
			delete(jwk, "use")
			keys = append(keys, jwk)
		}
	}
	set, more, err := parseKeys(keys)
	out.Keys = set
	return out, append(left, more...), err
}

// authority reads the certificate of a key for X.509-SVIDs. It is the first one of
// x5c, and the only one [SPIFFE Trust Domain and Bundle §4.2.2, X.509-SVID §6.1].
func authority(jwk map[string]any) (*x509.Certificate, error) {
	x5c, _ := jwk["x5c"].([]any)
	if len(x5c) != 1 {
		return nil, fmt.Errorf("%w: its x5c is not a list of one certificate", ErrMalformed)
	}
	text, _ := x5c[0].(string)
	der, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") { // which a decoder skips
		return nil, fmt.Errorf("%w: its x5c is not base64", ErrMalformed)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%w: its x5c: %w", ErrMalformed, err)
	}
	return cert, nil
}
