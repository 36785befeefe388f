package sts_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// run keeps the service at what is in the store until the test ends.
func (f *fixture) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := f.service.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after 20 s it does not hold that %s", what)
		}
	}
}

func code(err error) sts.Code {
	if e, ok := errors.AsType[*sts.Error](err); ok {
		return e.Code
	}
	return ""
}

var alice = sts.Principal{Name: "alice", Method: "token", Peer: "192.0.2.1"}

func TestRollback(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	one := f.apply(t, sts.Change{Put: []sts.Resource{{Client: &sts.Client{Name: "job", Secrets: []sts.ClientSecret{{Hash: hashOf(t, "old")}}}}}}).Revision
	two := f.apply(t, sts.Change{
		By: alice, Why: "replace the secret",
		Put: []sts.Resource{
			{Client: &sts.Client{Name: "job", Description: "new", Disabled: true, Secrets: []sts.ClientSecret{{Hash: hashOf(t, "new")}}}},
			rule("web-itself", policy.Rule{Requester: policy.Requester{Clients: []string{"web"}}, Allow: allow("web", "read")}),
		},
		Delete: []sts.Ref{{Kind: sts.KindRule, Name: "jobs"}},
	}).Revision
	if _, err := f.service.Rollback(ctx, sts.Rollback{To: one, Expected: one}); code(err) != sts.Conflict {
		t.Errorf("an old expectation: %v", err)
	}
	for _, to := range []int64{0, -1, two + 1} {
		if _, err := f.service.Rollback(ctx, sts.Rollback{To: to}); err == nil {
			t.Errorf("back to %d", to)
		}
	}
	if done, err := f.service.Rollback(ctx, sts.Rollback{To: one, DryRun: true}); err != nil || done.Revision != two || len(done.Created) != 1 || len(done.Updated) != 2 {
		t.Errorf("dry run: %+v, %v", done, err)
	}
	done, err := f.service.Rollback(ctx, sts.Rollback{To: one, By: alice, Why: "too narrow"})
	if err != nil || done.Revision != two+1 {
		t.Fatalf("%+v, %v", done, err)
	}
	r, _, err := f.service.Resource(sts.Ref{Kind: sts.KindClient, Name: "job"})
	if err != nil || r.Client.Description != "" || !r.Client.Disabled || r.Client.Secrets[0].Hash == "" {
		t.Errorf("%+v, %v", r.Client, err)
	}
	newer, err := f.service.Revision(ctx, sts.Place{Line: sts.Live, Number: two})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range newer.Resources {
		if n.Client != nil && n.Client.Name == "job" && n.Client.Secrets[0] != r.Client.Secrets[0] {
			t.Error("a secret that was replaced came back")
		}
	}
	if _, got := f.token(t, f.credentials("web")); got["scope"] != "read write" {
		t.Errorf("scope %v", got["scope"])
	}
	history, more, err := f.service.History(ctx, 0, 2)
	if err != nil || !more || len(history) != 2 || history[0].Restores != one || history[0].By != alice || history[0].Why != "too narrow" || history[1].Why != "replace the secret" {
		t.Errorf("%+v, %v, %v", history, more, err)
	}
	if rec := f.audit.last(); rec.Event == sts.EventChange {
		t.Error("the token is not recorded")
	}
	diff, err := f.service.Diff(ctx, sts.Place{Line: sts.Live, Number: one}, sts.Place{Line: sts.Live, Number: two})
	if err != nil || len(diff) != 3 || diff[0].Ref.Name != "job" || diff[1].After.Rule != nil {
		t.Errorf("%+v, %v", diff, err)
	}
}

