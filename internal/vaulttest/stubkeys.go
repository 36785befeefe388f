package vaulttest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// stubKey is a named key. Its versions count from 1.
type stubKey struct {
	typ      string
	versions []stubVersion
	// The least versions that are listed and verify, and that sign; 0: all.
	minDecryption, minEncryption int
}

type stubVersion struct {
	signer  crypto.Signer // of the types that sign
	secret  []byte        // of aes256-gcm96
	created time.Time
}

// keyTypes says how to make a key of each type, and how Vault calls it in the
// answer to a read.
var keyTypes = map[string]struct {
	name string
	make func() (crypto.Signer, error)
}{
	"ecdsa-p256": {"P-256", func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }},
	"ecdsa-p384": {"P-384", func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P384(), rand.Reader) }},
	"ed25519": {"ed25519", func() (crypto.Signer, error) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}},
	"rsa-2048":     {"rsa-2048", func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) }},
	"aes256-gcm96": {},
}

// AddKey makes a key of one of the types ecdsa-p256, ecdsa-p384, ed25519,
// rsa-2048 and aes256-gcm96. A key of that name that was there is replaced by
// one that starts at version 1 again.
func (s *Stub) AddKey(t testing.TB, name, typ string) {
	t.Helper()
	if _, ok := keyTypes[typ]; !ok {
		t.Fatalf("the stub has no keys of type %q", typ)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[name] = &stubKey{typ: typ, minDecryption: 1}
	s.rotate(t, name)
}

// Rotate adds a version to a key.
func (s *Stub) Rotate(t testing.TB, name string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rotate(t, name)
}

func (s *Stub) rotate(t testing.TB, name string) {
	t.Helper()
	key := s.keys[name]
	if key == nil {
		t.Fatalf("the stub has no key %q", name)
	}
	v := stubVersion{created: time.Now().UTC()}
	if generate := keyTypes[key.typ].make; generate != nil {
		signer, err := generate()
		if err != nil {
			t.Fatal(err)
		}
		v.signer = signer
	} else {
		v.secret = make([]byte, 32)
		rand.Read(v.secret)
	}
	key.versions = append(key.versions, v)
}

// DeleteKey removes a key.
func (s *Stub) DeleteKey(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.keys, name)
}

// SetMinimum sets min_decryption_version and min_encryption_version of a key.
func (s *Stub) SetMinimum(t testing.TB, name string, decryption, encryption int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	key := s.keys[name]
	if key == nil {
		t.Fatalf("the stub has no key %q", name)
	}
	key.minDecryption, key.minEncryption = decryption, encryption
}

// PublicKey returns the public key of a version.
func (s *Stub) PublicKey(t testing.TB, name string, version int) crypto.PublicKey {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	key := s.keys[name]
	if key == nil || version < 1 || version > len(key.versions) || key.versions[version-1].signer == nil {
		t.Fatalf("the stub has no version %d of a key %q that signs", version, name)
	}
	return key.versions[version-1].signer.Public()
}

func (s *Stub) read(path string) answer {
	name := strings.TrimPrefix(path, s.config.Mount+"/keys/")
	key := s.keys[name]
	if key == nil {
		return refuse(http.StatusNotFound)
	}
	versions := map[string]any{}
	for i, v := range key.versions {
		if i+1 < key.minDecryption {
			continue
		}
		if v.signer == nil {
			versions[strconv.Itoa(i+1)] = v.created.Unix()
			continue
		}
		versions[strconv.Itoa(i+1)] = map[string]any{
			"creation_time": v.created.Format(time.RFC3339Nano), "name": keyTypes[key.typ].name, "public_key": publicKey(v.signer),
		}
	}
	return envelope(map[string]any{
		"allow_plaintext_backup": false, "auto_rotate_period": 0, "deletion_allowed": false, "derived": false,
		"exportable": false, "imported_key": false, "keys": versions, "latest_version": len(key.versions),
		"min_available_version": 0, "min_decryption_version": key.minDecryption, "min_encryption_version": key.minEncryption,
		"name": name, "supports_decryption": !key.signs() || key.typ == "rsa-2048", "supports_derivation": key.typ == "ed25519",
		"supports_encryption": !key.signs() || key.typ == "rsa-2048", "supports_signing": key.signs(), "type": key.typ,
	}, nil)
}

func (k *stubKey) signs() bool { return keyTypes[k.typ].make != nil }

// publicKey writes a key as Vault does: Ed25519 in base64, others in PEM.
func publicKey(signer crypto.Signer) string {
	if key, ok := signer.Public().(ed25519.PublicKey); ok {
		return base64.StdEncoding.EncodeToString(key)
	}
	der, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		panic(err) // the stub made the key
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// pick returns the version to sign with, or what Vault says why there is none.
func (k *stubKey) pick(version int) (int, string) {
	switch {
	case version == 0:
		return len(k.versions), ""
	case version < 0:
		return 0, "requested version for signing is negative"
	case version > len(k.versions):
		return 0, "requested version for signing is higher than the latest key version"
	case version < k.minEncryption:
		return 0, "requested version for signing is less than the minimum encryption key version"
	case version < k.minDecryption:
		return 0, "no such key version"
	}
	return version, ""
}
