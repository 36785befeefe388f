package storage_test

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workload-sts/sts/internal/kvtest"
	"github.com/workload-sts/sts/storage"
)

func TestBoltContract(t *testing.T) {
	kvtest.Test(t, func(t testing.TB) kvtest.Store {
		dir, err := os.MkdirTemp(t.TempDir(), "kv")
		if err != nil {
			t.Fatal(err)
		}
		var passed atomic.Int64
		now := func() time.Time { return time.Now().Add(time.Duration(passed.Load())) }
		return kvtest.Store{
			Open: func() (storage.KV, error) {
				return storage.OpenBolt(filepath.Join(dir, "sts.db"), storage.BoltOptions{Now: now, SweepEvery: 5 * time.Millisecond})
			},
			Now:     now,
			Pass:    func(d time.Duration) { passed.Add(int64(d)) },
			Compact: forget,
			Late:    10 * time.Second,
		}
	})
}

// forget writes more than a store keeps for its watchers.
func forget(ctx context.Context, kv storage.KV) error {
	value := make([]byte, storage.MaxTxnBytes/2)
	for range 40 {
		if _, _, err := kv.Txn(ctx, nil, []storage.Op{{Key: "forget", Value: value}}); err != nil {
			return err
		}
	}
	return nil
}
