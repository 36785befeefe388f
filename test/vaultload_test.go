package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/jose"
)

// tap passes connections on to Vault and notes the requests that go by.
type tap struct {
	addr, target string
	wg           sync.WaitGroup

	mu     sync.Mutex
	calls  []tapCall
	tokens map[string]bool // of Vault, that were sent
}

type tapCall struct {
	at   time.Time
	path string
}

func newTap(t *testing.T, target string) *tap {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{addr: ln.Addr().String(), target: target, tokens: map[string]bool{}}
	ctx, cancel := context.WithCancel(context.Background())
	p.wg.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return // closed
			}
			p.wg.Go(func() { p.serve(ctx, client) })
		}
	})
	t.Cleanup(func() { cancel(); ln.Close(); p.wg.Wait() })
	return p
}

func (p *tap) serve(ctx context.Context, client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		client.(*net.TCPConn).SetLinger(0)
		return
	}
	defer server.Close()
	hangUp := func() { client.Close(); server.Close() }
	defer context.AfterFunc(ctx, hangUp)()
	p.wg.Go(func() { io.Copy(client, server); hangUp() })
	requests := bufio.NewReader(io.TeeReader(client, server))
	for {
		r, err := http.ReadRequest(requests)
		if err != nil {
			return
		}
		p.mu.Lock()
		p.calls = append(p.calls, tapCall{time.Now(), r.URL.Path})
		if token := r.Header.Get("X-Vault-Token"); token != "" {
			p.tokens[token] = true
		}
		p.mu.Unlock()
		io.Copy(io.Discard, r.Body)
	}
}

// between counts the requests for a path, and below it, in a time.
func (p *tap) between(path string, from, to time.Time) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.calls {
		if strings.HasPrefix(c.path, path) && !c.at.Before(from) && c.at.Before(to) {
			n++
		}
	}
	return n
}

// answer is what a request for a token came to.
type answer struct {
	face  string
	begun time.Time
	took  time.Duration
	jti   string // of the token; empty: refused
	wrong string // what is not as it must be, with a token or without
}

func (a answer) ended() time.Time { return a.begun.Add(a.took) }

const (
	callersPerFace = 16
	betweenCalls   = 60 * time.Millisecond // from an answer to the next request, on average
)

// load asks for tokens on both faces all the time, whatever comes back, and for
// one with a wrong secret.
type load struct {
	n      *faultNode
	http   *http.Client
	conn   *grpc.ClientConn
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	answers []answer
	keys    map[string]jose.Key // that were published
}

func (n *faultNode) load(t *testing.T) *load {
	t.Helper()
	conn, err := grpc.NewClient(n.env["STS_GRPC"], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{
		n: n, conn: conn, cancel: cancel, keys: map[string]jose.Key{},
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2 * callersPerFace}, Timeout: 10 * time.Second},
	}
	for range callersPerFace {
		l.caller(ctx, l.byHTTP)
		l.caller(ctx, l.byGRPC)
	}
	l.caller(ctx, l.intruder)
	t.Cleanup(l.stop)
	return l
}

// stop returns when all requests have been answered and all connections are
// closed. It may be called again.
func (l *load) stop() {
	l.cancel()
	l.wg.Wait()
	l.http.CloseIdleConnections()
	l.conn.Close()
}

// caller asks until ctx ends; what is under way then is waited for.
func (l *load) caller(ctx context.Context, ask func() answer) {
	l.wg.Go(func() {
		for ctx.Err() == nil {
			time.Sleep(betweenCalls/2 + rand.N(betweenCalls))
			begun := time.Now()
			a := ask()
			a.begun, a.took = begun, time.Since(begun)
			l.mu.Lock()
			l.answers = append(l.answers, a)
			l.mu.Unlock()
		}
	})
}

func (l *load) post(secret string) (*http.Response, []byte, error) {
	form := url.Values{"grant_type": {"client_credentials"}, "audience": {"api"}, "client_id": {"app"}, "client_secret": {secret}}
	res, err := l.http.PostForm(l.n.env["STS_HTTP"]+"/oauth2/token", form)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	return res, raw, err
}

func (l *load) byHTTP() (a answer) {
	a.face = "HTTP"
	res, raw, err := l.post(l.n.secret)
	var body struct {
		AccessToken string `json:"access_token"`
		Error       string `json:"error"`
	}
	if err == nil {
		err = json.Unmarshal(raw, &body)
	}
	if err != nil {
		a.wrong = err.Error()
		return a
	}
	if c := res.Header.Get("Cache-Control"); c != "no-store" {
		a.wrong = fmt.Sprintf("Cache-Control %q", c)
	}
	after, err := strconv.Atoi(res.Header.Get("Retry-After"))
	switch {
	case res.StatusCode == http.StatusOK:
		a.accept(l, body.AccessToken)
	case res.StatusCode != http.StatusServiceUnavailable || body.Error != "temporarily_unavailable":
		a.wrong = fmt.Sprintf("status %d, %s", res.StatusCode, raw)
	case err != nil || after < 1:
		a.wrong = fmt.Sprintf("Retry-After %q", res.Header.Get("Retry-After"))
	}
	return a
}

