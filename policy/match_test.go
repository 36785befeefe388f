package policy

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestClaims holds presented claims against what a rule expects [C-18].
func TestClaims(t *testing.T) {
	type list = []any
	for _, tc := range []struct {
		name                string
		presented, expected any
		want                bool
	}{
		{"good", "a", "a", true},
		{"case", "A", "a", false},
		{"prefix", "ab", "a", false},
		{"C-18 text for bool", "true", true, false},
		{"C-18 bool for text", true, "true", false},
		{"bool", true, true, true},
		{"other bool", false, true, false},
		{"number", int64(7), int64(7), true},
		{"text for number", "7", int64(7), false},
		{"number for text", int64(7), "7", false},
		{"bool for number", true, int64(1), false},
		{"float for int", float64(7), int64(7), true},
		{"int for float", int64(7), float64(7), true},
		{"fraction for int", 7.5, int64(7), false},
		{"fraction", 7.5, 7.5, true},
		{"beyond 2^53 is exact", int64(1<<53 + 1), float64(1 << 53), false},
		{"beyond 2^63", int64(math.MaxInt64), float64(1 << 63), false},
		{"least", int64(math.MinInt64), float64(math.MinInt64), false},
		{"not a number", math.NaN(), math.NaN(), false},
		{"null", nil, "a", false},
		{"empty text", "", "a", false},
		{"object", map[string]any{"a": "a"}, "a", false},
		{"presented list contains", list{"x", "a"}, "a", true},
		{"presented list does not", list{"x", "b"}, "a", false},
		{"presented list of other types", list{"true", int64(1)}, true, false},
		{"presented list of lists", list{list{"a"}}, "a", false},
		{"empty presented list", list{}, "a", false},
		{"expected list is any of", "b", list{"a", "b"}, true},
		{"expected list is none of", "c", list{"a", "b"}, false},
		{"lists meet", list{"x", "b"}, list{"a", "b"}, true},
		{"lists do not meet", list{"x", "y"}, list{"a", "b"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := holds(tc.presented, tc.expected); got != tc.want {
				t.Errorf("presented %#v, expected %#v: %v, want %v", tc.presented, tc.expected, got, tc.want)
			}
		})
	}
}

func TestClaimsOfSubject(t *testing.T) {
	expects := func(claims map[string]any) edit {
		return ruleWith(func(r *Rule) { r.Subject = &Party{Issuer: Self, Claims: claims} })
	}
	globs := func(g map[string]string) edit {
		return ruleWith(func(r *Rule) { r.Subject = &Party{Issuer: Self, ClaimGlobs: g} })
	}
	run(t, exchange, []row{
		{name: "good", edit: expects(map[string]any{"level": int64(3), "verified": true, "groups": "staff"})},
		{name: "C-18", code: InvalidRequest, edit: func(w *World, r *Request) {
			expects(map[string]any{"verified": true})(w, r)
			r.Subject.Claims["verified"] = "true"
		}},
		{name: "number in a list", edit: expects(map[string]any{"groups": int64(7)})},
		{name: "text of a number in a list", code: InvalidRequest, edit: expects(map[string]any{"groups": "7"})},
		{name: "missing", code: InvalidRequest, edit: expects(map[string]any{"none": "x"})},
		{name: "one of two", code: InvalidRequest, edit: expects(map[string]any{"level": int64(3), "none": "x"})},
		{name: "case of the name", code: InvalidRequest, edit: expects(map[string]any{"Level": int64(3)})},
		{name: "glob", edit: globs(map[string]string{"path": "a/*"})},
		{name: "glob of a number", code: InvalidRequest, edit: globs(map[string]string{"level": "3*"})},
		{name: "glob of a list", code: InvalidRequest, edit: globs(map[string]string{"groups": "st*"})},
		{name: "glob of a missing claim", code: InvalidRequest, edit: globs(map[string]string{"none": "a*"})},
		{name: "no claims at all", code: InvalidRequest, edit: func(w *World, r *Request) {
			globs(map[string]string{"path": "a/*"})(w, r)
			r.Subject.Claims = nil
		}},
	})
}

