package sts

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/workload-sts/sts/policy"
)

// offlineWith is an Offline with a rule that nothing is wrong with, and others.
func offlineWith(t *testing.T, more ...*policy.Rule) *Offline {
	t.Helper()
	good := &policy.Rule{
		Name: "good", Requester: policy.Requester{Clients: []string{"web"}}, Subject: &policy.Party{Issuer: "idp", Claims: map[string]any{"team": "a"}},
		Allow: policy.Allow{Audiences: []string{"payments"}, Scopes: []string{"read", "write"}, TTL: time.Minute},
	}
	resources := []Resource{
		{Audience: &Audience{Name: "payments", Scopes: []string{"read", "write"}}},
		{Audience: &Audience{Name: "orders", Scopes: []string{"read"}}},
		{Audience: &Audience{Name: "bound", Scopes: []string{"read"}, Binding: policy.DPoPBinding}},
		{Issuer: &Issuer{Name: "idp", Issuer: "https://idp.example.com"}},
		{Issuer: &Issuer{Name: "gitlab", Preset: "gitlab"}},
		{Client: &Client{Name: "web"}}, {Client: &Client{Name: "api", Audiences: []string{"payments"}}},
		{ClientTemplate: &ClientTemplate{Name: "agents", Methods: []AuthMethod{SecretBasic}, Labels: map[string]string{"tier": "agent"}}},
		{Rule: good},
	}
	for _, r := range more {
		if r.Name == good.Name {
			*good = *r
			continue
		}
		resources = append(resources, Resource{Rule: r})
	}
	o, problems := NewOffline("https://sts.example.com", resources)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return o
}

