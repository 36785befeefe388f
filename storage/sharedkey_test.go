package storage

import (
	"bytes"
	"path/filepath"
	"testing"
)

// TestSharedKey: whoever opens the store gets the key that was made first.
func TestSharedKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sts.db")
	get := func(name string) []byte {
		kv, err := OpenBolt(file, BoltOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer kv.Close()
		key, err := NewStore(kv).SharedKey(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	first := get("a")
	if len(first) != 32 || !bytes.Equal(first, get("a")) || bytes.Equal(first, get("b")) {
		t.Errorf("%d bytes, or another key the second time, or the same under another name", len(first))
	}
}
