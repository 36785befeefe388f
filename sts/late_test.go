package sts_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/workload-sts/sts/sts"
)

// TestRevokeUnrecorded holds that an audit log that does not work holds up no
// revocation, whoever makes it, and that it is recorded when the log works again.
func TestRevokeUnrecorded(t *testing.T) {
	full := errors.New("no space left on device")
	for name, row := range map[string]struct {
		revoke func(f *fixture, token sts.Token, claims map[string]any) (error, error)
		late   sts.Revocation
	}{
		"a client": {func(f *fixture, _ sts.Token, _ map[string]any) (error, error) {
			done, err := f.service.Revoke(t.Context(), admin, sts.Revoke{Kind: sts.RevokeClient, Value: "web", Reason: "stolen"})
			return done.Unrecorded, err
		}, sts.Revocation{Kind: sts.RevokeClient, Value: "web", By: "tester", Reason: "stolen"}},
		"a key": {func(f *fixture, _ sts.Token, _ map[string]any) (error, error) {
			done, err := f.service.Revoke(t.Context(), admin, sts.Revoke{Kind: sts.RevokeKey, Value: f.keys.of("default").ID, Reason: "stolen"})
			if done.Key.Revoked.Set != "default" {
				t.Errorf("the key: %+v", done.Key)
			}
			return done.Unrecorded, err
		}, sts.Revocation{Kind: sts.RevokeKey, By: "tester", Reason: "stolen"}},
		"N-03 its own token": {func(f *fixture, token sts.Token, _ map[string]any) (error, error) {
			done, err := f.service.RevokeToken(t.Context(), sts.RevokeTokenRequest{Caller: f.caller("web"), Token: token.Value})
			return done.Unrecorded, err
		}, sts.Revocation{Kind: sts.RevokeToken, By: "client web", Reason: "revoked by whom it was issued to"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t).withAuditor(t)
			token, claims := f.token(t, f.exchange(t))
			f.audit.fail(full)
			unrecorded, err := row.revoke(f, token, claims)
			if err != nil || !errors.Is(unrecorded, full) {
				t.Fatalf("revoked with %v, unrecorded because of %v", err, unrecorded)
			}
			if m := f.service.Ready(t.Context())[sts.CapabilityIssue]; m == nil || m.Dependency != sts.DependencyAudit {
				t.Errorf("ready: %+v", m)
			}
			f.audit.fail(nil)
			before := len(f.audit.records)
			f.now = f.now.Add(2 * time.Second)
			if f.introspect(t, "api", token.Value).Active {
				t.Error("still active")
			}
			recorded := f.audit.records[before:]
			for _, r := range recorded {
				if r.Event == sts.EventRevoke {
					t.Errorf("recorded before its time: %+v", r)
				}
			}
			// What runs beside requests writes it; at the end too.
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := f.service.Run(ctx); err != nil {
				t.Fatal(err)
			}
			var late []sts.Record
			for _, r := range f.audit.records[before:] {
				if r.Event == sts.EventRevoke {
					late = append(late, r)
				}
			}
			if len(late) != 1 || !late[0].Late || late[0].Outcome != "allow" || late[0].Decision == "" || late[0].Revocation == nil {
				t.Fatalf("recorded late: %+v", late)
			}
			r := *late[0].Revocation
			if r.Kind != row.late.Kind || r.By != row.late.By || r.Reason != row.late.Reason || row.late.Value != "" && r.Value != row.late.Value {
				t.Errorf("recorded %+v", r)
			}
		})
	}
}

// TestRevokeHangingLog holds that a disk that hangs holds up a revocation for two
// seconds, and that what only adds rights waits for its record all the same.
func TestRevokeHangingLog(t *testing.T) {
	f := newFixture(t)
	f.audit.hang = true
	begin := time.Now()
	done, err := f.service.Revoke(t.Context(), admin, sts.Revoke{Kind: sts.RevokeClient, Value: "web", Reason: "test"})
	if took := time.Since(begin); err != nil || !errors.Is(done.Unrecorded, context.DeadlineExceeded) || took > 10*time.Second {
		t.Errorf("after %s: %v, unrecorded because of %v", took, err, done.Unrecorded)
	}
	if f.revoked.Count() != 1 {
		t.Errorf("%d revocations", f.revoked.Count())
	}
}

// TestRevokeFailed holds that a revocation that could not be stored is recorded as
// one that was tried, and then as one that failed.
func TestRevokeFailed(t *testing.T) {
	f := newFixture(t)
	f.revoked.err = errors.New("the storage is gone")
	before := len(f.audit.records)
	if _, err := f.service.Revoke(t.Context(), admin, sts.Revoke{Kind: sts.RevokeClient, Value: "web", Reason: "test"}); codeOf(err) != sts.Unavailable {
		t.Errorf("%v", err)
	}
	got := f.audit.records[before:]
	if len(got) != 2 || got[0].Outcome != "allow" || got[1].Outcome != "deny" || got[0].Decision != got[1].Decision || got[1].Error != sts.Unavailable || got[1].Revocation == nil {
		t.Errorf("%+v", got)
	}
	// One that is refused is recorded too, however many strangers there are, and
	// takes no effect if it cannot be.
	f.revoked.err = nil
	f.audit.fail(errors.New("full"))
	if _, err := f.service.Revoke(t.Context(), admin, sts.Revoke{Kind: "everything", Reason: "test"}); codeOf(err) != sts.Unavailable {
		t.Errorf("%v", err)
	}
}
