package jose

import (
	"encoding/json"
	"fmt"
	"iter"
	"slices"
)

// Bounds of a key set from outside.
const (
	maxKeySetSize = 256 << 10
	maxKeys       = 100
)

// KeySet is an immutable set of public keys; its zero value is empty.
type KeySet struct {
	keys []Key
	byID map[string]int
}

// NewKeySet returns a set of keys that have an id each, no two the same.
func NewKeySet(keys ...Key) (KeySet, error) {
	s := KeySet{keys: slices.Clone(keys), byID: make(map[string]int, len(keys))}
	for i, k := range keys {
		if k.ID == "" {
			continue
		}
		if _, taken := s.byID[k.ID]; taken {
			return KeySet{}, fmt.Errorf("%w: two keys have the same kid", ErrMalformed)
		}
		s.byID[k.ID] = i
	}
	return s, nil
}

// ParseKeySet reads a JWK set [RFC 7517 §5]. Keys that cannot verify a signature
// here are left out, and the second result says of each why; other keys of the
// set still work. Two keys with one kid make the whole set malformed, since it
// could not be told which of them counts.
func ParseKeySet(b []byte) (KeySet, []error, error) {
	list, _, err := keyList(b)
	if err != nil {
		return KeySet{}, nil, err
	}
	return parseKeys(list)
}

// keyList reads the members of a JWK set, and its list of keys.
func keyList(b []byte) ([]any, map[string]any, error) {
	if len(b) > maxKeySetSize {
		return nil, nil, fmt.Errorf("%w: a key set longer than %d bytes", ErrMalformed, maxKeySetSize)
	}
	m, err := ParseObject(b)
	if err != nil {
		return nil, nil, err
	}
	list, ok := m["keys"].([]any)
	if !ok {
		return nil, nil, fmt.Errorf("%w: no member keys that is a list", ErrMalformed)
	}
	if len(list) > maxKeys {
		return nil, nil, fmt.Errorf("%w: more than %d keys", ErrMalformed, maxKeys)
	}
	return list, m, nil
}

func parseKeys(list []any) (KeySet, []error, error) {
	var keys []Key
	var left []error
	ids := map[string]bool{}
	for i, v := range list {
		jwk, ok := v.(map[string]any)
		if !ok {
			left = append(left, fmt.Errorf("key %d: %w: not an object", i, ErrMalformed))
			continue
		}
		if id, _ := jwk["kid"].(string); id != "" {
			if ids[id] {
				return KeySet{}, nil, fmt.Errorf("%w: two keys have the same kid", ErrMalformed)
			}
			ids[id] = true
		}
		k, err := parseKey(jwk)
		if err != nil {
			left = append(left, fmt.Errorf("key %d: %w", i, err))
			continue
		}
		keys = append(keys, k)
	}
	set, err := NewKeySet(keys...)
	return set, left, err
}

// Key returns the key of an id.
func (s KeySet) Key(id string) (Key, bool) {
	i, ok := s.byID[id]
	if !ok {
		return Key{}, false
	}
	return s.keys[i], true
}

// All yields the keys in their order.
func (s KeySet) All() iter.Seq[Key] { return slices.Values(s.keys) }

// Len is the number of keys.
func (s KeySet) Len() int { return len(s.keys) }

// MarshalJSON writes the JWK set [RFC 7517 §5].
func (s KeySet) MarshalJSON() ([]byte, error) {
	keys := s.keys
	if keys == nil {
		keys = []Key{}
	}
	return json.Marshal(map[string][]Key{"keys": keys})
}
