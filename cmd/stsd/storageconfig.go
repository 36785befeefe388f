package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/storage"
)

// storage checks where state is kept.
func (k configCheck) storage(c *stsv1.StorageConfig) {
	k.revisions(c)
	switch {
	case c.BoltFile == "" && c.Etcd == nil:
		k.report("storage", "needs one of bolt_file, a file of this machine, and etcd, a cluster that several nodes share")
	case c.BoltFile != "" && c.Etcd != nil:
		k.report("storage.etcd", "is given beside bolt_file; state is kept in one of them")
	case c.Etcd != nil:
		k.etcd("storage.etcd", c.Etcd)
		if c.ReplayFile != "" {
			k.report("storage.replay_file", "is for bolt_file; in etcd, what was used once is kept with everything else")
		}
	default:
		if c.ReplayFile == "" {
			c.ReplayFile = c.BoltFile + ".replay" // before either has the directory of the configuration
		}
		c.BoltFile = k.newFile("storage.bolt_file", c.BoltFile)
		c.ReplayFile = k.newFile("storage.replay_file", c.ReplayFile)
		k.apart("storage.replay_file", c.ReplayFile, "storage.bolt_file", c.BoltFile)
	}
}

// revisions checks how resources are kept and followed.
func (k configCheck) revisions(c *stsv1.StorageConfig) {
	const staleness, leastStaleness, mostStaleness = 30 * time.Second, 5 * time.Second, 5 * time.Minute
	k.duration("storage.max_staleness", &c.MaxStaleness, staleness, mostStaleness)
	if d := c.MaxStaleness.AsDuration(); d > 0 && d < leastStaleness {
		k.report("storage.max_staleness", fmt.Sprintf("is %s; it must be at least %s, since the storage confirms about once a second and may be slow to", d, leastStaleness))
	}
	k.number("storage.keep_revisions", &c.KeepRevisions, 100, 10_000)
}

func (k configCheck) etcd(path string, c *stsv1.EtcdConfig) {
	if len(c.Endpoints) == 0 {
		k.report(path+".endpoints", "is missing; name at least one, such as https://etcd-0.internal:2379")
	}
	for i, endpoint := range c.Endpoints {
		at := fmt.Sprintf("%s.endpoints[%d]", path, i)
		if err := storage.CheckEtcdEndpoint(endpoint, isLoopback); err != nil {
			k.report(at, err.Error())
		} else if strings.HasPrefix(endpoint, "http:") != strings.HasPrefix(c.Endpoints[0], "http:") {
			k.report(at, "must have the scheme of the others")
		}
	}
	if c.Prefix == "" {
		c.Prefix = storage.DefaultEtcdPrefix
	}
	if err := storage.CheckEtcdPrefix(c.Prefix); err != nil {
		k.report(path+".prefix", err.Error())
	}
	if c.CaFile != "" {
		c.CaFile = k.authorities(path+".ca_file", c.CaFile)
	}
	c.CertFile, c.KeyFile = k.pair(path, c.CertFile, c.KeyFile)
	switch {
	case c.Username != "":
		c.PasswordFile = k.existingFile(path+".password_file", c.PasswordFile)
	case c.PasswordFile != "":
		k.report(path+".username", "is missing; password_file is its password")
	}
	k.duration(path+".request_timeout", &c.RequestTimeout, storage.DefaultEtcdTimeout, 10*time.Second)
}

// etcdOptions expects defaults to be filled in.
func etcdOptions(c *stsv1.EtcdConfig) storage.EtcdOptions {
	return storage.EtcdOptions{
		Endpoints: slices.Clone(c.Endpoints), Prefix: c.Prefix,
		CAFile: c.CaFile, CertFile: c.CertFile, KeyFile: c.KeyFile, ServerName: c.ServerName,
		Username: c.Username, PasswordFile: c.PasswordFile, RequestTimeout: c.RequestTimeout.AsDuration(),
	}
}
