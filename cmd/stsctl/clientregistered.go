package main

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

func newClientRegistered(c *cli) *cobra.Command {
	return group("registered", "Look after clients that were registered dynamically",
		`Look after clients that were registered dynamically, by a ClientTemplate. They
are no resources: nobody applies them, and they are in no revision.`,
		newRegisteredList(c), newRegisteredDelete(c))
}

func newRegisteredList(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List registered clients",
		Long: `List the clients that were registered dynamically and have not expired: by which
template and whose initial access token, when they authenticated last, and when
they are deleted if nobody uses them. A client that its template does not allow
any more is disabled.`,
		Example: "  stsctl client registered list\n  stsctl client registered list --template agents -o json",
		Args:    noArgs("write `stsctl client registered list`"),
	}
	var template string
	var limit int
	cmd.Flags().StringVar(&template, "template", "", "only of the ClientTemplate of this `NAME`")
	cmd.Flags().IntVar(&limit, "limit", 1000, "at most so many")
	out := outputFlag(cmd, "text", "json", "yaml")
	c.conn.admin(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if limit < 1 {
			return usage("--limit must be at least 1")
		}
		if err := c.conn.load(); err != nil {
			return err
		}
		return c.listRegistered(cmd.Context(), template, limit, out)
	}
	return cmd
}

// registeredView is a registered client as it is shown.
type registeredView struct {
	Name            string         `json:"name"`
	Template        string         `json:"template"`
	Disabled        string         `json:"disabled,omitempty"` // why
	By              string         `json:"by"`
	StatementIssuer string         `json:"statement_issuer,omitempty"`
	Created         time.Time      `json:"created,omitzero"`
	Changed         time.Time      `json:"changed,omitzero"`
	LastUsed        time.Time      `json:"last_used,omitzero"`
	Ends            time.Time      `json:"ends,omitzero"`
	Metadata        map[string]any `json:"metadata"`
}

func viewRegistered(m *stsv1.RegisteredClient) registeredView {
	return registeredView{
		Name: m.GetName(), Template: m.GetTemplate(), Disabled: m.GetDisabled(), By: m.GetBy(), StatementIssuer: m.GetStatementIssuer(),
		Created: timeOf(m.GetCreated()), Changed: timeOf(m.GetChanged()), LastUsed: timeOf(m.GetLastUsed()), Ends: timeOf(m.GetEnds()),
		Metadata: m.GetMetadata().AsMap(),
	}
}

func (c *cli) listRegistered(ctx context.Context, template string, limit int, out *output) error {
	list, more, err := upTo(ctx, c, limit, func(ctx context.Context, admin stsv1.AdminServiceClient, size int32, token string) ([]*stsv1.RegisteredClient, string, error) {
		page, err := admin.ListRegisteredClients(ctx, &stsv1.ListRegisteredClientsRequest{Template: template, PageSize: size, PageToken: token})
		return page.GetClients(), page.GetNextPageToken(), err
	})
	if err != nil {
		return err
	}
	views := []registeredView{}
	for _, m := range list {
		views = append(views, viewRegistered(m))
	}
	if written, err := out.write(c.stdout, map[string]any{"clients": views}); written {
		return err
	}
	var b bytes.Buffer
	if len(views) == 0 {
		b.WriteString("no client is registered dynamically\n")
	} else if err := table(&b, []string{"NAME", "STATE", "METHOD", "BY", "REGISTERED", "LAST USED", "ENDS", "CALLED"}, c.registeredRows(views)); err != nil {
		return err
	}
	tellMore(&b, more)
	_, err = c.stdout.Write(b.Bytes())
	return err
}

func (c *cli) registeredRows(views []registeredView) [][]string {
	var rows [][]string
	for _, v := range views {
		state, used := "enabled", "never"
		if v.Disabled != "" {
			state = "disabled: " + v.Disabled
		}
		if !v.LastUsed.IsZero() {
			used = c.ago(v.LastUsed)
		}
		method, _ := v.Metadata["token_endpoint_auth_method"].(string)
		called, _ := v.Metadata["client_name"].(string)
		rows = append(rows, []string{v.Name, state, method, dash(v.By), c.ago(v.Created), used, c.ago(v.Ends), dash(called)})
	}
	return rows
}

func newRegisteredDelete(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a registered client",
		Long: `Delete a client that was registered dynamically. It cannot authenticate any
more, and its tokens do not count: here when the command ends, on other nodes
within a second. Whoever has an initial access token can register another one;
change the rules or delete the ClientTemplate to end that.`,
		Example: "  stsctl client registered delete agents~0c9k2m5n8q1r4s7t0v3w6x9y2z",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage("delete takes the name of one client; `stsctl client registered list` lists them")
			}
			return nil
		},
	}
	c.conn.admin(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := c.conn.load(); err != nil {
			return err
		}
		var done *stsv1.DeleteRegisteredClientResponse
		err := c.adminCall(cmd.Context(), func(ctx context.Context, admin stsv1.AdminServiceClient) (err error) {
			done, err = admin.DeleteRegisteredClient(ctx, &stsv1.DeleteRegisteredClientRequest{Name: args[0]})
			return err
		})
		if err != nil {
			return err
		}
		text := fmt.Sprintf("client %s is deleted\n", oneLine(args[0]))
		if done.GetUnrecorded() {
			text += warnUnrecorded + "\n"
		}
		_, err = c.stdout.Write([]byte(text))
		return err
	}
	return cmd
}
