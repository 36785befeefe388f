package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestExplanationAgreesWithDecision holds every explanation to the decision, and
// to the evaluation of all rules by other means.
func TestExplanationAgreesWithDecision(t *testing.T) {
	granted, missed := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		s := compileRapid(t, w)
		for range 30 {
			r := drawRequest(t, w)
			g, err := s.Decide(context.Background(), r)
			e := s.Explain(context.Background(), r)
			assertSameOutcome(t, g, err, e)
			assertTrials(t, w, r, e)
			assertDenials(t, w, r, e)
			assertWould(t, s, r, e)
			if e.Granted != nil {
				granted++
			}
			missed += len(e.Rules)
		}
	})
	if granted == 0 || missed == 0 {
		t.Errorf("%d granted, %d rules explained: the worlds are of no use", granted, missed)
	}
}

func assertSameOutcome(t *rapid.T, g Grant, err error, e Explanation) {
	d, denied := errors.AsType[*Denial](err)
	if denied != (e.Denial != nil) || denied == (e.Granted != nil) {
		t.Fatalf("decided %v, explained %+v", err, e)
	}
	if denied {
		if d.Code != e.Denial.Code || d.Message != e.Denial.Message || !slices.Equal(d.Reasons, e.Denial.Reasons) {
			t.Fatalf("denied by %+v, explained %+v", d, e.Denial)
		}
		return
	}
	if !slices.Equal(g.Rules(), e.Granted.Rules) || !slices.Equal(g.Scopes(), e.Granted.Scopes) || !slices.Equal(g.Audiences(), e.Granted.Audiences) || g.Subject() != e.Granted.Subject {
		t.Fatalf("granted %v of %v, explained %+v", g.Scopes(), g.Rules(), e.Granted)
	}
	for _, scope := range e.Scopes {
		if scope.Granted != slices.Contains(g.Scopes(), scope.Scope) || scope.Granted && len(scope.By) == 0 {
			t.Fatalf("granted %v, explained %+v", g.Scopes(), scope)
		}
	}
	for _, name := range g.Rules() {
		if !slices.ContainsFunc(e.Rules, func(r RuleTrial) bool { return r.Rule == name && r.Contributes && len(r.Failed()) == 0 }) {
			t.Fatalf("granted by %s, explained %+v", name, e.Rules)
		}
	}
}

// assertTrials holds what is said of each rule to the naive evaluation.
func assertTrials(t *rapid.T, w World, r Request, e Explanation) {
	if _, ok := naiveActors(r); len(e.Rules) == 0 || !ok { // without actors, no rule can be tried
		return
	}
	asked, rules := naiveAsked(r), rulesOf(w)
	last := matched
	for _, trial := range e.Rules {
		at := stage(naiveStage(rules[trial.Rule], r, asked))
		failed := trial.Failed()
		if trial.Matches != (at == matched) {
			t.Fatalf("%s comes to %d, explained %+v", trial.Rule, at, trial)
		}
		if at > last {
			t.Fatalf("%s comes to %d, after one that came to %d", trial.Rule, at, last)
		}
		last = at
		if at < matched && (len(failed) == 0 || stageOf(failed[0].Predicate) != at) {
			t.Fatalf("%s comes to %d, explained %+v", trial.Rule, at, failed)
		}
		for _, c := range failed {
			if c.Predicate == "" || c.Expected == "" || c.Presented == "" {
				t.Fatalf("%s: nothing is said about %+v", trial.Rule, c)
			}
		}
	}
	for _, other := range e.Others {
		if naiveStage(rules[other.Rule], r, asked) != 0 && len(other.Failed()) == 0 {
			t.Fatalf("another rule that matches: %+v", other)
		}
		for _, c := range other.Failed() {
			if !strings.HasPrefix(c.Predicate, "requester") && c.Predicate != "require.binding" && c.Predicate != "subject.accept_unaddressed" {
				t.Fatalf("another rule that does not match otherwise: %+v", other)
			}
		}
	}
}