var globRows = []struct {
	pattern, s string
	want       bool
}{
	{"refs/heads/*", "refs/heads/main", true},
	{"refs/heads/*", "refs/heads/", true},
	{"refs/heads/*", "refs/heads/a/b", false},
	{"refs/heads/*", "refs/heads", false},
	{"refs/heads/*", "xrefs/heads/main", false},
	{"refs/heads/*", "refs/tags/main", false},
	{"refs/*/main", "refs/heads/main", true},
	{"refs/*/main", "refs/heads/x/main", false},
	{"refs/*/main", "refs/heads/main/x", false},
	{"repo:shop/*", "repo:shop/web:ref:x", false},
	{"repo:shop/*", "repo:shop/web", true},
	{"repo:shop/*:ref:*", "repo:shop/web:ref:x", true},
	{"repo:shop/*:ref:*", "repo:shop/web:ref:x/y", false},
	{"*a", "a", true},
	{"*a", "aa", true},
	{"*a", "ab", false},
	{"*a", "/a", false},
	{"*a", ":a", false},
	{"a*a", "a", false},
	{"a*a", "aba", true},
	{"a**b", "axyb", true},
	{"a**b", "ax/yb", false},
	{"a*b*c", "abbc", true},
	{"a*b*c", "acb", false},
	{"*/*", "a/b", true},
	{"*/*", "a/b/c", false},
	{"*/*", "/", true},
	{"*.example", "a.example.evil", false},
	{"*.example", "evil/a.example", false},
	{"a.c*", "abc", false},
	{"[a]*", "a", false},
	{"[a]*", "[a]x", true},
	{"a?*", "ab", false},
	{"a|b*", "a", false},
	{"(?i)a*", "A", false},
	{`\**`, "*", false},
	{`\**`, `\x`, true},
	{"a*", "A", false},
	{"a*", "a\n", true},
	{"ä*", "ä€", true},
	{"*x", strings.Repeat("y", 100), false},
	{"", "", true},
	{"", "a", false},
	{"a", "", false},
	{"*", "", true},
	{"*", "a:b", false},
}

func TestGlob(t *testing.T) {
	for _, tc := range globRows {
		if got := glob(tc.pattern, tc.s); got != tc.want {
			t.Errorf("glob(%q, %q) = %v", tc.pattern, tc.s, got)
		}
	}
}

// plainGlob says the same as glob by the definition, one character at a time.
// Its table is as large as pattern times value.
func plainGlob(pattern, s string) bool {
	row := make([]bool, len(s)+1) // the rest of the pattern matches s[i:]
	row[len(s)] = true
	for p := len(pattern) - 1; p >= 0; p-- {
		next := make([]bool, len(s)+1)
		for i := len(s); i >= 0; i-- {
			if pattern[p] == '*' {
				next[i] = row[i] || i < len(s) && s[i] != '/' && s[i] != ':' && next[i+1]
			} else {
				next[i] = i < len(s) && s[i] == pattern[p] && row[i+1]
			}
		}
		row = next
	}
	return row[0]
}

func FuzzGlob(f *testing.F) {
	for _, tc := range globRows {
		f.Add(tc.pattern, tc.s)
	}
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 200 || len(s) > 2000 {
			t.Skip("the table would be large")
		}
		if got, want := glob(pattern, s), plainGlob(pattern, s); got != want {
			t.Errorf("glob(%q, %q) = %v, want %v", pattern, s, got, want)
		}
	})
}

