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
	maxChain   = 4               // actors of a token
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
	q := &query{r: r, vars: variables{r: r}}
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
	rules = slices.DeleteFunc(rules, func(m match) bool { return !m.rule.covers(q) })
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
}

// consent checks what the tokens themselves say about who may use them.
func consent(r *Request) *Denial {
	if r.Client == nil && (r.Subject == nil || r.Subject.Issuer == Self) {
		return deny(InvalidRequest, "a workload without a client presents a token of its own issuer")
	}
	if r.Subject == nil {
		return nil
	}
	for _, t := range []*Token{r.Subject, r.Actor} {
		if t != nil && t.Confirmed {
			return deny(InvalidRequest, "the token is bound to a key, which this request does not prove to have")
		}
	}
	if a := r.Actor; a != nil && a.Issuer == Self && !a.usableBy(r.Client) {
		return deny(InvalidRequest, "the actor_token is neither issued nor addressed to this client")
	}
	may := r.Subject.MayAct
	if may == nil {
		return nil
	}
	if r.Actor == nil {
		return deny(InvalidRequest, "the subject_token says who may act by may_act; an actor_token of that party is required")
	}
	issuer := may.Iss
	if issuer == "" {
		issuer = r.Subject.Iss
	}
	if r.Actor.Iss != issuer || may.Subject != "" && may.Subject != r.Actor.Subject || may.ClientID != "" && may.ClientID != r.Actor.ClientID {
		return deny(InvalidRequest, "the actor is not the one that may_act of the subject_token allows")
	}
	return nil
}

// usableBy tells whether a token of this service is addressed or issued to a
// client.
func (t *Token) usableBy(c *Client) bool {
	if c == nil {
		return false
	}
	return t.ClientID == c.ID || slices.ContainsFunc(t.Audiences, func(a string) bool { return slices.Contains(c.Audiences, a) })
}

// identify says whose the token will be.
//
// A subject of another issuer is named ISSUER:SUB, so that no issuer can name a
// client of this service or a subject of another issuer.
func (g *grant) identify(r *Request) *Denial {
	switch {
	case r.Subject == nil:
		g.subject = r.Client.ID
	case r.Subject.Issuer == Self:
		g.subject, g.txn = r.Subject.Subject, r.Subject.Txn
	default:
		g.subject = r.Subject.Issuer + ":" + r.Subject.Subject
	}
	if len(g.subject) > maxSubject {
		return deny(InvalidRequest, fmt.Sprintf("the subject would be longer than %d characters", maxSubject))
	}
	g.clientID = g.subject
	if r.Client != nil {
		g.clientID = r.Client.ID
	}
	return nil
}

// delegate returns the act chain with the party that acts now on top. Nothing of
// the chain that is there is ever dropped or changed.
func delegate(r *Request, subject string) (*Actor, *Denial) {
	if r.Subject == nil {
		return nil, nil
	}
	below := r.Subject.Act
	var now *Actor
	switch {
	case r.Actor != nil:
		now = &Actor{Iss: r.Actor.Iss, Subject: r.Actor.Subject, ClientID: r.Actor.ClientID}
		if r.Actor.Iss == r.Subject.Iss && r.Actor.Subject == r.Subject.Subject {
			return nil, deny(InvalidRequest, "the actor is the subject itself; leave the actor_token out")
		}
	case r.Client != nil && r.Client.ID != subject:
		now = &Actor{Iss: r.SelfIssuer, Subject: r.Client.ID, ClientID: r.Client.ID}
	default:
		return below, nil
	}
	if below != nil && below.same(now) {
		return below, nil
	}
	depth := 1
	for a := below; a != nil; a = a.Act {
		if depth++; a.same(now) {
			return nil, deny(InvalidRequest, "the actor has acted before in this chain; a chain does not come back")
		}
	}
	if depth > maxChain {
		return nil, deny(InvalidRequest, fmt.Sprintf("the chain of actors would be longer than %d", maxChain))
	}
	now.Act = below
	return now, nil
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
			return deny(InvalidTarget, fmt.Sprintf("audience or resource number %d of the request is not known here", i+1))
		}
		if !slices.Contains(q.audiences, a) {
			q.audiences, q.names = append(q.audiences, a), append(q.names, id)
		}
	}
	return nil
}

// match is a rule that matched, with the claims it sets.
type match struct {
	rule   *rule
	claims []any // values of rule.claims
}

