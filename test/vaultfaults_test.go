package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/workload-sts/sts/internal/testserver"
)

// vaultFault is something that happens to Vault, or on the way there, while
// tokens are asked for.
type vaultFault struct {
	revokes bool // whether its end revokes the key
	name    string
	lasts   time.Duration
	begin   func(*testing.T, *faultNode)
	end     func(*testing.T, *faultNode) // returns when Vault can be used again
	reason  string                       // in the log
	noticed string                       // what the status of the keys says instead once they were looked after

	served   int           // tokens are issued all the time, and so many requests are refused at most; -1: it is an outage
	logins   int           // most logins at Vault
	recovers time.Duration // until tokens are issued after the end; 0: 1 s
	late     int           // calls from before the circuit opened that arrive after that
}

const outage = -1

func (f vaultFault) recovery() time.Duration { return max(f.recovers, time.Second) }

var vaultFaults = []vaultFault{{
	name: "F04 slow, 200 ms", lasts: 2 * time.Second,
	begin: func(_ *testing.T, n *faultNode) { n.proxy.Delay(200 * time.Millisecond) },
	end:   func(_ *testing.T, n *faultNode) { n.proxy.Heal() },
}, {
	name: "F07 tokens of Vault revoked", lasts: 2 * time.Second, served: 5, logins: 1,
	begin:  func(t *testing.T, n *faultNode) { n.revokeTokens(t) },
	end:    func(*testing.T, *faultNode) {},
	reason: "the token of vault is not valid any more; logging in",
}, {
	name: "F12 rate quota", lasts: 2 * time.Second, served: outage,
	begin: func(t *testing.T, n *faultNode) {
		n.vault.Do(t, http.MethodPost, "sys/quotas/config", map[string]any{"enable_rate_limit_response_headers": true})
		n.vault.Do(t, http.MethodPost, "sys/quotas/rate-limit/sts", map[string]any{"path": "transit/sign/sts", "rate": 1, "interval": "60s"})
		n.sign(t) // what the quota allows
	},
	end:      func(t *testing.T, n *faultNode) { n.vault.Do(t, http.MethodDelete, "sys/quotas/rate-limit/sts", nil) },
	reason:   "vault limits the rate of requests",
	recovers: 6 * time.Second, // it was told to come back in a minute, and does so within 5 s
}, {
	name: "F08 secret id destroyed, tokens of Vault revoked", lasts: 2 * time.Second, served: outage, logins: 3,
	begin: func(t *testing.T, n *faultNode) {
		n.vault.Do(t, http.MethodPost, "auth/approle/role/sts/secret-id/destroy", map[string]any{"secret_id": n.secretID(t)})
		n.revokeTokens(t)
	},
	end: func(t *testing.T, n *faultNode) {
		data, _ := n.vault.Do(t, http.MethodPost, "auth/approle/role/sts/secret-id", nil)["data"].(map[string]any)
		if err := os.WriteFile(n.secretIDFile(), []byte(fmt.Sprintln(data["secret_id"])), 0o600); err != nil {
			t.Fatal(err)
		}
	},
	reason:   "put a new secret id into",
	recovers: 3500 * time.Millisecond, // it looks at its files each 2 s
}, {
	name: "F01 sealed", lasts: 2 * time.Second, served: outage,
	begin:  func(t *testing.T, n *faultNode) { n.vault.Seal(t) },
	end:    func(t *testing.T, n *faultNode) { n.vault.Unseal(t) },
	reason: "vault is sealed",
}, {
	name: "F03 killed, restarted sealed", lasts: 2 * time.Second, served: outage,
	begin: func(t *testing.T, n *faultNode) { n.vault.Kill(t); n.proxy.Refuse() },
	end: func(t *testing.T, n *faultNode) {
		n.vault.Restart(t)
		n.proxy.Heal()
		time.Sleep(time.Second) // until somebody unseals it
		n.vault.Unseal(t)
	},
	reason: "connection refused",
}, {
	name: "F03 black hole", lasts: 4 * time.Second, served: outage,
	begin:  func(_ *testing.T, n *faultNode) { n.proxy.Blackhole() },
	end:    func(_ *testing.T, n *faultNode) { n.proxy.Heal() },
	reason: "vault does not answer within 2s",
}, {
	name: "F04 slow, 3 s", lasts: 4 * time.Second, served: outage,
	begin:  func(_ *testing.T, n *faultNode) { n.proxy.Delay(3 * time.Second) },
	end:    func(_ *testing.T, n *faultNode) { n.proxy.Heal() },
	reason: "vault does not answer within 2s", late: 8,
}, {
	name: "F05 accepts and never answers", lasts: 4 * time.Second, served: outage,
	begin:  func(t *testing.T, n *faultNode) { n.vault.Pause(t) },
	end:    func(t *testing.T, n *faultNode) { n.vault.Resume(t) },
	reason: "vault does not answer within 2s",
}, {
	name: "F05 dies in mid-answer", lasts: 2 * time.Second, served: outage,
	begin:  func(_ *testing.T, n *faultNode) { n.proxy.DropMidAnswer() },
	end:    func(_ *testing.T, n *faultNode) { n.proxy.Heal() },
	reason: "connection reset by peer",
}, {
	name: "F09 policy removed", lasts: 2 * time.Second, served: outage,
	begin: func(t *testing.T, n *faultNode) { n.vault.Do(t, http.MethodDelete, "sys/policies/acl/sts", nil) },
	end: func(t *testing.T, n *faultNode) {
		hcl, err := os.ReadFile("../deploy/vault/sts.hcl")
		if err != nil {
			t.Fatal(err)
		}
		n.vault.Policy(t, "sts", string(hcl))
	},
	reason: "vault denies it",
}, {
	name: "F09 key deleted", lasts: 2500 * time.Millisecond, served: outage, revokes: true,
	begin: func(t *testing.T, n *faultNode) {
		n.vault.Do(t, http.MethodPost, "transit/keys/sts/config", map[string]any{"deletion_allowed": true})
		n.vault.Do(t, http.MethodDelete, "transit/keys/sts", nil)
	},
	end: func(t *testing.T, n *faultNode) {
		if status, answer := n.vault.Try(t, http.MethodGet, "transit/keys/sts", nil); status != http.StatusNotFound {
			t.Errorf("the key that was deleted is there again: %d %v", status, answer)
		}
		// What the log says that an operator can do.
		lost := n.keys(t)["current"].KID
		n.vault.Transit(t, "sts", "ecdsa-p256")
		n.revoke(t, lost)
	},
	reason: "vault has no such key", noticed: "vault has no key transit/keys/sts any more",
}}

