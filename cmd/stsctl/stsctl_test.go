package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/workload-sts/sts/sts"
)

// ctl runs one command line in this process.
func ctl(ctx context.Context, stdin string, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(ctx, args, strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

// clean removes the settings of the machine from the environment of a test.
func clean(t *testing.T) {
	t.Helper()
	for _, name := range []string{"STS_GRPC", "STS_ISSUER", "STS_ADMIN_TOKEN", "STS_CLIENT_ID", "STS_CLIENT_SECRET"} {
		t.Setenv(name, "")
	}
}

// TestTLS holds that a connection is plain only on loopback, and only if nothing
// speaks for TLS.
func TestTLS(t *testing.T) {
	clean(t)
	t.Setenv("STS_ADMIN_TOKEN", fakeAdminToken)
	certificate, ca := selfSigned(t)
	secure := startFakeFor(t, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{certificate}})))
	plain := startFakeFor(t)
	for _, row := range []struct {
		name string
		args []string
		code int
		want string // in the message
	}{
		{"plain on loopback", []string{"--addr", plain.addr}, exitOK, ""},
		{"TLS by --ca-file", []string{"--addr", secure.addr, "--ca-file", ca}, exitOK, ""},
		{"TLS by the issuer", []string{"--addr", secure.addr, "--issuer", "https://sts.example.com"}, exitUnavailable, "certificate signed by unknown authority"},
		{"plain to TLS", []string{"--addr", secure.addr}, exitUnavailable, "whether both sides use TLS"},
		{"TLS to plain", []string{"--addr", plain.addr, "--ca-file", ca}, exitUnavailable, "whether both sides use TLS"},
		{"plain elsewhere", []string{"--addr", "192.0.2.1:1", "--timeout", "10ms"}, exitUnavailable, "192.0.2.1:1"},
	} {
		t.Run(row.name, func(t *testing.T) {
			code, _, stderr := ctl(t.Context(), "", append([]string{"get", "rules"}, row.args...)...)
			if code != row.code || !strings.Contains(stderr, row.want) || strings.Count(stderr, "\n") > 1 {
				t.Errorf("exit code %d, %q", code, stderr)
			}
		})
	}
}

// TestNoAnswer holds that a server that accepts and says nothing does not hang
// a command, and that an interruption ends it.
func TestNoAnswer(t *testing.T) {
	clean(t)
	t.Setenv("STS_ADMIN_TOKEN", fakeAdminToken)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	code, _, stderr := ctl(t.Context(), "", "get", "rules", "--addr", silent.Addr().String(), "--timeout", "50ms")
	if code != exitUnavailable || !strings.Contains(stderr, "did not answer within 50ms") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	code, _, stderr = ctl(ctx, "", "get", "rules", "--addr", silent.Addr().String())
	if code != exitUnavailable || stderr != "stsctl: interrupted\n" {
		t.Errorf("interrupted: exit code %d, %q", code, stderr)
	}
}

// TestNothingLeaks holds that a command leaves no goroutine and no secret.
func TestNothingLeaks(t *testing.T) {
	clean(t)
	f, stop, err := startFake()
	if err != nil {
		t.Fatal(err)
	}
	before := goleak.IgnoreCurrent()
	const canary = "canary-of-a-secret"
	t.Setenv("STS_GRPC", f.addr)
	t.Setenv("STS_ADMIN_TOKEN", canary)
	t.Setenv("STS_CLIENT_ID", "orders")
	t.Setenv("STS_CLIENT_SECRET", canary)
	for _, args := range [][]string{
		{"get", "rules"}, {"apply", "-f", "-"}, {"delete", "rule", "r"}, {"token", "--audience", "a"},
		{"keys", "status"}, {"keys", "rotate"}, {"keys", "revoke", "k"}, {"keys", "revoke", "k", "--yes"},
		{"exchange", "--subject-token", canary}, {"exchange", "--subject-token", f.sign("JWT", time.Hour, map[string]any{}) + canary},
	} {
		code, stdout, stderr := ctl(t.Context(), "kind: Audience\nname: a\n", args...)
		if code != exitRefused || strings.Contains(stdout+stderr, canary) {
			t.Errorf("%v: exit code %d, %q, %q", args, code, stdout, stderr)
		}
	}
	goleak.VerifyNone(t, before)
	stop()
}

