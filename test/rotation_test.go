package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/workload-sts/sts/jose"
)

// traffic asks for tokens without a pause and has each verified, at once and
// again shortly before it expires, by verifiers that cache as long as they may.
type traffic struct {
	base, secret string
	verifiers    map[string]verifier

	mu       sync.Mutex
	kids     map[string]int // tokens by key
	issued   int
	refused  []time.Time // when a token could not be had
	failures []failure
}

type failure struct {
	at   time.Time
	kid  string
	what string
}

func newTraffic(t *testing.T, n *vaultNode) *traffic {
	issuer := n.env["STS_ISSUER"]
	tr := &traffic{base: n.env["STS_HTTP"], secret: n.secret, kids: map[string]int{}, verifiers: map[string]verifier{
		"go-oidc": newGoOIDC(issuer), "node jose": newNodeJose(t, issuer),
	}}
	for i := range 4 { // each caches from another moment on
		tr.verifiers[fmt.Sprint("model ", i)] = model{issuer, &strictCache{}}
	}
	return tr
}

// run goes on until ctx ends, and returns when all tokens have been looked at.
func (tr *traffic) run(ctx context.Context) {
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for ctx.Err() == nil {
				tr.one(&wg)
				time.Sleep(rand.N(40 * time.Millisecond))
			}
		})
	}
	wg.Wait()
}

func (tr *traffic) one(wg *sync.WaitGroup) {
	form := url.Values{"grant_type": {"client_credentials"}, "audience": {"api"}, "client_id": {"app"}, "client_secret": {tr.secret}}
	res, err := http.PostForm(tr.base+"/oauth2/token", form)
	var body struct {
		AccessToken string `json:"access_token"`
	}
	if err == nil {
		defer res.Body.Close()
		err = json.NewDecoder(res.Body).Decode(&body)
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if err != nil || body.AccessToken == "" {
		tr.refused = append(tr.refused, time.Now())
		return
	}
	jws, err := jose.Parse(body.AccessToken)
	if err != nil {
		tr.failures = append(tr.failures, failure{time.Now(), "", err.Error()})
		return
	}
	tr.kids[jws.Header.KeyID]++
	tr.issued++
	late := tr.issued%5 == 0
	wg.Go(func() {
		tr.verify(body.AccessToken, jws.Header.KeyID)
		if late {
			time.Sleep(8500 * time.Millisecond) // of the ten seconds that it lives
			tr.verify(body.AccessToken, jws.Header.KeyID)
		}
	})
}

func (tr *traffic) verify(token, kid string) {
	for name, v := range tr.verifiers {
		if err := v.verify(context.Background(), token); err != nil {
			tr.mu.Lock()
			tr.failures = append(tr.failures, failure{time.Now(), kid, fmt.Sprintf("%s, key %s: %v", name, kid, err)})
			tr.mu.Unlock()
		}
	}
}

// keys returns how many keys have signed.
func (tr *traffic) keys() int {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return len(tr.kids)
}

// await waits until so many keys have signed.
func (tr *traffic) await(t *testing.T, keys int, limit time.Duration) {
	t.Helper()
	for deadline := time.Now().Add(limit); tr.keys() < keys; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d keys have signed after %s, want %d", tr.keys(), limit, keys)
		}
	}
}

// TestRotationUnderLoad lets keys in a real Vault rotate by schedule twenty
// times, with a restart, a rotation behind our back and an emergency among them,
// while tokens are issued and verified all the time. Nothing fails to verify,
// except while the emergency says that it may [promise 4, F10, Y-06].
func TestRotationUnderLoad(t *testing.T) {
	n := startVault(t, vaultSet, quickRotation)
	tr := newTraffic(t, n)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() { defer close(done); tr.run(ctx) }()

	tr.await(t, 6, time.Minute)
	down := time.Now()
	n.restart(t)
	up := time.Now()

	tr.await(t, 12, time.Minute)
	n.vault.Do(t, http.MethodPost, "transit/keys/sts/rotate", nil)

	tr.await(t, 16, time.Minute)
	victim := kidOf(t, n.ask(t).str("access_token"))
	emergency := time.Now()
	until := n.revoke(t, victim)

	tr.await(t, 21, time.Minute)
	cancel()
	<-done

	outside, inside := 0, 0
	for _, f := range tr.failures {
		if f.at.After(emergency) && f.at.Before(until) {
			inside++
			continue
		}
		if f.at.After(emergency) && f.kid == victim {
			continue // it must not be trusted any more
		}
		if outside++; outside <= 10 {
			t.Errorf("at %s: %s", f.at.Format(time.StampMilli), f.what)
		}
	}
	for _, at := range tr.refused {
		if at.Before(down) || at.After(up.Add(time.Second)) && (at.Before(emergency) || at.After(until)) {
			t.Errorf("no token at %s; the server was down from %s to %s", at, down, up)
		}
	}
	t.Logf("%d tokens by %d keys; %d failures outside the emergency's window of %s, %d within; %d refusals around the restart",
		tr.issued, len(tr.kids), outside, until.Sub(emergency).Round(time.Millisecond), inside, len(tr.refused))
	if t.Failed() {
		for line := range strings.Lines(n.log.String()) {
			if !strings.Contains(line, `"msg":"request"`) {
				t.Log(line)
			}
		}
	}
	if tr.issued < 500 {
		t.Errorf("only %d tokens", tr.issued)
	}
}

// revoke revokes a key by stsctl and returns until when verifiers may still
// accept it. The server and this test share a clock.
func (n *vaultNode) revoke(t *testing.T, kid string) time.Time {
	t.Helper()
	out, stderr, code := n.stsctl(t, "", "keys", "revoke", kid, "--yes", "-o", "json")
	if code != 0 {
		t.Fatalf("revoke: %s", stderr)
	}
	var said struct {
		AcceptedUntil time.Time `json:"accepted_until"`
		Successor     struct{ Kid string }
	}
	if err := json.Unmarshal([]byte(out), &said); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if said.Successor.Kid == "" || said.Successor.Kid == kid || said.AcceptedUntil.IsZero() {
		t.Errorf("revoke says %s", out)
	}
	jwks := get(t, n.env["STS_HTTP"]+"/.well-known/jwks.json")
	if strings.Contains(jwks.raw, kid) {
		t.Error("the revoked key is still published")
	}
	return said.AcceptedUntil
}

func kidOf(t *testing.T, token string) string {
	t.Helper()
	jws, err := jose.Parse(token)
	if err != nil {
		t.Fatal(err)
	}
	return jws.Header.KeyID
}
