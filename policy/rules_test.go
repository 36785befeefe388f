package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// denying adds a rule that denies to a good request.
func denying(r Rule) edit {
	return func(w *World, _ *Request) {
		if r.Name = "guard"; r.Deny == nil {
			r.Deny = &Deny{}
		}
		w.Rules = append(w.Rules, r)
	}
}

// TestDeny covers E-09 and who a rule that denies is about.
func TestDeny(t *testing.T) {
	alice := &Party{Issuer: Self, Claims: map[string]any{"verified": true}}
	run(t, exchange, []row{
		{name: "good"},
		{name: "E-09 everything", code: UnauthorizedClient, edit: denying(Rule{})},
		{name: "the client", code: UnauthorizedClient, edit: denying(Rule{Requester: Requester{Clients: []string{"batch", "web"}}})},
		{name: "another client", edit: denying(Rule{Requester: Requester{Clients: []string{"batch"}}})},
		{name: "a label", code: UnauthorizedClient, edit: denying(Rule{Requester: Requester{Labels: map[string]string{"tier": "front", "team": "shop"}}})},
		{name: "another label", edit: denying(Rule{Requester: Requester{Labels: map[string]string{"team": "shop", "tier": "back"}}})},
		{name: "workloads themselves", edit: denying(Rule{Requester: Requester{Workload: true}})},
		{name: "the subject", code: InvalidRequest, edit: denying(Rule{Subject: alice})},
		{name: "another subject", edit: denying(Rule{Subject: &Party{Issuer: Self, Claims: map[string]any{"verified": false}}})},
		{name: "a claim that is not there", edit: denying(Rule{Subject: &Party{Issuer: Self, Claims: map[string]any{"none": "x"}}})},
		{name: "another issuer", edit: denying(Rule{Subject: &Party{Issuer: "corp"}})},
		{name: "an actor that is not there", edit: denying(Rule{Actor: &Party{Issuer: "corp"}})},
		{name: "the audience", code: InvalidTarget, edit: denying(Rule{Deny: &Deny{Audiences: []string{"ledger", "payments"}}})},
		{name: "another audience", edit: denying(Rule{Deny: &Deny{Audiences: []string{"ledger"}}})},
		{name: "the only audience, which is not named", code: InvalidTarget, edit: func(w *World, r *Request) {
			denying(Rule{Deny: &Deny{Audiences: []string{"payments"}}})(w, r)
			r.Targets = nil
		}},
		{name: "one of two audiences", code: InvalidTarget, edit: func(w *World, r *Request) {
			denying(Rule{Deny: &Deny{Audiences: []string{"ledger"}}})(w, r)
			w.Rules[0].Allow.Audiences, w.Rules[0].Allow.MultipleAudiences = []string{"payments", "ledger"}, true
			r.Targets = []string{"payments", "ledger"}
		}},
		{name: "the scope asked for", code: InvalidScope, edit: denying(Rule{Deny: &Deny{Scopes: []string{"pay.read"}}})},
		{name: "another scope", edit: denying(Rule{Deny: &Deny{Scopes: []string{"pay.write"}}}), check: scopes("pay.read")},
		{name: "one of the scopes that can be had", check: scopes("pay.read"), edit: func(w *World, r *Request) {
			denying(Rule{Deny: &Deny{Scopes: []string{"pay.write"}}})(w, r)
			r.Scopes = nil
		}},
		{name: "a condition that holds", code: InvalidRequest, edit: denying(Rule{When: `subject.claims.level == 3`})},
		{name: "a condition that does not", edit: denying(Rule{When: `subject.claims.level > 3`})},
		{name: "a condition that cannot be told", code: InvalidRequest, edit: denying(Rule{When: `subject.claims.none == "x"`})},
		{name: "a condition about a claim that need not be there", edit: denying(Rule{When: `has(subject.claims.none) && subject.claims.none == "x"`})},
		{name: "no rule allows", code: InvalidTarget, edit: func(w *World, r *Request) {
			denying(Rule{})(w, r)
			w.Rules[0].Allow.Audiences = []string{"ledger"}
			w.Rules[0].Allow.Scopes = nil
		}},
	})
}

