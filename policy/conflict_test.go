package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestConflictsAreThoseOfAllPairs holds what is found by looking at few pairs to a
// look at all of them.
func TestConflictsAreThoseOfAllPairs(t *testing.T) {
	found := 0
	rapid.Check(t, func(t *rapid.T) {
		w, _ := exchange()
		w.Clients = []string{"a", "b", "c"}
		w.Issuers["ext"] = "https://ext.example"
		w.Audiences = []Audience{{Name: "x", Scopes: []string{"s"}}, {Name: "y", Scopes: []string{"s"}}}
		w.Rules = nil
		for i := range rapid.IntRange(0, 30).Draw(t, "rules") {
			w.Rules = append(w.Rules, drawSetter(t, i))
		}
		got := map[string]bool{}
		_, problems := Compile(w)
		for _, p := range problems {
			got[p.Name+" "+p.Field] = true
		}
		want := map[string]bool{}
		c := &compiler{set: &Set{}, named: map[string]*audience{"x": {name: "x"}, "y": {name: "y"}}}
		var rules []*rule
		for i := range w.Rules {
			r := &rule{Rule: &w.Rules[i], subject: newParty(w.Rules[i].Subject)}
			c.targets(r, "", r.Allow.Audiences, func(string, string, ...any) {})
			for name, source := range r.Allow.Claims {
				r.claims = append(r.claims, claim{name: name, folded: foldName(name), source: source})
			}
			for _, other := range rules {
				for _, set := range r.settings() {
					if conflicts(r, other, set) {
						want[r.Name+" "+set.field] = true
					}
				}
			}
			rules = append(rules, r)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("found %v, want %v", got, want)
		}
		found += len(want)
	})
	if found == 0 {
		t.Error("no conflict at all: the rules are of no use")
	}
}

// conflicts tells whether another rule sets what a rule sets to something else.
func conflicts(r, other *rule, set setting) bool {
	for _, theirs := range other.settings() {
		if theirs.place == set.place && (theirs.name != set.name || theirs.source != set.source) && naiveShare(r.Allow.Audiences, other.Allow.Audiences) && !disjoint(r.Rule, other.Rule) {
			return true
		}
	}
	return false
}

func naiveShare(a, b []string) bool {
	for _, x := range a {
		for _, y := range b {
			if x == y {
				return true
			}
		}
	}
	return false
}

// drawSetter draws a rule that sets something.
func drawSetter(t *rapid.T, i int) Rule {
	r := Rule{Name: fmt.Sprintf("rule-%02d", i), Subject: &Party{Issuer: pick(t, []string{"ext", Self}, "issuer"), Claims: map[string]any{}}}
	if rapid.Bool().Draw(t, "by client") {
		r.Requester.Clients = some(t, []string{"a", "b", "c"}, 1, "clients")
	} else {
		r.Requester.Labels = map[string]string{pick(t, []string{"l", "m"}, "label"): pick(t, []string{"1", "2", "3"}, "value")}
	}
	for _, name := range some(t, []string{"id", "ref"}, 0, "claims") {
		r.Subject.Claims[name] = pick(t, []any{"1", "2", "3", int64(1), 1.0, []any{"1", "4"}, []any{"2", "3"}}, "claim")
	}
	r.Allow = Allow{Audiences: some(t, []string{"x", "y"}, 1, "audiences"), Scopes: []string{"s"}}
	if rapid.Bool().Draw(t, "sets a claim") {
		r.Allow.Claims = map[string]string{pick(t, []string{"team", "Team"}, "name"): pick(t, []string{`"1"`, `"2"`}, "set")}
	}
	if r.Subject.Issuer != Self && rapid.Bool().Draw(t, "maps sub") {
		r.Allow.Sub = pick(t, []string{`"1"`, "subject.sub"}, "sub")
	}
	return r
}

// TestCompileOfManyRules holds preparing 10,000 rules for one audience to 2 s, and
// once more with one rule changed to what that rule costs.
func TestCompileOfManyRules(t *testing.T) {
	n := 10_000
	if slack > 10 {
		n = 500 // the race detector
	}
	for name, edit := range map[string]func(i int, r *Rule){
		"each sets a claim and sub": func(i int, r *Rule) {
			r.Allow.Claims, r.Allow.Sub = map[string]string{"team": fmt.Sprintf("%q", fmt.Sprint("team-", i))}, fmt.Sprintf("'user-%d'", i)
		},
		"each for a client": func(i int, r *Rule) {
			r.Requester.Clients, r.Subject.Claims, r.Allow.Sub = []string{fmt.Sprint("client-", i)}, nil, fmt.Sprintf("'user-%d'", i%100)
		},
		"each with its own claim": func(i int, r *Rule) { r.Subject.Claims = map[string]any{fmt.Sprint("claim-", i): "1"} },
		"one in ten with an expression": func(i int, r *Rule) {
			if i%10 == 0 {
				r.When = fmt.Sprintf("subject.claims.team == 'team-%d' && request.scopes.all(s, s.startsWith('p'))", i)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, _ := exchange()
			audience, scope := w.Audiences[0].Name, w.Audiences[0].Scopes[0]
			w.Issuers["ext"], w.Rules = "https://ext.example", nil
			for i := range n {
				w.Clients = append(w.Clients, fmt.Sprint("client-", i))
				r := Rule{
					Name: fmt.Sprintf("rule-%05d", i), Requester: Requester{Clients: []string{"client-0"}},
					Subject: &Party{Issuer: "ext", Claims: map[string]any{"id": fmt.Sprint(i)}}, Allow: Allow{Audiences: []string{audience}, Scopes: []string{scope}},
				}
				edit(i, &r)
				w.Rules = append(w.Rules, r)
			}
			var s *Set
			if took := cpuTime(func() { s = compile(t, w) }); took > 2*time.Second {
				t.Errorf("it takes %s, want 2 s", took)
			}
			w.Before, w.Rules[0].When = s, "subject.claims.x == '1'"
			if took := cpuTime(func() { s = compile(t, w) }); took > time.Second {
				t.Errorf("with one rule changed it takes %s, want 1 s", took)
			}
		})
	}
}

// TestConflictInManyRules shows that all of the rules that conflict are found, where
// nothing tells them apart.
func TestConflictInManyRules(t *testing.T) {
	w, _ := exchange()
	w.Issuers["ext"] = "https://ext.example"
	first := w.Rules[0]
	for i := range 50 {
		r := first
		r.Name, r.Subject = fmt.Sprintf("rule-%02d", i), &Party{Issuer: "ext"}
		r.Allow.Claims = map[string]string{"team": fmt.Sprint(i)}
		w.Rules = append(w.Rules, r)
	}
	_, problems := Compile(w)
	if len(problems) != 49 || !strings.Contains(problems[48].Message, `rule "rule-00" sets this claim to another value`) {
		t.Errorf("%d problems: %v", len(problems), problems)
	}
}
