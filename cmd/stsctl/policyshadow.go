package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

func newPolicyPromote(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "promote",
		Short: "Put the shadow revision in force",
		Long: `Put the shadow revision in force, after the same checks as those of any change.
It is refused if something else was changed since the shadow revision was made;
then apply the change with --shadow once more and look at what it does now.`,
		Example: "  stsctl policy promote --shadow-revision 3 --why 'no differences in a day'",
		Args:    noArgs("write `stsctl policy promote`"),
	}
	req := &stsv1.PromoteShadowRequest{}
	cmd.Flags().StringVar(&req.Why, "why", "", "`REASON`, for `stsctl policy history` (default: that of the shadow revision)")
	cmd.Flags().BoolVar(&req.DryRun, "dry-run", false, "check everything on the server, change nothing")
	cmd.Flags().Int64Var(&req.ShadowRevision, "shadow-revision", 0, "refuse if the shadow revision has another `NUMBER` than this, because someone has put another in its place")
	out := outputFlag(cmd, "text", "json", "yaml")
	c.conn.admin(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.changeBy(cmd.Context(), req.GetDryRun(), out, func(ctx context.Context, admin stsv1.AdminServiceClient) (*stsv1.ApplyResponse, error) {
			return admin.PromoteShadow(ctx, req)
		})
	}
	return cmd
}

func newPolicyDiscard(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "discard",
		Short:   "Give the shadow revision up",
		Long:    `Give the shadow revision up. What is in force stays as it is.`,
		Example: "  stsctl policy discard --why 'would deny the nightly job'",
		Args:    noArgs("write `stsctl policy discard`"),
	}
	req := &stsv1.DiscardShadowRequest{}
	cmd.Flags().StringVar(&req.Why, "why", "", "`REASON`, for the audit log")
	cmd.Flags().Int64Var(&req.ShadowRevision, "shadow-revision", 0, "refuse if the shadow revision has another `NUMBER` than this, because someone has put another in its place")
	c.conn.admin(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := c.conn.load(); err != nil {
			return err
		}
		err := c.adminCall(cmd.Context(), func(ctx context.Context, admin stsv1.AdminServiceClient) error {
			_, err := admin.DiscardShadow(ctx, req)
			return err
		})
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(c.stdout, "the shadow revision is gone")
		return err
	}
	return cmd
}

// decidedView and decisionView are what -o shows of decisions that are different.
type decidedView struct {
	Allowed  bool     `json:"allowed"`
	Rules    []string `json:"rules,omitempty"`
	Scopes   []string `json:"scopes,omitempty"`
	Lifetime string   `json:"lifetime,omitempty"`
	Error    string   `json:"error,omitempty"`
	Reason   string   `json:"reason,omitempty"`
}

type decisionView struct {
	Kinds         []string    `json:"kinds"`
	Client        string      `json:"client,omitempty"`
	SubjectIssuer string      `json:"subject_issuer,omitempty"`
	ActorIssuer   string      `json:"actor_issuer,omitempty"`
	Audiences     []string    `json:"audiences,omitempty"`
	Live          decidedView `json:"live"`
	Shadow        decidedView `json:"shadow"`
	Count         int64       `json:"count"`
	DecisionID    string      `json:"decision_id"`
}

type shadowView struct {
	Revision  revisionView     `json:"revision"`
	Current   bool             `json:"current"`
	Problem   string           `json:"problem,omitempty"`
	Since     string           `json:"since"`
	Decided   int64            `json:"decided"`
	Skipped   int64            `json:"skipped"`
	Counts    map[string]int64 `json:"counts"`
	Decisions []decisionView   `json:"decisions"`
	Changes   diffView         `json:"changes"`
}

func viewDecided(m *stsv1.DecidedBy) decidedView {
	v := decidedView{Allowed: m.GetAllowed(), Rules: m.GetRules(), Scopes: m.GetScopes(), Error: m.GetError(), Reason: m.GetReason()}
	if m.GetLifetime() != nil {
		v.Lifetime = m.GetLifetime().AsDuration().Truncate(time.Second).String()
	}
	return v
}

