package sts_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// memTransactions counts in memory.
type memTransactions struct {
	mu     sync.Mutex
	counts map[string]int
	err    error
	until  time.Time
}

func (m *memTransactions) Count(_ context.Context, txn string, uses []policy.Uses, until time.Time) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return "", m.err
	}
	for _, u := range uses {
		if m.counts[txn+u.Rule] >= u.Most {
			return u.Rule, nil
		}
	}
	for _, u := range uses {
		m.counts[txn+u.Rule]++
	}
	m.until = until
	return "", nil
}

// TestMayActIsIssuedAndChecked issues may_act, and holds the next exchange to it [RFC
// 8693 §4.4].
func TestMayActIsIssuedAndChecked(t *testing.T) {
	f := newFixture(t)
	a := allow("api", "read")
	a.MayAct = &policy.MayActParty{Client: "api"}
	f.apply(t, sts.Change{Put: []sts.Resource{
		rule("web-users", policy.Rule{Requester: policy.Requester{Clients: []string{"web"}}, Subject: &policy.Party{Issuer: "idp", Claims: map[string]any{"sub": "user-1"}}, Allow: a}),
		rule("api-itself", policy.Rule{Requester: policy.Requester{Clients: []string{"api"}}, Allow: allow("api", "read")}),
		rule("api-acts", policy.Rule{
			Requester: policy.Requester{Clients: []string{"api"}}, Subject: &policy.Party{Issuer: policy.Self}, Actor: &policy.Party{Issuer: policy.Self},
			Allow: allow("other", "read"),
		}),
	}})
	first, claims := f.token(t, f.exchange(t))
	may, _ := claims["may_act"].(map[string]any)
	if may["sub"] != "api" || may["iss"] != selfIssuer || may["client_id"] != "api" || len(may) != 3 {
		t.Errorf("may_act %v", may)
	}
	if got := f.audit.records[len(f.audit.records)-1].Issued.MayAct; got != "api" {
		t.Errorf("the record says may_act %q", got)
	}
	f.assertRefused(t, f.next("api", "other", first.Value), sts.InvalidRequest)
	own, _ := f.token(t, f.credentials("api"))
	r := f.next("api", "other", first.Value)
	r.Actor = sts.Presented{Token: own.Value, Type: sts.AccessToken}
	_, claims = f.token(t, r)
	if act, _ := claims["act"].(map[string]any); act["sub"] != "api" || claims["may_act"] != nil {
		t.Errorf("act %v, may_act %v", act, claims["may_act"])
	}
}

// TestDenyIsRecorded shows the operator which rule denied, and the caller not.
func TestDenyIsRecorded(t *testing.T) {
	f := newFixture(t)
	f.apply(t, sts.Change{Put: []sts.Resource{rule("no-users", policy.Rule{Subject: &policy.Party{Issuer: "idp"}, Deny: &policy.Deny{Audiences: []string{"api"}}})}})
	f.assertRefused(t, f.exchange(t), sts.InvalidTarget)
	reasons := f.audit.records[len(f.audit.records)-1].Reasons
	if len(reasons) != 1 || reasons[0].Rule != "no-users" || reasons[0].Predicate != "deny" {
		t.Errorf("reasons %+v", reasons)
	}
	if _, err := f.service.Token(t.Context(), f.credentials("web")); err != nil {
		t.Errorf("another request is denied: %v", err)
	}
}