func TestClaimsOfRules(t *testing.T) {
	set := func(claims map[string]string) edit { return ruleWith(func(r *Rule) { r.Allow.Claims = claims }) }
	has := func(name string, want any) func(*testing.T, Grant) {
		return func(t *testing.T, g Grant) {
			t.Helper()
			if got, ok := g.Claims()[name]; !ok || !reflect.DeepEqual(got, want) {
				t.Errorf("%s = %#v, want %#v", name, got, want)
			}
		}
	}
	second := func(claims map[string]string, change func(*Rule)) edit {
		return func(w *World, _ *Request) {
			other := w.Rules[0]
			other.Name, other.Allow.Claims = "web-2", claims
			change(&other)
			w.Rules = append(w.Rules, other)
		}
	}
	run(t, exchange, []row{
		{name: "good", check: func(t *testing.T, g Grant) {
			if len(g.Claims()) != 0 {
				t.Errorf("claims %v", g.Claims())
			}
		}},
		{name: "text", edit: set(map[string]string{"team": `"pay" + "ments"`}), check: has("team", "payments")},
		{name: "of the subject", edit: set(map[string]string{"lvl": "subject.claims.level"}), check: has("lvl", float64(3))},
		{name: "bool", edit: set(map[string]string{"ok": "subject.claims.verified"}), check: has("ok", true)},
		{name: "list", edit: set(map[string]string{"g": "subject.claims.groups"}), check: has("g", []any{"staff", float64(7)})},
		{name: "object", edit: set(map[string]string{"o": `{"a": [1.5, null], "b": true}`}),
			check: has("o", map[string]any{"a": []any{1.5, nil}, "b": true})},
		{name: "time", edit: set(map[string]string{"at": "request.time"}), check: has("at", "2026-11-24T12:00:00Z")},
		{name: "missing claim", code: InvalidRequest, edit: set(map[string]string{"x": "subject.claims.none"})},
		{name: "not a JSON value", code: InvalidRequest, edit: set(map[string]string{"x": "type(1)"})},
		{name: "C-19 nothing is copied", check: func(t *testing.T, g Grant) {
			if len(g.Claims()) != 0 {
				t.Errorf("claims %v", g.Claims())
			}
		}},
		{name: "two rules, one value", edit: func(w *World, r *Request) {
			set(map[string]string{"team": `"a"`})(w, r)
			second(map[string]string{"team": `"a"`}, func(*Rule) {})(w, r)
		}, check: has("team", "a")},
		{name: "two rules, two claims", edit: second(map[string]string{"team": `"a"`}, func(*Rule) {}), check: has("team", "a")},
		{name: "a rule that does not contribute sets nothing", check: func(t *testing.T, g Grant) {
			if len(g.Claims()) != 0 {
				t.Errorf("claims %v", g.Claims())
			}
		}, edit: second(map[string]string{"team": `"a"`}, func(r *Rule) { r.Allow.Scopes = []string{"pay.write"} })},
	})
}

