package jose

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha256" // hashes of the algorithms
	_ "crypto/sha512"
	"encoding/asn1"
	"fmt"
	"math/big"
)

// Algorithm is a JOSE signature algorithm by its exact name [RFC 7518 §3.1, RFC
// 8037 §3.1].
type Algorithm string

// The algorithms that are verified. Which of them count is the caller's to say.
const (
	ES256 Algorithm = "ES256"
	ES384 Algorithm = "ES384"
	ES512 Algorithm = "ES512"
	EdDSA Algorithm = "EdDSA"
	RS256 Algorithm = "RS256"
	RS384 Algorithm = "RS384"
	RS512 Algorithm = "RS512"
	PS256 Algorithm = "PS256"
	PS384 Algorithm = "PS384"
	PS512 Algorithm = "PS512"
)

type family int

const (
	ecdsaFamily family = iota
	edFamily
	pkcs1Family
	pssFamily
)

type spec struct {
	family family
	hash   crypto.Hash
	curve  elliptic.Curve // of the ECDSA family
	size   int            // bytes of r and s
}

var specs = map[Algorithm]spec{
	ES256: {ecdsaFamily, crypto.SHA256, elliptic.P256(), 32},
	ES384: {ecdsaFamily, crypto.SHA384, elliptic.P384(), 48},
	ES512: {ecdsaFamily, crypto.SHA512, elliptic.P521(), 66},
	EdDSA: {family: edFamily},
	RS256: {family: pkcs1Family, hash: crypto.SHA256},
	RS384: {family: pkcs1Family, hash: crypto.SHA384},
	RS512: {family: pkcs1Family, hash: crypto.SHA512},
	PS256: {family: pssFamily, hash: crypto.SHA256},
	PS384: {family: pssFamily, hash: crypto.SHA384},
	PS512: {family: pssFamily, hash: crypto.SHA512},
}

// Bounds of RSA keys in bits: below, they can be factored; above, a verification
// costs more than a stranger may ask for.
const (
	minRSA = 2048
	maxRSA = 8192
)

// Fits returns nil if the key is one that the algorithm works with: the type,
// the curve, the size.
func (a Algorithm) Fits(pub crypto.PublicKey) error {
	s, ok := specs[a]
	if !ok {
		return ErrAlgorithm
	}
	if !s.fits(pub) {
		return fmt.Errorf("%w: wrong type, curve or size of key for %s", ErrKeyMismatch, a)
	}
	return nil
}

func (s spec) fits(pub crypto.PublicKey) bool {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		return s.family == ecdsaFamily && k.Curve == s.curve
	case ed25519.PublicKey:
		return s.family == edFamily && len(k) == ed25519.PublicKeySize
	case *rsa.PublicKey:
		bits := k.N.BitLen()
		return (s.family == pkcs1Family || s.family == pssFamily) && bits >= minRSA && bits <= maxRSA
	default:
		return false
	}
}

func (s spec) digest(input []byte) []byte {
	h := s.hash.New()
	h.Write(input)
	return h.Sum(nil)
}

// Verify checks a signature in JOSE form over input. The error is ErrSignature,
// or says that key and algorithm do not fit.
func Verify(a Algorithm, pub crypto.PublicKey, input, sig []byte) error {
	if err := a.Fits(pub); err != nil {
		return err
	}
	s := specs[a]
	ok := false
	switch s.family {
	case ecdsaFamily:
		ok = s.verifyECDSA(pub.(*ecdsa.PublicKey), input, sig)
	case edFamily:
		ok = ed25519.Verify(pub.(ed25519.PublicKey), input, sig)
	case pkcs1Family:
		ok = rsa.VerifyPKCS1v15(pub.(*rsa.PublicKey), s.hash, s.digest(input), sig) == nil
	case pssFamily:
		opts := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash} // [RFC 7518 §3.5]
		ok = rsa.VerifyPSS(pub.(*rsa.PublicKey), s.hash, s.digest(input), sig, opts) == nil
	}
	if !ok {
		return ErrSignature
	}
	return nil
}

// verifyECDSA takes r and s, each padded to the size of the curve's order [RFC
// 7518 §3.4]. The standard library checks that they are within [1, n-1].
func (s spec) verifyECDSA(pub *ecdsa.PublicKey, input, sig []byte) bool {
	if len(sig) != 2*s.size {
		return false
	}
	r, t := new(big.Int).SetBytes(sig[:s.size]), new(big.Int).SetBytes(sig[s.size:])
	return ecdsa.Verify(pub, s.digest(input), r, t)
}

// Sign makes a signature in JOSE form over input with a private key at hand.
func Sign(a Algorithm, key crypto.Signer, input []byte) ([]byte, error) {
	if err := a.Fits(key.Public()); err != nil {
		return nil, err
	}
	s := specs[a]
	switch s.family {
	case edFamily:
		return key.Sign(nil, input, crypto.Hash(0))
	case pkcs1Family:
		return key.Sign(rand.Reader, s.digest(input), s.hash)
	case pssFamily:
		return key.Sign(rand.Reader, s.digest(input), &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: s.hash})
	}
	der, err := key.Sign(rand.Reader, s.digest(input), s.hash)
	if err != nil {
		return nil, err
	}
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &rs); err != nil {
		return nil, fmt.Errorf("signature of the key: %w", err)
	}
	sig := make([]byte, 2*s.size)
	rs.R.FillBytes(sig[:s.size])
	rs.S.FillBytes(sig[s.size:])
	return sig, nil
}
