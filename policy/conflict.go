package policy

import (
	"fmt"
	"iter"
	"slices"
)

// setting is something that a rule sets and that a token has once.
type setting struct {
	field  string // of the rule
	place  string // what is set: a claim by its folded name, which sub and may_act cannot be
	name   string // as the rule spells it
	source string // what it is set to
}

// settings are what a rule sets. A rule for a subject of another issuer that does
// not map it sets it to what it is.
func (r *rule) settings() []setting {
	var out []setting
	for _, cl := range r.claims {
		out = append(out, setting{"allow.claims." + cl.name, cl.folded, cl.name, cl.source})
	}
	if r.Subject != nil && r.Subject.Issuer != Self {
		source := r.Allow.Sub
		if source == "subject.sub" {
			source = ""
		}
		out = append(out, setting{"allow.sub", "sub", "sub", source})
	}
	if m := r.mayAct; m != nil {
		out = append(out, setting{"allow.may_act", "may_act", "may_act", m.String()})
	}
	return out
}

// conflicts finds rules that could both match a request and set one thing to
// different values, or two claims that differ in case alone.
func (c *compiler) conflicts() {
	type place struct {
		audience *audience
		what     string
	}
	type value struct{ name, source string }
	setters := map[place]map[value][]*rule{}
	for _, r := range c.allowing {
		for _, set := range r.settings() {
			for _, a := range r.audiences {
				p, v := place{a, set.place}, value{set.name, set.source}
				if setters[p] == nil {
					setters[p] = map[value][]*rule{}
				}
				c.conflict(r, set, a, func(yield func(rule *rule, name string) bool) {
					for w, rules := range setters[p] {
						if w == v {
							continue
						}
						for _, other := range rules {
							if !yield(other, w.name) {
								return
							}
						}
					}
				})
				setters[p][v] = append(setters[p][v], r)
			}
		}
	}
}

// conflict reports the first, by name, of the others that could match the same
// request as r. All of them set the same thing to something else.
func (c *compiler) conflict(r *rule, set setting, a *audience, others iter.Seq2[*rule, string]) {
	var first *rule
	var spelled string
	for other, name := range others {
		if other != r && (first == nil || other.Name < first.Name) && !disjoint(other, r) {
			first, spelled = other, name
		}
	}
	if first == nil {
		return
	}
	what := "sets this claim to another value"
	switch {
	case set.place == "sub":
		what = "says something else about who the token is about"
	case set.place == "may_act":
		what = "lets another party act"
	case spelled != set.name:
		what = fmt.Sprintf("sets the claim %q, which differs in case alone,", spelled)
	}
	c.problem("Rule", r.Name, set.field, "rule %q %s and could match the same request for audience %q", first.Name, what, a.name)
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
