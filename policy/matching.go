package policy

import (
	"context"
	"slices"
	"strings"
)

// match is a rule that matched, with the claims it sets.
type match struct {
	rule   *rule
	claims []any // values of rule.claims; none if it sets none this time
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
