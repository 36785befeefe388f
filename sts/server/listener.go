package server

import (
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"
)

// firstRequestTimeout is how long a connection may be open before its first
// request. It is longer than what a handshake and the headers may take.
const firstRequestTimeout = 15 * time.Second

// limited is a listener with a bound on its connections. They cannot be used up
// by who only connects: a connection that brings no request in time is closed.
// Those that brought one are left to the idle time-outs of their protocol.
func limited(ln net.Listener, most int, firstRequest time.Duration) net.Listener {
	return &promptListener{netutil.LimitListener(ln, most), firstRequest}
}

// roomFor returns how many connections each of the two listeners may have, of so many
// that are configured and of so many files that may be open. A quarter of those, 64 at
// least, is not for connections: the audit log must be able to begin a file, keys must
// be fetched, and an administrator must come in by the socket, whoever else connects.
func roomFor(most, files int) int {
	if files == 0 {
		return most
	}
	return min(most, max((files-max(files/4, 64))/2, 1))
}

type promptListener struct {
	net.Listener
	firstRequest time.Duration
}

func (l *promptListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	p := &promptConn{Conn: c}
	p.timer = time.AfterFunc(l.firstRequest, func() { _ = c.Close() }) // whoever reads from it is told
	return p, nil
}

// promptConn is a connection that is closed unless it is said to be used.
type promptConn struct {
	net.Conn
	timer *time.Timer
	used  atomic.Bool
}

func (c *promptConn) Close() error {
	c.timer.Stop()
	return c.Conn.Close()
}

// LocalAddr carries the connection to the first place of ours that sees a
// request: both libraries hand on the address, and neither the connection.
func (c *promptConn) LocalAddr() net.Addr { return promptAddr{c.Conn.LocalAddr(), c} }

type promptAddr struct {
	net.Addr
	conn *promptConn
}

// requested says that a request came in by the connection with this local
// address.
func requested(local any) {
	if a, ok := local.(promptAddr); ok && !a.conn.used.Swap(true) {
		a.conn.timer.Stop()
	}
}
