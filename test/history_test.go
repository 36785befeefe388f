package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/workload-sts/sts/sts"
	"github.com/workload-sts/sts/test/check"
)

// history is servers of one issuer, clients that ask them for everything whose
// order matters, and what they saw.
type history struct {
	t      *testing.T
	rnd    *rand.Rand // of who breaks things; each client has its own
	seed   uint64
	sites  []*site
	log    check.Log
	signer signer
	secret string
	lag    time.Duration

	rotation   string // configuration of it
	durability string // of audit records

	mu         sync.Mutex
	tokens     []issued
	assertions []assertion
	secrets    []check.Text

	stop    chan struct{}
	clients sync.WaitGroup
	before  []map[string]float64
}

type issued struct {
	jti, token string
	at         time.Time
}

type assertion struct{ jti, text string }

// tokensUsedFor is for how long tokens are used; they live longer.
const tokensUsedFor = 25 * time.Second

// seedOf is the seed of a random test: a new one, or that of STS_TEST_SEED, with
// which a run is repeated.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("STS_TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("STS_TEST_SEED: %v", err)
		}
	}
	t.Logf("STS_TEST_SEED=%d", seed)
	return seed
}

// faultsOf is how many faults a random test has: a few, or STS_TEST_FAULTS.
func faultsOf(t *testing.T, few int) int {
	t.Helper()
	if text := os.Getenv("STS_TEST_FAULTS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("STS_TEST_FAULTS: %v", err)
		}
		return n
	}
	return few
}

func newHistory(t *testing.T, lag time.Duration) *history {
	t.Helper()
	h := &history{
		t: t, seed: seedOf(t), lag: lag, stop: make(chan struct{}), signer: newSigner(t, "signer", jose.ES256),
		durability: "async", rotation: "rotation: {period: 10s, publish_ahead: 6s, retain: 62s, jwks_max_age: 4s, clock_skew: 1s}\n",
	}
	h.rnd = rand.New(rand.NewPCG(h.seed, 0))
	return h
}

// setUp applies what the clients need. Their tokens live so long.
func (h *history) setUp(lifetime string) {
	h.t.Helper()
	var hash string
	h.secret, hash = sts.NewSecret()
	h.secrets = append(h.secrets, check.Text{Name: "the secret of a client", Text: h.secret})
	h.sites[0].apply(h.t, fmt.Sprintf(`
kind: Audience
name: demo
scopes: [demo.read, demo.write]
max_ttl: %s
introspectors: [app]
---
kind: Audience
name: closed
scopes: [demo.read]
---
kind: Client
name: app
secrets: [{hash: "%s"}]
---
kind: Rule
name: app
requester: {clients: [app]}
allow: {audiences: [demo], scopes: [demo.read]}
---
kind: Rule
name: again
requester: {clients: [app]}
subject: {issuer: self}
allow: {audiences: [demo], scopes: [demo.read]}
---
`, lifetime, hash)+h.signer.yaml(h.t))
}

// run sets the clients to work.
func (h *history) run(clients int) {
	h.t.Helper()
	h.setUp("60s")
	for _, s := range h.sites {
		h.await(s)
		h.before = append(h.before, h.usage(s))
	}
	for i := range clients {
		c := &loadClient{h: h, number: i, rnd: rand.New(rand.NewPCG(h.seed, uint64(i+1)))}
		h.clients.Go(c.run)
	}
	for _, s := range h.sites {
		h.clients.Go(func() { h.look(s) })
	}
}

