package jose

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Bounds of a JSON object from outside.
const (
	maxDepth    = 32
	maxMembers  = 256
	maxElements = 1000
)

// ParseObject reads one JSON object and nothing else.
//
// Unlike encoding/json it refuses members that repeat at any depth, bytes that
// are not UTF-8, lone surrogates and anything behind the object, and it keeps
// the case of names [RFC 8725 §2.4, RFC 7515 §4]. Integral numbers that fit
// become int64, others float64; a number too large for float64, or an integral
// one too large for int64, is refused. The error is ErrMalformed and does not
// repeat the input.
func ParseObject(b []byte) (map[string]any, error) {
	d := jsontext.NewDecoder(bytes.NewBuffer(b))
	if d.PeekKind() != '{' {
		return nil, fmt.Errorf("%w: not a JSON object", ErrMalformed)
	}
	v, err := readValue(d, 1)
	if err != nil {
		return nil, err
	}
	if _, err := d.ReadToken(); err != io.EOF {
		return nil, fmt.Errorf("%w: something follows the JSON object", ErrMalformed)
	}
	return v.(map[string]any), nil
}

func readValue(d *jsontext.Decoder, depth int) (any, error) {
	t, err := d.ReadToken()
	if err != nil {
		// The decoder's message may quote the input.
		return nil, fmt.Errorf("%w: not well-formed JSON at byte %d", ErrMalformed, d.InputOffset())
	}
	switch t.Kind() {
	case '{':
		return readObject(d, depth)
	case '[':
		return readArray(d, depth)
	case '"':
		return t.String(), nil
	case '0':
		return number(t.String())
	case 't', 'f':
		return t.Bool(), nil
	default:
		return nil, nil
	}
}

func readObject(d *jsontext.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("%w: JSON nested deeper than %d", ErrMalformed, maxDepth)
	}
	m := make(map[string]any, 8)
	for d.PeekKind() != '}' {
		name, err := readValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		if len(m) == maxMembers {
			return nil, fmt.Errorf("%w: a JSON object with more than %d members", ErrMalformed, maxMembers)
		}
		if m[name.(string)], err = readValue(d, depth+1); err != nil {
			return nil, err
		}
	}
	_, err := d.ReadToken()
	return m, err
}

func readArray(d *jsontext.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("%w: JSON nested deeper than %d", ErrMalformed, maxDepth)
	}
	a := []any{}
	for d.PeekKind() != ']' {
		v, err := readValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		if len(a) == maxElements {
			return nil, fmt.Errorf("%w: a JSON array with more than %d elements", ErrMalformed, maxElements)
		}
		a = append(a, v)
	}
	_, err := d.ReadToken()
	return a, err
}

// number reads a JSON number exactly where an int64 can hold it.
func number(s string) (any, error) {
	if !strings.ContainsAny(s, ".eE") {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%w: an integer beyond 64 bits", ErrMalformed)
		}
		return n, nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsInf(f, 0) {
		return nil, fmt.Errorf("%w: a number beyond 64 bits", ErrMalformed)
	}
	if f == math.Trunc(f) && math.Abs(f) < 1<<63 {
		return int64(f), nil
	}
	if f == math.Trunc(f) {
		return nil, fmt.Errorf("%w: an integer beyond 64 bits", ErrMalformed)
	}
	return f, nil
}

// maxSeconds bounds a NumericDate to what every JSON reader holds exactly.
const maxSeconds = 1 << 53

// Seconds reads a NumericDate [RFC 7519 §2] out of a parsed object: whole
// seconds, a fraction cut off. It refuses what is not a number and what is
// beyond 2^53 seconds.
func Seconds(v any) (int64, bool) {
	switch v := v.(type) {
	case int64:
		return v, v > -maxSeconds && v < maxSeconds
	case float64:
		return int64(v), v > -maxSeconds && v < maxSeconds
	default:
		return 0, false
	}
}
