package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"

	gojose "github.com/go-jose/go-jose/v4"

	"github.com/workload-sts/sts/jose"
)

// privateKey is a key that signs proofs or assertions.
type privateKey struct {
	signer crypto.Signer
	alg    jose.Algorithm
	kid    string // empty if the file does not say
}

// readPrivateKey reads a private key from a file: PEM as openssl and platforms write
// it (PKCS #8, PKCS #1, SEC 1), or a JWK. An error names the flag, and ends with
// advice if the file holds something else.
func readPrivateKey(flag, file, advice string) (privateKey, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return privateKey{}, badInput("%s: %v", flag, err)
	}
	var k privateKey
	var key any
	if trimmed := bytes.TrimSpace(data); bytes.HasPrefix(trimmed, []byte("{")) {
		var jwk gojose.JSONWebKey
		if err := jwk.UnmarshalJSON(trimmed); err != nil || !jwk.Valid() || jwk.IsPublic() {
			return k, badInput("%s: %s is not a JWK of a private key", flag, file) // the error may quote it
		}
		key, k.kid, k.alg = jwk.Key, jwk.KeyID, jose.Algorithm(jwk.Algorithm)
	} else {
		block, rest := pem.Decode(data)
		if block != nil && block.Type == "EC PARAMETERS" { // openssl writes them before the key
			block, _ = pem.Decode(rest)
		}
		if block == nil || keyFormats[block.Type] == nil {
			return k, badInput("%s: %s is neither a private key in PEM without a password nor a JWK%s", flag, file, advice)
		}
		if key, err = keyFormats[block.Type](block.Bytes); err != nil {
			return k, badInput("%s: %s: %v", flag, file, err)
		}
	}
	k.signer, _ = key.(crypto.Signer)
	if k.alg == "" {
		k.alg = algorithmOf(key)
	}
	if k.signer == nil || k.alg.Fits(k.signer.Public()) != nil {
		return k, badInput("%s: the key in %s is not of a kind that signs here; use P-256, P-384, Ed25519, or RSA of 2048 bits or more", flag, file)
	}
	return k, nil
}

// keyFormats parse private keys by the type of their PEM block.
var keyFormats = map[string]func(der []byte) (any, error){
	"PRIVATE KEY":     x509.ParsePKCS8PrivateKey,
	"RSA PRIVATE KEY": func(der []byte) (any, error) { return x509.ParsePKCS1PrivateKey(der) },
	"EC PRIVATE KEY":  func(der []byte) (any, error) { return x509.ParseECPrivateKey(der) },
}

// algorithmOf is the algorithm that a key signs by, if it has no other.
func algorithmOf(key any) jose.Algorithm {
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		if jose.ES384.Fits(k.Public()) == nil {
			return jose.ES384
		}
		return jose.ES256
	case ed25519.PrivateKey:
		return jose.EdDSA
	case *rsa.PrivateKey:
		return jose.PS256
	}
	return ""
}
