package storage_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/workload-sts/sts/storage"
)

// TestPresence holds that nobody copies a store that is in use.
func TestPresence(t *testing.T) {
	kv := newBolt(t)
	if _, _, err := kv.Txn(t.Context(), nil, []storage.Op{{Key: "a"}}); err != nil {
		t.Fatal(err)
	}
	replica := func() error {
		to, err := storage.OpenBolt(filepath.Join(t.TempDir(), "to.db"), storage.BoltOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer to.Close()
		_, err = storage.Copy(t.Context(), kv, to)
		return err
	}
	one, other := storage.Announce(kv, "one"), storage.Announce(kv, "other")
	until(t, "both are there", func() bool {
		list, _, err := kv.List(t.Context(), "nodes/", "", 0)
		for _, e := range list {
			if left := time.Until(e.Expires); left < 30*time.Second || left > time.Minute+time.Second {
				t.Errorf("it is there for %v", left)
			}
		}
		return err == nil && len(list) == 2
	})
	if err := replica(); err == nil || !strings.Contains(err.Error(), "one, other") && !strings.Contains(err.Error(), "other, one") {
		t.Errorf("copied while two use it: %v", err)
	}
	one.Close()
	if err := replica(); err == nil || !strings.Contains(err.Error(), ": other; stop them") {
		t.Errorf("copied while one uses it: %v", err)
	}
	other.Close()
	if err := replica(); err != nil {
		t.Errorf("copied when nobody uses it: %v", err)
	}
}
