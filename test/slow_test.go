package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// TestSlowClients holds that who does not come to the point is cut off, by the
// time-outs that the server really has.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	n := startDev(t, t.TempDir())
	post := "POST /oauth2/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n"
	for _, row := range []struct {
		name    string
		addr    string
		at      time.Duration // when the connection is closed
		says    string        // at once
		slowly  string        // then, a byte a second
		answers string        // before it is closed
	}{
		{"P-14 headers", n.env["STS_HTTP"], 5 * time.Second, "GET /healthz/live HTTP/1.1\r\nHost: x\r\n", "X-Header: abcdefgh", ""},
		{"P-14 body", n.env["STS_HTTP"], 10 * time.Second, post + "\r\n", "grant_type=client_credentials", "HTTP/1.1 400"},
		{"P-14 preface", n.env["STS_GRPC"], 5 * time.Second, "", "PRI * HTTP/2.0", ""},
		{"P-21 nothing after 100 Continue", n.env["STS_HTTP"], 10 * time.Second, post + "Expect: 100-continue\r\n\r\n", "", "HTTP/1.1 100"},
		{"nothing", n.env["STS_HTTP"], 5 * time.Second, "", "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c, err := net.Dial("tcp", strings.TrimPrefix(row.addr, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			begin := time.Now()
			if _, err := io.WriteString(c, row.says); err != nil {
				t.Fatal(err)
			}
			go func() {
				for i := range row.slowly {
					time.Sleep(time.Second)
					if _, err := io.WriteString(c, row.slowly[i:i+1]); err != nil {
						return
					}
				}
			}()
			if err := c.SetReadDeadline(begin.Add(row.at + 10*time.Second)); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(c)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal("the connection stays open")
			}
			if took := time.Since(begin); took < row.at-time.Second || took > row.at+5*time.Second {
				t.Errorf("closed after %s, not %s", took, row.at)
			}
			if !strings.HasPrefix(string(got), row.answers) {
				t.Errorf("answered %q", got)
			}
		})
	}
}

// TestIdleConnectionsGiveWay fills both listeners with connections that have
// said what opens an HTTP/2 connection and then nothing; another client is served
// before it loses patience [G-04].
func TestIdleConnectionsGiveWay(t *testing.T) {
	t.Parallel()
	n := startTLS(t, "limits: {max_connections: 2}")
	httpAddr := strings.TrimPrefix(n.env["STS_HTTP"], "https://")
	for range 2 {
		dialH2(t, n.env["STS_GRPC"], true)
		dialH2(t, httpAddr, true)
	}
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
	defer cancel()
	config := &tls.Config{} // the authority is the system's; see testMain
	conn, err := grpc.NewClient(n.env["STS_GRPC"], grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Errorf("gRPC: %v", err)
	}
	if took := time.Since(begin); took < 10*time.Second {
		t.Errorf("answered after %s: the listener was not full", took)
	}
	c, err := tls.Dial("tcp", httpAddr, config)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "GET /healthz/live HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if res, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("HTTP: %v %v", res, err)
	}
}
