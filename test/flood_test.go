package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2 is a client that speaks HTTP/2 frame by frame, and not politely.
type h2 struct {
	net.Conn
	*http2.Framer
	headers []byte // of a request that can be repeated
}

// dialH2 begins an HTTP/2 connection to the gRPC listener or, with TLS, to the
// HTTP one.
func dialH2(t *testing.T, addr string, secure bool) *h2 {
	t.Helper()
	var conn net.Conn
	var err error
	if secure {
		roots := x509.NewCertPool()
		roots.AddCert(testCA.cert)
		conn, err = tls.Dial("tcp", addr, &tls.Config{RootCAs: roots, NextProtos: []string{"h2"}})
	} else {
		conn, err = net.Dial("tcp", addr)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	c := &h2{Conn: conn, Framer: http2.NewFramer(conn, conn)}
	if err := c.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", "/sts.v1.TokenService/IssueToken"}, {":authority", "x"},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	c.headers = block.Bytes()
	return c
}

// ends reads until the server gives up on the connection, and tells whether it
// did so in time.
func (c *h2) ends(d time.Duration) bool {
	c.SetReadDeadline(time.Now().Add(d))
	for {
		f, err := c.ReadFrame()
		if err != nil {
			nerr, ok := err.(net.Error)
			return !ok || !nerr.Timeout()
		}
		if _, ok := f.(*http2.GoAwayFrame); ok {
			return true
		}
	}
}

// answersPing returns nil if the server still answers on the connection.
func (c *h2) answersPing() error {
	data := [8]byte{1, 2, 3}
	if err := c.WritePing(false, data); err != nil {
		return err
	}
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	for {
		f, err := c.ReadFrame()
		if err != nil {
			return err
		}
		if p, ok := f.(*http2.PingFrame); ok && p.IsAck() && p.Data == data {
			return nil
		}
	}
}

// TestRapidReset opens and resets streams as fast as it can on several
// connections; another client is still served [P-12].
func TestRapidReset(t *testing.T) {
	n := startTLS(t)
	n.apply(t, "kind: Audience\nname: a\n")
	probe := func() time.Duration {
		begin := time.Now()
		res, err := http.Get(n.env["STS_HTTP"] + "/.well-known/jwks.json")
		if err != nil {
			t.Fatalf("another client is not served: %v", err)
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		return time.Since(begin)
	}
	for name, target := range map[string]string{"gRPC": n.env["STS_GRPC"], "HTTP": strings.TrimPrefix(n.env["STS_HTTP"], "https://")} {
		t.Run(name, func(t *testing.T) {
			stop := make(chan struct{})
			done := make(chan int)
			const connections = 4
			for range connections {
				c := dialH2(t, target, true)
				go func() { io.Copy(io.Discard, c.Conn) }()
				go func() {
					streams := 0
					for id := uint32(1); id < 20_000; id += 2 {
						select {
						case <-stop:
							done <- streams
							return
						default:
						}
						if c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.headers, EndHeaders: true}) != nil ||
							c.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
							break // the server has given up on us
						}
						streams++
					}
					done <- streams
				}()
			}
			var took []time.Duration
			for begin := time.Now(); time.Since(begin) < 2*time.Second; {
				took = append(took, probe())
			}
			close(stop)
			total := 0
			for range connections {
				total += <-done
			}
			slices.Sort(took)
			if p99 := took[len(took)*99/100]; p99 > time.Second {
				t.Errorf("p99 of another client %s", p99)
			}
			t.Logf("%d streams opened and reset; another client: %d requests, median %s", total, len(took), took[len(took)/2])
		})
	}
	probe()
}

// TestFrameFloods sends what a client has no reason to send; the server ends the
// connection or ignores it, and lives [P-13].
func TestFrameFloods(t *testing.T) {
	n := startTLS(t)
	for face, target := range map[string]string{"gRPC": n.env["STS_GRPC"], "HTTP": strings.TrimPrefix(n.env["STS_HTTP"], "https://")} {
		for name, flood := range map[string]func(*h2) error{
			"CONTINUATION": func(c *h2) error {
				if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.headers}); err != nil {
					return err
				}
				var block bytes.Buffer
				hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: "x-flood", Value: strings.Repeat("x", 8000)})
				for range 2000 {
					if err := c.WriteContinuation(1, false, block.Bytes()); err != nil {
						return err
					}
				}
				return nil
			},
			"SETTINGS with a frame size of 0": func(c *h2) error {
				return c.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 0})
			},
			"PING": func(c *h2) error {
				for range 20_000 {
					if err := c.WritePing(false, [8]byte{}); err != nil {
						return err
					}
				}
				return nil
			},
			"zero window update": func(c *h2) error { return c.WriteWindowUpdate(0, 0) },
		} {
			t.Run(face+" "+name, func(t *testing.T) {
				c := dialH2(t, target, true)
				err := flood(c)
				if err != nil || c.ends(time.Second) {
					return
				}
				if err := c.answersPing(); err != nil {
					t.Errorf("the connection is neither ended nor alive: %v", err)
				}
			})
		}
		t.Run(face+" unknown frames", func(t *testing.T) {
			c := dialH2(t, target, true)
			c.AllowIllegalWrites = true
			for kind := http2.FrameType(0x20); kind < 0x26; kind++ {
				if err := c.WriteRawFrame(kind, 0, 0, []byte("x")); err != nil {
					t.Fatal(err)
				}
			}
			// "MUST ignore and discard frames of unknown types" [RFC 9113 §4.1].
			if err := c.answersPing(); err != nil {
				t.Error(err)
			}
		})
	}
	if getRaw(t, n.env["STS_HTTP"]+"/healthz/live") == "" {
		t.Error("the server does not answer any more")
	}
}
