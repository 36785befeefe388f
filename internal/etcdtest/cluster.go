// Package etcdtest gives tests a real etcd: members in processes of their own,
// with TLS for clients and among themselves, and a network in front of each that
// fails on demand.
//
// Everything listens on 127.0.0.1 and ends with the test that started it.
package etcdtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/workload-sts/sts/internal/testserver"
)

// Cluster is an etcd. Its methods belong to one goroutine.
type Cluster struct {
	Members []*Member
	CA      *testserver.CA // of members and clients
	// A certificate of CA for clients and its key.
	CertFile, KeyFile string

	binary string
	dir    string
	args   []string // of every member
	token  string
	root   *clientv3.Client // goes past the proxies
}

// Member is one member of a cluster.
type Member struct {
	Name  string
	Proxy *testserver.Proxy // between clients and the member
	Peers *testserver.Proxy // between the other members and this one, for what they begin

	cluster   *Cluster
	client    string // the URL that it serves clients on itself
	peer      string
	dir       string
	cert, key string
	run       *testserver.Process // nil: not running
	log       []byte              // of the runs that have ended
}

// An Option says how a cluster is to run.
type Option func(*Cluster)

// WithQuota bounds the database of each member.
func WithQuota(bytes int64) Option {
	return func(c *Cluster) { c.args = append(c.args, "-quota", fmt.Sprint(bytes)) }
}

// Start runs a cluster of so many members, and stops it with the test.
// The first call on a machine builds the server.
func Start(t testing.TB, members int, options ...Option) *Cluster {
	t.Helper()
	binary, err := testserver.Binary("etcdserver")
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{CA: testserver.NewCA(t), binary: binary, dir: t.TempDir(), token: "first"}
	c.CertFile, c.KeyFile = c.CA.Issue(t, "client")
	for _, o := range options {
		o(c)
	}
	for i := range members {
		m := &Member{Name: fmt.Sprintf("m%d", i), cluster: c, client: "https://" + testserver.FreeAddress(t), peer: "https://" + testserver.FreeAddress(t)}
		m.dir = filepath.Join(c.dir, m.Name)
		m.cert, m.key = c.CA.Issue(t, m.Name)
		m.Proxy, m.Peers = testserver.NewProxy(t, m.client), testserver.NewProxy(t, m.peer)
		c.Members = append(c.Members, m)
	}
	t.Cleanup(func() {
		for _, m := range c.Members {
			m.stop()
			if t.Failed() && len(m.log) > 0 {
				t.Logf("member %s of etcd said:\n%s", m.Name, tail(m.log))
			}
		}
	})
	c.start(t, "new")
	c.root = c.Client(t)
	c.ready(t)
	return c
}

// tail is the end of a log, where the reasons are.
func tail(log []byte) []byte {
	const most = 8 << 10
	return log[max(0, len(log)-most):]
}

// start runs all members, which need one another.
func (c *Cluster) start(t testing.TB, state string) {
	t.Helper()
	for _, m := range c.Members {
		m.run = testserver.Begin(t, c.binary, m.args(state)...)
	}
	for _, m := range c.Members {
		m.run.Await(t)
	}
}

// ready waits until the cluster takes writes.
func (c *Cluster) ready(t testing.TB) {
	t.Helper()
	c.Try(t, func(ctx context.Context) error { _, err := c.root.Put(ctx, "etcdtest", ""); return err })
}

// Try repeats what may fail while the cluster elects a leader.
func (c *Cluster) Try(t testing.TB, f func(ctx context.Context) error) {
	t.Helper()
	for deadline := time.Now().Add(testserver.Patience); ; time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		err := f(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("etcd does not answer after %v: %v", testserver.Patience, err)
		}
	}
}

func (c *Cluster) initial() string {
	var members []string
	for _, m := range c.Members {
		members = append(members, m.Name+"="+m.Peers.Addr)
	}
	return strings.Join(members, ",")
}

// Endpoints are the URLs of all members, through their proxies.
func (c *Cluster) Endpoints() []string {
	var urls []string
	for _, m := range c.Members {
		urls = append(urls, m.Proxy.Addr)
	}
	return urls
}

// Client returns a client that goes past the proxies. It closes with the test.
func (c *Cluster) Client(t testing.TB) *clientv3.Client {
	t.Helper()
	var urls []string
	for _, m := range c.Members {
		urls = append(urls, m.client)
	}
	return c.connect(t, urls, "", "")
}

// Root is a client that goes past the proxies; when EnableAuth was called, as the
// user root.
func (c *Cluster) Root() *clientv3.Client { return c.root }

func (c *Cluster) connect(t testing.TB, urls []string, user, password string) *clientv3.Client {
	t.Helper()
	config, err := c.CA.ClientConfig(c.CertFile, c.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: urls, TLS: config, Logger: zap.NewNop(), Username: user, Password: password, DialTimeout: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func write(t testing.TB, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
