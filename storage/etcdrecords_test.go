package storage_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workload-sts/sts/internal/etcdtest"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/storage"
	"github.com/workload-sts/sts/sts"
)

// recordsOnEtcd has two nodes share what is kept above the key-value contract: large
// changes, history, shadow revisions and their collection, counts, revocations and
// registered clients.
func recordsOnEtcd(t *testing.T, c *etcdtest.Cluster) {
	o := etcdOptions(c)
	o.ExpiryMargin = time.Second
	kvs := []*storage.Etcd{openEtcd(t, o), openEtcd(t, o)}
	a, b := storage.NewStore(kvs[0]), storage.NewStore(kvs[1])
	t.Run("revisions", func(t *testing.T) { revisionsOnEtcd(t, a, b, kvs[1]) })
	t.Run("counts", func(t *testing.T) { countsOnEtcd(t, a, b) })
	t.Run("revocations", func(t *testing.T) {
		here, _ := revocations(t, kvs[0])
		there, _ := revocations(t, kvs[1])
		r := sts.Revocation{Kind: sts.RevokeClient, Value: "stolen", Before: time.Now(), Expires: time.Now().Add(time.Hour), Created: time.Now()}
		if _, err := here.Add(t.Context(), r); err != nil || !here.Revoked(r.Name(), r.Before) {
			t.Fatalf("%v, here %t", err, here.Revoked(r.Name(), r.Before))
		}
		soon(t, "there", func() bool { return there.Revoked(r.Name(), r.Before) })
	})
	t.Run("registrations", func(t *testing.T) { registrationsOnEtcd(t, kvs[0], kvs[1]) })
}

// soon holds that something is known to the other node within a second, as it is
// promised, of an etcd that is well.
func soon(t *testing.T, what string, holds func() bool) {
	t.Helper()
	took := within(t, what, holds)
	t.Logf("%s after %s", what, took)
	if took > time.Second {
		t.Errorf("%s after %s, more than a second", what, took)
	}
}

