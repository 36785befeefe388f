package storage_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/workload-sts/sts/storage"
	"github.com/workload-sts/sts/sts"
)

// registrar is one node's view of the registered clients.
type registrar struct {
	*storage.Registrations
	mu    sync.Mutex
	known map[string]*sts.Registration
	stop  func()
}

func registrations(t interface {
	Fatal(...any)
	Cleanup(func())
}, kv storage.KV) *registrar {
	all, err := storage.NewStore(kv).Registrations(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	r := &registrar{Registrations: all}
	r.Follow(func(known map[string]*sts.Registration) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.known = known
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = all.Run(ctx) })
	r.stop = func() { cancel(); running.Wait() }
	t.Cleanup(r.stop)
	return r
}

func (r *registrar) all() map[string]*sts.Registration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known
}

func registered(name, template string) sts.Registration {
	return sts.Registration{
		Name: name, Template: template, Created: second.UTC(), By: "web", Expires: time.Now().Add(time.Hour).UTC().Truncate(time.Second),
		Metadata:  sts.ClientMetadata{AuthMethod: sts.SecretBasic, GrantTypes: []sts.GrantType{sts.ClientCredentials}, Name: "a"},
		Statement: &sts.SoftwareStatement{Issuer: "idp", Claims: map[string]any{"n": int64(1<<62 + 1), "f": 1.5, "b": true, "s": "x"}},
	}
}

// TestRegistrations holds what one node promises, and another on the same store.
func TestRegistrations(t *testing.T) {
	ctx := t.Context()
	kv, _ := openBolt(t, storage.BoltOptions{})
	here, there := registrations(t, kv), registrations(t, kv)
	v := registered("agents~a", "agents")
	if err := here.Create(ctx, v, 1); err != nil {
		t.Fatal(err)
	}
	got := here.all()[v.Name]
	if got == nil {
		t.Fatal("not there when Create has returned")
	}
	took := within(t, "the other node", func() bool { return there.all()[v.Name] != nil })
	t.Logf("visible on the other node after %s", took)
	other := there.all()[v.Name]
	if other.Revision != got.Revision || !other.Expires.Equal(v.Expires) || !maps.Equal(other.Statement.Claims, v.Statement.Claims) || other.Metadata.Name != "a" {
		t.Errorf("there is %+v, put was %+v", other, v)
	}
	if err := there.Create(ctx, registered("agents~b", "agents"), 1); !errors.Is(err, sts.ErrTooMany) {
		t.Errorf("a second one: %v", err)
	}
	if err := there.Create(ctx, registered("partners~b", "partners"), 1); err != nil {
		t.Errorf("of another template: %v", err)
	}
	next := *other
	next.Secret = "new"
	if err := there.Replace(ctx, next); err != nil || there.all()[v.Name].Secret != "new" {
		t.Errorf("replaced: %v, %+v", err, there.all()[v.Name])
	}
	if err := here.Replace(ctx, *got); !errors.Is(err, sts.ErrConflict) {
		t.Errorf("replaced by who has seen the one before: %v", err)
	}
	if err := here.Delete(ctx, *got); !errors.Is(err, sts.ErrConflict) {
		t.Errorf("deleted by who has seen the one before: %v", err)
	}
	within(t, "the change", func() bool { return here.all()[v.Name].Secret == "new" })
	if err := here.Delete(ctx, *here.all()[v.Name]); err != nil || here.all()[v.Name] != nil {
		t.Errorf("deleted: %v", err)
	}
	within(t, "the deletion", func() bool { return there.all()[v.Name] == nil })
	if err := there.Create(ctx, registered("agents~c", "agents"), 1); err != nil {
		t.Errorf("after another is deleted: %v", err)
	}
	within(t, "up to date", func() bool { return time.Since(here.Confirmed()) < 2*time.Second })
	anew := registrations(t, kv)
	if n := len(anew.all()); n != 2 {
		t.Errorf("%d after a start", n)
	}
}

