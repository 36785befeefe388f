package keys

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/workload-sts/sts/jose"
)

var allAlgorithms = []jose.Algorithm{jose.ES256, jose.ES384, jose.EdDSA, jose.RS256, jose.PS256}

// testContract holds a provider to what every provider must do.
func testContract(t *testing.T, b backend) {
	for _, alg := range allAlgorithms {
		t.Run(string(alg), func(t *testing.T) { testAlgorithm(t, b, alg) })
	}
	for name, test := range map[string]func(*testing.T, backend){
		"many begin":              testManyBegin,
		"rotation by hand":        testRotateByHand,
		"rotation by schedule":    testRotateBySchedule,
		"rotation behind us":      testRotateBehind,
		"two nodes, one key":      testTwoNodes,
		"emergency":               testEmergency,
		"emergency, announced":    testEmergencyAnnounced,
		"revoked before its turn": testRevokeNext,
		"restart after long":      testRestart,
	} {
		t.Run(name, func(t *testing.T) { test(t, b) })
	}
}

// testAlgorithm makes a key of an algorithm, signs, and verifies with what is
// published [promise 5]; opened again, it is the same key.
func testAlgorithm(t *testing.T, b backend, alg jose.Algorithm) {
	f := newFixture(t, alg, b.provider(t, alg))
	r := f.open(t)
	kid := signs(t, r, "default")
	for key := range r.KeySet().All() {
		if key.Algorithm != alg || key.ID != kid {
			t.Errorf("published: %s of %s", key.ID, key.Algorithm)
		}
	}
	f.Sets[0].Provider = b.provider(t, alg)
	if again := signs(t, f.open(t), "default"); again != kid {
		t.Error("opened again, the key is another")
	}
}

// testManyBegin opens one empty store from many processes at once: all get the
// same key.
func testManyBegin(t *testing.T, b backend) {
	f := newFixture(t, jose.ES256, b.provider(t, jose.ES256))
	var mu sync.Mutex
	ids := map[string]bool{}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			r, err := Open(t.Context(), f.Config)
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Close()
			kid := signs(t, r, "default")
			mu.Lock()
			defer mu.Unlock()
			ids[kid] = true
		})
	}
	wg.Wait()
	if len(ids) != 1 {
		t.Errorf("%d keys", len(ids))
	}
}

// want checks the roles of the keys of the set.
func want(t *testing.T, r *Ring, roles map[string]Role) {
	t.Helper()
	if got := rolesOf(r, "default"); !maps.Equal(got, roles) {
		t.Fatalf("roles %v, want %v", got, roles)
	}
	published := 0
	for kid, role := range roles {
		_, ok := r.KeySet().Key(kid)
		if ok != (role != Revoked) {
			t.Errorf("key %s is %s; published: %t", kid, role, ok)
		}
		if ok {
			published++
		}
	}
	if n := r.KeySet().Len(); n != published {
		t.Errorf("%d keys are published, want %d", n, published)
	}
}

