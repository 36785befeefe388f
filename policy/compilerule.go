package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
)

// workload tells whether a requester is the workload itself.
func (r Requester) workload() bool { return len(r.Clients) == 0 && len(r.Labels) == 0 }

func (c *compiler) requester(r *rule, bad func(field, format string, args ...any)) {
	q := r.Requester
	if q.Workload && !q.workload() {
		bad("requester.workload", "stands alone: a request has either a client or the workload itself as its requester")
	}
	for i, name := range q.Clients {
		if !c.clients[name] {
			bad(fmt.Sprintf("requester.clients[%d]", i), "Client %q is not defined%s", name, DidYouMean(name, c.clients))
		}
	}
	if !q.workload() {
		return
	}
	if r.Deny != nil && (!q.Workload || r.Subject == nil || r.Subject.Issuer != Self) {
		return
	}
	if r.Subject == nil {
		bad("subject", "is missing: without a requester the rule is for workloads that present their own token, whose issuer it must name")
	} else if r.Subject.Issuer == Self {
		bad("subject.issuer", "a token of this service is presented by a client; name the requester")
	}
}

const readActors = "only who presents an actor token decides about access; use actor [RFC 8693 §4.1]"

func (c *compiler) party(what string, p *Party, bad func(field, format string, args ...any)) {
	if p == nil {
		return
	}
	if _, known := c.issuers[p.Issuer]; p.Issuer != Self && !known {
		bad(what+".issuer", "Issuer %q is not defined%s", p.Issuer, DidYouMean(p.Issuer, c.issuers))
	}
	if p.AcceptUnaddressed && p.Issuer != Self {
		bad(what+".accept_unaddressed", "is for tokens of issuer %q", Self)
	}
	for _, name := range slices.Sorted(maps.Keys(p.Claims)) {
		v := p.Claims[name]
		c.values(what+".claims."+name, v, bad)
	}
	for _, name := range slices.Sorted(maps.Keys(p.ClaimGlobs)) {
		pattern := p.ClaimGlobs[name]
		if !strings.Contains(pattern, "*") {
			bad(what+".claim_globs."+name, "has no *; put an exact value under claims")
		} else if strings.Trim(pattern, "*") == "" {
			bad(what+".claim_globs."+name, "matches every value; say what the claim must begin with")
		}
	}
	if _, present := p.Claims["act"]; present {
		bad(what+".claims.act", readActors)
	}
	if _, present := p.ClaimGlobs["act"]; present {
		bad(what+".claim_globs.act", readActors)
	}
}

// values checks what a claim may be: a value, or a list of them.
func (c *compiler) values(field string, v any, bad func(field, format string, args ...any)) {
	list, isList := v.([]any)
	if !isList {
		list = []any{v}
	}
	if len(list) == 0 {
		bad(field, "an empty list matches nothing")
	}
	for _, e := range list {
		c.value(field, e, bad)
	}
}

func (c *compiler) value(field string, v any, bad func(field, format string, args ...any)) {
	switch v := v.(type) {
	case string:
		if strings.Contains(v, "*") {
			bad(field, "is exact, so * stands for itself, which is rarely meant; use claim_globs for a pattern, or when for a literal star")
		}
	case bool, int64, float64:
	default:
		bad(field, "must be a string, a number, a boolean or a list of those")
	}
}

// foldName is a claim's name without its case. Verifiers that ignore case take
// names for each other that differ in it alone: encoding/json those of simple
// Unicode folding, where ſ is an s and the Kelvin sign a k, others that of an i
// with or without its dot as well.
func foldName(name string) string {
	return strings.Map(func(r rune) rune { return unicode.ToLower(unicode.ToUpper(r)) }, name)
}

// reserved are claims that the token format defines, as foldName has them.
var reserved = set(strings.Fields(`iss sub aud exp nbf iat jti client_id scope act may_act cnf txn azp auth_time
	acr amr exchanges nonce at_hash c_hash s_hash sid events token_use typ lineage active token_type username`))

func (c *compiler) allow(r *rule, bad func(field, format string, args ...any)) {
	a := r.Allow
	if len(a.Audiences) == 0 {
		bad("allow.audiences", "is missing: name the audiences that tokens are for, or write deny instead of allow")
	}
	c.targets(r, "allow.audiences", a.Audiences, bad)
	c.scopes("allow.scopes", a.Scopes, r.audiences, bad)
	if a.TTL < 0 || a.TTL > 0 && a.TTL < minLife {
		bad("allow.ttl", "must be at least %s", minLife)
	}
	for i, t := range a.TokenTypes {
		if t != JWT && t != IDToken {
			bad(fmt.Sprintf("allow.token_types[%d]", i), "%q is not one of jwt, id_token; an access_token is always allowed", t)
		}
	}
	folded := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(a.Claims)) {
		fold := foldName(name)
		if other, ok := folded[fold]; ok {
			bad("allow.claims."+name, "differs from claim %q in case alone, and some who read the token would take one for the other", other)
		}
		folded[fold] = name
		if reserved[fold] || name == "" || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			bad("allow.claims."+name, "this claim is defined by the token format and cannot be set by a rule")
			continue
		}
		if p := c.expression(r, "allow.claims."+name, a.Claims[name], yieldsAny, bad); p != nil {
			r.claims = append(r.claims, claim{name, fold, a.Claims[name], p})
		}
	}
	c.effects(r, bad)
}

// targets finds the audiences that a rule names.
func (c *compiler) targets(r *rule, field string, names []string, bad func(field, format string, args ...any)) {
	for i, name := range names {
		if found, ok := c.named[name]; ok {
			r.audiences = append(r.audiences, found)
		} else {
			bad(fmt.Sprintf("%s[%d]", field, i), "Audience %q is not defined%s", name, DidYouMean(name, c.named))
		}
	}
}

// scopes checks that scopes are defined by one of the audiences.
func (c *compiler) scopes(field string, scopes []string, audiences []*audience, bad func(field, format string, args ...any)) {
	for i, scope := range scopes {
		if len(audiences) > 0 && !slices.ContainsFunc(audiences, func(a *audience) bool { return a.scopes[scope] }) {
			known := map[string]bool{}
			for _, a := range audiences {
				maps.Copy(known, a.scopes)
			}
			bad(fmt.Sprintf("%s[%d]", field, i), "scope %q is not defined by an audience of the rule%s", scope, DidYouMean(scope, known))
		}
	}
}
