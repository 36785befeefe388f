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

// TestApplyProblems puts one unsound resource each and looks for where the
// problem is said to be. Nothing of the change is made.
func TestApplyProblems(t *testing.T) {
	_, hash := sts.NewSecret()
	secret := sts.ClientSecret{Hash: hash}
	for name, tc := range map[string]struct {
		r     sts.Resource
		field string
		says  string
	}{
		"name with a space":               {sts.Resource{Audience: &sts.Audience{Name: "a b"}}, "name", "letters"},
		"no name":                         {sts.Resource{Audience: &sts.Audience{}}, "name", "needs a kind and a name"},
		"identifier taken":                {sts.Resource{Audience: &sts.Audience{Name: "new", Identifiers: []string{"api"}}}, "identifiers[0]", "same identifier"},
		"identifier is ourselves":         {sts.Resource{Audience: &sts.Audience{Name: "new", Identifiers: []string{selfIssuer}}}, "identifiers[0]", "issuer identifier of this service"},
		"max_ttl too long":                {sts.Resource{Audience: &sts.Audience{Name: "new", MaxTTL: 48 * time.Hour}}, "max_ttl", "between"},
		"key set unknown":                 {sts.Resource{Audience: &sts.Audience{Name: "new", KeySet: "clowd"}}, "key_set", `key set "clowd" is not in the configuration of the server; did you mean "cloud"?`},
		"key set unknown, nothing near":   {sts.Resource{Audience: &sts.Audience{Name: "new", KeySet: "hardware"}}, "key_set", "is not in the configuration"},
		"scope with a space":              {sts.Resource{Audience: &sts.Audience{Name: "new", Scopes: []string{"a b"}}}, "scopes[0]", "visible"},
		"three secrets":                   {sts.Resource{Client: &sts.Client{Name: "new", Secrets: []sts.ClientSecret{secret, secret, secret}}}, "secrets", "at most 2"},
		"a plain secret":                  {sts.Resource{Client: &sts.Client{Name: "new", Secrets: []sts.ClientSecret{{Hash: "hunter2"}}}}, "secrets[0].hash", "secret hash"},
		"audience of a client":            {sts.Resource{Client: &sts.Client{Name: "new", Audiences: []string{"nowhere"}}}, "audiences[0]", "not defined"},
		"client like a subject":           {sts.Resource{Client: &sts.Client{Name: "ci:job-1"}}, "name", "subjects of Issuer"},
		"I-26 ourselves as issuer":        {sts.Resource{Issuer: &sts.Issuer{Name: "me", Issuer: selfIssuer}}, "issuer", "this service"},
		"issuer named Self":               {sts.Resource{Issuer: &sts.Issuer{Name: "Self", Issuer: "https://x.example.com"}}, "name", "this service"},
		"issuer named self":               {sts.Resource{Issuer: &sts.Issuer{Name: "self", Issuer: "https://x.example.com"}}, "name", "this service"},
		"C-14 audience of the API server": {sts.Resource{Issuer: &sts.Issuer{Name: "new", Issuer: "https://x.example.com", Audience: "https://kubernetes.default.svc"}}, "audience", "own API"},
		"C-14 audience of the issuer":     {sts.Resource{Issuer: &sts.Issuer{Name: "new", Issuer: "https://x.example.com", Audience: "https://x.example.com"}}, "audience", "own API"},
		"K-04 iss taken":                  {sts.Resource{Issuer: &sts.Issuer{Name: "twin", Issuer: "https://ci.example.com"}}, "issuer", "could not be told apart"},
		"algorithm HS256":                 {sts.Resource{Issuer: &sts.Issuer{Name: "new", Issuer: "https://x.example.com", Algorithms: []string{"HS256"}}}, "algorithms[0]", "not one of"},
		"token type saml":                 {sts.Resource{Issuer: &sts.Issuer{Name: "new", Issuer: "https://x.example.com", TokenTypes: []string{"saml2"}}}, "token_types[0]", "not one of"},
		"rule for a missing client": {rule("new", policy.Rule{Requester: policy.Requester{Clients: []string{"webb"}}, Allow: allow("api")}),
			"requester.clients[0]", `did you mean "web"`},
		"rule for a missing scope": {rule("new", policy.Rule{Requester: policy.Requester{Clients: []string{"web"}}, Allow: allow("api", "reed")}),
			"allow.scopes[0]", `did you mean "read"`},
		"rule with a bad when": {rule("new", policy.Rule{Requester: policy.Requester{Clients: []string{"web"}}, When: "subject.nope == 1", Allow: allow("api")}),
			"when", "^"},
		"rule that sets sub": {rule("new", policy.Rule{Requester: policy.Requester{Clients: []string{"web"}},
			Allow: policy.Allow{Audiences: []string{"api"}, Claims: map[string]string{"sub": `"x"`}}}), "allow.claims.sub", "token format"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			good := sts.Resource{Audience: &sts.Audience{Name: "beside"}}
			_, err := f.service.Apply(t.Context(), sts.Change{Put: []sts.Resource{good, tc.r}})
			e, ok := errors.AsType[*sts.Error](err)
			if !ok || e.Code != sts.InvalidResource || len(e.Problems) == 0 {
				t.Fatalf("%v", err)
			}
			p := e.Problems[0]
			if p.Field != tc.field || !strings.Contains(p.Message, tc.says) || p.Index != 1 {
				t.Errorf("problem %+v, want field %s saying %q in resource 1", p, tc.field, tc.says)
			}
			if _, _, err := f.service.Resource(good.Ref()); err == nil {
				t.Error("half of the change was made")
			}
		})
	}
}

