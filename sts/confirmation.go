package sts

import (
	"github.com/workload-sts/sts/policy"
)

// confirmation reads a cnf claim [RFC 7800 §3.1]. What this service does not
// understand binds a token all the same, so it is kept as something that nobody
// can prove here.
func confirmation(claims map[string]any) policy.Confirmation {
	v, present := claims["cnf"]
	if !present {
		return policy.Confirmation{}
	}
	other := policy.Confirmation{Other: true}
	m, ok := v.(map[string]any)
	if !ok || len(m) == 0 {
		return other
	}
	var c policy.Confirmation
	for name, v := range m {
		to := map[string]*string{"jkt": &c.JKT, "x5t#S256": &c.X5T}[name]
		thumbprint, isString := v.(string)
		if to == nil || !isString || thumbprint == "" {
			return other
		}
		*to = thumbprint
	}
	return c
}

// appendConfirmation adds the claim cnf, if the token is bound.
func appendConfirmation(b []byte, c policy.Confirmation) []byte {
	switch {
	case c.JKT != "": // [RFC 9449 §6.1]
		return append(appendString(append(b, `,"cnf":{"jkt":`...), c.JKT), '}')
	case c.X5T != "": // [RFC 8705 §3.1]
		return append(appendString(append(b, `,"cnf":{"x5t#S256":`...), c.X5T), '}')
	}
	return b
}
