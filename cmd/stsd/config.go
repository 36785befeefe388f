package main

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/keys"
	"github.com/workload-sts/sts/sts/resource"
	"github.com/workload-sts/sts/sts/server"
)

// problems is everything that is wrong with a configuration file.
type problems []resource.Problem

func (p problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return strings.Join(lines, "\n")
}

// loadConfig reads and checks a configuration file. The error is problems, or
// that the file cannot be read. The result has its defaults filled in and
// absolute paths.
func loadConfig(file string) (*stsv1.ServerConfig, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	c := &stsv1.ServerConfig{}
	positions, found := resource.Decode(file, data, c)
	check := configCheck{dir: filepath.Dir(file), report: func(path, message string) {
		p := resource.Problem{Path: path, Message: message}
		p.File, p.Line, p.Column = positions.At(path)
		found = append(found, p)
	}}
	// Of a file that cannot be read there is nothing more to say.
	if len(found) == 0 || proto.Size(c) > 0 {
		check.config(c)
	}
	if len(found) > 0 {
		slices.SortStableFunc(found, func(a, b resource.Problem) int {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
		})
		return nil, problems(found)
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
	c.Http, c.Grpc = orEmpty(c.Http), orEmpty(c.Grpc)
	k.listener("http", c.Http)
	k.listener("grpc", c.Grpc)
	if collide(c.Http.Listen, c.Grpc.Listen) {
		k.report("grpc.listen", "is the address of http.listen; the two faces need an address each")
	}
	c.Storage = orEmpty(c.Storage)
	k.storage(c.Storage)
	c.Keys, c.Rotation = orEmpty(c.Keys), orEmpty(c.Rotation)
	k.keys(c.Keys)
	k.rotation(c.Rotation)
	c.Audit = orEmpty(c.Audit)
	k.audit(c.Audit, c.Keys)
	k.apart("audit.file", c.Audit.File, "storage.bolt_file", c.Storage.BoltFile)
	k.apart("audit.file", c.Audit.File, "storage.replay_file", c.Storage.ReplayFile)
	for i, s := range c.Keys.Sets {
		path, file := fmt.Sprintf("keys.sets[%d].local.key_file", i), s.GetLocal().GetKeyFile()
		k.apart(path, file, "storage.bolt_file", c.Storage.BoltFile)
		k.apart(path, file, "audit.file", c.Audit.File)
		k.apart(path, file, "storage.replay_file", c.Storage.ReplayFile)
	}
	c.Log = orEmpty(c.Log)
	k.oneOf("log.level", &c.Log.Level, "info", "debug", "warn", "error")
	k.limits(c)
	k.dpop(c)
	k.admin(c)
}

// orEmpty stands in for a section that is missing, so that what is missing is
// reported by the keys that are required in it.
func orEmpty[M any](section *M) *M {
	if section == nil {
		return new(M)
	}
	return section
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
	case !plainHost(u.Hostname()):
		k.report("issuer", "must have a host of lower case letters, digits, hyphens and dots, or an IP address")
	default:
		if err := keys.CheckURL(issuer, isLoopback(u.Hostname())); err != nil {
			k.report("issuer", err.Error())
		}
	}
}

func (k configCheck) listener(path string, l *stsv1.Listener) {
	host, port, err := net.SplitHostPort(l.Listen)
	_, portErr := strconv.ParseUint(port, 10, 16)
	switch {
	case l.Listen == "":
		k.report(path+".listen", "is missing")
	case err != nil || portErr != nil:
		k.report(path+".listen", "must be HOST:PORT with a port up to 65535, such as 0.0.0.0:8443")
	case l.Tls == nil && !isLoopback(host):
		k.report(path, "needs tls: plain text is for loopback addresses only")
	}
	if l.Tls != nil {
		k.certificate(path+".tls", l.Tls)
		k.clientCertificates(path+".tls.client_certificates", l.Tls.ClientCertificates)
	}
	k.trustedProxies(path, l)
}

func (k configCheck) certificate(path string, t *stsv1.TlsConfig) {
	files, missing := k.noting()
	t.CertFile = files.existingFile(path+".cert_file", t.CertFile)
	t.KeyFile = files.existingFile(path+".key_file", t.KeyFile)
	if *missing {
		return
	}
	if _, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile); err != nil {
		k.report(path, "the certificate cannot be used: "+err.Error())
	}
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
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		if dir, err := os.Stat(filepath.Dir(file)); err != nil || !dir.IsDir() {
			k.report(path, "its directory "+filepath.Dir(file)+" does not exist; make it first")
		}
		return file
	}
	switch {
	case err != nil:
		k.report(path, "cannot be read: "+err.Error())
	case !info.Mode().IsRegular():
		k.report(path, file+" is not a file")
	case info.Mode().Perm()&0o077 != 0:
		k.report(path, fmt.Sprintf("%s can be read or written by others (mode %04o); make it private with `chmod 600 %s`", file, info.Mode().Perm(), file))
	}
	return file
}

func (k configCheck) absolute(file string) string {
	if !filepath.IsAbs(file) {
		file = filepath.Join(k.dir, file)
	}
	return filepath.Clean(file)
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
	c.Limits = orEmpty(c.Limits)
	k.duration("shutdown_grace", &c.ShutdownGrace, 10*time.Second, 5*time.Minute)
	k.duration("limits.request_timeout", &c.Limits.RequestTimeout, 10*time.Second, time.Minute)
	const connections, most = 10_000, 1_000_000
	k.number("limits.max_connections", &c.Limits.MaxConnections, connections, most)
	k.number("limits.max_watches", &c.Limits.MaxWatches, connections, most)
	k.number("limits.max_requests", &c.Limits.MaxRequests, 1000, 100_000)
	for key, r := range map[string]*stsv1.Rate{"total": c.Limits.Total, "source": c.Limits.Source, "client": c.Limits.Client} {
		if err := server.CheckRate(r); err != nil {
			k.report("limits."+key, fmt.Sprintf("is not a rate: %v; write {count: 100} for 100 a second", err))
		}
	}
}

func (k configCheck) duration(path string, d **durationpb.Duration, def, most time.Duration) {
	if *d == nil {
		*d = durationpb.New(def)
	}
	if v := (*d).AsDuration(); v <= 0 || v > most {
		k.report(path, fmt.Sprintf("is %s; it must be above 0 and at most %s", v, most))
	}
}

// atLeast is for what would do nothing else if it came around too often.
func (k configCheck) atLeast(path string, d *durationpb.Duration, least time.Duration) {
	if v := d.AsDuration(); v > 0 && v < least {
		k.report(path, fmt.Sprintf("is %s; it must be at least %s", v, least))
	}
}

func (k configCheck) number(path string, n *int32, def, most int32) {
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
