package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// maxForEverybody bounds the prohibitions that every request has to be held to.
const maxForEverybody = 100

// prohibitions are the rules that deny, each in one place: by whom, else by whose
// token, else by where to.
type prohibitions struct {
	byClient, byLabel map[string]*bucket
	workload          *bucket
	byIssuer          map[string]*bucket // of the subject
	byAudience        map[*audience]*bucket
	everybody         []*rule
}

func newProhibitions(rules []*rule) prohibitions {
	byClient, byLabel, byIssuer := map[string][]*rule{}, map[string][]*rule{}, map[string][]*rule{}
	byAudience := map[*audience][]*rule{}
	var p prohibitions
	var workload []*rule
	for _, r := range rules {
		switch {
		case r.Requester.Workload:
			workload = append(workload, r)
		case !r.Requester.workload():
			r.byRequester(byClient, byLabel)
		case r.Subject != nil:
			byIssuer[r.Subject.Issuer] = append(byIssuer[r.Subject.Issuer], r)
		case len(r.audiences) > 0:
			for _, a := range r.audiences {
				byAudience[a] = append(byAudience[a], r)
			}
		default:
			p.everybody = append(p.everybody, r)
		}
	}
	p.byClient, p.byLabel, p.byIssuer, p.byAudience = buckets(byClient), buckets(byLabel), buckets(byIssuer), buckets(byAudience)
	p.workload = newBucket(workload)
	return p
}

// near yields all rules that could deny a request; one may come more than once.
func (p *prohibitions) near(q *query, yield func(*rule)) {
	of := func(b *bucket) {
		if b != nil {
			b.near(q, yield)
		}
	}
	if c := q.r.Client; c != nil {
		of(p.byClient[c.ID])
		for name, value := range c.Labels {
			of(p.byLabel[labelKey(name, value)])
		}
	} else {
		of(p.workload)
	}
	if q.r.Subject != nil {
		of(p.byIssuer[q.r.Subject.Issuer])
	}
	for _, a := range q.audiences {
		of(p.byAudience[a])
	}
	for _, r := range p.everybody {
		yield(r)
	}
}

// deny checks a rule that denies.
func (c *compiler) deny(r *rule, bad func(field, format string, args ...any)) {
	if r.Allow.some() {
		bad("allow", "cannot be given together with deny; a rule has one of them")
	}
	if r.Require != (Require{}) {
		bad("require", "is for rules that allow; say by when what a request that is denied has or lacks")
	}
	if r.Limits != (Limits{}) {
		bad("limits", "is for rules that allow")
	}
	if r.Subject != nil && r.Subject.AcceptUnaddressed {
		bad("subject.accept_unaddressed", "is for rules that allow; one that denies does not ask whom a token is addressed to")
	}
	c.targets(r, "deny.audiences", r.Deny.Audiences, bad)
	defining := r.audiences
	if len(r.Deny.Audiences) == 0 {
		for _, a := range c.named {
			defining = append(defining, a)
		}
	}
	c.scopes("deny.scopes", r.Deny.Scopes, defining, bad)
}

// some tells whether anything is granted.
func (a *Allow) some() bool {
	return len(a.Audiences)+len(a.Scopes)+len(a.Claims)+len(a.TokenTypes)+len(a.ScopesFromClaims) > 0 ||
		a.TTL != 0 || a.Impersonate || a.MultipleAudiences || a.ScopesFromRequest || a.Sub != "" || a.MayAct != nil
}

// prohibited holds a request, which rules allow, to the rules that deny, and notes
// the scopes that they do not let through.
func (s *Set) prohibited(ctx context.Context, q *query) *Denial {
	var first *rule
	s.deny.near(q, func(r *rule) {
		p := progress{at: matched}
		switch r.denies(ctx, q, &p); {
		case p.at != matched:
		case len(r.Deny.Scopes) > 0:
			for _, scope := range r.Deny.Scopes {
				// Labels are a map: the order must not show.
				if old, ok := q.denied[scope]; !ok || r.Name < old {
					if q.denied == nil {
						q.denied = map[string]string{}
					}
					q.denied[scope] = r.Name
				}
			}
		case first == nil || r.Name < first.Name:
			first = r
		}
	})
	if first == nil {
		return q.overspent()
	}
	code, message := first.prohibition()
	d := deny(code, message)
	d.Reasons = []Reason{{Rule: first.Name, Predicate: "deny", Presented: q.becauseOf(ctx, first), Expected: "a request that no rule with deny matches"}}
	return d
}

// prohibition is the answer to who is denied by a rule.
func (r *rule) prohibition() (Code, string) {
	switch {
	case len(r.Deny.Audiences) > 0:
		return InvalidTarget, "a rule denies tokens for this audience to this request"
	case r.Subject != nil || r.Actor != nil || r.when != nil:
		return InvalidRequest, "a rule denies requests like this one"
	default:
		return UnauthorizedClient, "a rule denies tokens to this requester"
	}
}

// denies holds a rule that denies against a request; p says how far it comes. What
// the rule does not say it does not look at.
func (r *rule) denies(ctx context.Context, q *query, p *progress) {
	if r.Requester.Workload || !r.Requester.workload() {
		if all := p.t != nil && p.t.all; !all && r.Requester.workload() != (q.r.Client == nil) {
			p.at = atRequester
			return
		}
		if r.requester(q, p) {
			return
		}
	}
	if r.subject != nil && r.subject.matches(q.r.Subject, "subject", atSubject, p) ||
		r.actor != nil && r.actor.matches(q.r.Actor, "actor", atActor, p) {
		return
	}
	if len(r.Deny.Audiences) > 0 && p.test(atAudience, slices.ContainsFunc(q.audiences, func(a *audience) bool { return slices.Contains(r.audiences, a) }), func() Check {
		return Check{Predicate: "deny.audiences", Presented: cutList(q.names), Expected: "any of " + cutList(r.Deny.Audiences)}
	}) {
		return
	}
	if r.when == nil {
		return
	}
	v, err := p.evaluate(ctx, r.when, q)
	// What cannot be told is denied; see the package documentation.
	p.test(atWhen, err != nil || v == true, func() Check {
		c := r.explainWhen(ctx, q, v, err, p.t.parts)
		if err != nil {
			c.Presented = "cannot be evaluated, which denies: " + err.Error()
		}
		return c
	})
}

// becauseOf says what a rule denied.
func (q *query) becauseOf(ctx context.Context, r *rule) string {
	what := "it matches"
	if len(r.Deny.Audiences) > 0 {
		what += " for " + strings.Join(q.names, " ")
	}
	if r.when != nil {
		if _, err := q.evaluate(ctx, r.when); err != nil {
			what = fmt.Sprintf("when cannot be evaluated, which denies: %s", err)
		}
	}
	return what
}
