package keys

import (
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workload-sts/sts/jose"
)

// backend is a provider under test. The contract suite runs on each.
type backend struct {
	// provider returns the provider of one and the same place for keys of an
	// algorithm, anew each time, as after a restart.
	provider func(t testing.TB, alg jose.Algorithm) Provider
	// rotate makes a new key behind our back; nil if nobody can.
	rotate func(t testing.TB, alg jose.Algorithm)
}

func localBackend(t testing.TB) backend {
	file := filepath.Join(t.TempDir(), "key")
	return backend{provider: func(testing.TB, jose.Algorithm) Provider { return Local(file, true) }}
}

// fakeClock is a time that a test moves.
type fakeClock struct{ offset atomic.Int64 }

var epoch = time.Unix(1_800_000_000, 0)

func (c *fakeClock) now() time.Time          { return epoch.Add(time.Duration(c.offset.Load())) }
func (c *fakeClock) advance(d time.Duration) { c.offset.Add(int64(d)) }

// fixture is a Ring with one set on a store and a clock.
type fixture struct {
	Config
	clock *fakeClock
	store *memStore
}

func newFixture(t testing.TB, alg jose.Algorithm, p Provider) fixture {
	t.Helper()
	f := fixture{clock: &fakeClock{}, store: newMemStore()}
	f.Config = Config{
		Store: f.store, Schedule: DefaultSchedule(), Log: slog.New(slog.DiscardHandler), Now: f.clock.now,
		Sets: []SetConfig{{Name: "default", Algorithm: alg, Provider: p}},
	}
	return f
}

func (f fixture) open(t testing.TB) *Ring {
	t.Helper()
	r, err := Open(t.Context(), f.Config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// tend does one round of what Run does.
func (r *Ring) tend(t testing.TB) {
	t.Helper()
	if err := r.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, s := range r.sets {
		r.step(t.Context(), s)
	}
}

// rolesOf returns the roles of the keys of a set by kid.
func rolesOf(r *Ring, set string) map[string]Role {
	out := map[string]Role{}
	for _, s := range r.Status() {
		if s.Name == set {
			for _, k := range s.Keys {
				out[k.KID] = Role(k.Role)
			}
		}
	}
	return out
}

// signs makes a token, checks it with what is published, and returns the kid.
func signs(t testing.TB, r *Ring, set string) string {
	t.Helper()
	token, kid, err := r.Sign(t.Context(), set, "at+jwt", []byte(`{"sub":"x"}`))
	if err != nil {
		t.Fatal(err)
	}
	jws, err := jose.Parse(token)
	if err != nil {
		t.Fatal(err)
	}
	key, ok := r.KeySet().Key(jws.Header.KeyID)
	if !ok || jws.Header.KeyID != kid {
		t.Fatalf("the token names key %s, signed by %s; published: %t", jws.Header.KeyID, kid, ok)
	}
	if err := jws.Verify(key); err != nil {
		t.Fatal(err)
	}
	return kid
}
