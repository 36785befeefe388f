package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"testing"

	"github.com/workload-sts/sts/jose"
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
	return &testKeys{signingKey: signingKey{kid: "k1", set: set, private: private}}
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
