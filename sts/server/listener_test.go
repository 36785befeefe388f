package server

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// impatient serves what f serves on listeners of its own, as a Server with
// time-outs that are a twentieth or less. test/slow_test.go has the real ones.
func (f *fixture) impatient(t *testing.T, maxConnections int) *fixture {
	t.Helper()
	s, err := New(Config{Service: f.service, Logger: discard(), Registry: prometheusRegistry(), MaxConnections: maxConnections})
	if err != nil {
		t.Fatal(err)
	}
	s.firstRequest /= 20
	s.http.ReadHeaderTimeout /= 20
	s.http.ReadTimeout /= 20
	s.http.IdleTimeout /= 60
	httpLn, grpcLn := listen(t), listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, httpLn, grpcLn) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return &fixture{
		service: f.service, server: s, audit: f.audit, keys: f.keys, log: f.log, registry: f.registry, secret: f.secret, admin: f.admin,
		httpAddr: httpLn.Addr().String(), grpcAddr: grpcLn.Addr().String(), url: "http://" + httpLn.Addr().String(),
	}
}

// closed waits until the server has closed a connection, and returns how long it
// took.
func closed(t *testing.T, c net.Conn, begin time.Time) time.Duration {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection stays open")
	}
	return time.Since(begin)
}

// G-04: connections that never ask for anything do not keep others out, on
// neither listener.
func TestIdleConnectionsGiveWay(t *testing.T) {
	f := newFixture(t).impatient(t, 2)
	if f.server.firstRequest*20 < 10*time.Second || f.server.firstRequest*20 > 20*time.Second {
		t.Errorf("a connection may be silent for %s", f.server.firstRequest*20)
	}
	begin := time.Now()
	one, two := rawHTTP2(t, f.grpcAddr), rawHTTP2(t, f.grpcAddr)
	conn, err := grpc.NewClient(f.grpcAddr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
	if err != nil || r.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("%v %v", r, err)
	}
	if took := time.Since(begin); took < f.server.firstRequest {
		t.Errorf("answered after %s: the connections did not fill the listener", took)
	}
	closed(t, one, begin)
	closed(t, two, begin)
	// Who has asked for something stays.
	time.Sleep(3 * f.server.firstRequest / 2)
	if _, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
		t.Error(err)
	}
	if got := conn.GetState().String(); got != "READY" {
		t.Errorf("the connection that asked is %s", got)
	}
	for _, silent := range []string{"", "GET /healthz/live HTTP/1.1\r\n"} {
		c, err := net.Dial("tcp", f.httpAddr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, silent); err != nil {
			t.Fatal(err)
		}
		closed(t, c, time.Now())
	}
}

// P-21: a client that waits for 100 Continue and sends nothing is not waited for.
func TestExpectContinue(t *testing.T) {
	f := newFixture(t).impatient(t, 10)
	c, err := net.Dial("tcp", f.httpAddr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	begin := time.Now()
	if _, err := io.WriteString(c, "POST /oauth2/token HTTP/1.1\r\nHost: x\r\nContent-Type: "+formType+"\r\nContent-Length: 60\r\nExpect: 100-continue\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 100") {
		t.Errorf("%q %v", line, err)
	}
	if took := closed(t, c, begin); took < f.server.http.ReadTimeout/2 || took > 10*f.server.http.ReadTimeout {
		t.Errorf("closed after %s", took)
	}
}

// P-25: a thousand connections that do nothing any more are closed, and those who
// work at a slow and steady pace notice nothing.
func TestSlowLoad(t *testing.T) {
	f := newFixture(t).impatient(t, 2000)
	var idle []net.Conn
	for range 1000 {
		c, err := net.Dial("tcp", f.httpAddr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "GET /healthz/live HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
		idle = append(idle, c)
	}
	begin := time.Now()
	allClosed := make(chan time.Duration)
	go func() {
		for _, c := range idle {
			closed(t, c, begin)
		}
		allClosed <- time.Since(begin)
	}()
	tick := time.NewTicker(10 * time.Millisecond) // 100 requests a second
	defer tick.Stop()
	var requests sync.WaitGroup
	for done := false; !done; {
		select {
		case took := <-allClosed:
			if took > 10*f.server.http.IdleTimeout {
				t.Errorf("idle connections were closed after %s", took)
			}
			done = true
		case <-tick.C:
			requests.Go(func() {
				if got := f.form(t, f.good()); got.token == "" {
					t.Errorf("%d %s", got.http, got.raw)
				}
			})
		}
	}
	requests.Wait()
}

func TestRoomForConnections(t *testing.T) {
	for _, row := range []struct{ most, files, want int }{
		{10_000, 0, 10_000}, {10_000, 1 << 20, 10_000}, {10_000, 1024, 384}, {10_000, 256, 96}, {50, 256, 50}, {10_000, 64, 1}, {10_000, 10, 1},
	} {
		if got := roomFor(row.most, row.files); got != row.want {
			t.Errorf("%d connections, %d files: %d, want %d", row.most, row.files, got, row.want)
		}
	}
}