// faultNode is a server on a Vault, and who watches what it asks there.
type faultNode struct {
	*vaultNode
	tap           *tap
	firstSecretID string
	jtis          map[string]bool // of all tokens that were issued
}

// startFaultNode starts a server that looks after its keys every two seconds.
func startFaultNode(t *testing.T) *faultNode {
	t.Helper()
	n := &faultNode{
		vaultNode: startVault(t, vaultSet, "rotation: {jwks_max_age: 4s, publish_ahead: 30s, clock_skew: 1s, retain: 1m}\n"),
		jtis:      map[string]bool{},
	}
	n.firstSecretID = n.secretID(t)
	n.tap = newTap(t, strings.TrimPrefix(n.vault.Addr, "http://"))
	direct := n.proxy.Addr
	n.proxy = testserver.NewProxy(t, n.tap.addr)
	text, err := os.ReadFile(n.config)
	if err == nil {
		err = os.WriteFile(n.config, bytes.Replace(text, []byte(direct), []byte(n.proxy.Addr), 1), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	n.restart(t)
	return n
}

func (n *faultNode) secretIDFile() string { return filepath.Join(n.files, "secret-id") }

func (n *faultNode) secretID(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(n.secretIDFile())
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// revokeTokens revokes all tokens of Vault that AppRole has made.
func (n *faultNode) revokeTokens(t *testing.T) {
	t.Helper()
	data, _ := n.vault.Do(t, "LIST", "auth/token/accessors", nil)["data"].(map[string]any)
	accessors, _ := data["keys"].([]any)
	revoked := 0
	for _, a := range accessors {
		accessor := map[string]any{"accessor": a}
		status, answer := n.vault.Try(t, http.MethodPost, "auth/token/lookup-accessor", accessor)
		of, _ := answer["data"].(map[string]any)
		if status == http.StatusOK && of["path"] == "auth/approle/login" {
			n.vault.Do(t, http.MethodPost, "auth/token/revoke-accessor", accessor)
			revoked++
		}
	}
	if revoked == 0 {
		t.Error("no token of AppRole was found")
	}
}

func (n *faultNode) sign(t *testing.T) {
	t.Helper()
	n.vault.Try(t, http.MethodPost, "transit/sign/sts", map[string]any{"input": "eA=="})
}

// TestVaultFaults lets everything happen to Vault that happens to it, under load
// and one after the other. Whatever it is, requests that need a signature are
// refused in time and as temporary, all else goes on, and when it is over so is
// the outage, by itself [F01, F03-F05, F07, F09, F12, V1, V4, V5, V7-V10].
func TestVaultFaults(t *testing.T) {
	n := startFaultNode(t)
	l := n.load(t)
	time.Sleep(3 * time.Second)
	l.stop()
	time.Sleep(300 * time.Millisecond)
	before := n.usage(t)
	t.Logf("at rest: %+v", before)
	for _, f := range vaultFaults {
		if !n.works(10 * time.Second) {
			t.Fatal("tokens are not issued any more")
		}
		t.Run(f.name, func(t *testing.T) { n.endure(t, f, before) })
	}
	n.checkSecrets(t)
	t.Run("F01 sealed without traffic", n.idle)
	n.checkRecords(t)
}

// works tells whether a token is issued within a time.
func (n *faultNode) works(limit time.Duration) bool {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		res, err := http.PostForm(n.env["STS_HTTP"]+"/oauth2/token", url.Values{
			"grant_type": {"client_credentials"}, "audience": {"api"}, "client_id": {"app"}, "client_secret": {n.secret},
		})
		if err == nil {
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return true
			}
		}
	}
	return false
}

// course is when what happened, and how many connections were made meanwhile.
type course struct {
	began, broken, open, ending, ended, over time.Time
	accepted                                 int // from open to ending
	herd                                     int // from ended to over
}

// endure lets a fault happen under load.
func (n *faultNode) endure(t *testing.T, f vaultFault, before usage) {
	logged := len(n.log.String())
	keySet := getRaw(t, n.env["STS_HTTP"]+"/.well-known/jwks.json")
	l, w := n.load(t), n.watchReadiness(t)
	mended := false
	t.Cleanup(func() {
		if !mended { // the test gave up
			f.end(t, n)
		}
	})
	time.Sleep(600 * time.Millisecond)

	var c course
	c.began = time.Now()
	f.begin(t, n)
	c.broken = time.Now()
	if f.served == outage {
		l.awaitRefusal(t, c.broken)
		time.Sleep(circuitOpens)
		c.open, c.accepted = time.Now(), -n.proxy.Accepted()
		n.checkRest(t, f, keySet)
	}
	time.Sleep(time.Until(c.broken.Add(f.lasts)))
	c.ending = time.Now()
	c.accepted += n.proxy.Accepted()
	f.end(t, n)
	mended = true
	c.ended = time.Now()
	c.herd = -n.proxy.Accepted()
	time.Sleep(time.Second)
	for time.Since(c.ended) < f.recovery() {
		if tokens, _ := l.between(c.ended, time.Now()); len(tokens) > 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	time.Sleep(700 * time.Millisecond)
	l.stop()
	w.stop()
	c.over = time.Now()
	c.herd += n.proxy.Accepted()

	n.checkAnswers(t, f, c, l)
	n.checkCalls(t, f, c, l)
	w.check(t, f, c, l)
	if said := n.log.String()[logged:]; !strings.Contains(said, f.reason) {
		t.Errorf("the log does not say %q", f.reason)
	}
	n.settles(t, before)
}

// awaitRefusal waits until a request is refused.
func (l *load) awaitRefusal(t *testing.T, since time.Time) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if _, refused := l.between(since, time.Now()); len(refused) > 0 {
			return
		}
	}
	t.Error("nothing is refused within 3 s")
}

