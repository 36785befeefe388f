package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts/resource"
)

// revisionView is a revision as -o shows it.
type revisionView struct {
	Revision  int64  `json:"revision"`
	Base      int64  `json:"base"`
	Restores  int64  `json:"restores,omitempty"`
	Promotes  int64  `json:"promotes,omitempty"`
	Time      string `json:"time"`
	By        string `json:"by"`
	Method    string `json:"method,omitempty"`
	Peer      string `json:"peer,omitempty"`
	Why       string `json:"why,omitempty"`
	Resources int64  `json:"resources"`
	Created   int64  `json:"created"`
	Updated   int64  `json:"updated"`
	Deleted   int64  `json:"deleted"`
}

func viewRevision(m *stsv1.Revision) revisionView {
	return revisionView{
		Revision: m.GetRevision(), Base: m.GetBase(), Restores: m.GetRestores(), Promotes: m.GetPromotes(),
		Time: m.GetTime().AsTime().Format("2006-01-02T15:04:05Z"), By: m.GetBy(), Method: m.GetMethod(), Peer: m.GetPeer(), Why: m.GetWhy(),
		Resources: m.GetResources(), Created: m.GetCreated().GetCount(), Updated: m.GetUpdated().GetCount(), Deleted: m.GetDeleted().GetCount(),
	}
}

func newPolicyHistory(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "history",
		Short: "List the revisions of the resources: who, when, why",
		Long: `List the revisions that the server keeps, the newest first: when each was made,
by whom and why, and how many resources it created (+), changed (~) and deleted
(-). The first line is what is in force.`,
		Example: "  stsctl policy history\n  stsctl policy history --limit 5 -o json",
		Args:    noArgs("write `stsctl policy diff REVISION` to see what one changed"),
	}
	limit := cmd.Flags().Int32("limit", 20, "`NUMBER` of revisions to list at most")
	out := outputFlag(cmd, "text", "json", "yaml")
	c.conn.admin(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *limit < 1 {
			return usage("--limit must be at least 1")
		}
		views, err := c.history(cmd.Context(), int(*limit))
		if err != nil {
			return err
		}
		if written, err := out.write(c.stdout, map[string]any{"revisions": views}); written {
			return err
		}
		var rows [][]string
		for _, v := range views {
			why := v.Why
			if v.Restores != 0 {
				why = strings.TrimSuffix(fmt.Sprintf("(back to %d) %s", v.Restores, why), " ")
			}
			if v.Promotes != 0 {
				why = strings.TrimSuffix(fmt.Sprintf("(was shadow %d) %s", v.Promotes, why), " ")
			}
			rows = append(rows, []string{
				fmt.Sprint(v.Revision), v.Time, dash(v.By), fmt.Sprintf("+%d ~%d -%d", v.Created, v.Updated, v.Deleted), dash(why),
			})
		}
		return table(c.stdout, []string{"REVISION", "TIME", "BY", "CHANGED", "WHY"}, rows)
	}
	return cmd
}

// history asks for as many revisions as are wanted, page by page.
func (c *cli) history(ctx context.Context, limit int) ([]revisionView, error) {
	if err := c.conn.load(); err != nil {
		return nil, err
	}
	views := []revisionView{}
	err := c.adminCall(ctx, func(ctx context.Context, admin stsv1.AdminServiceClient) error {
		token := ""
		for len(views) < limit {
			page, err := admin.ListRevisions(ctx, &stsv1.ListRevisionsRequest{PageSize: int32(min(limit-len(views), 100)), PageToken: token})
			if err != nil {
				return err
			}
			for _, r := range page.GetRevisions() {
				views = append(views, viewRevision(r))
			}
			if token = page.GetNextPageToken(); token == "" {
				break
			}
		}
		return nil
	})
	return views, err
}

func newPolicyRollback(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rollback REVISION",
		Short: "Go back to the resources of an old revision",
		Long: `Make a new revision with the resources of an old one, after the same checks as
those of any change. Nothing of the history is lost.

How clients authenticate stays as it is now, and a client that is disabled stays
disabled: a secret that was replaced does not come back because a rule was
wrong. A client that does not exist any more comes back as it was.`,
		Example: "  stsctl policy rollback 41 --dry-run\n  stsctl policy rollback 41 --why 'deploys are refused since 42'",
		Args:    cobra.ExactArgs(1),
	}
	req := &stsv1.RollbackRequest{}
	cmd.Flags().StringVar(&req.Why, "why", "", "`REASON`, for `stsctl policy history`")
	cmd.Flags().BoolVar(&req.DryRun, "dry-run", false, "check everything on the server, change nothing")
	cmd.Flags().Int64Var(&req.ExpectedRevision, "expected-revision", 0, "refuse if another `REVISION` is in force, because someone else changed the resources")
	out := outputFlag(cmd, "text", "json", "yaml")
	c.conn.admin(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if req.To, err = revisionNumber(args[0]); err != nil {
			return err
		}
		return c.changeBy(cmd.Context(), req.GetDryRun(), out, func(ctx context.Context, admin stsv1.AdminServiceClient) (*stsv1.ApplyResponse, error) {
			return admin.Rollback(ctx, req)
		})
	}
	return cmd
}

// changeBy makes a change that is not sent as resources, and reports what it did.
func (c *cli) changeBy(ctx context.Context, dryRun bool, out *output, call func(context.Context, stsv1.AdminServiceClient) (*stsv1.ApplyResponse, error)) error {
	if err := c.conn.load(); err != nil {
		return err
	}
	var done *stsv1.ApplyResponse
	var cause error
	err := c.adminCall(ctx, func(ctx context.Context, admin stsv1.AdminServiceClient) (err error) {
		done, err = call(ctx, admin)
		cause = err
		return err
	})
	for _, p := range placeViolations(cause, nil) {
		fmt.Fprintln(c.stderr, p)
	}
	if err != nil {
		return err
	}
	return c.reportChange(&stsv1.ApplyRequest{DryRun: dryRun}, done, out)
}

