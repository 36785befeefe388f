package vault

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/workload-sts/sts/jose"
)

// signRequest asks for signatures under one version of a key.
type signRequest struct {
	Version   int // 1 or more; Vault would take 0 for the latest
	Algorithm jose.Algorithm
	Inputs    [][]byte // digests; with EdDSA, what is signed itself
}

// signResult is a signature as JOSE has it, or why there is none.
type signResult struct {
	Signature []byte
	Err       error
}

// batch is a request to sign, without its inputs. What Vault has a default for that
// is not JOSE's is said [RFC 7518 §3.3-3.5].
type batch struct {
	Version    int    `json:"key_version"`
	Prehashed  bool   `json:"prehashed"`
	Hash       string `json:"hash_algorithm,omitempty"`
	Marshaling string `json:"marshaling_algorithm"` // jws: r and s side by side, and base64url
	Signature  string `json:"signature_algorithm,omitempty"`
	Salt       string `json:"salt_length,omitempty"`
}

var batches = map[jose.Algorithm]batch{
	jose.ES256: {Prehashed: true, Hash: "sha2-256", Marshaling: "jws"},
	jose.ES384: {Prehashed: true, Hash: "sha2-384", Marshaling: "jws"},
	jose.EdDSA: {Prehashed: false, Marshaling: "jws"},
	jose.RS256: {Prehashed: true, Hash: "sha2-256", Marshaling: "jws", Signature: "pkcs1v15"},
	jose.PS256: {Prehashed: true, Hash: "sha2-256", Marshaling: "jws", Signature: "pss", Salt: "hash"},
}

// sign makes one signature per input, in their order, in one call. An error is
// that of the call; an input that Vault cannot sign has its own.
//
// The signatures are of the version asked for and well-formed, but not verified:
// that is up to the caller, who has the public key.
func (k *Key) sign(ctx context.Context, r signRequest) ([]signResult, error) {
	b, ok := batches[r.Algorithm]
	if !ok || r.Version < 1 || len(r.Inputs) == 0 {
		return nil, newError(Refused, "signing with %s: no request for version %d, algorithm %q, %d inputs", k, r.Version, r.Algorithm, len(r.Inputs))
	}
	b.Version = r.Version
	sent, err := b.with(r.Inputs)
	if err != nil {
		return nil, err
	}
	body, err := k.call(ctx, "signing with", request{method: http.MethodPost, path: k.path("sign"), body: sent, repeatable: true})
	if err != nil {
		return nil, err
	}
	results, err := signed(body, len(r.Inputs), r.Version)
	if err != nil {
		return nil, about(err, "signing with %s", k)
	}
	return results, nil
}

// with returns the request for inputs, in base64 as Vault takes bytes. It is
// written by hand, as the answer is read: together they are what a signature
// costs here beside the hash.
func (b batch) with(inputs [][]byte) ([]byte, error) {
	rest, err := json.Marshal(b)
	if err != nil {
		return nil, err
	}
	size := len(rest) + 32
	for _, in := range inputs {
		size += base64.StdEncoding.EncodedLen(len(in)) + 16
	}
	out := append(make([]byte, 0, size), `{"batch_input":[`...)
	for i, in := range inputs {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, `{"input":"`...)
		out = base64.StdEncoding.AppendEncode(out, in)
		out = append(out, `"}`...)
	}
	out = append(out, "],"...)
	return append(out, rest[1:]...), nil
}

// signed reads the answer to a number of inputs that were to be signed with a
// version.
func signed(body []byte, inputs, version int) ([]signResult, error) {
	out := batchAnswer{
		prefix:  fmt.Sprintf("vault:v%d:", version),
		version: version,
		results: make([]signResult, 0, inputs),
	}
	switch err := out.read(body); {
	case err != nil:
		return nil, newError(Garbage, "the answer cannot be read") // the error may repeat what was read
	case len(out.results) != inputs:
		return nil, newError(Garbage, "%d results for %d inputs", len(out.results), inputs)
	}
	return out.results, nil
}

