package sts_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// limited makes a fixture whose Service has limits.
func limited(t testing.TB, l sts.Limits) *fixture {
	t.Helper()
	f := newFixture(t)
	f.limits = l
	f.restart(t, nil)
	return f
}

// refused asks for a token and returns by which limit it was refused, empty if it
// was not.
func (f *fixture) limitOf(t testing.TB, req sts.TokenRequest) (string, time.Duration) {
	t.Helper()
	signed := f.keys.signed
	_, err := f.service.Token(t.Context(), req)
	if err == nil {
		return "", 0
	}
	e, ok := errors.AsType[*sts.Error](err)
	if !ok || e.Code != sts.TooManyRequests || e.Limit == "" || e.RetryAfter <= 0 || f.keys.signed != signed {
		t.Fatalf("%v, %d signatures", err, f.keys.signed-signed)
	}
	return e.Limit, e.RetryAfter
}

func (f *fixture) from(client, peer string) sts.TokenRequest {
	r := f.credentials(client)
	r.Source.Peer = peer
	return r
}

// TestLimits holds each limit apart from the others.
func TestLimits(t *testing.T) {
	const here, there = "192.0.2.1", "192.0.2.2"
	two := sts.Rate{Count: 2, Period: time.Minute}
	f := limited(t, sts.Limits{Source: two})
	for i, row := range []struct{ peer, want string }{
		{here, ""}, {here, ""}, {here, sts.LimitSource}, {there, ""}, {"2001:db8::1", ""}, {"2001:db8::2", ""}, {"2001:db8::3", sts.LimitSource}, {"2001:db8:0:1::1", ""},
	} {
		if got, _ := f.limitOf(t, f.from("web", row.peer)); got != row.want {
			t.Errorf("source %d: %q, want %q", i, got, row.want)
		}
	}
	// Who was refused is told when to come back, and is not refused then.
	_, wait := f.limitOf(t, f.from("web", here))
	f.now = f.now.Add(wait)
	if got, _ := f.limitOf(t, f.from("web", here)); got != "" {
		t.Errorf("after %s: %q", wait, got)
	}

	f = limited(t, sts.Limits{Total: sts.Rate{Count: 3}})
	for i, want := range []string{"", "", "", sts.LimitTotal} {
		if got, _ := f.limitOf(t, f.from("web", fmt.Sprint(i))); got != want {
			t.Errorf("total %d: %q", i, got)
		}
	}
	// A flood from one place takes nothing of the share of others.
	f = limited(t, sts.Limits{Source: sts.Rate{Count: 1}, Total: sts.Rate{Count: 2}})
	for range 10 {
		f.limitOf(t, f.from("web", here))
	}
	if got, _ := f.limitOf(t, f.from("web", there)); got != "" {
		t.Errorf("the flood of another: %q", got)
	}

	f = limited(t, sts.Limits{Client: two})
	// Who only says to be a client uses nothing up.
	for range 5 {
		bad := f.from("web", here)
		bad.Credential.Secret = canary + "wrong"
		if _, err := f.service.Token(t.Context(), bad); err == nil {
			t.Fatal("a wrong secret")
		}
	}
	for i, want := range []string{"", "", sts.LimitClient} {
		if got, _ := f.limitOf(t, f.from("web", there)); got != want {
			t.Errorf("client %d: %q, want %q", i, got, want)
		}
	}
	f.limitOf(t, f.selfPresented(t))
	f.limitOf(t, f.selfPresented(t))
	if got, _ := f.limitOf(t, f.selfPresented(t)); got != sts.LimitClient {
		t.Errorf("a workload that presents itself: %q", got)
	}
	r, _, err := f.service.Resource(sts.Ref{Kind: sts.KindClient, Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	c := *r.Client
	c.Rate = sts.Rate{Count: 1, Period: time.Hour, Burst: 4}
	f.apply(t, sts.Change{Put: []sts.Resource{{Client: &c}}})
	for i, want := range []string{"", "", "", "", sts.LimitClient} {
		if got, _ := f.limitOf(t, f.from("web", there)); got != want {
			t.Errorf("a rate of its own %d: %q, want %q", i, got, want)
		}
	}
}

// TestQuota holds the tokens for an audience, of all clients together.
func TestQuota(t *testing.T) {
	f := newFixture(t)
	f.apply(t, sts.Change{Put: []sts.Resource{
		{Audience: &sts.Audience{Name: "scarce", Scopes: []string{"read"}, Quota: sts.Rate{Count: 2, Period: time.Hour}}},
		rule("scarce", policy.Rule{Requester: policy.Requester{Clients: []string{"web", "api"}}, Allow: allow("scarce", "read")}),
	}})
	ask := func(client, scope string) sts.TokenRequest {
		r := f.credentials(client)
		r.Audiences, r.Scope = []string{"scarce"}, scope
		return r
	}
	// What policy refuses, and what is not signed, is not counted.
	if _, err := f.service.Token(t.Context(), ask("web", "write")); err == nil {
		t.Fatal("write")
	}
	f.keys.err = errors.New("down")
	for range 3 {
		if _, err := f.service.Token(t.Context(), ask("web", "read")); err == nil {
			t.Fatal("no key")
		}
	}
	f.keys.err = nil
	for i, want := range []string{"", "", sts.LimitAudience} {
		client := []string{"web", "api"}[i%2]
		if got, _ := f.limitOf(t, ask(client, "read")); got != want {
			t.Errorf("%d: %q, want %q", i, got, want)
		}
	}
	f.token(t, f.credentials("web")) // another audience
	f.now = f.now.Add(31 * time.Minute)
	if got, _ := f.limitOf(t, ask("web", "read")); got != "" {
		t.Errorf("after half an hour: %q", got)
	}
}

// TestRateIsKept holds that never more passes than a rate says, whenever it is
// asked for.
func TestRateIsKept(t *testing.T) {
	f := newFixture(t)
	rapid.Check(t, func(rt *rapid.T) {
		r := sts.Rate{Count: rapid.IntRange(1, 5).Draw(rt, "count"), Period: time.Duration(rapid.IntRange(1, 60).Draw(rt, "period")) * time.Second, Burst: rapid.IntRange(0, 8).Draw(rt, "burst")}
		f.limits = sts.Limits{Total: r}
		f.restart(t, nil)
		burst := r.Burst
		if burst == 0 {
			burst = r.Count
		}
		begin, passed := f.now, 0
		for range rapid.IntRange(1, 40).Draw(rt, "requests") {
			f.now = f.now.Add(time.Duration(rapid.IntRange(0, 5000).Draw(rt, "ms")) * time.Millisecond)
			if got, _ := f.limitOf(t, f.from("web", "a")); got == "" {
				passed++
			}
			if most := float64(burst) + float64(r.Count)*f.now.Sub(begin).Seconds()/r.Period.Seconds(); float64(passed) > most+1e-6 {
				rt.Fatalf("%d passed of %+v in %s", passed, r, f.now.Sub(begin))
			}
		}
	})
}

func TestRateIsChecked(t *testing.T) {
	f := newFixture(t)
	for _, r := range []sts.Rate{{Period: time.Second}, {Count: -1}, {Count: 1, Period: -time.Second}, {Count: 1, Period: time.Millisecond}, {Count: 1, Burst: -1}, {Count: 1 << 40}, {Count: 1, Period: 1 << 62}} {
		if _, err := f.service.Apply(t.Context(), sts.Change{Put: []sts.Resource{{Audience: &sts.Audience{Name: "x", Quota: r}}}}); err == nil {
			t.Errorf("%+v is accepted", r)
		}
	}
}
