package storage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/workload-sts/sts/sts"
)

// LoadUses implements sts.UsageStore. What cannot be read is left out: it says
// when something was used, and no decision depends on it.
func (s *Store) LoadUses(ctx context.Context) ([]sts.CredentialUse, error) {
	list, _, err := s.kv.List(ctx, usagePrefix, "", 0)
	if err != nil {
		return nil, fmt.Errorf("reading when credentials were used: %w", err)
	}
	var out []sts.CredentialUse
	for _, e := range list {
		credential, client, ok := strings.Cut(strings.TrimPrefix(e.Key, usagePrefix), "/")
		at, err := strconv.ParseInt(string(e.Value), 10, 64)
		if ok && err == nil {
			out = append(out, sts.CredentialUse{Client: client, Credential: credential, Last: time.Unix(at, 0)})
		}
	}
	return out, nil
}

func usageKey(client, credential string) string { return usagePrefix + credential + "/" + client }

// LastUse implements sts.UsageStore.
func (s *Store) LastUse(ctx context.Context, client, credential string) (time.Time, error) {
	e, err := s.kv.Get(ctx, usageKey(client, credential))
	if errors.Is(err, ErrNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("reading when a credential was used: %w", err)
	}
	at, err := strconv.ParseInt(string(e.Value), 10, 64)
	if err != nil {
		return time.Time{}, nil
	}
	return time.Unix(at, 0), nil
}

// fewUses are so few that each is asked for, and not all that there are.
const fewUses = 32

// lastUses returns what is there of some uses, by their keys.
func (s *Store) lastUses(ctx context.Context, of []sts.CredentialUse) (map[string]time.Time, error) {
	out := make(map[string]time.Time, len(of))
	if len(of) > fewUses {
		all, err := s.LoadUses(ctx)
		for _, u := range all {
			out[usageKey(u.Client, u.Credential)] = u.Last
		}
		return out, err
	}
	for _, u := range of {
		last, err := s.LastUse(ctx, u.Client, u.Credential)
		if err != nil {
			return nil, err
		}
		out[usageKey(u.Client, u.Credential)] = last
	}
	return out, nil
}

// SaveUses implements sts.UsageStore. Of several nodes that write at the same time,
// the last one has the word, until the next use.
func (s *Store) SaveUses(ctx context.Context, put, gone []sts.CredentialUse) error {
	ops := make([]Op, 0, len(put)+len(gone))
	last, err := s.lastUses(ctx, put)
	if err != nil {
		return err
	}
	for _, u := range put {
		if u.Last.After(last[usageKey(u.Client, u.Credential)]) {
			ops = append(ops, Op{Key: usageKey(u.Client, u.Credential), Value: strconv.AppendInt(nil, u.Last.Unix(), 10)})
		}
	}
	for _, u := range gone {
		ops = append(ops, Op{Key: usageKey(u.Client, u.Credential), Delete: true})
	}
	for some := range slices.Chunk(ops, MaxTxn) {
		if _, _, err := s.kv.Txn(ctx, nil, some); err != nil {
			return fmt.Errorf("writing when credentials were used: %w", err)
		}
	}
	return nil
}