// TestDenySaysWhy looks at what the audit record is told.
func TestDenySaysWhy(t *testing.T) {
	for source, presented := range map[string]string{"": "it matches for payments", `subject.claims.none == "x"`: "cannot be evaluated, which denies: no such key: none"} {
		w, r := exchange()
		denying(Rule{When: source, Deny: &Deny{Audiences: []string{"payments"}}})(&w, &r)
		_, err := compile(t, w).Decide(t.Context(), r)
		if s := explained(err); !strings.Contains(s, "guard") || !strings.Contains(s, "Predicate:deny") || !strings.Contains(s, presented) {
			t.Errorf("%q: %s", source, s)
		}
	}
}

// TestEffects covers what a token gets from the tokens that are presented.
func TestEffects(t *testing.T) {
	from := func(m ...ScopesForValue) edit {
		return ruleWith(func(r *Rule) { r.Allow.Scopes, r.Allow.ScopesFromClaims = nil, m })
	}
	all := func(e edit) edit {
		return func(w *World, r *Request) { e(w, r); r.Scopes = nil }
	}
	staff := ScopesForValue{"groups", "staff", []string{"pay.read"}}
	run(t, exchange, []row{
		{name: "good"},
		{name: "a scope of a group", edit: from(staff), check: scopes("pay.read")},
		{name: "scopes of two groups", edit: all(from(staff, ScopesForValue{"groups", []any{"x", int64(7)}, []string{"pay.write"}})), check: scopes("pay.read", "pay.write")},
		{name: "another group", code: InvalidScope, edit: from(ScopesForValue{"groups", "admins", []string{"pay.read"}})},
		{name: "a claim that is not there", code: InvalidScope, edit: from(ScopesForValue{"roles", "staff", []string{"pay.read"}})},
		{name: "no scope of the group that is asked for", code: InvalidScope, edit: from(ScopesForValue{"groups", "staff", []string{"pay.write"}})},
		{name: "the subject does not have the scope", check: scopes("pay.read"), edit: func(w *World, r *Request) {
			all(from(staff, ScopesForValue{"groups", "staff", []string{"pay.write"}}))(w, r)
			r.Subject.Scopes = []string{"pay.read"}
		}},
		{name: "a part of scope", check: scopes("pay.read"), edit: func(w *World, r *Request) {
			from(ScopesForValue{"scope", "read", []string{"pay.read"}})(w, r)
			r.Subject.Claims["scope"] = "write read"
		}},
		{name: "the whole of scope is no value", code: InvalidScope, edit: func(w *World, r *Request) {
			from(ScopesForValue{"scope", "write read", []string{"pay.read"}})(w, r)
			r.Subject.Claims["scope"] = "write read"
		}},
		{name: "from the request", edit: ruleWith(func(r *Rule) { r.Allow.Scopes, r.Allow.ScopesFromRequest = nil, true }), check: scopes("pay.read")},
		{name: "from a request that names none", edit: all(ruleWith(func(r *Rule) { r.Allow.Scopes, r.Allow.ScopesFromRequest = nil, true })), check: scopes()},
		{name: "from the request, not defined", code: InvalidScope, edit: func(w *World, r *Request) {
			w.Rules[0].Allow.ScopesFromRequest = true
			r.Scopes, r.Subject.Scopes = []string{"ledger.read"}, []string{"ledger.read"}
		}},
		{name: "who may act", edit: ruleWith(func(r *Rule) { r.Allow.MayAct = &MayActParty{Client: "batch"} }), check: func(t *testing.T, g Grant) {
			if m := g.MayAct(); m == nil || *m != (MayAct{issuer, "batch", "batch"}) {
				t.Errorf("may_act %+v", m)
			}
		}},
		{name: "who may act, of an issuer", edit: ruleWith(func(r *Rule) { r.Allow.MayAct = &MayActParty{Issuer: "corp", Subject: "bob"} }), check: func(t *testing.T, g Grant) {
			if m := g.MayAct(); m == nil || *m != (MayAct{"https://corp.example", "bob", ""}) {
				t.Errorf("may_act %+v", m)
			}
		}},
	})
}

