package keys

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/workload-sts/sts/jose"
)

// MaxAge is how long verifiers may cache the key set. It bounds how fast keys can
// rotate: a key is published at least as long before it signs.
const MaxAge = 5 * time.Minute

// Ring is the keys of one set: one that signs, and all that are published. It
// can be used concurrently.
type Ring struct{ state atomic.Pointer[ringState] }

type ringState struct {
	current *SigningKey
	set     jose.KeySet
}

func newRing(current *SigningKey, set jose.KeySet) *Ring {
	r := &Ring{}
	r.state.Store(&ringState{current, set})
	return r
}

// Current returns the key that signs now.
func (r *Ring) Current() *SigningKey { return r.state.Load().current }

// KeySet returns the public keys to publish.
func (r *Ring) KeySet() jose.KeySet { return r.state.Load().set }

// MaxAge is how long a verifier may cache the key set.
func (r *Ring) MaxAge() time.Duration { return MaxAge }

// Sign returns the compact JWS of payload, and the kid in its header. Header and
// signature come from one key, which is looked up once, so they cannot disagree
// while keys rotate.
func (r *Ring) Sign(ctx context.Context, typ string, payload []byte) (token, kid string, err error) {
	key := r.Current()
	input := jose.SigningInput(jose.Header{Algorithm: key.Algorithm(), KeyID: key.ID(), Type: typ}, payload)
	sig, err := key.Sign(ctx, input)
	if err != nil {
		return "", "", err
	}
	return jose.Compact(input, sig), key.ID(), nil
}

// SigningKey is one key of a set.
type SigningKey struct {
	public  jose.Key
	private crypto.Signer
}

// newSigningKey checks that a decrypted key is the one that its record names.
func newSigningKey(k storedKey, der []byte) (*SigningKey, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("decoding: %w", err)
	}
	private, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, errors.New("not a signing key")
	}
	if err := k.Algorithm.Fits(private.Public()); err != nil {
		return nil, err
	}
	if id, err := jose.Thumbprint(private.Public()); err != nil || id != k.ID {
		return nil, errors.Join(errors.New("its id is not that of the key"), err)
	}
	return &SigningKey{public: jose.Key{ID: k.ID, Algorithm: k.Algorithm, Public: private.Public()}, private: private}, nil
}

// ID is the kid, the RFC 7638 thumbprint of the key.
func (k *SigningKey) ID() string { return k.public.ID }

// Algorithm is the one that the key signs with.
func (k *SigningKey) Algorithm() jose.Algorithm { return k.public.Algorithm }

// Sign returns a signature in JOSE form. It does not verify what it made: the key
// is in this process, and whoever can disturb its arithmetic can disturb the
// check.
func (k *SigningKey) Sign(ctx context.Context, input []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return jose.Sign(k.public.Algorithm, k.private, input)
}
