package storage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// Keys of the records. Each kind of record has a space of its own, so that a name
// of one can never be taken for a name of another.
const (
	resourceSpace  = "resource"  // begins the next two, which are read together
	resourcePrefix = "resource/" // + kind + "/" + name: a resource as JSON
	resourcesKey   = "resources" // compared and written by every change of resources
	keyStatePrefix = "keys/"     // + name: a state of signing keys, opaque
	countPrefix    = "count/"    // + txn + "/" + rule: how often it was used in the transaction
	usagePrefix    = "usage/"    // + credential + "/" + client: when it was used, in Unix seconds
)

// Store keeps typed records in a KV. It implements sts.Store.
type Store struct{ kv KV }

// NewStore returns the records of a KV.
func NewStore(kv KV) *Store { return &Store{kv} }

// Load implements sts.Store. The revision of the resources is that of the last
// change of any of them, 0 before the first.
//
// A record that cannot be read, or holds what this program does not know, is an
// error that names it: to leave it out might allow more than was meant.
func (s *Store) Load(ctx context.Context) ([]sts.Resource, int64, error) {
	list, _, err := s.kv.List(ctx, resourceSpace, "", 0)
	if err != nil {
		return nil, 0, fmt.Errorf("reading resources: %w", err)
	}
	var revision, newest int64
	resources := make([]sts.Resource, 0, len(list))
	for _, e := range list {
		if e.Key == resourcesKey {
			revision = e.Revision
			continue
		}
		r, err := decodeResource(e)
		if err != nil {
			return nil, 0, err
		}
		resources, newest = append(resources, r), max(newest, e.Revision)
	}
	if newest > revision {
		return nil, 0, fmt.Errorf("a resource has revision %d, but they were last changed at %d: something else has written to the store", newest, revision)
	}
	return resources, revision, nil
}

// decodeResource reads strictly: a member that this program does not know might
// be a restriction.
func decodeResource(e Entry) (sts.Resource, error) {
	var r sts.Resource
	d := json.NewDecoder(bytes.NewReader(e.Value))
	d.DisallowUnknownFields()
	d.UseNumber()
	err := d.Decode(&r)
	if err == nil {
		if _, more := d.Token(); more != io.EOF {
			err = errors.New("something follows it")
		}
	}
	if err == nil && r.Rule != nil {
		err = errors.Join(exactClaims(claimsOf(r.Rule.Subject)), exactClaims(claimsOf(r.Rule.Actor)))
	}
	if err == nil && r.Client != nil && r.Client.Federated != nil {
		err = exactClaims(r.Client.Federated.Claims)
	}
	if err != nil {
		return r, fmt.Errorf("the record %q cannot be read: %w; was it written by a newer version?", e.Key, err)
	}
	kinds := 0
	for _, set := range []bool{r.Audience != nil, r.Client != nil, r.Issuer != nil, r.Rule != nil} {
		if set {
			kinds++
		}
	}
	if kinds != 1 || resourceKey(r.Ref()) != e.Key {
		return r, fmt.Errorf("the record %q holds something else than it should; was it written by a newer version?", e.Key)
	}
	return r, nil
}

// exactClaims makes numbers what they were: a float64 cannot hold every int64, and
// one that was rounded would match another's claim.
func exactClaims(claims map[string]any) error {
	for name, v := range claims {
		v, err := exact(v)
		if err != nil {
			return fmt.Errorf("claim %q: %w", name, err)
		}
		claims[name] = v
	}
	return nil
}

func claimsOf(p *policy.Party) map[string]any {
	if p == nil {
		return nil
	}
	return p.Claims
}

func exact(v any) (any, error) {
	switch v := v.(type) {
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return i, nil
		}
		return v.Float64()
	case []any:
		for i := range v {
			var err error
			if v[i], err = exact(v[i]); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
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
		e := Entry{Key: resourceKey(r.Ref()), Value: value}
		if _, err := decodeResource(e); err != nil {
			return 0, fmt.Errorf("%s would not be read back: %w", r.Ref(), err)
		}
		ops = append(ops, Op{Key: e.Key, Value: value})
	}
	for _, ref := range del {
		ops = append(ops, Op{Key: resourceKey(ref), Delete: true})
	}
	ops = append(ops, Op{Key: resourcesKey})
	revision, done, err := s.kv.Txn(ctx, []Compare{{resourcesKey, base}}, ops)
	if err != nil {
		return 0, err
	}
	if !done {
		return 0, sts.ErrConflict
	}
	return revision, nil
}

// Changed implements sts.Store.
func (s *Store) Changed(ctx context.Context, after int64) error {
	return changed(ctx, s.kv, resourcesKey, after)
}

// changed returns when the entry of a key was put at a revision above after.
func changed(ctx context.Context, kv KV, key string, after int64) error {
	found := errors.New("it was put")
	for {
		list, revision, err := kv.List(ctx, key, "", 1)
		if err != nil {
			return err
		}
		if len(list) == 1 && list[0].Key == key && list[0].Revision > after {
			return nil
		}
		err = kv.Watch(ctx, key, revision, func(c Changes) error {
			for _, e := range c.Events {
				if e.Key == key && !e.Deleted && e.Revision > after {
					return found
				}
			}
			return nil
		})
		switch {
		case errors.Is(err, found):
			return nil
		case !errors.Is(err, ErrCompacted):
			return err
		}
	}
}

// Err implements sts.Store.
func (s *Store) Err() error { return s.kv.Err() }

// KeyStates keeps the state of the signing keys, as the keys package asks for.
type KeyStates struct{ kv KV }

// KeyStates returns the states of signing keys.
func (s *Store) KeyStates() *KeyStates { return &KeyStates{s.kv} }

// Load returns the state of a name and its revision; nil and 0 if there is
// none.
func (k *KeyStates) Load(ctx context.Context, name string) ([]byte, int64, error) {
	e, err := k.kv.Get(ctx, keyStatePrefix+name)
	if errors.Is(err, ErrNotFound) {
		return nil, 0, nil
	}
	return e.Value, e.Revision, err
}

// Swap replaces the state of a name if its revision is still the one given.
// done is false if it is not. After an error the state may be the old or the new
// one.
func (k *KeyStates) Swap(ctx context.Context, name string, revision int64, data []byte) (next int64, done bool, err error) {
	key := keyStatePrefix + name
	return k.kv.Txn(ctx, []Compare{{key, revision}}, []Op{{Key: key, Value: data}})
}

// Changed returns when the revision of the state of a name is above after, or with
// the error of ctx.
func (k *KeyStates) Changed(ctx context.Context, name string, after int64) error {
	return changed(ctx, k.kv, keyStatePrefix+name, after)
}
