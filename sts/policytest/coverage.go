package policytest

import (
	"context"
	"slices"

	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// Coverage says what of the rules cases show.
type Coverage struct {
	Rules          []RuleCoverage
	Covered, Total int // rules that are shown, and predicates that matter
}

// RuleCoverage is what cases show of a rule.
type RuleCoverage struct {
	Rule   string
	Denies bool // it has deny
	Shown  bool // a case is granted by it or, if it denies, loses something by it
	// Missing are its predicates that no case shows to matter: in which the rule
	// matches but for this predicate.
	Missing []string
}

// Percent is how much is covered; of nothing, everything is.
func (c Coverage) Percent() float64 {
	if c.Total == 0 {
		return 100
	}
	return 100 * float64(c.Covered) / float64(c.Total)
}

// Cover says what results show of the rules. A predicate counts as shown when in
// some case it is the only one of its rule that does not hold: then a rule without
// it would allow or deny more, and the case would tell.
func Cover(ctx context.Context, o *sts.Offline, results []Result) Coverage {
	rules := o.Rules()
	var out Coverage
	for _, name := range rules.RuleNames() {
		c := RuleCoverage{Rule: name, Denies: rules.Denies(name)}
		shown := map[string]bool{}
		for _, r := range results {
			if r.Outcome.Request == nil {
				continue
			}
			switch e := r.Outcome.Explanation; {
			case c.Denies && slices.ContainsFunc(e.Denials, func(t policy.RuleTrial) bool { return t.Rule == name && t.Contributes }),
				e.Granted != nil && slices.Contains(e.Granted.Rules, name):
				c.Shown = true
				continue
			case c.Denies && e.Granted == nil:
				continue // it is denied anyway
			}
			if failed := rules.Try(ctx, name, *r.Outcome.Request).Failed(); len(failed) == 1 {
				shown[failed[0].Predicate] = true
			}
		}
		predicates := rules.Predicates(name)
		for _, p := range predicates {
			if !shown[p] {
				c.Missing = append(c.Missing, p)
			}
		}
		out.Total += 1 + len(predicates)
		out.Covered += len(predicates) - len(c.Missing)
		if c.Shown {
			out.Covered++
		}
		out.Rules = append(out.Rules, c)
	}
	return out
}
