package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// Keys of the records. Each kind of record has a space of its own, so that a name
// of one can never be taken for a name of another.
const (
	keyStatePrefix = "keys/"  // + name: a state of signing keys, opaque
	countPrefix    = "count/" // + txn + "/" + rule: how often it was used in the transaction
	usagePrefix    = "usage/" // + credential + "/" + client: when it was used, in Unix seconds
)

// decodeResource reads strictly.
func decodeResource(data []byte) (sts.Resource, error) {
	var r sts.Resource
	err := strictly(data, &r)
	if err == nil && r.Rule != nil {
		err = errors.Join(exactClaims(claimsOf(r.Rule.Subject)), exactClaims(claimsOf(r.Rule.Actor)))
		for i := range r.Rule.Allow.ScopesFromClaims {
			value := map[string]any{"value": r.Rule.Allow.ScopesFromClaims[i].Value}
			err = errors.Join(err, exactClaims(value))
			r.Rule.Allow.ScopesFromClaims[i].Value = value["value"]
		}
	}
	if err == nil && r.Client != nil && r.Client.Federated != nil {
		err = exactClaims(r.Client.Federated.Claims)
	}
	if err == nil && r.ClientTemplate != nil && r.ClientTemplate.Statement != nil {
		err = exactClaims(r.ClientTemplate.Statement.Claims)
	}
	if err != nil {
		return r, err
	}
	kinds := 0
	for _, set := range []bool{r.Audience != nil, r.Client != nil, r.ClientTemplate != nil, r.Issuer != nil, r.Rule != nil} {
		if set {
			kinds++
		}
	}
	if kinds != 1 || r.Ref().Name == "" {
		return r, errors.New("it is not one resource")
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
