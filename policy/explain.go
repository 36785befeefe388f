package policy

import (
	"context"
	"slices"
	"time"
)

// Bounds of an explanation.
const (
	maxExplained = 50 // candidate rules
	maxOthers    = 5  // rules for other requesters
	maxWould     = 3  // rules of which it is said what they would have granted
)

// Explanation says why a request is decided as it is.
type Explanation struct {
	Granted *Offer  // what is granted; nil if the request is denied
	Denial  *Denial // nil if it is granted
	// Rules are those for the requester, the nearest first: those that match, then
	// those of which most holds.
	Rules   []RuleTrial
	Omitted int // rules for the requester beyond those
	// Others are for another requester, and would match otherwise.
	Others []RuleTrial
	// Scopes that were asked for, or can be had.
	Scopes []ScopeTrial
	// Would is what would be granted if the nearest rules matched, or if what they
	// do not grant were not asked for. None if the request is granted.
	Would []Offer
}

// RuleTrial is what comes of a rule.
type RuleTrial struct {
	Rule        string
	Matches     bool    // every predicate holds
	Contributes bool    // what is granted comes from it, among others
	Checks      []Check // in the order in which they are looked at
}

// Failed returns the predicates that do not hold.
func (t RuleTrial) Failed() []Check {
	return slices.DeleteFunc(slices.Clone(t.Checks), func(c Check) bool { return c.Holds })
}

// ScopeTrial says who grants a scope.
type ScopeTrial struct {
	Scope   string
	Asked   bool
	Granted bool
	Defined bool     // by an audience of the request
	Within  bool     // the subject token has it, or is no token of this service
	By      []string // rules that match and grant it
	Could   []string // rules for the requester that would, if they matched
	Hint    string
}

// Offer is what rules grant or would grant. It is no Grant: no token is made of
// it.
type Offer struct {
	Rules, Audiences, Scopes []string
	Subject                  string
	Actors                   []string // outermost first
	Lifetime                 time.Duration
	Confirmation             Confirmation
	Claims                   map[string]any
}

// Explain decides a request as [Set.Decide] does, and says why. It looks at every
// predicate of the rules, so it is for people and not for the way of a request.
func (s *Set) Explain(ctx context.Context, r Request) Explanation {
	g, d := s.decide(ctx, &r)
	e := Explanation{Denial: d}
	if d == nil {
		e.Granted = g.offer(&r)
	}
	q := newQuery(&r)
	if s.resolve(q) != nil || r.Client == nil && r.Subject == nil {
		return e // rules are not looked at
	}
	tried := s.tryAll(ctx, q)
	for _, t := range tried[:min(len(tried), maxExplained)] {
		e.Rules = append(e.Rules, RuleTrial{
			Rule: t.rule.Name, Matches: t.at == matched, Checks: t.trial.checks,
			Contributes: e.Granted != nil && slices.Contains(e.Granted.Rules, t.rule.Name),
		})
	}
	e.Omitted = len(tried) - len(e.Rules)
	if d != nil {
		e.Others = s.others(ctx, q)
		e.Would = s.would(ctx, q, tried)
	}
	e.Scopes = s.scopeTrials(q, e.Granted, tried)
	return e
}

// tryAll tries the rules for the requester, the nearest first. All are tried as
// far as the first predicate that fails, and the nearest to their ends.
func (s *Set) tryAll(ctx context.Context, q *query) []tried {
	var all []tried
	s.candidates(q, func(r *rule) {
		p := progress{at: matched}
		r.match(ctx, q, &p)
		all = append(all, tried{rule: r, at: p.at, held: p.held, last: p.last})
	})
	slices.SortFunc(all, nearer)
	for i := range all[:min(len(all), maxExplained)] {
		all[i].trial.all, all[i].trial.parts = true, true
		all[i].rule.match(ctx, q, &progress{t: &all[i].trial, at: matched, last: all[i].last})
		if all[i].at == matched {
			all[i].rule.checkBinding(q, &all[i].trial)
		}
	}
	slices.SortStableFunc(all[:min(len(all), maxExplained)], nearer)
	return all
}

// checkBinding adds what a rule requires of the key that the token is bound to,
// which is decided when the rules that match are known.
func (r *rule) checkBinding(q *query, t *trial) {
	required := r.Require.Binding
	if !required.asks() {
		return
	}
	own := *q
	if own.target([]match{{rule: r}}) != nil {
		return
	}
	if _, _ = own.bind([]match{{rule: r}}); own.bound == "" {
		return // whatever the rule requires, there is nothing that the token can be bound to
	}
	t.test(required.metBy(own.bound), func() Check {
		return Check{Predicate: "require.binding", Presented: string(own.bound), Expected: string(required), Hint: required.advice()}
	})
}

