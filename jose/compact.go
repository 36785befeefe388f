package jose

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// maxKeyID is the longest kid that is read.
const maxKeyID = 128

// Header is what a JOSE header may say. Anything else that would change how a
// token is verified makes it malformed.
type Header struct {
	Algorithm Algorithm
	KeyID     string
	// Type is the typ member in lower case without the prefix "application/"
	// [RFC 7515 §4.1.9]; empty if there is none.
	Type string
}

// JWS is a parsed token. Nothing in it is verified before [JWS.Verify] says so.
type JWS struct {
	Header  Header
	Payload []byte

	input     []byte // what is signed
	signature []byte
}

// strict refuses encodings whose unused bits are not zero. It skips line breaks,
// which the check of the alphabet has excluded before.
var strict = base64.RawURLEncoding.Strict()

// Parse reads a JWS in compact form [RFC 7515 §3.1]. It looks, in this order, at
// size, alphabet, segments, encoding, header. The error is ErrMalformed or
// ErrAlgorithm and does not repeat the input.
func Parse(token string) (*JWS, error) {
	j, _, err := parse(token, false)
	return j, err
}

// parse also returns the header as an object. Only that of a proof may have a jwk.
func parse(token string, proof bool) (*JWS, map[string]any, error) {
	if len(token) > MaxTokenSize {
		return nil, nil, fmt.Errorf("%w: longer than %d bytes", ErrMalformed, MaxTokenSize)
	}
	dots := 0
	for i := range len(token) {
		switch c := token[i]; {
		case c == '.':
			dots++
		case c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return nil, nil, fmt.Errorf("%w: a character at byte %d that does not belong into a compact JWS", ErrMalformed, i)
		}
	}
	if dots != 2 {
		return nil, nil, fmt.Errorf("%w: %d dots, a compact JWS has 2", ErrMalformed, dots)
	}
	first, last := strings.IndexByte(token, '.'), strings.LastIndexByte(token, '.')
	header, errHeader := strict.DecodeString(token[:first])
	payload, errPayload := strict.DecodeString(token[first+1 : last])
	signature, errSignature := strict.DecodeString(token[last+1:])
	if errHeader != nil || errPayload != nil || errSignature != nil {
		return nil, nil, fmt.Errorf("%w: not canonical base64url", ErrMalformed)
	}
	m, err := ParseObject(header)
	if err != nil {
		return nil, nil, fmt.Errorf("header: %w", err)
	}
	h, err := parseHeader(m, proof)
	if err != nil {
		return nil, nil, err
	}
	return &JWS{Header: h, Payload: payload, input: []byte(token[:last]), signature: signature}, m, nil
}

// refused are header members that name keys, change what is signed, or belong to
// encryption. Their presence is enough, whatever their value.
var refused = [...]string{"jwk", "jku", "x5u", "x5c", "crit", "b64", "zip", "enc", "epk", "p2c", "p2s"}

func parseHeader(m map[string]any, proof bool) (Header, error) {
	for _, name := range refused {
		if _, present := m[name]; present && !(proof && name == "jwk") {
			return Header{}, fmt.Errorf("%w: header member %s is not accepted", ErrMalformed, name)
		}
	}
	var h Header
	alg, _ := m["alg"].(string)
	h.Algorithm = Algorithm(alg)
	if _, ok := specs[h.Algorithm]; !ok {
		return Header{}, ErrAlgorithm
	}
	if v, present := m["kid"]; present {
		kid, ok := v.(string)
		if !ok || kid == "" || len(kid) > maxKeyID || strings.ContainsFunc(kid, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return Header{}, fmt.Errorf("%w: kid is not a string of 1 to %d characters", ErrMalformed, maxKeyID)
		}
		h.KeyID = kid
	}
	if v, present := m["typ"]; present {
		typ, ok := v.(string)
		if !ok || strings.ContainsAny(typ, "; \t") {
			return Header{}, fmt.Errorf("%w: typ is not a media type without parameters", ErrMalformed)
		}
		h.Type = strings.TrimPrefix(strings.ToLower(typ), "application/")
	}
	if v, present := m["cty"]; present {
		if cty, ok := v.(string); !ok || strings.EqualFold(strings.TrimPrefix(strings.ToLower(cty), "application/"), "jwt") {
			return Header{}, fmt.Errorf("%w: nested tokens are not accepted", ErrMalformed)
		}
	}
	return h, nil
}

// Claims reads the payload as a JSON object, by the rules of [ParseObject].
func (j *JWS) Claims() (map[string]any, error) { return ParseObject(j.Payload) }

// Verify checks the signature with one key, which must be for the algorithm and
// of the id that the header names, where the key and the header have one.
func (j *JWS) Verify(k Key) error {
	if k.Algorithm != "" && k.Algorithm != j.Header.Algorithm {
		return fmt.Errorf("%w: it is for another algorithm", ErrKeyMismatch)
	}
	if k.ID != "" && j.Header.KeyID != "" && k.ID != j.Header.KeyID {
		return fmt.Errorf("%w: it has another id", ErrKeyMismatch)
	}
	return Verify(j.Header.Algorithm, k.Public, j.input, j.signature)
}

// SigningInput returns what is signed: header and payload, each in base64url,
// with a dot between [RFC 7515 §5.1]. Members of the header that are empty are
// left out. The result has room for a dot and a signature of 512 bytes behind it.
func SigningInput(h Header, payload []byte) []byte {
	header := make([]byte, 0, 128)
	header = append(header, `{"alg":`...)
	header = appendJSON(header, string(h.Algorithm))
	if h.KeyID != "" {
		header = appendJSON(append(header, `,"kid":`...), h.KeyID)
	}
	if h.Type != "" {
		header = appendJSON(append(header, `,"typ":`...), h.Type)
	}
	header = append(header, '}')
	n := base64.RawURLEncoding.EncodedLen(len(header)) + 1 + base64.RawURLEncoding.EncodedLen(len(payload))
	out := make([]byte, 0, n+1+base64.RawURLEncoding.EncodedLen(512))
	out = base64.RawURLEncoding.AppendEncode(out, header)
	out = append(out, '.')
	return base64.RawURLEncoding.AppendEncode(out, payload)
}

func appendJSON(b []byte, s string) []byte {
	b, err := jsontext.AppendQuote(b, s)
	if err != nil {
		panic(err) // names of ours are UTF-8
	}
	return b
}

// Compact puts the signature behind what was signed. It may use the spare room
// of input.
func Compact(input, sig []byte) string {
	return string(base64.RawURLEncoding.AppendEncode(append(input, '.'), sig))
}
