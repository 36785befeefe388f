package sts_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// TestDisclosure says how much the caller of a denied request is told.
func TestDisclosure(t *testing.T) {
	for _, row := range []struct {
		name           string
		client, issuer sts.Disclosure
		want           sts.Detail
	}{
		{"L-01 nothing by default", "", "", sts.Detail{}},
		{"L-01 nothing if the Issuer says nothing", "full", "", sts.Detail{}},
		{"L-01 nothing if the client says none", "none", "full", sts.Detail{}},
		{"the least of both", "full", "claim-names", sts.Detail{Predicate: "subject.claims.sub"}},
		{"all", "full", "full", sts.Detail{Predicate: "subject.claims.sub", Presented: `"User-1"`, Expected: `"user-1"`, Hint: "differs in upper and lower case alone, which counts"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFixture(t)
			hash, err := sts.HashSecret(f.secrets["web"])
			if err != nil {
				t.Fatal(err)
			}
			f.apply(t, sts.Change{
				Put: []sts.Resource{
					{Client: &sts.Client{Name: "web", Audiences: []string{"web"}, Secrets: []sts.ClientSecret{{Hash: hash}}, Disclosure: row.client}},
					{Issuer: &sts.Issuer{Name: "idp", Issuer: "https://idp.example.com", Disclosure: row.issuer}},
				},
				Delete: []sts.Ref{{Kind: sts.KindRule, Name: "web-acted"}},
			})
			req := f.exchange(t)
			req.Subject.Token = f.foreign(t, "idp", nil, map[string]any{"sub": "User-1", "secret": canary})
			_, err = f.service.Token(t.Context(), req)
			e := &sts.Error{}
			if !errors.As(err, &e) {
				t.Fatal(err)
			}
			got := sts.Detail{}
			if e.Detail != nil {
				got = *e.Detail
			}
			if got != row.want {
				t.Errorf("told %+v, want %+v", got, row.want)
			}
		})
	}
}

// TestDisclosureOfTokens says how much the caller is told of what is wrong with a
// token before rules are asked.
func TestDisclosureOfTokens(t *testing.T) {
	wrongAudience := map[string]any{"aud": "https://sts.example.com/"}
	expired := map[string]any{"iat": int64(1000), "exp": int64(2000)}
	for _, row := range []struct {
		name           string
		client, issuer sts.Disclosure
		claims         map[string]any
		unsigned       bool
		predicate      string
		full           bool
	}{
		{"L-01 nothing by default", "", "", wrongAudience, false, "", false},
		{"L-01 nothing if the Issuer says nothing", "full", "", wrongAudience, false, "", false},
		{"L-01 nothing if the client says none", "none", "full", wrongAudience, false, "", false},
		{"the name of the claim", "claim-names", "full", wrongAudience, false, "subject_token.aud", false},
		{"another audience", "full", "full", wrongAudience, false, "subject_token.aud", true},
		{"expired", "full", "full", expired, false, "subject_token.exp", true},
		{"a signature that is not the Issuer's", "full", "full", nil, true, "subject_token.signature", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFixture(t)
			hash, err := sts.HashSecret(f.secrets["web"])
			if err != nil {
				t.Fatal(err)
			}
			f.apply(t, sts.Change{Put: []sts.Resource{
				{Client: &sts.Client{Name: "web", Audiences: []string{"web"}, Secrets: []sts.ClientSecret{{Hash: hash}}, Disclosure: row.client}},
				{Issuer: &sts.Issuer{Name: "idp", Issuer: "https://idp.example.com", Disclosure: row.issuer}},
			}})
			req := f.exchange(t)
			req.Subject.Token = f.foreign(t, "idp", nil, row.claims)
			if row.unsigned {
				other := f.foreign(t, "idp", nil, map[string]any{"sub": "user-2"})
				req.Subject.Token = req.Subject.Token[:strings.LastIndex(req.Subject.Token, ".")] + other[strings.LastIndex(other, "."):]
			}
			_, err = f.service.Token(t.Context(), req)
			e := &sts.Error{}
			if !errors.As(err, &e) {
				t.Fatal(err)
			}
			got := sts.Detail{}
			if e.Detail != nil {
				got = *e.Detail
			}
			if got.Predicate != row.predicate || (got.Presented != "" && got.Expected != "") != row.full {
				t.Errorf("told %+v", got)
			}
		})
	}
	t.Run("L-01 a token that was revoked", func(t *testing.T) {
		f := newFixture(t)
		f.apply(t, sts.Change{Put: []sts.Resource{{Issuer: &sts.Issuer{Name: "ci", Issuer: "https://ci.example.com", SelfPresented: true, Disclosure: "full"}}}})
		f.revoke(t, sts.Revoke{Kind: sts.RevokeIssuer, Value: "ci"})
		_, err := f.service.Token(t.Context(), f.selfPresented(t))
		e := &sts.Error{}
		if !errors.As(err, &e) || e.Detail != nil {
			t.Errorf("told %+v: %v", e.Detail, err)
		}
	})
}

