package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
)

// Key is a named key of a transit engine. Its methods may be called at the same
// time. An error is an [*Error], or that of the caller's context if that ended
// first.
type Key struct {
	c           *Client
	mount, name string
	err         error // of a name that cannot be one
}

// Key names a key. It does not ask Vault whether there is one.
func (c *Client) Key(mount, name string) *Key {
	return &Key{c: c, mount: mount, name: name, err: CheckKey(mount, name)}
}

// Err returns nil, or why Vault cannot be used at the moment; see [Client.Err].
func (k *Key) Err() error { return k.c.Err() }

// Name is the name of the key within its mount.
func (k *Key) Name() string { return k.name }

// String is the path of the key, such as transit/keys/sts.
func (k *Key) String() string { return k.path("keys") }

var (
	mountPattern = regexp.MustCompile(`^(?:[A-Za-z0-9_-][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*)$`)
	namePattern  = regexp.MustCompile(`^(?:\w(?:[\w.-]*\w)?)$`)
)

// CheckKey tells what is wrong with the mount and the name of a key, without
// asking Vault.
func CheckKey(mount, name string) error {
	if err := checkMount(mount); err != nil {
		return err
	}
	if !namePattern.MatchString(name) {
		return fmt.Errorf("%q is not a name of a transit key: letters, digits, and inside it . - _", name)
	}
	return nil
}

func checkMount(mount string) error {
	if !mountPattern.MatchString(mount) {
		return fmt.Errorf("%q is not a mount: write its path without leading and trailing slash, such as transit", mount)
	}
	return nil
}

// path is that of an operation, such as sign.
func (k *Key) path(operation string) string { return k.mount + "/" + operation + "/" + k.name }

// call asks Vault for something of this key.
func (k *Key) call(ctx context.Context, doing string, r request) ([]byte, error) {
	if k.err != nil {
		return nil, newError(Refused, "%w", k.err)
	}
	body, err := k.c.call(ctx, r)
	if err != nil {
		return nil, about(err, "%s %s", doing, k)
	}
	return body, nil
}

// about says what an error happened to; it stays an Error of its kind.
func about(err error, format string, args ...any) error {
	wrapped := fmt.Errorf(format+": %w", append(args, err)...)
	if e, ok := errors.AsType[*Error](err); ok {
		return &Error{Kind: e.Kind, Status: e.Status, RetryAfter: e.RetryAfter, Err: wrapped}
	}
	return wrapped
}

// Rotate makes a new version of the key. After an error there may be one, or
// not: read [Key.Info] before trying again.
func (k *Key) Rotate(ctx context.Context) error {
	_, err := k.call(ctx, "rotating", request{method: http.MethodPost, path: k.mount + "/keys/" + k.name + "/rotate"})
	return err
}

// Encrypt encrypts with the latest version. The same associated data is needed
// to decrypt.
//
// It reads the key first and fails if there is none: Vault makes a key when it
// is asked to encrypt with one that is missing, and the token's policy allows it.
func (k *Key) Encrypt(ctx context.Context, plaintext, associated []byte) (string, error) {
	if _, err := k.Info(ctx); err != nil {
		return "", err
	}
	body, err := k.write(ctx, "encrypting with", "encrypt", message{Plaintext: plaintext, AssociatedData: associated})
	if err != nil {
		return "", err
	}
	var out struct {
		Ciphertext string `json:"ciphertext"`
	}
	if err := decode(body, &out); err != nil || !strings.HasPrefix(out.Ciphertext, "vault:v") {
		return "", newError(Garbage, "encrypting with %s: the answer holds no ciphertext", k)
	}
	return out.Ciphertext, nil
}

// Decrypt reverses Encrypt. A ciphertext that is not of this key or not with
// this associated data is Refused.
func (k *Key) Decrypt(ctx context.Context, ciphertext string, associated []byte) ([]byte, error) {
	body, err := k.write(ctx, "decrypting with", "decrypt", message{Ciphertext: ciphertext, AssociatedData: associated})
	if err != nil {
		return nil, err
	}
	var out struct {
		Plaintext *[]byte `json:"plaintext"`
	}
	if err := decode(body, &out); err != nil || out.Plaintext == nil {
		return nil, newError(Garbage, "decrypting with %s: the answer holds no plaintext", k)
	}
	return *out.Plaintext, nil
}

// message is a request to encrypt or to decrypt. Vault takes bytes in base64, as
// encoding/json writes them.
type message struct {
	Plaintext      []byte `json:"plaintext,omitempty"`
	Ciphertext     string `json:"ciphertext,omitempty"`
	AssociatedData []byte `json:"associated_data,omitempty"`
}

// write posts a value to an operation of the key. All that is written so can be
// written twice.
func (k *Key) write(ctx context.Context, doing, operation string, in any) ([]byte, error) {
	sent, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	return k.call(ctx, doing, request{method: http.MethodPost, path: k.path(operation), body: sent, repeatable: true})
}

// decode reads the data of an answer of Vault's, and nothing after it.
func decode(body []byte, out any) error {
	answer := struct {
		Data any `json:"data"`
	}{out}
	return decodeWhole(body, &answer)
}

// decodeWhole reads an answer whose interesting part is not under data.
func decodeWhole(body []byte, out any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(out); err != nil {
		return newError(Garbage, "the answer cannot be read") // the error may repeat what was read
	}
	if _, err := d.Token(); err != io.EOF {
		return newError(Garbage, "the answer has something after its end")
	}
	return nil
}
