package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"
)

// maxSocketPath is the longest path of a unix socket, in bytes: what the kernel has
// room for.
const maxSocketPath = 107

// ListenAdmin listens on a unix socket over which whoever may, by user and group,
// administers the service. Only the user of this process and root can connect,
// unless others shall: then anybody can who may enter the directory, and who
// calls is asked at each call.
//
// A socket that a process left behind is replaced, one that is in use is an error.
func ListenAdmin(path string, others bool) (net.Listener, error) {
	if err := CheckSocketPath(path); err != nil {
		return nil, err
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("looking at the admin socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("the admin socket cannot be made: there is something else at %s; move it away", path)
	default:
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			return nil, errors.Join(fmt.Errorf("another process serves the admin socket %s; stop it, or name another path", path), c.Close())
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("removing the admin socket that a process left behind: %w", err)
		}
	}
	mode := fs.FileMode(0o600)
	if others {
		mode = 0o666
	}
	ln, err := listenMode(path, mode)
	if err != nil {
		return nil, fmt.Errorf("listening on the admin socket: %w", err)
	}
	return &socketListener{ln}, nil
}

// listenMode makes the socket under another name first, so that it is never there
// with a mode that is too wide.
func listenMode(path string, mode fs.FileMode) (net.Listener, error) {
	dir, err := os.MkdirTemp(filepath.Dir(path), ".s")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	made := filepath.Join(dir, "s")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, err
	}
	ln.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(made, mode), os.Rename(made, path)); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return &namedListener{ln, path}, nil
}

// namedListener removes its socket when it is closed.
type namedListener struct {
	*net.UnixListener
	path string
}

func (l *namedListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

func (l *namedListener) Close() error {
	err := l.UnixListener.Close()
	if err == nil {
		err = os.Remove(l.path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return err
}

// CheckSocketPath says what is wrong with the path of a unix socket.
func CheckSocketPath(path string) error {
	made := len(filepath.Dir(path)) + len("/.s0123456789/s") // see listenMode
	if max(len(path), made) > maxSocketPath {
		return fmt.Errorf("the path %s of the admin socket is longer than a socket can have; name a shorter one, such as /run/sts/admin.sock", path)
	}
	return nil
}

// socketPeer is the address of a caller over the admin socket: who it is, by what
// the kernel said when it connected.
type socketPeer struct {
	uid, gid uint32
	err      error // why that is not known
}

// socketPeerName is a caller over the socket in place of a network address.
const socketPeerName = "unix"

func (*socketPeer) Network() string { return "unix" }
func (*socketPeer) String() string  { return socketPeerName }

type socketListener struct{ net.Listener }

func (l *socketListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	p := &socketPeer{}
	p.uid, p.gid, p.err = peerCredentials(c)
	return &socketConn{c, p}, nil
}

// socketConn carries who called in the address of the peer, which everything that
// wraps a connection hands on.
type socketConn struct {
	net.Conn
	peer *socketPeer
}

func (c *socketConn) RemoteAddr() net.Addr { return c.peer }