// TestNothingForStrangers: who has not authenticated is told nothing, whatever the
// resources say, and nothing of rules for others is ever told.
func TestNothingForStrangers(t *testing.T) {
	t.Run("L-03 before authentication", func(t *testing.T) {
		f := newFixture(t)
		f.apply(t, sts.Change{Put: []sts.Resource{{Issuer: &sts.Issuer{Name: "idp", Issuer: "https://idp.example.com", Disclosure: "full"}}}})
		req := f.exchange(t)
		req.Credential.Secret = "wrong"
		_, err := f.service.Token(t.Context(), req)
		e := &sts.Error{}
		if !errors.As(err, &e) || e.Detail != nil {
			t.Errorf("told %+v", e.Detail)
		}
	})
	t.Run("L-01 rules for others", func(t *testing.T) {
		f := newFixture(t)
		f.apply(t, sts.Change{Put: []sts.Resource{
			{Issuer: &sts.Issuer{Name: "ci", Issuer: "https://ci.example.com", SelfPresented: true, Disclosure: "full"}},
			rule("of-others", policy.Rule{Requester: policy.Requester{Clients: []string{"api"}}, Subject: &policy.Party{Issuer: "ci", Claims: map[string]any{"team": "hidden-team"}}, Allow: allow("api", "read")}),
		}})
		req := f.selfPresented(t)
		req.Subject.Token = f.foreign(t, "ci", nil, map[string]any{"sub": "job-2"})
		_, err := f.service.Token(t.Context(), req)
		e := &sts.Error{}
		if !errors.As(err, &e) || e.Detail == nil {
			t.Fatalf("told nothing: %v", err)
		}
		told, _ := json.Marshal(e.Detail)
		if strings.Contains(string(told), "hidden-team") || strings.Contains(string(told), "of-others") || !strings.Contains(string(told), "job-2") {
			t.Errorf("told %s", told)
		}
	})
	t.Run("what is too long is cut", func(t *testing.T) {
		f := newFixture(t)
		f.apply(t, sts.Change{Put: []sts.Resource{
			{Issuer: &sts.Issuer{Name: "ci", Issuer: "https://ci.example.com", SelfPresented: true, Disclosure: "full"}},
			rule("jobs", policy.Rule{Subject: &policy.Party{Issuer: "ci", Claims: map[string]any{"team": "a"}}, Allow: allow("api", "read")}),
		}})
		req := f.selfPresented(t)
		req.Subject.Token = f.foreign(t, "ci", nil, map[string]any{"team": strings.Repeat("x", 5000)})
		_, err := f.service.Token(t.Context(), req)
		e := &sts.Error{}
		if !errors.As(err, &e) || e.Detail == nil || len(e.Detail.Presented) > 210 {
			t.Errorf("told %+v", e.Detail)
		}
	})
}

func TestUnknownDisclosure(t *testing.T) {
	f := newFixture(t)
	_, err := f.service.Apply(t.Context(), sts.Change{Put: []sts.Resource{{Issuer: &sts.Issuer{Name: "x", Issuer: "https://x.example.com", Disclosure: "everything"}}}})
	e := &sts.Error{}
	if !errors.As(err, &e) || len(e.Problems) != 1 || e.Problems[0].Field != "disclosure" {
		t.Errorf("%v", err)
	}
}
