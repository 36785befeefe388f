package jose

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"

	gojose "github.com/go-jose/go-jose/v4"
)

// Key is a public key that verifies signatures.
type Key struct {
	ID        string
	Algorithm Algorithm // empty: any that fits
	Public    crypto.PublicKey
}

// parseKey reads one member of a JWK set [RFC 7517 §4] into a key that this
// package can verify with, or says why it cannot.
func parseKey(m map[string]any) (Key, error) {
	bad := func(why string) (Key, error) { return Key{}, fmt.Errorf("%w: %s", ErrMalformed, why) }
	kty, _ := m["kty"].(string)
	if kty != "EC" && kty != "RSA" && kty != "OKP" {
		return bad("kty is not EC, RSA or OKP")
	}
	for _, name := range [...]string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
		if _, present := m[name]; present {
			return bad("private or symmetric key material in a public key set")
		}
	}
	if use, present := m["use"]; present && use != "sig" {
		return bad("use is not sig")
	}
	if ops, present := m["key_ops"]; present {
		if list, ok := ops.([]any); !ok || !slices.Contains(list, any("verify")) {
			return bad("key_ops does not contain verify")
		}
	}
	var k Key
	for name, to := range map[string]*string{"kid": &k.ID, "alg": (*string)(&k.Algorithm)} {
		if v, present := m[name]; present {
			var ok bool
			if *to, ok = v.(string); !ok || len(*to) > maxKeyID {
				return bad(name + " is not a string of at most 128 characters")
			}
		}
	}
	public, err := parsePublic(kty, m)
	if err != nil {
		return bad(err.Error())
	}
	k.Public = public
	if k.Algorithm != "" {
		return k, k.Algorithm.Fits(public)
	}
	for _, s := range specs {
		if s.fits(public) {
			return k, nil
		}
	}
	return bad("a type, curve or size of key that no algorithm works with")
}

func parsePublic(kty string, m map[string]any) (crypto.PublicKey, error) {
	bytes := func(name string) []byte {
		s, _ := m[name].(string)
		for i := range len(s) {
			if s[i] == '\n' || s[i] == '\r' {
				return nil
			}
		}
		b, err := strict.DecodeString(s)
		if err != nil {
			return nil
		}
		return b
	}
	switch kty {
	case "EC":
		crv, _ := m["crv"].(string)
		return ecKey(crv, bytes("x"), bytes("y"))
	case "RSA":
		return rsaKey(bytes("n"), bytes("e"))
	default:
		if x := bytes("x"); m["crv"] == "Ed25519" && len(x) == ed25519.PublicKeySize {
			return ed25519.PublicKey(x), nil
		}
		return nil, fmt.Errorf("not an Ed25519 key")
	}
}

func ecKey(crv string, x, y []byte) (crypto.PublicKey, error) {
	curve, ok := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[crv]
	if !ok {
		return nil, fmt.Errorf("crv is not P-256, P-384 or P-521")
	}
	size := (curve.Params().BitSize + 7) / 8
	if len(x) != size || len(y) != size {
		return nil, fmt.Errorf("coordinates do not have the length of the curve")
	}
	k, err := ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, x, y))
	if err != nil {
		return nil, fmt.Errorf("the point is not on the curve")
	}
	return k, nil
}

func rsaKey(n, e []byte) (crypto.PublicKey, error) {
	if len(n) == 0 || len(n) > maxRSA/8 || len(e) == 0 || len(e) > 4 || n[0] == 0 || e[0] == 0 {
		return nil, fmt.Errorf("modulus or exponent of a size that is not accepted")
	}
	k := &rsa.PublicKey{N: new(big.Int).SetBytes(n)}
	exponent := new(big.Int).SetBytes(e).Int64()
	if exponent < 3 || exponent%2 == 0 || exponent > 1<<31-1 {
		return nil, fmt.Errorf("an exponent that is not accepted")
	}
	k.E = int(exponent)
	if bits := k.N.BitLen(); bits < minRSA || bits > maxRSA || k.N.Bit(0) == 0 {
		return nil, fmt.Errorf("a modulus of %d bits; %d to %d are accepted", bits, minRSA, maxRSA)
	}
	if roca(k.N) {
		return nil, fmt.Errorf("a modulus with the ROCA weakness [CVE-2017-15361]")
	}
	return k, nil
}

// roca tells whether a modulus has the fingerprint of CVE-2017-15361: modulo each
// of these primes it is a power of 65537.
func roca(n *big.Int) bool {
	for _, p := range [...]int64{11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157} {
		rest := new(big.Int).Mod(n, big.NewInt(p)).Int64()
		power, found := int64(1), false
		for range p {
			if power == rest {
				found = true
				break
			}
			power = power * (65537 % p) % p
		}
		if !found {
			return false
		}
	}
	return true
}

// Thumbprint returns the RFC 7638 thumbprint of a key, SHA-256 in base64url.
func Thumbprint(pub crypto.PublicKey) (string, error) {
	sum, err := (&gojose.JSONWebKey{Key: pub}).Thumbprint(crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("thumbprint: %w", err)
	}
	return strict.EncodeToString(sum), nil
}

// MarshalJSON writes the public JWK [RFC 7517 §4].
func (k Key) MarshalJSON() ([]byte, error) {
	return json.Marshal(gojose.JSONWebKey{Key: k.Public, KeyID: k.ID, Algorithm: string(k.Algorithm), Use: "sig"})
}
