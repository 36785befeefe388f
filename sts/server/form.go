package server

import (
	"bytes"
	"net/http"
	"strings"
	"unicode/utf8"
)

// Bounds of a token request, whatever face it comes in by.
const (
	maxForm       = 64 << 10
	maxParameters = 64
	maxParameter  = 4000
	maxToken      = 16 << 10
)

// form has the parameters of a token request that this service knows, each at
// most once but audience and resource.
type form struct {
	single             map[string]string
	audience, resource []string
}

// parameters are those that this service knows. Others are ignored whole, as
// RFC 6749 §3.2 demands, even if they are repeated: what they mean is not ours
// to say.
var parameters = map[string]bool{
	"grant_type": true, "client_id": true, "client_secret": true, "scope": true,
	"audience": true, "resource": true, "requested_token_type": true,
	"subject_token": true, "subject_token_type": true, "actor_token": true, "actor_token_type": true,
	"client_assertion": true, "client_assertion_type": true,
	"token": true, "token_type_hint": true,
}

// parseForm reads an application/x-www-form-urlencoded body, strictly: what is
// not well-formed is refused and not guessed at.
func parseForm(body []byte) (*form, *refusal) {
	f := &form{single: make(map[string]string, 8)}
	seen := make(map[string]bool, 8)
	for n := 1; len(body) > 0; n++ {
		if n > maxParameters {
			return nil, malformed("", "more than 64 parameters")
		}
		var pair []byte
		pair, body, _ = bytes.Cut(body, []byte{'&'})
		if len(pair) == 0 {
			continue
		}
		rawName, rawValue, _ := bytes.Cut(pair, []byte{'='})
		name, ok := formDecode(rawName)
		if !ok {
			return nil, malformed("", "the name of a parameter is not well-formed form encoding of UTF-8")
		}
		value, ok := formDecode(rawValue)
		if !ok {
			return nil, malformed(knownOr(name, ""), "the value of a parameter is not well-formed form encoding of UTF-8")
		}
		if !parameters[name] {
			continue
		}
		switch name {
		case "audience":
			f.audience = append(f.audience, value)
			continue
		case "resource":
			f.resource = append(f.resource, value)
			continue
		}
		// A parameter MUST NOT be included more than once [RFC 6749 §3.2].
		if seen[name] {
			return nil, malformed(name, name+" is given more than once")
		}
		seen[name] = true
		// One without a value is treated as if it were omitted [RFC 6749 §3.2].
		if value != "" {
			f.single[name] = value
		}
	}
	return f, nil
}

// knownOr returns the name of a parameter if it is one of ours. Others are input
// that is never echoed.
func knownOr(name, other string) string {
	if parameters[name] {
		return name
	}
	return other
}

// formDecode undoes the encoding of RFC 6749 Appendix B.
func formDecode(raw []byte) (string, bool) {
	if bytes.IndexByte(raw, '%') < 0 && bytes.IndexByte(raw, '+') < 0 {
		return string(raw), utf8.Valid(raw)
	}
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; c {
		case '+':
			out = append(out, ' ')
		case '%':
			if i+2 >= len(raw) {
				return "", false
			}
			hi, ok1 := unhex(raw[i+1])
			lo, ok2 := unhex(raw[i+2])
			if !ok1 || !ok2 {
				return "", false
			}
			out = append(out, hi<<4|lo)
			i += 2
		default:
			out = append(out, c)
		}
	}
	return string(out), utf8.Valid(out)
}

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// queryParameter refuses a request whose query names one of our parameters: the
// query of a URL ends up in logs [RFC 6749 §2.3.1]. What cannot be decoded is
// refused too.
func queryParameter(query string) *refusal {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		raw, _, _ := strings.Cut(pair, "=")
		name, ok := formDecode([]byte(raw))
		if !ok {
			return malformed("", "the query of the URL is not well-formed; parameters belong in the body")
		}
		if parameters[name] {
			return malformed(name, name+" is in the query of the URL; parameters belong in the body")
		}
	}
	return nil
}

// contentType tells whether a Content-Type header is exactly once there and is
// the media type, with no parameter but charset=utf-8.
func contentType(h http.Header, want string) bool {
	values := h["Content-Type"]
	if len(values) != 1 {
		return false
	}
	got, params, has := strings.Cut(values[0], ";")
	if !strings.EqualFold(strings.TrimSpace(got), want) {
		return false
	}
	if !has {
		return true
	}
	name, value, _ := strings.Cut(strings.TrimSpace(params), "=")
	return strings.EqualFold(name, "charset") && strings.EqualFold(strings.Trim(value, `"`), "utf-8")
}
