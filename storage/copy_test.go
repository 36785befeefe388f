package storage_test

import (
	"fmt"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/workload-sts/sts/internal/etcdtest"
	"github.com/workload-sts/sts/storage"
	"github.com/workload-sts/sts/sts"
)

// moveThroughEtcd moves a store from a file to etcd and back to another file: it
// has its resources, its entries and their moments of expiry.
func moveThroughEtcd(t *testing.T, c *etcdtest.Cluster) {
	ctx := t.Context()
	open := func(path string) storage.KV {
		kv, err := storage.OpenBolt(path, storage.BoltOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { kv.Close() })
		return kv
	}
	dir := t.TempDir()
	first := open(filepath.Join(dir, "first.db"))
	var put []sts.Resource
	for i := range 30 {
		put = append(put, sts.Resource{Audience: &sts.Audience{Name: fmt.Sprint("a", i), Scopes: []string{"read"}}})
	}
	if _, err := storage.NewStore(first).Commit(ctx, sts.Commit{Line: sts.Live, Put: put}); err != nil {
		t.Fatal(err)
	}
	expires := time.Now().Add(time.Hour).Truncate(time.Second)
	for i := range 250 {
		op := storage.Op{Key: fmt.Sprintf("revoked/%d", i), Value: make([]byte, i*50), Expires: expires.Add(time.Duration(i) * time.Minute)}
		if _, _, err := first.Txn(ctx, nil, []storage.Op{op}); err != nil {
			t.Fatal(err)
		}
	}
	middle := openEtcd(t, etcdOptions(c))
	last := open(filepath.Join(dir, "last.db"))
	now := time.Now()
	n, err := storage.Move(ctx, first, middle, now)
	if err != nil || n < 250 {
		t.Fatalf("to etcd: %d entries, %v", n, err)
	}
	back, err := storage.Move(ctx, middle, last, now)
	if err != nil || back != n+1 { // with the note of the first move
		t.Fatalf("and back: %d entries, %v", back, err)
	}
	for i := range 250 {
		e, err := last.Get(ctx, fmt.Sprintf("revoked/%d", i))
		if err != nil || len(e.Value) != i*50 || !e.Expires.Equal(expires.Add(time.Duration(i)*time.Minute)) {
			t.Errorf("%s with %d bytes until %v, %v", e.Key, len(e.Value), e.Expires, err)
		}
	}
	want, err := storage.NewStore(first).Load(ctx, sts.Place{Line: sts.Live})
	got, err2 := storage.NewStore(last).Load(ctx, sts.Place{Line: sts.Live})
	if err != nil || err2 != nil || len(want.Resources) != 30 || !reflect.DeepEqual(got, want) {
		t.Errorf("resources %+v, not %+v; %v, %v", got, want, err, err2)
	}
}
