package storage

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/workload-sts/sts/sts"
)

// rfc5424 is the grammar of a message [RFC 5424 §6], for messages without structured
// data, written down apart from the code that makes them.
var rfc5424 = regexp.MustCompile(`^<(\d|[1-9]\d|1[0-8]\d|19[01])>1 ` +
	`(\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)) ` +
	`([!-~]{1,255}) ([!-~]{1,48}) ([!-~]{1,128}) ([!-~]{1,32}) - (.+)$`)

// syslogServer takes messages by one of the transports, and is strict.
type syslogServer struct {
	address string

	mu       sync.Mutex
	messages [][]string // what rfc5424 finds in each
	faults   []string
	conns    []net.Conn
}

func (s *syslogServer) take(message []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := rfc5424.FindSubmatch(message)
	if m == nil {
		s.faults = append(s.faults, fmt.Sprintf("not a message: %.200q", message))
		return
	}
	var parts []string
	for _, p := range m[1:] {
		parts = append(parts, string(p))
	}
	s.messages = append(s.messages, parts)
}

// texts are the messages that came, without their heads.
func (s *syslogServer) texts() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, m := range s.messages {
		out = append(out, m[6]+"\n")
	}
	return out
}

// serveStream reads frames [RFC 6587 §3.4.1].
func (s *syslogServer) serveStream(c net.Conn) {
	defer c.Close()
	s.mu.Lock()
	s.conns = append(s.conns, c)
	s.mu.Unlock()
	r := bufio.NewReader(c)
	for {
		size, err := r.ReadString(' ')
		if err != nil {
			return // the connection has ended; what a message lacks, the test finds
		}
		n, err := strconv.Atoi(strings.TrimSuffix(size, " "))
		if err != nil || n <= 0 || size[0] == '0' {
			s.mu.Lock()
			s.faults = append(s.faults, fmt.Sprintf("not a length: %q", size))
			s.mu.Unlock()
			return
		}
		message := make([]byte, n)
		if _, err := io.ReadFull(r, message); err != nil {
			return
		}
		s.take(message)
	}
}

func (s *syslogServer) accept(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go s.serveStream(c)
	}
}

func (s *syslogServer) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
	s.conns = nil
}

// startSyslog serves one of udp, tcp, tls, unix and unixgram.
func startSyslog(t testing.TB, transport string) (*syslogServer, *tls.Config) {
	t.Helper()
	s := new(syslogServer)
	socket := filepath.Join(t.TempDir(), "log")
	switch transport {
	case "udp", "unixgram":
		at := "127.0.0.1:0"
		if transport == "unixgram" {
			at = socket
		}
		c, err := net.ListenPacket(transport, at)
		must(t, err)
		t.Cleanup(func() { c.Close() })
		s.address = "udp://" + c.LocalAddr().String()
		if transport == "unixgram" {
			s.address = "unix://" + socket
		}
		go func() {
			buf := make([]byte, 1<<20)
			for {
				n, _, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				s.take(bytes.Clone(buf[:n]))
			}
		}()
		return s, nil
	}
	var ln net.Listener
	var trust *tls.Config
	var err error
	switch transport {
	case "unix":
		ln, err = net.Listen("unix", socket)
		s.address = "unix://" + socket
	case "tcp":
		ln, err = net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		s.address = "tcp://" + ln.Addr().String()
	default:
		cert, roots := loopbackCert(t)
		trust = &tls.Config{RootCAs: roots}
		ln, err = tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
		must(t, err)
		s.address = "tls://" + ln.Addr().String()
	}
	must(t, err)
	t.Cleanup(func() { ln.Close(); s.hangUp() })
	go s.accept(ln)
	return s, trust
}

