package storage

import (
	"context"
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

// SaveUses implements sts.UsageStore.
func (s *Store) SaveUses(ctx context.Context, put, gone []sts.CredentialUse) error {
	key := func(u sts.CredentialUse) string { return usagePrefix + u.Credential + "/" + u.Client }
	ops := make([]Op, 0, len(put)+len(gone))
	for _, u := range put {
		ops = append(ops, Op{Key: key(u), Value: strconv.AppendInt(nil, u.Last.Unix(), 10)})
	}
	for _, u := range gone {
		ops = append(ops, Op{Key: key(u), Delete: true})
	}
	for some := range slices.Chunk(ops, MaxTxn) {
		if _, _, err := s.kv.Txn(ctx, nil, some); err != nil {
			return fmt.Errorf("writing when credentials were used: %w", err)
		}
	}
	return nil
}