func revisionNumber(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 1 {
		return 0, usage("%q is not the number of a revision; see `stsctl policy history`", s)
	}
	return n, nil
}

func newPolicyDiff(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff [REVISION [REVISION]] | --shadow",
		Short: "Show what a revision changed, or what the shadow revision decides otherwise",
		Long: `Show the difference between two revisions, or, of one, what it changed: each
resource that is different, line by line.

--shadow shows what the shadow revision changes, and which decisions it would
have made otherwise since it is there: how many of each kind, and the latest
ones. Each node of the server counts for itself; these are those of the node
that answers. ` + "`stsctl explain ID`" + ` says more about a decision.`,
		Example: "  stsctl policy diff 42\n  stsctl policy diff 40 42\n  stsctl policy diff --shadow",
		Args:    cobra.MaximumNArgs(2),
	}
	shadow := cmd.Flags().Bool("shadow", false, "show the shadow revision, and what it decides otherwise")
	out := outputFlag(cmd, "text", "json", "yaml")
	c.conn.admin(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case *shadow && len(args) > 0:
			return usage("diff takes revisions or --shadow, not both")
		case *shadow:
			return c.diffShadow(cmd.Context(), out)
		case len(args) == 0:
			return usage("diff needs a revision, two revisions, or --shadow; see `stsctl policy history`")
		}
		req := &stsv1.GetRevisionRequest{}
		for i, arg := range args {
			n, err := revisionNumber(arg)
			if err != nil {
				return err
			}
			if i == 1 {
				req.Against = req.Revision
			}
			req.Revision = n
		}
		resp, err := c.revision(cmd.Context(), req)
		if err != nil {
			return err
		}
		if written, err := out.write(c.stdout, viewDiff(resp)); written {
			return err
		}
		return c.showDiff(resp)
	}
	return cmd
}

func (c *cli) revision(ctx context.Context, req *stsv1.GetRevisionRequest) (resp *stsv1.GetRevisionResponse, err error) {
	if err := c.conn.load(); err != nil {
		return nil, err
	}
	err = c.adminCall(ctx, func(ctx context.Context, admin stsv1.AdminServiceClient) (err error) {
		resp, err = admin.GetRevision(ctx, req)
		return err
	})
	return resp, err
}

// resourceDiffView is a resource that is different, as -o shows it.
type resourceDiffView struct {
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Before string `json:"before,omitempty"` // YAML
	After  string `json:"after,omitempty"`
}

type diffView struct {
	Revision    revisionView       `json:"revision"`
	Against     int64              `json:"against"`
	Total       int64              `json:"total"`
	Differences []resourceDiffView `json:"differences"`
}

func viewDiff(m *stsv1.GetRevisionResponse) diffView {
	v := diffView{Revision: viewRevision(m.GetRevision()), Against: m.GetAgainst(), Total: m.GetTotal(), Differences: []resourceDiffView{}}
	for _, d := range m.GetDifferences() {
		v.Differences = append(v.Differences, resourceDiffView{d.GetRef().GetKind(), d.GetRef().GetName(), asYAML(d.GetBefore()), asYAML(d.GetAfter())})
	}
	return v
}

// asYAML is empty for a resource that is not there.
func asYAML(r *stsv1.Resource) string {
	if r == nil {
		return ""
	}
	var b bytes.Buffer
	if err := resource.EncodeYAML(&b, r); err != nil {
		return "cannot be shown: " + err.Error() + "\n"
	}
	return b.String()
}

// showDiff writes what is different line by line.
func (c *cli) showDiff(m *stsv1.GetRevisionResponse) error {
	var b bytes.Buffer
	for _, d := range viewDiff(m).Differences {
		verb := "changed"
		switch {
		case d.Before == "":
			verb = "created"
		case d.After == "":
			verb = "deleted"
		}
		fmt.Fprintf(&b, "%s %s %s\n", verb, d.Kind, oneLine(d.Name))
		for _, line := range diffLines(lines(d.Before), lines(d.After)) {
			fmt.Fprintf(&b, "  %s\n", oneLine(line))
		}
	}
	if rest := m.GetTotal() - int64(len(m.GetDifferences())); rest > 0 {
		fmt.Fprintf(&b, "and %d more resources\n", rest)
	}
	if m.GetTotal() == 0 {
		fmt.Fprintln(&b, "nothing is different")
	}
	_, err := c.stdout.Write(b.Bytes())
	return err
}

func lines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(s, "\n"), "\n")
}

// diffLines returns the lines of both, those of a alone after a minus, those of b
// alone after a plus. Beyond some size it does not look for the shortest way.
func diffLines(a, b []string) []string {
	const most = 2000
	var head, out []string
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		head, a, b = append(head, "  "+a[0]), a[1:], b[1:]
	}
	if len(a) <= most && len(b) <= most {
		return append(head, shortestDiff(a, b)...)
	}
	for _, l := range a {
		out = append(out, "- "+l)
	}
	for _, l := range b {
		out = append(out, "+ "+l)
	}
	return slices.Concat(head, out)
}

// shortestDiff keeps as many lines as both have in one order.
func shortestDiff(a, b []string) []string {
	common := make([][]int, len(a)+1) // of a[i:] and b[j:]
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var out []string
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			out, i, j = append(out, "  "+a[i]), i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			out, i = append(out, "- "+a[i]), i+1
		default:
			out, j = append(out, "+ "+b[j]), j+1
		}
	}
	return out
}
