package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/storage"
)

func newAuditChains(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "chains",
		Short: "Show what the server keeps of audit logs",
		Long: `Show what the server keeps of audit logs in its store, apart from the logs: for
each chain of records whose it is, when it began, and the last signed
checkpoint, at most some seconds old while its server runs. The newest is shown
first. A chain that ended where no server was taken out of use is worth a look.

` + "`stsctl audit verify --server`" + ` holds a log to its checkpoint.`,
		Example: "  stsctl audit chains\n  stsctl audit chains -o json",
		Args:    cobra.NoArgs,
	}
	out := outputFlag(cmd, "text", "json", "yaml")
	c.conn.admin(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		list, err := c.auditChains(cmd.Context())
		if err != nil {
			return err
		}
		return c.showAuditChains(list, out)
	}
	return cmd
}

// auditChains asks the server what it keeps.
func (c *cli) auditChains(ctx context.Context) ([]*stsv1.AuditChain, error) {
	if err := c.conn.load(); err != nil {
		return nil, err
	}
	var list []*stsv1.AuditChain
	err := c.adminCall(ctx, func(ctx context.Context, admin stsv1.AdminServiceClient) error {
		req := &stsv1.ListAuditChainsRequest{PageSize: 1000}
		for {
			got, err := admin.ListAuditChains(ctx, req)
			list = append(list, got.GetChains()...)
			if err != nil || got.GetNextPageToken() <= req.PageToken {
				return err
			}
			req.PageToken = got.GetNextPageToken()
		}
	})
	return list, err
}

// keptCheckpoints returns the checkpoints that the server keeps, by their chains.
func (c *cli) keptCheckpoints(ctx context.Context) (map[string]string, error) {
	list, err := c.auditChains(ctx)
	if err != nil {
		return nil, err
	}
	kept := map[string]string{}
	for _, m := range list {
		kept[m.GetChain()] = m.GetCheckpoint()
	}
	return kept, nil
}

// auditChainView is a chain as it is shown.
type auditChainView struct {
	Chain      string    `json:"chain"`
	Node       string    `json:"node,omitempty"`
	Begun      time.Time `json:"begun"`
	Seq        int64     `json:"seq,omitempty"`
	Time       time.Time `json:"time,omitzero"`
	Checkpoint string    `json:"checkpoint,omitempty"`
}

func (c *cli) showAuditChains(list []*stsv1.AuditChain, out *output) error {
	views := []auditChainView{}
	for _, m := range list {
		views = append(views, auditChainView{
			Chain: m.GetChain(), Node: m.GetNode(), Begun: timeOf(m.GetBegun()), Seq: m.GetSeq(), Time: timeOf(m.GetTime()), Checkpoint: m.GetCheckpoint(),
		})
	}
	slices.SortFunc(views, func(a, b auditChainView) int { return b.Begun.Compare(a.Begun) })
	if written, err := out.write(c.stdout, map[string]any{"chains": views}); written {
		return err
	}
	var rows [][]string
	for _, v := range views {
		covered, signed := "-", "-"
		if v.Seq > 0 {
			covered, signed = fmt.Sprint(v.Seq), c.ago(v.Time)
		}
		rows = append(rows, []string{v.Chain, dash(v.Node), c.humanTime(v.Begun), covered, signed})
	}
	var b bytes.Buffer
	if len(rows) == 0 {
		b.WriteString("nothing is kept of audit logs\n")
	} else if err := table(&b, []string{"CHAIN", "NODE", "BEGUN", "COVERED", "SIGNED"}, rows); err != nil {
		return err
	}
	_, err := c.stdout.Write(b.Bytes())
	return err
}

// whoseKey is said of a key that is neither given nor vouched for.
const whoseKey = "a key that nothing vouches for: the one after a key that was revoked, or that of somebody who can write the file; --jwks or --issuer tells"

func (c *cli) showAuditReport(r storage.AuditReport) {
	fmt.Fprintf(c.stdout, "records %d to %d of chain %s are as they were written\n", r.First, r.Last, oneLine(r.Chain))
	if r.First > 1 {
		fmt.Fprintf(c.stdout, "the %d before them are in files that were not given\n", r.First-1)
	}
	switch {
	case r.Covered == 0:
		fmt.Fprintln(c.stdout, "no checkpoint is signed: whoever can write the file can have changed them")
	case r.Pinned:
		fmt.Fprintf(c.stdout, "signed up to record %d, by keys that are yours or that those vouch for (%d checkpoints)\n", r.Covered, r.Checkpoints)
	default:
		fmt.Fprintf(c.stdout, "signed up to record %d, by keys that the log itself has (%d checkpoints); give --jwks or --issuer to know whose they are\n", r.Covered, r.Checkpoints)
	}
	switch n := r.Last - r.Covered; {
	case r.Covered == 0 || r.Closed:
	case r.Stranger != "":
		fmt.Fprintf(c.stdout, "%d after that are chained, and signed by %s alone, %s\n", n, oneLine(r.Stranger), whoseKey)
	default:
		fmt.Fprintf(c.stdout, "%d after that are chained, and not signed yet\n", n)
	}
	if r.LongestGap > 0 {
		fmt.Fprintf(c.stdout, "the longest stretch that one checkpoint covers is %d records\n", r.LongestGap)
	}
	if r.Torn > 0 {
		fmt.Fprintf(c.stdout, "after crashes something was set aside %d times; search for the event torn\n", r.Torn)
	}
	if r.Unknown > 1 {
		fmt.Fprintf(c.stdout, "the store did not know the chain %d times, once when it began; search for the event begin\n", r.Unknown)
	}
	if r.Dropped > 0 {
		fmt.Fprintf(c.stdout, "sinks did not get %d records; search for the event dropped\n", r.Dropped)
	}
	if r.LastCheckpoint != "" {
		fmt.Fprintf(c.stdout, "last checkpoint, to keep elsewhere:\n%s\n", r.LastCheckpoint)
	}
}
