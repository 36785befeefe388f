package keys

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

const maxURL = 255

// CheckURL tells what is wrong with a URL that keys are fetched from. It is
// stricter than a URL parser, because issuer identifiers are compared by their
// bytes and what can be written in two ways is an attack.
func CheckURL(s string, insecureHTTP bool) error {
	if len(s) > maxURL {
		return fmt.Errorf("is longer than %d characters", maxURL)
	}
	// Characters that the cases below have a better sentence for are let through.
	if strings.ContainsFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune("-._~:/[]+=?#@%", r)
	}) {
		return errors.New("has a character that does not belong into it")
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return errors.New("is not a URL")
	case u.Scheme != "https" && (u.Scheme != "http" || !insecureHTTP):
		return errors.New("must be an https URL")
	case !strings.HasPrefix(s, u.Scheme+"://"):
		return errors.New("must have its scheme in lower case and a host")
	case u.Host == "" || u.Hostname() == "" || u.Opaque != "":
		return errors.New("has no host")
	case u.User != nil || strings.Contains(s, "@"):
		return errors.New("must not have user information")
	case strings.ContainsAny(s, "?#"):
		return errors.New("must not have a query or fragment")
	case strings.Contains(s, "%"):
		return errors.New("must not have percent encoding; write the characters themselves")
	case u.Host != strings.ToLower(u.Host):
		return errors.New("must have its host in lower case")
	case strings.Contains(u.Path, "//") || strings.Contains(u.Path, "/./") || strings.Contains(u.Path, "..") ||
		strings.HasSuffix(u.Path, "/.") || strings.Contains(s, "~~"):
		return errors.New("must have a plain path, without empty or dot segments")
	case strings.HasSuffix(u.Host, ".") || strings.HasSuffix(u.Host, ":"):
		return errors.New("must have a plain host")
	case !validPort(u.Port()):
		return errors.New("must have a port between 1 and 65535, or none")
	}
	return nil
}

// validPort takes a port in digits, or none. It has one spelling: no zeros lead.
func validPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return port == "" || err == nil && n > 0 && port[0] != '0'
}
