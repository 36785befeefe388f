package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workload-sts/sts/internal/etcdtest"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/storage"
	"github.com/workload-sts/sts/sts"
)

const (
	bigClients     = 100_000
	bigRules       = 10_000
	bigRevocations = 1_000_000
	bigChange      = 5000 // resources of a change while it is filled
)

// BenchmarkBigStore compares a service that has 100,000 clients, 10,000 rules and
// 1,000,000 live revocations with one that has next to nothing. It prints a table of
// DESIGN.md.
func BenchmarkBigStore(b *testing.B) {
	empty, full := newService(b), newService(b)
	before := heap()
	for change := range bigChanges(bigClients, bigRules) {
		_, err := full.sts.Apply(b.Context(), sts.Change{Put: change})
		must(b, err)
	}
	resources := heap() - before
	full.revokeMany(b, bigRevocations, time.Now().Add(24*time.Hour))
	all := heap() - before

	row := func(what, is, target string) { fmt.Printf("| %s | %s | %s |\n", what, is, target) }
	fmt.Printf("\n| %d clients, %d rules, %d revocations | | target |\n|---|---|---|\n", bigClients, bigRules, bigRevocations)
	row("memory of clients and rules", fmt.Sprintf("%.0f MiB", resources), "512 MiB")
	row("memory of all", fmt.Sprintf("%.0f MiB", all), "")
	for _, path := range []struct {
		name        string
		empty, full call
	}{
		{"client credentials, gRPC", empty.credentialsGRPC, full.credentialsGRPC},
		{"client credentials, HTTP", empty.credentialsHTTP, full.credentialsHTTP},
		{"exchange of a seen token, gRPC", empty.seen(b), full.seen(b)},
	} {
		var a, c []float64
		for i := range pairs + 1 {
			least, got := measure(b, path.empty, round), measure(b, path.full, round)
			if i > 0 { // the first warms up
				a, c = append(a, least.perSecond), append(c, got.perSecond)
			}
		}
		least, median, most := ratios(c, a)
		row(path.name+", ÷ that of an empty store", fmt.Sprintf("%.2f (%.2f to %.2f)", median, least, most), "0.9")
	}
	row("applying one client", seconds(func() { full.apply(b, sts.Resource{Client: &sts.Client{Name: "client-7", Description: "again"}}) }), "")
	rule := bigRule(7)
	rule.Rule.When = `subject.claims.x == "1"`
	row("applying one rule", seconds(func() { full.apply(b, rule) }), "")
	file := full.copied(b)
	row("start, the file checked and read", seconds(func() {
		kv, err := storage.OpenBolt(file, storage.BoltOptions{})
		must(b, err)
		b.Cleanup(func() { kv.Close() })
		full.start(kv)
	}), "5 s")
	row("a revocation is known to a second node of an etcd, p50, p99", known(b), "1 s")
}

func seconds(f func()) string {
	began := time.Now()
	f()
	return fmt.Sprintf("%.1f s", time.Since(began).Seconds())
}

// heap is what lives, in MiB.
func heap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / (1 << 20)
}

func (s *service) apply(b testing.TB, r sts.Resource) {
	_, err := s.sts.Apply(b.Context(), sts.Change{Put: []sts.Resource{r}})
	must(b, err)
}

// seen exchanges one token again and again.
func (s *service) seen(b testing.TB) call {
	token := s.freshTokens(b, 1)[0]
	return s.exchangeGRPC(func(int64) string { return token })
}

// revokeMany puts revocations into the store as they are kept there, many at a time,
// and waits until the service knows them.
func (s *service) revokeMany(b testing.TB, n int, until time.Time) {
	b.Helper()
	const each = 50
	var at atomic.Int64
	var wg sync.WaitGroup
	before := s.revoked.Count()
	for range 64 {
		wg.Go(func() {
			for i := at.Add(each) - each; i < int64(n); i = at.Add(each) - each {
				ops := make([]storage.Op, each)
				for k := range ops {
					v := sts.Revocation{Kind: sts.RevokeToken, Issuer: "self", Value: fmt.Sprintf("jti %022d", int64(before)+i+int64(k))}
					ops[k] = storage.Op{
						Key: "revoked/token/" + v.Name().String(), Expires: until,
						Value: fmt.Appendf(nil, `- {"kind":"token","issuer":"self","value":%q,"expires":%q,"created":%q,"by":"client web"}`,
							v.Value, until.UTC().Format(time.RFC3339), time.Now().UTC().Format(time.RFC3339)),
					}
				}
				if _, _, err := s.kv.Txn(b.Context(), nil, ops); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	for deadline := time.Now().Add(time.Minute); s.revoked.Count() < before+n; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatalf("%d revocations are known", s.revoked.Count())
		}
	}
}

// copied is a file with what the store has.
func (s *service) copied(b testing.TB) string {
	b.Helper()
	file := filepath.Join(b.TempDir(), "sts.db")
	snapshot, err := s.kv.Snapshot(b.Context())
	must(b, err)
	defer snapshot.Close()
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o600)
	must(b, err)
	_, err = snapshot.WriteTo(f)
	must(b, err)
	must(b, f.Close())
	return file
}

// known measures how long after a revocation was acknowledged another node has it.
func known(b *testing.B) string {
	b.Helper()
	c := etcdtest.Start(b, 1)
	node := func() *storage.Revocations {
		kv, err := storage.OpenEtcd(b.Context(), storage.EtcdOptions{Endpoints: c.Endpoints(), Prefix: "/bench/", CAFile: c.CA.File, CertFile: c.CertFile, KeyFile: c.KeyFile})
		must(b, err)
		b.Cleanup(func() { kv.Close() })
		r, err := storage.NewStore(kv).Revocations(b.Context())
		must(b, err)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		b.Cleanup(func() { cancel(); <-ended })
		return r
	}
	one, other := node(), node()
	var took []time.Duration
	for i := range 300 {
		v := sts.Revocation{Kind: sts.RevokeToken, Issuer: "self", Value: fmt.Sprint("jti ", i), Created: time.Now(), Expires: time.Now().Add(time.Hour), By: "bench"}
		_, err := one.Add(b.Context(), v)
		must(b, err)
		begin := time.Now()
		for !other.Revoked(v.Name(), time.Now()) {
			if time.Since(begin) > 10*time.Second {
				b.Fatal("it is not known to the other node")
			}
			time.Sleep(50 * time.Microsecond)
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	return fmt.Sprintf("%s, %s", took[len(took)/2].Round(100*time.Microsecond), took[len(took)*99/100].Round(100*time.Microsecond))
}

// bigChanges are the resources, in changes that are small enough.
func bigChanges(clients, rules int) func(yield func([]sts.Resource) bool) {
	return func(yield func([]sts.Resource) bool) {
		change := []sts.Resource{
			{Audience: &sts.Audience{Name: "big", Scopes: []string{"big.read"}}},
			{Issuer: &sts.Issuer{Name: "idp", Issuer: "https://idp.example.com"}},
		}
		for i := range clients + rules {
			if i < clients {
				change = append(change, sts.Resource{Client: &sts.Client{Name: fmt.Sprint("client-", i), Labels: map[string]string{"team": fmt.Sprint(i % 100)}}})
			} else {
				change = append(change, bigRule(i-clients))
			}
			if len(change) >= bigChange || i == clients+rules-1 {
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
		Allow:   policy.Allow{Audiences: []string{"big"}, Scopes: []string{"big.read"}},
	}
	if i%10 == 0 {
		r.When = fmt.Sprintf(`subject.claims.team == "team-%d"`, i)
	}
	return sts.Resource{Rule: r}
}
