package keys

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/workload-sts/sts/jose"
)

// stateName is what the state of all key sets is stored under. It is one record:
// the published key set is one document, so it is changed as one.
const stateName = "signing"

// stateFormat is the format of the state that this program writes and reads.
const stateFormat = 1

// state is what is stored of the keys of all sets. It says when each key signs,
// not which one signs now: roles follow from the clock, so that nodes which share
// a state and a time agree without a word.
//
// It is changed by comparison only, and only in these steps: a key is added
// without a time to sign; a key that was read back gets its time; a key is
// revoked; a key whose tokens have all expired is removed.
type state struct {
	Format int         `json:"format"`
	Keys   []storedKey `json:"keys"` // oldest first
	// Claims says, by set, when a node began to make the next key, so that others
	// do not make one too.
	Claims map[string]time.Time `json:"claims,omitempty"`
}

// storedKey is one key of a set.
type storedKey struct {
	Set       string         `json:"set"`
	ID        string         `json:"kid"`
	Algorithm jose.Algorithm `json:"alg"`
	Provider  string         `json:"provider"`
	Public    []byte         `json:"public"` // DER of its SubjectPublicKeyInfo
	// Material is what the provider needs to sign with the key. It goes when the
	// key is revoked.
	Material  json.RawMessage `json:"material,omitempty"`
	Published time.Time       `json:"published"`
	Signs     time.Time       `json:"signs,omitzero"`   // from when on; zero: not decided yet
	Revoked   time.Time       `json:"revoked,omitzero"` // zero: it is not
}

func decodeState(data []byte) (state, error) {
	s := state{Format: stateFormat}
	if data == nil {
		return s, nil
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	err := d.Decode(&s)
	if err == nil {
		if _, more := d.Token(); more != io.EOF {
			err = fmt.Errorf("something follows it")
		}
	}
	if err == nil && s.Format != stateFormat {
		err = fmt.Errorf("it has format %d, this program knows %d", s.Format, stateFormat)
	}
	if err != nil {
		return s, fmt.Errorf("the state of the signing keys cannot be read: %w; was it written by a newer version?", err)
	}
	for _, k := range s.Keys {
		if _, err := k.publicKey(); err != nil {
			return s, fmt.Errorf("the state of the signing keys: key %s of key set %q: %w", k.ID, k.Set, err)
		}
	}
	return s, nil
}

func (s state) encode() ([]byte, error) { return json.Marshal(s) }

// publicKey decodes the public key and checks that it is the one that the kid
// names, and that it fits its algorithm.
func (k storedKey) publicKey() (jose.Key, error) {
	public, err := x509.ParsePKIXPublicKey(k.Public)
	if err != nil {
		return jose.Key{}, fmt.Errorf("decoding its public key: %w", err)
	}
	if err := k.Algorithm.Fits(public); err != nil {
		return jose.Key{}, err
	}
	if id, err := jose.Thumbprint(public); err != nil || id != k.ID {
		return jose.Key{}, fmt.Errorf("its kid is not that of the key")
	}
	return jose.Key{ID: k.ID, Algorithm: k.Algorithm, Public: public}, nil
}

// newStoredKey names a public key.
func newStoredKey(set, provider string, alg jose.Algorithm, public crypto.PublicKey, material any) (storedKey, error) {
	k := storedKey{Set: set, Algorithm: alg, Provider: provider}
	if err := alg.Fits(public); err != nil {
		return k, err
	}
	var err error
	if k.ID, err = jose.Thumbprint(public); err != nil {
		return k, err
	}
	if k.Public, err = x509.MarshalPKIXPublicKey(public); err != nil {
		return k, fmt.Errorf("encoding a public key: %w", err)
	}
	k.Material, err = json.Marshal(material)
	return k, err
}

// revoked tells whether a key counts no more.
func (k storedKey) revoked() bool { return !k.Revoked.IsZero() }

// served tells whether the key had its turn to sign before now, whatever became
// of it later. A key that was revoked before its turn never had one.
func (k storedKey) served(now time.Time) bool {
	return !k.Signs.IsZero() && !k.Signs.After(now) && (!k.revoked() || !k.Revoked.Before(k.Signs))
}

// of returns the keys of a set in the order in which they sign: those without a
// time last, as they were published.
func (s state) of(set string) []storedKey {
	var out []storedKey
	for _, k := range s.Keys {
		if k.Set == set {
			out = append(out, k)
		}
	}
	slices.SortStableFunc(out, func(a, b storedKey) int {
		switch {
		case a.Signs.IsZero() || b.Signs.IsZero():
			return boolCompare(a.Signs.IsZero(), b.Signs.IsZero())
		default:
			return a.Signs.Compare(b.Signs)
		}
	})
	return out
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}

// sets returns the names of all sets that have keys, in the order of their first
// key.
func (s state) sets() []string {
	var out []string
	for _, k := range s.Keys {
		if !slices.Contains(out, k.Set) {
			out = append(out, k.Set)
		}
	}
	return out
}

// key returns the place of a key in Keys, -1 if it is not there.
func (s state) key(id string) int {
	return slices.IndexFunc(s.Keys, func(k storedKey) bool { return k.ID == id })
}

// clone returns a state that can be changed.
func (s state) clone() state {
	s.Keys = slices.Clone(s.Keys)
	claims := make(map[string]time.Time, len(s.Claims))
	for set, at := range s.Claims {
		claims[set] = at
	}
	s.Claims = claims
	return s
}