// assertDenials holds what is said of rules that deny to the naive evaluation.
func assertDenials(t *rapid.T, w World, r Request, e Explanation) {
	asked := naiveAsked(r)
	if len(e.Rules) == 0 || len(asked) == 0 { // without a rule or an audience, it depends
		return
	}
	said := map[string]RuleTrial{}
	for _, d := range e.Denials {
		said[d.Rule] = d
		if len(d.Failed()) > 0 || !d.Matches {
			t.Fatalf("denied by %+v", d)
		}
	}
	for _, rule := range w.Rules {
		if rule.Deny == nil {
			continue
		}
		if _, shown := said[rule.Name]; shown != naiveHit(rule, r, asked) {
			t.Fatalf("%s is shown: %v, for %+v", rule.Name, shown, r)
		}
	}
	for _, scope := range e.Scopes {
		if scope.Denied != "" && (scope.Granted || !slices.Contains(rulesOf(w)[scope.Denied].Deny.Scopes, scope.Scope)) {
			t.Fatalf("%+v", scope)
		}
	}
	if e.Denial == nil || len(e.Denial.Reasons) == 0 || !strings.HasPrefix(e.Denial.Reasons[0].Predicate, "deny") {
		return
	}
	if d := said[e.Denial.Reasons[0].Rule]; !d.Contributes {
		t.Fatalf("denied by %s, explained %+v", e.Denial.Reasons[0].Rule, e.Denials)
	}
}

// TestWouldGrantTheRest: what a prohibition takes out of a request is not offered,
// and the rest is.
func TestWouldGrantTheRest(t *testing.T) {
	w, r := exchange()
	scopes := w.Audiences[0].Scopes[:2]
	w.Rules = []Rule{
		{Name: "allows", Requester: Requester{Clients: []string{r.Client.ID}}, Subject: &Party{Issuer: Self}, Allow: Allow{Audiences: []string{w.Audiences[0].Name}, Scopes: scopes}},
		{Name: "denies", Deny: &Deny{Scopes: scopes[1:]}},
	}
	r.Subject.Scopes, r.Scopes, r.Targets = scopes, scopes, []string{w.Audiences[0].Name}
	e := compile(t, w).Explain(t.Context(), r)
	if e.Denial == nil || len(e.Denials) != 1 || !e.Denials[0].Contributes {
		t.Fatalf("%+v", e)
	}
	if len(e.Would) != 1 || !slices.Equal(e.Would[0].Scopes, scopes[:1]) {
		t.Errorf("would be granted: %+v", e.Would)
	}
	if last := e.Scopes[1]; last.Denied != "denies" || last.Granted || !strings.Contains(last.Hint, "denies") {
		t.Errorf("%+v", last)
	}
}

// assertWould asks for what would be granted, where all that is said of the rules is
// that they match.
func assertWould(t *rapid.T, s *Set, r Request, e Explanation) {
	for _, o := range e.Would {
		for _, scope := range o.Scopes {
			if slices.ContainsFunc(e.Scopes, func(t ScopeTrial) bool { return t.Scope == scope && t.Denied != "" }) {
				t.Fatalf("%s would be granted, which is denied: %+v", scope, e.Scopes)
			}
		}
		if len(o.Scopes) == 0 || slices.ContainsFunc(o.Rules, func(name string) bool {
			return !slices.ContainsFunc(e.Rules, func(t RuleTrial) bool { return t.Rule == name && t.Matches && len(t.Failed()) == 0 })
		}) {
			continue
		}
		if e.Denial.Code != InvalidScope {
			continue // it is not for what was asked for
		}
		r.Scopes = o.Scopes
		g, err := s.Decide(context.Background(), r)
		if err != nil || !slices.Equal(g.Scopes(), o.Scopes) || g.Subject() != o.Subject {
			t.Fatalf("would be granted %+v, is %v", o, err)
		}
	}
}

func rulesOf(w World) map[string]Rule {
	out := map[string]Rule{}
	for _, rule := range w.Rules {
		out[rule.Name] = rule
	}
	return out
}

func naiveAsked(r Request) []string {
	var asked []string
	for _, target := range r.Targets {
		if name := target[len(target)-1:]; !slices.Contains(asked, name) {
			asked = append(asked, name)
		}
	}
	return asked
}

// stageOf is the stage of a predicate by its name.
func stageOf(predicate string) stage {
	for prefix, at := range map[string]stage{
		"requester": atRequester, "subject": atSubject, "actor": atActor, "allow.audiences": atAudience,
		"allow.multiple": atAudience, "allow.token_types": atType, "when": atWhen, "allow.claims": atWhen, "allow.sub": atWhen,
		"require.max": atAge, "limits": atLimit, "allow.scopes_from": atScopes,
	} {
		if strings.HasPrefix(predicate, prefix) {
			return at
		}
	}
	return matched
}

