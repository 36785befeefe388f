package policy

import (
	"fmt"
	"slices"
)

// conflicts finds rules that could both match a request and set one claim to
// different values, or two claims that differ in case alone.
func (c *compiler) conflicts() {
	type place struct {
		audience *audience
		claim    string // folded
	}
	type setter struct {
		rule *rule
		claim
	}
	setters := map[place][]setter{}
	for _, r := range c.set.rules {
		for _, cl := range r.claims {
			for _, a := range r.audiences {
				p := place{a, cl.folded}
				for _, other := range setters[p] {
					if other.rule == r || other.name == cl.name && other.source == cl.source || disjoint(other.rule, r) {
						continue
					}
					what := "this claim to another value"
					if other.name != cl.name {
						what = fmt.Sprintf("the claim %q, which differs in case alone,", other.name)
					}
					c.problem("Rule", r.Name, "allow.claims."+cl.name, "rule %q sets %s and could match the same request for audience %q", other.rule.Name, what, a.name)
					break
				}
				setters[p] = append(setters[p], setter{r, cl})
			}
		}
	}
}

// disjoint tells whether no request can match both rules. It looks at what can
// be told without evaluating anything; false means perhaps.
func disjoint(a, b *rule) bool {
	if a.Requester.workload() != b.Requester.workload() {
		return true
	}
	if ca, cb := a.Requester.Clients, b.Requester.Clients; len(ca) > 0 && len(cb) > 0 {
		if !slices.ContainsFunc(ca, func(n string) bool { return slices.Contains(cb, n) }) {
			return true
		}
	}
	for name, v := range a.Requester.Labels {
		if w, ok := b.Requester.Labels[name]; ok && v != w {
			return true
		}
	}
	return disjointParties(a.Subject, b.Subject, true) || disjointParties(a.Actor, b.Actor, false)
}

// disjointParties is told whether a missing party still allows a token of Self,
// as it does for the subject.
func disjointParties(a, b *Party, selfAllowed bool) bool {
	if a == nil || b == nil {
		if a == b {
			return false
		}
		return !selfAllowed || max(issuerOf(a), issuerOf(b)) != Self
	}
	if a.Issuer != b.Issuer {
		return true
	}
	for name, v := range a.Claims {
		w, ok := b.Claims[name]
		if ok && !holds(v, w) && !holds(w, v) && !overlap(v, w) {
			return true
		}
	}
	return false
}

func issuerOf(p *Party) string {
	if p == nil {
		return ""
	}
	return p.Issuer
}

func overlap(v, w any) bool {
	list, ok := v.([]any)
	return ok && slices.ContainsFunc(list, func(e any) bool { return holds(e, w) })
}
