package keys

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// kindLocal is the provider of keys that are encrypted by a key file.
const kindLocal = "local"

// Local returns the provider of keys that are made by this process and encrypted
// in the store, with AES-256-GCM under the key in a file: 32 bytes in base64. The
// file is made if it is missing, create is set, and nothing was encrypted with it
// yet.
func Local(keyFile string, create bool) Provider {
	return sealed{name: kindLocal, needs: "signing key", box: fileBox{keyFile, create}}
}

// fileBox encrypts with the key in a file.
type fileBox struct {
	file   string
	create bool
}

func (b fileBox) String() string { return "the key file " + b.file }

func (b fileBox) seal(_ context.Context, plaintext, bound []byte, first bool) ([]byte, error) {
	aead, err := b.cipher(first)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, aead.NonceSize())
	rand.Read(nonce)
	return aead.Seal(nonce, nonce, plaintext, bound), nil
}

func (b fileBox) open(_ context.Context, ciphertext, bound []byte) ([]byte, error) {
	aead, err := b.cipher(false)
	if err != nil {
		return nil, err
	}
	n := aead.NonceSize()
	if len(ciphertext) < n {
		return nil, errors.New("it was stored in part")
	}
	plaintext, err := aead.Open(nil, ciphertext[:n], ciphertext[n:], bound)
	if err != nil {
		return nil, fmt.Errorf("the key file %s does not decrypt it: it is another one than it was encrypted with; nothing was changed", b.file)
	}
	return plaintext, nil
}

// cipher reads the key file. first tells that nothing was encrypted with it yet.
func (b fileBox) cipher(first bool) (cipher.AEAD, error) {
	_, err := os.Stat(b.file)
	missing := errors.Is(err, fs.ErrNotExist)
	if missing && first && b.create {
		if err := createKeyFile(b.file); err != nil {
			return nil, fmt.Errorf("making the key file: %w", err)
		}
	}
	if missing && !first {
		return nil, fmt.Errorf("the key file %s is missing, and the signing keys are encrypted with it: restore it from where you keep it", b.file)
	}
	key, err := readKeyFile(b.file)
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
