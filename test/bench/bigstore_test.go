package bench

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/keys"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/storage"
	"github.com/workload-sts/sts/sts"
)

const (
	bigClients = 100_000
	bigRules   = 10_000
	bigChange  = 5000 // resources of a change while it is filled
)

// BenchmarkBigStore fills a store with 100,000 clients and 10,000 rules, and measures
// what it takes then to apply one client and one rule, to start, and in memory.
func BenchmarkBigStore(b *testing.B) {
	ctx, dir := b.Context(), b.TempDir()
	kv, err := storage.OpenBolt(filepath.Join(dir, "sts.db"), storage.BoltOptions{})
	must(b, err)
	b.Cleanup(func() { kv.Close() })
	store := storage.NewStore(kv)
	ring, err := keys.Open(ctx, keys.Config{
		Store: store.KeyStates(), Schedule: keys.DefaultSchedule(), Log: slog.New(slog.DiscardHandler),
		Sets: []keys.SetConfig{{Name: sts.DefaultKeySet, Algorithm: jose.ES256, Provider: keys.Local(filepath.Join(dir, "key"), true)}},
	})
	must(b, err)
	b.Cleanup(ring.Close)
	audit, _, err := storage.OpenAudit(storage.AuditOptions{File: filepath.Join(dir, "audit.jsonl")})
	must(b, err)
	b.Cleanup(func() { audit.Close() })
	replay, err := storage.OpenReplay(filepath.Join(dir, "replay"), storage.ReplayOptions{New: true})
	must(b, err)
	b.Cleanup(func() { replay.Close() })
	revoked, err := store.Revocations(ctx)
	must(b, err)
	start := func() *sts.Service {
		s, err := sts.New(ctx, sts.Config{Issuer: "https://sts.example.com", Store: store, Keys: signingKeys{ring}, IssuerKeys: noIssuers{}, ClientKeys: noClientKeys{}, Replay: replay, Audit: audit, Revocations: revoked})
		must(b, err)
		return s
	}
	svc := start()
	for change := range bigChanges() {
		_, err := svc.Apply(ctx, sts.Change{Put: change})
		must(b, err)
	}
	seconds := func(f func()) float64 {
		began := time.Now()
		f()
		return time.Since(began).Seconds()
	}
	for b.Loop() {
		b.ReportMetric(seconds(func() { svc = start() }), "s/start")
		b.ReportMetric(seconds(func() {
			_, err := svc.Apply(ctx, sts.Change{Put: []sts.Resource{{Client: &sts.Client{Name: "client-7", Description: b.Name()}}}})
			must(b, err)
		}), "s/client")
		b.ReportMetric(seconds(func() {
			rule := bigRule(7)
			rule.Rule.When = `subject.claims.x == "1"`
			_, err := svc.Apply(ctx, sts.Change{Put: []sts.Resource{rule}})
			must(b, err)
		}), "s/rule")
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "MiB")
	}
	b.ReportMetric(0, "ns/op") // leave out
	runtime.KeepAlive(svc)
}

// bigChanges are the resources, in changes that are small enough.
func bigChanges() func(yield func([]sts.Resource) bool) {
	return func(yield func([]sts.Resource) bool) {
		change := []sts.Resource{
			{Audience: &sts.Audience{Name: "demo", Scopes: []string{"demo.read"}}},
			{Issuer: &sts.Issuer{Name: "idp", Issuer: "https://idp.example.com"}},
		}
		for i := range bigClients + bigRules {
			if i < bigClients {
				change = append(change, sts.Resource{Client: &sts.Client{Name: fmt.Sprint("client-", i), Labels: map[string]string{"team": fmt.Sprint(i % 100)}}})
			} else {
				change = append(change, bigRule(i-bigClients))
			}
			if len(change) >= bigChange || i == bigClients+bigRules-1 {
				if !yield(change) {
					return
				}
				change = nil
			}
		}
	}
}

// bigRule is a rule of its own client; one in ten has an expression.
func bigRule(i int) sts.Resource {
	r := &policy.Rule{
		Name: fmt.Sprint("rule-", i), Requester: policy.Requester{Clients: []string{fmt.Sprint("client-", i)}},
		Subject: &policy.Party{Issuer: "idp", Claims: map[string]any{"id": fmt.Sprint(i)}},
		Allow:   policy.Allow{Audiences: []string{"demo"}, Scopes: []string{"demo.read"}},
	}
	if i%10 == 0 {
		r.When = fmt.Sprintf(`subject.claims.team == "team-%d"`, i)
	}
	return sts.Resource{Rule: r}
}
