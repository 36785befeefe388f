package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// What a rule grants besides its scopes, and where scopes come from.

// effects checks what a rule takes from tokens, and who may act.
func (c *compiler) effects(r *rule, bad func(field, format string, args ...any)) {
	a := &r.Allow
	if len(a.ScopesFromClaims) > 0 && r.Subject == nil {
		bad("allow.scopes_from_claims", "needs a subject: without one there is no token to take claims from")
	}
	for i, m := range a.ScopesFromClaims {
		field := fmt.Sprintf("allow.scopes_from_claims[%d]", i)
		switch {
		case m.Claim == "":
			bad(field+".claim", "is missing")
		case m.Claim == "act":
			bad(field+".claim", readActors)
		}
		if m.Value == nil {
			bad(field+".value", "is missing: the value of the claim that the scopes come with")
		} else {
			c.values(field+".value", m.Value, bad)
		}
		if len(m.Scopes) == 0 {
			bad(field+".scopes", "is missing")
		}
		c.scopes(field+".scopes", m.Scopes, r.audiences, bad)
	}
	if a.Sub != "" {
		if r.Subject == nil || r.Subject.Issuer == Self {
			bad("allow.sub", "needs a subject of another issuer: who a token of this service is about never changes")
		}
		r.sub = c.expression(r, "allow.sub", a.Sub, yieldsText, bad)
	}
	r.mayAct = c.mayAct(a.MayAct, bad)
}

func (c *compiler) mayAct(m *MayActParty, bad func(field, format string, args ...any)) *MayAct {
	const field = "allow.may_act"
	if m == nil {
		return nil
	}
	iss, known := c.issuers[m.Issuer]
	switch {
	case (m.Client == "") == (m.Issuer == ""):
		bad(field, "names either a client, or an issuer and a sub")
	case m.Client != "" && m.Subject != "":
		bad(field+".sub", "goes with issuer; a client is named by client alone")
	case m.Client != "" && !c.clients[m.Client]:
		bad(field+".client", "Client %q is not defined%s", m.Client, DidYouMean(m.Client, c.clients))
	case m.Client != "":
		return &MayAct{Iss: c.self, Subject: m.Client, ClientID: m.Client}
	case m.Issuer == Self:
		bad(field+".issuer", "name a client of this service by client")
	case !known:
		bad(field+".issuer", "Issuer %q is not defined%s", m.Issuer, DidYouMean(m.Issuer, c.issuers))
	case !ValidSubject(m.Subject):
		bad(field+".sub", "is missing, or no sub that a token can have")
	default:
		return &MayAct{Iss: iss, Subject: m.Subject}
	}
	return nil
}

// match is a rule that matched, with what it grants this time.
type match struct {
	rule   *rule
	claims []any    // values of rule.claims; none if it sets none this time
	scopes []string // of the rule itself, and of claims; not those from the request
	sub    string   // what the sub of the token is; empty: what it would be anyway
}

// evaluate runs the expressions of a rule.
func (r *rule) evaluate(ctx context.Context, q *query, p *progress) match {
	if r.when != nil {
		v, err := p.evaluate(ctx, r.when, q)
		if p.test(atWhen, err == nil && v == true, func() Check { return r.explainWhen(ctx, q, v, err, p.t.parts) }) {
			return match{}
		}
	}
	m := r.assumed(q)
	if r.set(ctx, q, p, &m) {
		return match{}
	}
	if len(r.Allow.ScopesFromClaims) > 0 && p.test(atScopes, len(m.scopes) > 0 || r.Allow.ScopesFromRequest, func() Check { return r.explainScopes(q) }) {
		return match{}
	}
	return m
}

// set evaluates what a rule sets, and tells whether to stop there.
func (r *rule) set(ctx context.Context, q *query, p *progress, m *match) (stop bool) {
	for _, c := range r.claims {
		v, err := p.evaluate(ctx, c.value, q)
		if p.test(atWhen, err == nil, func() Check {
			out := Check{Predicate: "allow.claims." + c.name, Presented: show(v, err == nil), Expected: "a value"}
			if err != nil {
				out.Presented, out.Expected = err.Error(), "a value of "+c.source
			}
			return out
		}) {
			return true
		}
		m.claims = append(m.claims, v)
	}
	if r.sub == nil {
		return false
	}
	v, err := p.evaluate(ctx, r.sub, q)
	if err == nil {
		m.sub, err = mapped(q.r, v)
	}
	return p.test(atWhen, err == nil, func() Check {
		out := Check{Predicate: "allow.sub", Presented: m.sub, Expected: "a string that can be a sub"}
		if err != nil {
			out.Presented = err.Error()
		}
		return out
	})
}