func TestLint(t *testing.T) {
	idp := &policy.Party{Issuer: "idp", Claims: map[string]any{"team": "a"}}
	web := policy.Requester{Clients: []string{"web"}}
	allow := func(edit func(*policy.Rule)) *policy.Rule {
		r := &policy.Rule{Name: "other", Requester: web, Subject: idp, Allow: policy.Allow{Audiences: []string{"orders"}, Scopes: []string{"read"}, TTL: time.Minute}}
		edit(r)
		return r
	}
	deny := func(name string, d policy.Deny, edit func(*policy.Rule)) *policy.Rule {
		r := &policy.Rule{Name: name, Deny: &d}
		edit(r)
		return r
	}
	none := func(*policy.Rule) {}
	onwards := allow(func(r *policy.Rule) { r.Name, r.Subject = "onwards", &policy.Party{Issuer: policy.Self} })
	noOrders := deny("no", policy.Deny{Audiences: []string{"orders"}}, func(r *policy.Rule) { r.Subject = idp })
	alsoOnwards := func(d policy.Deny) *policy.Rule {
		return deny("nor", d, func(r *policy.Rule) {
			r.Subject = &policy.Party{Issuer: policy.Self, ClaimGlobs: map[string]string{"sub": "idp:x*"}}
		})
	}
	for _, tc := range []struct {
		name  string
		rules []*policy.Rule
		want  []string // rule and id
	}{
		{"good", nil, nil},
		{"any scope", []*policy.Rule{allow(func(r *policy.Rule) { r.Allow.ScopesFromRequest = true })}, []string{"other any-scope"}},
		{"any scope of its own tokens", []*policy.Rule{allow(func(r *policy.Rule) {
			r.Subject, r.Allow.Scopes, r.Allow.ScopesFromRequest = &policy.Party{Issuer: policy.Self}, nil, true
		})}, nil},
		{"sub", []*policy.Rule{allow(func(r *policy.Rule) { r.Allow.Sub = "subject.claims.email" })}, []string{"other maps-sub"}},
		{"sub as it is", []*policy.Rule{allow(func(r *policy.Rule) { r.Allow.Sub = "subject.sub" })}, nil},
		{"accepted", []*policy.Rule{allow(func(r *policy.Rule) { r.Allow.Sub, r.AcceptRisks = "subject.claims.email", []string{"maps-sub"} })}, nil},
		{"everything denied", []*policy.Rule{deny("no", policy.Deny{}, none)}, []string{"good unreachable"}},
		{"its audience denied", []*policy.Rule{deny("no", policy.Deny{Audiences: []string{"payments"}}, none)}, []string{"good unreachable"}},
		{"another audience denied", []*policy.Rule{deny("no", policy.Deny{Audiences: []string{"orders"}}, none)}, nil},
		{"denied at the first hop alone", []*policy.Rule{onwards, noOrders}, []string{"no later-hops"}},
		{"denied at the first hop alone, elsewhere at the others", []*policy.Rule{onwards, noOrders, alsoOnwards(policy.Deny{Audiences: []string{"payments"}})}, []string{"no later-hops"}},
		{"denied at every hop", []*policy.Rule{onwards, noOrders, alsoOnwards(policy.Deny{Audiences: []string{"orders", "payments"}})}, nil},
		{"denied at every hop, and everywhere at the others", []*policy.Rule{onwards, noOrders, alsoOnwards(policy.Deny{})}, nil},
		{"scopes denied at the first hop alone", []*policy.Rule{onwards, deny("no", policy.Deny{Audiences: []string{"orders"}, Scopes: []string{"read"}}, func(r *policy.Rule) { r.Subject = idp })}, []string{"no later-hops"}},
		{"scopes that nobody else has", []*policy.Rule{onwards, deny("no", policy.Deny{Audiences: []string{"payments"}, Scopes: []string{"write"}}, func(r *policy.Rule) { r.Subject = idp })}, nil},
		{"denied at the first hop, and no other", []*policy.Rule{noOrders}, nil},
		{"all of its scopes denied", []*policy.Rule{deny("no", policy.Deny{Scopes: []string{"read", "write"}}, none)}, []string{"good unreachable"}},
		{"one of its scopes denied", []*policy.Rule{deny("no", policy.Deny{Scopes: []string{"write"}}, none)}, nil},
		{"denied to others", []*policy.Rule{deny("no", policy.Deny{}, func(r *policy.Rule) { r.Requester = policy.Requester{Clients: []string{"api"}} })}, nil},
		{"denied to workloads", []*policy.Rule{deny("no", policy.Deny{}, func(r *policy.Rule) { r.Requester.Workload = true })}, nil},
		{"denied on a condition", []*policy.Rule{deny("no", policy.Deny{}, func(r *policy.Rule) { r.Subject, r.When = idp, `subject.claims.x == "y"` })}, nil},
		{"denied twice", []*policy.Rule{
			deny("no", policy.Deny{Scopes: []string{"write"}}, none),
			deny("no-too", policy.Deny{Audiences: []string{"payments"}, Scopes: []string{"write"}}, func(r *policy.Rule) { r.Subject = idp }),
		}, []string{"no-too redundant"}},
		{"denied twice alike", []*policy.Rule{
			deny("no", policy.Deny{Scopes: []string{"write"}}, none), deny("no-too", policy.Deny{Scopes: []string{"write"}}, none),
		}, []string{"no-too redundant"}},
		{"denied for more", []*policy.Rule{
			deny("no", policy.Deny{Scopes: []string{"write"}}, func(r *policy.Rule) { r.Requester = web }),
			deny("yes", policy.Deny{Audiences: []string{"payments"}, Scopes: []string{"write"}}, none),
		}, nil},
		{"for all tokens by an expression about something else", []*policy.Rule{allow(func(r *policy.Rule) {
			r.Subject, r.When = &policy.Party{Issuer: "idp"}, `client.id != "x" && subject.issuer == "idp" && actor.sub != "y"`
		})}, []string{"other any-subject"}},
		{"pinned by an expression", []*policy.Rule{allow(func(r *policy.Rule) {
			r.Subject, r.When = &policy.Party{Issuer: "idp"}, `subject.sub.startsWith("a")`
		})}, nil},
		{"superfluous by one value of several", []*policy.Rule{
			allow(func(r *policy.Rule) {
				r.Subject = &policy.Party{Issuer: "idp", Claims: map[string]any{"team": []any{"b", "a"}}}
			}),
			allow(func(r *policy.Rule) { r.Name = "superfluous" }),
		}, []string{"superfluous redundant"}},
		{"not superfluous by one value of several", []*policy.Rule{
			allow(func(r *policy.Rule) {
				r.Subject = &policy.Party{Issuer: "idp", Claims: map[string]any{"team": []any{"b", "a"}}}
			}),
			allow(func(r *policy.Rule) {
				r.Name, r.Subject = "wider", &policy.Party{Issuer: "idp", Claims: map[string]any{"team": []any{"a", "c"}}}
			}),
		}, nil},
		{"said three times, however many others there are", []*policy.Rule{
			allow(func(r *policy.Rule) { r.Name = "a" }), allow(func(r *policy.Rule) { r.Name = "b" }), allow(func(r *policy.Rule) { r.Name = "c" }),
			allow(func(r *policy.Rule) { r.Name = "d" }), allow(func(r *policy.Rule) { r.Name = "e" }),
		}, []string{"b redundant", "c redundant", "c redundant", "d redundant", "d redundant", "d redundant", "e redundant", "e redundant", "e redundant"}},
		{"unbound", []*policy.Rule{allow(func(r *policy.Rule) {
			r.Subject, r.Allow.Audiences, r.Require.Binding = nil, []string{"payments"}, policy.DPoPBinding
		})}, []string{"good unbound"}},
		{"any scope unbound", []*policy.Rule{
			allow(func(r *policy.Rule) {
				r.Subject, r.Allow.Scopes, r.Allow.ScopesFromRequest = &policy.Party{Issuer: policy.Self}, nil, true
			}),
			allow(func(r *policy.Rule) { r.Name, r.Require.Binding = "bound", policy.DPoPBinding }),
		}, []string{"other unbound"}},
		{"a binding that the audience does not take", []*policy.Rule{allow(func(r *policy.Rule) {
			r.Allow.Audiences, r.Require.Binding = []string{"bound"}, policy.MTLSBinding
		})}, []string{"other unreachable"}},
		{"registered clients", []*policy.Rule{allow(func(r *policy.Rule) {
			r.Requester, r.Subject = policy.Requester{Labels: map[string]string{"tier": "agent"}}, nil
		})}, nil},
		{"nobody", []*policy.Rule{allow(func(r *policy.Rule) {
			r.Requester, r.Subject = policy.Requester{Labels: map[string]string{"tier": "agent", "x": ""}}, nil
		})}, []string{"other unreachable"}},
		{"all of one from claims", []*policy.Rule{allow(func(r *policy.Rule) {
			r.Allow.Audiences, r.Allow.ScopesFromClaims = []string{"payments"}, []policy.ScopesForValue{{Claim: "group", Value: "x", Scopes: []string{"write"}}}
		})}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			for _, f := range offlineWith(t, tc.rules...).Lint() {
				got = append(got, f.Ref.Name+" "+f.ID)
				if f.Fix == "" && f.ID != "unsafe" || lintMeanings[f.ID] == "" && f.ID != "unsafe" {
					t.Errorf("%s: nothing is said about what to do, or what it means", f.ID)
				}
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("found %q, want %q", got, tc.want)
			}
		})
	}
}

