package sts_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/workload-sts/sts/sts"
)

// TestStrangersAreBounded: refusals of strangers are recorded up to a bound for each
// network and in all, and counted beyond; who is known is always recorded [L-08].
func TestStrangersAreBounded(t *testing.T) {
	f := newFixture(t)
	f.strangers = sts.StrangerLimits{PerNetwork: 3, Total: 8}
	f.restart(t, nil)
	f.audit.records = nil
	refuse := func(peer string, n int, edit func(*sts.TokenRequest)) {
		t.Helper()
		for range n {
			r := f.credentials("web")
			r.Source.Peer = peer
			edit(&r)
			_, err := f.service.Token(t.Context(), r)
			if e, _ := errors.AsType[*sts.Error](err); e == nil || e.Decision == "" {
				t.Fatal(err)
			}
		}
	}
	nobody := func(r *sts.TokenRequest) { r.Credential = sts.Credential{} }
	wrong := func(r *sts.TokenRequest) { r.Credential.Secret = canary }
	refuse("10.0.0.1", 5, nobody)
	refuse("10.0.0.1", 2, wrong)
	refuse("2001:db8::1", 2, nobody)
	refuse("2001:db8::2", 4, nobody) // of one network with it
	if n := len(f.audit.records); n != 6 {
		t.Errorf("%d records of two networks", n)
	}
	for i := range 200 {
		refuse(fmt.Sprintf("10.1.0.%d", i), 1, nobody)
	}
	if n := len(f.audit.records); n != 8 {
		t.Errorf("%d records in all", n)
	}
	refuse("10.0.0.1", 20, func(r *sts.TokenRequest) { r.Audiences = []string{"other"} })
	if n := len(f.audit.records); n != 28 {
		t.Errorf("%d records, with 20 of a client", n)
	}
	if n := f.service.Suppressed(); n != 4+3+198 {
		t.Errorf("%d are counted", n)
	}
	// The counts are recorded, and nothing is lost while they cannot be.
	f.audit.err = errors.New("the disk is full")
	f.runBriefly(t)
	f.audit.err = nil
	before := len(f.audit.records)
	f.runBriefly(t)
	summaries := f.audit.records[before:]
	total, networks := int64(0), map[string]sts.RecordSuppressed{}
	for _, r := range summaries {
		if r.Event != sts.EventToken || r.Outcome != "deny" || r.Suppressed == nil || r.Decision == "" {
			t.Fatalf("%+v", r)
		}
		total += r.Suppressed.Count
		networks[r.Suppressed.Network] = *r.Suppressed
	}
	if len(summaries) > 101 || total != 4+3+198 || networks["others"].Count == 0 {
		t.Errorf("%d records of %d refusals: %v", len(summaries), total, networks)
	}
	if n := networks["10.0.0.1"]; n.Count != 4 || n.Errors[sts.InvalidClient] != 4 || n.Since.After(n.Until) {
		t.Errorf("%+v", n)
	}
	if n := networks["2001:db8::/64"]; n.Count != 3 {
		t.Errorf("%+v", n)
	}
	// A minute later they are recorded again.
	f.now = f.now.Add(time.Minute)
	before = len(f.audit.records)
	refuse("10.0.0.1", 5, nobody)
	if n := len(f.audit.records) - before; n != 3 {
		t.Errorf("%d records a minute later", n)
	}
}

// TestStrangersElsewhere: refusals of strangers who introspect and revoke count
// together with those who ask for tokens, and what was revoked is always recorded.
func TestStrangersElsewhere(t *testing.T) {
	f := newFixture(t)
	issued, _ := f.token(t, f.exchange(t))
	token := issued.Value
	f.strangers = sts.StrangerLimits{PerNetwork: 3, Total: 3}
	f.restart(t, nil)
	f.audit.records = nil
	nobody := sts.TokenRequest{Source: sts.Source{Peer: "10.0.0.1"}, Credential: sts.Credential{Method: sts.SecretBasic, ClientID: "web", Secret: canary}}
	for range 4 {
		if _, err := f.service.Introspect(t.Context(), sts.IntrospectionRequest{Caller: nobody, Token: token}); err == nil {
			t.Fatal("introspected")
		}
		if _, err := f.service.RevokeToken(t.Context(), sts.RevokeTokenRequest{Caller: nobody, Token: token}); err == nil {
			t.Fatal("revoked")
		}
	}
	if n := len(f.audit.records); n != 3 || f.service.Suppressed() != 5 {
		t.Errorf("%d records, %d are counted", n, f.service.Suppressed())
	}
	f.runBriefly(t)
	sum := f.audit.last().Suppressed
	if sum == nil || sum.Count != 5 || sum.Events[sts.EventIntrospect] != 2 || sum.Events[sts.EventRevoke] != 3 || sum.Errors[sts.InvalidClient] != 5 {
		t.Errorf("%+v", sum)
	}
}

// runBriefly runs the service for a moment.
func (f *fixture) runBriefly(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- f.service.Run(ctx) }()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
