package sts_test

import (
	"errors"
	"testing"
	"time"

	"github.com/workload-sts/sts/sts"
)

// TestSingleUseShare holds that one client fills its own share of what is remembered,
// and nobody else's, whatever keys it makes, and has it back when that is over
// [D-21].
func TestSingleUseShare(t *testing.T) {
	const share = 20
	f := newFixture(t)
	f.uses = share
	f.restart(t, nil)
	ask := func(request sts.TokenRequest) *sts.Error {
		t.Helper()
		_, err := f.service.Token(t.Context(), proven(request, newProver(t).proof(t, f, nil, nil)))
		if err == nil {
			return nil
		}
		e, ok := errors.AsType[*sts.Error](err)
		if !ok || e.Code != sts.TooManyRequests || e.Limit != sts.LimitSingleUse || e.RetryAfter <= 0 {
			t.Fatal(err)
		}
		return e
	}
	for i := range share {
		if e := ask(f.credentials("web")); e != nil {
			t.Fatalf("use %d: %v", i, e)
		}
	}
	e := ask(f.credentials("web"))
	if e == nil {
		t.Fatal("more than its share")
	}
	used := len(f.replay.used)
	if e := ask(f.selfPresented(t)); e != nil {
		t.Errorf("a workload: %v", e)
	}
	if ask(f.credentials("web")); len(f.replay.used) != used+1 {
		t.Errorf("%d uses remembered, want %d", len(f.replay.used), used+1)
	}
	// What needs none of it goes on.
	f.token(t, f.credentials("web"))
	f.now = f.now.Add(e.RetryAfter + time.Minute)
	if e := ask(f.credentials("web")); e != nil {
		t.Errorf("after %s: %v", e.RetryAfter, e)
	}
	// What is refused as used before costs nothing.
	again := proven(f.credentials("web"), newProver(t).proof(t, f, nil, nil))
	f.token(t, again)
	for range 2 * share {
		if _, err := f.service.Token(t.Context(), again); errorCode(err) != sts.InvalidDPoPProof {
			t.Fatal(err)
		}
	}
	if e := ask(f.credentials("web")); e != nil {
		t.Errorf("after replays: %v", e)
	}
}

func errorCode(err error) sts.Code {
	if e, ok := errors.AsType[*sts.Error](err); ok {
		return e.Code
	}
	return ""
}
