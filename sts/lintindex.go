package sts

import (
	"fmt"

	"github.com/workload-sts/sts/policy"
)

// lintIndex finds the rules that could imply or deny all of another, so that
// thousands of them do not have to be held against each other.
//
// All that such a rule asks for, the other asks for too. So each rule stands under
// the rarest of the things that it asks for, and is looked for under each thing that
// the other asks for.
type lintIndex struct {
	under map[string][]*policy.Rule
	rest  []*policy.Rule // that ask for nothing
}

func newLintIndex(rules []*policy.Rule) *lintIndex {
	count := map[string]int{}
	for _, r := range rules {
		for _, keys := range conditionsOf(r) {
			for _, key := range keys {
				count[key]++
			}
		}
	}
	out := &lintIndex{under: map[string][]*policy.Rule{}}
	for _, r := range rules {
		var rarest []string
		fewest := 0
		for _, keys := range conditionsOf(r) {
			n := 0
			for _, key := range keys {
				n += count[key]
			}
			if rarest == nil || n < fewest {
				rarest, fewest = keys, n
			}
		}
		if rarest == nil {
			out.rest = append(out.rest, r)
		}
		for _, key := range rarest {
			out.under[key] = append(out.under[key], r)
		}
	}
	return out
}

// near yields all rules but r that could imply it or deny all of it, and few
// others; one may come more than once.
func (x *lintIndex) near(r *policy.Rule, yield func(*policy.Rule)) {
	each := func(rules []*policy.Rule) {
		for _, other := range rules {
			if other != r {
				yield(other)
			}
		}
	}
	each(x.rest)
	for _, keys := range conditionsOf(r) {
		for _, key := range keys {
			each(x.under[key])
		}
	}
}

// conditionsOf are what a rule asks for, each by the keys of which one is there. Of
// a rule that implies or denies another, each condition has a key in common with the
// other's: see implies.go.
func conditionsOf(r *policy.Rule) [][]string {
	var out [][]string
	add := func(what string, values []string) {
		if len(values) == 0 {
			return
		}
		keys := make([]string, len(values))
		for i, v := range values {
			keys[i] = what + "\x00" + v
		}
		out = append(out, keys)
	}
	q := r.Requester
	if workloads(q) && (r.Deny == nil || q.Workload) {
		add("workload", []string{""})
	}
	add("client", q.Clients)
	for label, value := range q.Labels {
		add("label\x00"+label, []string{value})
	}
	for what, p := range map[string]*policy.Party{"subject": r.Subject, "actor": r.Actor} {
		if p == nil {
			continue
		}
		add(what+" issuer", []string{p.Issuer})
		for name, v := range p.Claims {
			add(what+" claim\x00"+name, valueKeys(v))
		}
		for name, pattern := range p.ClaimGlobs {
			add(what+" glob\x00"+name, []string{pattern})
		}
	}
	if r.When != "" {
		add("when", []string{r.When})
	}
	if r.Deny != nil {
		add("audience", r.Deny.Audiences)
		add("scope", r.Deny.Scopes)
		return out
	}
	add("audience", r.Allow.Audiences)
	add("scope", scopesOf(r))
	return out
}

// valueKeys are the values that a rule takes of a claim, each with its type.
func valueKeys(v any) []string {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	keys := make([]string, len(list))
	for i, e := range list {
		keys[i] = fmt.Sprintf("%T %v", e, e)
	}
	return keys
}
