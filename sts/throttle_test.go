package sts_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/workload-sts/sts/sts"
)

// TestThrottle slows down failures in a row of one client from one address, and
// nothing else.
func TestThrottle(t *testing.T) {
	f := newAssertionFixture(t)
	try := func(client, secret, peer string) sts.TokenRequest {
		r := f.credentials("web")
		r.Credential.ClientID, r.Credential.Secret, r.Source.Peer = client, secret, peer
		return r
	}
	wrong := canary + "wrong"
	waits := func(client string) (out []time.Duration) {
		for range 40 {
			e := f.assertRefused(t, try(client, wrong, "192.0.2.1"), sts.InvalidClient)
			if !strings.Contains(e.Message, "check the client id and its secret") {
				t.Fatal(e.Message)
			}
			f.now = f.now.Add(e.RetryAfter)
			out = append(out, e.RetryAfter)
		}
		return out
	}
	unknown, known := waits("nobody"), waits("web")
	for i := range known {
		if known[i] != unknown[i] {
			t.Errorf("failure %d: a client waits %s, an unknown one %s", i, known[i], unknown[i])
		}
	}
	most := time.Duration(0)
	for i, wait := range known {
		if i < 9 && wait != 0 || i == 9 && wait != time.Second {
			t.Errorf("failure %d waits %s", i, wait)
		}
		most = max(most, wait)
	}
	if most != time.Minute {
		t.Errorf("the longest wait is %s", most)
	}

	// Not looked at, even if it is right; and from elsewhere it is as if nothing
	// had happened.
	f.assertRefused(t, try("web", wrong, "192.0.2.1"), sts.InvalidClient)
	e := f.assertRefused(t, try("web", f.secrets["web"], "192.0.2.1"), sts.InvalidClient)
	if e.RetryAfter == 0 || !strings.Contains(f.audit.last().Reason, "too many failures in a row") {
		t.Errorf("%v, record %+v", e, f.audit.last())
	}
	f.token(t, try("web", f.secrets["web"], "192.0.2.2"))
	// The client api is authenticated; it has no rule.
	f.assertRefused(t, try("api", f.secrets["api"], "192.0.2.1"), sts.InvalidRequest)

	// Nobody is locked out: of a few attempts one is looked at.
	tries := 1
	for ; ; tries++ {
		if _, err := f.service.Token(t.Context(), try("web", f.secrets["web"], "192.0.2.1")); err == nil {
			break
		}
	}
	if tries < 10 || tries > 16 {
		t.Errorf("the right secret works at the attempt %d", tries)
	}
	// Where the client is known to be it is never refused without a look, however
	// many others fail beside it.
	for range 30 {
		e = f.assertRefused(t, try("web", wrong, "192.0.2.1"), sts.InvalidClient)
	}
	if e.RetryAfter != time.Minute {
		t.Errorf("who fails is told to come back in %s", e.RetryAfter)
	}
	f.token(t, try("web", f.secrets["web"], "192.0.2.1"))

	t.Run("a network of IPv6 is one", func(t *testing.T) {
		for i := range 11 {
			f.assertRefused(t, try("web", wrong, fmt.Sprintf("2001:db8::%x", i)), sts.InvalidClient)
		}
		f.assertRefused(t, try("web", f.secrets["web"], "2001:db8::ff:1"), sts.InvalidClient)
		f.token(t, try("web", f.secrets["web"], "2001:db8:0:1::1"))
	})
	t.Run("assertions", func(t *testing.T) {
		for range 10 {
			f.assertRefused(t, by(f.assertion(t, "signer", nil, map[string]any{"aud": "x"})), sts.InvalidClient)
		}
		uses := f.replay.uses
		e := f.assertRefused(t, by(f.assertion(t, "signer", nil, nil)), sts.InvalidClient)
		if e.RetryAfter == 0 || f.replay.uses != uses || !strings.Contains(e.Message, unproven) {
			t.Errorf("%v", e)
		}
		f.token(t, by(f.assertion(t, "publisher", nil, nil)))
		f.now = f.now.Add(time.Minute)
		f.token(t, by(f.assertion(t, "signer", nil, nil)))
	})
	t.Run("what is not the client's fault", func(t *testing.T) {
		f.replay.err = fmt.Errorf("full")
		for range 20 {
			f.assertRefused(t, by(f.assertion(t, "signer", nil, nil)), sts.Unavailable)
		}
		f.replay.err = nil
		f.token(t, by(f.assertion(t, "signer", nil, nil)))
	})
}

// TestThrottleBounded holds that failures for many clients take no more memory
// than so much, and that names of any length do not either.
func TestThrottleBounded(t *testing.T) {
	f := newFixture(t)
	for i := range 20_000 {
		r := f.credentials("web")
		r.Credential.ClientID = strings.Repeat("x", i%4000) + fmt.Sprint(i)
		if _, err := f.service.Token(t.Context(), r); err == nil {
			t.Fatal("a token")
		}
		f.audit.records = nil
	}
	f.token(t, f.credentials("web"))
}