func testRotateByHand(t *testing.T, b backend) {
	f := newFixture(t, jose.ES256, b.provider(t, jose.ES256))
	r := f.open(t)
	first := signs(t, r, "default")
	if _, err := r.Rotate(t.Context(), "nobody"); !errors.Is(err, ErrUnknownSet) {
		t.Errorf("a set that is not there: %v", err)
	}
	st, err := r.Rotate(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	if ahead := st.Signs.Sub(f.clock.now()); st.Role != string(Next) || ahead != f.Schedule.PublishAhead || st.KID == first {
		t.Fatalf("%+v signs in %s", st, ahead)
	}
	if again, err := r.Rotate(t.Context(), "default"); err != nil || again.KID != st.KID {
		t.Errorf("rotated again while a key waits: %+v, %v", again, err)
	}
	want(t, r, map[string]Role{first: Current, st.KID: Next})
	f.clock.advance(f.Schedule.PublishAhead - time.Second)
	r.tend(t)
	if kid := signs(t, r, "default"); kid != first {
		t.Error("the new key signs before its time")
	}
	f.clock.advance(time.Second)
	// No round of Run is needed: the clock is enough.
	r.confirmed.Store(new(f.clock.now()))
	if kid := signs(t, r, "default"); kid != st.KID {
		t.Error("the new key does not sign when its time has come")
	}
	want(t, r, map[string]Role{first: Previous, st.KID: Current})
	f.clock.advance(f.Schedule.Retain - time.Second)
	want(t, r, map[string]Role{first: Previous, st.KID: Current})
	f.clock.advance(time.Second)
	want(t, r, map[string]Role{st.KID: Current})
	f.clock.advance(f.Schedule.Skew + time.Second)
	r.tend(t)
	if n := len(r.stateNow().Keys); n != 1 {
		t.Errorf("%d keys are stored after the old one is gone", n)
	}
}

func testRotateBySchedule(t *testing.T, b backend) {
	f := newFixture(t, jose.ES256, b.provider(t, jose.ES256))
	r := f.open(t)
	seen := []string{signs(t, r, "default")}
	for range 3 {
		due := r.Status()[0].RotationDue
		if ahead := f.Schedule.Period - f.Schedule.PublishAhead; due.IsZero() {
			t.Fatal("no rotation is due")
		} else if wait := due.Sub(f.clock.now()); wait > ahead {
			t.Fatalf("the next rotation is due in %s, want at most %s", wait, ahead)
		}
		f.clock.advance(due.Sub(f.clock.now()))
		r.tend(t) // makes it
		r.tend(t) // read back: it gets its time
		if kid := signs(t, r, "default"); kid != seen[len(seen)-1] {
			t.Fatal("another key signs before its time")
		}
		if roles := slices.Sorted(maps.Values(rolesOf(r, "default"))); !slices.Contains(roles, Next) {
			t.Fatalf("no key is next: %v", roles)
		}
		f.clock.advance(f.Schedule.PublishAhead)
		r.tend(t)
		kid := signs(t, r, "default")
		if slices.Contains(seen, kid) {
			t.Fatal("the key was not replaced")
		}
		seen = append(seen, kid)
	}
}

func testRotateBehind(t *testing.T, b backend) {
	if b.rotate == nil {
		t.Skip("nobody else has these keys")
	}
	f := newFixture(t, jose.ES256, b.provider(t, jose.ES256))
	r := f.open(t)
	first := signs(t, r, "default")
	b.rotate(t, jose.ES256)
	if kid := signs(t, r, "default"); kid != first {
		t.Error("a key signs that was never published")
	}
	f.clock.advance(time.Minute)
	r.tend(t)
	r.tend(t)
	roles := rolesOf(r, "default")
	if len(roles) != 2 || roles[first] != Current {
		t.Fatalf("%v", roles)
	}
	f.clock.advance(f.Schedule.PublishAhead)
	r.tend(t)
	if kid := signs(t, r, "default"); kid == first {
		t.Error("the new version was not taken over")
	}
}

// testTwoNodes holds that nodes on one store sign with one key at any time.
func testTwoNodes(t *testing.T, b backend) {
	f := newFixture(t, jose.ES256, b.provider(t, jose.ES256))
	one := f.open(t)
	f.Sets = []SetConfig{{Name: "default", Algorithm: jose.ES256, Provider: b.provider(t, jose.ES256)}}
	two := f.open(t)
	kids := map[string]bool{}
	for range 40 {
		f.clock.advance(f.Schedule.Period / 16)
		for range 2 {
			one.tend(t)
			two.tend(t)
		}
		a, b := signs(t, one, "default"), signs(t, two, "default")
		if a != b {
			t.Fatalf("the nodes sign with %s and %s", a, b)
		}
		kids[a] = true
	}
	if len(kids) < 2 || len(kids) > 4 {
		t.Errorf("%d keys in two and a half periods", len(kids))
	}
}

func testEmergency(t *testing.T, b backend) {
	f := newFixture(t, jose.ES256, b.provider(t, jose.ES256))
	r := f.open(t)
	first := signs(t, r, "default")
	if _, err := r.Revoke(t.Context(), "nobody"); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("a key that is not there: %v", err)
	}
	out, err := r.Revoke(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	second := signs(t, r, "default")
	if out.Revoked.KID != first || out.Successor.KID != second || second == first {
		t.Errorf("%+v", out)
	}
	if until := out.AcceptedUntil.Sub(f.clock.now()); until != f.Schedule.MaxAge+f.Schedule.Skew {
		t.Errorf("verifiers may accept it for another %s", until)
	}
	want(t, r, map[string]Role{first: Revoked, second: Current})
	// It does not come back.
	f.clock.advance(time.Minute)
	r.tend(t)
	r.tend(t)
	want(t, f.open(t), map[string]Role{first: Revoked, second: Current})
	if k := r.stateNow(); k.Keys[k.key(first)].Material != nil {
		t.Error("the private half of a revoked key is kept")
	}
}

// testEmergencyAnnounced revokes the current key while the next waits: that one
// takes over at once.
func testEmergencyAnnounced(t *testing.T, b backend) {
	f := newFixture(t, jose.ES256, b.provider(t, jose.ES256))
	r := f.open(t)
	first := signs(t, r, "default")
	next, err := r.Rotate(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	f.clock.advance(time.Minute)
	r.tend(t)
	out, err := r.Revoke(t.Context(), first)
	if err != nil || out.Successor.KID != next.KID || signs(t, r, "default") != next.KID {
		t.Errorf("%+v, %v", out, err)
	}
	want(t, r, map[string]Role{first: Revoked, next.KID: Current})
}

func testRevokeNext(t *testing.T, b backend) {
	f := newFixture(t, jose.ES256, b.provider(t, jose.ES256))
	r := f.open(t)
	first := signs(t, r, "default")
	next, err := r.Rotate(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Revoke(t.Context(), next.KID); err != nil {
		t.Fatal(err)
	}
	want(t, r, map[string]Role{first: Current, next.KID: Revoked})
	f.clock.advance(2 * f.Schedule.PublishAhead)
	r.tend(t)
	if kid := signs(t, r, "default"); kid != first {
		t.Error("the key that signs has changed")
	}
}

// testRestart opens the store again after a time in which a rotation was due
// twice over.
func testRestart(t *testing.T, b backend) {
	f := newFixture(t, jose.ES256, b.provider(t, jose.ES256))
	r := f.open(t)
	first := signs(t, r, "default")
	next, err := r.Rotate(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	f.clock.advance(3 * f.Schedule.Period)
	f.Sets = []SetConfig{{Name: "default", Algorithm: jose.ES256, Provider: b.provider(t, jose.ES256)}}
	r = f.open(t)
	if kid := signs(t, r, "default"); kid != next.KID {
		t.Errorf("key %s signs, want the announced %s rather than %s", kid, next.KID, first)
	}
	r.tend(t)
	r.tend(t)
	if roles := slices.Collect(maps.Values(rolesOf(r, "default"))); !slices.Contains(roles, Next) {
		t.Errorf("the overdue rotation has not begun: %v", roles)
	}
}