// look asks again and again for what needs nothing.
func (h *history) look(s *site) {
	client := &http.Client{Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	for {
		for _, path := range []string{"/healthz/live", "/.well-known/jwks.json"} {
			c := check.Call{Client: -1, Node: s.number, Kind: check.Look, Key: path, Begin: time.Now()}
			var body []byte
			res, err := client.Get(s.url + path)
			if err == nil {
				c.Status = res.StatusCode
				body, err = io.ReadAll(res.Body)
				res.Body.Close()
			}
			if err != nil {
				c.Status, c.Problem = 0, err.Error()
			}
			if c.End = time.Now(); c.Status == http.StatusOK && strings.HasSuffix(path, "jwks.json") {
				h.publish(s, c.End, body)
			}
			h.log.Add(c)
		}
		select {
		case <-h.stop:
			return
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (h *history) publish(s *site, at time.Time, body []byte) {
	p := check.Published{Node: s.number, At: at}
	if err := json.Unmarshal(body, &p.Keys); err != nil {
		h.t.Errorf("key set of server %d: %v", s.number, err)
	}
	h.log.Publish(p)
}

// end stops the clients, and checks what they saw.
func (h *history) end() {
	h.t.Helper()
	// Beside a disk that hangs there are few calls, and maybe not every answer yet.
	for deadline := time.Now().Add(10 * time.Second); h.log.Calls() < 1000 && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
	}
	close(h.stop)
	h.clients.Wait()
	for _, s := range h.sites {
		h.await(s) // it has recovered
		s.client.CloseIdleConnections()
	}
	past := h.finish()
	if h.t.Failed() {
		return // by a server that did not end well, which says more
	}
	found := check.Check(past)
	for _, v := range found {
		h.t.Error(v)
	}
	counts := map[string]int{}
	for _, c := range past.Calls {
		counts[fmt.Sprintf("%s: %s", c.Kind, [...]string{"unknown", "yes", "no"}[c.Answer])]++
	}
	h.t.Logf("%d calls, %d records, %d outages: %v", len(past.Calls), len(past.Records), len(past.Outages), counts)
	for _, kind := range []string{"issue: yes", "use: yes", "use: no", "exchange: yes", "exchange: no", "introspect: yes", "introspect: no", "revoke: yes", "write: yes", "read: yes"} {
		if counts[kind] == 0 {
			h.t.Errorf("no call was %s: the history shows nothing", kind)
		}
	}
}

// finish gathers what is left of the history, and stops the servers.
func (h *history) finish() check.History {
	h.t.Helper()
	var texts []check.Text
	var grown []check.Usage
	for _, s := range h.sites {
		h.publish(s, time.Now(), []byte(getRaw(h.t, s.url+"/.well-known/jwks.json")))
		texts = append(texts, check.Text{Name: "metrics", Text: getRaw(h.t, s.url+"/metrics")})
		grown = append(grown, h.settled(s))
	}
	past := h.log.History()
	past.Lag, past.Deadline, past.Allowed = h.lag, 12*time.Second, allowed // 10 s, on a machine that does other things too
	past.Texts, past.Usage, past.Secrets = texts, grown, h.secrets
	for _, s := range h.sites {
		s.stop(h.t)
		audit, files := s.auditLog(h.t)
		for line := range strings.Lines(audit) {
			r, err := check.ParseRecord(s.number, []byte(line))
			if err != nil {
				h.t.Errorf("audit record %q: %v", line, err)
			}
			past.Records = append(past.Records, r)
		}
		past.Texts = append(past.Texts, check.Text{Name: "audit log", Text: audit}, check.Text{Name: "log", Text: s.logs.String() + s.log.String()})
		if out, stderr, code := command(h.t, os.Environ(), "", filepath.Join(bin, "stsctl"), append([]string{"audit", "verify"}, files...)...); code != 0 {
			h.t.Errorf("the audit log of server %d: %s%s", s.number, out, stderr)
		}
	}
	return past
}

// allowed: all that rules allow is one audience and one scope, for a minute.
func allowed(_ check.Call, c check.Claims) error {
	switch {
	case !slices.Equal(c.Audience, []string{"demo"}):
		return fmt.Errorf("its audience is %v", c.Audience)
	case c.Scope != "demo.read":
		return fmt.Errorf("its scope is %q", c.Scope)
	case c.ClientID != "app" && c.ClientID != "signer":
		return fmt.Errorf("its client is %q", c.ClientID)
	case c.Expiry.Time().Sub(c.IssuedAt.Time()) > time.Minute:
		return errors.New("it lives longer than a minute")
	}
	return nil
}

// canary is the part of a token or an assertion that is worth something.
func canary(name, token string) check.Text {
	return check.Text{Name: name, Text: token[strings.LastIndexByte(token, '.')+1:]}
}
