package server

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/workload-sts/sts/sts"
)

// G-13: the same request by each face gets the same decision.
func TestParity(t *testing.T) {
	f := newFixture(t)
	own := f.form(t, f.good()).token
	rnd := rand.New(rand.NewPCG(1, 2))
	pick := func(values ...string) []string {
		if n := rnd.IntN(len(values) + 1); n < len(values) {
			return []string{values[n]}
		}
		return nil
	}
	granted := 0
	for i := range 200 {
		a := ask{method: "issue", params: map[string][]string{
			"audience": pick("api", "api", "api", "brief", "other", ""),
			"resource": pick("https://api.example.com", "x", ""),
			"scope":    pick("read", "read write", "read  write", "admin", ""),
		}}
		switch rnd.IntN(6) {
		case 0:
		case 1:
			a.auth = []string{"Bearer x"}
		case 2:
			a.params["client_id"], a.params["client_secret"] = pick("web", "nobody"), pick(f.secret, "short")
		default:
			a.auth = []string{basicAuth("web", f.secret)}
			a.params["client_id"] = pick("", "web", "other")
		}
		if rnd.IntN(2) == 0 {
			a.method = "exchange"
			a.params["subject_token"] = pick(own, own, own, own, "x.y.z")
			a.params["subject_token_type"] = pick(string(sts.AccessToken), string(sts.AccessToken), string(sts.JWT), "x")
			a.params["requested_token_type"] = pick(string(sts.AccessToken), string(sts.JWT))
			a.params["actor_token_type"] = pick("", "", string(sts.JWT))
		}
		form, json, grpc := f.form(t, a), f.json(t, a), f.grpc(t, a)
		if form.code != json.code || form.code != grpc.code || form.scope != json.scope || form.scope != grpc.scope || form.http != json.http {
			t.Errorf("%d: form %s %q, json %s %q, grpc %s %q", i, form.code, form.message, json.code, json.message, grpc.code, grpc.message)
		}
		if form.token != "" {
			granted++
		}
	}
	if granted < 10 || granted > 190 {
		t.Errorf("%d of 200 were granted, which tests one side only", granted)
	}
}

// G-04: connections over the cap wait and are served when there is room.
func TestConnectionCap(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.MaxConnections = 1 })
	get := func(c net.Conn) error {
		if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return err
		}
		if _, err := io.WriteString(c, "GET /healthz/live HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return err
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return err
		}
		if resp.StatusCode != 200 {
			return fmt.Errorf("status %d", resp.StatusCode)
		}
		return resp.Body.Close()
	}
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", f.httpAddr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	first, second := dial(), dial()
	if err := get(first); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- get(second) }()
	select {
	case err := <-served:
		t.Fatalf("served over the cap: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	first.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