func TestExplainSaysAllPredicates(t *testing.T) {
	w := World{
		Clients: []string{"web", "api"}, Issuers: map[string]string{"github": "https://x.example"},
		Audiences: []Audience{{Name: "payments", Scopes: []string{"read", "write"}}},
		Rules: []Rule{
			{
				Name: "deploy", Requester: Requester{Clients: []string{"web"}},
				Subject: &Party{Issuer: "github", Claims: map[string]any{"sub": "repo:acme/shop:ref:refs/heads/main", "repository_id": "12"}, ClaimGlobs: map[string]string{"workflow": "release/*"}},
				When:    `subject.claims.event == "push" && subject.claims.attempt < 3`,
				Allow:   Allow{Audiences: []string{"payments"}, Scopes: []string{"read", "write"}, TTL: 5 * time.Minute},
			},
			{
				Name: "other", Requester: Requester{Clients: []string{"api"}}, Subject: &Party{Issuer: "github"},
				Allow: Allow{Audiences: []string{"payments"}, Scopes: []string{"read"}},
			},
		},
	}
	s, problems := Compile(w)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	r := Request{
		Client: &Client{ID: "web"}, TokenType: AccessToken, Now: now, SelfIssuer: "https://self", Targets: []string{"payments"}, Scopes: []string{"write"},
		Subject: &Token{Issuer: "github", Iss: "https://github", Subject: "x", Expires: now.Add(time.Hour), Claims: map[string]any{
			"sub": "repo:acme@7/shop@12:ref:refs/heads/main", "repository_id": int64(12), "workflow": "release/a/b", "event": "Push", "attempt": int64(5),
		}},
	}
	e := s.Explain(context.Background(), r)
	got := map[string]Check{}
	for _, c := range e.Rules[0].Failed() {
		got[c.Predicate] = c
	}
	for predicate, hint := range map[string]string{
		"subject.claims.sub":           "newer form of a subject of GitHub",
		"subject.claims.repository_id": "take the quotes off",
		"subject.claim_globs.workflow": "does not cross /",
		"when":                         "event: differs in upper and lower case alone",
	} {
		if !strings.Contains(got[predicate].Hint, hint) {
			t.Errorf("%s: hint %q, want %q", predicate, got[predicate].Hint, hint)
		}
	}
	want := `false: subject.claims.event == "push" (subject's event is "Push"); subject.claims.attempt < 3 (subject's attempt is 5)`
	if got["when"].Presented != want {
		t.Errorf("when presented %s, want %s", got["when"].Presented, want)
	}
	if len(e.Would) != 1 || fmt.Sprint(e.Would[0].Rules, e.Would[0].Scopes, e.Would[0].Lifetime) != "[deploy] [write] 5m0s" {
		t.Errorf("would %+v", e.Would)
	}
	if len(e.Others) != 0 { // it has no write, but that is no predicate
		if e.Others[0].Rule != "other" || e.Others[0].Failed()[0].Predicate != "requester.clients" {
			t.Errorf("others %+v", e.Others)
		}
	} else {
		t.Error("the rule for another client is not shown")
	}
	if len(e.Scopes) != 1 || e.Scopes[0].Granted || !slices.Equal(e.Scopes[0].Could, []string{"deploy"}) {
		t.Errorf("scopes %+v", e.Scopes)
	}
}

func TestNear(t *testing.T) {
	for _, row := range []struct {
		name                string
		presented, expected any
		hint                string
	}{
		{"not near", "alice", "payments", ""},
		{"case", "Main", "main", "upper and lower case"},
		{"white space", "main ", "main", "white space"},
		{"slash", "https://a.example/", "https://a.example", "slash at the end"},
		{"scheme", "http://a.example/x", "https://a.example/x", "differs in the scheme"},
		{"no scheme", "a.example/x", "https://a.example/x", "has a scheme"},
		{"port of the scheme", "https://a.example:443", "https://a.example", "writes out the port"},
		{"another port", "https://a.example:8443", "https://a.example", "differs in the port"},
		{"GitHub", "repo:o@1/n@2:pull_request", "repo:o/n:pull_request", "the token has the newer form"},
		{"GitHub, the other way round", "repo:o/n:pull_request", "repo:o@1/n@2:pull_request", "the rule has the newer form"},
		{"ref", "refs/heads/main", "main", "full name of a ref"},
		{"typo", "payments", "paymets", "mistyped"},
		{"string for a number", "5", int64(5), "in quotes"},
		{"number for a string", int64(5), "5", "quotes off"},
		{"boolean for a string", true, "true", "quotes off"},
		{"in a list", []any{"ops", "Dev"}, "dev", "value 2 of the list"},
		{"any of", "Dev", []any{"ops", "dev"}, "upper and lower case"},
		{"object", map[string]any{"a": "b"}, "b", "is an object"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := Near(row.presented, row.expected); (got == "") != (row.hint == "") || !strings.Contains(got, row.hint) {
				t.Errorf("hint %q, want %q", got, row.hint)
			}
		})
	}
}