// TestSub maps who a token is about.
func TestSub(t *testing.T) {
	sub := func(source string, claim any) edit {
		return func(w *World, r *Request) {
			w.Rules[0].Allow.Sub = source
			if r.Subject.Claims == nil {
				r.Subject.Claims = map[string]any{}
			}
			r.Subject.Claims["v"] = claim
		}
	}
	is := func(want string) func(*testing.T, Grant) {
		return func(t *testing.T, g Grant) {
			if g.Subject() != want || g.ClientID() != want {
				t.Errorf("sub %q, client_id %q, want %q", g.Subject(), g.ClientID(), want)
			}
		}
	}
	run(t, fromGitHub, []row{
		{name: "good"},
		{name: "a claim", edit: sub("subject.claims.v", "id-7"), check: is("github:id-7")},
		{name: "the name of a client stays that of a subject", edit: sub("subject.claims.v", "web"), check: is("github:web")},
		{name: "the name of another issuer too", edit: sub("subject.claims.v", "corp:alice"), check: is("github:corp:alice")},
		{name: "a number", code: InvalidRequest, edit: sub("subject.claims.v", int64(7))},
		{name: "a number as text", edit: sub("string(subject.claims.v)", int64(7)), check: is("github:7")},
		{name: "missing", code: InvalidRequest, edit: sub("subject.claims.none", 1)},
		{name: "empty", code: InvalidRequest, edit: sub("subject.claims.v", "")},
		{name: "characters that confuse", code: InvalidRequest, edit: sub("subject.claims.v", "a b")},
		{name: "too long", code: InvalidRequest, edit: sub("subject.claims.v", strings.Repeat("x", 249))},
		{name: "as long as can be", edit: sub("subject.claims.v", strings.Repeat("x", 248)), check: is("github:" + strings.Repeat("x", 248))},
	})
}

// TestFreshness covers ages, and that a token that does not say has none.
func TestFreshness(t *testing.T) {
	aged := func(claim string, v any) edit {
		return func(w *World, r *Request) {
			w.Rules[0].Require = Require{MaxTokenAge: 5 * time.Minute, MaxAuthAge: 5 * time.Minute}
			r.Subject.Claims = map[string]any{"repository_id": "1", "iat": now.Unix(), "auth_time": now.Unix()}
			if r.Subject.Claims[claim] = v; v == nil {
				delete(r.Subject.Claims, claim)
			}
		}
	}
	open := func() (World, Request) {
		w, r := fromGitHub()
		w.Rules[0].Subject, w.Rules[0].When = &Party{Issuer: "github"}, ""
		return w, r
	}
	rows := []row{{name: "good"}}
	for _, claim := range []string{"iat", "auth_time"} {
		for _, tc := range []struct {
			name string
			v    any
			ok   bool
		}{
			{"now", now.Unix(), true},
			{"at the limit", now.Add(-5 * time.Minute).Unix(), true},
			{"beyond", now.Add(-5*time.Minute - time.Second).Unix(), false},
			{"a float", float64(now.Unix()) + 0.5, true},
			{"a little ahead", now.Add(30 * time.Second).Unix(), true},
			{"ahead", now.Add(31 * time.Second).Unix(), false},
			{"missing", nil, false},
			{"text", fmt.Sprint(now.Unix()), false},
			{"milliseconds", now.UnixMilli(), false},
			{"zero", int64(0), false},
			{"infinite", 1e300, false},
		} {
			r := row{name: claim + " " + tc.name, edit: aged(claim, tc.v)}
			if !tc.ok {
				r.code = InvalidRequest
			}
			rows = append(rows, r)
		}
	}
	run(t, open, rows)
	w, r := open()
	aged("iat", nil)(&w, &r)
	if _, err := compile(t, w).Decide(t.Context(), r); !strings.Contains(explained(err), "require.max_token_age Presented:iat missing Expected:at most 5m0s ago") {
		t.Error(explained(err))
	}
}

// TestLimits covers how far a chain goes.
func TestLimits(t *testing.T) {
	limit := func(l Limits, change func(*Token)) edit {
		return func(w *World, r *Request) {
			if w.Rules[0].Limits = l; change != nil {
				change(r.Subject)
			}
		}
	}
	run(t, exchange, []row{
		{name: "good", check: func(t *testing.T, g Grant) {
			if g.Exchanges() != 1 || g.Uses() != nil {
				t.Errorf("exchanges %d, uses %v", g.Exchanges(), g.Uses())
			}
		}},
		{name: "one actor", edit: limit(Limits{Actors: 1}, nil)},
		{name: "two actors", code: InvalidRequest, edit: limit(Limits{Actors: 1}, func(k *Token) { k.Act = chain("portal") })},
		{name: "two actors of two", edit: limit(Limits{Actors: 2}, func(k *Token) { k.Act = chain("portal") })},
		{name: "three exchanges", edit: limit(Limits{Exchanges: 3}, func(k *Token) { k.Exchanges = 2 })},
		{name: "a fourth", code: InvalidRequest, edit: limit(Limits{Exchanges: 3}, func(k *Token) { k.Exchanges = 3 })},
		{name: "the sixteenth, whatever rules say", edit: limit(Limits{}, func(k *Token) { k.Exchanges = 15 })},
		{name: "the seventeenth", code: InvalidRequest, edit: limit(Limits{}, func(k *Token) { k.Exchanges = 16 })},
		{name: "uses", edit: limit(Limits{UsesPerTransaction: 5}, nil), check: func(t *testing.T, g Grant) {
			if !slices.Equal(g.Uses(), []Uses{{"web-pays", 5}}) {
				t.Errorf("uses %v", g.Uses())
			}
		}},
	})
}

