package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	maxTargets = 16
	minLife    = 5 * time.Second // a token that lives shorter is of no use
	maxSubject = 255
)

// Decide answers a request. The error is always a *Denial.
func (s *Set) Decide(ctx context.Context, r Request) (Grant, error) {
	g, d := s.decide(ctx, &r)
	if d != nil {
		return Grant{}, d
	}
	return Grant{g}, nil
}

func (s *Set) decide(ctx context.Context, r *Request) (*grant, *Denial) {
	g := &grant{tokenType: r.TokenType}
	// What no rule can change comes first.
	if d := consent(r); d != nil {
		return nil, d
	}
	if d := g.identify(r); d != nil {
		return nil, d
	}
	act, d := delegate(r, g.subject)
	if d != nil {
		return nil, d
	}
	if g.exchanges, d = exchanges(r); d != nil {
		return nil, d
	}
	q := &query{r: r, vars: variables{r: r}, actors: act.depth(), exchanges: g.exchanges}
	if d := s.resolve(q); d != nil {
		return nil, d
	}
	rules, d := s.matching(ctx, q)
	if d != nil {
		return nil, d
	}
	if d := q.target(rules); d != nil {
		return nil, d
	}
	if d := s.prohibited(ctx, q); d != nil {
		return nil, d
	}
	if rules, d = q.bind(rules); d != nil {
		return nil, d
	}
	if rules, d = g.grantScopes(q, rules); d != nil {
		return nil, d
	}
	if d := g.limit(q, rules); d != nil {
		return nil, d
	}
	return g, g.finish(q, rules, act)
}

// query is a request while it is decided.
type query struct {
	r         *Request
	vars      variables
	audiences []*audience // asked for; set by target if none was
	names     []string    // as the request named them
	bound     Binding     // what the token can be bound to, set by bind
	unmet     []match     // rules that match and require another binding, set by bind

	actors, exchanges int               // of the token if the requester acts
	denied            map[string]string // scopes that rules deny, and one of these rules
	spent             uint64            // on expressions, in units of CEL
}

// newQuery is a query of a request that need not be one that can be granted.
func newQuery(r *Request) *query {
	q := &query{r: r, vars: variables{r: r}}
	g := &grant{}
	if (r.Client != nil || r.Subject != nil) && g.identify(r) == nil {
		act, d := delegate(r, g.subject)
		if d != nil {
			act = r.Subject.Act
		}
		q.actors = act.depth()
	}
	q.exchanges, _ = exchanges(r)
	return q
}

// resolve finds the audiences that the request names.
func (s *Set) resolve(q *query) *Denial {
	if len(q.r.Targets) > maxTargets {
		return deny(InvalidRequest, fmt.Sprintf("more than %d audiences and resources", maxTargets))
	}
	for _, scope := range q.r.Scopes {
		if !validScope(scope) {
			return deny(InvalidScope, "a scope is made of visible ASCII characters except quotes and backslashes")
		}
	}
	for i, id := range q.r.Targets {
		a, ok := s.audiences[id]
		if !ok {
			d := deny(InvalidTarget, fmt.Sprintf("audience or resource number %d of the request is not known here", i+1))
			d.Reasons = s.nearAudience(id)
			return d
		}
		if !slices.Contains(q.audiences, a) {
			q.audiences, q.names = append(q.audiences, a), append(q.names, id)
		}
	}
	// A token has one signature, so it cannot be for those who want different keys.
	if slices.ContainsFunc(q.audiences, func(a *audience) bool { return a.keySet != q.audiences[0].keySet }) {
		return deny(InvalidTarget, "the audiences take tokens of different signing keys; ask for one token each")
	}
	return nil
}

// target fills in the audience of a request that names none.
func (q *query) target(rules []match) *Denial {
	if len(q.audiences) > 0 {
		return nil
	}
	for _, m := range rules {
		for _, a := range m.rule.audiences {
			if len(q.audiences) == 0 {
				q.audiences, q.names = []*audience{a}, a.identifiers[:1]
			} else if q.audiences[0] != a {
				return deny(InvalidTarget, "name an audience: there is more than one that a token could be for")
			}
		}
	}
	return nil
}

// grantScopes sets the scopes and returns the rules that contribute: those that
// grant one of the scopes and, if the request names none, those that name none
// either. What else a rule sets comes with its scopes, so that nobody who lost
// those gets it back. If no rule is left, they all grant a token without scopes,
// and without claims.
func (g *grant) grantScopes(q *query, rules []match) ([]match, *Denial) {
	ceiling := func(scope string) bool { return withinSubject(q.r, scope) }
	wanted := q.r.Scopes
	if len(wanted) == 0 {
		for i := range rules {
			m := &rules[i]
			for _, scope := range m.scopes {
				if _, denied := q.denied[scope]; !denied && m.grants(q, scope) && ceiling(scope) {
					wanted = append(wanted, scope)
				}
			}
		}
		rules = contributing(rules, func(m match) bool {
			return m.rule.scopeless() || m.grantsAny(q, wanted)
		})
	} else {
		for _, scope := range wanted {
			if !ceiling(scope) {
				return nil, deny(InvalidScope, "a scope is wider than the subject_token").because("subject_token.scope", strings.Join(q.r.Subject.Scopes, " "), q.shownScopes())
			}
			if !slices.ContainsFunc(rules, func(m match) bool { return m.grants(q, scope) }) {
				return nil, q.scopeDenied(rules, scope)
			}
			if rule, denied := q.denied[scope]; denied {
				d := deny(InvalidScope, "a rule denies a scope to this request")
				d.Reasons = []Reason{{Rule: rule, Predicate: "deny.scopes", Presented: q.shownScopes(), Expected: "without " + scope}}
				return nil, d
			}
		}
		rules = contributing(rules, func(m match) bool { return m.grantsAny(q, wanted) })
	}
	g.scopes = slices.Compact(slices.Sorted(slices.Values(wanted)))
	return rules, nil
}

