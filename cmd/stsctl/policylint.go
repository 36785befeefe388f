package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/workload-sts/sts/sts"
	"github.com/workload-sts/sts/sts/policytest"
)

// lintFinding is a finding for machines.
type lintFinding struct {
	ID      string `json:"id"`
	Rule    string `json:"resource"`
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Message string `json:"message"`
	Fix     string `json:"fix,omitempty"`
}

func newPolicyLint(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lint [FILE|DIR]...",
		Short: "Look for what the authors of rules may not have meant",
		Long: `Look for rules that no request can match, that another rule makes superfluous or
denies, that are for every token of an issuer, have wild patterns, impersonate,
accept tokens that are addressed to others, or give tokens that live long or
are not bound where another rule binds them; for what the presets find
dangerous; and, if there are test cases, for scopes and audiences of which no
case is granted one.

Each finding has an id. What is meant is accepted in the rule, where whoever
reads it next finds it: accept_risks: [ID]. The exit code is 1 if there is a
finding.`,
		Example: "  stsctl policy lint policy.d/\n  stsctl policy lint policy.d/ -o json",
	}
	self := offlineIssuer(cmd)
	out := outputFlag(cmd, "text", "json", "yaml")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			args = []string{"."}
		}
		o, err := c.loadOffline(args, *self, false)
		if err != nil {
			return err
		}
		findings := append(o.Lint(), o.untested(cmd.Context())...)
		list := []lintFinding{}
		for _, f := range findings {
			file, line, column := o.where(f.Ref, f.Field)
			list = append(list, lintFinding{f.ID, f.Ref.String(), file, line, column, f.Message, f.Fix})
		}
		written, err := out.write(c.stdout, list)
		if !written {
			for _, f := range list {
				fix := ""
				if f.Fix != "" {
					fix = "; " + f.Fix
				}
				fmt.Fprintf(c.stdout, "%s:%d:%d: %s: %s%s [%s]\n", f.File, f.Line, f.Column, oneLine(f.Rule), oneLine(f.Message), oneLine(fix), f.ID)
			}
		}
		if err == nil && len(list) > 0 {
			return &failure{exitRefused, count(len(list), "finding")}
		}
		return err
	}
	return cmd
}

// where is the place of a field of a resource in the files.
func (o *offline) where(ref sts.Ref, field string) (file string, line, column int) {
	i, ok := o.at[ref]
	if !ok {
		return "", 0, 0
	}
	return o.docs[i].Positions.At(field)
}

// untested finds scopes that a rule grants, and audiences that it grants them for,
// of which no case is granted one by it. Where there are scopes and one audience,
// the scopes tell.
func (o *offline) untested(ctx context.Context) []sts.Finding {
	if len(o.tests) == 0 {
		return nil
	}
	shown, targets := map[string]map[string]bool{}, map[string]map[string]bool{}
	for _, r := range policytest.Run(ctx, o.Offline, o.tests) {
		if r.Outcome.Error != nil {
			continue
		}
		for _, rule := range r.Outcome.Explanation.Granted.Rules {
			if shown[rule] == nil {
				shown[rule], targets[rule] = map[string]bool{}, map[string]bool{}
			}
			for _, id := range r.Outcome.Explanation.Granted.Audiences {
				targets[rule][id] = true
			}
			for _, scope := range r.Outcome.Explanation.Granted.Scopes {
				shown[rule][scope] = true
			}
		}
	}
	var out []sts.Finding
	for _, r := range o.resources {
		if r.Rule == nil || slices.Contains(r.Rule.AcceptRisks, sts.LintUntested) {
			continue
		}
		find := func(field, what, name string) {
			out = append(out, sts.Finding{
				Problem: sts.Problem{Ref: r.Ref(), Index: -1, Field: field, Message: fmt.Sprintf("no test case is granted %s %q by the rule", what, name)},
				ID:      sts.LintUntested, Fix: "add a case that shows who needs it, or take it out",
			})
		}
		untested := func(field, scope string) {
			if !shown[r.Rule.Name][scope] {
				find(field, "scope", scope)
			}
		}
		for i, name := range r.Rule.Allow.Audiences {
			if len(r.Rule.Allow.Audiences) == 1 && len(r.Rule.Allow.Scopes)+len(r.Rule.Allow.ScopesFromClaims) > 0 {
				break
			}
			ids := []string{name}
			if a, ok := o.Resource(sts.KindAudience, name); ok && len(a.Audience.Identifiers) > 0 {
				ids = a.Audience.Identifiers
			}
			if !slices.ContainsFunc(ids, func(id string) bool { return targets[r.Rule.Name][id] }) {
				find(fmt.Sprintf("allow.audiences[%d]", i), "a token for audience", name)
			}
		}
		for i, scope := range r.Rule.Allow.Scopes {
			untested(fmt.Sprintf("allow.scopes[%d]", i), scope)
		}
		for i, m := range r.Rule.Allow.ScopesFromClaims {
			for j, scope := range m.Scopes {
				untested(fmt.Sprintf("allow.scopes_from_claims[%d].scopes[%d]", i, j), scope)
			}
		}
	}
	return out
}
