package sts

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// MinSecretLength is the shortest secret that is ever accepted, in characters:
// 256 bits in base64url.
//
// Secrets are compared by a fast keyed hash, not by a password hash, which only
// a secret with that much entropy can afford: nobody enumerates 2^256 values,
// however fast the hash is, and a slow one would cost each honest request what
// it costs an attacker.
const MinSecretLength = 43

// SecretPrefix lets secret scanners recognise a leaked secret.
const SecretPrefix = "stss_"

const hashScheme = "hmac-sha256"

// ErrShortSecret refuses a secret that a fast hash would not protect.
var ErrShortSecret = fmt.Errorf("the secret has fewer than %d characters; make one with `stsctl secret new`", MinSecretLength)

// NewSecret returns a fresh secret with 256 bits of entropy and its hash.
func NewSecret() (secret, hash string) {
	var b [32]byte
	rand.Read(b[:])
	secret = SecretPrefix + base64.RawURLEncoding.EncodeToString(b[:])
	hash, err := HashSecret(secret)
	if err != nil {
		panic(err) // a fresh secret is long enough
	}
	return secret, hash
}

// HashSecret returns what a [ClientSecret] keeps of a secret: the HMAC-SHA-256
// of it under a random salt, as `hmac-sha256:SALT:MAC` in base64url. The only
// error is ErrShortSecret.
func HashSecret(secret string) (string, error) {
	if len(secret) < MinSecretLength {
		return "", ErrShortSecret
	}
	h := secretHash{salt: make([]byte, 16)}
	rand.Read(h.salt)
	h.mac = h.sum(secret)
	enc := base64.RawURLEncoding.EncodeToString
	return hashScheme + ":" + enc(h.salt) + ":" + enc(h.mac), nil
}

// secretHash is a parsed hash.
type secretHash struct{ salt, mac []byte }

var errSecretHash = errors.New("not a secret hash; make one with `stsctl secret new` or `stsctl secret hash`")

func parseSecretHash(s string) (secretHash, error) {
	scheme, rest, _ := strings.Cut(s, ":")
	salt, mac, _ := strings.Cut(rest, ":")
	dec := base64.RawURLEncoding.Strict()
	h := secretHash{}
	var errSalt, errMAC error
	h.salt, errSalt = dec.DecodeString(salt)
	h.mac, errMAC = dec.DecodeString(mac)
	if scheme != hashScheme || errSalt != nil || errMAC != nil || len(h.salt) != 16 || len(h.mac) != sha256.Size {
		return secretHash{}, errSecretHash
	}
	return h, nil
}

func (h secretHash) sum(secret string) []byte {
	m := hmac.New(sha256.New, h.salt)
	m.Write([]byte(secret))
	return m.Sum(nil)
}

// matches takes the same time whether it holds or not.
func (h secretHash) matches(secret string) bool { return hmac.Equal(h.sum(secret), h.mac) }

// decoy is what a secret is compared with where there is no hash, so that an
// unknown client takes as long as a wrong secret.
var decoy = func() secretHash {
	_, s := NewSecret()
	h, err := parseSecretHash(s)
	if err != nil {
		panic(err) // NewSecret makes what parseSecretHash reads
	}
	return h
}()
