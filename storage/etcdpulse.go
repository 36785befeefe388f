package storage

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// etcdSilence is how long a connection may say nothing while requests on it time
// out, before it is given up.
const etcdSilence = 2 * time.Second

// pulse gives up connections that are dead. The library spreads requests over all
// connections that it takes for good, and finds out by a ping only after 13 s: as
// long every third request to a cluster of three would be lost, or more than that.
// pulse looks at requests that got no answer in time: if nothing at all has come
// from their connection for a while, it is closed, and the library makes another.
//
// It also keeps why connecting has failed, which the library does not tell.
type pulse struct {
	mu    sync.Mutex
	conns map[string]*pulseConn // by their own address
	last  error                 // of connecting, nil since one was good
}

// pulseConn is a connection that knows when something came last.
type pulseConn struct {
	net.Conn
	pulse *pulse
	heard atomic.Int64 // Unix nanoseconds
}

func (p *pulse) dial(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		p.trouble(address, err)
		return nil, err
	}
	c := &pulseConn{Conn: raw, pulse: p}
	c.heard.Store(time.Now().UnixNano())
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[raw.LocalAddr().String()] = c
	return c, nil
}

func (c *pulseConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.heard.Store(time.Now().UnixNano())
	}
	return n, err
}

func (c *pulseConn) Close() error {
	c.pulse.mu.Lock()
	if at := c.LocalAddr().String(); c.pulse.conns[at] == c {
		delete(c.pulse.conns, at)
	}
	c.pulse.mu.Unlock()
	return c.Conn.Close()
}

// trouble notes why a connection to an address could not be made.
func (p *pulse) trouble(address string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = fmt.Errorf("connecting to %s: %w", address, err)
}

// why is the last reason why a connection could not be made, if none was good
// since.
func (p *pulse) why() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// pulseRequest is an attempt of a request.
type pulseRequest struct {
	began time.Time
	local atomic.Pointer[string] // its connection
}

type pulseKey struct{}

// TagRPC implements stats.Handler.
func (p *pulse) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, pulseKey{}, &pulseRequest{began: time.Now()})
}

// HandleRPC implements stats.Handler.
func (p *pulse) HandleRPC(ctx context.Context, s stats.RPCStats) {
	r, ok := ctx.Value(pulseKey{}).(*pulseRequest)
	if !ok {
		return
	}
	switch s := s.(type) {
	case *stats.OutHeader:
		at := s.LocalAddr.String()
		r.local.Store(&at)
	case *stats.InHeader:
		p.answered()
	case *stats.End:
		if at := r.local.Load(); at != nil && status.Code(s.Error) == codes.DeadlineExceeded {
			p.unanswered(*at, r.began)
		}
	}
}

func (p *pulse) answered() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = nil
}

// unanswered gives up the connection of a request, if it is silent.
func (p *pulse) unanswered(local string, began time.Time) {
	p.mu.Lock()
	c := p.conns[local]
	p.mu.Unlock()
	if c == nil {
		return
	}
	if heard := time.Unix(0, c.heard.Load()); heard.Before(began) && time.Since(heard) > etcdSilence {
		p.trouble(c.RemoteAddr().String(), fmt.Errorf("nothing has come for %v", time.Since(heard).Round(100*time.Millisecond)))
		c.Close()
	}
}

// TagConn implements stats.Handler.
func (p *pulse) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (p *pulse) HandleConn(context.Context, stats.ConnStats) {}
