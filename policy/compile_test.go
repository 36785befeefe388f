package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
)

func TestProblems(t *testing.T) {
	rule := func(change func(*Rule)) func(*World) {
		return func(w *World) { change(&w.Rules[0]) }
	}
	subject := func(change func(*Party)) func(*World) {
		return func(w *World) { change(w.Rules[0].Subject) }
	}
	for _, tc := range []struct {
		name  string
		edit  func(*World)
		kind  string
		field string // empty: no problem
		says  string
	}{
		{name: "good", edit: func(*World) {}},
		{"rule of one name", func(w *World) { w.Rules = append(w.Rules, w.Rules[0]) }, "Rule", "name", "same name"},
		{"unknown client", rule(func(r *Rule) { r.Requester.Clients = []string{"web", "wbe"} }), "Rule", "requester.clients[1]", `"wbe" is not defined; did you mean "web"?`},
		{"unknown client, nothing near", rule(func(r *Rule) { r.Requester.Clients = []string{"frontend"} }), "Rule", "requester.clients[0]", `"frontend" is not defined`},
		{"workload beside clients", rule(func(r *Rule) { r.Requester.Workload = true }), "Rule", "requester.workload", "stands alone"},
		{"workload without a subject", rule(func(r *Rule) { r.Requester, r.Subject = Requester{}, nil }), "Rule", "subject", "is missing"},
		{"workload with a token of ours", rule(func(r *Rule) { r.Requester = Requester{Workload: true} }), "Rule", "subject.issuer", "name the requester"},
		{"unknown issuer", subject(func(p *Party) { p.Issuer = "gitub" }), "Rule", "subject.issuer", `did you mean "github"?`},
		{"no issuer", subject(func(p *Party) { p.Issuer = "" }), "Rule", "subject.issuer", `"" is not defined`},
		{"unknown issuer of the actor", rule(func(r *Rule) { r.Actor = &Party{Issuer: "copr"} }), "Rule", "actor.issuer", `did you mean "corp"?`},
		{"accept_unaddressed of another issuer", subject(func(p *Party) { p.Issuer, p.AcceptUnaddressed = "corp", true }), "Rule", "subject.accept_unaddressed", "issuer \"self\""},
		{"accept_unaddressed of an actor", rule(func(r *Rule) { r.Actor = &Party{Issuer: Self, AcceptUnaddressed: true} }), "Rule", "actor.accept_unaddressed", "for subjects"},
		{"empty list", subject(func(p *Party) { p.Claims = map[string]any{"role": []any{}} }), "Rule", "subject.claims.role", "matches nothing"},
		{"object", subject(func(p *Party) { p.Claims = map[string]any{"role": map[string]any{}} }), "Rule", "subject.claims.role", "must be a string"},
		{"null", subject(func(p *Party) { p.Claims = map[string]any{"role": nil} }), "Rule", "subject.claims.role", "must be a string"},
		{"list in a list", subject(func(p *Party) { p.Claims = map[string]any{"role": []any{[]any{"x"}}} }), "Rule", "subject.claims.role", "must be a string"},
		{"star in an exact claim", subject(func(p *Party) { p.Claims = map[string]any{"ref": "refs/*"} }), "Rule", "subject.claims.ref", "claim_globs"},
		{"star in a list", subject(func(p *Party) { p.Claims = map[string]any{"ref": []any{"main", "v*"}} }), "Rule", "subject.claims.ref", "claim_globs"},
		{"glob without a star", subject(func(p *Party) { p.ClaimGlobs = map[string]string{"ref": "main"} }), "Rule", "subject.claim_globs.ref", "has no *"},
		{"glob that matches all", subject(func(p *Party) { p.ClaimGlobs = map[string]string{"ref": "**"} }), "Rule", "subject.claim_globs.ref", "matches every value"},
		{"T-32 claim", subject(func(p *Party) { p.Claims = map[string]any{"act": "x"} }), "Rule", "subject.claims.act", "use actor"},
		{"T-32 glob", subject(func(p *Party) { p.ClaimGlobs = map[string]string{"act": "x*"} }), "Rule", "subject.claim_globs.act", "use actor"},
		{"T-32 of the actor", rule(func(r *Rule) { r.Actor = &Party{Issuer: "corp", Claims: map[string]any{"act": "x"}} }), "Rule", "actor.claims.act", "use actor"},
		{"when", rule(func(r *Rule) { r.When = "1" }), "Rule", "when", "must yield bool"},
		{"no audiences", rule(func(r *Rule) { r.Allow = Allow{} }), "Rule", "allow.audiences", "is missing"},
		{"unknown audience", rule(func(r *Rule) { r.Allow.Audiences = []string{"payments", "leger"} }), "Rule", "allow.audiences[1]", `did you mean "ledger"?`},
		{"audience by its identifier", rule(func(r *Rule) { r.Allow.Audiences = []string{"payments", "https://ledger.internal"} }), "Rule", "allow.audiences[1]", "is not defined"},
		{"unknown scope", rule(func(r *Rule) { r.Allow.Scopes = []string{"pay.read", "pay.wirte"} }), "Rule", "allow.scopes[1]", `did you mean "pay.write"?`},
		{"scope of another audience", rule(func(r *Rule) { r.Allow.Scopes = []string{"ledger.read"} }), "Rule", "allow.scopes[0]", "not defined by an audience of the rule"},
		{"short ttl", rule(func(r *Rule) { r.Allow.TTL = time.Second }), "Rule", "allow.ttl", "at least 5s"},
		{"negative ttl", rule(func(r *Rule) { r.Allow.TTL = -time.Second }), "Rule", "allow.ttl", "at least 5s"},
		{"ttl at the floor", rule(func(r *Rule) { r.Allow.TTL = 5 * time.Second }), "", "", ""},
		{"type", rule(func(r *Rule) { r.Allow.TokenTypes = []string{JWT, "refresh_token"} }), "Rule", "allow.token_types[1]", "not one of jwt, id_token"},
		{"type that is always allowed", rule(func(r *Rule) { r.Allow.TokenTypes = []string{AccessToken} }), "Rule", "allow.token_types[0]", "always allowed"},
		{"C-19 reserved claim", rule(func(r *Rule) { r.Allow.Claims = map[string]string{"sub": `"root"`} }), "Rule", "allow.claims.sub", "token format"},
		{"claim without a name", rule(func(r *Rule) { r.Allow.Claims = map[string]string{"": `"x"`} }), "Rule", "allow.claims.", "cannot be set"},
		{"claim with a control character", rule(func(r *Rule) { r.Allow.Claims = map[string]string{"a\n": `"x"`} }), "Rule", "allow.claims.a\n", "cannot be set"},
		{"expression of a claim", rule(func(r *Rule) { r.Allow.Claims = map[string]string{"team": `nobody`} }), "Rule", "allow.claims.team", "undeclared reference"},
		{"scope that is none", func(w *World) { w.Audiences[0].Scopes = append(w.Audiences[0].Scopes, "a b") }, "Audience", "scopes[2]", "RFC 6749"},
		{"one identifier of two audiences", func(w *World) { w.Audiences[1].Identifiers[0] = "payments" }, "Audience", "identifiers[0]", `Audience "payments" has the same`},
		{"one identifier twice", func(w *World) { w.Audiences[0].Identifiers[1] = "payments" }, "Audience", "identifiers[1]", "has the same"},
		{"identifier that is the name of another", func(w *World) { w.Audiences[1].Identifiers = []string{"x", "payments"} }, "Audience", "identifiers[1]", "has the same"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, _ := exchange()
			tc.edit(&w)
			s, problems := Compile(w)
			if tc.field == "" {
				if len(problems) > 0 || s == nil {
					t.Errorf("problems %v", problems)
				}
				return
			}
			if s != nil {
				t.Error("a set in spite of problems")
			}
			if len(problems) != 1 {
				t.Fatalf("%d problems, want 1: %v", len(problems), problems)
			}
			p := problems[0]
			if p.Kind != tc.kind || p.Field != tc.field || !strings.Contains(p.Message, tc.says) {
				t.Errorf("%+v, want %s %s %q", p, tc.kind, tc.field, tc.says)
			}
			if want := map[string][]string{"Rule": {"web-pays"}, "Audience": {"payments", "ledger"}}[tc.kind]; !slices.Contains(want, p.Name) {
				t.Errorf("name %q", p.Name)
			}
			if strings.Contains(tc.name, "nothing near") && strings.Contains(p.Message, "did you mean") {
				t.Errorf("a hint that helps nobody: %s", p.Message)
			}
		})
	}
}

