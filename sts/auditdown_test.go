package sts_test

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/workload-sts/sts/sts"
)

// TestAuditDown [L-07, F52]: while nothing can be recorded nothing is decided that
// would have to be: it is refused as temporarily unavailable, and has no effect. What
// needs no record goes on, and everything does when records can be written again.
func TestAuditDown(t *testing.T) {
	for _, cause := range []error{syscall.ENOSPC, syscall.EIO, errors.New("the disk under the audit log has not answered for 10s")} {
		f := newFixture(t)
		issued, _ := f.token(t, f.exchange(t))
		introspect := func(r sts.TokenRequest) func() error {
			return func() error {
				_, err := f.service.Introspect(t.Context(), sts.IntrospectionRequest{Caller: r, Token: issued.Value})
				return err
			}
		}
		token := func(r sts.TokenRequest) func() error {
			return func() error { _, err := f.service.Token(t.Context(), r); return err }
		}
		nobody := f.credentials("web")
		nobody.Credential = sts.Credential{}
		change := sts.Change{Put: []sts.Resource{{Audience: &sts.Audience{Name: "new"}}}}
		for name, call := range map[string]func() error{
			"L-07 client credentials":           token(f.credentials("web")),
			"L-07 exchange":                     token(f.exchange(t)),
			"L-07 refusal of a stranger":        token(nobody),
			"L-07 introspection that is denied": introspect(nobody),
			"L-07 change of resources":          func() error { _, err := f.service.Apply(t.Context(), change); return err },
		} {
			t.Run(fmt.Sprintf("%s, %v", name, cause), func(t *testing.T) {
				before, revision := len(f.audit.records), f.revision(t)
				f.audit.err = cause
				defer func() { f.audit.err = nil }()
				err := call()
				e, ok := errors.AsType[*sts.Error](err)
				if !ok || e.Code != sts.Unavailable || e.RetryAfter == 0 || !errors.Is(err, cause) {
					t.Errorf("%v", err)
				}
				if len(f.audit.records) != before || f.revision(t) != revision {
					t.Error("it took effect")
				}
			})
		}
		f.audit.err = cause
		if got, _ := f.service.KeySet(); got.Len() == 0 {
			t.Error("F52 no keys for verifiers")
		}
		f.audit.err = nil
		f.token(t, f.credentials("web"))
	}
}

// revision is the number of the one in force.
func (f *fixture) revision(t *testing.T) int64 {
	t.Helper()
	live, err := f.service.Revision(t.Context(), sts.Place{Line: sts.Live})
	if err != nil {
		t.Fatal(err)
	}
	return live.Number
}

// TestEachDecisionHasItsRecord [L-08]: whatever is asked for, by whomever, there is
// one record, which is found by the id of the request and that of the decision.
func TestEachDecisionHasItsRecord(t *testing.T) {
	f := newFixture(t)
	actor := f.exchange(t)
	actor.Actor = sts.Presented{Token: f.foreign(t, "idp", nil, map[string]any{"sub": "agent"}), Type: sts.JWT}
	for i, tc := range []struct {
		name string
		req  sts.TokenRequest
		edit func(*sts.TokenRequest)
	}{
		{"credentials", f.credentials("web"), nil},
		{"exchange", f.exchange(t), nil},
		{"actor", actor, nil},
		{"malformed", f.credentials("web"), func(r *sts.TokenRequest) { r.Malformed = &sts.Error{Code: sts.InvalidRequest, Message: "twice"} }},
		{"grant", f.credentials("web"), func(r *sts.TokenRequest) { r.Grant = "password" }},
		{"no grant", f.credentials("web"), func(r *sts.TokenRequest) { r.Grant = "" }},
		{"nobody", f.credentials("web"), func(r *sts.TokenRequest) { r.Credential = sts.Credential{} }},
		{"unknown client", f.credentials("web"), func(r *sts.TokenRequest) { r.Credential.ClientID = "stranger" }},
		{"wrong secret", f.credentials("web"), func(r *sts.TokenRequest) { r.Credential.Secret = canary }},
		{"audience", f.credentials("web"), func(r *sts.TokenRequest) { r.Audiences = []string{"nowhere"} }},
		{"scope", f.credentials("web"), func(r *sts.TokenRequest) { r.Scope = "nothing" }},
		{"spaces", f.credentials("web"), func(r *sts.TokenRequest) { r.Scope = "read  write" }},
		{"requested type", f.exchange(t), func(r *sts.TokenRequest) { r.RequestedType = "x" }},
		{"no subject", f.exchange(t), func(r *sts.TokenRequest) { r.Subject = sts.Presented{} }},
		{"no subject type", f.exchange(t), func(r *sts.TokenRequest) { r.Subject.Type = "" }},
		{"garbage", f.exchange(t), func(r *sts.TokenRequest) { r.Subject.Token = "x.y.z" }},
		{"signature", f.exchange(t), func(r *sts.TokenRequest) { r.Subject.Token += "A" }},
		{"actor garbage", actor, func(r *sts.TokenRequest) { r.Actor.Token = "x" }},
		{"keys down", f.credentials("web"), func(*sts.TokenRequest) { f.keys.err = errors.New("sealed") }},
	} {
		t.Run("L-08 "+tc.name, func(t *testing.T) {
			defer func() { f.keys.err = nil }()
			req := tc.req
			req.Source.RequestID = fmt.Sprint("request-", i)
			if tc.edit != nil {
				tc.edit(&req)
			}
			before := len(f.audit.records)
			got, err := f.service.Token(t.Context(), req)
			decision, outcome := got.Decision, "allow"
			if err != nil {
				e, _ := errors.AsType[*sts.Error](err)
				decision, outcome = e.Decision, "deny"
			}
			if tc.edit != nil && err == nil {
				t.Error("granted")
			}
			if n := len(f.audit.records) - before; n != 1 {
				t.Fatalf("%d records", n)
			}
			if r := f.audit.last(); decision == "" || r.Decision != decision || r.RequestID != req.Source.RequestID || r.Event != sts.EventToken || r.Outcome != outcome || (r.Issued == nil) != (outcome == "deny") {
				t.Errorf("decision %s of %s: %+v", decision, req.Source.RequestID, r)
			}
		})
	}
}