// TestScopeMappingsOfPresets shows that values which a claim of the platform can
// never have are refused in mappings as they are in claims.
func TestScopeMappingsOfPresets(t *testing.T) {
	rule := func(value any) *policy.Rule {
		return &policy.Rule{
			Name: "maps", Requester: policy.Requester{Clients: []string{"web"}},
			Subject: &policy.Party{Issuer: "gitlab", Claims: map[string]any{"project_id": "1", "ref": "main", "ref_type": "branch", "ref_protected": "true", "pipeline_source": "push"}},
			Allow:   policy.Allow{Audiences: []string{"payments"}, ScopesFromClaims: []policy.ScopesForValue{{Claim: "ref_protected", Value: value, Scopes: []string{"write"}}}},
		}
	}
	if found := offlineWith(t, rule("true")).Unsafe(); len(found) > 0 {
		t.Errorf("a string is refused: %v", found)
	}
	found := offlineWith(t, rule(true)).Unsafe()
	if len(found) != 1 || found[0].Field != "allow.scopes_from_claims[0].value" {
		t.Errorf("found %v", found)
	}
}

func TestWhoCan(t *testing.T) {
	idp := &policy.Party{Issuer: "idp", Claims: map[string]any{"team": "a"}}
	o := offlineWith(t,
		&policy.Rule{Name: "no-write", Subject: idp, Deny: &policy.Deny{Scopes: []string{"write"}}},
		&policy.Rule{Name: "perhaps", Subject: &policy.Party{Issuer: "idp"}, When: `subject.claims.x == "y"`, Deny: &policy.Deny{}},
		&policy.Rule{Name: "elsewhere", Deny: &policy.Deny{Audiences: []string{"orders"}}},
		&policy.Rule{Name: "other-team", Subject: &policy.Party{Issuer: "idp", Claims: map[string]any{"team": "b"}}, Deny: &policy.Deny{}},
		&policy.Rule{
			Name: "next", Requester: policy.Requester{Clients: []string{"api"}}, Subject: &policy.Party{Issuer: policy.Self},
			Allow: policy.Allow{Audiences: []string{"payments"}, ScopesFromRequest: true},
		},
	)
	for _, tc := range []struct {
		scope            string
		deniedBy, except []string
	}{
		{"write", []string{"no-write"}, []string{"perhaps"}},
		{"read", nil, []string{"perhaps"}},
		{"", nil, []string{"no-write", "perhaps"}},
	} {
		t.Run("scope "+tc.scope, func(t *testing.T) {
			ways, err := o.WhoCan("payments", tc.scope)
			if err != nil || len(ways) != 2 || ways[0].Rule != "good" || ways[1].Rule != "next" {
				t.Fatalf("%+v %v", ways, err)
			}
			if !slices.Equal(ways[0].DeniedBy, tc.deniedBy) || !slices.Equal(ways[0].Except, tc.except) {
				t.Errorf("denied by %v, except %v", ways[0].DeniedBy, ways[0].Except)
			}
			if from := ways[1].From; len(from) != 1 || from[0].Rule != "good" {
				t.Errorf("the second hop comes from %+v", from)
			}
			if tc.scope == "" && !slices.Equal(ways[1].Scopes, []string{"*"}) {
				t.Errorf("any scope shows as %v", ways[1].Scopes)
			}
		})
	}
}

