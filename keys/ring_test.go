package keys

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/workload-sts/sts/jose"
)

// TestScheduleCheck holds that a schedule which may surprise a verifier is
// refused, with the numbers.
func TestScheduleCheck(t *testing.T) {
	if p := DefaultSchedule().Check(); len(p) > 0 {
		t.Fatalf("the default: %v", p)
	}
	for name, tc := range map[string]struct {
		edit  func(*Schedule)
		field string
		says  []string
	}{
		"announced too late":    {func(s *Schedule) { s.PublishAhead = 5*time.Minute + 29*time.Second }, "publish_ahead", []string{"5m29s", "5m30s", "30s"}},
		"withdrawn too early":   {func(s *Schedule) { s.Retain = 39 * time.Second }, "retain", []string{"39s", "40s"}},
		"faster than announced": {func(s *Schedule) { s.Period = 59 * time.Minute }, "period", []string{"59m0s", "1h0m0s"}},
		"too many keys":         {func(s *Schedule) { s.PublishAhead, s.Period = 6*time.Minute, 6*time.Minute }, "period", []string{"6m0s", "24h0m30s"}},
		"max-age too short":     {func(s *Schedule) { s.MaxAge = time.Millisecond }, "jwks_max_age", []string{"1ms"}},
		"max-age too long":      {func(s *Schedule) { s.MaxAge, s.PublishAhead = 25*time.Hour, 26*time.Hour }, "jwks_max_age", []string{"25h"}},
		"skew negative":         {func(s *Schedule) { s.Skew = -1 }, "clock_skew", nil},
		"skew too large":        {func(s *Schedule) { s.Skew = 11 * time.Minute }, "clock_skew", []string{"11m"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := DefaultSchedule()
			tc.edit(&s)
			problems := s.Check()
			if len(problems) != 1 || problems[0].Field != tc.field {
				t.Fatalf("%v, want one of %s", problems, tc.field)
			}
			for _, number := range tc.says {
				if !strings.Contains(problems[0].Message, number) {
					t.Errorf("%q does not say %s", problems[0].Message, number)
				}
			}
			f, _ := localFixture(t)
			f.Schedule = s
			if _, err := Open(t.Context(), f.Config); err == nil {
				t.Error("a Ring is opened with it")
			}
		})
	}
}

// TestNewSet adds a set to a deployment that has one: its first key is announced
// before it signs, since verifiers have cached a key set without it.
func TestNewSet(t *testing.T) {
	f, keyFile := localFixture(t)
	f.open(t)
	f.Sets = append(f.Sets, SetConfig{Name: "rsa", Algorithm: jose.RS256, Provider: Local(keyFile, false)})
	r := f.open(t)
	r.tend(t)
	r.tend(t)
	_, _, err := r.Sign(t.Context(), "rsa", "at+jwt", nil)
	var wait interface{ RetryAfter() time.Duration }
	if !errors.As(err, &wait) || wait.RetryAfter() != f.Schedule.PublishAhead || !strings.Contains(err.Error(), "is new") {
		t.Errorf("a new set: %v", err)
	}
	if err := r.Ready(); err != nil {
		t.Errorf("a node is not ready because a set is new: %v", err)
	}
	signs(t, r, "default")
	f.clock.advance(f.Schedule.PublishAhead)
	r.tend(t)
	signs(t, r, "rsa")
	if n := r.KeySet().Len(); n != 2 {
		t.Errorf("%d keys are published, want those of both sets", n)
	}
	if _, _, err := r.Sign(t.Context(), "nobody", "at+jwt", nil); !errors.Is(err, ErrUnknownSet) {
		t.Errorf("a set that is not there: %v", err)
	}
	// Taken out of the configuration, its key stays published.
	f.Sets = f.Sets[:1]
	r = f.open(t)
	st := r.Status()
	if len(st) != 2 || st[1].Name != "rsa" || st[1].Provider != "" || len(st[1].Problems) != 1 || r.KeySet().Len() != 2 || r.Has("rsa") {
		t.Errorf("%+v", st)
	}
}

// TestTwoSetsAtOnce begins with two sets: both sign at once.
func TestTwoSetsAtOnce(t *testing.T) {
	f, keyFile := localFixture(t)
	f.Sets = append(f.Sets, SetConfig{Name: "rsa", Algorithm: jose.RS256, Provider: Local(keyFile, true)})
	r := f.open(t)
	signs(t, r, "default")
	signs(t, r, "rsa")
	if f.store.revision != 1 {
		t.Errorf("%d changes", f.store.revision)
	}
}

