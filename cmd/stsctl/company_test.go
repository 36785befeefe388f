package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
	"github.com/workload-sts/sts/sts/policytest"
)

const company = "../../deploy/examples/company"

func loadCompany(t *testing.T) *offline {
	t.Helper()
	var stderr bytes.Buffer
	c := &cli{stdin: strings.NewReader(""), stdout: &bytes.Buffer{}, stderr: &stderr, now: time.Now, zone: time.UTC}
	o, err := c.loadOffline([]string{company}, "https://sts.example.com", true)
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	return o
}

// TestExamples runs the cases of the examples, which must show all of their rules and
// predicates, and looks for what is not meant.
func TestExamples(t *testing.T) {
	for _, dir := range []string{company, "../../deploy/examples/delegation"} {
		for _, args := range [][]string{{"policy", "test", dir, "--coverage", "--min-coverage", "100"}, {"policy", "lint", dir}} {
			var stdout, stderr bytes.Buffer
			if code := run(context.Background(), args, strings.NewReader(""), &stdout, &stderr); code != exitOK {
				t.Errorf("stsctl %s: exit code %d\n%s%s", strings.Join(args, " "), code, stdout.String(), stderr.String())
			}
		}
	}
}

// TestMutantsOfTheCompanyFail changes one thing of a rule at a time. Some case must
// tell [E-13].
func TestMutantsOfTheCompanyFail(t *testing.T) {
	o := loadCompany(t)
	mutants := 0
	t.Run("E-13", func(t *testing.T) {
		for i, r := range o.resources {
			if r.Rule == nil {
				continue
			}
			for name, mutant := range mutate(*r.Rule) {
				changed := slices.Clone(o.resources)
				changed[i] = sts.Resource{Rule: &mutant}
				m, problems := sts.NewOffline("https://sts.example.com", changed)
				if len(problems) > 0 {
					continue // it does not compile, so nobody could apply it
				}
				mutants++
				if !slices.ContainsFunc(policytest.Run(t.Context(), m, o.tests), func(r policytest.Result) bool { return len(r.Diffs) > 0 }) {
					t.Errorf("rule %s with %s: every case passes", r.Rule.Name, name)
				}
			}
		}
	})
	if mutants < 60 {
		t.Errorf("only %d mutants", mutants)
	}
}

// mutate returns rules that differ from one in one thing, by what that is.
func mutate(r policy.Rule) map[string]policy.Rule {
	out := map[string]policy.Rule{}
	add := func(name string, edit func(*policy.Rule)) {
		m := r
		m.Requester.Labels = maps.Clone(r.Requester.Labels)
		for _, p := range []**policy.Party{&m.Subject, &m.Actor} {
			if *p != nil {
				q := **p
				q.Claims, q.ClaimGlobs = maps.Clone(q.Claims), maps.Clone(q.ClaimGlobs)
				*p = &q
			}
		}
		edit(&m)
		out[name] = m
	}
	if r.When != "" {
		add("no when", func(m *policy.Rule) { m.When = "" })
		for _, flip := range [][2]string{{"==", "!="}, {"!=", "=="}, {"<", ">="}, {">", "<="}, {"&&", "||"}, {" in ", " == "}} {
			if strings.Contains(r.When, flip[0]) {
				add("when with "+flip[1]+" for "+flip[0], func(m *policy.Rule) { m.When = strings.Replace(r.When, flip[0], flip[1], 1) })
			}
		}
		add("when negated", func(m *policy.Rule) { m.When = "!(" + r.When + ")" })
	}
	for label := range r.Requester.Labels {
		add("no label "+label, func(m *policy.Rule) {
			delete(m.Requester.Labels, label)
			if len(m.Requester.Labels) == 0 {
				m.Requester.Labels = map[string]string{label: "another"}
			}
		})
	}
	if r.Require.Binding != "" {
		add("no binding", func(m *policy.Rule) { m.Require.Binding = "" })
	}
	for _, what := range []string{"subject", "actor"} {
		party := func(m *policy.Rule) *policy.Party {
			return map[string]*policy.Party{"subject": m.Subject, "actor": m.Actor}[what]
		}
		p := party(&r)
		if p == nil {
			continue
		}
		for name := range p.Claims {
			add(fmt.Sprintf("no %s.claims.%s", what, name), func(m *policy.Rule) { delete(party(m).Claims, name) })
		}
		for name := range p.ClaimGlobs {
			add(fmt.Sprintf("no %s.claim_globs.%s", what, name), func(m *policy.Rule) { delete(party(m).ClaimGlobs, name) })
		}
	}
	if r.Require.MaxAuthAge > 0 {
		add("no max_auth_age", func(m *policy.Rule) { m.Require.MaxAuthAge = 0 })
		add("max_auth_age longer", func(m *policy.Rule) { m.Require.MaxAuthAge += 5 * time.Minute })
		add("max_auth_age shorter", func(m *policy.Rule) { m.Require.MaxAuthAge -= 5 * time.Minute })
	}
	if r.Limits.Actors > 0 {
		add("one more actor", func(m *policy.Rule) { m.Limits.Actors++ })
		add("one less actor", func(m *policy.Rule) { m.Limits.Actors-- })
	}
	if r.Limits.Exchanges > 0 {
		add("one more exchange", func(m *policy.Rule) { m.Limits.Exchanges++ })
	}
	for i, from := range r.Allow.ScopesFromClaims {
		edited := func(v any) []policy.ScopesForValue {
			out := slices.Clone(r.Allow.ScopesFromClaims)
			out[i].Value = v
			return out
		}
		add(fmt.Sprintf("without scopes for %v", from.Value), func(m *policy.Rule) { m.Allow.ScopesFromClaims = slices.Delete(edited(nil), i, i+1) })
		if values, ok := from.Value.([]any); ok {
			for j := range values {
				add(fmt.Sprintf("without scopes for %v", values[j]), func(m *policy.Rule) { m.Allow.ScopesFromClaims = edited(slices.Delete(slices.Clone(values), j, j+1)) })
			}
		}
	}
	if d := r.Deny; d != nil {
		add("not there", func(m *policy.Rule) { m.Deny, m.Subject, m.Actor, m.When = &policy.Deny{}, nil, nil, "false" })
		for _, scope := range d.Scopes {
			add("not denying "+scope, func(m *policy.Rule) {
				m.Deny = &policy.Deny{Audiences: d.Audiences, Scopes: slices.DeleteFunc(slices.Clone(d.Scopes), func(s string) bool { return s == scope })}
			})
		}
		for i := range d.Audiences {
			add("not denying for "+d.Audiences[i], func(m *policy.Rule) {
				m.Deny = &policy.Deny{Audiences: slices.Delete(slices.Clone(d.Audiences), i, i+1), Scopes: d.Scopes}
			})
		}
		if len(d.Scopes) > 0 {
			add("denying everything", func(m *policy.Rule) { m.Deny = &policy.Deny{Audiences: d.Audiences} })
		}
	}
	for _, scope := range r.Allow.Scopes {
		add("without scope "+scope, func(m *policy.Rule) {
			m.Allow.Scopes = slices.DeleteFunc(slices.Clone(r.Allow.Scopes), func(s string) bool { return s == scope })
		})
	}
	return out
}
