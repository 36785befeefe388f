package keys

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/workload-sts/sts/jose"
)

// nameServer is a DNS server that answers as a test wants: nil is silence.
type nameServer struct {
	net.PacketConn
	answer atomic.Pointer[func(q dnsmessage.Question) *dnsmessage.Message]
	asked  atomic.Int64
}

func newNameServer(t testing.TB) *nameServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &nameServer{PacketConn: conn}
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.serve()
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return n
}

func (n *nameServer) serve() {
	buf := make([]byte, 1500)
	for {
		size, from, err := n.ReadFrom(buf)
		if err != nil {
			return
		}
		var in dnsmessage.Message
		if in.Unpack(buf[:size]) != nil || len(in.Questions) != 1 {
			continue
		}
		n.asked.Add(1)
		out := (*n.answer.Load())(in.Questions[0])
		if out == nil {
			continue
		}
		out.ID, out.Response, out.Questions = in.ID, true, in.Questions
		packed, err := out.Pack()
		if err == nil {
			n.WriteTo(packed, from)
		}
	}
}

func (n *nameServer) says(f func(q dnsmessage.Question) *dnsmessage.Message) { n.answer.Store(&f) }

// resolver asks the name server and nobody else. What it waits for in vain, longer
// than whoever asked, ends with the test.
func (n *nameServer) resolver(t testing.TB) *net.Resolver {
	var mu sync.Mutex
	var conns []net.Conn
	ended := false
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		ended = true
		for _, c := range conns {
			c.Close()
		}
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		if ended {
			return nil, net.ErrClosed
		}
		c, err := (&net.Dialer{}).DialContext(ctx, "udp", n.LocalAddr().String())
		if err == nil {
			conns = append(conns, c)
		}
		return c, err
	}}
}

// is answers with an IPv4 address, and that there is no other kind.
func is(ip string) func(dnsmessage.Question) *dnsmessage.Message {
	return func(q dnsmessage.Question) *dnsmessage.Message {
		m := &dnsmessage.Message{}
		if q.Type == dnsmessage.TypeA {
			m.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 0},
				Body:   &dnsmessage.AResource{A: netip.MustParseAddr(ip).As4()},
			}}
		}
		return m
	}
}

func fails(code dnsmessage.RCode) func(dnsmessage.Question) *dnsmessage.Message {
	return func(dnsmessage.Question) *dnsmessage.Message {
		return &dnsmessage.Message{Header: dnsmessage.Header{RCode: code}}
	}
}

// TestNames breaks the resolution of an issuer's name [F17, I-09]: it takes a
// bounded time, keys that are there go on being used, and when names work again so
// does the issuer.
func TestNames(t *testing.T) {
	e, healthy := newEvilIssuer(t, false), newEvilIssuer(t, false)
	u, err := url.Parse(e.URL)
	if err != nil {
		t.Fatal(err)
	}
	named := "http://keys.issuer.test:" + u.Port()
	e.discovery = func(w http.ResponseWriter, _ *http.Request) { e.document(w, named, named+"/jwks") }
	chain := func(q dnsmessage.Question) *dnsmessage.Message { // as many names as a packet takes
		m := &dnsmessage.Message{}
		for range 12 {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: dnsmessage.TypeCNAME, Class: q.Class},
				Body:   &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(strings.Repeat("a.", 50) + "test.")},
			})
		}
		return m
	}
	for name, tc := range map[string]struct {
		broken func(dnsmessage.Question) *dnsmessage.Message
		says   string
	}{
		"F17 NXDOMAIN":                      {fails(dnsmessage.RCodeNameError), "no such host"},
		"F17 SERVFAIL":                      {fails(dnsmessage.RCodeServerFailure), "misbehaving"},
		"F17 silence":                       {func(dnsmessage.Question) *dnsmessage.Message { return nil }, "i/o timeout"},
		"F17 CNAMEs without end":            {chain, "no such host"},
		"I-09 a name that turns to another": {is("169.254.169.254"), "not on the internet"},
		"I-09 a name that turns to private": {is("10.0.0.1"), "not on the internet"},
		"I-09 a name that turns to nothing": {is("0.0.0.0"), "not on the internet"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			names, c := newNameServer(t), &clock{}
			names.says(is("127.0.0.1"))
			r := NewRemote(RemoteConfig{Now: c.now, Resolver: names.resolver(t)})
			defer r.Close()
			src := Source{Issuer: named, AllowNetworks: loopback, InsecureHTTP: true}
			if err := r.Configure(map[string]Source{"x": src, "y": healthy.source()}); err != nil {
				t.Fatal(err)
			}
			r.mustKey(t, "x", "k1")
			s, _ := r.source("x")
			s.client.CloseIdleConnections()

			names.says(tc.broken)
			c.advance(31 * time.Second)
			begin := time.Now()
			_, err := r.Key(t.Context(), "x", "unknown", jose.ES256)
			if err == nil || errors.Is(err, jose.ErrUnknownKey) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v, want %q", err, tc.says)
			}
			if d := time.Since(begin); d > dialWait+time.Second {
				t.Errorf("took %s", d)
			}
			r.mustKey(t, "x", "k1")
			r.mustKey(t, "y", "k1")
			asked := names.asked.Load()
			for range 100 {
				r.Key(t.Context(), "x", "unknown", jose.ES256)
			}
			if names.asked.Load() != asked {
				t.Error("names are asked for within the cool-down")
			}

			names.says(is("127.0.0.1"))
			c.advance(31 * time.Second)
			if _, err := r.Key(t.Context(), "x", "unknown", jose.ES256); !errors.Is(err, jose.ErrUnknownKey) {
				t.Errorf("after it was healed: %v", err)
			}
		})
	}
}

// TestFlappingNames lets every second look-up fail [F17].
func TestFlappingNames(t *testing.T) {
	e := newEvilIssuer(t, false)
	u, _ := url.Parse(e.URL)
	named := "http://keys.issuer.test:" + u.Port()
	names, c := newNameServer(t), &clock{}
	r := NewRemote(RemoteConfig{Now: c.now, Resolver: names.resolver(t)})
	defer r.Close()
	if err := r.Configure(map[string]Source{"x": {Issuer: named, JWKSURI: named + "/jwks", AllowNetworks: loopback, InsecureHTTP: true}}); err != nil {
		t.Fatal(err)
	}
	for i := range 6 {
		names.says(is("127.0.0.1"))
		if i%2 == 1 {
			names.says(fails(dnsmessage.RCodeServerFailure))
		}
		s, _ := r.source("x")
		s.client.CloseIdleConnections()
		c.advance(31 * time.Second)
		r.Key(t.Context(), "x", "unknown", jose.ES256)
		r.mustKey(t, "x", "k1")
	}
	if s := r.Status()[0]; s.Fetches != 3 || s.Failures != 3 {
		t.Errorf("%d fetches, %d failures", s.Fetches, s.Failures)
	}
}