// TestDeaf holds that a node which does not hear from its store lets verifiers
// cache for less and less, and soon signs no more.
func TestDeaf(t *testing.T) {
	f, _ := localFixture(t)
	r := f.open(t)
	if a := r.MaxAge(); a != f.Schedule.MaxAge {
		t.Errorf("max-age %s", a)
	}
	f.clock.advance(maxStaleness)
	signs(t, r, "default")
	f.clock.advance(1)
	_, _, err := r.Sign(t.Context(), "default", "at+jwt", nil)
	var missing interface{ Dependency() string }
	if !errors.As(err, &missing) || missing.Dependency() != "storage" {
		t.Errorf("after %s without the store: %v", maxStaleness, err)
	}
	if r.Ready() == nil {
		t.Error("it is ready")
	}
	f.clock.advance(f.Schedule.PublishAhead - f.Schedule.Skew - maxStaleness - time.Minute)
	if a := r.MaxAge(); a > time.Minute || a < time.Minute-time.Second {
		t.Errorf("max-age %s a minute before another key may sign", a)
	}
	f.clock.advance(time.Hour)
	if a := r.MaxAge(); a != 0 {
		t.Errorf("max-age %s", a)
	}
	if r.KeySet().Len() != 1 {
		t.Error("it publishes nothing")
	}
	r.tend(t)
	signs(t, r, "default")
}

