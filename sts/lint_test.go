package sts

import (
	"slices"
	"testing"
	"time"

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
		{Issuer: &Issuer{Name: "idp", Issuer: "https://idp.example.com"}},
		{Issuer: &Issuer{Name: "gitlab", Preset: "gitlab"}},
		{Client: &Client{Name: "web"}}, {Client: &Client{Name: "api", Audiences: []string{"payments"}}},
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