// TestApply holds what a change does and what it leaves alone.
func TestApply(t *testing.T) {
	f := newFixture(t)
	before := f.apply(t, sts.Change{})
	audience := sts.Resource{Audience: &sts.Audience{Name: "new", Scopes: []string{"x"}}}
	dry := f.apply(t, sts.Change{Put: []sts.Resource{audience}, DryRun: true})
	if len(dry.Created) != 1 || dry.Revision != before.Revision {
		t.Errorf("dry run %+v", dry)
	}
	if _, _, err := f.service.Resource(audience.Ref()); err == nil {
		t.Error("a dry run changed something")
	}
	done := f.apply(t, sts.Change{Put: []sts.Resource{audience}, Expected: before.Revision})
	if len(done.Created) != 1 || done.Revision <= before.Revision {
		t.Errorf("created %+v", done)
	}
	if again := f.apply(t, sts.Change{Put: []sts.Resource{audience}}); again.Revision != done.Revision || len(again.Updated) != 0 {
		t.Errorf("the same once more %+v", again)
	}
	_, err := f.service.Apply(t.Context(), sts.Change{Put: []sts.Resource{audience}, Expected: before.Revision})
	if e, _ := errors.AsType[*sts.Error](err); e == nil || e.Code != sts.Conflict {
		t.Errorf("a change against an old revision: %v", err)
	}
	_, err = f.service.Apply(t.Context(), sts.Change{Delete: []sts.Ref{{Kind: sts.KindAudience, Name: "api"}}})
	if e, _ := errors.AsType[*sts.Error](err); e == nil || e.Code != sts.InvalidResource || e.Problems[0].Index != -1 {
		t.Errorf("deleting what is referred to: %v", err)
	}
	_, err = f.service.Apply(t.Context(), sts.Change{Delete: []sts.Ref{{Kind: sts.KindAudience, Name: "nowhere"}}})
	if err == nil {
		t.Error("deleting what is not there succeeds")
	}
	if done := f.apply(t, sts.Change{Delete: []sts.Ref{audience.Ref()}}); len(done.Deleted) != 1 {
		t.Errorf("deleted %+v", done)
	}
}

