package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/workload-sts/sts/storage"
)

func newStorageConfirm(c *cli) *cobra.Command {
	var store string
	var etcd etcdFlags
	var accept bool
	cmd := &cobra.Command{
		Use:   "confirm --store STORE --accept-rollback",
		Short: "Let servers use an etcd that was restored",
		Long: `Let servers use an etcd cluster again that has lost something, or is another one
than before. They refuse it: its id has changed, or its revision has gone back,
as after etcdctl snapshot restore.

What happened after the backup is lost, and that is dangerous: a client, a token
or a signing key that was revoked since then is not revoked in the backup, a
resource that was deleted is there, and a secret that was replaced works. So the
command wants --accept-rollback, and the store notes the moment: servers then
take all tokens that were issued before for revoked, and refuse client
assertions and other single-use tokens that may have been used before. They
cannot know the rest. Read in the audit log what was changed and revoked since
the backup, and do it again; rotate the signing keys if in doubt.

The store is etcd:https://HOST:PORT[,https://HOST:PORT...][/PREFIX/]; the prefix
of keys is /sts/ if none is given. Servers that run end, since what they know is
from before, and have to be started anew.`,
		Example: "  stsctl storage confirm --store etcd:https://etcd-0:2379,https://etcd-1:2379/sts/ --etcd-ca-file etcd-ca.pem --accept-rollback",
		Args:    noArgs("use --store"),
	}
	cmd.Flags().StringVar(&store, "store", "", "`STORE` to let be used")
	cmd.Flags().BoolVar(&accept, "accept-rollback", false, "accept that what happened after the backup is lost, revocations too")
	etcd.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		addresses, ok := strings.CutPrefix(store, "etcd:")
		if !ok {
			return usage("--store is %q; write etcd:https://HOST:PORT", oneLine(store))
		}
		if !accept {
			return usage("what was revoked after the backup would not be revoked any more; read `stsctl storage confirm --help`, and if you mean it, add --accept-rollback")
		}
		options, err := etcd.options("--store", addresses)
		if err != nil {
			return err
		}
		now := c.now()
		why, err := storage.ConfirmEtcd(cmd.Context(), options, now)
		if err != nil {
			return badInput("%v", err)
		}
		if why == "" {
			_, err = fmt.Fprintln(c.stdout, "The store is not refused; nothing was changed.")
			return err
		}
		_, err = fmt.Fprintf(c.stdout, `The store was refused: %s.
Servers that are started now use it. Tokens of this service issued before %s do not count any more.
Do again what was changed and revoked since the backup; the audit log has it.
`, strings.TrimSuffix(why, ": "+storage.ErrRestored.Error()), now.UTC().Format("2006-01-02 15:04:05 UTC"))
		return err
	}
	return cmd
}
