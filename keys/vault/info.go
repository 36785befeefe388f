package vault

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Info is what Vault says of a key.
type Info struct {
	Type          string // ecdsa-p256, ecdsa-p384, ed25519, rsa-2048, aes256-gcm96 and others
	Latest        int    // the newest version
	MinAvailable  int    // older versions were trimmed; 0: none was
	MinDecryption int    // older versions do not decrypt, and Vault does not tell their public keys
	MinEncryption int    // older versions do not sign; 0: all versions do
	Versions      map[int]Version

	// What a key that signs tokens should not have.
	Exportable      bool          // somebody may read the private key
	PlaintextBackup bool          // somebody may read it by way of a backup
	DeletionAllowed bool          // somebody may delete the key
	Derived         bool          // there is a key per context; signatures need one
	AutoRotate      time.Duration // Vault makes a version by itself this often; 0: it does not
	SoftDeleted     bool          // OpenBao: marked as deleted, does not sign
}

// Version is one version of a key.
type Version struct {
	PublicKey crypto.PublicKey // nil: it is symmetric or derived
	Created   time.Time
}

// Signs reports whether Vault signs with a version.
func (i Info) Signs(version int) bool {
	_, ok := i.Versions[version]
	return ok && version >= i.MinEncryption && !i.SoftDeleted
}

// Info reads what there is of the key. The error is NoKey if there is no such
// key.
func (k *Key) Info(ctx context.Context) (Info, error) {
	body, err := k.call(ctx, "reading", request{method: http.MethodGet, path: k.path("keys"), repeatable: true})
	if err != nil {
		return Info{}, err
	}
	info, err := parseInfo(body)
	if err != nil {
		return Info{}, about(err, "reading %s", k)
	}
	return info, nil
}

// keyAnswer is the answer of keys/NAME.
type keyAnswer struct {
	Type            string                     `json:"type"`
	Latest          int                        `json:"latest_version"`
	MinAvailable    int                        `json:"min_available_version"`
	MinDecryption   int                        `json:"min_decryption_version"`
	MinEncryption   int                        `json:"min_encryption_version"`
	Keys            map[string]json.RawMessage `json:"keys"`
	Exportable      bool                       `json:"exportable"`
	PlaintextBackup bool                       `json:"allow_plaintext_backup"`
	DeletionAllowed bool                       `json:"deletion_allowed"`
	Derived         bool                       `json:"derived"`
	AutoRotate      seconds                    `json:"auto_rotate_period"`
	SoftDeleted     bool                       `json:"soft_deleted"`
}

func parseInfo(body []byte) (Info, error) {
	var a keyAnswer
	if err := decode(body, &a); err != nil {
		return Info{}, err
	}
	if a.Type == "" || a.Latest < 1 || len(a.Keys) == 0 {
		return Info{}, newError(Garbage, "the answer describes no key")
	}
	info := Info{
		Type: a.Type, Latest: a.Latest, MinAvailable: a.MinAvailable, MinDecryption: a.MinDecryption, MinEncryption: a.MinEncryption,
		Exportable: a.Exportable, PlaintextBackup: a.PlaintextBackup, DeletionAllowed: a.DeletionAllowed, Derived: a.Derived,
		AutoRotate: time.Duration(a.AutoRotate), SoftDeleted: a.SoftDeleted,
		Versions: make(map[int]Version, len(a.Keys)),
	}
	for number, raw := range a.Keys {
		n, err := strconv.Atoi(number)
		if err != nil || n < 1 || n > a.Latest || strconv.Itoa(n) != number {
			return Info{}, newError(Garbage, "the answer has a version that is not a number of 1 to %d", a.Latest)
		}
		v, err := parseVersion(a.Type, raw)
		if err != nil {
			return Info{}, newError(Garbage, "version %d: %w", n, err)
		}
		info.Versions[n] = v
	}
	return info, nil
}

// parseVersion reads a version: an object if it has a public key, otherwise the
// time when it was made.
func parseVersion(keyType string, raw json.RawMessage) (Version, error) {
	var unix int64
	if json.Unmarshal(raw, &unix) == nil {
		return Version{Created: time.Unix(unix, 0).UTC()}, nil
	}
	var v struct {
		PublicKey string    `json:"public_key"`
		Created   time.Time `json:"creation_time"`
	}
	if json.Unmarshal(raw, &v) != nil {
		return Version{}, errors.New("it cannot be read")
	}
	out := Version{Created: v.Created.UTC()}
	if v.PublicKey == "" {
		return out, nil // derived
	}
	var err error
	out.PublicKey, err = parsePublicKey(keyType, v.PublicKey)
	return out, err
}

var errNoPublicKey = errors.New("its public key is not one of its type")

// parsePublicKey reads a public key: PEM, or for Ed25519 its 32 bytes in base64.
func parsePublicKey(keyType, s string) (crypto.PublicKey, error) {
	if keyType == "ed25519" {
		b, err := base64.StdEncoding.Strict().DecodeString(s)
		if err != nil || len(b) != ed25519.PublicKeySize {
			return nil, errNoPublicKey
		}
		return ed25519.PublicKey(b), nil
	}
	block, rest := pem.Decode([]byte(s))
	if block == nil || block.Type != "PUBLIC KEY" || strings.TrimSpace(string(rest)) != "" {
		return nil, errNoPublicKey
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, errNoPublicKey
	}
	var family string
	switch pub.(type) {
	case *ecdsa.PublicKey:
		family = "ecdsa-"
	case *rsa.PublicKey:
		family = "rsa-"
	}
	if family == "" || !strings.HasPrefix(keyType, family) {
		return nil, errNoPublicKey
	}
	return pub, nil
}

// seconds is a duration as Vault writes it: a number of seconds, or with a unit.
type seconds time.Duration

func (s *seconds) UnmarshalJSON(b []byte) error {
	text := strings.Trim(string(b), `"`)
	if text == "null" || text == "" {
		*s = 0
		return nil
	}
	if n, err := strconv.ParseInt(text, 10, 32); err == nil {
		*s = seconds(time.Duration(n) * time.Second)
		return nil
	}
	d, err := time.ParseDuration(text)
	*s = seconds(d)
	return err
}
