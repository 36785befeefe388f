package policy

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// TestIndexLeavesOutNoMatch holds what the index yields for a request to all rules,
// of worlds whose rules are for few requesters and so are sorted in every way.
func TestIndexLeavesOutNoMatch(t *testing.T) {
	sorted := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		w, r := exchange()
		audiences := []string{w.Audiences[0].Name}
		for _, name := range []string{"second", "third"} {
			w.Audiences, audiences = append(w.Audiences, Audience{Name: name, Scopes: []string{"x"}}), append(audiences, name)
		}
		pinned := rapid.IntRange(0, 3).Draw(t, "how often a claim is pinned, of three")
		w.Rules = nil
		for i := range rapid.IntRange(fewRules+1, 40).Draw(t, "rules") {
			rule := Rule{Name: fmt.Sprint("rule-", i), Subject: &Party{Issuer: Self, Claims: map[string]any{}}}
			rule.Requester.Clients = []string{r.Client.ID}
			for _, claim := range []string{"id", "team"} {
				if rapid.IntRange(0, 2).Draw(t, "pinned") < pinned {
					rule.Subject.Claims[claim] = pick(t, []any{"1", "2", "3", "4", int64(1), 2.0, true, []any{"1", "5"}, []any{int64(2), "3"}}, claim)
				}
			}
			targets := some(t, audiences, 1, "audiences")
			if rapid.IntRange(0, 3).Draw(t, "denies") == 0 {
				rule.Deny = &Deny{}
				if rapid.Bool().Draw(t, "for some") {
					rule.Deny.Audiences = targets
				}
			} else {
				rule.Allow = Allow{Audiences: targets, MultipleAudiences: true}
			}
			w.Rules = append(w.Rules, rule)
		}
		s, problems := Compile(w)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		switch b := s.allow.byClient[r.Client.ID]; {
		case b == nil:
		case b.byAudience != nil:
			sorted["audience"]++
		case b.byValue != nil:
			sorted["claim"]++
			if len(b.rest) > 0 {
				sorted["claim, but for some"]++
			}
		}
		r.Subject.Audiences, r.Subject.ClientID = nil, r.Client.ID
		for range 10 {
			r.Subject.Claims = map[string]any{}
			for _, claim := range []string{"id", "team"} {
				if v := pick(t, []any{nil, "1", "2", "5", int64(1), 1.0, int64(2), true, []any{"3", "4"}, []any{2.0}, map[string]any{"x": "1"}}, claim); v != nil {
					r.Subject.Claims[claim] = v
				}
			}
			r.Targets = some(t, audiences, 0, "targets")
			q := newQuery(&r)
			if d := s.resolve(q); d != nil {
				t.Fatal(d.Message)
			}
			near := map[*rule]bool{}
			s.allow.of(&r, func(b *bucket) { b.near(q, func(r *rule) { near[r] = true }) })
			s.deny.near(q, func(r *rule) { near[r] = true })
			for _, rule := range s.rules {
				p := progress{at: matched}
				if rule.match(t.Context(), q, &p); p.at == matched && !near[rule] {
					t.Fatalf("%+v matches %v for %v and is left out", rule.Rule, r.Subject.Claims, r.Targets)
				}
			}
		}
	})
	for _, way := range []string{"audience", "claim", "claim, but for some"} {
		if sorted[way] == 0 {
			t.Errorf("no rules were sorted by %s: %v", way, sorted)
		}
	}
}
