package storage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/workload-sts/sts/sts"
)

// Keys of the records. Each kind of record has a space of its own, so that a name
// of one can never be taken for a name of another.
const (
	resourcePrefix = "resource/"  // + kind + "/" + name: a resource as JSON
	resourcesKey   = "resources"  // compared by every change of resources
	adminKey       = "admin/hash" // hash of the admin token
	keyStatePrefix = "keys/"      // + key set: its state, opaque
)

// Store keeps typed records in a KV. It implements sts.Store.
type Store struct{ kv KV }

// NewStore returns the records of a KV.
func NewStore(kv KV) *Store { return &Store{kv} }

// Load implements sts.Store. The revision of the resources is that of the last
// change of any of them, 0 before the first.
func (s *Store) Load(ctx context.Context) ([]sts.Resource, int64, error) {
	for {
		revision, err := s.resourcesRevision(ctx)
		if err != nil {
			return nil, 0, err
		}
		list, at, err := s.kv.List(ctx, resourcePrefix)
		if err != nil {
			return nil, 0, fmt.Errorf("reading resources: %w", err)
		}
		again, err := s.resourcesRevision(ctx)
		if err != nil {
			return nil, 0, err
		}
		if again > at || again != revision {
			continue // a change came in between
		}
		resources := make([]sts.Resource, 0, len(list))
		for _, e := range list {
			r, err := decodeResource(e)
			if err != nil {
				return nil, 0, err
			}
			resources = append(resources, r)
		}
		return resources, revision, nil
	}
}

// resourcesRevision is the revision of the last change of resources.
func (s *Store) resourcesRevision(ctx context.Context) (int64, error) {
	e, err := s.kv.Get(ctx, resourcesKey)
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	return e.Revision, err
}

// decodeResource reads strictly: a member that this program does not know might
// be a restriction, so dropping it silently could allow more than was meant.
func decodeResource(e Entry) (sts.Resource, error) {
	var r sts.Resource
	d := json.NewDecoder(bytes.NewReader(e.Value))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return r, fmt.Errorf("the record %q cannot be read: %w; was it written by a newer version?", e.Key, err)
	}
	if resourceKey(r.Ref()) != e.Key {
		return r, fmt.Errorf("the record %q holds %s", e.Key, r.Ref())
	}
	return r, nil
}

func resourceKey(ref sts.Ref) string { return resourcePrefix + string(ref.Kind) + "/" + ref.Name }

// Commit implements sts.Store.
func (s *Store) Commit(ctx context.Context, base int64, put []sts.Resource, del []sts.Ref) (int64, error) {
	ops := make([]Op, 0, len(put)+len(del)+1)
	for _, r := range put {
		value, err := json.Marshal(r)
		if err != nil {
			return 0, fmt.Errorf("encoding %s: %w", r.Ref(), err)
		}
		ops = append(ops, Op{resourceKey(r.Ref()), value})
	}
	for _, ref := range del {
		ops = append(ops, Op{Key: resourceKey(ref)})
	}
	ops = append(ops, Op{resourcesKey, []byte{}})
	revision, done, err := s.kv.Txn(ctx, []Compare{{resourcesKey, base}}, ops)
	if err == nil && !done {
		err = sts.ErrConflict
	}
	return revision, err
}

// Changed implements sts.Store.
func (s *Store) Changed(ctx context.Context, after int64) error {
	seen := after
	for {
		at, err := s.kv.Wait(ctx, seen)
		if err != nil {
			return err
		}
		revision, err := s.resourcesRevision(ctx)
		if err != nil || revision > after {
			return err
		}
		seen = at // something else was written
	}
}

// AdminHash implements sts.Store.
func (s *Store) AdminHash(ctx context.Context) (string, error) {
	e, err := s.kv.Get(ctx, adminKey)
	if errors.Is(err, ErrNotFound) {
		return "", nil
	}
	return string(e.Value), err
}

// SetAdminHash implements sts.Store.
func (s *Store) SetAdminHash(ctx context.Context, old, hash string) error {
	e, err := s.kv.Get(ctx, adminKey)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if string(e.Value) != old {
		return sts.ErrConflict
	}
	_, done, err := s.kv.Txn(ctx, []Compare{{adminKey, e.Revision}}, []Op{{adminKey, []byte(hash)}})
	if err == nil && !done {
		err = sts.ErrConflict
	}
	return err
}

// KeyStates keeps the states of key sets, as the keys package asks for.
type KeyStates struct{ kv KV }

// KeyStates returns the states of key sets.
func (s *Store) KeyStates() *KeyStates { return &KeyStates{s.kv} }

// Load returns the state of a key set and its revision; nil and 0 if there is
// none.
func (k *KeyStates) Load(ctx context.Context, name string) ([]byte, int64, error) {
	e, err := k.kv.Get(ctx, keyStatePrefix+name)
	if errors.Is(err, ErrNotFound) {
		return nil, 0, nil
	}
	return e.Value, e.Revision, err
}

// Swap replaces the state of a key set if its revision is still the one given.
// done is false if it is not. After an error the state may be the old or the new
// one.
func (k *KeyStates) Swap(ctx context.Context, name string, revision int64, data []byte) (next int64, done bool, err error) {
	return k.kv.Txn(ctx, []Compare{{keyStatePrefix + name, revision}}, []Op{{keyStatePrefix + name, data}})
}
