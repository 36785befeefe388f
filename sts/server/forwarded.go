package server

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/workload-sts/sts/sts"
)

// ForwardedFormat is how a proxy writes the certificate of a client into a header.
type ForwardedFormat string

// The formats of forwarded certificates.
const (
	ForwardedRFC9440    ForwardedFormat = "rfc9440"     // Client-Cert and Client-Cert-Chain
	ForwardedXFCC       ForwardedFormat = "xfcc"        // of Envoy: Cert or Chain in one element
	ForwardedEscapedPEM ForwardedFormat = "escaped_pem" // of nginx: $ssl_client_escaped_cert
)

// ForwardedFormats has the default header of each format.
var ForwardedFormats = map[ForwardedFormat]string{
	ForwardedRFC9440: "Client-Cert", ForwardedXFCC: "X-Forwarded-Client-Cert", ForwardedEscapedPEM: "X-SSL-Client-Cert",
}

// TrustedProxy is a proxy that forwards certificates of clients.
type TrustedProxy struct {
	Name   sts.CertificateName // by which certificate it is known
	Header string
	Format ForwardedFormat
	// AddressHeader has the network address of the client as its last element, which
	// is the proxy's own. Empty: the address is not taken from a header.
	AddressHeader string
}

// address returns the network address of the client, empty if the proxy does not
// say it. What stands before the last element somebody else has written.
func (p *TrustedProxy) address(headers map[string][]string) string {
	var values []string
	for name, v := range headers {
		if p.AddressHeader != "" && strings.EqualFold(name, p.AddressHeader) {
			values = append(values, v...)
		}
	}
	if len(values) == 0 {
		return ""
	}
	last := values[len(values)-1]
	last = strings.TrimSpace(last[strings.LastIndexByte(last, ',')+1:])
	if a, err := netip.ParseAddrPort(last); err == nil {
		return a.Addr().Unmap().WithZone("").String()
	}
	if a, err := netip.ParseAddr(strings.Trim(last, "[]")); err == nil {
		return a.Unmap().WithZone("").String()
	}
	return ""
}

// chainHeader has the rest of the chain in the format of RFC 9440 §2.3.
const chainHeader = "Client-Cert-Chain"

// forwarded returns the certificates in the headers of a proxy, leaf first, none
// if the client had shown none. A header that is there in any other way than the
// proxy must set it may have come from the client, and is an error.
func (p *TrustedProxy) forwarded(headers map[string][]string) ([]*x509.Certificate, error) {
	value, err := single(headers, p.Header)
	if err != nil {
		return nil, err
	}
	var rest string
	if p.Format == ForwardedRFC9440 {
		if rest, err = single(headers, chainHeader); err != nil {
			return nil, err
		}
		if rest != "" && value == "" {
			return nil, errors.New("a chain without a certificate was forwarded")
		}
	}
	if value == "" {
		return nil, nil
	}
	var ders [][]byte
	switch p.Format {
	case ForwardedRFC9440:
		ders, err = rfc9440(value, rest)
	case ForwardedXFCC:
		ders, err = xfcc(value)
	default:
		ders, err = escapedPEM(value)
		if len(ders) > 1 {
			err = errors.New("more than one certificate was forwarded")
		}
	}
	if err != nil {
		return nil, err
	}
	if len(ders) > maxChain {
		return nil, errors.New("more certificates were forwarded than a chain has")
	}
	chain := make([]*x509.Certificate, 0, len(ders))
	for _, der := range ders {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, errors.New("what was forwarded is not a certificate")
		}
		chain = append(chain, cert)
	}
	return chain, nil
}

// single returns the value of a header that is there at most once, and under no
// name that a server behind might take for it.
func single(headers map[string][]string, name string) (string, error) {
	fold := func(s string) string { return strings.ReplaceAll(strings.ToLower(s), "_", "-") }
	value, found := "", 0
	for given, values := range headers {
		if fold(given) != fold(name) {
			continue
		}
		if !strings.EqualFold(given, name) {
			return "", errors.New("a header that looks like " + name + " came along; the proxy must remove those that clients send")
		}
		found += len(values)
		value = strings.Join(values, "")
	}
	if found > 1 {
		return "", errors.New("the header " + name + " came more than once; the proxy must set it and not add to it")
	}
	return value, nil
}