// candidates yields the rules for the requester, each once.
func (s *Set) candidates(q *query, yield func(*rule)) {
	if q.r.Client == nil {
		for _, r := range s.workload[q.r.Subject.Issuer] {
			yield(r)
		}
		return
	}
	for _, r := range s.byClient[q.r.Client.ID] {
		yield(r)
	}
	for name, value := range q.r.Client.Labels {
		for _, r := range s.byLabel[labelKey(name, value)] {
			yield(r)
		}
	}
}

// matching returns the rules that match, or why none does.
func (s *Set) matching(ctx context.Context, q *query) ([]match, *Denial) {
	var out []match
	furthest := atRequester
	s.candidates(q, func(r *rule) {
		m, at := r.match(ctx, q, nil)
		furthest = max(furthest, at)
		if at == matched {
			out = append(out, m)
		}
	})
	if len(out) == 0 {
		return nil, s.explain(ctx, q, furthest)
	}
	// Labels are a map: the order must not show.
	slices.SortFunc(out, func(a, b match) int { return strings.Compare(a.rule.Name, b.rule.Name) })
	return out, nil
}

// explain says for each candidate why it did not match. It evaluates them again,
// so that decisions that end well do not pay for it.
func (s *Set) explain(ctx context.Context, q *query, furthest stage) *Denial {
	type near struct {
		reason Reason
		at     stage
	}
	var all []near
	s.candidates(q, func(r *rule) {
		n := near{reason: Reason{Rule: r.Name}}
		_, n.at = r.match(ctx, q, &n.reason)
		i, _ := slices.BinarySearchFunc(all, n, func(a, b near) int {
			if a.at != b.at {
				return int(b.at - a.at)
			}
			return strings.Compare(a.reason.Rule, b.reason.Rule)
		})
		all = slices.Insert(all, i, n)
		all = all[:min(len(all), maxReasons)]
	})
	d := deny(denials[furthest].code, denials[furthest].message)
	for _, n := range all {
		d.Reasons = append(d.Reasons, n.reason)
	}
	return d
}

// match tells how far a rule comes with a request; why is filled if it is not
// nil and the rule does not match.
func (r *rule) match(ctx context.Context, q *query, why *Reason) (match, stage) {
	for name, value := range r.Requester.Labels {
		if got, ok := q.r.Client.Labels[name]; !ok || got != value {
			fail(why, "requester.labels."+name, show(got, ok), show(value, true))
			return match{}, atRequester
		}
	}
	if !r.matchesSubject(q.r, why) {
		return match{}, atSubject
	}
	if r.actor == nil && q.r.Actor != nil {
		fail(why, "actor", "an actor_token", "none")
		return match{}, atActor
	}
	if r.actor != nil && !r.actor.matches(q.r.Actor, "actor", why) {
		return match{}, atActor
	}
	if !r.covers(q) {
		fail(why, "allow.audiences", strings.Join(q.names, " "), strings.Join(r.Allow.Audiences, " "))
		return match{}, atAudience
	}
	if q.r.TokenType != AccessToken && !slices.Contains(r.Allow.TokenTypes, q.r.TokenType) {
		fail(why, "allow.token_types", q.r.TokenType, strings.Join(append([]string{AccessToken}, r.Allow.TokenTypes...), " "))
		return match{}, atType
	}
	return r.evaluate(ctx, q, why)
}

// evaluate runs the expressions of a rule whose other predicates hold.
func (r *rule) evaluate(ctx context.Context, q *query, why *Reason) (match, stage) {
	if r.when != nil {
		v, err := evaluate(ctx, r.when, &q.vars)
		if err != nil {
			fail(why, "when", err.Error(), "true")
			return match{}, atWhen
		}
		if v != true {
			fail(why, "when", "false", r.When)
			return match{}, atWhen
		}
	}
	m := match{rule: r}
	for _, c := range r.claims {
		v, err := evaluate(ctx, c.value, &q.vars)
		if err != nil {
			fail(why, "allow.claims."+c.name, err.Error(), "a value")
			return match{}, atWhen
		}
		m.claims = append(m.claims, v)
	}
	return m, matched
}

func (r *rule) matchesSubject(q *Request, why *Reason) bool {
	if r.subject == nil {
		t := q.Subject
		if t == nil {
			return true
		}
		own := t.Issuer == Self && t.Subject == q.Client.ID && t.ClientID == q.Client.ID && t.Act == nil
		return own || fail(why, "subject", "a token of "+t.Issuer, "none, or one that the client got for itself")
	}
	if !r.subject.matches(q.Subject, "subject", why) {
		return false
	}
	if q.Subject.Issuer == Self && !r.Subject.AcceptUnaddressed && !q.Subject.usableBy(q.Client) {
		return fail(why, "subject.accept_unaddressed", "addressed to "+strings.Join(q.Subject.Audiences, " "), "addressed or issued to the client")
	}
	return true
}

