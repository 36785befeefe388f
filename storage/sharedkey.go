package storage

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
)

// sharedKeyPrefix + name: a random key that the nodes of a store share.
const sharedKeyPrefix = "shared/"

// SharedKey returns 32 random bytes that all nodes of the store get under the
// name. Who asks first makes them.
func (s *Store) SharedKey(ctx context.Context, name string) ([]byte, error) {
	at := sharedKeyPrefix + name
	e, err := s.kv.Get(ctx, at)
	if errors.Is(err, ErrNotFound) {
		key := make([]byte, 32)
		rand.Read(key)
		// Should another node be faster, its key is read below.
		if _, _, err = s.kv.Txn(ctx, []Compare{{Key: at}}, []Op{{Key: at, Value: key}}); err == nil {
			e, err = s.kv.Get(ctx, at)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the shared key %q: %w", name, err)
	}
	return e.Value, nil
}