// TestTwoNodes lets two services apply to one store at once: no change is lost,
// and each sees those of the other.
func TestTwoNodes(t *testing.T) {
	f := newFixture(t)
	other, err := sts.New(t.Context(), sts.Config{Issuer: selfIssuer, Store: f.store, Keys: f.keys, IssuerKeys: f.issuers, ClientKeys: f.clients, Replay: f.replay, Audit: f.audit, Revocations: f.revoked})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { other.Run(ctx) })
	defer running.Wait()
	defer cancel()
	var wg sync.WaitGroup
	for i, s := range []*sts.Service{f.service, other} {
		for n := range 2 {
			wg.Go(func() {
				for k := range 3 {
					r := sts.Resource{Audience: &sts.Audience{Name: fmt.Sprintf("a-%d-%d-%d", i, n, k)}}
					if _, err := s.Apply(t.Context(), sts.Change{Put: []sts.Resource{r}}); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	f.apply(t, sts.Change{Put: []sts.Resource{{Audience: &sts.Audience{Name: "last"}}}})
	deadline := time.Now().Add(5 * time.Second)
	for {
		page, _, _ := other.Resources(sts.KindAudience, sts.Ref{}, 100)
		if len(page) == 3+12+1 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the other node has %d audiences", len(page))
		}
		time.Sleep(time.Millisecond)
	}
}

// TestStoreFails holds that a service goes on with what it has when its store
// does not work, and says so.
func TestStoreFails(t *testing.T) {
	f := newFixture(t)
	f.store.Break(errors.New("disk on fire"))
	_, err := f.service.Apply(t.Context(), sts.Change{Put: []sts.Resource{{Audience: &sts.Audience{Name: "new"}}}})
	if e, _ := errors.AsType[*sts.Error](err); e == nil || e.Code != sts.Unavailable || strings.Contains(e.Message, "fire") {
		t.Errorf("%v", err)
	}
	f.token(t, f.credentials("web"))
	ready := f.service.Ready(t.Context())
	if ready[sts.CapabilityAdmin] == nil || ready[sts.CapabilityIssue] != nil {
		t.Errorf("ready %v", ready)
	}
	f.store.Break(nil)
	f.now = f.now.Add(time.Minute)
	f.apply(t, sts.Change{Put: []sts.Resource{{Audience: &sts.Audience{Name: "new"}}}})
	if ready := f.service.Ready(t.Context()); ready[sts.CapabilityAdmin] != nil {
		t.Errorf("ready %v", ready)
	}
}

// TestStoredGarbage holds that a service does not start on resources that do not
// fit together.
func TestStoredGarbage(t *testing.T) {
	f := newFixture(t)
	f.store.Delete(sts.Ref{Kind: sts.KindAudience, Name: "api"})
	_, err := sts.New(t.Context(), sts.Config{Issuer: selfIssuer, Store: f.store, Keys: f.keys, IssuerKeys: f.issuers, ClientKeys: f.clients, Replay: f.replay, Audit: f.audit, Revocations: f.revoked})
	if err == nil || !strings.Contains(err.Error(), "api") {
		t.Errorf("%v", err)
	}
}

// TestNothingUnrecorded holds that what cannot be recorded does not happen, and
// what cannot be signed is said [F53, promise 3].
func TestNothingUnrecorded(t *testing.T) {
	f := newFixture(t)
	f.audit.err = errors.New("disk full")
	for _, r := range []sts.TokenRequest{f.credentials("web"), f.exchange(t), {Grant: "x"}} {
		token, err := f.service.Token(t.Context(), r)
		if e, _ := errors.AsType[*sts.Error](err); e == nil || e.Code != sts.Unavailable || token.Value != "" || e.RetryAfter == 0 {
			t.Errorf("%v, %v", token, err)
		}
	}
	if f.service.Ready(t.Context())[sts.CapabilityIssue] == nil {
		t.Error("ready to issue without an audit log")
	}
	f.audit.err = nil
	f.keys.err = errors.New("sealed")
	if e := f.assertRefused(t, f.credentials("web"), sts.Unavailable); e.RetryAfter == 0 {
		t.Error("no time to come back")
	}
	f.issuers.err, f.keys.err = errors.New("down"), nil
	f.assertRefused(t, f.exchange(t), sts.Unavailable)
	f.token(t, f.credentials("web"))
}

// TestFailedForGood holds that a store or an audit log that cannot work any more
// makes the service not ready until the end, and ends it [F30, F52].
func TestFailedForGood(t *testing.T) {
	broken := errors.New("the disk lies")
	for name, tc := range map[string]struct {
		fail func(*fixture)
		lost sts.Capability
	}{
		"audit log": {func(f *fixture) { f.audit.failed = broken }, sts.CapabilityIssue},
		"store":     {func(f *fixture) { f.store.Fail(broken) }, sts.CapabilityAdmin},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			ended := make(chan error)
			tc.fail(f)
			for range 3 {
				for c, why := range f.service.Ready(t.Context()) {
					if (why != nil) != (c == tc.lost) {
						t.Errorf("%s: %v", c, why)
					}
				}
				f.now = f.now.Add(time.Hour)
			}
			go func() { ended <- f.service.Run(t.Context()) }()
			select {
			case err := <-ended:
				if !errors.Is(err, broken) {
					t.Errorf("Run: %v", err)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("the service goes on")
			}
		})
	}
	f := newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- f.service.Run(ctx) }()
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run that was told to end: %v", err)
	}
}

// TestRecordHasItsTime holds that a record is given the time of its request, a
// second at least, and that a caller who goes away does not take it along.
func TestRecordHasItsTime(t *testing.T) {
	f := newFixture(t)
	for left, least := range map[time.Duration]time.Duration{time.Hour: time.Hour - time.Minute, -time.Hour: 0, 0: 0} {
		ctx, cancel := context.WithCancel(t.Context())
		if left != 0 {
			ctx, cancel = context.WithDeadline(ctx, time.Now().Add(left))
		}
		cancel()
		before := len(f.audit.records)
		f.service.Token(ctx, f.credentials("web"))
		if len(f.audit.records) != before+1 {
			t.Fatalf("%s: not recorded", left)
		}
		switch until := time.Until(f.audit.deadline); {
		case left == 0:
			if !f.audit.deadline.IsZero() {
				t.Errorf("a request without an end has one: %s", f.audit.deadline)
			}
		case until < least || until > max(left, time.Second):
			t.Errorf("a request with %s left has %s for its record", left, until)
		}
	}
}
