package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/workload-sts/sts/storage"
)

func newStorage(c *cli) *cobra.Command {
	return group("storage", "Back up, restore, check and move what the server stores",
		`Back up, restore, check and move what the server stores.

Whoever has a copy of the store, and the key file or the use of the keys in
Vault, is the service. Copies are made with mode 0600; keep them as safe as the
server.

backup asks the running server. The other commands work on files, and on etcd:
stop the servers that use them first. A file that a server holds is refused.`,
		newStorageBackup(c), newStorageRestore(c), newStorageVerify(c), newStorageCompact(c), newStorageMigrate(c), newStorageConfirm(c))
}

// oneFile says what to write instead of one argument.
func oneFile(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 || args[0] == "" {
			return usage("%s takes one argument, %s", cmd.Name(), what)
		}
		return nil
	}
}

func newStorageVerify(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "verify FILE",
		Short: "Check every page and every entry of a store or a backup",
		Long: `Check every page and every entry of the file of a store, or of a backup: the
checks that the server makes when it starts. Nothing is changed.`,
		Example: "  stsctl storage verify /backup/sts-2026-01-31.db",
		Args:    oneFile("the file of a store or a backup"),
		RunE: func(_ *cobra.Command, args []string) error {
			info, err := storage.VerifyBolt(args[0])
			if err != nil {
				return badInput("%v", err)
			}
			_, err = fmt.Fprintf(c.stdout, "%s is whole: %s, format %d\n", args[0], described(info), info.Format)
			return err
		},
	}
}

func newStorageCompact(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "compact FILE",
		Short: "Give back the room that a store does not use any more",
		Long: `Write the file of a store anew, without the room that it does not use any more.
The new file takes the place of the old one at once and whole, when it was
checked and is on the disk; until then the old one is as it was. There must be
room for both.`,
		Example: "  stsctl storage compact /var/lib/sts/sts.db",
		Args:    oneFile("the file of a store"),
		RunE: func(_ *cobra.Command, args []string) error {
			before, after, err := storage.CompactBolt(args[0])
			if err != nil {
				return badInput("%v", err)
			}
			_, err = fmt.Fprintf(c.stdout, "%s had %s, and has %s now: %s\n", args[0], bytesShown(before.Size), bytesShown(after.Size), described(after))
			return err
		},
	}
}

func newStorageRestore(c *cli) *cobra.Command {
	var from, to string
	var accept bool
	cmd := &cobra.Command{
		Use:   "restore --from BACKUP --to FILE --accept-rollback",
		Short: "Make a store of a backup",
		Long: `Make a store of a backup, in a file that is not there yet. The backup is checked
before, and the store after.

What happened after the backup is lost, and that is dangerous: a client, a token
or a signing key that was revoked since then is not revoked in the backup, a
resource that was deleted is there, and a secret that was replaced works. So the
command wants --accept-rollback, and the store notes the moment: the server then
revokes all tokens that were issued before. It cannot know the rest. Before it
serves, read in the audit log what was changed and revoked since the backup, and
do it again; rotate the signing keys if in doubt.

The file that remembers which single-use tokens were used is no part of a
backup. If it is there, leave it; if not, the server refuses single-use tokens
that may have been used before it started.`,
		Example: "  stsctl storage restore --from /backup/sts-2026-01-31.db --to /var/lib/sts/sts.db --accept-rollback",
		Args:    noArgs("use --from and --to"),
	}
	cmd.Flags().StringVar(&from, "from", "", "`BACKUP` to restore")
	cmd.Flags().StringVar(&to, "to", "", "`FILE` of the store to make, `storage.bolt_file` of the configuration")
	cmd.Flags().BoolVar(&accept, "accept-rollback", false, "accept that what happened after the backup is lost, revocations too")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if from == "" || to == "" {
			return usage("restore needs --from BACKUP and --to FILE")
		}
		if !accept {
			return usage("what was revoked after the backup would not be revoked any more; read `stsctl storage restore --help`, and if you mean it, add --accept-rollback")
		}
		now := c.now()
		info, err := storage.RestoreBolt(cmd.Context(), from, to, now)
		if err != nil {
			return badInput("%v", err)
		}
		_, err = fmt.Fprintf(c.stdout, `%s was restored: %s
Tokens issued before %s do not count any more.
Do again what was changed and revoked since the backup; the audit log has it.
The file must belong to the user that the server runs as.
`, to, described(info), now.UTC().Format("2006-01-02 15:04:05 UTC"))
		return err
	}
	return cmd
}

func described(info storage.BoltInfo) string {
	return fmt.Sprintf("%d entries at revision %d in %s", info.Entries, info.Revision, bytesShown(info.Size))
}

func bytesShown(n int64) string {
	if n < 10<<20 {
		return fmt.Sprintf("%d KiB", (n+1<<10-1)>>10)
	}
	return fmt.Sprintf("%d MiB", (n+1<<20-1)>>20)
}

// boltPath returns the file of a store that is named as bolt:FILE.
func boltPath(flag, value string) (string, error) {
	path, ok := strings.CutPrefix(value, "bolt:")
	if !ok || path == "" {
		return "", usage("%s is %q; write bolt:FILE", flag, oneLine(value))
	}
	return path, nil
}