// TestClockPutBack holds that a clock which was put back makes no key sign that
// is not published, and that keys come back to their places with it.
func TestClockPutBack(t *testing.T) {
	f, _ := localFixture(t)
	r := f.open(t)
	first := signs(t, r, "default")
	next, err := r.Rotate(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	f.clock.advance(f.Schedule.PublishAhead)
	r.tend(t)
	if signs(t, r, "default") != next.KID {
		t.Fatal("not rotated")
	}
	f.clock.advance(-time.Minute)
	r.tend(t)
	if signs(t, r, "default") != first {
		t.Error("the clock says that the first key signs")
	}
}

// TestEvidence counts distinct verifiers by what they were given.
func TestEvidence(t *testing.T) {
	f, _ := localFixture(t)
	r := f.open(t)
	early := r.KeySet()
	next, err := r.Rotate(t.Context(), "default")
	if err != nil || next.Verifiers != 0 {
		t.Fatal(next, err)
	}
	for i := range 5 {
		r.Delivered(early, fmt.Sprint("verifier ", i))
	}
	f.clock.advance(time.Minute)
	for range 3 {
		for i := range 2 {
			r.Delivered(r.KeySet(), fmt.Sprint("verifier ", i))
		}
	}
	for _, k := range r.Status()[0].Keys {
		verifiers, fetches := 5, int64(11)
		if k.KID == next.KID {
			verifiers, fetches = 2, 6
		}
		if k.Verifiers != verifiers || k.Fetches != fetches || !k.LastFetch.Equal(f.clock.now()) {
			t.Errorf("%+v, want %d verifiers, %d fetches", k, verifiers, fetches)
		}
	}
	for i := range 2 * maxVerifiers {
		r.Delivered(r.KeySet(), fmt.Sprint(i))
	}
	if n := len(r.evidence.by[next.KID].verifiers); n != maxVerifiers {
		t.Errorf("%d verifiers are remembered", n)
	}
}

// TestProviderTrouble holds that what is wrong with a provider is told, that the
// key set stays published, and that it is over when the trouble is.
func TestProviderTrouble(t *testing.T) {
	v := &fakeVault{real: true}
	v.rotate()
	f := newFixture(t, jose.ES256, v)
	r := f.open(t)
	kid := signs(t, r, "default")
	v.down = true
	f.clock.advance(f.Schedule.Period)
	r.tend(t)
	st := r.Status()[0]
	if len(st.Problems) != 2 || !strings.Contains(st.Problems[0], "does not answer") {
		t.Errorf("%q", st.Problems)
	}
	before := f.store.revision
	r.tend(t)
	r.tend(t) // woken by what came of the attempt
	if now := r.Status()[0].Problems; f.store.revision != before || len(now) != 2 {
		t.Errorf("tried again at once: %d changes of the state, %q", f.store.revision-before, now)
	}
	if signs(t, r, "default") != kid {
		t.Error("another key signs")
	}
	out, err := r.Revoke(t.Context(), kid)
	if err != nil || out.Successor.KID != "" || r.KeySet().Len() != 0 {
		t.Errorf("revoked without a successor: %+v, %v", out, err)
	}
	if _, _, err := r.Sign(t.Context(), "default", "at+jwt", nil); err == nil || r.Ready() == nil {
		t.Error("something signs")
	}
	v.down = false
	f.clock.advance(retryEvery)
	r.tend(t) // makes the key
	r.tend(t) // opens it
	if now := signs(t, r, "default"); now == kid || len(r.Status()[0].Problems) != 0 || r.Ready() != nil {
		t.Errorf("key %s signs; %q, %v", now, r.Status()[0].Problems, r.Ready())
	}
}

// TestDueNow lets time pass between two looks at the clock, as it does: a set in
// which nothing signs, because it is new or its key was revoked while the provider
// was down, gets a key by itself.
func TestDueNow(t *testing.T) {
	v := &fakeVault{real: true}
	v.rotate()
	f := newFixture(t, jose.ES256, v)
	f.Now = func() time.Time { f.clock.advance(1); return f.clock.now() }
	kid := signs(t, f.open(t), "default")
	f.Sets = append(f.Sets, SetConfig{Name: "new", Algorithm: jose.EdDSA, Provider: Local(filepath.Join(t.TempDir(), "key"), true)})
	r := f.open(t)
	v.down = true
	if out, err := r.Revoke(t.Context(), kid); err != nil || out.Successor.KID != "" {
		t.Fatalf("revoked without a successor: %+v, %v", out, err)
	}
	r.tend(t)
	v.down = false
	f.clock.advance(retryEvery)
	r.tend(t) // makes the keys
	r.tend(t) // opens them
	signs(t, r, "default")
	f.clock.advance(f.Schedule.PublishAhead)
	r.tend(t)
	signs(t, r, "new")
}

// TestRevokeBesideAnother revokes while another node is already making the key that
// is missing then: the answer has it.
func TestRevokeBesideAnother(t *testing.T) {
	v := &fakeVault{real: true}
	v.rotate()
	f := newFixture(t, jose.ES256, v)
	a, b := f.open(t), f.open(t)
	kid := signs(t, a, "default")
	claim := func(st *state) bool { st.Claims["default"] = f.clock.now(); return true }
	if err := b.change(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	var other sync.WaitGroup
	defer other.Wait()
	other.Go(func() {
		time.Sleep(250 * time.Millisecond)
		err := b.change(t.Context(), func(st *state) bool { delete(st.Claims, "default"); return true })
		if err == nil {
			_, err = b.replace(t.Context(), b.sets["default"])
		}
		if err != nil {
			t.Error(err)
		}
	})
	out, err := a.Revoke(t.Context(), kid)
	if err != nil || out.Successor.KID == "" || out.Successor.KID == kid {
		t.Errorf("%+v, %v", out, err)
	}
}

// TestNoticedInTime holds that what somebody else does with a key is noticed within
// 30 seconds, whenever a set is looked at in between for other reasons.
func TestNoticedInTime(t *testing.T) {
	v := &fakeVault{real: true}
	v.rotate()
	f := newFixture(t, jose.ES256, v)
	r := f.open(t)
	for woken := range 30 * time.Second / time.Second {
		s := r.sets["default"]
		s.inspected = time.Time{}
		r.step(t.Context(), s) // looks
		v.rotate()
		since, known := woken*time.Second, len(r.stateNow().Keys)
		f.clock.advance(since)
		for range 3 {
			wait := r.step(t.Context(), s)
			if len(r.stateNow().Keys) > known {
				break
			}
			since += wait
			f.clock.advance(wait)
		}
		if since > 30*time.Second || len(r.stateNow().Keys) == known {
			t.Errorf("woken after %d s: noticed after %s", woken, since)
		}
	}
}

// TestRun lets two nodes run by the clock on the wall, through rotations by
// schedule and by hand, while callers sign: always with one key, and always with
// one that has been published long enough.
func TestRun(t *testing.T) {
	f, keyFile := localFixture(t)
	f.Now = time.Now
	f.Schedule = Schedule{Period: 2 * time.Second, PublishAhead: 1100 * time.Millisecond, Retain: 20 * time.Second, MaxAge: time.Second, Skew: 100 * time.Millisecond}
	one := f.open(t)
	f.Sets = []SetConfig{{Name: "default", Algorithm: jose.ES256, Provider: Local(keyFile, false)}}
	two := f.open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for _, r := range []*Ring{one, two} {
		wg.Go(func() {
			if err := r.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	kids := map[string]bool{}
	for ctx.Err() == nil {
		a, b := signs(t, one, "default"), signs(t, two, "default")
		kids[a], kids[b] = true, true
		if a != b && a == signs(t, one, "default") && b == signs(t, two, "default") {
			t.Fatalf("the nodes sign with %s and %s", a, b)
		}
		if len(kids) == 2 {
			_, _ = two.Rotate(ctx, "default")
		}
		time.Sleep(5 * time.Millisecond)
	}
	wg.Wait()
	if len(kids) < 3 || len(kids) > 6 {
		t.Errorf("%d keys in 7 s with one each 2 s", len(kids))
	}
}