const (
	mostTime     = 2500 * time.Millisecond // for an answer: 2 s, and half a second for a busy machine
	mostRefusal  = 20 * time.Millisecond   // once the circuit is open, in the median
	mostReady    = 2 * time.Second         // until readiness follows
	circuitOpens = 500 * time.Millisecond  // after the first refusal
)

// checkAnswers looks at what was answered to requests for tokens.
func (n *faultNode) checkAnswers(t *testing.T, f vaultFault, c course, l *load) {
	t.Helper()
	wrong := 0
	for _, a := range l.answers {
		if a.jti != "" {
			n.jtis[a.jti] = true
		}
		if a.took > mostTime && a.wrong == "" {
			a.wrong = fmt.Sprintf("answered after %s", a.took)
		}
		if a.wrong == "" {
			continue
		}
		if wrong++; wrong <= 5 {
			t.Errorf("%s, %s after the begin: %s", a.face, a.begun.Sub(c.began), a.wrong)
		}
	}
	if wrong > 0 {
		t.Errorf("of %d answers %d are wrong", len(l.answers), wrong)
	}
	_, early := l.between(time.Time{}, c.began)
	if len(early) > 0 && firstEnd(early).Before(c.began) {
		t.Error("there are refusals before it began")
	}
	if f.served == outage {
		l.checkOutage(t, f, c)
		return
	}
	tokens, refused := l.between(c.began, c.over)
	took := quantiles(tokens)
	t.Logf("%d tokens, median %s, p99 %s; %d refusals", len(tokens), took(.5), took(.99), len(refused))
	if len(refused) > f.served || len(tokens) < 100 {
		t.Errorf("%d refusals, at most %d may be; %d tokens", len(refused), f.served, len(tokens))
	}
}

