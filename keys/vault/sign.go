package vault

import (
	"context"
	"encoding/base64"
	"strconv"
	"strings"

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

// batch is a request to sign. What Vault has a default for that is not JOSE's is
// said [RFC 7518 §3.3-3.5].
type batch struct {
	Input      []batchItem `json:"batch_input"`
	Version    int         `json:"key_version"`
	Prehashed  bool        `json:"prehashed"`
	Hash       string      `json:"hash_algorithm,omitempty"`
	Marshaling string      `json:"marshaling_algorithm"` // jws: r and s side by side, and base64url
	Signature  string      `json:"signature_algorithm,omitempty"`
	Salt       string      `json:"salt_length,omitempty"`
}

type batchItem struct {
	Input []byte `json:"input"`
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
	b.Input = make([]batchItem, len(r.Inputs))
	for i, in := range r.Inputs {
		b.Input[i].Input = in
	}
	body, err := k.write(ctx, "signing with", "sign", b)
	if err != nil {
		return nil, err
	}
	results, err := signed(body, len(r.Inputs), r.Version)
	if err != nil {
		return nil, about(err, "signing with %s", k)
	}
	return results, nil
}

// signed reads the answer to a number of inputs that were to be signed with a
// version.
func signed(body []byte, inputs, version int) ([]signResult, error) {
	var out struct {
		Results []batchResult `json:"batch_results"`
	}
	if err := decode(body, &out); err != nil {
		return nil, err
	}
	if len(out.Results) != inputs {
		return nil, newError(Garbage, "%d results for %d inputs", len(out.Results), inputs)
	}
	results := make([]signResult, inputs)
	for i, got := range out.Results {
		results[i] = got.result(version)
	}
	return results, nil
}

// batchResult is what Vault answers to one input.
type batchResult struct {
	Signature string `json:"signature"`
	Error     string `json:"error"`
}

// strict refuses what can be written in two ways.
var strict = base64.RawURLEncoding.Strict()

// result takes the signature out of "vault:vVERSION:BASE64URL".
func (b batchResult) result(version int) signResult {
	if b.Error != "" {
		text := sentence([]string{b.Error})
		kind := Refused
		if aboutKey(text) {
			kind = NoKey
		}
		return signResult{Err: newError(kind, "vault does not sign with version %d: %s", version, text)}
	}
	encoded, ok := strings.CutPrefix(b.Signature, "vault:v"+strconv.Itoa(version)+":")
	if !ok {
		return signResult{Err: newError(Garbage, "the signature is not of version %d, which was asked for", version)}
	}
	sig, err := strict.DecodeString(encoded)
	// The decoder skips line breaks.
	if err != nil || len(sig) == 0 || strings.ContainsAny(encoded, "\r\n") {
		return signResult{Err: newError(Garbage, "the signature is not in base64url")}
	}
	return signResult{Signature: sig}
}