// TestClaimsComeWithScopes holds that a token that lost scopes gets no claims of
// the rules that allow those, neither at once nor later [T-13, promise 1].
func TestClaimsComeWithScopes(t *testing.T) {
	good := func() (World, Request) {
		w, r := exchange()
		admin := w.Rules[0]
		admin.Name = "web-writes"
		admin.Allow.Scopes, admin.Allow.Claims = []string{"pay.write"}, map[string]string{"role": `"admin"`}
		w.Rules[0].Allow.Scopes = []string{"pay.read"}
		w.Rules = append(w.Rules, admin)
		r.Scopes = nil
		return w, r
	}
	has := func(rules []string, claims map[string]any, scope ...string) func(*testing.T, Grant) {
		return func(t *testing.T, g Grant) {
			t.Helper()
			if !slices.Equal(g.Rules(), rules) || len(g.Claims()) != len(claims) || len(claims) > 0 && !reflect.DeepEqual(g.Claims(), claims) {
				t.Errorf("claims %v by %v, want %v by %v", g.Claims(), g.Rules(), claims, rules)
			}
			scopes(scope...)(t, g)
		}
	}
	both, admin := []string{"web-pays", "web-writes"}, map[string]any{"role": "admin"}
	lost := func(r *Request) { r.Subject.Scopes = []string{"pay.read"} }
	run(t, good, []row{
		{name: "good", check: has(both, admin, "pay.read", "pay.write")},
		{name: "lost", edit: asked(lost), check: has(both[:1], nil, "pay.read")},
		{name: "lost, and asked for what is left", check: has(both[:1], nil, "pay.read"), edit: asked(func(r *Request) {
			lost(r)
			r.Scopes = r.Subject.Scopes
		})},
		{name: "T-13 nothing in common", edit: asked(func(r *Request) { r.Subject.Scopes = []string{"mail"} }), check: has(both, nil)},
		{name: "T-13 nothing in common keeps the lifetime", check: life(10 * time.Minute), edit: func(w *World, r *Request) {
			w.Rules[0].Allow.TTL, w.Rules[1].Allow.TTL, r.Subject.Scopes = time.Minute, 10*time.Minute, nil
		}},
		{name: "a rule without scopes", check: has([]string{"web-pays", "web-writes"}, admin, "pay.read"), edit: func(w *World, r *Request) {
			w.Rules[1].Allow.Scopes = nil
			lost(r)
		}},
		{name: "nothing in common, and a rule without scopes", check: has([]string{"web-writes"}, admin), edit: func(w *World, r *Request) {
			w.Rules[1].Allow.Scopes, r.Subject.Scopes = nil, nil
		}},
		{name: "a scope of another audience", check: has([]string{"web-pays"}, nil, "pay.read", "pay.write"), edit: func(w *World, r *Request) {
			w.Rules[0].Allow.Scopes = []string{"pay.read", "pay.write"}
			w.Rules[1].Allow.Audiences, w.Rules[1].Allow.Scopes = []string{"payments", "ledger"}, []string{"ledger.read"}
		}},
		{name: "impersonation needs the rules that are left", check: actors(), edit: func(w *World, r *Request) {
			w.Rules[0].Allow.Impersonate = true
			lost(r)
		}},
	})
}

// TestClaimsInConflictAtLast covers what cannot be told when rules are compiled:
// a subject that is of two kinds at once.
func TestClaimsInConflictAtLast(t *testing.T) {
	good := func() (World, Request) {
		w, r := exchange()
		w.Rules[0].Subject = &Party{Issuer: Self, Claims: map[string]any{"role": "x"}}
		w.Rules[0].Allow.Claims = map[string]string{"team": `"a"`}
		other := w.Rules[0]
		other.Name = "web-2"
		other.Subject = &Party{Issuer: Self, Claims: map[string]any{"role": "y"}}
		other.Allow.Claims = map[string]string{"team": `"b"`}
		w.Rules = append(w.Rules, other)
		r.Subject.Claims["role"] = "x"
		return w, r
	}
	run(t, good, []row{
		{name: "good", check: func(t *testing.T, g Grant) {
			if g.Claims()["team"] != "a" {
				t.Errorf("claims %v", g.Claims())
			}
		}},
		{name: "both", code: InvalidRequest, edit: asked(func(r *Request) { r.Subject.Claims["role"] = []any{"x", "y"} })},
		{name: "both, in two cases", code: InvalidRequest, edit: func(w *World, r *Request) {
			r.Subject.Claims["role"] = []any{"x", "y"}
			w.Rules[1].Allow.Claims = map[string]string{"Team": `"a"`}
		}},
		{name: "both with one value", edit: func(w *World, r *Request) {
			r.Subject.Claims["role"] = []any{"x", "y"}
			w.Rules[0].Allow.Claims = map[string]string{"team": `{"a": 1, "b": [2]}`}
			w.Rules[1].Allow.Claims = map[string]string{"team": `{"b": [2], "a": 1.0}`}
		}},
	})
}