// checkOutage holds that no token is issued until the end, refusals are quick
// with the circuit open, and all is well soon after.
func (l *load) checkOutage(t *testing.T, f vaultFault, c course) {
	t.Helper()
	tokens, refused := l.between(c.broken, c.ending)
	if len(tokens) > 0 || len(refused) == 0 {
		t.Fatalf("%d tokens and %d refusals while it lasts", len(tokens), len(refused))
	}
	first := firstEnd(refused)
	_, open := l.between(first.Add(circuitOpens), c.ending)
	took := quantiles(open)
	t.Logf("first refusal %s after the begin; %d with the circuit open: median %s, p99 %s", first.Sub(c.began), len(open), took(.5), took(.99))
	if len(open) < 100 || took(.5) > mostRefusal {
		t.Errorf("%d refusals with an open circuit take %s in the median", len(open), took(.5))
	}
	if tokens, _ = l.between(c.broken, c.over); len(tokens) == 0 {
		t.Fatal("no tokens after the end")
	}
	again := firstEnd(tokens).Sub(c.ended)
	_, late := l.between(c.ended.Add(f.recovery()), c.over)
	t.Logf("tokens again %s after the end", again)
	if again > f.recovery() || len(late) > 0 {
		t.Errorf("tokens again %s after the end; %d requests of later than %s refused", again, len(late), f.recovery())
	}
}

