package policy

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// party is a compiled Party.
type party struct {
	*Party
	exact []string // names of Claims, sorted
	globs []string // names of ClaimGlobs, sorted
}

func newParty(p *Party) *party {
	if p == nil {
		return nil
	}
	return &party{Party: p, exact: slices.Sorted(maps.Keys(p.Claims)), globs: slices.Sorted(maps.Keys(p.ClaimGlobs))}
}

// exactNames are the names of the claims that it has exact values for.
func (p *party) exactNames() []string {
	if p == nil {
		return nil
	}
	return p.exact
}

// matches holds a token against a party, and tells whether to stop there.
func (p *party) matches(t *Token, what string, at stage, run *progress) (stop bool) {
	if run.test(at, t != nil, func() Check {
		return Check{Predicate: what, Presented: presence(t), Expected: "a token of issuer " + p.Issuer}
	}) {
		return true
	}
	if t == nil {
		return false // there is nothing more to look at
	}
	if run.test(at, t.Issuer == p.Issuer, func() Check {
		return Check{Predicate: what + ".issuer", Presented: t.Issuer, Expected: p.Issuer}
	}) {
		return true
	}
	for _, name := range p.exact {
		got, ok := t.Claims[name]
		if run.test(at, ok && holds(got, p.Claims[name]), func() Check {
			return Check{what + ".claims." + name, false, show(got, ok), show(p.Claims[name], true), nearClaim(t, name, p.Claims[name])}
		}) {
			return true
		}
	}
	for _, name := range p.globs {
		got, ok := t.Claims[name]
		s, isString := got.(string)
		if run.test(at, isString && glob(p.ClaimGlobs[name], s), func() Check {
			return Check{what + ".claim_globs." + name, false, show(got, ok), p.ClaimGlobs[name], nearGlobClaim(t, name, p.ClaimGlobs[name])}
		}) {
			return true
		}
	}
	return false
}

// presence says of which issuer a token is, or that there is none.
func presence(t *Token) string {
	if t == nil {
		return "none"
	}
	return "a token of issuer " + t.Issuer
}

// maxShown bounds what a reason repeats of a claim.
const maxShown = 200

func show(v any, present bool) string {
	if !present {
		return "missing"
	}
	s := fmt.Sprintf("%v", v)
	if str, ok := v.(string); ok {
		s = fmt.Sprintf("%q", str)
	}
	if len(s) > maxShown {
		s = strings.ToValidUTF8(s[:maxShown], "") + "..."
	}
	return s
}

// holds tells whether a presented claim meets what a rule expects: an expected
// list is any of, a presented list contains.
func holds(presented, expected any) bool {
	if list, ok := expected.([]any); ok {
		return slices.ContainsFunc(list, func(e any) bool { return holds(presented, e) })
	}
	if list, ok := presented.([]any); ok {
		return slices.ContainsFunc(list, func(p any) bool { return equal(p, expected) })
	}
	return equal(presented, expected)
}

// equal compares scalars with their types; numbers by value.
func equal(a, b any) bool {
	switch a := a.(type) {
	case string:
		s, ok := b.(string)
		return ok && a == s
	case bool:
		s, ok := b.(bool)
		return ok && a == s
	case int64:
		switch b := b.(type) {
		case int64:
			return a == b
		case float64:
			return equalNumber(a, b)
		}
	case float64:
		switch b := b.(type) {
		case float64:
			return a == b
		case int64:
			return equalNumber(b, a)
		}
	}
	return false
}

func equalNumber(i int64, f float64) bool {
	return f == math.Trunc(f) && math.Abs(f) < 1<<63 && int64(f) == i
}

// glob tells whether s matches a pattern as a whole. `*` stands for any
// characters but the separators / and :, nothing else is special. The time is
// linear in both, times the number of stars in one segment at worst.
func glob(pattern, s string) bool {
	star, mark := -1, 0 // the last star, and where in s what it covers ends
	p, i := 0, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0 && s[mark] != '/' && s[mark] != ':':
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}