// TestReservedClaims walks the claims of the token format, in every case: who
// reads a token with encoding/json takes Sub, or ſub, for sub [J-50].
func TestReservedClaims(t *testing.T) {
	refused := func(name string) {
		t.Helper()
		w, _ := exchange()
		w.Rules[0].Allow.Claims = map[string]string{name: `"x"`}
		if s, problems := Compile(w); s != nil || len(problems) != 1 {
			t.Errorf("a rule may set %s", name)
		}
	}
	for name := range reserved {
		refused(name)
		refused(strings.ToUpper(name))
		refused(strings.ToUpper(name[:1]) + name[1:])
		for i, r := range name {
			for other := unicode.SimpleFold(r); other != r; other = unicode.SimpleFold(other) {
				refused(name[:i] + string(other) + name[i+1:])
			}
		}
	}
	// What other languages take for an i and a k when they ignore case.
	for _, name := range []string{"\u0131ss", "\u0130SS", "EXP", "to\u212aen_use"} {
		refused(name)
	}
	for _, name := range []string{"sub_id", "subs", "role", "tenant", "clientId", "größe"} {
		w, _ := exchange()
		w.Rules[0].Allow.Claims = map[string]string{name: `"x"`}
		compile(t, w)
	}
}

// TestClaimsInTwoCases holds that two claims cannot be told apart by their case
// alone: to some verifiers they are one.
func TestClaimsInTwoCases(t *testing.T) {
	w, _ := exchange()
	w.Rules[0].Allow.Claims = map[string]string{"role": `"user"`, "Role": `"admin"`}
	if _, problems := Compile(w); len(problems) != 1 || problems[0].Field != "allow.claims.role" || !strings.Contains(problems[0].Message, `"Role"`) {
		t.Errorf("in one rule: %v", problems)
	}
	for _, value := range []string{`"user"`, `"admin"`} {
		w, _ = exchange()
		w.Rules[0].Allow.Claims = map[string]string{"role": `"user"`}
		other := w.Rules[0]
		other.Name, other.Allow.Claims = "web-2", map[string]string{"ROLE": value}
		w.Rules = append(w.Rules, other)
		if _, problems := Compile(w); len(problems) != 1 || problems[0].Field != "allow.claims.ROLE" || !strings.Contains(problems[0].Message, "web-pays") {
			t.Errorf("in two rules: %v", problems)
		}
	}
}