// firstEnd is when the first of some answers was there.
func firstEnd(answers []answer) time.Time {
	return slices.MinFunc(answers, func(a, b answer) int { return a.ended().Compare(b.ended()) }).ended()
}

// quantiles of the times that answers took.
func quantiles(answers []answer) func(q float64) time.Duration {
	took := make([]time.Duration, 0, len(answers))
	for _, a := range answers {
		took = append(took, a.took)
	}
	slices.Sort(took)
	return func(q float64) time.Duration {
		if len(took) == 0 {
			return 0
		}
		return took[int(q*float64(len(took)-1))].Round(10 * time.Microsecond)
	}
}

const (
	signPath, loginPath = "/v1/transit/sign/", "/v1/auth/approle/login"
	// What may be open to Vault: calls (batch.calls) and probes, the session, a look
	// after the keys.
	mostConnections = 8 + 4 + 2
)

// checkCalls looks at what Vault was asked: a dead one next to nothing, and one
// that is back no more than before.
func (n *faultNode) checkCalls(t *testing.T, f vaultFault, c course, l *load) {
	t.Helper()
	if logins := n.tap.between(loginPath, c.began, c.over); logins > f.logins {
		t.Errorf("%d logins, at most %d may be", logins, f.logins)
	}
	// Each call but for probes makes a token, so there is nothing that all do at once.
	back := n.tap.between(signPath, c.ended, c.over)
	tokens, _ := l.between(c.ended.Add(-mostTime), c.over)
	tokens = slices.DeleteFunc(tokens, func(a answer) bool { return a.ended().Before(c.ended) })
	first := n.tap.between(signPath, c.ended, c.ended.Add(time.Second))
	t.Logf("after the end: %d calls to sign in the first second, %d in all for %d tokens, %d new connections", first, back, len(tokens), c.herd)
	if back > len(tokens)*11/10+f.late+int(4*c.over.Sub(c.ended).Seconds()) || c.herd > mostConnections {
		t.Errorf("after the end: %d calls to sign for %d tokens, %d new connections", back, len(tokens), c.herd)
	}
	if f.served != outage {
		return
	}
	// A probe each 250 ms at least; the session, each 400 ms; a look after the keys,
	// each 1.5 s, which asks for two things.
	took := c.ending.Sub(c.open).Seconds()
	signs, all := n.tap.between(signPath, c.open, c.ending), n.tap.between("/", c.open, c.ending)
	t.Logf("with the circuit open for %.1f s: %d calls to sign, %d in all, %d connections", took, signs, all, c.accepted)
	if signs > f.late+1+int(4*took) || max(all, c.accepted) > f.late+4+int(8*took) {
		t.Errorf("%d calls to sign, %d in all, %d connections in %.1f s with the circuit open", signs, all, c.accepted, took)
	}
}

