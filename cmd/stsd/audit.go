package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"slices"
	"time"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/storage"
	"github.com/workload-sts/sts/sts"
)

// maxSinks is how many copies of the audit log are sent elsewhere.
const maxSinks = 8

// audit checks the section audit. keys is checked.
func (k configCheck) audit(c *stsv1.AuditConfig, keys *stsv1.KeysConfig) {
	c.File = k.newFile("audit.file", c.File)
	k.auditDefaults(c)
	if set := c.Checkpoints.KeySet; !slices.ContainsFunc(keys.Sets, func(s *stsv1.KeySetConfig) bool { return s.Name == set }) && set != sts.DefaultKeySet {
		k.report("audit.checkpoints.key_set", fmt.Sprintf("is %q, which keys.sets does not have", set))
	}
	if len(c.Sinks) > maxSinks {
		k.report("audit.sinks", fmt.Sprintf("has %d sinks; it must have at most %d", len(c.Sinks), maxSinks))
	}
	names := map[string]string{}
	for i, s := range c.Sinks {
		path := fmt.Sprintf("audit.sinks[%d]", i)
		k.sink(path, s)
		if other, taken := names[s.Name]; taken {
			k.report(path+".name", fmt.Sprintf("%q is the name of %s too; give each sink a name of its own", s.Name, other))
		}
		names[s.Name] = path
	}
}

func (k configCheck) auditDefaults(c *stsv1.AuditConfig) {
	k.oneOf("audit.durability", &c.Durability, "async", "sync")
	c.Rotation, c.Checkpoints = orEmpty(c.Rotation), orEmpty(c.Checkpoints)
	k.number("audit.rotation.max_size_mib", &c.Rotation.MaxSizeMib, 256, 1<<20)
	k.duration("audit.rotation.max_age", &c.Rotation.MaxAge, 24*time.Hour, 8784*time.Hour)
	k.atLeast("audit.rotation.max_age", c.Rotation.MaxAge, time.Minute)
	if n := c.Rotation.KeepFiles; n < 0 || n > 1_000_000 {
		k.report("audit.rotation.keep_files", fmt.Sprintf("is %d; it must be between 0, which keeps all, and 1000000", n))
	}
	k.number("audit.checkpoints.records", &c.Checkpoints.Records, storage.DefaultCheckpointRecords, 100_000)
	k.duration("audit.checkpoints.every", &c.Checkpoints.Every, storage.DefaultCheckpointEvery, time.Hour)
	k.atLeast("audit.checkpoints.every", c.Checkpoints.Every, time.Second)
	c.Strangers = orEmpty(c.Strangers)
	k.number("audit.strangers.per_network", &c.Strangers.PerNetwork, 60, 1_000_000)
	k.number("audit.strangers.total", &c.Strangers.Total, 600, 1_000_000)
	if c.Checkpoints.KeySet == "" {
		c.Checkpoints.KeySet = sts.DefaultKeySet
	}
}

var sinkName = regexp.MustCompile(`^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$`)

func (k configCheck) sink(path string, s *stsv1.AuditSinkConfig) {
	kind := ""
	switch d := s.Sink.(type) {
	case *stsv1.AuditSinkConfig_Stdout:
		kind = "stdout"
	case *stsv1.AuditSinkConfig_Syslog:
		kind = "syslog"
		k.syslog(path+".syslog", d.Syslog)
	case *stsv1.AuditSinkConfig_Otlp:
		kind = "otlp"
		k.otlp(path+".otlp", d.Otlp)
	default:
		k.report(path, "says nothing of where records go; give it one of stdout, syslog and otlp")
	}
	if s.Name == "" {
		s.Name = kind
	}
	if kind != "" && !sinkName.MatchString(s.Name) {
		k.report(path+".name", "must be small letters, digits, hyphens and underscores, at most 63")
	}
}

func (k configCheck) syslog(path string, c *stsv1.AuditSyslogConfig) {
	if c.Address == "" {
		k.report(path+".address", "is missing")
	} else if err := storage.CheckSyslogAddress(c.Address); err != nil {
		k.report(path+".address", err.Error())
	}
	if c.Facility == "" {
		c.Facility = "audit"
	}
	if _, ok := storage.SyslogFacilities[c.Facility]; !ok {
		k.report(path+".facility", fmt.Sprintf("is %q; it must be a keyword of syslog, such as audit, authpriv or local0", c.Facility))
	}
	if u, err := url.Parse(c.Address); err == nil && u.Scheme != "tls" && (c.CaFile != "" || c.CertFile != "" || c.KeyFile != "") {
		k.report(path+".address", "must begin with tls:// for ca_file, cert_file and key_file to count")
	}
	k.clientTLS(path, &c.CaFile, &c.CertFile, &c.KeyFile)
}

