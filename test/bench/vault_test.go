package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/workload-sts/sts/internal/vaulttest"
	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/keys"
	"github.com/workload-sts/sts/keys/vault"
	"github.com/workload-sts/sts/storage"
)

const (
	vaultCallers = 64
	never        = 1 << 30 // verify one in so many
)

// BenchmarkFloorVault compares ways to sign with a key in a real Vault on the same
// machine, which shares its cores with them. It prints a table of DESIGN.md.
//
// One call per token is measured twice: as this service does it with batches of
// one, and as a program does that uses Vault's own client library as its
// documentation shows.
func BenchmarkFloorVault(b *testing.B) {
	v := vaulttest.Start(b)
	v.Transit(b, "sts", "ecdsa-p256")
	one := vault.Batching{Size: 1, Calls: vaultCallers}
	batched, checked := newRing(b, v, vault.Batching{}, never), newRing(b, v, vault.Batching{}, 1)
	sampled, single := newRing(b, v, vault.Batching{}, 100), newRing(b, v, one, never)
	raw := rawBatches(v, 64)
	ways := []struct {
		name    string
		callers int
		worth   int // signatures of a call
		call    call
	}{
		{"one call per token, of this service", vaultCallers, 1, signing(single)},
		{"one call per token, with Vault's client library", vaultCallers, 1, plainCalls(b, v)},
		{"batches of 64 of a raw client, one at a time", 1, 64, raw},
		{"batches of 64 of a raw client, two at a time", 2, 64, raw},
		{"batching, signatures not verified", vaultCallers, 1, signing(batched)},
		{"batching, one in 100 verified", vaultCallers, 1, signing(sampled)},
		{"batching, each verified (the default)", vaultCallers, 1, signing(checked)},
	}
	rates := make([][]float64, len(ways))
	for i := range pairs + 1 {
		for w, way := range ways {
			r := float64(way.worth) * measureWith(b, way.callers, way.call, round).perSecond
			if i > 0 { // the first warms up
				rates[w] = append(rates[w], r)
			}
		}
	}
	const batching = 4
	fmt.Printf("\n| signing in Vault, %d callers | batching ÷ this (median of %d rounds) | least, most |\n|---|---|---|\n", vaultCallers, pairs)
	for w, way := range ways {
		if w != batching {
			least, median, most := ratios(rates[batching], rates[w])
			fmt.Printf("| %s | %.2f | %.2f, %.2f |\n", way.name, median, least, most)
		}
	}
	lone(b, v, batched)
}

// lone compares a caller that is alone with a raw call.
func lone(b *testing.B, v *vaulttest.Server, ring *keys.Ring) {
	b.Helper()
	raw, ours := rawBatches(v, 1), signing(ring)
	var a, c []float64
	for range pairs {
		a, c = append(a, p50(b, raw)), append(c, p50(b, ours))
	}
	least, median, most := ratios(c, a)
	fmt.Printf("\n| a lone request | p50 ÷ that of a raw call (median of %d rounds) | least, most |\n|---|---|---|\n| signing in Vault | %.2f | %.2f, %.2f |\n", pairs, median, least, most)
}

// ratios returns the least, the median and the most of a[i]/b[i].
func ratios(a, b []float64) (least, median, most float64) {
	var out []float64
	for i := range a {
		out = append(out, a[i]/b[i])
	}
	slices.Sort(out)
	return out[0], out[len(out)/2], out[len(out)-1]
}

// p50 is the median time of a call of one caller.
func p50(b *testing.B, c call) float64 {
	b.Helper()
	var took []time.Duration
	for begin := time.Now(); time.Since(begin) < round/2; {
		start := time.Now()
		must(b, c(b.Context(), next.Add(1)))
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return float64(took[len(took)/2])
}

// newRing returns the keys of a service that signs with the key in Vault.
func newRing(b *testing.B, v *vaulttest.Server, batching vault.Batching, verifyOneIn int) *keys.Ring {
	b.Helper()
	dir := b.TempDir()
	token := filepath.Join(dir, "token")
	must(b, os.WriteFile(token, []byte(v.RootToken), 0o600))
	client, err := vault.Open(vault.Config{Addresses: []string{v.Addr}, Login: vault.Login{TokenFile: token}})
	must(b, err)
	b.Cleanup(client.Close)
	kv, err := storage.OpenBolt(filepath.Join(dir, "sts.db"), storage.BoltOptions{})
	must(b, err)
	b.Cleanup(func() { kv.Close() })
	ring, err := keys.Open(b.Context(), keys.Config{
		Store: storage.NewStore(kv).KeyStates(), Schedule: keys.DefaultSchedule(), Log: slog.New(slog.DiscardHandler),
		Sets: []keys.SetConfig{{Name: "default", Algorithm: jose.ES256, Provider: keys.Vault(client.Key("transit", "sts"), keys.VaultOptions{Batching: batching, VerifyOneIn: verifyOneIn})}},
	})
	must(b, err)
	b.Cleanup(ring.Close)
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = ring.Run(ctx) })
	b.Cleanup(func() { cancel(); wg.Wait() })
	return ring
}

func signing(r *keys.Ring) call {
	return func(ctx context.Context, _ int64) error {
		_, _, err := r.Sign(ctx, "default", "at+jwt", payload)
		return err
	}
}

// rawBatches posts a batch that was encoded before, and reads the answer without
// looking at it.
func rawBatches(v *vaulttest.Server, size int) call {
	item := map[string]any{"input": bytes.Repeat([]byte{7}, 32)}
	body, err := json.Marshal(map[string]any{
		"batch_input": slices.Repeat([]map[string]any{item}, size), "key_version": 1,
		"prehashed": true, "hash_algorithm": "sha2-256", "marshaling_algorithm": "jws",
	})
	if err != nil {
		panic(err)
	}
	client := newHTTPClient()
	return func(ctx context.Context, _ int64) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, v.Addr+"/v1/transit/sign/sts", bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("X-Vault-Token", v.RootToken)
		return send(client, req)
	}
}

// plainCalls signs with Vault's client library, one call per token.
func plainCalls(b *testing.B, v *vaulttest.Server) call {
	b.Helper()
	config := api.DefaultConfig()
	config.Address = v.Addr
	client, err := api.NewClient(config)
	must(b, err)
	client.SetToken(v.RootToken)
	in := map[string]any{
		"input": bytes.Repeat([]byte{7}, 32), "key_version": 1,
		"prehashed": true, "hash_algorithm": "sha2-256", "marshaling_algorithm": "jws",
	}
	return func(ctx context.Context, _ int64) error {
		s, err := client.Logical().WriteWithContext(ctx, "transit/sign/sts", in)
		if err == nil && s.Data["signature"] == "" {
			err = fmt.Errorf("no signature")
		}
		return err
	}
}
