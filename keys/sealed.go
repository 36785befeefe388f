package keys

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/workload-sts/sts/jose"
)

// sealed is a provider whose private keys are made in this process and kept
// encrypted in the state. The two kinds differ in who encrypts.
type sealed struct {
	name  string // the kind
	needs string // the dependency
	box   box
}

// box encrypts private keys, together with what they are for.
type box interface {
	// seal encrypts. first tells that nothing of the set was encrypted before.
	seal(ctx context.Context, plaintext, bound []byte, first bool) ([]byte, error)
	// open decrypts what was sealed with the same bound.
	open(ctx context.Context, ciphertext, bound []byte) ([]byte, error)
	// String says what the box is, for operators.
	String() string
}

func (p sealed) kind() string              { return p.name }
func (p sealed) dependency() string        { return p.needs }
func (p sealed) location(storedKey) string { return "in the storage, encrypted by " + p.box.String() }

func (p sealed) create(ctx context.Context, s SetConfig, known []storedKey) (storedKey, error) {
	// A box that does not open the keys from before is the wrong one, or somebody
	// has changed it: nothing is put into it.
	for _, k := range known {
		if k.revoked() {
			continue
		}
		if _, err := p.open(ctx, k); err != nil {
			return storedKey{}, err
		}
		break
	}
	private, err := generate(s.Algorithm)
	if err != nil {
		return storedKey{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return storedKey{}, fmt.Errorf("encoding a new key: %w", err)
	}
	k, err := newStoredKey(s.Name, p.name, s.Algorithm, private.Public(), nil)
	if err != nil {
		return k, err
	}
	ciphertext, err := p.box.seal(ctx, der, bound(k), len(known) == 0)
	if err != nil {
		return k, err
	}
	k.Material, err = json.Marshal(ciphertext)
	return k, err
}

// inspect finds nothing: nobody else has these keys.
func (p sealed) inspect(context.Context, SetConfig, []placed) (report, error) { return report{}, nil }

func (p sealed) open(ctx context.Context, k storedKey) (signer, error) {
	var ciphertext []byte
	if err := json.Unmarshal(k.Material, &ciphertext); err != nil {
		return nil, fmt.Errorf("key %s of key set %q: %w", k.ID, k.Set, err)
	}
	der, err := p.box.open(ctx, ciphertext, bound(k))
	if err != nil {
		return nil, fmt.Errorf("key %s of key set %q: %w", k.ID, k.Set, err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("key %s of key set %q: decoding: %w", k.ID, k.Set, err)
	}
	private, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("key %s of key set %q is not a signing key", k.ID, k.Set)
	}
	if id, err := jose.Thumbprint(private.Public()); err != nil || id != k.ID {
		return nil, errors.Join(fmt.Errorf("key %s of key set %q: its kid is not that of the private key", k.ID, k.Set), err)
	}
	return memorySigner{k.Algorithm, private}, nil
}

// bound is what the encryption of a key authenticates besides the key. Times and
// roles change and are not in it.
func bound(k storedKey) []byte {
	return []byte("sts key\x00" + k.Set + "\x00" + k.ID + "\x00" + string(k.Algorithm))
}

func generate(a jose.Algorithm) (crypto.Signer, error) {
	switch a {
	case jose.ES256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.ES384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case jose.EdDSA:
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	case jose.RS256, jose.PS256:
		return rsa.GenerateKey(rand.Reader, 2048)
	default:
		return nil, fmt.Errorf("%q is not an algorithm that tokens are signed with: ES256, ES384, EdDSA, RS256 or PS256", a)
	}
}

// memorySigner signs with a key in this process. It does not verify what it made:
// whoever can disturb its arithmetic can disturb the check.
type memorySigner struct {
	alg     jose.Algorithm
	private crypto.Signer
}

func (m memorySigner) Sign(ctx context.Context, input []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return jose.Sign(m.alg, m.private, input)
}

func (memorySigner) Err() error { return nil }
func (memorySigner) Close()     {}
