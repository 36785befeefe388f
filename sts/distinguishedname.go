package sts

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxDN bounds the text of a distinguished name, in bytes.
const maxDN = 1024

// attributeTypes are the short names that a distinguished name may have, in upper
// case: those of RFC 4514 §3, and others that tools write.
var attributeTypes = map[string]string{
	"CN": "2.5.4.3", "L": "2.5.4.7", "ST": "2.5.4.8", "O": "2.5.4.10", "OU": "2.5.4.11", "C": "2.5.4.6",
	"STREET": "2.5.4.9", "DC": "0.9.2342.19200300.100.1.25", "UID": "0.9.2342.19200300.100.1.1",
	"SERIALNUMBER": "2.5.4.5", "POSTALCODE": "2.5.4.17", "SN": "2.5.4.4", "GN": "2.5.4.42", "TITLE": "2.5.4.12",
	"ORGANIZATIONIDENTIFIER": "2.5.4.97", "BUSINESSCATEGORY": "2.5.4.15", "EMAILADDRESS": "1.2.840.113549.1.9.1",
}

// distinguishedName is the canonical text of a distinguished name: two names are
// the same if their texts are. It keeps the order of the parts and the case of
// the values; how a certificate encodes a string makes no difference.
type distinguishedName string

// subjectName returns the name in the subject of a certificate.
func subjectName(rawSubject []byte) (distinguishedName, error) {
	var rdns pkix.RDNSequence
	if rest, err := asn1.Unmarshal(rawSubject, &rdns); err != nil || len(rest) > 0 {
		return "", errors.New("the subject is not a distinguished name")
	}
	parts := make([][]string, 0, len(rdns))
	for _, rdn := range rdns {
		var part []string
		for _, a := range rdn {
			text, err := canonicalAttribute(a.Type.String(), a.Value)
			if err != nil {
				return "", err
			}
			part = append(part, text)
		}
		parts = append(parts, part)
	}
	// The text has the last part first [RFC 4514 §2.1].
	slices.Reverse(parts)
	return canonicalName(parts), nil
}

// canonicalName joins parts; the attributes of one part have no order.
func canonicalName(parts [][]string) distinguishedName {
	out := make([]string, 0, len(parts))
	for _, part := range parts {
		slices.Sort(part)
		out = append(out, strings.Join(part, "+"))
	}
	return distinguishedName(strings.Join(out, ","))
}

// canonicalAttribute quotes strings, so that no value looks like two, and has
// everything else as the hexadecimal DER.
func canonicalAttribute(oid string, value any) (string, error) {
	if s, ok := value.(string); ok {
		return fmt.Sprintf("%s=%q", oid, s), nil
	}
	der, err := asn1.Marshal(value)
	if err != nil {
		return "", errors.New("a value of the subject cannot be encoded")
	}
	return oid + "=#" + hex.EncodeToString(der), nil
}

var dottedOID = regexp.MustCompile(`^(?:[0-2](?:\.(?:0|[1-9][0-9]{0,9})){1,20})$`)

// parseDistinguishedName reads a name in the string form of RFC 4514. It is
// strict: spaces around separators and the quoting of RFC 2253's forerunners are
// refused.
func parseDistinguishedName(s string) (distinguishedName, error) {
	if s == "" || len(s) > maxDN || !utf8.ValidString(s) {
		return "", fmt.Errorf("a distinguished name has 1 to %d bytes of UTF-8", maxDN)
	}
	parts := [][]string{nil}
	for rest, more := s, true; more; {
		name, after, ok := strings.Cut(rest, "=")
		if !ok {
			return "", errors.New("expected TYPE=VALUE, such as CN=orders,O=Example, separated by commas")
		}
		oid := attributeTypes[strings.ToUpper(name)]
		if dottedOID.MatchString(name) {
			oid = name
		}
		if oid == "" {
			return "", errors.New("an attribute type that is not known, or spaces around one; write its OID, such as 2.5.4.3, if it has no usual name")
		}
		value, separator, left, err := dnValue(after)
		if err != nil {
			return "", err
		}
		text, err := canonicalAttribute(oid, value)
		if err != nil {
			return "", err
		}
		parts[len(parts)-1] = append(parts[len(parts)-1], text)
		rest, more = left, separator != 0
		if separator == ',' {
			parts = append(parts, nil)
		}
	}
	return canonicalName(parts), nil
}

// dnValue reads a value up to the separator after it, 0 at the end.
func dnValue(s string) (value any, separator byte, rest string, err error) {
	if strings.HasPrefix(s, "#") {
		return dnHexValue(s[1:])
	}
	var b []byte
	spaceAtEnd := false
	i := 0
	for ; i < len(s) && s[i] != ',' && s[i] != '+'; i++ {
		spaceAtEnd = s[i] == ' '
		switch c := s[i]; {
		case c == '\\':
			n, meant := dnEscape(s[i+1:])
			if n == 0 {
				return nil, 0, "", errors.New("a backslash must be followed by a special character or by two hexadecimal digits")
			}
			b, i, spaceAtEnd = append(b, meant), i+n, false
		case strings.IndexByte("\";<>\x00", c) >= 0:
			return nil, 0, "", errors.New("the characters \" ; < > in a value need a backslash before them")
		case c == ' ' && len(b) == 0:
			return nil, 0, "", errors.New("a space at the beginning of a value needs a backslash before it")
		default:
			b = append(b, c)
		}
	}
	if spaceAtEnd {
		return nil, 0, "", errors.New("a space at the end of a value needs a backslash before it")
	}
	if !utf8.Valid(b) {
		return nil, 0, "", errors.New("a value is not UTF-8")
	}
	if i == len(s) {
		return string(b), 0, "", nil
	}
	return string(b), s[i], s[i+1:], nil
}

// dnEscape reads what follows a backslash: the byte that is meant, and how many
// bytes say so, 0 if it is nothing [RFC 4514 §3].
func dnEscape(s string) (length int, meant byte) {
	if s == "" {
		return 0, 0
	}
	if strings.IndexByte(` "#+,;<=>\`, s[0]) >= 0 {
		return 1, s[0]
	}
	if len(s) >= 2 {
		if b, err := hex.DecodeString(s[:2]); err == nil {
			return 2, b[0]
		}
	}
	return 0, 0
}

// dnHexValue reads the DER of a value in hexadecimal.
func dnHexValue(s string) (value any, separator byte, rest string, err error) {
	bad := errors.New("# must be followed by the DER of a value in hexadecimal")
	text := s
	if i := strings.IndexAny(s, ",+"); i >= 0 {
		text, separator, rest = s[:i], s[i], s[i+1:]
	}
	der, err := hex.DecodeString(text)
	if err != nil {
		return nil, 0, "", bad
	}
	if left, err := asn1.Unmarshal(der, &value); err != nil || len(left) > 0 {
		return nil, 0, "", bad
	}
	return value, separator, rest, nil
}
