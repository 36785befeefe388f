package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/workload-sts/sts/internal/vaulttest"
	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/storage"
	"github.com/workload-sts/sts/sts"
)

// TestTwoNodes runs two servers on one store and one real Vault, through rotations
// by schedule, one by hand on either node and an emergency: both sign with the
// same key at any time, and each publishes what the other signs with.
//
// The embedded store belongs to one process, so the two share one here.
func TestTwoNodes(t *testing.T) {
	v := vaulttest.Start(t)
	v.Transit(t, "sts", "ecdsa-p256")
	kv, err := storage.OpenBolt(filepath.Join(t.TempDir(), "sts.db"), storage.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer kv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	nodes := make([]*node, 2)
	for i := range nodes {
		nodes[i] = newNode(t, kv, v)
		defer nodes[i].close()
		serving.Go(func() {
			if err := nodes[i].serve(ctx, listeners{http: loopback(t), grpc: loopback(t)}); err != nil {
				t.Error(err)
			}
		})
	}
	defer serving.Wait()
	defer cancel()
	a, b := nodes[0], nodes[1]
	ask := sharedClient(t, a, b)
	kids := map[string]bool{}
	for deadline := time.Now().Add(30 * time.Second); len(kids) < 6; time.Sleep(20 * time.Millisecond) {
		first, second, third := ask(a), ask(b), ask(a)
		if first == third && second != first {
			t.Fatalf("the nodes sign with %s and %s", first, second)
		}
		for _, kid := range []string{first, second, third} {
			if n := len(kids); !kids[kid] {
				kids[kid] = true
				// The first two changes are by hand, one on each node.
				operate(t, nodes[n%2], n, kid)
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("only %d keys in 30 s", len(kids))
		}
	}
}

// operate does what an operator does after so many keys.
func operate(t *testing.T, n *node, keys int, kid string) {
	t.Helper()
	var err error
	switch keys {
	case 0, 1:
		_, err = n.service.RotateKey(t.Context(), sts.Principal{}, sts.DefaultKeySet)
	case 3:
		_, err = n.service.RevokeKey(t.Context(), sts.Principal{}, kid)
	}
	if err != nil {
		t.Error(err)
	}
}

// newNode wires a server on a store, with an audit log of its own.
func newNode(t *testing.T, kv storage.KV, v *vaulttest.Server) *node {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte(v.RootToken), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := configure(t, dir, `keys:
  sets: [{name: default, vault: {key: sts}}]
  vault: {addresses: ["`+v.Addr+`"], login: {token_file: token}}
rotation: {period: 3s, publish_ahead: 2s, retain: 11s, jwks_max_age: 1s, clock_skew: 0.5s}
`)
	if err != nil {
		t.Fatal(err)
	}
	c, err := loadConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	replay := storage.NewReplayKV(kv, storage.ReplayKVOptions{})
	n := &node{log: slog.New(slog.NewJSONHandler(io.Discard, nil)), replay: replay, closers: []func() error{replay.Close}}
	if err := n.wire(t.Context(), c, storage.NewStore(kv), false); err != nil {
		n.close()
		t.Fatal(err)
	}
	return n
}

func loopback(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// sharedClient makes a client on one node and returns what asks any node for a
// token, looks for its key in what both publish, and returns its id.
func sharedClient(t *testing.T, nodes ...*node) func(*node) string {
	t.Helper()
	change, request := client()
	change.Put[1].Audience.MaxTTL = 10 * time.Second
	if _, err := nodes[0].service.Apply(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	return func(n *node) string {
		t.Helper()
		var token sts.Token
		await(t, "a token", func() (ok bool) { // the other node hears of the client, or of a key, in a moment
			var err error
			token, err = n.service.Token(t.Context(), request("api"))
			return err == nil
		})
		jws, err := jose.Parse(token.Value)
		if err != nil {
			t.Fatal(err)
		}
		for _, other := range nodes {
			await(t, "the key at the other node", func() bool {
				set, _ := other.service.KeySet()
				key, ok := set.Key(jws.Header.KeyID)
				return ok && jws.Verify(key) == nil || revoked(other, jws.Header.KeyID)
			})
		}
		return jws.Header.KeyID
	}
}

func revoked(n *node, kid string) bool {
	for _, s := range n.service.Keys() {
		for _, k := range s.Keys {
			if k.KID == kid {
				return k.Role == "revoked"
			}
		}
	}
	return false
}
