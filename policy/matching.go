package policy

import (
	"context"
	"slices"
	"strings"
)

// candidates yields the rules for the requester, each once.
func (s *Set) candidates(q *query, yield func(*rule)) {
	s.allow.of(q.r, func(b *bucket) {
		for _, r := range b.all {
			yield(r)
		}
	})
}

// matching returns the rules that match, or why none does.
func (s *Set) matching(ctx context.Context, q *query) ([]match, *Denial) {
	var out []match
	s.allow.of(q.r, func(b *bucket) {
		b.near(q, func(r *rule) {
			if m, at := r.match(ctx, q, nil); at == matched {
				out = append(out, m)
			}
		})
	})
	if d := q.overspent(); d != nil {
		return nil, d
	}
	if len(out) == 0 {
		q.spent = 0 // the same again
		return nil, s.explain(ctx, q)
	}
	// Labels are a map: the order must not show.
	slices.SortFunc(out, func(a, b match) int { return strings.Compare(a.rule.Name, b.rule.Name) })
	return slices.CompactFunc(out, func(a, b match) bool { return a.rule == b.rule }), nil
}

// explain says for each candidate why it did not match. It evaluates them again,
// so that decisions that end well do not pay for it.
func (s *Set) explain(ctx context.Context, q *query) *Denial {
	type near struct {
		reason Reason
		at     stage
	}
	var all []near
	furthest := atRequester
	s.candidates(q, func(r *rule) {
		n := near{reason: Reason{Rule: r.Name}}
		_, n.at = r.match(ctx, q, &n.reason)
		furthest = max(furthest, n.at)
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
	if !r.Requester.labelled(q.r.Client, why) {
		return match{}, atRequester
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
	if !r.fresh(q.r, why) {
		return match{}, atAge
	}
	if !r.within(q, why) {
		return match{}, atLimit
	}
	return r.evaluate(ctx, q, why)
}

// labelled tells whether a client has all labels of the requester.
func (r Requester) labelled(c *Client, why *Reason) bool {
	for name, value := range r.Labels {
		if got, ok := c.Labels[name]; !ok || got != value {
			return fail(why, "requester.labels."+name, show(got, ok), show(value, true))
		}
	}
	return true
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