// TestRulesRefused covers what is wrong when rules are compiled.
func TestRulesRefused(t *testing.T) {
	deny := func(change func(*Rule)) edit {
		return func(w *World, r *Request) {
			denying(Rule{})(w, r)
			change(&w.Rules[1])
		}
	}
	github := func(name, sub string) Rule {
		return Rule{Name: name, Subject: &Party{Issuer: "github"}, Allow: Allow{Audiences: []string{"payments"}, Sub: sub}}
	}
	for _, tc := range []struct {
		field, says string
		edit        edit
	}{
		{"allow", "one of them", deny(func(r *Rule) { r.Allow.Impersonate = true })},
		{"require", "rules that allow", deny(func(r *Rule) { r.Require.MaxTokenAge = time.Minute })},
		{"limits", "rules that allow", deny(func(r *Rule) { r.Limits.Actors = 1 })},
		{"deny.audiences[0]", `did you mean "ledger"`, deny(func(r *Rule) { r.Deny.Audiences = []string{"legder"} })},
		{"deny.scopes[0]", "not defined", deny(func(r *Rule) { r.Deny.Scopes = []string{"nothing"} })},
		{"subject.accept_unaddressed", "rules that allow", deny(func(r *Rule) { r.Subject = &Party{Issuer: Self, AcceptUnaddressed: true} })},
		{"when", "must yield bool", deny(func(r *Rule) { r.When = `"x"` })},
		{"deny", "at most 100", func(w *World, r *Request) {
			for i := range 101 {
				w.Rules = append(w.Rules, Rule{Name: fmt.Sprint("guard-", i), When: "false", Deny: &Deny{}})
			}
		}},
		{"allow.scopes_from_claims[0].claim", "act", ruleWith(func(r *Rule) { r.Allow.ScopesFromClaims = []ScopesForValue{{"act", "x", []string{"pay.read"}}} })},
		{"allow.scopes_from_claims[0].value", "missing", ruleWith(func(r *Rule) { r.Allow.ScopesFromClaims = []ScopesForValue{{"x", nil, []string{"pay.read"}}} })},
		{"allow.scopes_from_claims[0].scopes", "missing", ruleWith(func(r *Rule) { r.Allow.ScopesFromClaims = []ScopesForValue{{"x", "y", nil}} })},
		{"allow.scopes_from_claims[0].scopes[0]", "not defined", ruleWith(func(r *Rule) { r.Allow.ScopesFromClaims = []ScopesForValue{{"x", "y", []string{"z"}}} })},
		{"allow.sub", "never changes", ruleWith(func(r *Rule) { r.Allow.Sub = "subject.claims.x" })},
		{"allow.may_act", "either a client", ruleWith(func(r *Rule) { r.Allow.MayAct = &MayActParty{} })},
		{"allow.may_act.client", "not defined", ruleWith(func(r *Rule) { r.Allow.MayAct = &MayActParty{Client: "nobody"} })},
		{"allow.may_act.issuer", "not defined", ruleWith(func(r *Rule) { r.Allow.MayAct = &MayActParty{Issuer: "nobody", Subject: "x"} })},
		{"allow.may_act.sub", "missing", ruleWith(func(r *Rule) { r.Allow.MayAct = &MayActParty{Issuer: "corp"} })},
		{"allow.may_act", "another party", func(w *World, _ *Request) {
			w.Rules[0].Allow.MayAct = &MayActParty{Client: "batch"}
			other := w.Rules[0]
			other.Name, other.Allow.MayAct = "other", &MayActParty{Client: "payments"}
			w.Rules = append(w.Rules, other)
		}},
		{"allow.sub", "who the token is about", func(w *World, _ *Request) {
			w.Rules = append(w.Rules, github("a", ""), github("b", "subject.claims.id"))
		}},
		{"allow.sub", "must yield string", func(w *World, _ *Request) { w.Rules = append(w.Rules, github("a", "1 + 1")) }},
		{"require.max_auth_age", "do not say", ruleWith(func(r *Rule) { r.Require.MaxAuthAge = time.Minute })},
		{"require.max_token_age", "positive", ruleWith(func(r *Rule) { r.Require.MaxTokenAge = -1 })},
		{"limits.actors", "between 1 and 4", ruleWith(func(r *Rule) { r.Limits.Actors = 5 })},
		{"limits.exchanges", "between 1 and 16", ruleWith(func(r *Rule) { r.Limits.Exchanges = 17 })},
		{"limits.uses_per_transaction", "between 1 and 1000", ruleWith(func(r *Rule) { r.Limits.UsesPerTransaction = -1 })},
	} {
		t.Run(tc.field+" "+tc.says, func(t *testing.T) {
			w, r := exchange()
			tc.edit(&w, &r)
			_, problems := Compile(w)
			if len(problems) != 1 || problems[0].Field != tc.field || !strings.Contains(problems[0].Message, tc.says) {
				t.Errorf("%+v, want %s: %q", problems, tc.field, tc.says)
			}
		})
	}
}

