package jose

import (
	"crypto"
	"encoding/base64"
	"encoding/json"
	"fmt"
)

// typProof is the typ of a DPoP proof [RFC 9449 §4.2].
const typProof = "dpop+jwt"

// ParseProof reads a DPoP proof: a JWS as [Parse] reads it, but of the typ
// dpop+jwt, and with the public key that verifies it in its header, which nothing
// else may have. The key is held to what a key set is held to, and fits the
// algorithm of the header. That the key is right is for the caller to say.
func ParseProof(token string) (*JWS, Key, error) {
	j, header, err := parse(token, true)
	if err != nil {
		return nil, Key{}, err
	}
	if j.Header.Type != typProof {
		return nil, Key{}, fmt.Errorf("%w: typ is not %s", ErrMalformed, typProof)
	}
	m, ok := header["jwk"].(map[string]any)
	if !ok {
		return nil, Key{}, fmt.Errorf("%w: header member jwk is not an object", ErrMalformed)
	}
	k, err := parseKey(m)
	if err != nil {
		return nil, Key{}, fmt.Errorf("header member jwk: %w", err)
	}
	if k.Algorithm != "" && k.Algorithm != j.Header.Algorithm {
		return nil, Key{}, fmt.Errorf("%w: its jwk is for another algorithm", ErrKeyMismatch)
	}
	if err := j.Header.Algorithm.Fits(k.Public); err != nil {
		return nil, Key{}, err
	}
	// Names of the key mean nothing here: there is but this one.
	return j, Key{Algorithm: j.Header.Algorithm, Public: k.Public}, nil
}

// SignProof makes a DPoP proof of claims, which are JSON.
func SignProof(a Algorithm, signer crypto.Signer, claims []byte) (string, error) {
	key, err := json.Marshal(Key{Public: signer.Public()})
	if err != nil {
		return "", fmt.Errorf("encoding the key of a proof: %w", err)
	}
	header := appendJSON([]byte(`{"typ":"`+typProof+`","alg":`), string(a))
	header = append(append(append(header, `,"jwk":`...), key...), '}')
	input := base64.RawURLEncoding.AppendEncode(nil, header)
	input = base64.RawURLEncoding.AppendEncode(append(input, '.'), claims)
	sig, err := Sign(a, signer, input)
	if err != nil {
		return "", fmt.Errorf("signing a proof: %w", err)
	}
	return Compact(input, sig), nil
}