// covers tells whether the rule is for all audiences of a request.
func (r *rule) covers(q *query) bool {
	if len(q.audiences) > 1 && !r.Allow.MultipleAudiences {
		return false
	}
	for _, a := range q.audiences {
		if !slices.Contains(r.audiences, a) {
			return false
		}
	}
	return true
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

// grants tells whether a rule allows a scope for an audience of the request.
func (r *rule) grants(q *query, scope string) bool {
	return slices.Contains(r.Allow.Scopes, scope) && slices.ContainsFunc(q.audiences, func(a *audience) bool { return a.scopes[scope] })
}

// grantScopes sets the scopes and returns the rules that contribute to them.
func (g *grant) grantScopes(q *query, rules []match) ([]match, *Denial) {
	ceiling := func(string) bool { return true }
	if t := q.r.Subject; t != nil && t.Issuer == Self {
		ceiling = func(scope string) bool { return slices.Contains(t.Scopes, scope) }
	}
	wanted := q.r.Scopes
	if len(wanted) == 0 {
		for _, m := range rules {
			for _, scope := range m.rule.Allow.Scopes {
				if m.rule.grants(q, scope) && ceiling(scope) {
					wanted = append(wanted, scope)
				}
			}
		}
	} else {
		for _, scope := range wanted {
			if !ceiling(scope) {
				return nil, deny(InvalidScope, "a scope is wider than the subject_token")
			}
			if !slices.ContainsFunc(rules, func(m match) bool { return m.rule.grants(q, scope) }) {
				return nil, q.scopeDenied(rules)
			}
		}
		rules = slices.DeleteFunc(rules, func(m match) bool {
			return !slices.ContainsFunc(wanted, func(scope string) bool { return m.rule.grants(q, scope) })
		})
	}
	g.scopes = slices.Compact(slices.Sorted(slices.Values(wanted)))
	return rules, nil
}

func (q *query) scopeDenied(rules []match) *Denial {
	d := deny(InvalidScope, "a scope is wider than the rules allow")
	for _, m := range rules[:min(len(rules), maxReasons)] {
		d.Reasons = append(d.Reasons, Reason{m.rule.Name, "allow.scopes", strings.Join(q.r.Scopes, " "), strings.Join(m.rule.Allow.Scopes, " ")})
	}
	return d
}

// limit sets when the token expires.
func (g *grant) limit(q *query, rules []match) *Denial {
	life := q.longest(rules, func(*rule) bool { return true })
	for _, scope := range g.scopes {
		life = min(life, q.longest(rules, func(r *rule) bool { return r.grants(q, scope) }))
	}
	g.expires = q.r.Now.Add(life)
	for _, t := range []*Token{q.r.Subject, q.r.Actor} {
		if t != nil && t.Expires.Before(g.expires) {
			g.expires = t.Expires
		}
	}
	if g.expires.Sub(q.r.Now) < minLife {
		return deny(InvalidRequest, fmt.Sprintf("the subject_token or actor_token expires in less than %s; present a fresh one", minLife))
	}
	return nil
}

// longest is the longest lifetime of the rules that count.
func (q *query) longest(rules []match, counts func(*rule) bool) time.Duration {
	var longest time.Duration
	for _, m := range rules {
		if !counts(m.rule) {
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
	g.audiences, g.act = q.names, act
	impersonate := true
	for _, m := range rules {
		g.rules = append(g.rules, m.rule.Name)
		impersonate = impersonate && m.rule.Allow.Impersonate
		for i, c := range m.rule.claims {
			if old, ok := g.claims[c.name]; ok && !sameJSON(old, m.claims[i]) {
				return deny(InvalidRequest, "two rules set one claim to different values")
			}
			if g.claims == nil {
				g.claims = map[string]any{}
			}
			g.claims[c.name] = m.claims[i]
		}
	}
	if impersonate && q.r.Subject != nil && q.r.Actor == nil {
		g.act = q.r.Subject.Act
	}
	return nil
}

func sameJSON(a, b any) bool { return fmt.Sprintf("%#v", a) == fmt.Sprintf("%#v", b) }
