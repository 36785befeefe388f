package sts

import (
	"net/url"
	"strings"
)

// target is a normalised http or https URL without query and fragment.
type target struct{ scheme, authority, path string }

// normalTarget reads a URL. Case of scheme and host does not count, nor does the
// port if it is that of the scheme, nor how an unreserved character of the path is
// written [RFC 3986 §6.2.2, §6.2.3].
func normalTarget(s string) (target, bool) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.Opaque != "" {
		return target{}, false
	}
	t := target{scheme: u.Scheme, authority: strings.ToLower(u.Host)} // Parse has lowered the scheme
	switch t.scheme {
	case "https":
		t.authority = strings.TrimSuffix(t.authority, ":443")
	case "http":
		t.authority = strings.TrimSuffix(t.authority, ":80")
	default:
		return target{}, false
	}
	t.authority = strings.TrimSuffix(t.authority, ":")
	t.path = normalPath(u.EscapedPath())
	return t, true
}

// normalPath decodes what needs no encoding, and writes the rest in capitals.
func normalPath(escaped string) string {
	if escaped == "" {
		return "/"
	}
	if !strings.Contains(escaped, "%") {
		return escaped
	}
	var b strings.Builder
	for i := 0; i < len(escaped); i++ {
		if escaped[i] != '%' || i+2 >= len(escaped) {
			b.WriteByte(escaped[i])
			continue
		}
		if c := unhex(escaped[i+1])<<4 | unhex(escaped[i+2]); unreserved(c) {
			b.WriteByte(c)
		} else {
			b.WriteString(strings.ToUpper(escaped[i : i+3]))
		}
		i += 2
	}
	return b.String()
}

// unhex expects a digit, which a path that url.Parse accepted has.
func unhex(c byte) byte {
	switch {
	case c >= 'a':
		return c - 'a' + 10
	case c >= 'A':
		return c - 'A' + 10
	}
	return c - '0'
}

// unreserved are the characters of RFC 3986 §2.3.
func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0
}
