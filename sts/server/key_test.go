package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/sts"
)

// signingKey is an ES256 key.
type signingKey struct {
	kid     string
	set     jose.KeySet
	private *ecdsa.PrivateKey
}

func newTestKeys(tb testing.TB) *testKeys {
	tb.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	set, err := jose.NewKeySet(jose.Key{ID: "k1", Algorithm: "ES256", Public: private.Public()})
	if err != nil {
		tb.Fatal(err)
	}
	k := &testKeys{signingKey: signingKey{kid: "k1", set: set, private: private}}
	k.maxAge.Store(int64(5 * time.Minute))
	return k
}

func (k *signingKey) sign(typ string, payload []byte) (string, error) {
	enc := base64.RawURLEncoding.EncodeToString
	input := enc(fmt.Appendf(nil, `{"alg":"ES256","kid":%q,"typ":%q}`, k.kid, typ)) + "." + enc(payload)
	sum := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, k.private, sum[:])
	if err != nil {
		return "", err
	}
	var sig [64]byte
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return input + "." + enc(sig[:]), nil
}

// testKeys is a sts.SigningKeys with one ES256 key in memory, of the set default.
// It counts and can fail.
type testKeys struct {
	signingKey
	signed atomic.Int64
	block  atomic.Pointer[chan struct{}] // Sign waits until it is closed
	boom   atomic.Bool                   // Sign panics
	broken atomic.Bool                   // Sign, Rotate and Revoke fail
	down   atomic.Bool                   // Ready says that Vault is missing
	maxAge atomic.Int64
	before func() // Sign calls it; set before the first request

	mu        sync.Mutex
	verifiers []string // that Delivered was told of
}

func (k *testKeys) Sign(ctx context.Context, set, typ string, payload []byte) (token, kid string, err error) {
	k.signed.Add(1)
	switch {
	case !k.Has(set):
		return "", "", fmt.Errorf("no key set %q", set)
	case k.boom.Load():
		panic("with a secret: " + canary)
	case k.broken.Load():
		return "", "", errBroken
	}
	if c := k.block.Load(); c != nil {
		select {
		case <-*c:
		case <-ctx.Done():
			return "", "", ctx.Err()
		}
	}
	if k.before != nil {
		k.before()
	}
	token, err = k.sign(typ, payload)
	return token, k.kid, err
}

func (k *testKeys) KeySet() jose.KeySet           { return k.set }
func (k *testKeys) MaxAge() time.Duration         { return time.Duration(k.maxAge.Load()) }
func (*testKeys) Has(set string) bool             { return set == "default" }
func (*testKeys) MaxTokenLifetime() time.Duration { return 24 * time.Hour }

// vaultDown is an error as the keys make it.
type vaultDown struct{}

func (vaultDown) Error() string      { return "https://10.1.2.3:8200 is sealed" }
func (vaultDown) Dependency() string { return "vault" }

func (k *testKeys) Ready() error {
	if k.down.Load() {
		return vaultDown{}
	}
	return nil
}

func (k *testKeys) Delivered(_ jose.KeySet, verifier string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.verifiers = append(k.verifiers, verifier)
}

// delivered returns who was told of since the last call.
func (k *testKeys) delivered() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := k.verifiers
	k.verifiers = nil
	return out
}

var published = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func (k *testKeys) current() sts.KeyStatus {
	return sts.KeyStatus{
		Set: "default", KID: k.kid, Algorithm: "ES256", Role: sts.KeyCurrent, Location: "transit/keys/sts version 1",
		Published: published, Signs: published.Add(time.Hour), Verifiers: 3, Fetches: 12, LastFetch: published.Add(2 * time.Hour),
	}
}

func (k *testKeys) next() sts.KeyStatus {
	return sts.KeyStatus{Set: "default", KID: "k2", Algorithm: "ES256", Role: sts.KeyNext, Published: published, Signs: published.Add(time.Hour)}
}

func (k *testKeys) Status() []sts.KeySetStatus {
	return []sts.KeySetStatus{{
		Name: "default", Algorithm: "ES256", Provider: "vault", Keys: []sts.KeyStatus{k.next(), k.current()},
		RotationDue: published.Add(720 * time.Hour), Problems: []string{"the key can be exported"},
	}}
}

func (k *testKeys) Rotate(_ context.Context, set string) (sts.KeyStatus, error) {
	switch {
	case k.broken.Load():
		return sts.KeyStatus{}, errBroken
	case !k.Has(set):
		return sts.KeyStatus{}, &sts.Error{Code: sts.NotFound, Message: "there is no such key set"}
	}
	return k.next(), nil
}

func (k *testKeys) Revoke(_ context.Context, kid string) (sts.KeyRevocation, error) {
	switch {
	case k.broken.Load():
		return sts.KeyRevocation{}, errBroken
	case !slices.Contains([]string{"k1", "k2"}, kid):
		return sts.KeyRevocation{}, &sts.Error{Code: sts.NotFound, Message: "there is no such key"}
	}
	gone := k.current()
	gone.Role, gone.Revoked = sts.KeyRevoked, published.Add(3*time.Hour)
	done := sts.KeyRevocation{Revoked: gone, AcceptedUntil: published.Add(4 * time.Hour)}
	if kid == "k1" {
		done.Successor = k.next()
	}
	return done, nil
}
