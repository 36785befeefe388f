// Package keys holds the keys that sign our tokens, and finds the keys that sign
// the tokens of trusted issuers.
package keys

import (
	"bytes"
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/workload-sts/sts/jose"
)

// Store keeps the state of key sets, opaque, by name.
type Store interface {
	// Load returns the state and its revision; nil and 0 if there is none.
	Load(ctx context.Context, name string) (data []byte, revision int64, err error)
	// Swap replaces the state if its revision is still the one given; done tells
	// whether it was. After an error the state may be the old or the new one.
	Swap(ctx context.Context, name string, revision int64, data []byte) (next int64, done bool, err error)
}

// LocalConfig describes a key set whose private keys are kept encrypted at rest.
type LocalConfig struct {
	Store         Store
	Name          string         // of the key set
	KeyFile       string         // 32 bytes in base64 that encrypt the private keys
	CreateKeyFile bool           // make the file if it is missing and no key needs it
	Algorithm     jose.Algorithm // of the first key, if there is none yet; default ES256
	Now           func() time.Time
}

// keyState is the stored state of a key set.
type keyState struct {
	Keys []storedKey `json:"keys"`
}

// storedKey is a private key, encrypted with AES-256-GCM under the key file. Set
// name, kid and algorithm are authenticated with it; its role changes over time.
type storedKey struct {
	ID         string         `json:"kid"`
	Algorithm  jose.Algorithm `json:"alg"`
	Role       Role           `json:"role"`
	Created    time.Time      `json:"created"`
	Nonce      []byte         `json:"nonce"`
	Ciphertext []byte         `json:"ciphertext"`
}

// Role is the place of a key in its set. Rotation moves a key through them.
type Role string

// The roles of a key. Keys of all roles are published.
const (
	Next     Role = "next"     // does not sign yet
	Current  Role = "current"  // signs; there is exactly one
	Previous Role = "previous" // does not sign any more
)

// OpenLocal returns the ring of a key set, whose first key is made if the store
// has none. Of several processes that begin at once, one makes the key and all
// use it.
//
// It never overwrites: a key file that is missing although keys were encrypted
// with it, or that does not decrypt them, is an error.
func OpenLocal(ctx context.Context, c LocalConfig) (*Ring, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Algorithm == "" {
		c.Algorithm = jose.ES256
	}
	for {
		data, revision, err := c.Store.Load(ctx, c.Name)
		if err != nil {
			return nil, fmt.Errorf("reading the key set %q: %w", c.Name, err)
		}
		aead, err := c.wrapping(data == nil)
		if err != nil {
			return nil, err
		}
		if data != nil {
			return c.open(aead, data)
		}
		data, err = c.first(aead)
		if err != nil {
			return nil, err
		}
		if _, _, err = c.Store.Swap(ctx, c.Name, revision, data); err != nil {
			return nil, fmt.Errorf("storing the first key of key set %q: %w", c.Name, err)
		}
		// Stored, or another process was first: read what is there.
	}
}

// wrapping returns the cipher of the key file.
func (c LocalConfig) wrapping(create bool) (cipher.AEAD, error) {
	_, err := os.Stat(c.KeyFile)
	missing := errors.Is(err, fs.ErrNotExist)
	if missing && create && c.CreateKeyFile {
		if err := createKeyFile(c.KeyFile); err != nil {
			return nil, fmt.Errorf("making the key file: %w", err)
		}
	}
	if missing && !create {
		return nil, fmt.Errorf("the key file %s is missing, and the signing keys are encrypted with it: restore it from where you keep it", c.KeyFile)
	}
	key, err := readKeyFile(c.KeyFile)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// createKeyFile writes a new key so that the file, once it has its name, is
// whole and durable: keys that only it can decrypt are stored after that.
func createKeyFile(path string) error {
	var key [32]byte
	rand.Read(key[:])
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".key-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(base64.StdEncoding.EncodeToString(key[:]) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	// Link does not replace: of two processes, one wins and both use its key.
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// first makes the state of a set with one new key.
func (c LocalConfig) first(aead cipher.AEAD) ([]byte, error) {
	private, err := generate(c.Algorithm)
	if err != nil {
		return nil, err
	}
	id, err := jose.Thumbprint(private.Public())
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("encoding a new key: %w", err)
	}
	k := storedKey{ID: id, Algorithm: c.Algorithm, Role: Current, Created: c.Now().UTC(), Nonce: make([]byte, aead.NonceSize())}
	rand.Read(k.Nonce)
	k.Ciphertext = aead.Seal(nil, k.Nonce, der, c.bound(k))
	return json.Marshal(keyState{Keys: []storedKey{k}})
}

// bound is what the encryption of a key authenticates besides the key.
func (c LocalConfig) bound(k storedKey) []byte {
	return []byte("sts key\x00" + c.Name + "\x00" + k.ID + "\x00" + string(k.Algorithm))
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

// open decrypts the keys of a stored state.
func (c LocalConfig) open(aead cipher.AEAD, data []byte) (*Ring, error) {
	var state keyState
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&state); err != nil {
		return nil, fmt.Errorf("the state of key set %q cannot be read: %w; was it written by a newer version?", c.Name, err)
	}
	var published []jose.Key
	var current *SigningKey
	for _, k := range state.Keys {
		der, err := aead.Open(nil, k.Nonce, k.Ciphertext, c.bound(k))
		if err != nil {
			return nil, fmt.Errorf("the key file %s does not decrypt the signing keys of key set %q: it is another one than they were encrypted with; nothing was changed", c.KeyFile, c.Name)
		}
		key, err := newSigningKey(k, der)
		if err != nil {
			return nil, fmt.Errorf("key %s of key set %q: %w", k.ID, c.Name, err)
		}
		published = append(published, key.public)
		if k.Role == Current {
			if current != nil {
				return nil, fmt.Errorf("key set %q has more than one current key", c.Name)
			}
			current = key
		}
	}
	if current == nil {
		return nil, fmt.Errorf("key set %q has no current key", c.Name)
	}
	set, err := jose.NewKeySet(published...)
	if err != nil {
		return nil, fmt.Errorf("key set %q: %w", c.Name, err)
	}
	return newRing(current, set), nil
}