// assumed is what the rule would grant if it matched, but for what expressions
// yield.
func (r *rule) assumed(q *query) match { return match{rule: r, scopes: r.scopes(q)} }

func (r *rule) explainScopes(q *query) Check {
	from := &r.Allow.ScopesFromClaims[0]
	t := tokenOrNone(q.r.Subject)
	got, ok := t.Claims[from.Claim]
	return Check{
		Predicate: "allow.scopes_from_claims." + from.Claim, Presented: show(got, ok),
		Expected: "a value that a scope comes from, such as " + show(from.Value, true), Hint: nearClaim(t, from.Claim, from.Value),
	}
}

// scopeless tells whether a rule grants no scopes, whatever is presented.
func (r *rule) scopeless() bool {
	return len(r.Allow.Scopes)+len(r.Allow.ScopesFromClaims) == 0 && !r.Allow.ScopesFromRequest
}

// scopes are those of the rule itself and those that come from claims.
func (r *rule) scopes(q *query) []string {
	scopes := r.Allow.Scopes
	for i := range r.Allow.ScopesFromClaims {
		m := &r.Allow.ScopesFromClaims[i]
		got, ok := tokenOrNone(q.r.Subject).Claims[m.Claim]
		if s, isString := got.(string); isString && m.Claim == "scope" {
			if slices.ContainsFunc(strings.Fields(s), func(one string) bool { return holds(one, m.Value) }) {
				scopes = append(scopes[:len(scopes):len(scopes)], m.Scopes...)
			}
		} else if ok && holds(got, m.Value) {
			scopes = append(scopes[:len(scopes):len(scopes)], m.Scopes...)
		}
	}
	return scopes
}

// grants tells whether the rule allows a scope for an audience of the request.
func (m *match) grants(q *query, scope string) bool {
	return (slices.Contains(m.scopes, scope) || m.rule.Allow.ScopesFromRequest && slices.Contains(q.r.Scopes, scope)) &&
		slices.ContainsFunc(q.audiences, func(a *audience) bool { return a.scopes[scope] })
}

// mapped is who the token is about, if that is v in place of the sub of the subject
// token. The name of the issuer stays in front, so no issuer names a client of this
// service or a subject of another issuer.
func mapped(r *Request, v any) (string, error) {
	s, ok := v.(string)
	if !ok {
		return "", fmt.Errorf("the expression yields %s, which is not a string; write string(...) around it", show(v, true))
	}
	if !ValidSubject(s) {
		return "", fmt.Errorf("%s cannot be a sub", show(s, true))
	}
	if s = tokenOrNone(r.Subject).Issuer + ":" + s; len(s) > maxSubject {
		return "", fmt.Errorf("the subject would be longer than %d characters", maxSubject)
	}
	return s, nil
}

// ValidSubject refuses subjects that are known to confuse what reads them later.
func ValidSubject(sub string) bool {
	if sub == "" || len(sub) > maxSubject {
		return false
	}
	return !strings.ContainsFunc(sub, func(r rune) bool {
		return r <= ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || strings.ContainsRune("\"'\\<>;&$(){}[]\u2028\u2029\u00a0\ufeff\ufffd", r)
	})
}

// effects sets who the token is about and who may act, on which the rules that
// contribute agree.
func (g *grant) effects(q *query, rules []match) *Denial {
	sub := rules[0].sub
	for _, m := range rules {
		if m.sub != sub {
			return deny(InvalidRequest, "two rules give the token different subjects")
		}
		if m.rule.mayAct == nil {
			continue
		}
		if g.mayAct != nil && *g.mayAct != *m.rule.mayAct {
			return deny(InvalidRequest, "two rules let different parties act for the subject")
		}
		g.mayAct = m.rule.mayAct
	}
	if sub != "" {
		if g.subject = sub; q.r.Client == nil {
			g.clientID = sub
		}
	}
	return nil
}
