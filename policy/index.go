package policy

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"
)

// A decision looks at few rules however many there are. First it takes those for
// its requester, then, if these are many, those of them for its audience or for a
// claim of its subject, whichever leaves the fewest.

// permissions are the rules that allow, each in one place.
type permissions struct {
	byClient map[string]*bucket // rules that name the client
	byLabel  map[string]*bucket // rules without clients, by their first label
	workload map[string]*bucket // rules for workloads themselves, by issuer
}

func newPermissions(rules []*rule) permissions {
	byClient, byLabel, workload := map[string][]*rule{}, map[string][]*rule{}, map[string][]*rule{}
	for _, r := range rules {
		switch {
		case r.Requester.workload():
			if r.Subject != nil {
				workload[r.Subject.Issuer] = append(workload[r.Subject.Issuer], r)
			}
		default:
			r.byRequester(byClient, byLabel)
		}
	}
	return permissions{buckets(byClient), buckets(byLabel), buckets(workload)}
}

// byRequester adds a rule to those of its clients, or of its first label.
func (r *rule) byRequester(byClient, byLabel map[string][]*rule) {
	if len(r.Requester.Clients) > 0 {
		for _, name := range slices.Compact(slices.Sorted(slices.Values(r.Requester.Clients))) {
			byClient[name] = append(byClient[name], r)
		}
		return
	}
	first := r.labels[0]
	key := labelKey(first, r.Requester.Labels[first])
	byLabel[key] = append(byLabel[key], r)
}

func labelKey(name, value string) string { return name + "\x00" + value }

// of yields the buckets of a requester.
func (p *permissions) of(q *Request, yield func(*bucket)) {
	if q.Client == nil {
		if b := p.workload[q.Subject.Issuer]; b != nil {
			yield(b)
		}
		return
	}
	if b := p.byClient[q.Client.ID]; b != nil {
		yield(b)
	}
	for name, value := range q.Client.Labels {
		if b := p.byLabel[labelKey(name, value)]; b != nil {
			yield(b)
		}
	}
}

// bucket has rules of which a request may match any, and knows how to leave out
// most of those that it does not.
type bucket struct {
	all []*rule

	// At most one of these is there: rules by their audiences, or by the values
	// that they demand of a claim of the subject. rest are those that name none.
	byAudience map[*audience][]*rule
	byValue    map[any][]*rule
	claim      string
	rest       []*rule
}

// fewRules are too few to be sorted.
const fewRules = 8

func buckets[K comparable](in map[K][]*rule) map[K]*bucket {
	out := make(map[K]*bucket, len(in))
	for k, rules := range in {
		out[k] = newBucket(rules)
	}
	return out
}

func newBucket(rules []*rule) *bucket {
	b := &bucket{all: rules}
	if len(rules) <= fewRules {
		return b
	}
	best := b.try("", func(r *rule, add func(any)) {
		for _, a := range r.audiences {
			add(a)
		}
	}, len(rules))
	for _, name := range frequent(rules, func(r *rule) []string { return r.subject.exactNames() }) {
		best = b.try(name, valuesOf(name), best)
	}
	return b
}

// maxTried bounds how many claims are tried for what tells rules apart best.
const maxTried = 8

// frequent returns the names that most of the rules have, the most frequent first.
// Those that few have do not tell the others apart.
func frequent(rules []*rule, names func(*rule) []string) []string {
	count := map[string]int{}
	for _, r := range rules {
		for _, name := range names(r) {
			count[name]++
		}
	}
	all := slices.SortedFunc(maps.Keys(count), func(a, b string) int {
		return cmp.Or(count[b]-count[a], strings.Compare(a, b))
	})
	return all[:min(len(all), maxTried)]
}

// valuesOf yields what a rule demands of a claim of the subject.
func valuesOf(claim string) func(r *rule, add func(any)) {
	return func(r *rule, add func(any)) {
		if r.subject != nil {
			eachValue(r.subject.Claims[claim], add)
		}
	}
}

// sortRules sorts rules by keys, of which each has none, one or more, and tells how
// many have one key at most, with those that have none.
func sortRules(rules []*rule, keys func(r *rule, add func(any))) (sorted map[any][]*rule, rest []*rule, most int) {
	sorted = map[any][]*rule{}
	for _, r := range rules {
		keyed := false
		keys(r, func(k any) {
			keyed = true
			sorted[k] = append(sorted[k], r)
			most = max(most, len(sorted[k]))
		})
		if !keyed {
			rest = append(rest, r)
		}
	}
	return sorted, rest, most + len(rest)
}

// try sorts the rules of a bucket by keys, if no request then has to look at as
// many as before, and returns how many it has to look at.
func (b *bucket) try(claim string, keys func(r *rule, add func(any)), before int) int {
	sorted, rest, most := sortRules(b.all, keys)
	if most >= before {
		return before
	}
	b.claim, b.rest, b.byAudience, b.byValue = claim, rest, nil, nil
	if claim != "" {
		b.byValue = sorted
		return most
	}
	b.byAudience = make(map[*audience][]*rule, len(sorted))
	for k, rules := range sorted {
		b.byAudience[k.(*audience)] = rules
	}
	return most
}

// eachValue yields a claim as a key of a map, so that two values have the same key
// if they are equal; of a list each element.
func eachValue(v any, yield func(any)) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			if _, nested := e.([]any); !nested {
				eachValue(e, yield)
			}
		}
	case string, bool, int64:
		yield(v)
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<63 {
			yield(int64(v))
		} else {
			yield(v)
		}
	}
}

// near yields all rules that a request could match, and few others; one may come
// more than once. It tells whether these were all.
func (b *bucket) near(q *query, yield func(*rule)) (all bool) {
	each := func(rules []*rule) {
		for _, r := range rules {
			yield(r)
		}
	}
	switch {
	case b.byAudience != nil && len(q.audiences) > 0:
		for _, a := range q.audiences {
			each(b.byAudience[a])
		}
		each(b.rest)
	case b.byValue != nil:
		if t := q.r.Subject; t != nil {
			eachValue(t.Claims[b.claim], func(k any) { each(b.byValue[k]) })
		}
		each(b.rest)
	default:
		each(b.all)
		return true
	}
	return false
}