// registrationsOnEtcd registers, changes and deletes at one node and the other, from
// both at once, and lets one go that nobody uses.
func registrationsOnEtcd(t *testing.T, a, b storage.KV) {
	ctx := t.Context()
	here, there := registrations(t, a), registrations(t, b)
	v := registered("agents~a", "agents")
	if err := here.Create(ctx, v, 2); err != nil || here.all()[v.Name] == nil {
		t.Fatalf("%v, there when Create has returned: %t", err, here.all()[v.Name] != nil)
	}
	soon(t, "registered", func() bool { return there.all()[v.Name] != nil })
	next := *there.all()[v.Name]
	if !next.Expires.Equal(v.Expires) {
		t.Errorf("expires %s, put was %s", next.Expires, v.Expires)
	}
	old := next
	next.Secret = "new"
	if err := there.Replace(ctx, next); err != nil {
		t.Fatal(err)
	}
	if err := here.Replace(ctx, old); !errors.Is(err, sts.ErrConflict) {
		t.Errorf("replaced by who has seen the one before: %v", err)
	}
	soon(t, "changed", func() bool { return here.all()[v.Name].Secret == "new" })
	if err := here.Delete(ctx, *here.all()[v.Name]); err != nil || here.all()[v.Name] != nil {
		t.Fatalf("deleted: %v", err)
	}
	soon(t, "deleted", func() bool { return there.all()[v.Name] == nil })

	const most = 3
	var created, refused atomic.Int64
	var g sync.WaitGroup
	for i := range 8 {
		g.Go(func() {
			switch err := []*registrar{here, there}[i%2].Create(ctx, registered(fmt.Sprintf("agents~%d", i), "agents"), most); {
			case err == nil:
				created.Add(1)
			case errors.Is(err, sts.ErrTooMany):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	g.Wait()
	if created.Load() != most || refused.Load() != 8-most {
		t.Errorf("%d created, %d refused", created.Load(), refused.Load())
	}
	soon(t, "all known to both", func() bool { return len(here.all()) == most && len(there.all()) == most })
	unused := registered("partners~a", "partners")
	unused.Expires = time.Now().Add(2 * time.Second).UTC().Truncate(time.Second)
	if err := here.Create(ctx, unused, 1); err != nil {
		t.Fatal(err)
	}
	soon(t, "the one that nobody uses", func() bool { return there.all()[unused.Name] != nil })
	within(t, "expired", func() bool { return here.all()[unused.Name] == nil && there.all()[unused.Name] == nil })
	if now := time.Now(); now.Before(unused.Expires) {
		t.Errorf("expired at %s, before %s", now, unused.Expires)
	}
	if err := there.Create(ctx, registered("partners~b", "partners"), 1); err != nil {
		t.Errorf("in its place: %v", err)
	}
}

func revisionsOnEtcd(t *testing.T, a, b *storage.Store, kv storage.KV) {
	const many = 10_000 // in one change, as many as the admin interface takes
	ctx := t.Context()
	clients := func(description string, n int) []sts.Resource {
		out := make([]sts.Resource, 0, n)
		for i := range n {
			out = append(out, sts.Resource{Client: &sts.Client{Name: fmt.Sprintf("client-%d", i), Description: description}})
		}
		return out
	}
	change := func(s *storage.Store, base int64, put []sts.Resource) error {
		_, err := s.Commit(ctx, sts.Commit{Line: sts.Live, Expected: base, From: sts.Place{Line: sts.Live, Number: base}, Put: put})
		return err
	}
	// holds tells whether a node that has seen nothing yet finds so many with a
	// description.
	holds := func(p sts.Place, description string, want int) {
		t.Helper()
		got, err := storage.NewStore(kv).Load(ctx, p)
		n := 0
		for _, r := range got.Resources {
			if r.Client.Description == description {
				n++
			}
		}
		if err != nil || len(got.Resources) != many || n != want {
			t.Fatalf("%v: %d resources, %d of them %q: %v", p, len(got.Resources), n, description, err)
		}
	}
	begin := time.Now()
	if err := change(a, 0, clients("first", many)); err != nil {
		t.Fatal(err)
	}
	holds(sts.Place{Line: sts.Live}, "first", many)
	if err := change(b, 1, clients("second", many/2)); err != nil {
		t.Fatal(err)
	}
	if err := change(a, 1, clients("third", 1)); !errors.Is(err, sts.ErrConflict) {
		t.Fatalf("a change that the other node came before: %v", err)
	}
	holds(sts.Place{Line: sts.Live}, "second", many/2)
	holds(sts.Place{Line: sts.Live, Number: 1}, "first", many)
	if _, err := a.Commit(ctx, sts.Commit{Line: sts.Shadow, From: sts.Place{Line: sts.Live, Number: 2}, Put: clients("shadow", many)}); err != nil {
		t.Fatal(err)
	}
	holds(sts.Place{Line: sts.Shadow}, "shadow", many)
	if err := b.Discard(ctx, 1); err != nil {
		t.Fatal(err)
	}
	// Back to revision 1.
	if _, err := b.Commit(ctx, sts.Commit{Line: sts.Live, Expected: 2, From: sts.Place{Line: sts.Live, Number: 1}}); err != nil {
		t.Fatal(err)
	}
	holds(sts.Place{Line: sts.Live}, "first", many)
	t.Logf("three changes of up to %d resources and a shadow revision took %s", many, time.Since(begin))

	pages := func() int {
		list, _, err := kv.List(ctx, "", "", 10_000)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	before := pages()
	collecting, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { a.Collect(collecting, 1, func(err error) { t.Log(err) }) })
	within(t, "collected", func() bool {
		left, err := b.Revisions(ctx, 0, 10)
		return err == nil && len(left) == 1 && pages() < before/2
	})
	stop()
	running.Wait()
	holds(sts.Place{Line: sts.Live}, "first", many)
}

func countsOnEtcd(t *testing.T, a, b *storage.Store) {
	const most = 7
	var had, failed atomic.Int64
	var callers sync.WaitGroup
	for i := range 8 {
		s := []*storage.Store{a, b}[i%2]
		callers.Go(func() {
			for range 3 {
				switch exhausted, err := s.Count(t.Context(), "txn", []policy.Uses{{Rule: "r", Most: most}, {Rule: "s", Most: 100}}, time.Now().Add(time.Hour)); {
				case err != nil:
					failed.Add(1) // others came first; it counts as refused
				case exhausted == "":
					had.Add(1)
				}
			}
		})
	}
	callers.Wait()
	exhausted, err := a.Count(t.Context(), "txn", []policy.Uses{{Rule: "r", Most: most}}, time.Now().Add(time.Hour))
	if had.Load() > most || failed.Load() == 0 && (had.Load() != most || exhausted != "r") || err != nil {
		t.Errorf("%d uses of %d, %d failed; then %q, %v", had.Load(), most, failed.Load(), exhausted, err)
	}
}