// TestRegistrationsBounded registers from several nodes at once: never more than
// there may be.
func TestRegistrationsBounded(t *testing.T) {
	kv, _ := openBolt(t, storage.BoltOptions{})
	nodes := []*registrar{registrations(t, kv), registrations(t, kv), registrations(t, kv)}
	const most = 7
	var mu sync.Mutex
	created, refused := 0, 0
	var g sync.WaitGroup
	for i := range 18 {
		g.Go(func() {
			err := nodes[i%len(nodes)].Create(t.Context(), registered(fmt.Sprintf("agents~%d", i), "agents"), most)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				created++
			case errors.Is(err, sts.ErrTooMany):
				refused++
			default:
				t.Error(err)
			}
		})
	}
	g.Wait()
	if created != most || refused != 18-most {
		t.Errorf("%d created, %d refused", created, refused)
	}
	for _, n := range nodes {
		within(t, "all nodes know all", func() bool { return len(n.all()) == most })
	}
}

// TestRegistrationsExpire forgets a registration after its time.
func TestRegistrationsExpire(t *testing.T) {
	var mu sync.Mutex
	now := second
	kv, _ := openBolt(t, storage.BoltOptions{SweepEvery: 5 * time.Millisecond, Now: func() time.Time { mu.Lock(); defer mu.Unlock(); return now }})
	r := registrations(t, kv)
	v := registered("agents~a", "agents")
	v.Expires = second.Add(30 * time.Minute).UTC()
	if err := r.Create(t.Context(), v, 1); err != nil {
		t.Fatal(err)
	}
	for range 40 {
		mu.Lock()
		now = now.Add(time.Minute)
		mu.Unlock()
		time.Sleep(2 * time.Millisecond)
	}
	within(t, "expired", func() bool { return len(r.all()) == 0 })
	if err := r.Create(t.Context(), registered("agents~b", "agents"), 1); err != nil {
		t.Error(err)
	}
}

// TestRegistrationsModel has two nodes do anything in any order. Each always knows
// what it has done itself, and in the end both know what the store has.
func TestRegistrationsModel(t *testing.T) {
	outer := t
	rapid.Check(t, func(t *rapid.T) {
		kv, _ := openBolt(outer, storage.BoltOptions{})
		defer kv.Close()
		nodes := []*registrar{registrations(outer, kv), registrations(outer, kv)}
		defer func() {
			for _, n := range nodes {
				n.stop()
			}
		}()
		for i := range rapid.IntRange(1, 20).Draw(t, "steps") {
			n := nodes[rapid.IntRange(0, 1).Draw(t, "node")]
			name := fmt.Sprintf("agents~%d", rapid.IntRange(0, 3).Draw(t, "name"))
			old := n.all()[name]
			switch {
			case old == nil:
				if err := n.Create(outer.Context(), registered(name, "agents"), 3); err == nil && n.all()[name] == nil {
					t.Fatal("created, and not there")
				}
			case rapid.Bool().Draw(t, "delete"):
				if err := n.Delete(outer.Context(), *old); err == nil && n.all()[name] != nil {
					t.Fatal("deleted, and there")
				}
			default:
				next := *old
				next.Secret = fmt.Sprint(i)
				if err := n.Replace(outer.Context(), next); err == nil && n.all()[name].Secret != next.Secret {
					t.Fatal("replaced, and another is there")
				}
			}
			if len(n.all()) > 3 {
				t.Fatalf("%d clients", len(n.all()))
			}
		}
		anew := registrations(outer, kv)
		defer anew.stop()
		for _, n := range nodes {
			within(outer, "both know the same", func() bool {
				return maps.EqualFunc(n.all(), anew.all(), func(a, b *sts.Registration) bool { return a.Revision == b.Revision && a.Secret == b.Secret })
			})
		}
	})
}