func TestNearGlob(t *testing.T) {
	for _, row := range []struct{ presented, pattern, hint string }{
		{"repo:o/n:ref:refs/heads/a/b", "repo:o/n:ref:refs/heads/*", "does not cross"},
		{"repo:o@1/n@2:ref:refs/heads/a", "repo:o/n:ref:refs/heads/*", "newer form"},
		{"Repo/x", "repo/*", "case"},
		{"repo/x/", "repo/*", "slash at the end"},
		{" repo/x", "repo/*", "white space"},
		{"elsewhere", "repo/*", ""},
	} {
		t.Run(row.presented, func(t *testing.T) {
			if got := nearGlob(row.presented, row.pattern); (got == "") != (row.hint == "") || !strings.Contains(got, row.hint) {
				t.Errorf("hint %q, want %q", got, row.hint)
			}
		})
	}
}

func TestReads(t *testing.T) {
	for _, row := range []struct {
		when string
		want Reads
	}{
		{"", Reads{Subject: []string{"role"}, Actor: []string{"kind"}}},
		{`subject.claims.ref == "x" && actor.claims["job"] == 1`, Reads{Subject: []string{"ref", "role"}, Actor: []string{"job", "kind"}}},
		{`has(subject.claims.env) || "team" in subject.claims`, Reads{Subject: []string{"env", "role", "team"}, Actor: []string{"kind"}}},
		{`subject.claims.exists(name, name == "x")`, Reads{Subject: []string{"role"}, Actor: []string{"kind"}, Any: true}},
		{`subject.claims[client.id] == "x"`, Reads{Subject: []string{"role"}, Actor: []string{"kind"}, Any: true}},
		{`actor.claims.groups.exists(g, g == "x")`, Reads{Subject: []string{"role"}, Actor: []string{"groups", "kind"}}},
		{`subject.sub == "x"`, Reads{Subject: []string{"role"}, Actor: []string{"kind"}}},
	} {
		t.Run(row.when, func(t *testing.T) {
			s, problems := Compile(World{
				Clients: []string{"web"}, Issuers: map[string]string{"corp": "https://y.example"}, Audiences: []Audience{{Name: "a"}},
				Rules: []Rule{{
					Name: "r", Requester: Requester{Clients: []string{"web"}}, When: row.when, Allow: Allow{Audiences: []string{"a"}},
					Subject: &Party{Issuer: "corp", Claims: map[string]any{"role": "dev"}},
					Actor:   &Party{Issuer: "corp", ClaimGlobs: map[string]string{"kind": "a*"}},
				}},
			})
			if len(problems) > 0 {
				t.Fatal(problems)
			}
			got := s.Reads("corp")
			if !slices.Equal(got.Subject, row.want.Subject) || !slices.Equal(got.Actor, row.want.Actor) || got.Any != row.want.Any {
				t.Errorf("reads %+v, want %+v", got, row.want)
			}
		})
	}
}

// TestNearAudience shows that an audience that is not known says which one may be
// meant, and repeats nothing of what was asked for.
func TestNearAudience(t *testing.T) {
	w, r := exchange()
	for asked, want := range map[string]string{
		"https://payments.internal/": "https://payments.internal", "payments.internal": "https://payments.internal",
		"Payments": "payments", " payments": "payments", "paymnets": "payments", "HTTP://Payments.internal//": "https://payments.internal",
		"something-secret": "", "/": "", "": "",
	} {
		r.Targets = []string{asked}
		d := compile(t, w).Explain(t.Context(), r).Denial
		switch {
		case d == nil || d.Code != InvalidTarget:
			t.Errorf("%q: %v", asked, d)
		case want == "" && len(d.Reasons) == 0:
		case len(d.Reasons) != 1 || d.Reasons[0].Expected != fmt.Sprintf("%q", want) || d.Reasons[0].Hint == "" || want == "" || strings.Contains(d.Reasons[0].Presented, asked):
			t.Errorf("%q: %+v, want %q", asked, d.Reasons, want)
		}
	}
}