// TestAllProblemsAtOnce reports everything that is wrong, in the order of the
// world.
func TestAllProblemsAtOnce(t *testing.T) {
	w, _ := exchange()
	w.Audiences[1].Scopes = []string{"a b"}
	w.Rules[0].When = "1"
	other := w.Rules[0]
	other.Name, other.When, other.Allow.TTL = "web-2", "", 1
	w.Rules = append(w.Rules, other)
	_, problems := Compile(w)
	var got []string
	for _, p := range problems {
		got = append(got, p.Name+" "+p.Field)
	}
	if want := []string{"ledger scopes[0]", "web-pays when", "web-2 allow.ttl"}; !slices.Equal(got, want) {
		t.Errorf("problems %q, want %q", got, want)
	}
}

func TestDidYouMean(t *testing.T) {
	known := map[string]bool{"payments": true, "payment": true, "ledger": true, "a": true, "iat": true}
	for name, want := range map[string]string{
		"paymets": "payments", "paymentz": "payment", "Ledger": "ledger", "ledgre": "ledger",
		"x": "", "ab": "a", "bc": "", "invoices": "", "": "", "ledge": "ledger", "led": "", "list": "", "ita": "iat", "eldgre": "ledger",
	} {
		got := DidYouMean(name, known)
		if want == "" && got != "" || want != "" && got != fmt.Sprintf("; did you mean %q?", want) {
			t.Errorf("DidYouMean(%q) = %q, want %q", name, got, want)
		}
	}
}

// manyRules is a world of n rules for n clients, most of which never meet the
// request, as it is in a company.
func manyRules(n int) (World, Request) {
	w, r := exchange()
	w.Rules[0].When = `subject.claims.level > 2`
	for i := range n - 1 {
		client := fmt.Sprintf("client-%d", i)
		w.Clients = append(w.Clients, client)
		rule := Rule{
			Name:      fmt.Sprintf("rule-%d", i),
			Requester: Requester{Clients: []string{client}},
			Subject:   &Party{Issuer: "corp", Claims: map[string]any{"team": fmt.Sprintf("team-%d", i)}},
			When:      fmt.Sprintf(`subject.claims.floor == %d`, i%100),
			Allow:     Allow{Audiences: []string{"payments"}, Scopes: []string{"pay.read"}, Claims: map[string]string{"team": `subject.claims.team`}},
		}
		if i%10 == 0 {
			rule.Requester = Requester{Labels: map[string]string{"team": fmt.Sprintf("team-%d", i)}}
		}
		w.Rules = append(w.Rules, rule)
	}
	return w, r
}

func TestCompileManyRules(t *testing.T) {
	w, r := manyRules(10_000)
	var s *Set
	within(t, 2*time.Second, func() { s = compile(t, w) })
	if _, err := s.Decide(t.Context(), r); err != nil {
		t.Error(explained(err))
	}
}

func BenchmarkCompile(b *testing.B) {
	w, _ := manyRules(10_000)
	b.ReportAllocs()
	for b.Loop() {
		compile(b, w)
	}
}
