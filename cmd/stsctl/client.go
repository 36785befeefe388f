package main

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

func newClient(c *cli) *cobra.Command {
	return group("client", "Look after the credentials of clients",
		`Look after the credentials of clients: how a client authenticates, when each of
its credentials was used last, and a new secret for one that has secrets. And
after the clients that were registered dynamically, which are no resources.`,
		newClientStatus(c), newClientRotateSecret(c), newClientRegistered(c))
}

// oneClient takes the name of a client, completed by what the server has.
func (c *cli) oneClient(cmd *cobra.Command) {
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usage("%s takes the name of one client; `stsctl get client` lists them", cmd.Name())
		}
		return nil
	}
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 || c.conn.load() != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		_ = c.adminCall(cmd.Context(), func(ctx context.Context, admin stsv1.AdminServiceClient) error {
			list, err := admin.ListResources(ctx, &stsv1.ListResourcesRequest{Kind: string(sts.KindClient), PageSize: 1000})
			for _, r := range list.GetResources() {
				names = append(names, r.GetClient().GetName())
			}
			return err
		}) // where it cannot be asked there is nothing to offer
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	c.conn.admin(cmd)
}

func newClientStatus(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status NAME",
		Short: "Show how a client authenticates, and when it did last",
		Long: `Show how a client authenticates, and when each of its credentials was used last:
what nobody uses any more can go.

The server notes a use at once and writes it down once a minute, so a use can be
forgotten if the server is killed, and is known to other nodes after a minute.

Of a client that publishes its keys it shows where they are, how old they are,
and why they could not be fetched.`,
		Example: "  stsctl client status orders\n  stsctl client status orders -o json",
	}
	c.oneClient(cmd)
	out := outputFlag(cmd, "text", "json", "yaml")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := c.conn.load(); err != nil {
			return err
		}
		var status *stsv1.GetClientStatusResponse
		err := c.adminCall(cmd.Context(), func(ctx context.Context, admin stsv1.AdminServiceClient) (err error) {
			status, err = admin.GetClientStatus(ctx, &stsv1.GetClientStatusRequest{Name: args[0]})
			return err
		})
		if err != nil {
			return err
		}
		return c.showClient(status, out)
	}
	return cmd
}

type clientView struct {
	Name        string           `json:"name"`
	Method      string           `json:"method,omitempty"`
	Disabled    bool             `json:"disabled,omitempty"`
	Credentials []credentialView `json:"credentials"`
	Keys        *issuerView      `json:"keys,omitempty"`
}

type credentialView struct {
	ID       string    `json:"id"`
	NotAfter time.Time `json:"not_after,omitzero"`
	LastUsed time.Time `json:"last_used,omitzero"`
}

func (c *cli) showClient(m *stsv1.GetClientStatusResponse, out *output) error {
	v := clientView{Name: m.GetName(), Method: m.GetMethod(), Disabled: m.GetDisabled(), Credentials: []credentialView{}}
	for _, s := range m.GetCredentials() {
		v.Credentials = append(v.Credentials, credentialView{s.GetId(), timeOf(s.GetNotAfter()), timeOf(s.GetLastUsed())})
	}
	if m.GetKeys() != nil {
		keys := viewIssuer(m.GetKeys())
		v.Keys = &keys
	}
	if written, err := out.write(c.stdout, v); written {
		return err
	}
	how := "authenticates by " + v.Method
	if v.Method == "" {
		how = "has no credential and cannot authenticate; `stsctl client rotate-secret " + v.Name + "` gives it a secret"
	}
	if v.Disabled {
		how += "; it is disabled"
	}
	var b bytes.Buffer
	fmt.Fprintln(&b, oneLine("client "+v.Name+": "+how))
	var rows [][]string
	for _, s := range v.Credentials {
		ends, used := "-", "never"
		if !s.NotAfter.IsZero() {
			ends = c.ago(s.NotAfter)
		}
		if !s.LastUsed.IsZero() {
			used = c.ago(s.LastUsed)
		}
		rows = append(rows, []string{"  " + s.ID, ends, used})
	}
	if len(rows) > 0 {
		if err := table(&b, []string{"  CREDENTIAL", "ENDS", "LAST USED"}, rows); err != nil {
			return err
		}
	}
	if v.Keys != nil {
		if err := c.writeKeys(&b, "its keys", *v.Keys); err != nil {
			return err
		}
	}
	_, err := c.stdout.Write(b.Bytes())
	return err
}

func newClientRotateSecret(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate-secret NAME",
		Short: "Give a client a new secret, and the one before an end",
		Long: `Make a new secret for a client and print it, the only time that it can be seen.
The secret before works on for the time of --overlap, so that the workload can
be given the new one without an interruption. A client has two secrets at most,
so of two before, one goes at once: the older, or the newer if that was never
used, as when it got lost on the way to the workload.

Nothing else of the client changes. The secret before is in the Client resource
with its end, so a file that you keep the resource in is out of date afterwards:
` + "`stsctl get client NAME -o yaml`" + ` shows what to put there.`,
		Example: "  stsctl client rotate-secret orders\n  stsctl client rotate-secret orders --overlap 0s -o json",
	}
	c.oneClient(cmd)
	overlap := cmd.Flags().Duration("overlap", sts.DefaultOverlap, "for what `TIME` the secret before works on; 0s ends it at once")
	out := outputFlag(cmd, "text", "json", "yaml")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *overlap < 0 {
			return usage("--overlap must not be negative")
		}
		if err := c.conn.load(); err != nil {
			return err
		}
		var done *stsv1.RotateClientSecretResponse
		err := c.adminCall(cmd.Context(), func(ctx context.Context, admin stsv1.AdminServiceClient) (err error) {
			done, err = admin.RotateClientSecret(ctx, &stsv1.RotateClientSecretRequest{Name: args[0], Overlap: durationpb.New(*overlap)})
			return err
		})
		if err != nil {
			return err
		}
		return c.showNewSecret(args[0], done, out)
	}
	return cmd
}

func (c *cli) showNewSecret(client string, m *stsv1.RotateClientSecretResponse, out *output) error {
	v := struct {
		Client           string    `json:"client"`
		ID               string    `json:"id"`
		Secret           string    `json:"secret"`
		PreviousNotAfter time.Time `json:"previous_not_after,omitzero"`
	}{client, m.GetId(), m.GetClientSecret(), timeOf(m.GetPreviousNotAfter())}
	if written, err := out.write(c.stdout, v); written {
		return err
	}
	before := "no other secret works"
	if !v.PreviousNotAfter.IsZero() {
		before = "the secret before works until " + c.until(v.PreviousNotAfter)
	}
	_, err := fmt.Fprintf(c.stdout, "# the new secret of client %s, for the workload; it cannot be shown again\n%s\n\n# %s\n", oneLine(client), oneLine(v.Secret), oneLine(before))
	return err
}
