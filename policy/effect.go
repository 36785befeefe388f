package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
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
		var err error
		if r.sub, err = c.program(a.Sub, yieldsText); err != nil {
			bad("allow.sub", "%s", err)
		}
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

// evaluate runs the expressions of a rule whose other predicates hold.
func (r *rule) evaluate(ctx context.Context, q *query, why *Reason) (match, stage) {
	if r.when != nil {
		v, err := q.evaluate(ctx, r.when)
		if err != nil {
			fail(why, "when", err.Error(), "true")
			return match{}, atWhen
		}
		if v != true {
			fail(why, "when", "false", r.When)
			return match{}, atWhen
		}
	}
	m := match{rule: r, scopes: r.scopes(q)}
	if len(m.scopes) == 0 && !r.scopeless() && !r.Allow.ScopesFromRequest {
		from := &r.Allow.ScopesFromClaims[0]
		got, ok := q.r.Subject.Claims[from.Claim]
		fail(why, "allow.scopes_from_claims."+from.Claim, show(got, ok), "a value that a scope comes from, such as "+show(from.Value, true))
		return match{}, atScopes
	}
	for _, c := range r.claims {
		v, err := q.evaluate(ctx, c.value)
		if err != nil {
			fail(why, "allow.claims."+c.name, err.Error(), "a value")
			return match{}, atWhen
		}
		m.claims = append(m.claims, v)
	}
	if r.sub != nil {
		var err error
		if m.sub, err = q.mapped(ctx, r.sub); err != nil {
			fail(why, "allow.sub", err.Error(), "a string that can be a sub")
			return match{}, atWhen
		}
	}
	return m, matched
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
		got, ok := q.r.Subject.Claims[m.Claim]
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

// mapped evaluates who the token is about. The name of the issuer stays in front,
// so no issuer names a client of this service or a subject of another issuer.
func (q *query) mapped(ctx context.Context, p cel.Program) (string, error) {
	v, err := q.evaluate(ctx, p)
	if err != nil {
		return "", err
	}
	s, ok := v.(string)
	if !ok {
		return "", fmt.Errorf("the expression yields %s, which is not a string; write string(...) around it", show(v, true))
	}
	if !ValidSubject(s) {
		return "", fmt.Errorf("%s cannot be a sub", show(s, true))
	}
	if s = q.r.Subject.Issuer + ":" + s; len(s) > maxSubject {
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