// loopbackCert is a certificate of 127.0.0.1 and who trusts it.
func loopbackCert(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

func openSyslogLog(t testing.TB, s *syslogServer, trust *tls.Config) (*Audit, string) {
	t.Helper()
	sink, err := NewSyslogSink("siem", SyslogOptions{Address: s.address, Facility: SyslogFacilities["local3"], TLS: trust, AppName: "stsd"})
	must(t, err)
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	a, _, err := OpenAudit(AuditOptions{File: path, Sinks: []AuditSink{sink}})
	must(t, err)
	t.Cleanup(func() { a.Close() })
	return a, path
}

// TestSyslogSink: by each transport a receiver that is strict gets every line as it
// is in the file, in order and once, with a head that says what it is.
func TestSyslogSink(t *testing.T) {
	for _, transport := range []string{"udp", "tcp", "tls", "unix", "unixgram"} {
		t.Run(transport, func(t *testing.T) {
			s, trust := startSyslog(t, transport)
			a, path := openSyslogLog(t, s, trust)
			const n = 40
			for i := range n {
				r := &sts.Record{Event: sts.EventToken, Decision: fmt.Sprint(i), Outcome: "allow", Reason: "a b\n\x1b[31m é\u2028\"" + strings.Repeat("r", i)}
				if i%2 == 1 {
					r.Outcome = "deny"
				}
				must(t, a.Record(t.Context(), r))
			}
			waitFor(t, func() bool { return len(s.texts()) >= n })
			must(t, a.Close())
			log, err := os.ReadFile(path)
			must(t, err)
			s.mu.Lock()
			defer s.mu.Unlock()
			if len(s.faults) > 0 {
				t.Fatalf("the receiver says %q", s.faults)
			}
			// The first line, which begins the file, was written before there were sinks.
			first, rest, _ := bytes.Cut(log, []byte("\n"))
			_ = first
			host, err := os.Hostname()
			must(t, err)
			i := 0
			for line := range bytes.Lines(rest) {
				if i == len(s.messages) {
					t.Fatalf("%d messages of more lines", i)
				}
				pri := "158" // 19 * 8 + informational
				if i%2 == 1 {
					pri = "157" // notice
				}
				m := s.messages[i]
				if m[0] != pri || m[2] != host || m[3] != "stsd" || m[4] != fmt.Sprint(os.Getpid()) || m[5] != "token" || m[6]+"\n" != string(line) {
					t.Fatalf("message %d: %q of %q", i, m, line)
				}
				if at, err := time.Parse(time.RFC3339Nano, m[1]); err != nil || time.Since(at) > time.Minute {
					t.Errorf("time %q", m[1])
				}
				i++
			}
			if i != n || len(s.messages) != n {
				t.Errorf("%d messages of %d lines", len(s.messages), i)
			}
		})
	}
}

// TestSyslogSinkReconnects: when the receiver ends connections, and is away for a
// while, records go on, and it gets what follows by a new connection.
func TestSyslogSinkReconnects(t *testing.T) {
	s := new(syslogServer)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s.address = "tcp://" + ln.Addr().String()
	go s.accept(ln)
	a, _ := openSyslogLog(t, s, nil)
	record := func(id string) {
		t.Helper()
		must(t, a.Record(t.Context(), &sts.Record{Event: sts.EventToken, Decision: id}))
	}
	has := func(id string) bool { return strings.Contains(strings.Join(s.texts(), ""), `"decision":"`+id+`"`) }
	record("before")
	waitFor(t, func() bool { return has("before") })

	s.hangUp()
	waitFor(t, func() bool { record("probe"); return has("probe") })

	must(t, ln.Close())
	s.hangUp()
	waitFor(t, func() bool { record("lost"); return a.sinks[0].failures.Load() > 0 })
	record("while away")
	ln, err = net.Listen("tcp", strings.TrimPrefix(s.address, "tcp://"))
	must(t, err)
	t.Cleanup(func() { ln.Close(); s.hangUp() })
	go s.accept(ln)
	waitFor(t, func() bool { return has("while away") })
	if len(s.faults) > 0 {
		t.Errorf("the receiver says %q", s.faults)
	}
}

// TestSyslogSinkLong: a datagram cannot hold the longest records; then the beginning
// goes out, which says which record it is.
func TestSyslogSinkLong(t *testing.T) {
	for _, transport := range []string{"udp", "tcp"} {
		t.Run(transport, func(t *testing.T) {
			s, _ := startSyslog(t, transport)
			a, path := openSyslogLog(t, s, nil)
			must(t, a.Record(t.Context(), &sts.Record{Event: sts.EventToken, Reason: strings.Repeat("long ", 40_000)}))
			must(t, a.Record(t.Context(), &sts.Record{Event: sts.EventToken, Decision: "short"}))
			waitFor(t, func() bool { return len(s.texts()) == 2 })
			log, err := os.ReadFile(path)
			must(t, err)
			long := string(bytes.SplitAfter(log, []byte("\n"))[1])
			got := s.texts()[0]
			if transport == "tcp" && got != long {
				t.Errorf("a stream cut %d bytes to %d", len(long), len(got))
			}
			if transport == "udp" && (len(got) < 30_000 || !strings.HasPrefix(long, strings.TrimSuffix(got, "\n"))) {
				t.Errorf("%d bytes: %.100s", len(got), got)
			}
		})
	}
}

// TestSyslogSinkTrust: no line goes to a receiver whose certificate is not trusted.
func TestSyslogSinkTrust(t *testing.T) {
	s, _ := startSyslog(t, "tls")
	_, others := loopbackCert(t)
	sink, err := NewSyslogSink("siem", SyslogOptions{Address: s.address, TLS: &tls.Config{RootCAs: others}, AppName: "stsd"})
	must(t, err)
	err = sink.Send(t.Context(), [][]byte{[]byte(`{"seq":1}` + "\n")})
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok || len(s.texts()) > 0 {
		t.Errorf("%v, %q", err, s.texts())
	}
}