// TestLintManyRules shows that rules are not all held against each other.
func TestLintManyRules(t *testing.T) {
	const n = 10_000
	var rules []*policy.Rule
	for i := range n {
		r := &policy.Rule{Name: fmt.Sprint("r", i), Allow: policy.Allow{Audiences: []string{"payments"}, Scopes: []string{"read"}}}
		switch i % 4 {
		case 0:
			r.Subject = &policy.Party{Issuer: "idp", Claims: map[string]any{"team": "a", "repo": fmt.Sprint(i)}}
		case 1:
			r.Requester.Clients = []string{fmt.Sprint("c", i), fmt.Sprint("c", i+4)}
		case 2:
			r.Requester.Labels = map[string]string{"team": fmt.Sprint(i), "tier": "1"}
		default:
			r.Allow, r.Deny, r.When = policy.Allow{}, &policy.Deny{Audiences: []string{"payments"}}, fmt.Sprint("subject.claims.run == ", i)
		}
		rules = append(rules, r)
	}
	near := newLintIndex(rules)
	compared := 0
	for _, r := range rules {
		near.near(r, func(*policy.Rule) { compared++ })
	}
	if compared > 2*n {
		t.Errorf("%d rules are held against %d others", n, compared)
	}
}

// TestLintIndex shows that all rules are found which imply another, or deny all of
// it.
func TestLintIndex(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		some := func(of ...string) []string {
			return rapid.SliceOfNDistinct(rapid.SampledFrom(of), 0, 2, rapid.ID[string]).Draw(t, "some")
		}
		one := func(of ...string) string { return rapid.SampledFrom(of).Draw(t, "one") }
		party := func() *policy.Party {
			p := &policy.Party{Issuer: one("idp", "ci"), Claims: map[string]any{}}
			for _, name := range some("team", "sub") {
				if p.Claims[name] = any(one("a", "b")); rapid.Bool().Draw(t, "list") {
					p.Claims[name] = []any{one("a", "b"), one("b", "c")}
				}
			}
			if rapid.Bool().Draw(t, "glob") {
				p.ClaimGlobs = map[string]string{"ref": one("x*", "y*")}
			}
			return p
		}
		var rules []*policy.Rule
		for i := range rapid.IntRange(2, 12).Draw(t, "rules") {
			r := &policy.Rule{Name: fmt.Sprint("r", i)}
			if rapid.Bool().Draw(t, "clients") {
				r.Requester.Clients = some("web", "api")
			}
			for _, name := range some("tier", "zone") {
				if r.Requester.Labels == nil {
					r.Requester.Labels = map[string]string{}
				}
				r.Requester.Labels[name] = one("1", "2")
			}
			if rapid.Bool().Draw(t, "subject") {
				r.Subject = party()
			}
			if rapid.IntRange(0, 3).Draw(t, "actor") == 0 {
				r.Actor = party()
			}
			if rapid.IntRange(0, 3).Draw(t, "when") == 0 {
				r.When = one("true", "false")
			}
			if rapid.IntRange(0, 2).Draw(t, "deny") == 0 {
				r.Requester.Workload = workloads(r.Requester) && rapid.Bool().Draw(t, "workload")
				r.Deny = &policy.Deny{Audiences: some("payments", "orders"), Scopes: some("read", "write")}
			} else {
				r.Allow = policy.Allow{Audiences: append(some("orders"), "payments"), Scopes: some("read", "write"), ScopesFromRequest: rapid.Bool().Draw(t, "any")}
			}
			rules = append(rules, r)
		}
		near := newLintIndex(rules)
		for _, r := range rules {
			found := map[*policy.Rule]bool{}
			near.near(r, func(other *policy.Rule) { found[other] = true })
			for _, other := range rules {
				var matters bool
				switch {
				case other == r:
				case other.Deny != nil && r.Deny != nil:
					matters = alsoDenies(other, r)
				case other.Deny != nil:
					matters = denies(other, r, "")
				case r.Deny == nil:
					matters = implies(other, r)
				}
				if matters && !found[other] {
					t.Fatalf("%+v is not held against %+v", other, r)
				}
			}
		}
	})
}