// rfc9440 reads a byte sequence and a list of them [RFC 9440 §2.2, §2.3; RFC 8941
// §3.3.5].
func rfc9440(leaf, rest string) ([][]byte, error) {
	items := []string{leaf}
	if rest != "" {
		items = append(items, strings.Split(rest, ",")...)
	}
	var out [][]byte
	for i, item := range items {
		if i > 0 {
			item = strings.Trim(item, " \t")
		}
		inner, begins := strings.CutPrefix(item, ":")
		inner, ends := strings.CutSuffix(inner, ":")
		// A decoder skips line breaks.
		der, err := base64.StdEncoding.Strict().DecodeString(inner)
		if !begins || !ends || err != nil || inner == "" || strings.ContainsAny(inner, "\r\n") {
			return nil, errors.New("the header is not a byte sequence of RFC 9440")
		}
		out = append(out, der)
	}
	return out, nil
}

// escapedPEM reads PEM with percent encoding.
func escapedPEM(value string) ([][]byte, error) {
	text, err := url.PathUnescape(value)
	if err != nil {
		return nil, errors.New("the header is not well-formed percent encoding")
	}
	return strictPEM([]byte(text))
}

// strictPEM reads certificates, and nothing before, between or after them.
func strictPEM(data []byte) ([][]byte, error) {
	bad := errors.New("the header has something else than certificates in PEM")
	var out [][]byte
	for rest := data; len(bytes.TrimSpace(rest)) > 0; {
		if !bytes.HasPrefix(bytes.TrimSpace(rest), []byte("-----BEGIN CERTIFICATE-----")) {
			return nil, bad
		}
		block, after := pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" || len(block.Headers) > 0 {
			return nil, bad
		}
		out, rest = append(out, block.Bytes), after
	}
	if len(out) == 0 || len(out) > maxChain {
		return nil, bad
	}
	return out, nil
}

// xfcc reads Envoy's header: elements separated by commas, each of pairs separated
// by semicolons, values that have such characters in double quotes. There must be
// one element: with several, a proxy has added to what a client sent.
func xfcc(value string) ([][]byte, error) {
	bad := errors.New("the header is not one element of X-Forwarded-Client-Cert")
	pairs := map[string]string{}
	for rest := value; ; {
		name, after, ok := strings.Cut(rest, "=")
		if !ok || name == "" || strings.ContainsAny(name, "\",; \t") {
			return nil, bad
		}
		text, left, ok := xfccValue(after)
		name = strings.ToLower(name)
		// By, URI and DNS may repeat, and say nothing that the certificate does not.
		if _, twice := pairs[name]; !ok || twice && (name == "cert" || name == "chain") {
			return nil, bad
		}
		pairs[name] = text
		if left == "" {
			break
		}
		if left[0] != ';' {
			return nil, bad
		}
		rest = left[1:]
	}
	leaf, err := xfccCertificates(pairs, "cert")
	if err != nil {
		return nil, err
	}
	chain, err := xfccCertificates(pairs, "chain")
	switch {
	case err != nil:
		return nil, err
	case len(leaf) > 1 || len(leaf)+len(chain) == 0:
		return nil, errors.New("the element has neither Cert nor Chain, which the proxy must be told to forward")
	case len(leaf) == 1 && len(chain) > 0 && !bytes.Equal(leaf[0], chain[0]):
		return nil, errors.New("the element has a Cert that is not the first of its Chain")
	case len(chain) > 0:
		return chain, nil
	}
	return leaf, nil
}

func xfccCertificates(pairs map[string]string, name string) ([][]byte, error) {
	if pairs[name] == "" {
		return nil, nil
	}
	return escapedPEM(pairs[name])
}

// xfccValue reads a value, and returns what follows it.
func xfccValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		if i := strings.IndexAny(s, `,;"`); i >= 0 {
			return s[:i], s[i:], s[i] != '"'
		}
		return s, "", true
	}
	var b []byte
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return string(b), s[i+1:], true
		case '\\':
			if i++; i == len(s) {
				return "", "", false
			}
		}
		b = append(b, s[i])
	}
	return "", "", false
}

// CheckForwardedHeader tells whether a name can be that of a header with
// certificates.
func CheckForwardedHeader(name string) error {
	if name == "" || strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-'
	}) {
		return errors.New("must be the name of a header, of letters, digits and hyphens")
	}
	if taken := []string{"authorization", "content-type", "host", "cookie"}; slices.Contains(taken, strings.ToLower(name)) {
		return errors.New("is a header with another meaning")
	}
	return nil
}