// checkRest looks at all that needs no signature.
func (n *faultNode) checkRest(t *testing.T, f vaultFault, keySet string) {
	t.Helper()
	base := n.env["STS_HTTP"]
	quick := func(what string, do func()) {
		begun := time.Now()
		do()
		if d := time.Since(begun); d > time.Second {
			t.Errorf("%s takes %s", what, d)
		}
	}
	quick("the key set", func() {
		if now := getRaw(t, base+"/.well-known/jwks.json"); now != keySet {
			t.Errorf("the key set has changed from %s to %s", keySet, now)
		}
	})
	quick("discovery", func() { get(t, base+"/.well-known/openid-configuration") })
	quick("liveness", func() { get(t, base+"/healthz/live") })
	ask := func(form url.Values, code string) {
		quick(code, func() {
			r := n.post(t, form, func(r *http.Request) { r.SetBasicAuth("app", n.secret) })
			if r.status != http.StatusBadRequest || r.str("error") != code {
				t.Errorf("status %d, want %s: %s", r.status, code, r.raw)
			}
		})
	}
	ask(url.Values{"grant_type": {"client_credentials"}, "audience": {"nowhere"}}, "invalid_target")
	ask(url.Values{"grant_type": {"client_credentials"}, "audience": {"api"}, "scope": {"api.write"}}, "invalid_scope")
	ask(url.Values{"grant_type": {grantExchange}, "audience": {"api"}, "subject_token": {"a.b.c"}, "subject_token_type": {typeJWT}}, "invalid_request")
	name := strings.Map(func(r rune) rune {
		if r == ' ' || r == ',' {
			return '-'
		}
		return r
	}, strings.ToLower(f.name))
	quick("apply", func() { n.apply(t, "kind: Audience\nname: "+name+"\n") })
	quick("get", func() {
		if out, stderr, code := n.stsctl(t, "", "get", "audiences"); code != 0 || !strings.Contains(out, name) {
			t.Errorf("stsctl get: exit code %d, %s%s", code, out, stderr)
		}
	})
	quick("keys status", func() {
		if out, stderr, code := n.stsctl(t, "", "keys", "status"); code != 0 || !strings.Contains(out, f.reason) && (f.noticed == "" || !strings.Contains(out, f.noticed)) {
			t.Errorf("stsctl keys status: exit code %d, it should say %q: %s%s", code, f.reason, out, stderr)
		}
	})
}

// check compares readiness with what happened.
func (w *readiness) check(t *testing.T, f vaultFault, c course, l *load) {
	t.Helper()
	_, refused := l.between(c.began, c.ending)
	var down, up time.Time
	for _, s := range w.said {
		switch {
		case s.wrong != "":
			t.Errorf("readiness: %s", s.wrong)
		case !s.ready && f.revokes && s.missing == "signing key" && s.at.After(c.ending):
			// Between the key that was revoked and the next.
		case !s.ready && s.missing != "vault":
			t.Errorf("not ready, and what is missing is %q", s.missing)
		case !s.ready && s.at.Before(c.began):
			t.Error("not ready before it began")
		case !s.ready && down.IsZero():
			down = s.at
		}
		if !s.ready {
			up = time.Time{}
		} else if up.IsZero() && !down.IsZero() {
			up = s.at
		}
	}
	if len(refused) == 0 {
		if !down.IsZero() {
			t.Error("not ready, though tokens were issued")
		}
		return
	}
	first := firstEnd(refused)
	if f.served != outage && down.IsZero() {
		return // too short to be seen
	}
	if down.IsZero() {
		t.Error("ready all the time")
		return
	}
	if d := down.Sub(first); d > mostReady {
		t.Errorf("not ready only %s after the first refusal", d)
	}
	if up.IsZero() || up.Sub(c.ended) > max(f.recovery(), mostReady) {
		t.Errorf("ready again only %s after the end, if at all", up.Sub(c.ended))
	}
	t.Logf("not ready %s after the first refusal, ready again %s after the end", down.Sub(first), up.Sub(c.ended))
}

// idle is about a server that nobody asks for tokens: it finds out all the same,
// also if it starts only then [V9].
func (n *faultNode) idle(t *testing.T) {
	await := func(what string, ready bool, limit time.Duration) {
		t.Helper()
		for begun := time.Now(); ; time.Sleep(50 * time.Millisecond) {
			s, took := n.readiness(), time.Since(begun).Round(time.Millisecond)
			switch {
			case s.wrong != "":
				t.Fatal(s.wrong)
			case s.ready == ready && (ready || s.missing == "vault"):
				t.Logf("%s: ready is %v after %s", what, ready, took)
				return
			case took > limit:
				t.Errorf("%s: after %s ready is %v, and missing is %q", what, took, s.ready, s.missing)
				return
			}
		}
	}
	await("at first", true, mostReady)
	keySet := getRaw(t, n.env["STS_HTTP"]+"/.well-known/jwks.json")
	n.vault.Seal(t)
	await("sealed", false, 8*time.Second) // it asks each 5 s or 6
	n.restart(t)
	await("started on a sealed Vault", false, mostReady)
	if now := getRaw(t, n.env["STS_HTTP"]+"/.well-known/jwks.json"); now != keySet {
		t.Errorf("the key set has changed from %s to %s", keySet, now)
	}
	begun := time.Now()
	if r := n.ask(t); r.status != http.StatusServiceUnavailable || time.Since(begun) > mostTime {
		t.Errorf("status %d after %s", r.status, time.Since(begun))
	}
	n.vault.Unseal(t)
	if begun = time.Now(); !n.works(time.Second) {
		t.Error("no token within a second of the end")
	}
	t.Logf("a token %s after the end", time.Since(begun))
	await("unsealed", true, mostReady)
	n.checkSecrets(t) // the log is a new one
}

