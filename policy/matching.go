package policy

import (
	"cmp"
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
	nearest := make([]tried, 0, maxReasons)
	try := func(r *rule) {
		p := progress{at: matched}
		m := r.match(ctx, q, &p)
		if p.at == matched {
			out = append(out, m)
		} else if len(out) == 0 {
			nearest = keepNearest(nearest, tried{rule: r, at: p.at, held: p.held, last: p.last})
		}
	}
	all := true
	s.allow.of(q.r, func(b *bucket) { all = b.near(q, try) && all })
	if len(out) == 0 && !all { // say of all why they do not match, not only of those that could
		q.spent, nearest = 0, nearest[:0]
		s.candidates(q, try)
	}
	if d := q.overspent(); d != nil {
		return nil, d
	}
	if len(out) == 0 {
		return nil, s.refusal(ctx, q, nearest)
	}
	// Labels are a map: the order must not show.
	slices.SortFunc(out, func(a, b match) int { return strings.Compare(a.rule.Name, b.rule.Name) })
	return slices.CompactFunc(out, func(a, b match) bool { return a.rule == b.rule }), nil
}

// keepNearest adds a rule to a list of at most maxReasons, in order.
func keepNearest(list []tried, n tried) []tried {
	i := len(list)
	for i > 0 && nearer(n, list[i-1]) < 0 {
		i--
	}
	switch {
	case i == maxReasons:
		return list
	case len(list) == maxReasons:
		list = list[:maxReasons-1]
	}
	return slices.Insert(list, i, n)
}

// refusal says for the nearest candidates why they did not match. It goes through
// their predicates again, so that decisions that end well do not pay for it.
func (s *Set) refusal(ctx context.Context, q *query, nearest []tried) *Denial {
	furthest := atRequester
	if len(nearest) > 0 {
		furthest = nearest[0].at
	}
	d := deny(denials[furthest].code, denials[furthest].message)
	for _, n := range nearest {
		t := trial{}
		n.rule.match(ctx, q, &progress{t: &t, at: matched, last: n.last})
		for _, c := range t.checks {
			d.Reasons = append(d.Reasons, Reason{n.rule.Name, c.Predicate, c.Presented, c.Expected, c.Hint})
		}
	}
	return d
}

// tried is a rule that was tried with a request.
type tried struct {
	rule  *rule
	match match // what it grants, if it matched
	at    stage
	held  int
	last  evaluated
	trial trial
}

// nearer orders rules by how far they came: by stage, then by predicates. Among
// those that came as far it is by how many do not hold, then by name.
func nearer(a, b tried) int {
	return cmp.Or(cmp.Compare(b.at, a.at), cmp.Compare(b.held, a.held), cmp.Compare(a.trial.failed, b.trial.failed), strings.Compare(a.rule.Name, b.rule.Name))
}

// match holds a rule against a request; p says how far it comes. A rule that denies
// grants nothing if it matches.
func (r *rule) match(ctx context.Context, q *query, p *progress) match {
	if r.Deny != nil {
		r.denies(ctx, q, p)
		return match{}
	}
	if r.requester(q, p) || r.parties(q, p) || r.target(q, p) || r.fresh(q.r, p) || r.within(q, p) {
		return match{}
	}
	return r.evaluate(ctx, q, p)
}

// requester is about who asks. That a rule is for the client, or for workloads
// themselves, is what the index says in a decision.
func (r *rule) requester(q *query, p *progress) (stop bool) {
	if p.t != nil && p.t.all && r.requesterOfIndex(q, p) {
		return true
	}
	for _, name := range r.labels {
		value := r.Requester.Labels[name]
		got, ok := clientOrNone(q.r.Client).Labels[name]
		if p.test(atRequester, ok && got == value, func() Check {
			return Check{"requester.labels." + name, false, show(got, ok), show(value, true), near(got, value)}
		}) {
			return true
		}
	}
	return false
}

// requesterOfIndex is what [Set.candidates] has looked at.
func (r *rule) requesterOfIndex(q *query, p *progress) (stop bool) {
	presented := "the workload itself"
	if c := q.r.Client; c != nil {
		presented = "client " + c.ID
	}
	if r.Requester.workload() {
		return p.test(atRequester, q.r.Client == nil, func() Check {
			return Check{Predicate: "requester.workload", Presented: presented, Expected: "the workload itself, without a client"}
		})
	}
	if p.test(atRequester, q.r.Client != nil, func() Check {
		return Check{Predicate: "requester", Presented: presented, Expected: "a client"}
	}) {
		return true
	}
	clients := r.Requester.Clients
	if len(clients) == 0 || q.r.Client == nil {
		return false
	}
	return p.test(atRequester, slices.Contains(clients, q.r.Client.ID), func() Check {
		return Check{"requester.clients", false, q.r.Client.ID, cutList(clients), nearAny(q.r.Client.ID, clients)}
	})
}

// parties is about the subject and the actor token.
func (r *rule) parties(q *query, p *progress) (stop bool) {
	if r.matchesSubject(q.r, p) {
		return true
	}
	if r.actor != nil {
		return r.actor.matches(q.r.Actor, "actor", atActor, p)
	}
	return p.test(atActor, q.r.Actor == nil, func() Check {
		return Check{Predicate: "actor", Presented: presence(q.r.Actor), Expected: "none"}
	})
}

func (r *rule) matchesSubject(q *Request, p *progress) (stop bool) {
	t := q.Subject
	if r.subject == nil {
		return p.test(atSubject, t == nil || t.gotFor(q.Client), func() Check {
			return Check{Predicate: "subject", Presented: presence(t), Expected: "none, or one that the client got for itself"}
		})
	}
	if r.subject.matches(t, "subject", atSubject, p) {
		return true
	}
	if t == nil || t.Issuer != Self || r.Subject.AcceptUnaddressed {
		return false
	}
	return p.test(atSubject, t.usableBy(q.Client), func() Check {
		return Check{Predicate: "subject.accept_unaddressed", Presented: "addressed to " + cutList(t.Audiences), Expected: "addressed or issued to the client"}
	})
}

// gotFor tells whether a token is one that a client got for itself.
func (t *Token) gotFor(c *Client) bool {
	return c != nil && t.Issuer == Self && t.Subject == c.ID && t.ClientID == c.ID && t.Act == nil
}

// target is about where the token is to be used, and of which type it is.
func (r *rule) target(q *query, p *progress) (stop bool) {
	if len(q.audiences) > 1 && p.test(atAudience, r.Allow.MultipleAudiences, func() Check {
		return Check{Predicate: "allow.multiple_audiences", Presented: cutList(q.names), Expected: "one audience", Hint: "ask for one token for each audience, or let the rule say multiple_audiences"}
	}) {
		return true
	}
	if len(q.audiences) > 0 && p.test(atAudience, r.covers(q), func() Check {
		return Check{Predicate: "allow.audiences", Presented: cutList(q.names), Expected: cutList(r.Allow.Audiences)}
	}) {
		return true
	}
	if q.r.TokenType == AccessToken {
		return false
	}
	return p.test(atType, slices.Contains(r.Allow.TokenTypes, q.r.TokenType), func() Check {
		return Check{Predicate: "allow.token_types", Presented: q.r.TokenType, Expected: strings.Join(append([]string{AccessToken}, r.Allow.TokenTypes...), " ")}
	})
}

// covers tells whether all audiences of a request are the rule's.
func (r *rule) covers(q *query) bool {
	for _, a := range q.audiences {
		if !slices.Contains(r.audiences, a) {
			return false
		}
	}
	return true
}
