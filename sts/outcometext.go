package sts

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/workload-sts/sts/policy"
)

// maxShownRules bounds how many rules a text has every predicate of.
const maxShownRules = 10

// Text explains an outcome to people, in lines. What was presented is quoted, so
// that nothing of it can pass for a part of the text.
func (o Outcome) Text() string {
	var b strings.Builder
	switch {
	case o.Error != nil:
		fmt.Fprintf(&b, "denied with %s: %s\n", o.Error.Code, o.Error.Message)
	case o.Explanation != nil && o.Explanation.Granted != nil:
		b.WriteString("granted: " + offerText(*o.Explanation.Granted) + "\n")
	}
	for _, r := range o.Reasons {
		if r.Rule == "" { // what is about a rule stands below
			b.WriteString(checkText("  ", policy.Check{Predicate: r.Predicate, Presented: r.Presented, Expected: r.Expected, Hint: r.Hint}))
		}
	}
	if o.Explanation != nil {
		explanationText(&b, o.Explanation)
	}
	return b.String()
}

func explanationText(b *strings.Builder, e *policy.Explanation) {
	for _, r := range e.Denials {
		denialText(b, r)
	}
	if len(e.Rules) > 0 {
		b.WriteString("rules for this requester, the nearest first:\n")
	} else if e.Denial != nil {
		b.WriteString("no rule is looked at, or none is for this requester\n")
	}
	for i, r := range e.Rules {
		if i == maxShownRules {
			fmt.Fprintf(b, "  and %d more\n", len(e.Rules)-i+e.Omitted)
			break
		}
		trialText(b, r)
	}
	if len(e.Others) > 0 {
		b.WriteString("rules for others that match but for the requester:\n")
		for _, r := range e.Others {
			trialText(b, r)
		}
	}
	for _, s := range e.Scopes {
		if s.Granted || !s.Asked && s.Denied == "" || s.Hint == "" {
			continue
		}
		fmt.Fprintf(b, "scope %q is not granted: %s\n", s.Scope, s.Hint)
		if len(s.Could) > 0 && s.Denied == "" {
			fmt.Fprintf(b, "  it would be by rule %s, if that matched\n", strings.Join(s.Could, ", "))
		}
	}
	for _, w := range e.Would {
		fmt.Fprintf(b, "what rule %s would grant: %s\n", strings.Join(w.Rules, ", "), offerText(w))
	}
}

func trialText(b *strings.Builder, r policy.RuleTrial) {
	failed := r.Failed()
	switch {
	case r.Contributes:
		fmt.Fprintf(b, "  rule %s grants it\n", r.Rule)
	case len(failed) == 0:
		fmt.Fprintf(b, "  rule %s matches\n", r.Rule)
	default:
		fmt.Fprintf(b, "  rule %s does not match: %d of %d predicates fail\n", r.Rule, len(failed), len(r.Checks))
	}
	for _, c := range failed {
		b.WriteString(checkText("    ", c))
	}
	if len(failed) > 0 && len(failed) < len(r.Checks) {
		var hold []string
		for _, c := range r.Checks {
			if c.Holds && !slices.Contains(hold, c.Predicate) {
				hold = append(hold, c.Predicate)
			}
		}
		fmt.Fprintf(b, "    holds: %s\n", strings.Join(hold, ", "))
	}
}

// denialText shows a rule that denies, with what the request has that it denies.
func denialText(b *strings.Builder, r policy.RuleTrial) {
	what := "the request"
	if len(r.Denies) > 0 {
		what = strings.Join(r.Denies, " ")
	}
	if r.Contributes {
		fmt.Fprintf(b, "rule %s denies %s, because of\n", r.Rule, what)
	} else {
		fmt.Fprintf(b, "rule %s would deny %s, if it was allowed, because of\n", r.Rule, what)
	}
	if len(r.Checks) == 0 {
		b.WriteString("  nothing: it is for every request\n")
	}
	for _, c := range r.Checks {
		if c.Predicate == "when" {
			fmt.Fprintf(b, "  when: %s: %s\n", c.Presented, c.Expected)
		} else {
			fmt.Fprintf(b, "  %s: %s\n", c.Predicate, c.Presented)
		}
	}
}

func checkText(indent string, c policy.Check) string {
	s := fmt.Sprintf("%s%s\n%s  presented: %s\n%s  expected:  %s\n", indent, c.Predicate, indent, c.Presented, indent, c.Expected)
	if c.Hint != "" {
		s += fmt.Sprintf("%s  hint:      %s\n", indent, c.Hint)
	}
	return s
}

func offerText(o policy.Offer) string {
	scopes := "no scopes"
	if len(o.Scopes) > 0 {
		scopes = "scopes " + strings.Join(o.Scopes, " ")
	}
	s := fmt.Sprintf("%s for %s, sub %s, for %s", scopes, strings.Join(o.Audiences, " "), o.Subject, o.Lifetime.Truncate(time.Second))
	if len(o.Actors) > 0 {
		s += ", act " + strings.Join(o.Actors, " for ")
	}
	if o.MayAct != nil {
		s += ", may_act " + o.MayAct.String()
	}
	switch {
	case o.Confirmation.JKT != "":
		s += ", bound by DPoP"
	case o.Confirmation.X5T != "":
		s += ", bound to a certificate"
	}
	for _, u := range o.Uses {
		s += fmt.Sprintf(", by rule %s at most %d times in a transaction", u.Rule, u.Most)
	}
	return s
}
