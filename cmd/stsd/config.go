package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts/resource"
)

// loadConfig reads and checks a configuration file. The error lists every
// problem, one a line. The result has its defaults filled in and absolute paths.
func loadConfig(file string) (*stsv1.ServerConfig, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	c := &stsv1.ServerConfig{}
	positions, problems := resource.Decode(file, data, c)
	all := make([]error, 0, len(problems))
	for _, p := range problems {
		all = append(all, errors.New(p.String()))
	}
	check := configCheck{dir: filepath.Dir(file), report: func(path, message string) {
		p := resource.Problem{Path: path, Message: message}
		p.File, p.Line, p.Column = positions.At(path)
		all = append(all, errors.New(p.String()))
	}}
	check.config(c)
	if len(all) > 0 {
		return nil, errors.Join(all...)
	}
	return c, nil
}

// configCheck reports what is wrong with a configuration and fills in defaults.
type configCheck struct {
	dir    string
	report func(path, message string)
}

func (k configCheck) config(c *stsv1.ServerConfig) {
	k.issuer(c.Issuer)
	c.Http = k.listener("http", c.Http)
	c.Grpc = k.listener("grpc", c.Grpc)
	if c.Http.Listen == c.Grpc.Listen && c.Http.Listen != "" && !strings.HasSuffix(c.Http.Listen, ":0") {
		k.report("grpc.listen", "is the address of http.listen; the two faces need an address each")
	}
	c.Storage = section(k, c.Storage, "storage")
	c.Storage.BoltFile = k.newFile("storage.bolt_file", c.Storage.BoltFile)
	c.Keys = section(k, c.Keys, "keys")
	c.Keys.Local = section(k, c.Keys.Local, "keys.local")
	c.Keys.Local.KeyFile = k.existingFile("keys.local.key_file", c.Keys.Local.KeyFile)
	k.oneOf("keys.local.algorithm", &c.Keys.Local.Algorithm, "ES256", "ES384", "EdDSA", "RS256", "PS256")
	c.Audit = section(k, c.Audit, "audit")
	c.Audit.File = k.newFile("audit.file", c.Audit.File)
	if c.Log == nil {
		c.Log = &stsv1.LogConfig{}
	}
	k.oneOf("log.level", &c.Log.Level, "info", "debug", "warn", "error")
	k.limits(c)
}

// section returns a required section, reporting it if it is missing. Its keys
// are then not reported one by one.
func section[M any, P interface {
	*M
	proto.Message
}](k configCheck, p P, path string) P {
	if p == nil {
		k.report(path, "is missing")
		return new(M)
	}
	return p
}

func (k configCheck) issuer(issuer string) {
	u, err := url.Parse(issuer)
	switch {
	case issuer == "":
		k.report("issuer", "is missing; set the https URL that clients and verifiers reach this service by")
	case err != nil || u.Host == "" || u.User != nil || strings.ContainsAny(issuer, "?#") || u.Path != "":
		k.report("issuer", "must be a URL of scheme and host alone, such as https://sts.example.com, without path or trailing slash")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		k.report("issuer", "must be https; http is for loopback addresses only")
	case u.Scheme != "https" && u.Scheme != "http":
		k.report("issuer", "must be an https URL")
	}
}

func (k configCheck) listener(path string, l *stsv1.Listener) *stsv1.Listener {
	if l == nil {
		k.report(path, "is missing")
		return &stsv1.Listener{}
	}
	host, _, err := net.SplitHostPort(l.Listen)
	switch {
	case l.Listen == "":
		k.report(path+".listen", "is missing")
	case err != nil:
		k.report(path+".listen", "must be HOST:PORT, such as 0.0.0.0:8443")
	case l.Tls == nil && !isLoopback(host):
		k.report(path, "needs tls: plain text is for loopback addresses only")
	}
	if l.Tls != nil {
		before := 0
		counting := configCheck{dir: k.dir, report: func(p, m string) { before++; k.report(p, m) }}
		l.Tls.CertFile = counting.existingFile(path+".tls.cert_file", l.Tls.CertFile)
		l.Tls.KeyFile = counting.existingFile(path+".tls.key_file", l.Tls.KeyFile)
		if before == 0 {
			if _, err := tls.LoadX509KeyPair(l.Tls.CertFile, l.Tls.KeyFile); err != nil {
				k.report(path+".tls", "the certificate cannot be used: "+err.Error())
			}
		}
	}
	return l
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// existingFile returns the absolute path of a file that must be readable.
func (k configCheck) existingFile(path, file string) string {
	if file == "" {
		k.report(path, "is missing")
		return ""
	}
	file = k.absolute(file)
	if f, err := os.Open(file); err != nil {
		k.report(path, "cannot be read: "+err.Error())
	} else {
		f.Close()
	}
	return file
}

// newFile returns the absolute path of a file that will be made if need be.
func (k configCheck) newFile(path, file string) string {
	if file == "" {
		k.report(path, "is missing")
		return ""
	}
	file = k.absolute(file)
	if dir, err := os.Stat(filepath.Dir(file)); err != nil || !dir.IsDir() {
		k.report(path, "its directory "+filepath.Dir(file)+" does not exist; make it first")
	}
	return file
}

func (k configCheck) absolute(file string) string {
	if !filepath.IsAbs(file) {
		file = filepath.Join(k.dir, file)
	}
	return file
}

// oneOf fills in the first value if there is none.
func (k configCheck) oneOf(path string, value *string, values ...string) {
	if *value == "" {
		*value = values[0]
	}
	if !slices.Contains(values, *value) {
		k.report(path, fmt.Sprintf("is %q; it must be one of %s", *value, strings.Join(values, ", ")))
	}
}

func (k configCheck) limits(c *stsv1.ServerConfig) {
	if c.Limits == nil {
		c.Limits = &stsv1.LimitsConfig{}
	}
	k.duration("shutdown_grace", &c.ShutdownGrace, 10*time.Second, 5*time.Minute)
	k.duration("limits.request_timeout", &c.Limits.RequestTimeout, 10*time.Second, time.Minute)
	k.count("limits.max_connections", &c.Limits.MaxConnections)
	k.count("limits.max_watches", &c.Limits.MaxWatches)
}

func (k configCheck) duration(path string, d **durationpb.Duration, def, most time.Duration) {
	if *d == nil {
		*d = durationpb.New(def)
	}
	if v := (*d).AsDuration(); v <= 0 || v > most {
		k.report(path, fmt.Sprintf("is %s; it must be above 0 and at most %s", v, most))
	}
}

func (k configCheck) count(path string, n *int32) {
	const def, most = 10_000, 1_000_000
	if *n == 0 {
		*n = def
	}
	if *n < 0 || *n > most {
		k.report(path, fmt.Sprintf("is %d; it must be between 1 and %d", *n, most))
	}
}

func logLevel(level string) slog.Level {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		panic(err) // checked by loadConfig
	}
	return l
}
