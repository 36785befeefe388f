package e2e

import (
	"context"
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
	"github.com/workload-sts/sts/internal/testserver"
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

	rotation string // configuration of it

	mu         sync.Mutex
	tokens     []issued
	assertions []assertion
	secrets    []check.Text

	stop    chan struct{}
	clients sync.WaitGroup
	before  []map[string]float64
}

// site is where a server runs, and runs again after it was killed.
type site struct {
	*node
	number int
	config string // file
	url    string
	admin  string          // token
	under  []string        // what runs stsd
	logs   strings.Builder // of the runs that have ended
	client *http.Client
}

type issued struct {
	jti, token string
	at         time.Time
}

type assertion struct{ jti, text string }

// lifetime is for how long tokens are used; they live longer.
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
		rotation: "rotation: {period: 10s, publish_ahead: 6s, retain: 62s, jwks_max_age: 4s, clock_skew: 1s}\n",
	}
	h.rnd = rand.New(rand.NewPCG(h.seed, 0))
	return h
}

// add starts a server whose data is in a directory, besides what it keeps in its
// storage. All but the issuer and the storage is its own.
func (h *history) add(data, storage, keyFile string, under ...string) *site {
	h.t.Helper()
	dir := h.t.TempDir()
	s := &site{number: len(h.sites), config: filepath.Join(dir, "stsd.yaml"), under: under}
	httpAddr, grpcAddr := steadyAddress(h.t), steadyAddress(h.t)
	s.url = "http://" + httpAddr
	issuer := s.url
	if len(h.sites) > 0 {
		issuer = h.sites[0].url
	}
	s.client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 20}}
	text := fmt.Sprintf(`issuer: %s
http: {listen: "%s"}
grpc: {listen: "%s"}
storage: %s
audit: {file: %s, durability: sync}
admin: {token_file: admin.token, socket: {disabled: true}}
keys: {sets: [{name: default, local: {key_file: %s}}]}
%s`, issuer, httpAddr, grpcAddr, storage, filepath.Join(data, "audit.jsonl"), keyFile, h.rotation)
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
	s.admin = adminToken(h.t, dir)
	h.secrets = append(h.secrets, check.Text{Name: "an admin token", Text: s.admin})
	h.begin(s)
	s.node.dir = data
	s.env = map[string]string{"STS_ISSUER": issuer, "STS_HTTP": s.url, "STS_GRPC": grpcAddr, "STS_ADMIN_TOKEN": s.admin}
	h.sites = append(h.sites, s)
	return s
}

// begin starts the server of a site.
func (h *history) begin(s *site) {
	h.t.Helper()
	old := s.node
	s.node = startUnder(h.t, s.under, "serve", "--config", s.config)
	if old != nil {
		s.logs.WriteString(old.log.String())
		s.node.dir, s.node.env = old.dir, old.env
	}
}

// kill kills a server at once, and starts it again when it was dead for a time.
func (h *history) kill(s *site, dead time.Duration) {
	h.t.Helper()
	up := h.log.Down(s.number)
	s.kill(h.t)
	time.Sleep(dead)
	h.begin(s)
	up()
}

// steadyAddress is a free address whose port no connection takes for its own end,
// so that it is free again after a restart.
func steadyAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		if address := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(22_000)); free(address) {
			return address
		}
	}
	t.Fatal("no port is free")
	return ""
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

// await waits until a server knows the clients and issues.
func (h *history) await(s *site) {
	h.t.Helper()
	c := &loadClient{h: h, number: -1, rnd: rand.New(rand.NewPCG(h.seed, 1<<32))}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		call, _ := c.ask(s, "/oauth2/token", credentialsForm(), c.secret)
		if call.Status == http.StatusOK {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("server %d does not issue after 30 s: %d %s\n%s", s.number, call.Status, call.Problem, s.log)
		}
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

// auditLog returns the audit log of a site, with the files that were rotated, and
// the arguments that name them.
func (s *site) auditLog(t *testing.T) (text string, files []string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(s.dir, "audit*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text += readFile(t, name)
	}
	return text, []string{filepath.Join(s.dir, "audit.jsonl")}
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

// usage returns what a server uses.
func (h *history) usage(s *site) map[string]float64 {
	h.t.Helper()
	used := map[string]float64{}
	for line := range strings.Lines(getRaw(h.t, s.url+"/metrics")) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if _, counts := check.Slack[name]; counts {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				h.t.Fatalf("metric %s: %v", line, err)
			}
			used[name] = n
		}
	}
	return used
}

// settled waits until a server uses what it used before, a minute at most, and
// returns what it used.
func (h *history) settled(s *site) check.Usage {
	h.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		u := check.Usage{Node: s.number, Before: h.before[s.number], After: h.usage(s)}
		if len(u.Grown()) == 0 || time.Now().After(deadline) {
			return u
		}
	}
}

// canaries are the parts of a token or an assertion that are worth something.
func canary(name, token string) check.Text {
	return check.Text{Name: name, Text: token[strings.LastIndexByte(token, '.')+1:]}
}

// ctx ends with the test.
func (h *history) ctx() context.Context { return h.t.Context() }

// pause stops a server for a time without ending it.
func (h *history) pause(s *site, d time.Duration) {
	h.t.Helper()
	up := h.log.Down(s.number)
	defer up()
	p, err := testserver.Pause(s.cmd.Process)
	if err != nil {
		h.t.Fatal(err)
	}
	time.Sleep(d)
	if err := p.Resume(); err != nil {
		h.t.Fatal(err)
	}
}
