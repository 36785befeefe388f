package jose

import (
	"fmt"
	"maps"
	"time"
)

// Bundle is what a SPIFFE bundle says about JWT-SVIDs [SPIFFE Trust Domain and
// Bundle §4].
type Bundle struct {
	Keys        KeySet
	Sequence    int64         // goes up with every change; 0: not said
	RefreshHint time.Duration // how often to look for a change; 0: not said
}

// What the use of a key in a bundle is [SPIFFE Trust Domain and Bundle §4.2.2].
const (
	useJWT  = "jwt-svid"
	useX509 = "x509-svid"
)

// maxRefreshHint keeps a hint within what a time.Duration holds.
const maxRefreshHint = 366 * 24 * 3600

// ParseBundle reads a SPIFFE bundle. Only keys that are authoritative for
// JWT-SVIDs are returned; those for certificates are left out without a word,
// and the second result says why any other was. A key without an id is left out
// too: a bundle may hold many, and a token says which one is meant.
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
