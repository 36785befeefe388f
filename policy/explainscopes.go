package policy

import (
	"context"
	"maps"
	"slices"
)

// denials tries the rules that deny, and returns those that match, in the order of
// their names. It fills in the audience of a request that names none, and the scopes
// that are denied. d is what became of the request.
func (s *Set) denials(ctx context.Context, q *query, all []tried, d *Denial) []RuleTrial {
	var allowing []match
	for _, t := range all {
		if t.at == matched {
			allowing = append(allowing, t.match)
		}
	}
	_ = q.target(allowing) // if they are for several audiences, rules for one of them deny nothing
	own := *q
	own.spent = 0
	_ = s.prohibited(ctx, &own)
	q.denied = own.denied
	hit := map[string]*rule{}
	own.spent = 0
	s.deny.near(&own, func(r *rule) {
		p := progress{at: matched}
		if r.denies(ctx, &own, &p); p.at == matched {
			hit[r.Name] = r
		}
	})
	var out []RuleTrial
	for _, name := range slices.Sorted(maps.Keys(hit)) {
		if len(out) == maxExplained {
			break
		}
		r, t := hit[name], trial{all: true}
		r.denies(ctx, &own, &progress{t: &t, at: matched})
		out = append(out, RuleTrial{Rule: name, Matches: true, Denies: r.Deny.Scopes, Checks: t.checks, Contributes: r.takes(q, allowing, d)})
	}
	return out
}

// takes tells whether a rule that denies takes something that others allow.
func (r *rule) takes(q *query, allowing []match, d *Denial) bool {
	because := ""
	if d != nil && len(d.Reasons) > 0 {
		because = d.Reasons[0].Predicate
	}
	if len(r.Deny.Scopes) == 0 {
		return because == "deny"
	}
	return (because == "deny.scopes" || d == nil && len(q.r.Scopes) == 0) && slices.ContainsFunc(r.Deny.Scopes, func(scope string) bool {
		return (d == nil || slices.Contains(q.r.Scopes, scope)) && withinSubject(q.r, scope) &&
			slices.ContainsFunc(allowing, func(m match) bool { return m.grants(q, scope) })
	})
}

// scopeTrials says of each scope that was asked for who grants it; if none was, of
// each that can be had.
func (s *Set) scopeTrials(q *query, granted *Offer, all []tried) []ScopeTrial {
	names, asked := q.r.Scopes, true
	if len(names) == 0 {
		asked = false
		for _, t := range all {
			if t.at == matched {
				names = append(names, t.rule.scopes(q)...)
			}
		}
		names = slices.Compact(slices.Sorted(slices.Values(names)))
	}
	var out []ScopeTrial
	for _, scope := range names {
		t := ScopeTrial{Scope: scope, Asked: asked, Within: withinSubject(q.r, scope)}
		t.Granted = granted != nil && slices.Contains(granted.Scopes, scope)
		known := map[string]bool{}
		for _, a := range q.audiences {
			t.Defined = t.Defined || a.scopes[scope]
			for name := range a.scopes {
				known[name] = true
			}
		}
		t.Denied = q.denied[scope]
		for _, n := range all {
			if !n.rule.covers(q) {
				continue
			}
			switch m := n.rule.assumed(q); {
			case !m.grants(q, scope) || len(t.By)+len(t.Could) >= maxReasons:
			case n.at == matched:
				t.By = append(t.By, n.rule.Name)
			default:
				t.Could = append(t.Could, n.rule.Name)
			}
		}
		t.Hint = scopeHint(t, known)
		out = append(out, t)
	}
	return out
}

func scopeHint(t ScopeTrial, known map[string]bool) string {
	switch {
	case t.Granted:
		return ""
	case !t.Defined:
		hint := "no audience of the request defines this scope"
		return hint + DidYouMean(t.Scope, known)
	case t.Denied != "":
		return "rule " + t.Denied + " denies it, whatever others allow"
	case !t.Within:
		return "the subject token does not have this scope, and an exchange only narrows"
	case len(t.By) == 0:
		return "no rule that matches grants this scope"
	}
	return ""
}