// TestSameSubDoesNotConflict lets rules agree, and rules that never meet differ.
func TestSameSubDoesNotConflict(t *testing.T) {
	w, _ := exchange()
	add := func(name, sub string, p Party) {
		w.Rules = append(w.Rules, Rule{Name: name, Subject: &p, Allow: Allow{Audiences: []string{"payments"}, Sub: sub}})
	}
	add("a", "subject.claims.id", Party{Issuer: "github"})
	add("b", "subject.claims.id", Party{Issuer: "github"})
	add("c", "", Party{Issuer: "corp", Claims: map[string]any{"kind": "person"}})
	add("d", "subject.sub", Party{Issuer: "corp", Claims: map[string]any{"kind": "person"}})
	add("e", "subject.claims.n", Party{Issuer: "corp", Claims: map[string]any{"kind": "job"}})
	compile(t, w)
}

// TestIndexOfManyRules decides with many rules for one requester, which differ in
// the audience, or in a claim, as in a company with one gateway or one CI system.
func TestIndexOfManyRules(t *testing.T) {
	for _, kind := range []string{"audience", "claim", "denials"} {
		t.Run(kind, func(t *testing.T) {
			w, r := crowded(kind, 5000)
			s := compile(t, w)
			if _, err := s.Decide(t.Context(), r); err != nil {
				t.Fatal(explained(err))
			}
			looked := 0
			q := newQuery(&r)
			if d := s.resolve(q); d != nil {
				t.Fatal(d.Message)
			}
			s.allow.of(&r, func(b *bucket) { b.near(q, func(*rule) { looked++ }) })
			s.deny.near(q, func(*rule) { looked++ })
			if looked > 10 {
				t.Errorf("%d rules are looked at", looked)
			}
			r.Subject.Claims["id"] = "none"
			r.Targets = []string{"ledger"}
			if _, err := s.Decide(t.Context(), r); err == nil {
				t.Error("granted")
			}
		})
	}
}

// crowded is a world of n rules that are all for the requester or subject of a
// request.
func crowded(kind string, n int) (World, Request) {
	w, r := exchange()
	r.Subject.Claims["id"] = "7"
	for i := range n {
		rule := w.Rules[0]
		rule.Name = fmt.Sprintf("rule-%d", i)
		switch kind {
		case "audience":
			name := fmt.Sprintf("service-%d", i)
			w.Audiences = append(w.Audiences, Audience{Name: name, Scopes: []string{"x"}})
			rule.Allow = Allow{Audiences: []string{name}, Scopes: []string{"x"}}
		case "claim":
			rule.Subject = &Party{Issuer: Self, Claims: map[string]any{"id": fmt.Sprint(i)}}
		case "denials":
			rule = Rule{Name: rule.Name, Subject: &Party{Issuer: Self, Claims: map[string]any{"id": fmt.Sprint(i + 10)}}, Deny: &Deny{}}
		}
		w.Rules = append(w.Rules, rule)
	}
	return w, r
}