// TestRegisteredClientsOffline shows that clients which a template could register
// are decided about, and shown to who asks who can get a token.
func TestRegisteredClientsOffline(t *testing.T) {
	o := offlineWith(t,
		&policy.Rule{Name: "agents", Requester: policy.Requester{Labels: map[string]string{"tier": "agent"}}, Allow: policy.Allow{Audiences: []string{"orders"}, Scopes: []string{"read"}}},
		&policy.Rule{
			Name: "onward", Requester: policy.Requester{Labels: map[string]string{"tier": "agent"}}, Subject: &policy.Party{Issuer: policy.Self},
			Allow: policy.Allow{Audiences: []string{"bound"}, Scopes: []string{"read"}},
		},
	)
	for name, want := range map[string]Code{"agents~1": "", "agents~": InvalidClient, "others~1": InvalidClient, "agents": InvalidClient} {
		out := o.Simulate(t.Context(), Simulation{Client: name, Audiences: []string{"orders"}, Now: time.Now()})
		if got := codeOf(out.Error); got != want {
			t.Errorf("client %s: %q, want %q", name, got, want)
		}
		tried := o.Retry(t.Context(), &Record{Time: time.Now(), Client: name, Grant: ClientCredentials, AskedAudiences: []string{"orders"}, AskedType: AccessToken, Facts: &Facts{}})
		if got := codeOf(tried.Error); got != want {
			t.Errorf("client %s, once more: %q, want %q", name, got, want)
		}
	}
	ways, err := o.WhoCan("bound", "read")
	if err != nil || len(ways) != 1 || !slices.Equal(ways[0].Templates, []string{"agents"}) || len(ways[0].Clients) > 0 {
		t.Fatalf("%+v %v", ways, err)
	}
	if from := ways[0].From; len(from) != 1 || from[0].Rule != "agents" {
		t.Errorf("the token comes from %+v", from)
	}
}

func codeOf(e *Error) Code {
	if e == nil {
		return ""
	}
	return e.Code
}