func (l *load) byGRPC() (a answer) {
	a.face = "gRPC"
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	reply, err := stsv1.NewTokenServiceClient(l.conn).IssueToken(ctx, &stsv1.IssueTokenRequest{
		ClientId: "app", ClientSecret: l.n.secret, Audience: []string{"api"},
	})
	if err == nil {
		a.accept(l, reply.GetAccessToken())
		return a
	}
	st := status.Convert(err)
	retry, reason := false, false
	for _, d := range st.Proto().GetDetails() {
		switch value := d.GetValue(); d.GetTypeUrl() {
		case "type.googleapis.com/google.rpc.RetryInfo":
			retry = len(value) > 0
		case "type.googleapis.com/google.rpc.ErrorInfo":
			reason = bytes.Contains(value, []byte("temporarily_unavailable"))
		}
	}
	if st.Code() != codes.Unavailable || !reason || !retry {
		a.wrong = fmt.Sprintf("RetryInfo %v, ErrorInfo %v: %v", retry, reason, err)
	}
	return a
}

const wrongSecret = "sts_wrong-0123456789abcdefghijklmnopqrstuvwxyz-0123456789"

// intruder is refused for what it is, whatever Vault does.
func (l *load) intruder() (a answer) {
	a.face = "intruder"
	res, raw, err := l.post(wrongSecret)
	if err != nil {
		a.wrong = err.Error()
	} else if res.StatusCode != http.StatusUnauthorized || !bytes.Contains(raw, []byte(`"invalid_client"`)) {
		a.wrong = fmt.Sprintf("status %d, %s", res.StatusCode, raw)
	}
	return a
}

// accept takes a token that verifies with what is published.
func (a *answer) accept(l *load, token string) {
	jws, err := jose.Parse(token)
	if err != nil {
		a.wrong = err.Error()
		return
	}
	claims, err := jws.Claims()
	if err == nil {
		err = l.verify(jws)
	}
	a.jti, _ = claims["jti"].(string)
	if err != nil || a.jti == "" {
		a.wrong = fmt.Sprintf("a token of key %s with jti %q: %v", jws.Header.KeyID, a.jti, err)
	}
}

func (l *load) verify(jws *jose.JWS) error {
	l.mu.Lock()
	key, known := l.keys[jws.Header.KeyID]
	l.mu.Unlock()
	if !known {
		set, err := l.published()
		if err != nil {
			return err
		}
		if key, known = set.Key(jws.Header.KeyID); !known {
			return fmt.Errorf("the key is not published")
		}
		l.mu.Lock()
		l.keys[jws.Header.KeyID] = key
		l.mu.Unlock()
	}
	return jws.Verify(key)
}

func (l *load) published() (set jose.KeySet, err error) {
	res, err := l.http.Get(l.n.env["STS_HTTP"] + "/.well-known/jwks.json")
	if err != nil {
		return set, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return set, err
	}
	set, _, err = jose.ParseKeySet(body)
	return set, err
}

// between returns the answers to requests that began in a time, without those to
// the intruder.
func (l *load) between(from, to time.Time) (tokens, refusals []answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.answers {
		switch {
		case a.face == "intruder" || a.begun.Before(from) || !a.begun.Before(to):
		case a.jti != "":
			tokens = append(tokens, a)
		default:
			refusals = append(refusals, a)
		}
	}
	return tokens, refusals
}

// readiness is what /healthz/ready said over time.
type readiness struct {
	done chan struct{}
	wg   sync.WaitGroup
	said []readinessAt
}

type readinessAt struct {
	at      time.Time
	ready   bool
	missing string
	wrong   string
}

func (n *faultNode) watchReadiness(t *testing.T) *readiness {
	w := &readiness{done: make(chan struct{})}
	w.wg.Go(func() {
		for {
			select {
			case <-w.done:
				return
			case <-time.After(50 * time.Millisecond):
				w.said = append(w.said, n.readiness())
			}
		}
	})
	t.Cleanup(w.stop)
	return w
}

// stop may be called again.
func (w *readiness) stop() {
	select {
	case <-w.done:
	default:
		close(w.done)
	}
	w.wg.Wait()
}

func (n *faultNode) readiness() (r readinessAt) {
	r.at = time.Now()
	res, err := http.Get(n.env["STS_HTTP"] + "/healthz/ready")
	if err != nil {
		r.wrong = err.Error()
		return r
	}
	defer res.Body.Close()
	var body struct {
		Ready        bool
		Capabilities map[string]bool
		Missing      map[string]string
	}
	if err := json.NewDecoder(res.Body).Decode(&body); err != nil {
		r.wrong = err.Error()
		return r
	}
	r.ready, r.missing = body.Ready, body.Missing["issue"]
	rest := body.Capabilities["verify"] && body.Capabilities["admin"] && body.Capabilities["issue"] == body.Ready
	if r.ready != (res.StatusCode == http.StatusOK) || res.StatusCode != http.StatusOK && res.StatusCode != http.StatusServiceUnavailable || !rest {
		r.wrong = fmt.Sprintf("status %d, %+v", res.StatusCode, body)
	}
	return r
}

// usage is what a server needs at rest.
type usage struct{ goroutines, fds, rss, connections int }

func (n *faultNode) usage(t *testing.T) usage {
	t.Helper()
	http.DefaultClient.CloseIdleConnections()
	metric := map[string]float64{}
	for line := range strings.Lines(getRaw(t, n.env["STS_HTTP"]+"/metrics")) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			metric[name], _ = strconv.ParseFloat(value, 64)
		}
	}
	return usage{
		int(metric["go_goroutines"]), int(metric["process_open_fds"]), int(metric["process_resident_memory_bytes"]), n.proxy.Open(),
	}
}