// TestMappedSubject follows a subject that a rule maps through two exchanges.
func TestMappedSubject(t *testing.T) {
	f := newFixture(t)
	a := allow("api")
	a.Sub, a.ScopesFromClaims = "subject.claims.employee", []policy.ScopesForValue{{Claim: "groups", Value: "staff", Scopes: []string{"read"}}}
	f.apply(t, sts.Change{Put: []sts.Resource{rule("web-users", policy.Rule{
		Requester: policy.Requester{Clients: []string{"web"}}, Subject: &policy.Party{Issuer: "idp", Claims: map[string]any{"sub": "user-1"}},
		Actor: &policy.Party{Issuer: "idp", Claims: map[string]any{"sub": "x"}}, Allow: a,
	})}, Delete: []sts.Ref{{Kind: sts.KindRule, Name: "web-acted"}}})
	f.assertRefused(t, f.exchange(t), sts.InvalidRequest) // no actor
	f.apply(t, sts.Change{Put: []sts.Resource{rule("web-users", policy.Rule{
		Requester: policy.Requester{Clients: []string{"web"}}, Subject: &policy.Party{Issuer: "idp", Claims: map[string]any{"sub": "user-1"}}, Allow: a,
	})}})
	f.assertRefused(t, f.exchange(t), sts.InvalidRequest) // no claim employee
	r := f.exchange(t)
	r.Subject.Token = f.foreign(t, "idp", nil, map[string]any{"employee": "web", "groups": []string{"x", "staff"}})
	first, claims := f.token(t, r)
	if claims["sub"] != "idp:web" || claims["scope"] != "read" {
		t.Errorf("sub %v, scope %v", claims["sub"], claims["scope"])
	}
	if _, claims = f.token(t, f.next("api", "other", first.Value)); claims["sub"] != "idp:web" || fmt.Sprint(claims["exchanges"]) != "2" {
		t.Errorf("sub %v, exchanges %v", claims["sub"], claims["exchanges"])
	}
}

// TestUsesPerTransaction counts uses, across nodes and apart for each transaction,
// and refuses what cannot be counted.
func TestUsesPerTransaction(t *testing.T) {
	f := newFixture(t)
	f.apply(t, sts.Change{Put: []sts.Resource{rule("api-next", policy.Rule{
		Requester: policy.Requester{Clients: []string{"api"}}, Subject: &policy.Party{Issuer: policy.Self}, Allow: allow("other", "read"),
		Limits: policy.Limits{UsesPerTransaction: 2},
	})}})
	first, _ := f.token(t, f.exchange(t))
	e := f.assertRefused(t, f.next("api", "other", first.Value), sts.Unavailable) // nobody counts
	if e.RetryAfter == 0 {
		t.Error("not said when to come back")
	}
	counts := &memTransactions{counts: map[string]int{}}
	nodes := []*sts.Service{f.node(t, counts), f.node(t, counts)}
	ask := func(i int, token string) error {
		_, err := nodes[i].Token(t.Context(), f.next("api", "other", token))
		return err
	}
	if err := errors.Join(ask(0, first.Value), ask(1, first.Value)); err != nil {
		t.Fatal(err)
	}
	if want := f.now.Add(time.Hour + sts.Skew); counts.until.Before(want) {
		t.Errorf("counted until %s, tokens of the transaction can live until %s", counts.until, want)
	}
	for i := range nodes {
		refused, ok := errors.AsType[*sts.Error](ask(i, first.Value))
		if !ok || refused.Code != sts.InvalidRequest {
			t.Fatalf("a third use: %v", refused)
		}
	}
	last := f.audit.records[len(f.audit.records)-1]
	if !slices.ContainsFunc(last.Reasons, func(r sts.RecordReason) bool {
		return r.Rule == "api-next" && r.Predicate == "limits.uses_per_transaction"
	}) {
		t.Errorf("reasons %+v", last.Reasons)
	}
	second, _ := f.token(t, f.exchange(t))
	if err := ask(0, second.Value); err != nil {
		t.Errorf("another transaction: %v", err)
	}
	counts.err = errors.New("down")
	if refused, ok := errors.AsType[*sts.Error](ask(0, second.Value)); !ok || refused.Code != sts.Unavailable {
		t.Errorf("uncounted: %v", refused)
	}
	// A request that is refused for another reason costs no use.
	counts.err = nil
	r := f.next("api", "other", second.Value)
	r.Scope = "admin"
	_, _ = nodes[0].Token(t.Context(), r)
	if err := ask(0, second.Value); err != nil {
		t.Errorf("the second of two: %v", err)
	}
}

// node is another Service of the same parts.
func (f *fixture) node(t *testing.T, counts sts.Transactions) *sts.Service {
	t.Helper()
	s, err := sts.New(t.Context(), sts.Config{
		Issuer: selfIssuer, Store: f.store, Keys: f.keys, IssuerKeys: f.issuers, ClientKeys: f.clients, Audit: f.audit, Replay: f.replay, Revocations: f.revoked, Transactions: counts,
		Now: func() time.Time { return f.now },
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