func (k configCheck) otlp(path string, c *stsv1.AuditOtlpConfig) {
	u, err := url.Parse(c.Endpoint)
	switch {
	case c.Endpoint == "":
		k.report(path+".endpoint", "is missing")
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http":
		k.report(path+".endpoint", "must be a URL such as https://collector.example.com:4318/v1/logs")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		k.report(path+".endpoint", "must be https; http is for loopback addresses only")
	}
	if c.TokenFile != "" {
		c.TokenFile = k.existingFile(path+".token_file", c.TokenFile)
	}
	k.clientTLS(path, &c.CaFile, &c.CertFile, &c.KeyFile)
}

// clientTLS checks the files of a connection to another server, and makes them
// absolute.
func (k configCheck) clientTLS(path string, ca, cert, key *string) {
	files, missing := k.noting()
	if *ca != "" {
		*ca = files.existingFile(path+".ca_file", *ca)
	}
	if *cert != "" || *key != "" {
		*cert = files.existingFile(path+".cert_file", *cert)
		*key = files.existingFile(path+".key_file", *key)
	}
	if *missing {
		return
	}
	if _, err := clientTLSConfig(*ca, *cert, *key); err != nil {
		k.report(path, err.Error())
	}
}

// clientTLSConfig is that of a connection to another server.
func clientTLSConfig(ca, cert, key string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("ca_file has no certificate in PEM")
		}
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("the certificate cannot be used: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// openAudit opens the audit log as its section says, which is checked.
func (n *node) openAudit(c *stsv1.AuditConfig) (*storage.Audit, error) {
	sinks, err := n.auditSinks(c)
	if err != nil {
		return nil, err
	}
	audit, torn, err := storage.OpenAudit(storage.AuditOptions{
		Store: n.store, Node: n.auditNode(c.File), File: c.File, Now: clock, Sync: c.Durability == "sync", Signer: n.ring, Sinks: sinks, Log: n.log,
		MaxSize: int64(c.Rotation.MaxSizeMib) << 20, MaxAge: c.Rotation.MaxAge.AsDuration(), KeepFiles: int(c.Rotation.KeepFiles),
		KeySet: c.Checkpoints.KeySet, CheckpointRecords: int64(c.Checkpoints.Records), CheckpointEvery: c.Checkpoints.Every.AsDuration(),
	})
	if err != nil {
		return nil, err
	}
	if torn != "" {
		n.log.Warn("the end of the audit log was torn by a crash and has been moved aside", "file", torn)
	}
	n.closers = append(n.closers, audit.Close)
	return audit, nil
}

// auditNode says whose log a file is, among those of a store that several nodes
// share.
func (n *node) auditNode(file string) string {
	if !n.shared {
		return ""
	}
	return hostname() + ":" + file
}

// hostname is what this machine is called, or a dash.
func hostname() string {
	host, err := os.Hostname()
	if err != nil {
		return "-"
	}
	return host
}

func (n *node) auditSinks(c *stsv1.AuditConfig) ([]storage.AuditSink, error) {
	var out []storage.AuditSink
	for _, s := range c.Sinks {
		switch d := s.Sink.(type) {
		case *stsv1.AuditSinkConfig_Stdout:
			out = append(out, storage.NewWriterSink(s.Name, os.Stdout))
		case *stsv1.AuditSinkConfig_Syslog:
			t, err := clientTLSConfig(d.Syslog.CaFile, d.Syslog.CertFile, d.Syslog.KeyFile)
			if err != nil {
				return nil, fmt.Errorf("the sink %s of the audit log: %w", s.Name, err)
			}
			sink, err := storage.NewSyslogSink(s.Name, storage.SyslogOptions{
				Address: d.Syslog.Address, Facility: storage.SyslogFacilities[d.Syslog.Facility], TLS: t, AppName: "stsd",
			})
			if err != nil {
				return nil, fmt.Errorf("the sink %s of the audit log: %w", s.Name, err)
			}
			out = append(out, sink)
		case *stsv1.AuditSinkConfig_Otlp:
			t, err := clientTLSConfig(d.Otlp.CaFile, d.Otlp.CertFile, d.Otlp.KeyFile)
			if err != nil {
				return nil, fmt.Errorf("the sink %s of the audit log: %w", s.Name, err)
			}
			out = append(out, storage.NewOTLPSink(s.Name, storage.OTLPOptions{
				Endpoint: d.Otlp.Endpoint, TokenFile: d.Otlp.TokenFile, TLS: t, Version: version(),
			}))
		}
	}
	return out, nil
}
