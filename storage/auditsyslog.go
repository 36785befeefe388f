package storage

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// SyslogFacilities are the facilities by their keywords [RFC 5424 §6.2.1].
var SyslogFacilities = map[string]int{
	"kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "syslog": 5, "lpr": 6, "news": 7, "uucp": 8, "cron": 9,
	"authpriv": 10, "ftp": 11, "ntp": 12, "audit": 13, "alert": 14, "clock": 15,
	"local0": 16, "local1": 17, "local2": 18, "local3": 19, "local4": 20, "local5": 21, "local6": 22, "local7": 23,
}

// Severities of records [RFC 5424 §6.2.1].
const (
	syslogNotice = 5 // what was denied
	syslogInfo   = 6
)

// maxDatagram is what a UDP datagram over IPv4 can hold.
const maxDatagram = 65507

// SyslogOptions say where a syslog server is.
type SyslogOptions struct {
	Address  string      // udp://, tcp:// or tls://HOST:PORT, or unix:///PATH
	Facility int         // one of SyslogFacilities
	TLS      *tls.Config // for tls
	AppName  string
}

// CheckSyslogAddress tells what is wrong with an address.
func CheckSyslogAddress(address string) error {
	_, _, err := syslogNetwork(address)
	return err
}

// syslogNetwork returns what to dial; unix sockets are tried as datagram sockets
// first.
func syslogNetwork(address string) (scheme, to string, err error) {
	u, err := url.Parse(address)
	if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", "", errors.New("must be udp://HOST:PORT, tcp://HOST:PORT, tls://HOST:PORT or unix:///PATH")
	}
	switch u.Scheme {
	case "udp", "tcp", "tls":
		if _, err := strconv.ParseUint(u.Port(), 10, 16); err != nil || u.Hostname() == "" || u.Path != "" {
			return "", "", fmt.Errorf("must be %s://HOST:PORT", u.Scheme)
		}
		return u.Scheme, u.Host, nil
	case "unix":
		if u.Host != "" || !strings.HasPrefix(u.Path, "/") {
			return "", "", errors.New("must be unix:///PATH, with an absolute path")
		}
		return u.Scheme, u.Path, nil
	}
	return "", "", errors.New("must begin with udp://, tcp://, tls:// or unix://")
}

// syslogSink sends records as syslog messages. It has one goroutine as its caller.
type syslogSink struct {
	o          SyslogOptions
	scheme, to string
	host       string
	conn       net.Conn // nil: there is none
	stream     bool
	gone       *atomic.Bool // the other side has closed conn
}

// NewSyslogSink returns a sink that sends each line as the message of RFC 5424,
// over streams with octet counting [RFC 6587 §3.4.1]. What a stream had taken when
// it broke may be lost: the protocol has no acknowledgements.
func NewSyslogSink(name string, o SyslogOptions) (AuditSink, error) {
	scheme, to, err := syslogNetwork(o.Address)
	if err != nil {
		return AuditSink{}, err
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "-"
	}
	s := &syslogSink{o: o, scheme: scheme, to: to, host: host}
	return AuditSink{Name: name, Send: s.send, Close: s.close}, nil
}

func (s *syslogSink) send(ctx context.Context, lines [][]byte) error {
	if s.conn != nil && s.gone.Load() {
		s.drop()
	}
	if s.conn == nil {
		if err := s.dial(ctx); err != nil {
			return err
		}
	}
	if at, ok := ctx.Deadline(); ok {
		if err := s.conn.SetWriteDeadline(at); err != nil {
			return err
		}
	}
	write := s.datagrams
	if s.stream {
		write = s.frames
	}
	if err := write(lines); err != nil {
		s.drop()
		return err
	}
	return nil
}

// frames writes messages to a stream, each after its length.
func (s *syslogSink) frames(lines [][]byte) error {
	var buf []byte
	for _, line := range lines {
		message := s.message(line, time.Now())
		buf = strconv.AppendInt(buf, int64(len(message)), 10)
		buf = append(append(buf, ' '), message...)
	}
	_, err := s.conn.Write(buf)
	return err
}

func (s *syslogSink) datagrams(lines [][]byte) error {
	for _, line := range lines {
		if err := s.datagram(s.message(line, time.Now())); err != nil {
			return err
		}
	}
	return nil
}

// datagram sends a message, cut if need be: the end of a record that is too long is
// lost, its beginning, with its number and event, is not.
func (s *syslogSink) datagram(message []byte) error {
	for {
		_, err := s.conn.Write(message[:min(len(message), maxDatagram)])
		if !errors.Is(err, syscall.EMSGSIZE) || len(message) <= 480 {
			return err
		}
		message = message[:min(len(message), maxDatagram)/2]
	}
}

// message is a record in the form of RFC 5424 §6. Its text has no byte order mark,
// which many receivers would take for a part of it.
func (s *syslogSink) message(line []byte, now time.Time) []byte {
	event := "-"
	if l, err := parseChainLine(line); err == nil {
		event = string(l.event)
	}
	severity := syslogInfo
	if bytes.Contains(line, []byte(`"outcome":"deny"`)) {
		severity = syslogNotice
	}
	return fmt.Appendf(nil, "<%d>1 %s %s %s %d %s - %s", s.o.Facility*8+severity, now.UTC().Format("2006-01-02T15:04:05.000000Z"),
		s.host, s.o.AppName, os.Getpid(), event, bytes.TrimSuffix(line, []byte("\n")))
}

func (s *syslogSink) dial(ctx context.Context) (err error) {
	var d net.Dialer
	switch s.scheme {
	case "udp":
		s.conn, err = d.DialContext(ctx, "udp", s.to)
	case "unix":
		if s.conn, err = d.DialContext(ctx, "unixgram", s.to); errors.Is(err, syscall.EPROTOTYPE) {
			s.conn, err = d.DialContext(ctx, "unix", s.to)
		}
	case "tls":
		s.conn, err = (&tls.Dialer{NetDialer: &d, Config: s.o.TLS}).DialContext(ctx, "tcp", s.to)
	default:
		s.conn, err = d.DialContext(ctx, "tcp", s.to)
	}
	if err != nil {
		s.conn = nil
		return fmt.Errorf("connecting to syslog: %w", err)
	}
	network := s.conn.RemoteAddr().Network()
	s.stream = network == "tcp" || network == "unix"
	gone := new(atomic.Bool)
	s.gone = gone
	if s.stream {
		go watchEnd(s.conn, gone)
	}
	return nil
}

// watchEnd notes that the other side has closed a connection, which a write would
// not tell.
func watchEnd(c net.Conn, gone *atomic.Bool) {
	_, _ = io.Copy(io.Discard, c) // it ends with the connection, however that ends
	gone.Store(true)
}

func (s *syslogSink) drop() {
	_ = s.conn.Close() // it is of no use any more
	s.conn = nil
}

func (s *syslogSink) close() error {
	if s.conn == nil {
		return nil
	}
	return s.conn.Close()
}
