package testserver

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// Proxy passes TCP connections on to an address, and fails as a network does
// when a test says so. A fault holds for open and new connections until
// another replaces it or Heal ends it.
type Proxy struct {
	Addr string // 127.0.0.1:port, with the scheme that the target has

	t      testing.TB
	listen string // host:port
	target string

	mu       sync.Mutex
	mode     mode
	delay    time.Duration
	changed  chan struct{} // closed when the mode or the delay changes
	listener net.Listener  // nil while connections are refused
	open     map[*link]struct{}
	accepted int
	closed   bool
	running  sync.WaitGroup
}

type mode int

const (
	passing mode = iota
	swallowing
	refusing
	cutting
)

// NewProxy starts a proxy for host:port, or for the host and port of a URL. It
// stops with the test, and waits for its goroutines.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{
		t: t, listen: ln.Addr().String(), Addr: ln.Addr().String(), target: target,
		changed: make(chan struct{}), listener: ln, open: map[*link]struct{}{},
	}
	if scheme, address, ok := strings.Cut(target, "://"); ok {
		p.target, p.Addr = address, scheme+"://"+p.Addr
	}
	p.running.Go(func() { p.accept(ln) })
	t.Cleanup(p.close)
	return p
}

// Delay passes on what callers send after a time, each piece for itself.
func (p *Proxy) Delay(d time.Duration) { p.set(passing, d) }

// Blackhole accepts connections and lets nothing through. What was sent
// meanwhile arrives after Heal, as it does when packets were lost.
func (p *Proxy) Blackhole() { p.set(swallowing, 0) }

// Refuse resets open connections and does not accept new ones.
func (p *Proxy) Refuse() { p.set(refusing, 0) }

// DropMidAnswer lets requests through, and resets a connection after half of
// the first piece of what comes back; with TLS that may be the handshake.
func (p *Proxy) DropMidAnswer() { p.set(cutting, 0) }

// Heal ends the fault.
func (p *Proxy) Heal() { p.set(passing, 0) }

// Accepted returns how many connections have been accepted so far.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// Open returns how many connections are open.
func (p *Proxy) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.open)
}

func (p *Proxy) set(m mode, delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.mode, p.delay = m, delay
	close(p.changed)
	p.changed = make(chan struct{})
	switch {
	case m == refusing:
		p.abortAll()
	case p.listener == nil:
		ln, err := relisten(p.listen)
		if err != nil {
			p.t.Errorf("the proxy cannot accept connections again: %v", err)
			return
		}
		p.listener = ln
		p.running.Go(func() { p.accept(ln) })
	}
}

// relisten takes an address again, which may be in use for a moment.
func relisten(address string) (net.Listener, error) {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		ln, err := net.Listen("tcp", address)
		if err == nil || time.Now().After(deadline) {
			return ln, err
		}
	}
}

// abortAll closes the listener and all connections. The caller holds mu.
func (p *Proxy) abortAll() {
	if p.listener != nil {
		p.listener.Close()
		p.listener = nil
	}
	for l := range p.open {
		l.abort()
	}
}

func (p *Proxy) close() {
	p.mu.Lock()
	p.closed = true
	p.abortAll()
	p.mu.Unlock()
	p.running.Wait()
}

func (p *Proxy) accept(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return // closed
		}
		l := &link{client: conn.(*net.TCPConn), gone: make(chan struct{})}
		p.mu.Lock()
		if p.closed || p.mode == refusing {
			p.mu.Unlock()
			l.abort()
			return
		}
		p.accepted++
		p.open[l] = struct{}{}
		p.mu.Unlock()
		p.running.Go(func() { p.serve(l) })
	}
}

func (p *Proxy) serve(l *link) {
	defer func() {
		l.close()
		p.mu.Lock()
		delete(p.open, l)
		p.mu.Unlock()
	}()
	if _, ok := p.wait(l, false); !ok {
		return
	}
	conn, err := net.DialTimeout("tcp", p.target, Patience)
	if err != nil || !l.connect(conn.(*net.TCPConn)) {
		l.abort()
		return
	}
	var both sync.WaitGroup
	both.Go(func() { p.pass(l, l.server, l.client, false) })
	both.Go(func() { p.pass(l, l.client, l.server, true) })
	both.Wait()
}

// pass copies one direction until it ends.
func (p *Proxy) pass(l *link, to, from *net.TCPConn, answer bool) {
	piece := make([]byte, 32<<10)
	for {
		n, err := from.Read(piece)
		if n > 0 {
			m, ok := p.wait(l, !answer)
			if !ok {
				return
			}
			cut := answer && m == cutting
			if cut {
				n /= 2
			}
			if _, err := to.Write(piece[:n]); err != nil || cut {
				l.abort()
				return
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			to.CloseWrite()
			return
		case err != nil:
			l.abort()
			return
		}
	}
}

// wait returns when something may go through, and in which mode; false if the
// connection is gone.
func (p *Proxy) wait(l *link, request bool) (mode, bool) {
	delayed := false
	for {
		p.mu.Lock()
		m, delay, changed := p.mode, p.delay, p.changed
		p.mu.Unlock()
		switch {
		case m == swallowing:
			select {
			case <-changed:
			case <-l.gone:
				return m, false
			}
		case request && delay > 0 && !delayed:
			delayed = true // the mode may have changed meanwhile
			timer := time.NewTimer(delay)
			select {
			case <-timer.C:
			case <-l.gone:
				timer.Stop()
				return m, false
			}
		default:
			return m, true
		}
	}
}

// link is a connection of a client and the one to the target that belongs to it.
type link struct {
	client *net.TCPConn
	gone   chan struct{} // closed by the first of abort and close

	mu     sync.Mutex
	server *net.TCPConn // nil until connected
	ended  bool
}

func (l *link) connect(server *net.TCPConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.server = server
	if l.ended {
		server.Close()
	}
	return !l.ended
}

// abort resets both connections.
func (l *link) abort() { l.end(true) }

func (l *link) close() { l.end(false) }

func (l *link) end(reset bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	l.ended = true
	close(l.gone)
	for _, conn := range []*net.TCPConn{l.client, l.server} {
		if conn == nil {
			continue
		}
		if reset {
			conn.SetLinger(0)
		}
		conn.Close()
	}
}