func (d decidedView) String() string {
	if !d.Allowed {
		return "denied: " + d.Error + ": " + d.Reason
	}
	return fmt.Sprintf("allowed by %s: scopes %s, %s", strings.Join(d.Rules, " "), dash(strings.Join(d.Scopes, " ")), d.Lifetime)
}

// diffShadow shows the shadow revision: what it changes, and what it decides
// otherwise.
func (c *cli) diffShadow(ctx context.Context, out *output) error {
	if err := c.conn.load(); err != nil {
		return err
	}
	var m *stsv1.GetShadowResponse
	var changes *stsv1.GetRevisionResponse
	err := c.adminCall(ctx, func(ctx context.Context, admin stsv1.AdminServiceClient) (err error) {
		if m, err = admin.GetShadow(ctx, &stsv1.GetShadowRequest{}); err != nil {
			return err
		}
		changes, err = admin.GetRevision(ctx, &stsv1.GetRevisionRequest{Shadow: true, Revision: m.GetRevision().GetRevision()})
		return err
	})
	if err != nil {
		return err
	}
	v := shadowView{
		Revision: viewRevision(m.GetRevision()), Current: m.GetCurrent(), Problem: m.GetProblem(), Since: c.ago(timeOf(m.GetSince())),
		Decided: m.GetDecided(), Skipped: m.GetSkipped(), Counts: m.GetCounts(), Changes: viewDiff(changes), Decisions: []decisionView{},
	}
	for _, d := range m.GetDifferences() {
		v.Decisions = append(v.Decisions, decisionView{
			d.GetKinds(), d.GetClient(), d.GetSubjectIssuer(), d.GetActorIssuer(), d.GetAudiences(),
			viewDecided(d.GetLive()), viewDecided(d.GetShadow()), d.GetCount(), d.GetDecisionId(),
		})
	}
	if written, err := out.write(c.stdout, v); written {
		return err
	}
	if err := c.showDiff(changes); err != nil {
		return err
	}
	return c.showShadow(v)
}

func (c *cli) showShadow(v shadowView) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "\nshadow revision %d, made from revision %d by %s: %s\n", v.Revision.Revision, v.Revision.Base, oneLine(dash(v.Revision.By)), oneLine(dash(v.Revision.Why)))
	if !v.Current {
		fmt.Fprintf(&b, "another revision is in force than %d: it cannot be promoted; apply the change with --shadow once more\n", v.Revision.Base)
	}
	if v.Problem != "" {
		fmt.Fprintf(&b, "it cannot decide on this node: %s\n", oneLine(v.Problem))
	}
	fmt.Fprintf(&b, "on this node, since %s: %d decisions made beside, %d skipped\n", v.Since, v.Decided, v.Skipped)
	for _, kind := range slices.Sorted(maps.Keys(v.Counts)) {
		fmt.Fprintf(&b, "  %s: %d\n", oneLine(kind), v.Counts[kind])
	}
	if len(v.Counts) == 0 {
		fmt.Fprintln(&b, "  no decision was different")
	}
	for _, d := range v.Decisions {
		who := "client " + d.Client
		if d.Client == "" {
			who = "a workload itself"
		}
		if d.SubjectIssuer != "" {
			who += ", token of " + d.SubjectIssuer
		}
		fmt.Fprintf(&b, "\n%s\n", oneLine(fmt.Sprintf("%s, %d times: %s, for %s (decision %s)", strings.Join(d.Kinds, " "), d.Count, who, dash(strings.Join(d.Audiences, " ")), d.DecisionID)))
		fmt.Fprintf(&b, "  now     %s\n  shadow  %s\n", oneLine(d.Live.String()), oneLine(d.Shadow.String()))
	}
	_, err := c.stdout.Write(b.Bytes())
	return err
}
