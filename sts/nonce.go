package sts

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"time"
)

const (
	// nonceLife is how long a proof with a nonce is accepted.
	nonceLife = 2 * time.Minute
	// nonceKeyLife is how long one derived key makes nonces.
	nonceKeyLife = time.Hour

	nonceTime = 8 // bytes
	nonceMAC  = 16
)

// nonces makes and reads nonces for DPoP proofs [RFC 9449 §8]. A nonce says when it
// was made, under a MAC, so nothing is kept, and every node that has the same key
// accepts it, also after a restart.
type nonces struct{ key []byte }

// newNonces returns nil for no key: then proofs need no nonce.
func newNonces(key []byte) *nonces {
	if len(key) == 0 {
		return nil
	}
	return &nonces{key}
}

// next returns the nonce as of now.
func (n *nonces) next(now time.Time) string {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, nonceTime+nonceMAC), uint64(now.UnixMilli()))
	return base64.RawURLEncoding.EncodeToString(append(b, n.mac(b)...))
}

// read returns when a nonce was made, if it was made here and is not too old.
func (n *nonces) read(s string, now time.Time) (time.Time, bool) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != nonceTime+nonceMAC || len(s) != base64.RawURLEncoding.EncodedLen(len(b)) {
		return time.Time{}, false
	}
	if !hmac.Equal(b[nonceTime:], n.mac(b[:nonceTime])) {
		return time.Time{}, false
	}
	made := time.UnixMilli(int64(binary.BigEndian.Uint64(b)))
	// The clock of the node that made it may be ahead.
	return made, now.Before(made.Add(nonceLife)) && !made.After(now.Add(Skew))
}

// mac is that of a time, with the key of that time: each is derived from the key
// of the service and makes nonces for an hour.
func (n *nonces) mac(made []byte) []byte {
	period := binary.BigEndian.Uint64(made) / uint64(nonceKeyLife.Milliseconds())
	derive := hmac.New(sha256.New, n.key)
	derive.Write(binary.BigEndian.AppendUint64([]byte("DPoP nonce "), period))
	mac := hmac.New(sha256.New, derive.Sum(nil))
	mac.Write(made)
	return mac.Sum(nil)[:nonceMAC]
}
