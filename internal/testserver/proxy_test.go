package testserver

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"
)

// proxied returns a proxy in front of a server that answers "hello", and what
// calls it on kept connections.
func proxied(t *testing.T) (*Proxy, func(timeout time.Duration) (string, error)) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }))
	t.Cleanup(server.Close)
	p := NewProxy(t, server.URL)
	if !strings.HasPrefix(p.Addr, "http://127.0.0.1:") {
		t.Fatalf("the proxy is at %s", p.Addr)
	}
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	return p, func(timeout time.Duration) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		// A PUT, because the client sends a GET again by itself.
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, p.Addr, http.NoBody)
		if err != nil {
			return "", err
		}
		res, err := client.Do(req)
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		return string(body), err
	}
}

func TestProxyPassesAndCounts(t *testing.T) {
	p, call := proxied(t)
	for range 3 {
		if body, err := call(Patience); body != "hello" || err != nil {
			t.Fatalf("%q, %v", body, err)
		}
	}
	if p.Accepted() != 1 || p.Open() != 1 {
		t.Errorf("%d connections, %d open, want 1", p.Accepted(), p.Open())
	}
}

func TestProxyFaults(t *testing.T) {
	const short = 100 * time.Millisecond
	for _, c := range []struct {
		name  string
		fault func(*Proxy)
		want  func(error) bool
	}{
		{"delay", func(p *Proxy) { p.Delay(time.Minute) }, func(err error) bool { return errors.Is(err, context.DeadlineExceeded) }},
		{"black hole", (*Proxy).Blackhole, func(err error) bool { return errors.Is(err, context.DeadlineExceeded) }},
		// The cut may be in a header, for which net/http has words of its own.
		{"cut", (*Proxy).DropMidAnswer, func(err error) bool { return !errors.Is(err, context.DeadlineExceeded) }},
		{"refuse", (*Proxy).Refuse, func(err error) bool {
			return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF)
		}},
	} {
		for _, when := range []string{"new", "kept"} {
			t.Run(c.name+" "+when, func(t *testing.T) {
				p, call := proxied(t)
				if when == "kept" {
					if body, err := call(Patience); body != "hello" || err != nil {
						t.Fatalf("before: %q, %v", body, err)
					}
				}
				c.fault(p)
				if body, err := call(short); err == nil || !c.want(err) {
					t.Errorf("%q, %v", body, err)
				}
				p.Heal()
				if body, err := call(Patience); body != "hello" || err != nil {
					t.Errorf("healed: %q, %v", body, err)
				}
			})
		}
	}
}

func TestProxyDelays(t *testing.T) {
	p, call := proxied(t)
	const delay = 60 * time.Millisecond
	p.Delay(delay)
	start := time.Now()
	if body, err := call(Patience); body != "hello" || err != nil || time.Since(start) < delay {
		t.Errorf("%q, %v after %v", body, err, time.Since(start))
	}
}

// What was sent into the black hole arrives when it is healed.
func TestProxyDeliversLate(t *testing.T) {
	p, call := proxied(t)
	p.Blackhole()
	answered := make(chan error, 1)
	go func() {
		_, err := call(Patience)
		answered <- err
	}()
	for deadline := time.Now().Add(Patience); p.Accepted() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the connection is not accepted")
		}
	}
	select {
	case err := <-answered:
		t.Fatalf("answered out of the black hole: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	p.Heal()
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

// A target that refuses resets the caller, as no connection would.
func TestProxyWithoutTarget(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	p := NewProxy(t, server.Listener.Addr().String())
	if strings.Contains(p.Addr, "://") {
		t.Errorf("the address %s has a scheme that its target does not have", p.Addr)
	}
	if _, err := http.Get("http://" + p.Addr); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
}
