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
	// Denials are the rules with Deny that the request matches, whether or not there
	// is anything to take from it. Of those, one that contributes takes something.
	Denials []RuleTrial
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
	// Denies are the scopes of a rule that denies; none: the whole request.
	Denies []string
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
	Denied  string   // a rule that denies it; empty: none does
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
	MayAct                   *MayAct // nil: whoever rules allow
	Exchanges                int
	Uses                     []Uses // which are counted when the token is made
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
	e.Denials = s.denials(ctx, q, tried, d)
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
		m := r.match(ctx, q, &p)
		all = append(all, tried{rule: r, match: m, at: p.at, held: p.held, last: p.last})
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
			together = append(together, t.match)
		}
	}
	if o := s.offer(ctx, q, together); o != nil {
		return append(out, *o)
	}
	for _, t := range all[:min(len(all), maxWould)] {
		if m, ok := t.rule.supposed(ctx, q); ok {
			if o := s.offer(ctx, q, []match{m}); o != nil {
				out = append(out, *o)
			}
		}
	}
	return out
}

// supposed is what a rule would grant if its predicates held. There is none if what
// it sets cannot be evaluated, or no claim gives it a scope.
func (r *rule) supposed(ctx context.Context, q *query) (match, bool) {
	own := query{r: q.r, vars: variables{r: q.r}}
	m := r.assumed(q)
	if len(m.scopes) == 0 && !r.scopeless() && !r.Allow.ScopesFromRequest {
		return m, false
	}
	p := progress{at: matched}
	return m, !r.set(ctx, &own, &p, &m)
}

// offer is what rules would grant of a request if they matched: of the scopes that
// are asked for those that they grant and no rule denies, for the audiences that are
// theirs. nil if that is nothing.
func (s *Set) offer(ctx context.Context, q *query, rules []match) *Offer {
	if len(rules) == 0 {
		return nil
	}
	r := *q.r
	own := &query{r: &r, vars: variables{r: &r}, audiences: q.audiences, names: q.names}
	g := &grant{tokenType: r.TokenType, exchanges: q.exchanges}
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
	if s.prohibited(ctx, own) != nil {
		return nil
	}
	r.Scopes = slices.DeleteFunc(slices.Clone(r.Scopes), func(scope string) bool {
		return own.denied[scope] != "" || !slices.ContainsFunc(rules, func(m match) bool { return m.grants(own, scope) }) || !withinSubject(&r, scope)
	})
	if len(q.r.Scopes) > 0 && len(r.Scopes) == 0 {
		return nil
	}
	if left, d := own.bind(rules); d == nil {
		rules = left
	} else {
		own.bound = NoBinding // that it must be bound is said elsewhere
	}
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
		MayAct: g.mayAct, Exchanges: g.exchanges, Uses: g.uses,
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

// named returns the rule of a name.
func (s *Set) named(name string) *rule {
	i := slices.IndexFunc(s.rules, func(r *rule) bool { return r.Name == name })
	if i < 0 {
		return nil
	}
	return s.rules[i]
}