// remembered is what memory a server may take beyond what it begins with, whatever
// happens: decisions that can be explained, 5 MiB, and as much again until those
// that were dropped are collected.
const remembered = 2 * 5 << 20

// settles waits until the server needs no more than before: a tenth more, what
// memory a heap varies by, what it may remember, and connections to Vault that are kept for a minute,
// each with two goroutines and a descriptor [V7].
func (n *faultNode) settles(t *testing.T, before usage) {
	t.Helper()
	var now usage
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		now = n.usage(t)
		pooled := max(0, now.connections-before.connections)
		most := usage{
			before.goroutines*11/10 + 4 + 2*pooled, before.fds*11/10 + 2 + pooled, before.rss*11/10 + 4<<20 + remembered, before.connections + mostConnections,
		}
		if now.goroutines <= most.goroutines && now.fds <= most.fds && now.rss <= most.rss && now.connections <= most.connections {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("at rest %+v, and at most it may be %+v", now, most)
			break
		}
	}
	t.Logf("at rest: %+v", now)
}

// checkRecords joins tokens with the audit log: each has one record [V5].
func (n *faultNode) checkRecords(t *testing.T) {
	t.Helper()
	records := map[string]int{}
	for _, r := range n.audit(t) {
		if issued, ok := r["issued"].(map[string]any); ok {
			records[issued["jti"].(string)]++
		}
	}
	missing, double := 0, 0
	for jti := range n.jtis {
		switch records[jti] {
		case 0:
			missing++
		case 1:
		default:
			double++
		}
	}
	t.Logf("%d tokens", len(n.jtis))
	if missing+double > 0 {
		t.Errorf("of %d tokens %d have no record and %d several", len(n.jtis), missing, double)
	}
}

// checkSecrets looks for what must not leave the server [V10].
func (n *faultNode) checkSecrets(t *testing.T) {
	t.Helper()
	audit, err := os.ReadFile(filepath.Join(n.dir, "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	secrets := map[string]string{
		"secret id": n.secretID(t), "destroyed secret id": n.firstSecretID, "client secret": n.secret, "wrong client secret": wrongSecret,
		"admin token": n.env["STS_ADMIN_TOKEN"], "root token": n.vault.RootToken, "unseal key": n.vault.UnsealKey, "token of ours": "eyJhbGciOi", "token of Vault": "hvs.",
	}
	n.tap.mu.Lock()
	for token := range n.tap.tokens {
		secrets[fmt.Sprintf("token %d of Vault", len(secrets))] = token
	}
	n.tap.mu.Unlock()
	// A checkpoint is signed, and no token.
	var records strings.Builder
	for line := range strings.Lines(string(audit)) {
		if !strings.Contains(line, `"event":"checkpoint"`) {
			records.WriteString(line)
		}
	}
	for where, text := range map[string]string{"log": n.log.String(), "audit log": records.String(), "metrics": getRaw(t, n.env["STS_HTTP"]+"/metrics")} {
		for what, secret := range secrets {
			if secret == "" || strings.Contains(text, secret) {
				t.Errorf("the %s has a %s (of %d characters)", where, what, len(secret))
			}
		}
	}
}