// contributing returns the rules that contribute or, if none does, all of them
// without their claims.
func contributing(rules []match, does func(match) bool) []match {
	if !slices.ContainsFunc(rules, does) {
		for i := range rules {
			rules[i].claims = nil
		}
		return rules
	}
	return slices.DeleteFunc(rules, func(m match) bool { return !does(m) })
}

// grantsAny tells whether a rule allows one of the scopes.
func (m match) grantsAny(q *query, scopes []string) bool {
	return slices.ContainsFunc(scopes, func(scope string) bool { return m.grants(q, scope) })
}

// scopeDenied refuses a scope that none of the rules that match grants. One that does
// if the token is bound to a key comes first.
func (q *query) scopeDenied(rules []match, scope string) *Denial {
	d := deny(InvalidScope, "a scope is wider than the rules allow")
	for _, m := range q.unmet {
		if m.grants(q, scope) && len(d.Reasons) < maxReasons {
			d.Message = "a scope is given only with a token that is bound to a key: " + m.rule.Require.Binding.advice()
			d.Reasons = append(d.Reasons, q.unbound(m))
		}
	}
	for _, m := range rules[:min(len(rules), maxReasons-len(d.Reasons))] {
		d.Reasons = append(d.Reasons, Reason{Rule: m.rule.Name, Predicate: "allow.scopes", Presented: q.shownScopes(), Expected: strings.Join(m.scopes, " ")})
	}
	return d
}

// shownScopes are the scopes that were asked for. One that no audience of the
// request defines can be anything, so it is not repeated.
func (q *query) shownScopes() string {
	var shown []string
	for _, scope := range q.r.Scopes {
		if !slices.ContainsFunc(q.audiences, func(a *audience) bool { return a.scopes[scope] }) {
			scope = fmt.Sprintf("(one of %d characters that is not defined)", len(scope))
		}
		shown = append(shown, scope)
	}
	return strings.Join(shown, " ")
}

// limit sets when the token expires.
func (g *grant) limit(q *query, rules []match) *Denial {
	life := q.longest(rules, func(*match) bool { return true })
	for _, scope := range g.scopes {
		life = min(life, q.longest(rules, func(m *match) bool { return m.grants(q, scope) }))
	}
	g.expires = q.r.Now.Add(life)
	which := "subject_token"
	for i, t := range []*Token{q.r.Subject, q.r.Actor} {
		if t != nil && t.Expires.Before(g.expires) {
			g.expires, which = t.Expires, parties[i]
		}
	}
	if left := g.expires.Sub(q.r.Now); left < minLife {
		return deny(InvalidRequest, fmt.Sprintf("the subject_token or actor_token expires in less than %s; present a fresh one", minLife)).
			because(which+".exp", fmt.Sprintf("in %s", left), fmt.Sprintf("in %s or later", minLife))
	}
	return nil
}

// longest is the longest lifetime of the rules that count.
func (q *query) longest(rules []match, counts func(*match) bool) time.Duration {
	var longest time.Duration
	for i := range rules {
		m := &rules[i]
		if !counts(m) {
			continue
		}
		life := m.rule.ttl(q.audiences[0])
		for _, a := range q.audiences[1:] {
			life = min(life, m.rule.ttl(a))
		}
		longest = max(longest, life)
	}
	return longest
}

// finish sets what is left: audiences, claims, actors, and which rules it was.
func (g *grant) finish(q *query, rules []match, act *Actor) *Denial {
	g.audiences, g.keySet, g.act, g.confirmation = q.names, q.audiences[0].keySet, act, q.confirmation(rules)
	if d := g.effects(q, rules); d != nil {
		return d
	}
	impersonate := true
	var names map[string]string // of claims, by their folded names
	for _, m := range rules {
		g.rules = append(g.rules, m.rule.Name)
		if most := m.rule.Limits.UsesPerTransaction; most > 0 {
			g.uses = append(g.uses, Uses{m.rule.Name, most})
		}
		impersonate = impersonate && m.rule.Allow.Impersonate
		for i, v := range m.claims {
			c := &m.rule.claims[i]
			if old, ok := names[c.folded]; ok && (old != c.name || !sameJSON(g.claims[old], v)) {
				return deny(InvalidRequest, "two rules set one claim to different values")
			}
			if g.claims == nil {
				g.claims, names = map[string]any{}, map[string]string{}
			}
			g.claims[c.name], names[c.folded] = v, c.name
		}
	}
	if impersonate && q.r.Subject != nil && q.r.Actor == nil {
		g.act = q.r.Subject.Act
	}
	return nil
}

func sameJSON(a, b any) bool { return fmt.Sprintf("%#v", a) == fmt.Sprintf("%#v", b) }
