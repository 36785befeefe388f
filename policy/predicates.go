package policy

import (
	"context"
	"maps"
	"slices"
	"strings"
)

// RuleNames returns the names of the rules, sorted.
func (s *Set) RuleNames() []string {
	names := make([]string, 0, len(s.rules))
	for _, r := range s.rules {
		names = append(names, r.Name)
	}
	slices.Sort(names)
	return names
}

// Denies tells whether a rule is a prohibition.
func (s *Set) Denies(rule string) bool {
	r := s.named(rule)
	return r != nil && r.Deny != nil
}

// Predicates returns the conditions of a rule that its author chose, as checks
// name them: who asks, claims, patterns, expression, binding. Whose token it is,
// and for which audience, is what the rule is about, and no condition of it.
func (s *Set) Predicates(rule string) []string {
	r := s.named(rule)
	if r == nil {
		return nil
	}
	var out []string
	if len(r.Requester.Clients) > 0 {
		out = append(out, "requester.clients")
	}
	for _, name := range r.labels {
		out = append(out, "requester.labels."+name)
	}
	for _, p := range []struct {
		what string
		*party
	}{{"subject", r.subject}, {"actor", r.actor}} {
		if p.party == nil {
			continue
		}
		for _, name := range p.exact {
			out = append(out, p.what+".claims."+name)
		}
		for _, name := range p.globs {
			out = append(out, p.what+".claim_globs."+name)
		}
	}
	if r.when != nil {
		out = append(out, "when")
	}
	for _, p := range []struct {
		name string
		has  bool
	}{
		{"require.binding", r.Require.Binding.asks()},
		{"require.max_token_age", r.Require.MaxTokenAge > 0},
		{"require.max_auth_age", r.Require.MaxAuthAge > 0},
		{"limits.actors", r.Limits.Actors > 0},
		{"limits.exchanges", r.Limits.Exchanges > 0},
	} {
		if p.has {
			out = append(out, p.name)
		}
	}
	return out
}

// Try holds a rule against a request, whoever it is for. The trial has no checks
// if the rule does not exist, or rules are not looked at for such a request.
func (s *Set) Try(ctx context.Context, rule string, r Request) RuleTrial {
	out := RuleTrial{Rule: rule}
	found := s.named(rule)
	q := newQuery(&r)
	if found == nil || consent(&r) != nil || s.resolve(q) != nil {
		return out
	}
	t := trial{all: true}
	p := progress{t: &t, at: matched}
	if found.match(ctx, q, &p); p.at == matched {
		found.checkBinding(q, &t)
	}
	out.Matches, out.Checks = p.at == matched, t.checks
	return out
}

// Reads are the claims that rules look at.
type Reads struct {
	Subject, Actor []string // sorted
	Any            bool     // an expression looks at claims whose names are not in it
}

// Reads returns the claims of a subject token of an issuer, and of the actor
// token beside it, that a rule could look at. An issuer of "" is for requests
// without a subject token.
func (s *Set) Reads(issuer string) Reads {
	if r, ok := s.reads[issuer]; ok {
		return r
	}
	return Reads{}
}

// reading collects what rules look at, by the issuer of the subject.
type reading map[string]*readingOf

type readingOf struct {
	subject, actor map[string]bool
	any            bool
}

func (all reading) add(r *rule, known map[string]string) {
	issuers := []string{issuerOf(r.Subject)}
	if r.Subject == nil {
		issuers = append(issuers, Self) // a token that the client got for itself
	}
	if r.Subject == nil && r.Deny != nil { // anybody's token
		issuers = slices.AppendSeq(issuers, maps.Keys(known))
	}
	for _, issuer := range issuers {
		of, ok := all[issuer]
		if !ok {
			of = &readingOf{subject: map[string]bool{}, actor: map[string]bool{}}
			all[issuer] = of
		}
		for _, p := range []struct {
			*party
			to map[string]bool
		}{{r.subject, of.subject}, {r.actor, of.actor}} {
			if p.party != nil {
				for _, name := range slices.Concat(p.exact, p.globs) {
					p.to[name] = true
				}
			}
		}
		for _, m := range r.Allow.ScopesFromClaims {
			of.subject[m.Claim] = true
		}
		if r.Require.MaxTokenAge > 0 {
			of.subject["iat"] = true
		}
		if r.Require.MaxAuthAge > 0 {
			of.subject["auth_time"] = true
		}
		for _, c := range r.expressions {
			for _, name := range c.reads {
				if claim, ok := strings.CutPrefix(name, "subject."); ok {
					of.subject[claim] = true
				} else if claim, ok := strings.CutPrefix(name, "actor."); ok {
					of.actor[claim] = true
				}
			}
			of.any = of.any || c.readsAny
		}
	}
}

func (all reading) sorted() map[string]Reads {
	out := map[string]Reads{}
	for issuer, of := range all {
		out[issuer] = Reads{slices.Sorted(maps.Keys(of.subject)), slices.Sorted(maps.Keys(of.actor)), of.any}
	}
	return out
}
