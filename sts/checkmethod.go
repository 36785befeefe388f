package sts

import (
	"maps"
	"slices"
	"strings"
)

// oneMethod refuses a client that could authenticate in two ways: whoever attacks
// it would choose the weaker. configured has the fields of all methods, and
// whether the client has them.
func (c *checker) oneMethod(ref Ref, configured map[string]bool) {
	var has []string
	for _, field := range slices.Sorted(maps.Keys(configured)) {
		if configured[field] {
			has = append(has, field)
		}
	}
	if len(has) > 1 {
		c.problem(ref, has[len(has)-1], "a client authenticates in one way; keep one of %s, and make a second client for the other", strings.Join(has, ", "))
	}
}

// tls checks by which certificate a client is known.
func (c *checker) tls(ref Ref, t *ClientTLS) {
	if t == nil {
		return
	}
	if _, field, err := newCertificateMatch(t); err != nil {
		c.problem(ref, strings.TrimSuffix("tls."+field, "."), "%s", err)
	}
}
