package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

func newKeys(c *cli) *cobra.Command {
	return group("keys", "Look after the keys that sign tokens",
		`Look after the keys that sign tokens. A key goes through roles: next (published,
does not sign yet), current (signs), previous (published, does not sign any
more), and then it is gone. Keys are replaced by the schedule of the server's
configuration; these commands show where they are, and replace them at once.`,
		newKeysStatus(c), newKeysRotate(c), newKeysRevoke(c))
}

func newKeysStatus(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the signing keys, and who has fetched the next one",
		Long: `Show the keys of every key set: which one signs, which one is next and when it
signs, where the private keys are, and what is wrong.

Before a key signs, verifiers must have fetched it. VERIFIERS counts those that
have, told apart by address and program, at the node that answers and since it
started; other nodes have counts of their own.`,
		Example: "  stsctl keys status\n  stsctl keys status -o json",
		Args:    cobra.NoArgs,
	}
	out := outputFlag(cmd, "text", "json", "yaml")
	c.conn.admin(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		sets, err := c.keySets(cmd.Context())
		if err != nil {
			return err
		}
		return c.showKeySets(sets, out)
	}
	return cmd
}

// keySets asks the server for its key sets.
func (c *cli) keySets(ctx context.Context) ([]*stsv1.KeySetStatus, error) {
	if err := c.conn.load(); err != nil {
		return nil, err
	}
	var sets []*stsv1.KeySetStatus
	err := c.adminCall(ctx, func(ctx context.Context, admin stsv1.AdminServiceClient) error {
		list, err := admin.ListKeys(ctx, &stsv1.ListKeysRequest{})
		sets = list.GetKeySets()
		return err
	})
	return sets, err
}

func newKeysRotate(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate [SET]",
		Short: "Make and publish the next key of a key set",
		Long: `Make the next key of a key set, the one named default if none is given, and
publish it. It signs when verifiers have had the time to fetch it, as the
schedule of the server's configuration has it; until then the current key signs
and nothing has to be done. If there is a next key already, it is shown and
nothing changes.

For a key that somebody else may have, use ` + "`stsctl keys revoke`" + `.`,
		Example:           "  stsctl keys rotate\n  stsctl keys rotate cloud",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: c.completeKeys(func(s *stsv1.KeySetStatus) []string { return []string{s.GetName()} }),
	}
	out := outputFlag(cmd, "text", "json", "yaml")
	c.conn.admin(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := c.conn.load(); err != nil {
			return err
		}
		req := &stsv1.RotateKeyRequest{Set: sts.DefaultKeySet}
		if len(args) > 0 {
			req.Set = args[0]
		}
		var done *stsv1.RotateKeyResponse
		err := c.adminCall(cmd.Context(), func(ctx context.Context, admin stsv1.AdminServiceClient) (err error) {
			done, err = admin.RotateKey(ctx, req)
			return err
		})
		if err != nil {
			return err
		}
		return c.showRotated(done.GetKey(), out)
	}
	return cmd
}

func newKeysRevoke(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "revoke KID --yes",
		Short: "Make a signing key count no more, now and for good",
		Long: `Make a signing key count no more: for a key that somebody else may have. This
cannot be undone.

The key leaves the published key set at once, and tokens that it signed are
refused by this service from then on, so workloads must get new ones. Another
key signs at once. Until verifiers fetch the key set anew they accept the
revoked key, and do not know a key that was made just now; the command says how
long that may take. A key id that begins with a dash goes after two dashes.

To replace a key that nobody else has, use ` + "`stsctl keys rotate`" + `.`,
		Example: "  stsctl keys revoke kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k --yes --reason 'backup lost, INC-17'\n  stsctl keys revoke --yes -- -U2xKfLAkNMDk0Wq0lZEQNB0LBDZCmkeTEvwN4yYIKs",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage("revoke takes one key id; `stsctl keys status` shows them")
			}
			return nil
		},
		ValidArgsFunction: c.completeKeys(keyIDs),
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return usage("%s; a key id that begins with a dash goes after two dashes: `stsctl keys revoke --yes -- KID`", oneLine(err.Error()))
	})
	var yes bool
	var why string
	cmd.Flags().StringVar(&why, "reason", "", "why, for whoever finds it later")
	cmd.Flags().BoolVar(&yes, "yes", false, "do it; without, the command only says what would happen")
	out := outputFlag(cmd, "text", "json", "yaml")
	c.conn.admin(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !yes {
			return c.askBeforeRevoking(cmd.Context(), args[0])
		}
		if err := c.conn.load(); err != nil {
			return err
		}
		var done *stsv1.RevokeKeyResponse
		err := c.adminCall(cmd.Context(), func(ctx context.Context, admin stsv1.AdminServiceClient) (err error) {
			done, err = admin.RevokeKey(ctx, &stsv1.RevokeKeyRequest{Kid: args[0], Reason: why})
			return err
		})
		if err != nil {
			return err
		}
		return c.showRevoked(done, out)
	}
	return cmd
}

// askBeforeRevoking says which key it is and how to go on.
func (c *cli) askBeforeRevoking(ctx context.Context, kid string) error {
	sets, err := c.keySets(ctx)
	if err != nil {
		return err
	}
	for _, s := range sets {
		for _, k := range s.GetKeys() {
			if k.GetKid() != kid {
				continue
			}
			if k.GetRole() == roleRevoked {
				return usage("key %s of key set %s is revoked already", oneLine(kid), oneLine(s.GetName()))
			}
			again := kid + " --yes"
			if strings.HasPrefix(kid, "-") {
				again = "--yes -- " + kid
			}
			return usage("this is the %s key of key set %s; to revoke it is final, and tokens that it signed are worth nothing here from then on: if you mean it, `stsctl keys revoke %s`",
				oneLine(k.GetRole()), oneLine(s.GetName()), oneLine(again))
		}
	}
	return &failure{exitRefused, fmt.Sprintf("the server has no key %s; `stsctl keys status` lists them", oneLine(kid))}
}

func keyIDs(s *stsv1.KeySetStatus) []string {
	var out []string
	for _, k := range s.GetKeys() {
		if k.GetRole() != roleRevoked {
			out = append(out, k.GetKid()+"\t"+k.GetRole()+" key of "+s.GetName())
		}
	}
	return out
}

// completeKeys completes the one argument with what the server has; where it
// cannot be asked there is nothing to offer.
func (c *cli) completeKeys(of func(*stsv1.KeySetStatus) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		sets, err := c.keySets(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []string
		for _, s := range sets {
			out = append(out, of(s)...)
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}
