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

// matches tells whether a token is one of the party's. If why is not nil, it is
// filled with the predicate that failed.
func (p *party) matches(t *Token, what string, why *Reason) bool {
	if t == nil {
		return fail(why, what, "none", "a token of issuer "+p.Issuer)
	}
	if t.Issuer != p.Issuer {
		return fail(why, what+".issuer", t.Issuer, p.Issuer)
	}
	for _, name := range p.exact {
		if got, ok := t.Claims[name]; !ok || !holds(got, p.Claims[name]) {
			return fail(why, what+".claims."+name, show(got, ok), show(p.Claims[name], true))
		}
	}
	for _, name := range p.globs {
		got, ok := t.Claims[name]
		if s, isString := got.(string); !isString || !glob(p.ClaimGlobs[name], s) {
			return fail(why, what+".claim_globs."+name, show(got, ok), p.ClaimGlobs[name])
		}
	}
	return true
}

func fail(why *Reason, predicate, presented, expected string) bool {
	if why != nil {
		why.Predicate, why.Presented, why.Expected = predicate, presented, expected
	}
	return false
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