func hashOf(t *testing.T, secret string) string {
	t.Helper()
	h, err := sts.HashSecret(canary + secret)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestShadow tries a revision out beside the one in force: nobody is affected, what
// it decides otherwise is counted, and it can be put in force as long as nothing
// else was.
func TestShadow(t *testing.T) {
	f := newFixture(t)
	f.run(t)
	ctx := t.Context()
	if _, err := f.service.Shadow(); code(err) != sts.NotFound {
		t.Errorf("no shadow: %v", err)
	}
	narrower := sts.Change{Shadow: true, By: alice, Why: "less", Put: []sts.Resource{
		rule("web-itself", policy.Rule{Requester: policy.Requester{Clients: []string{"web"}}, Allow: allow("web", "read")}),
	}, Delete: []sts.Ref{{Kind: sts.KindRule, Name: "web-users"}}}
	before := f.apply(t, sts.Change{}).Revision
	done := f.apply(t, narrower)
	if done.Revision != before || done.Shadow != 1 {
		t.Fatalf("%+v", done)
	}
	if _, got := f.token(t, f.credentials("web")); got["scope"] != "read write" {
		t.Errorf("the shadow revision is in force: %v", got["scope"])
	}
	f.token(t, f.exchange(t))
	decided := func(n int64) func() bool {
		return func() bool { s, err := f.service.Shadow(); return err == nil && s.Decided >= n }
	}
	eventually(t, "both were decided beside", decided(2))
	s, err := f.service.Shadow()
	if err != nil || !s.Current || s.Base != before || s.Why != "less" || s.Counts[sts.OtherScopes] != 1 || s.Counts[sts.WouldDeny] != 1 || len(s.Differences) != 2 {
		t.Fatalf("%+v, %v", s, err)
	}
	if d := s.Differences[0]; d.Client != "web" || d.SubjectIssuer != "idp" || !d.Live.Allowed || d.Shadow.Allowed || d.Decision == "" || d.Count != 1 {
		t.Errorf("%+v", d)
	}
	f.token(t, f.exchange(t))
	eventually(t, "another was decided beside", decided(3))
	if s, _ = f.service.Shadow(); len(s.Differences) != 2 || s.Differences[0].Count != 2 {
		t.Errorf("the same difference is another: %+v", s.Differences)
	}
	// Somebody else changes something.
	f.apply(t, sts.Change{Put: []sts.Resource{{Audience: &sts.Audience{Name: "late"}}}})
	if _, err := f.service.Promote(ctx, sts.Promotion{}); code(err) != sts.Conflict || !strings.Contains(err.Error(), `"late"`) {
		t.Errorf("overtaken: %v", err)
	}
	f.apply(t, narrower)
	if _, err := f.service.Promote(ctx, sts.Promotion{Shadow: 1}); code(err) != sts.Conflict {
		t.Errorf("another shadow: %v", err)
	}
	promoted, err := f.service.Promote(ctx, sts.Promotion{Shadow: 2, By: alice})
	if err != nil || promoted.Revision != before+2 || len(promoted.Updated) != 1 || len(promoted.Deleted) != 1 {
		t.Fatalf("%+v, %v", promoted, err)
	}
	if _, got := f.token(t, f.credentials("web")); got["scope"] != "read" {
		t.Errorf("promoted: %v", got["scope"])
	}
	f.refused(t, f.exchange(t), sts.InvalidRequest, sts.UnauthorizedClient, sts.InvalidTarget)
	if _, err := f.service.Shadow(); code(err) != sts.NotFound {
		t.Errorf("promoted and still there: %v", err)
	}
	f.apply(t, sts.Change{Shadow: true, Put: []sts.Resource{{Audience: &sts.Audience{Name: "more"}}}})
	if err := f.service.Discard(ctx, sts.Promotion{By: alice}); err != nil {
		t.Error(err)
	}
	if err := f.service.Discard(ctx, sts.Promotion{}); code(err) != sts.NotFound {
		t.Errorf("discarded twice: %v", err)
	}
}

func (f *fixture) refused(t *testing.T, req sts.TokenRequest, codes ...sts.Code) {
	t.Helper()
	_, err := f.service.Token(t.Context(), req)
	for _, c := range codes {
		if code(err) == c {
			return
		}
	}
	t.Errorf("refused with %v", err)
}

// TestStale holds that a node that does not hear from its store stops, says so, and
// goes on when it hears again.
func TestStale(t *testing.T) {
	f := newFixture(t)
	var err error
	f.service, err = sts.New(t.Context(), sts.Config{
		Issuer: selfIssuer, Store: f.store, Keys: f.keys, IssuerKeys: f.issuers, ClientKeys: f.clients, Replay: f.replay, Audit: f.audit, Revocations: f.revoked,
		MaxStaleness: 200 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	f.store.Silence(true)
	f.run(t)
	ask := func() error { _, err := f.service.Token(t.Context(), f.credentials("web")); return err }
	eventually(t, "it stops", func() bool { return code(ask()) == sts.Unavailable })
	if why := f.service.Ready(t.Context())[sts.CapabilityIssue]; why == nil || why.Dependency != sts.DependencyStorage {
		t.Errorf("%+v", why)
	}
	f.store.Silence(false)
	eventually(t, "it goes on", func() bool { return ask() == nil })
}

// TestReloadStorm [F50] changes two rules together, over and over, half of the
// changes unsound: no decision sees one of the two alone, and what was sound stays.
func TestReloadStorm(t *testing.T) {
	f := newFixture(t)
	pair := func(scope string) []sts.Resource {
		return []sts.Resource{
			rule("storm-1", policy.Rule{Requester: policy.Requester{Clients: []string{"api"}}, Allow: allow("api", scope)}),
			{Audience: &sts.Audience{Name: "api", Scopes: []string{"read", "write", "admin"}, MaxTTL: map[string]time.Duration{"read": time.Minute, "write": time.Hour}[scope]}},
		}
	}
	f.apply(t, sts.Change{Put: pair("read")})
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() { // one caller, since the signer of this test is for one
		for {
			select {
			case <-stop:
				return
			default:
			}
			got, err := f.service.Token(t.Context(), f.credentials("api"))
			if err != nil {
				t.Error(err)
				return
			}
			if want := map[string]time.Duration{"read": time.Minute, "write": time.Hour}[strings.Join(got.Scopes, " ")]; got.ExpiresIn != want {
				t.Errorf("scopes %s for %s", got.Scopes, got.ExpiresIn)
				return
			}
		}
	})
	for i := range 100 {
		scope := []string{"read", "write"}[i%2]
		bad := append(pair(scope), rule("bad", policy.Rule{Requester: policy.Requester{Clients: []string{"nobody"}}, Allow: allow("api", "read")}))
		if _, err := f.service.Apply(t.Context(), sts.Change{Put: bad}); code(err) != sts.InvalidResource {
			t.Fatalf("an unsound change: %v", err)
		}
		f.apply(t, sts.Change{Put: pair(scope)})
	}
	close(stop)
	wg.Wait()
}

// TestUnsoundRevision has something come into force that does not fit together here,
// as with another version of this service: what was there decides on.
func TestUnsoundRevision(t *testing.T) {
	t.Run("E-10", func(t *testing.T) {
		f := newFixture(t)
		f.run(t)
		at := f.apply(t, sts.Change{}).Revision
		bad := sts.Commit{
			Line: sts.Live, Expected: at, From: sts.Place{Line: sts.Live, Number: at},
			Put: []sts.Resource{rule("bad", policy.Rule{Requester: policy.Requester{Clients: []string{"web"}}, When: "subject.clams.x == 1", Allow: allow("api", "admin")})},
		}
		bad.Base = at
		if _, err := f.store.Commit(t.Context(), bad); err != nil {
			t.Fatal(err)
		}
		eventually(t, "administrators are told", func() bool {
			why := f.service.Ready(t.Context())[sts.CapabilityAdmin]
			return why != nil && why.Dependency == sts.DependencyStorage
		})
		if _, err := f.service.Token(t.Context(), f.exchange(t)); err != nil {
			t.Errorf("what was in force does not decide any more: %v", err)
		}
		if _, _, revision := f.service.Resources("", sts.Ref{}, 1); revision != at {
			t.Errorf("revision %d is here, want %d", revision, at)
		}
	})
}

// TestIncrementalState compares a service that took what it could from the state
// before with one that compiled everything.
func TestIncrementalState(t *testing.T) {
	f := newFixture(t)
	for i, c := range []sts.Change{
		{Put: []sts.Resource{{Client: &sts.Client{Name: "z"}}, {Client: &sts.Client{Name: "b"}}}},
		{Delete: []sts.Ref{{Kind: sts.KindClient, Name: "z"}}},
		{Put: []sts.Resource{{Audience: &sts.Audience{Name: "web", Identifiers: []string{"https://web.example.com"}, Scopes: []string{"read", "write", "admin"}}}}},
		{Put: []sts.Resource{rule("web-itself", policy.Rule{Requester: policy.Requester{Clients: []string{"web"}}, Allow: allow("web", "admin")})}},
	} {
		f.apply(t, c)
		fresh, err := sts.New(t.Context(), sts.Config{Issuer: selfIssuer, Store: f.store, Keys: f.keys, IssuerKeys: f.issuers, ClientKeys: f.clients, Replay: f.replay, Audit: f.audit, Revocations: f.revoked, Now: func() time.Time { return f.now }})
		if err != nil {
			t.Fatal(err)
		}
		a, _, _ := f.service.Resources("", sts.Ref{}, 100)
		b, _, _ := fresh.Resources("", sts.Ref{}, 100)
		if fmt.Sprint(refs(a)) != fmt.Sprint(refs(b)) {
			t.Errorf("change %d: %v, not %v", i, refs(a), refs(b))
		}
		for _, audience := range []string{"web", "https://web.example.com"} {
			req := f.credentials("web")
			req.Audiences = []string{audience}
			x, errX := f.service.Token(t.Context(), req)
			y, errY := fresh.Token(t.Context(), req)
			if code(errX) != code(errY) || fmt.Sprint(x.Scopes) != fmt.Sprint(y.Scopes) {
				t.Errorf("change %d: %v %v, not %v %v", i, x.Scopes, errX, y.Scopes, errY)
			}
		}
	}
	// A client that a rule names cannot go, though no rule was changed.
	if _, err := f.service.Apply(t.Context(), sts.Change{Delete: []sts.Ref{{Kind: sts.KindClient, Name: "api"}}}); code(err) != sts.InvalidResource {
		t.Errorf("%v", err)
	}
}

func refs(list []sts.Resource) []sts.Ref {
	var out []sts.Ref
	for _, r := range list {
		out = append(out, r.Ref())
	}
	return out
}