// TestOutputFails holds that a full disk is not success.
func TestOutputFails(t *testing.T) {
	clean(t)
	f := startFakeFor(t)
	token := f.sign("JWT", time.Hour, map[string]any{})
	t.Setenv("STS_GRPC", f.addr)
	t.Setenv("STS_ADMIN_TOKEN", fakeAdminToken)
	for _, args := range [][]string{
		{"keys", "status"}, {"keys", "status", "-o", "json"}, {"keys", "rotate"}, {"keys", "revoke", "key-1", "--yes"},
		{"secret", "new"}, {"secret", "new", "-o", "json"}, {"secret", "new", "-o", "yaml"}, {"version"},
		{"inspect", token, "-o", "json"}, {"inspect", token},
	} {
		var errs bytes.Buffer
		code := run(t.Context(), args, strings.NewReader(""), full{}, &errs)
		if code != exitInput || !strings.Contains(errs.String(), "no space left") {
			t.Errorf("%v: exit code %d, %q", args, code, errs.String())
		}
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestEnvFile(t *testing.T) {
	for _, row := range []struct{ name, line, value, problem string }{
		{"plain", "A=b", "b", ""},
		{"empty", "A=", "", ""},
		{"export", "export A=b", "b", ""},
		{"spaces around", "  A=b \r", "b", ""},
		{"single quotes", "A='b $c \"d\"'", `b $c "d"`, ""},
		{"double quotes", `A="b c"`, "b c", ""},
		{"equals sign", "A=b=c", "b=c", ""},
		{"comment", "# x\nA=b\n", "b", ""},
		{"no value", "A", "", ":1:1: expected NAME=VALUE"},
		{"no name", "=b", "", ":1:1: expected NAME=VALUE"},
		{"name with a space", "A B=c", "", ":1:1: expected NAME=VALUE"},
		{"open quote", "A='b", "", ":1:3: the value has an open quote"},
		{"expansion", "\nA=$B", "", ":2:3: the value has an open quote or needs a shell"},
		{"expansion in quotes", `A="$B"`, "", ":1:3:"},
		{"two words", "A=b c", "", ":1:3:"},
	} {
		t.Run(row.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "x.env")
			if err := os.WriteFile(file, []byte(row.line), 0o600); err != nil {
				t.Fatal(err)
			}
			env, err := readEnvFile(file)
			if row.problem != "" {
				if err == nil || !strings.HasPrefix(err.Error(), file+row.problem) {
					t.Fatalf("got %v, want %s", err, row.problem)
				}
				return
			}
			if v, ok := env["A"]; err != nil || !ok || v != row.value {
				t.Errorf("got %q, %v", env, err)
			}
		})
	}
}

func TestRelative(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "now", 400 * time.Millisecond: "now", time.Second: "in 1s", 252 * time.Second: "in 4m12s", -time.Hour: "1h0m ago",
		26 * time.Hour: "in 1d2h", -400 * 24 * time.Hour: "1y35d ago", 90 * time.Minute: "in 1h30m",
	} {
		if got := relative(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

// TestHumanTime shows times where people are, and in UTC.
func TestHumanTime(t *testing.T) {
	now := time.Date(2026, 11, 24, 13, 36, 0, 0, time.UTC)
	c := &cli{now: func() time.Time { return now }, zone: time.FixedZone("CET", 3600)}
	const want = "in 4m12s  (2026-11-24 13:40:12 UTC, 2026-11-24 14:40:12 CET)"
	if got := c.humanTime(now.Add(252 * time.Second)); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// FuzzInspect checks that nothing that is pasted makes inspect panic or write
// control characters.
func FuzzInspect(f *testing.F) {
	f.Add("eyJhbGciOiJub25lIn0.eyJzdWIiOiJcdTAwMWJbMzFtcmVkIiwiZXhwIjoxZTMwMH0.")
	f.Add(`{"keys":[{"kty":"EC","crv":"P-256","x":"AA"},{"d":1},null]}`)
	f.Add(`{"access_token":"a.b.c"}`)
	f.Fuzz(func(t *testing.T, input string) {
		for _, format := range []string{"text", "json", "yaml"} {
			var out, errs bytes.Buffer
			c := &cli{stdin: strings.NewReader(input), stdout: &out, stderr: &errs, now: time.Now, zone: time.UTC}
			err := c.inspect(t.Context(), "-", false, "", &output{format: format})
			if err != nil {
				if _, coded := errors.AsType[*failure](err); !coded {
					t.Errorf("%s: %v", format, err)
				}
				continue
			}
			if strings.ContainsFunc(out.String(), func(r rune) bool { return r < ' ' && r != '\n' }) {
				t.Errorf("%s: control characters in %q", format, out.String())
			}
		}
	})
}

// selfSigned makes a certificate for 127.0.0.1 and writes it as a CA file.
func selfSigned(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, file
}

// TestRecordsOfLogInUse reads a log whose last line is being written.
func TestRecordsOfLogInUse(t *testing.T) {
	const line = `{"event":"token","time":"2026-11-01T00:00:00Z","decision":"d1"}`
	for text, want := range map[string]int{line + "\n" + line[:20]: 1, line + "\n" + line: 2, line[:20] + "\n" + line: -1} {
		c := &cli{stdin: strings.NewReader(text)}
		n := 0
		err := c.records("-", func(*sts.Record) bool { n++; return true })
		if want < 0 && err == nil || want >= 0 && (err != nil || n != want) {
			t.Errorf("%q: %d records, %v; want %d", text, n, err, want)
		}
	}
}