func TestClaimsInConflict(t *testing.T) {
	for _, tc := range []struct {
		name          string
		other         func(*Rule)
		conflict      bool
		first, second string
	}{
		{"same requester", func(*Rule) {}, true, `"a"`, `"b"`},
		{"same value", func(*Rule) {}, false, `"a"`, `"a"`},
		{"other client", func(r *Rule) { r.Requester.Clients = []string{"batch"} }, false, `"a"`, `"b"`},
		{"another label", func(r *Rule) { r.Requester = Requester{Labels: map[string]string{"team": "shop"}} }, true, `"a"`, `"b"`},
		{"other label", func(r *Rule) {
			r.Requester = Requester{Clients: []string{"web"}, Labels: map[string]string{"tier": "back"}}
		}, false, `"a"`, `"b"`},
		{"other audience", func(r *Rule) { r.Allow.Audiences, r.Allow.Scopes = []string{"ledger"}, nil }, false, `"a"`, `"b"`},
		{"other issuer", func(r *Rule) { r.Subject = &Party{Issuer: "corp"} }, false, `"a"`, `"b"`},
		{"other claim of the subject", func(r *Rule) { r.Subject.Claims = map[string]any{"role": "y"} }, false, `"a"`, `"b"`},
		{"a list that has it", func(r *Rule) { r.Subject.Claims = map[string]any{"role": []any{"x", "y"}} }, true, `"a"`, `"b"`},
		{"lists that meet", func(r *Rule) { r.Subject.Claims = map[string]any{"role": []any{"y", "x"}} }, true, `"a"`, `"b"`},
		{"no actor, an actor", func(r *Rule) { r.Actor = &Party{Issuer: "corp"} }, false, `"a"`, `"b"`},
		{"no subject may be a token of ours", func(r *Rule) { r.Subject = nil }, true, `"a"`, `"b"`},
		{"workload", func(r *Rule) { r.Requester, r.Subject = Requester{}, &Party{Issuer: "corp"} }, false, `"a"`, `"b"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, _ := exchange()
			w.Rules[0].Subject = &Party{Issuer: Self, Claims: map[string]any{"role": "x"}}
			w.Rules[0].Requester.Labels = map[string]string{"tier": "front"}
			w.Rules[0].Allow.Claims = map[string]string{"team": tc.first}
			other := w.Rules[0]
			other.Name = "web-2"
			other.Subject = &Party{Issuer: Self}
			other.Allow.Claims = map[string]string{"team": tc.second}
			tc.other(&other)
			w.Rules = append(w.Rules, other)
			_, problems := Compile(w)
			if got := len(problems) > 0; got != tc.conflict {
				t.Errorf("problems %v, want a conflict: %v", problems, tc.conflict)
			}
			for _, p := range problems {
				if p.Field != "allow.claims.team" || p.Name != "web-2" || !strings.Contains(p.Message, "web-pays") {
					t.Errorf("%+v", p)
				}
			}
		})
	}
}

func TestReasonsShowClaims(t *testing.T) {
	for _, tc := range []struct {
		value  any
		there  bool
		expect string
	}{
		{nil, false, "missing"},
		{nil, true, "<nil>"},
		{"true", true, `"true"`},
		{true, true, "true"},
		{int64(7), true, "7"},
		{strings.Repeat("€", 100), true, ""},
	} {
		got := show(tc.value, tc.there)
		if tc.expect != "" && got != tc.expect {
			t.Errorf("show(%#v) = %s, want %s", tc.value, got, tc.expect)
		}
		if len(got) > maxShown+3 || strings.ToValidUTF8(got, "?") != got {
			t.Errorf("%d bytes shown, or torn characters: %q", len(got), got)
		}
	}
	w, r := exchange()
	w.Rules[0].Subject.Claims = map[string]any{"level": int64(4)}
	_, err := compile(t, w).Decide(t.Context(), r)
	d, ok := errors.AsType[*Denial](err)
	if want := (Reason{Rule: "web-pays", Predicate: "subject.claims.level", Presented: "3", Expected: "4"}); !ok || len(d.Reasons) != 1 || d.Reasons[0] != want {
		t.Errorf("%s, want %s", explained(err), fmt.Sprint(want))
	}
}