// batchAnswer collects the results of an answer.
type batchAnswer struct {
	prefix  string // of each signature
	version int
	results []signResult

	sig, problem []byte // of the result that is read
	decoded      []byte // all signatures, one after the other
}

// read reads {"data":{"batch_results":[…]}} and skips what else there is.
func (a *batchAnswer) read(body []byte) error {
	d := jsontext.NewDecoder(bytes.NewBuffer(body))
	err := members(d, func(name string) error {
		if name != "data" {
			return d.SkipValue()
		}
		return members(d, func(name string) error {
			if name != "batch_results" {
				return d.SkipValue()
			}
			return a.elements(d)
		})
	})
	if err != nil {
		return err
	}
	if _, err := d.ReadToken(); err != io.EOF {
		return errShape
	}
	return nil
}

var errShape = errors.New("the answer is not what it should be")

// members calls f before the value of each member of the object that comes next,
// or of none if that is null.
// Names are compared as they are written: Vault escapes none of those that count.
func members(d *jsontext.Decoder, f func(name string) error) error {
	switch t, err := d.ReadToken(); {
	case err != nil:
		return err
	case t.Kind() == 'n':
		return nil
	case t.Kind() != '{':
		return errShape
	}
	for d.PeekKind() == '"' {
		name, err := d.ReadValue()
		if err != nil {
			return err
		}
		if err := f(known(name)); err != nil {
			return err
		}
	}
	_, err := d.ReadToken()
	return err
}

// known returns a name that counts without its quotes, without making a string of
// each.
func known(name jsontext.Value) string {
	switch string(name) {
	case `"data"`:
		return "data"
	case `"batch_results"`:
		return "batch_results"
	case `"signature"`:
		return "signature"
	case `"error"`:
		return "error"
	default:
		return ""
	}
}

// text appends the string that comes next.
func text(dst []byte, d *jsontext.Decoder) ([]byte, error) {
	v, err := d.ReadValue()
	if err != nil {
		return nil, err
	}
	return jsontext.AppendUnquote(dst, v)
}

// elements reads the results.
func (a *batchAnswer) elements(d *jsontext.Decoder) error {
	if t, err := d.ReadToken(); err != nil || t.Kind() != '[' {
		return errShape
	}
	for d.PeekKind() == '{' {
		if len(a.results) == cap(a.results) {
			return errShape // more than were asked for
		}
		a.sig, a.problem = a.sig[:0], a.problem[:0]
		err := members(d, func(name string) (err error) {
			switch name {
			case "signature":
				a.sig, err = text(a.sig, d)
			case "error":
				a.problem, err = text(a.problem, d)
			default:
				err = d.SkipValue()
			}
			return err
		})
		if err != nil {
			return err
		}
		a.results = append(a.results, a.result())
	}
	t, err := d.ReadToken()
	if err == nil && t.Kind() != ']' {
		err = errShape
	}
	return err
}

// strict refuses what can be written in two ways.
var strict = base64.RawURLEncoding.Strict()

// result takes the signature out of "vault:vVERSION:BASE64URL".
func (a *batchAnswer) result() signResult {
	if len(a.problem) > 0 {
		text := sentence([]string{string(a.problem)})
		kind := Refused
		if aboutKey(text) {
			kind = NoKey
		}
		return signResult{Err: newError(kind, "vault does not sign with version %d: %s", a.version, text)}
	}
	encoded, ok := bytes.CutPrefix(a.sig, []byte(a.prefix))
	if !ok {
		return signResult{Err: newError(Garbage, "the signature is not of version %d, which was asked for", a.version)}
	}
	if a.decoded == nil {
		a.decoded = make([]byte, 0, cap(a.results)*strict.DecodedLen(len(encoded)))
	}
	before := len(a.decoded)
	var err error
	a.decoded, err = strict.AppendDecode(a.decoded, encoded)
	sig := a.decoded[before:len(a.decoded):len(a.decoded)]
	// The decoder skips line breaks.
	if err != nil || len(sig) == 0 || bytes.ContainsAny(encoded, "\r\n") {
		return signResult{Err: newError(Garbage, "the signature is not in base64url")}
	}
	return signResult{Signature: sig}
}
