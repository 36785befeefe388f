package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a network in memory, so that time in a bubble of synctest can pass
// while somebody waits for an answer.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once

	mu      sync.Mutex
	refused bool // connections are
}

func (p *pipes) dial(ctx context.Context, _, address string) (net.Conn, error) {
	p.mu.Lock()
	refused := p.refused
	p.mu.Unlock()
	if refused {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	}
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-p.done:
	case <-ctx.Done():
	}
	return nil, net.ErrClosed
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8200} }

// asked is a request that a bubble's Vault has got.
type asked struct {
	at    time.Duration // since the start
	path  string
	token string
	body  map[string]any
}

// bubble is a Vault, and a client of it, in a bubble of synctest.
type bubble struct {
	*Client
	t     *testing.T
	pipes *pipes
	began time.Time
	file  string // with the credential
	log   *lines

	mu     sync.Mutex
	asked  []asked
	answer map[string]func(a asked) (code int, body string) // by path; others are answered well
	valid  func(token string) bool                          // nil: all tokens are
	logins int
}

// auth is an answer to a login or a renewal.
func auth(token string, ttl time.Duration, renewable bool) string {
	b, _ := json.Marshal(map[string]any{"auth": map[string]any{"client_token": token, "lease_duration": int(ttl.Seconds()), "renewable": renewable}})
	return string(b)
}

// lookupOf is an answer to lookup-self.
func lookupOf(ttl time.Duration, renewable bool) string {
	b, _ := json.Marshal(map[string]any{"data": map[string]any{"ttl": int(ttl.Seconds()), "renewable": renewable}})
	return string(b)
}

const (
	loginPath  = "auth/approle/login"
	renewPath  = "auth/token/renew-self"
	lookupPath = "auth/token/lookup-self"
	healthPath = "sys/health"
	keyPath    = "transit/keys/sts"
)

const denied = `{"errors":["permission denied"]}`

// inBubble runs a test with a Vault in memory whose logins last an hour. The test
// may change its answers in setup, before the client begins.
func inBubble(t *testing.T, setup func(b *bubble, c *Config), test func(t *testing.T, b *bubble)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{t: t, pipes: &pipes{conns: make(chan net.Conn), done: make(chan struct{})}, began: time.Now(), log: &lines{}}
		b.answer = map[string]func(asked) (int, string){}
		b.ttl(time.Hour, true)
		b.file = secretFile(t, "secret-id")
		c := Config{
			Addresses: []string{"http://127.0.0.1:8200"}, dial: b.pipes.dial, Log: slog.New(slog.NewTextHandler(b.log, nil)),
			Login: Login{AppRole: &AppRole{RoleID: "role-id", SecretIDFile: b.file}},
		}
		if setup != nil {
			setup(b, &c)
		}
		server := &http.Server{Handler: http.HandlerFunc(b.serve)}
		var serving sync.WaitGroup
		serving.Go(func() { server.Serve(b.pipes) })
		var err error
		if b.Client, err = Open(c); err != nil {
			t.Fatal(err)
		}
		defer func() {
			b.Client.Close()
			server.Close()
			b.pipes.Close()
			serving.Wait()
			for _, secret := range []string{"secret-id", "token-"} {
				if strings.Contains(b.log.String(), secret) {
					t.Errorf("the log has a secret:\n%s", b.log)
				}
			}
		}()
		synctest.Wait()
		test(t, b)
	})
}

// ttl makes logins and renewals last so long.
func (b *bubble) ttl(ttl time.Duration, renewable bool) {
	b.answers(loginPath, func(asked) (int, string) {
		b.logins++
		return 200, auth("token-"+string(rune('0'+b.logins)), ttl, renewable)
	})
	b.answers(renewPath, func(a asked) (int, string) { return 200, auth(a.token, ttl, renewable) })
}

// answers sets what is answered to a path; nil: what is right.
func (b *bubble) answers(path string, f func(a asked) (int, string)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer[path] = f
}

// says makes the answers to a path always the same.
func (b *bubble) says(path string, code int, body string) {
	b.answers(path, func(asked) (int, string) { return code, body })
}

// tokens makes tokens valid by a rule; all that needs one is denied without.
func (b *bubble) tokens(valid func(token string) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.valid = valid
}

func (b *bubble) serve(w http.ResponseWriter, r *http.Request) {
	a := asked{at: time.Since(b.began), path: strings.TrimPrefix(r.URL.Path, "/v1/"), token: r.Header.Get("X-Vault-Token")}
	body, _ := io.ReadAll(r.Body)
	json.Unmarshal(body, &a.body)
	b.mu.Lock()
	b.asked = append(b.asked, a)
	f, valid := b.answer[a.path], b.valid == nil || b.valid(a.token)
	code, text := 200, `{"data":{"type":"aes256-gcm96","latest_version":1,"keys":{"1":1}}}`
	if a.path == lookupPath {
		text = lookupOf(time.Hour, true)
	}
	switch {
	case !valid && a.path != loginPath && a.path != healthPath:
		code, text = 403, denied
	case f != nil:
		code, text = f(a)
	}
	b.mu.Unlock()
	if code == 0 { // never
		<-r.Context().Done()
		return
	}
	w.WriteHeader(code)
	io.WriteString(w, text)
}

// times returns when a path was asked for.
func (b *bubble) times(path string) []time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []time.Duration
	for _, a := range b.asked {
		if a.path == path {
			out = append(out, a.at)
		}
	}
	return out
}

// use makes a call of a caller.
func (b *bubble) use() error {
	_, err := b.Key("transit", "sts").Info(b.t.Context())
	return err
}

// sleep lets time pass, and what is due happen.
func (b *bubble) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// between fails the test if a time is not within bounds.
func (b *bubble) between(what string, got, least, most time.Duration) {
	b.t.Helper()
	if got < least || got > most {
		b.t.Errorf("%s after %s, want between %s and %s", what, got, least, most)
	}
}

// lines is a log.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
