package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/workload-sts/sts/storage"
)

// etcdFlags say how etcd is reached.
type etcdFlags struct {
	caFile, certFile, keyFile, serverName string
	username, passwordFile                string
}

func newStorageMigrate(c *cli) *cobra.Command {
	var from, to string
	var etcd etcdFlags
	cmd := &cobra.Command{
		Use:   "migrate --from STORE --to STORE",
		Short: "Move everything from one kind of store to another",
		Long: `Copy everything from one store to another, which must be empty, and read both
again to compare them. The first one stays where it is. Stop all servers that
use either of them before.

A store is one of
  bolt:FILE
  etcd:https://HOST:PORT[,https://HOST:PORT...][/PREFIX/]
The prefix of keys in etcd is /sts/ if none is given. A file that is not there
is made. The file that remembers which single-use tokens were used is no part of
a store and is not copied: such tokens, if they were made before, are refused at
the new store.

If it fails or is interrupted, what was begun stays in the other store. No
server starts with that, and it must be removed before another attempt: the
file, or the keys below the prefix.`,
		Example: `  stsctl storage migrate --from bolt:/var/lib/sts/sts.db \
    --to etcd:https://etcd-0:2379,https://etcd-1:2379,https://etcd-2:2379/sts/ --etcd-ca-file etcd-ca.pem`,
		Args: noArgs("use --from and --to"),
	}
	cmd.Flags().StringVar(&from, "from", "", "`STORE` to copy")
	cmd.Flags().StringVar(&to, "to", "", "`STORE` to copy to; it must be empty")
	etcd.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if from == "" || to == "" {
			return usage("migrate needs --from STORE and --to STORE")
		}
		n, err := migrate(cmd.Context(), from, to, etcd, c.now())
		if _, coded := errors.AsType[*failure](err); err != nil && !coded {
			return badInput("%v", err)
		}
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.stdout, "%d entries were copied and compared; set `storage` in the configuration to the new store\n", n)
		return err
	}
	return cmd
}

func (f *etcdFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.caFile, "etcd-ca-file", "", "PEM `FILE` with the authorities that sign the certificates of etcd (default: those of the system)")
	cmd.Flags().StringVar(&f.certFile, "etcd-cert-file", "", "PEM `FILE` with the certificate to show to etcd")
	cmd.Flags().StringVar(&f.keyFile, "etcd-key-file", "", "PEM `FILE` with the key of that")
	cmd.Flags().StringVar(&f.serverName, "etcd-server-name", "", "`NAME` in the certificates of etcd (default: the host of each address)")
	cmd.Flags().StringVar(&f.username, "etcd-username", "", "`NAME` to log in to etcd with")
	cmd.Flags().StringVar(&f.passwordFile, "etcd-password-file", "", "`FILE` with the password of that")
}

func migrate(ctx context.Context, from, to string, etcd etcdFlags, now time.Time) (n int, err error) {
	if path, ok := strings.CutPrefix(from, "bolt:"); ok {
		// Opening would make it.
		if _, err := os.Stat(path); err != nil {
			return 0, fmt.Errorf("the store to copy: %w", err)
		}
	}
	source, err := openStore(ctx, "--from", from, etcd)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	destination, err := openStore(ctx, "--to", to, etcd)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, destination.Close()) }()
	return storage.Move(ctx, source, destination, now)
}

// openStore opens a store by what a flag says.
func openStore(ctx context.Context, flag, value string, etcd etcdFlags) (storage.KV, error) {
	kind, rest, _ := strings.Cut(value, ":")
	switch kind {
	case "bolt":
		path, err := boltPath(flag, value)
		if err != nil {
			return nil, err
		}
		return storage.OpenBolt(path, storage.BoltOptions{})
	case "etcd":
		options, err := etcd.options(flag, rest)
		if err != nil {
			return nil, err
		}
		return storage.OpenEtcd(ctx, options)
	}
	return nil, usage("%s is %q; write bolt:FILE, or etcd:https://HOST:PORT", flag, oneLine(value))
}

// options reads addresses that are separated by commas, the last one followed by
// the prefix of keys.
func (f etcdFlags) options(flag, addresses string) (storage.EtcdOptions, error) {
	o := storage.EtcdOptions{
		CAFile: f.caFile, CertFile: f.certFile, KeyFile: f.keyFile, ServerName: f.serverName,
		Username: f.username, PasswordFile: f.passwordFile,
	}
	list := strings.Split(addresses, ",")
	for i, address := range list {
		u, err := url.Parse(address)
		if err == nil && i == len(list)-1 && u.Path != "" {
			if o.Prefix = u.Path; !strings.HasSuffix(o.Prefix, "/") {
				o.Prefix += "/"
			}
			u.Path, u.RawPath = "", ""
			address = u.String()
		}
		if err := storage.CheckEtcdEndpoint(address, isLoopback); err != nil {
			return o, usage("%s: the address %q %v", flag, oneLine(address), err)
		}
		o.Endpoints = append(o.Endpoints, address)
	}
	if o.Prefix == "/" {
		o.Prefix = ""
	}
	if o.Prefix != "" {
		if err := storage.CheckEtcdPrefix(o.Prefix); err != nil {
			return o, usage("%s: the prefix %q %v", flag, oneLine(o.Prefix), err)
		}
	}
	return o, nil
}
