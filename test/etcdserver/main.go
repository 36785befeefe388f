// Command etcdserver is a real member of an etcd cluster with only what tests
// need: the server that `etcd` runs, with flags for what they set.
//
// It prints "ready" when it has joined its cluster and serves. With -restore it
// makes a data directory of a snapshot instead, as `etcdutl snapshot restore`
// does, and ends.
//
// It ends when its standard input does or when its parent is gone, so a test that
// is killed leaves no server behind.
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"time"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "etcdserver:", err)
		os.Exit(1)
	}
}

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	parent := os.Getppid()
	c, restore, err := configure(args, stderr)
	if err != nil {
		return err
	}
	if restore != "" {
		return snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
			SnapshotPath: restore, Name: c.Name, OutputDataDir: c.Dir,
			PeerURLs:       []string{c.AdvertisePeerUrls[0].String()},
			InitialCluster: c.InitialCluster, InitialClusterToken: c.InitialClusterToken,
		})
	}
	e, err := embed.StartEtcd(c)
	if err != nil {
		return err
	}
	select {
	case <-e.Server.ReadyNotify():
	case err := <-e.Err():
		return err
	case <-alone(stdin, parent):
		return nil
	}
	if _, err := fmt.Fprintln(stdout, "ready"); err != nil {
		return err
	}
	select {
	case err := <-e.Err():
		return err
	case <-e.Server.StopNotify():
		return errors.New("the server has stopped; was it removed from the cluster?")
	case <-alone(stdin, parent):
		return nil
	}
}

// configure reads the command line. restore is the file of a snapshot, if there is
// one.
func configure(args []string, stderr io.Writer) (c *embed.Config, restore string, err error) {
	c = embed.NewConfig()
	flags := flag.NewFlagSet("etcdserver", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&c.Name, "name", "m0", "`name` of the member")
	flags.StringVar(&c.Dir, "dir", "", "keep the data in `directory`")
	flags.StringVar(&c.InitialCluster, "cluster", "", "all members, as `name=url,…`")
	flags.StringVar(&c.InitialClusterToken, "token", "test", "`text` that tells clusters apart")
	flags.StringVar(&c.ClusterState, "state", "new", "`new` or existing")
	flags.Int64Var(&c.QuotaBackendBytes, "quota", 0, "largest size of the database in `bytes`")
	flags.UintVar(&c.TickMs, "heartbeat", c.TickMs, "time between heartbeats, in `ms`")
	flags.UintVar(&c.ElectionMs, "election", c.ElectionMs, "time without a heartbeat before an election, in `ms`")
	client := flags.String("client", "", "serve clients on `url`")
	peer := flags.String("peer", "", "serve other members on `url`")
	advertised := flags.String("advertise-peer", "", "what other members are told to use, a `url` (default -peer)")
	cert := flags.String("cert", "", "the certificate chain for clients and members, in `file`")
	key := flags.String("key", "", "the private key of -cert, in `file`")
	ca := flags.String("ca", "", "the authorities of clients and members, in `file`")
	flags.StringVar(&restore, "restore", "", "make -dir of the snapshot in `file`, and end")
	if err := flags.Parse(args); err != nil {
		return nil, "", err
	}
	if c.ListenClientUrls, err = urls(*client); err != nil {
		return nil, "", err
	}
	if c.ListenPeerUrls, err = urls(*peer); err != nil {
		return nil, "", err
	}
	if c.AdvertisePeerUrls, err = urls(cmp.Or(*advertised, *peer)); err != nil {
		return nil, "", err
	}
	c.AdvertiseClientUrls = c.ListenClientUrls
	if *cert != "" {
		c.ClientTLSInfo.CertFile, c.ClientTLSInfo.KeyFile, c.ClientTLSInfo.TrustedCAFile = *cert, *key, *ca
		c.ClientTLSInfo.ClientCertAuth = true
		c.PeerTLSInfo = c.ClientTLSInfo
	}
	// A test kills processes, not machines: what was written is with the kernel.
	c.UnsafeNoFsync = true
	c.LogLevel, c.LogOutputs, c.EnableGRPCGateway = "warn", []string{"stderr"}, false
	c.BcryptCost, c.CompactionSleepInterval = 4, time.Millisecond
	return c, restore, nil
}

func urls(s string) ([]url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, err
	}
	return []url.URL{*u}, nil
}

// alone receives when nobody needs this process any more: its input has ended,
// or it has another parent than at its start.
func alone(stdin io.Reader, parent int) <-chan struct{} {
	over := make(chan struct{}, 2)
	go func() {
		io.Copy(io.Discard, stdin) // an unreadable input has ended too
		over <- struct{}{}
	}()
	go func() {
		for os.Getppid() == parent {
			time.Sleep(time.Second)
		}
		over <- struct{}{}
	}()
	return over
}