// others returns rules for other requesters that match but for that.
func (s *Set) others(ctx context.Context, q *query) []RuleTrial {
	mine := map[*rule]bool{}
	s.candidates(q, func(r *rule) { mine[r] = true })
	var out []RuleTrial
	for _, r := range s.rules {
		if len(out) == maxOthers || ctx.Err() != nil {
			break
		}
		if mine[r] || r.Deny != nil {
			continue
		}
		p := progress{at: matched}
		if r.parties(q, &p) || r.target(q, &p) || r.fresh(q.r, &p) || r.within(q, &p) {
			continue
		}
		if r.evaluate(ctx, q, &p); p.at != matched {
			continue
		}
		t := trial{all: true}
		if r.match(ctx, q, &progress{t: &t, at: matched, last: p.last}); t.failed > 0 {
			out = append(out, RuleTrial{Rule: r.Name, Checks: t.checks})
		}
	}
	return out
}

// would returns what would be granted if the nearest rules matched, all that
// match together and each of the others by itself.
func (s *Set) would(ctx context.Context, q *query, all []tried) []Offer {
	var together []match
	var out []Offer
	for _, t := range all {
		if t.at == matched {
			together = append(together, t.rule.assumed(q))
		}
	}
	if o := s.offer(q, together); o != nil {
		return append(out, *o)
	}
	for _, t := range all[:min(len(all), maxWould)] {
		if o := s.offer(q, []match{t.rule.assumed(q)}); o != nil {
			out = append(out, *o)
		}
	}
	return out
}

// offer is what rules would grant of a request if they matched: of the scopes that
// are asked for those that they grant, for the audiences that are theirs. nil if
// that is nothing.
func (s *Set) offer(q *query, rules []match) *Offer {
	if len(rules) == 0 {
		return nil
	}
	r := *q.r
	own := &query{r: &r, vars: variables{r: &r}, audiences: q.audiences, names: q.names}
	g := &grant{tokenType: r.TokenType}
	if g.identify(&r) != nil {
		return nil
	}
	act, d := delegate(&r, g.subject)
	if d != nil || own.target(rules) != nil {
		return nil
	}
	for _, m := range rules {
		if !m.rule.covers(own) {
			return nil
		}
	}
	r.Scopes = slices.DeleteFunc(slices.Clone(r.Scopes), func(scope string) bool {
		return !slices.ContainsFunc(rules, func(m match) bool { return m.grants(own, scope) }) || !withinSubject(&r, scope)
	})
	if len(q.r.Scopes) > 0 && len(r.Scopes) == 0 {
		return nil
	}
	own.bound = NoBinding
	rules, d = g.grantScopes(own, rules)
	if d != nil || g.limit(own, rules) != nil || g.finish(own, rules, act) != nil {
		return nil
	}
	return g.offer(&r)
}

func (g *grant) offer(r *Request) *Offer {
	o := &Offer{
		Rules: g.rules, Audiences: g.audiences, Scopes: g.scopes, Subject: g.subject,
		Lifetime: g.expires.Sub(r.Now), Confirmation: g.confirmation, Claims: g.claims,
	}
	for a := g.act; a != nil; a = a.Act {
		o.Actors = append(o.Actors, a.Subject)
	}
	return o
}

// withinSubject tells whether a scope is one that the subject token can give.
func withinSubject(r *Request, scope string) bool {
	return r.Subject == nil || r.Subject.Issuer != Self || slices.Contains(r.Subject.Scopes, scope)
}

// scopeTrials says of each scope that was asked for who grants it; if none was, of
// each that can be had.
func (s *Set) scopeTrials(q *query, granted *Offer, all []tried) []ScopeTrial {
	if len(q.audiences) == 0 && granted != nil {
		_ = q.target([]match{{rule: s.named(granted.Rules[0])}}) // it has one audience
	}
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
		for _, n := range all {
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
	case !t.Within:
		return "the subject token does not have this scope, and an exchange only narrows"
	case len(t.By) == 0:
		return "no rule that matches grants this scope"
	}
	return ""
}

// named returns the rule of a name.
func (s *Set) named(name string) *rule {
	i := slices.IndexFunc(s.rules, func(r *rule) bool { return r.Name == name })
	if i < 0 {
		return nil
	}
	return s.rules[i]
}
