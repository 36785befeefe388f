package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
	"github.com/workload-sts/sts/sts/server"
)

func newPolicyReplay(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "replay --against DIR|REVISION|shadow --audit FILE [FILE]...",
		Short: "Try other resources with the decisions of an audit log",
		Long: `Take the decisions of an audit log once more, by other resources, and report all
that would be otherwise: what would be denied now, what would be granted, and
what would be granted with other scopes, lifetime, subject, actors, audiences or
binding. Nothing is asked of a server, unless the resources are those of one of
its revisions, by number, or of its shadow revision.

A log that is rotated has several files: name all that go back as far as
--since.

A record has the claims that rules could read when it was written. Where other
rules read another claim, or an expression reads any, it cannot be told what
they would say; such records are counted. The exit code is 1 if a decision
would be otherwise.`,
		Example: "  stsctl policy replay --since 7d --against policy.d/ --audit /var/lib/sts/audit*.jsonl\n  stsctl policy replay --audit audit.jsonl --against 41",
	}
	audits := cmd.Flags().StringArray("audit", nil, "audit log `FILE`, or - for standard input; may repeat")
	against := cmd.Flags().StringArray("against", nil, "`DIR` or file with the resources to try, which may repeat; or a revision of the server by its number, or shadow")
	since := cmd.Flags().String("since", "", "only decisions of the last `TIME`, such as 7d or 12h")
	self := offlineIssuer(cmd)
	out := outputFlag(cmd, "text", "json", "yaml")
	c.conn.admin(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		*audits = append(*audits, args...)
		if len(*audits) == 0 || len(*against) == 0 {
			return usage("replay needs --audit FILE and --against DIR")
		}
		from, err := c.sinceTime(*since)
		if err != nil {
			return err
		}
		o, err := c.loadAgainst(cmd.Context(), *against, *self)
		if err != nil {
			return err
		}
		report := &replayReport{groups: map[replayKey]*replayGroup{}, unknown: map[string]int{}}
		var begins time.Time
		for _, name := range *audits {
			err := c.records(name, func(r *sts.Record) bool {
				if begins.IsZero() || r.Time.Before(begins) {
					begins = r.Time
				}
				if r.Event == sts.EventToken && !r.Time.Before(from) {
					report.add(cmd.Context(), o, r)
				}
				return cmd.Context().Err() == nil
			})
			if err != nil {
				return err
			}
		}
		if !from.IsZero() && begins.After(from) {
			fmt.Fprintf(c.stderr, "stsctl: the records begin at %s, later than --since says; if the log was rotated, name the files before it too\n", begins.In(c.zone).Format(time.RFC3339))
		}
		return c.showReplay(report, out)
	}
	return cmd
}

