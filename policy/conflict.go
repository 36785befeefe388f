package policy

import (
	"fmt"
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

// setter is a rule with one of the things that it sets.
type setter struct {
	rule *rule
	set  setting
}

// conflicts finds rules that could both match a request and set one thing to
// different values, or two claims that differ in case alone.
//
// Rules of different groups are disjoint. In a group a rule is compared with those
// alone that have a client, label or claim in common with it which tells most of
// them apart, so that thousands for one audience do not take the square of it.
func (c *compiler) conflicts() {
	type group struct {
		audience *audience
		place    string
		workload bool
		issuer   string // of the subject; a rule without one takes tokens of Self too
	}
	setters := map[group][]setter{}
	var order []group
	for _, r := range c.allowing {
		issuer := Self
		if r.Subject != nil {
			issuer = r.Subject.Issuer
		}
		for _, set := range r.settings() {
			for _, a := range r.audiences {
				g := group{a, set.place, r.Requester.workload(), issuer}
				if setters[g] == nil {
					order = append(order, g)
				}
				setters[g] = append(setters[g], setter{r, set})
			}
		}
	}
	for _, g := range order {
		c.conflictsAmong(setters[g], g.audience)
	}
}

// conflictsAmong compares each of a group with those before it.
func (c *compiler) conflictsAmong(group []setter, a *audience) {
	same := func(s, t setting) bool { return s.name == t.name && s.source == t.source }
	if !slices.ContainsFunc(group, func(s setter) bool { return !same(s.set, group[0].set) }) {
		return
	}
	rules := make([]*rule, len(group))
	at := make(map[*rule]int, len(group))
	for i, s := range group {
		rules[i], at[s.rule] = s.rule, i
	}
	keys, parts, rest := split(rules)
	for i, s := range group {
		near := rules
		keyed := false
		first := len(group)
		look := func(others []*rule) {
			for _, other := range others {
				if j := at[other]; j >= i || j >= first {
					return // they are in order
				} else if !same(s.set, group[j].set) && !disjoint(other.Rule, s.rule.Rule) {
					first = j
				}
			}
		}
		keys(s.rule, func(k any) {
			keyed = true
			look(parts[k])
		})
		if keyed {
			near = rest
		}
		look(near)
		if first < len(group) {
			c.conflict(s, group[first], a)
		}
	}
}

// split sorts rules by what tells most of them apart: the clients that they name,
// the value of a label, or that of a claim of the subject. Two that have it, and
// none of it in common, are disjoint; rest are those that do not have it.
func split(rules []*rule) (keys func(*rule, func(any)), parts map[any][]*rule, rest []*rule) {
	keys, rest = func(*rule, func(any)) {}, rules
	if len(rules) <= fewRules {
		return keys, nil, rest
	}
	best := len(rules)
	try := func(by func(*rule, func(any))) {
		if sorted, others, most := sortRules(rules, by); most < best {
			keys, parts, rest, best = by, sorted, others, most
		}
	}
	try(func(r *rule, add func(any)) {
		for _, name := range r.Requester.Clients {
			add(name)
		}
	})
	for _, name := range frequent(rules, func(r *rule) []string { return r.labels }) {
		try(func(r *rule, add func(any)) {
			if value, ok := r.Requester.Labels[name]; ok {
				add(value)
			}
		})
	}
	for _, name := range frequent(rules, func(r *rule) []string { return r.subject.exactNames() }) {
		try(valuesOf(name))
	}
	return keys, parts, rest
}

// conflict reports two rules that could match the same request and set the same
// thing to something else.
func (c *compiler) conflict(s, other setter, a *audience) {
	what := "sets this claim to another value"
	switch {
	case s.set.place == "sub":
		what = "says something else about who the token is about"
	case s.set.place == "may_act":
		what = "lets another party act"
	case other.set.name != s.set.name:
		what = fmt.Sprintf("sets the claim %q, which differs in case alone,", other.set.name)
	}
	c.problem("Rule", s.rule.Name, s.set.field, "rule %q %s and could match the same request for audience %q", other.rule.Name, what, a.name)
}

// Apart tells whether no request can match a rule that denies and one that allows,
// as far as that can be told without evaluating anything; false means perhaps.
func Apart(deny, allow *Rule) bool {
	d := *deny
	if d.Requester.workload() && !d.Requester.Workload {
		d.Requester = allow.Requester // anybody
	}
	if d.Subject == nil {
		d.Subject = allow.Subject
	}
	if d.Actor == nil {
		d.Actor = allow.Actor
	}
	return disjoint(&d, allow)
}

// disjoint tells whether no request can match both rules. It looks at what can
// be told without evaluating anything; false means perhaps.
func disjoint(a, b *Rule) bool {
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
