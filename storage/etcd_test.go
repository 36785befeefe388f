package storage_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workload-sts/sts/internal/etcdtest"
	"github.com/workload-sts/sts/internal/kvtest"
	"github.com/workload-sts/sts/storage"
)

// etcdOptions reach a cluster by its proxies, at a prefix of their own.
func etcdOptions(c *etcdtest.Cluster) storage.EtcdOptions {
	return storage.EtcdOptions{
		Endpoints: c.Endpoints(), Prefix: fmt.Sprintf("/test/%d/", prefixes.Add(1)),
		CAFile: c.CA.File, CertFile: c.CertFile, KeyFile: c.KeyFile,
	}
}

var prefixes atomic.Int64

func openEtcd(t testing.TB, o storage.EtcdOptions) *storage.Etcd {
	t.Helper()
	kv, err := storage.OpenEtcd(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kv.Close(); err != nil {
			t.Error(err)
		}
	})
	return kv
}

func TestEtcd(t *testing.T) {
	t.Parallel() // it waits most of the time
	c := etcdtest.Start(t, 1)
	t.Run("contract", func(t *testing.T) {
		kvtest.Test(t, func(t testing.TB) kvtest.Store {
			o := etcdOptions(c)
			o.ExpiryMargin = time.Second
			return kvtest.Store{
				Open:    func() (storage.KV, error) { return storage.OpenEtcd(context.Background(), o) },
				Compact: func(context.Context, storage.KV) error { c.Compact(t); return nil },
				Late:    20 * time.Second,
			}
		})
	})
	t.Run("move", func(t *testing.T) { moveThroughEtcd(t, c) })
	t.Run("records", func(t *testing.T) { recordsOnEtcd(t, c) })
}