// loadAgainst reads the resources to try: of files, or of a revision of the server.
func (c *cli) loadAgainst(ctx context.Context, against []string, self string) (*sts.Offline, error) {
	req := &stsv1.ListResourcesRequest{Shadow: against[0] == "shadow"}
	if n, err := strconv.ParseInt(against[0], 10, 64); err == nil && n > 0 {
		req.Revision = n
	}
	if _, err := os.Stat(against[0]); err == nil || len(against) > 1 || !req.GetShadow() && req.GetRevision() == 0 {
		o, err := c.loadOffline(against, self, false)
		if err != nil {
			return nil, err
		}
		return o.Offline, nil
	}
	if err := c.conn.load(); err != nil {
		return nil, err
	}
	var list []*stsv1.Resource
	err := c.adminCall(ctx, func(ctx context.Context, admin stsv1.AdminServiceClient) (err error) {
		list, _, err = listAll(ctx, admin, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	var resources []sts.Resource
	for _, m := range list {
		r, bad := server.FromProto(m)
		if len(bad) > 0 {
			return nil, fmt.Errorf("%s of the server cannot be read: %s", r.Ref(), bad[0].Message)
		}
		resources = append(resources, r)
	}
	o, problems := sts.NewOffline(self, resources)
	if len(problems) > 0 {
		return nil, badInput("the revision does not fit together here: %s", problems[0].Ref.String()+": "+problems[0].Message)
	}
	return o, nil
}

// sinceTime reads 7d, 12h or nothing.
func (c *cli) sinceTime(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n > 0 && n < 10_000 {
			return c.now().AddDate(0, 0, -n), nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return time.Time{}, usage("--since is not a time such as 7d or 12h")
	}
	return c.now().Add(-d), nil
}

// replayKey is what decisions that change alike have in common.
type replayKey struct{ was, now, client, issuer, predicate string }

type replayGroup struct {
	Was       string   `json:"was"`
	Now       string   `json:"now"`
	Client    string   `json:"client,omitempty"`
	Issuer    string   `json:"issuer,omitempty"`
	Why       string   `json:"why,omitempty"`
	Count     int      `json:"count"`
	Decisions []string `json:"decisions"` // some of them
}

type replayReport struct {
	same, changed int
	groups        map[replayKey]*replayGroup
	unknown       map[string]int // why it cannot be told
}

// maxExamples is how many decisions of a group are named.
const maxExamples = 3

func (r *replayReport) add(ctx context.Context, o *sts.Offline, rec *sts.Record) {
	if rec.Facts == nil && rec.Issued == nil {
		r.same++ // refused before rules were asked
		return
	}
	if rec.Issued == nil && rec.Facts.Allowed {
		r.unknown["rules granted it, and it failed afterwards"]++
		return
	}
	got := o.Retry(ctx, rec)
	if got.Unknown != "" {
		r.unknown[got.Unknown]++
		return
	}
	was, now := recordedOutcome(rec), triedOutcome(rec, got)
	if was == now {
		r.same++
		return
	}
	r.changed++
	k := replayKey{was: was, now: now, client: rec.Client}
	if rec.Subject != nil {
		k.issuer = rec.Subject.Issuer
	}
	if len(got.Reasons) > 0 {
		k.predicate = strings.TrimSpace(got.Reasons[0].Rule + " " + got.Reasons[0].Predicate)
	}
	g := r.groups[k]
	if g == nil {
		g = &replayGroup{Was: was, Now: now, Client: k.client, Issuer: k.issuer, Why: k.predicate}
		r.groups[k] = g
	}
	if g.Count++; len(g.Decisions) < maxExamples {
		g.Decisions = append(g.Decisions, rec.Decision)
	}
}

// recordedOutcome is the decision of the rules: what came after them, a signature
// or a token that was used before, is no matter of theirs.
func recordedOutcome(rec *sts.Record) string {
	if rec.Issued != nil {
		return "granted " + strings.Join(rec.Issued.Scopes, " ")
	}
	return "denied with " + string(rec.Error)
}

func triedOutcome(rec *sts.Record, got sts.Retrial) string {
	if got.Error != nil {
		return "denied with " + string(got.Error.Code)
	}
	out := "granted " + strings.Join(got.Explanation.Granted.Scopes, " ")
	if rec.Issued != nil {
		if others := otherwise(rec, got.Explanation.Granted); len(others) > 0 {
			out += " with another " + strings.Join(others, ", ")
		}
	}
	return out
}

// otherwise says in what else than its scopes a token would be another one. Extra
// claims are in no record.
func otherwise(rec *sts.Record, now *policy.Offer) []string {
	was := rec.Issued
	mayAct := ""
	if now.MayAct != nil {
		mayAct = now.MayAct.Subject
	}
	life := time.Unix(was.Exp, 0).Sub(rec.Time) - now.Lifetime
	var out []string
	for _, one := range []struct {
		what string
		same bool
	}{
		{"sub", was.Sub == now.Subject},
		{"aud", slices.Equal(was.Audiences, now.Audiences)},
		{"act", slices.Equal(was.Act, now.Actors)},
		{"may_act", was.MayAct == mayAct},
		{"cnf", was.JKT == now.Confirmation.JKT && was.X5T == now.Confirmation.X5T},
		{"lifetime", life.Abs() < 2*time.Second}, // times of tokens are whole seconds
	} {
		if !one.same {
			out = append(out, one.what)
		}
	}
	return out
}

func (c *cli) showReplay(r *replayReport, out *output) error {
	groups := []*replayGroup{}
	for _, g := range r.groups {
		groups = append(groups, g)
	}
	slices.SortFunc(groups, func(a, b *replayGroup) int {
		return cmp.Or(b.Count-a.Count, strings.Compare(a.Was, b.Was), strings.Compare(a.Now, b.Now), strings.Compare(a.Client, b.Client), strings.Compare(a.Issuer, b.Issuer), strings.Compare(a.Why, b.Why))
	})
	unknown := 0
	for _, n := range r.unknown {
		unknown += n
	}
	written, err := out.write(c.stdout, struct {
		Same    int            `json:"same"`
		Changed int            `json:"changed"`
		Unknown map[string]int `json:"unknown"`
		Changes []*replayGroup `json:"changes"`
	}{r.same, r.changed, r.unknown, groups})
	if !written {
		for _, g := range groups {
			who := strings.TrimSpace(g.Client + " " + g.Issuer)
			fmt.Fprintf(c.stdout, "%d × %s: %s, would be %s", g.Count, oneLine(who), oneLine(g.Was), oneLine(g.Now))
			if g.Why != "" {
				fmt.Fprintf(c.stdout, " (%s)", oneLine(g.Why))
			}
			fmt.Fprintf(c.stdout, "; for example %s\n", oneLine(strings.Join(g.Decisions, " ")))
		}
		for _, why := range sortedKeys(r.unknown) {
			fmt.Fprintf(c.stdout, "%d cannot be told: %s\n", r.unknown[why], oneLine(why))
		}
		fmt.Fprintf(c.stdout, "%d the same, %d otherwise, %d not complete enough to tell\n", r.same, r.changed, unknown)
	}
	if err == nil && r.changed > 0 {
		return &failure{exitRefused, count(r.changed, "decision") + " would be otherwise"}
	}
	return err
}
