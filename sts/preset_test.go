package sts_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// recorded returns the claims of a platform's documentation.
func recorded(t testing.TB, name string) map[string]any {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "presets", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Source string
		Claims map[string]any
	}
	if err := json.Unmarshal(b, &file); err != nil || file.Source == "" {
		t.Fatalf("%s: %v", name, err)
	}
	return file.Claims
}

// platform is a preset as a user has it.
type platform struct {
	recorded string
	issuer   sts.Issuer
	claims   map[string]any // of the safe rule
	globs    map[string]string
	when     string
}

// of returns a rule like the safe one, with edits of its claims.
func (p platform) rule(claims map[string]any) policy.Rule {
	return policy.Rule{
		Subject: &policy.Party{Issuer: "platform", Claims: edit(maps.Clone(p.claims), claims), ClaimGlobs: maps.Clone(p.globs)},
		When:    p.when, Allow: allow("api", "read"),
	}
}

var platforms = map[string]platform{
	"github-actions": {
		recorded: "github-actions",
		claims:   map[string]any{"repository_id": "456789", "repository_owner_id": "123456", "ref": "refs/heads/main", "event_name": []any{"push", "workflow_dispatch"}},
	},
	"gitlab": {
		recorded: "gitlab", issuer: sts.Issuer{Issuer: "https://gitlab.example.com"},
		claims: map[string]any{"project_id": "20", "ref_path": "refs/heads/feature-branch-1", "ref_protected": "true", "pipeline_source": "push"},
	},
	"kubernetes": {
		recorded: "kubernetes", issuer: sts.Issuer{Issuer: "https://kubernetes.default.svc.cluster.local", AllowNetworks: []string{"10.0.0.0/8"}},
		claims: map[string]any{"sub": "system:serviceaccount:prod:deployer"},
	},
	"spiffe": {
		recorded: "spiffe", issuer: sts.Issuer{SPIFFEBundle: &sts.SPIFFEBundle{TrustDomain: "example.org", URL: "https://spire.example.org/bundle"}},
		claims: map[string]any{"sub": "spiffe://example.org/ns/prod/sa/deployer"},
	},
	"buildkite": {
		recorded: "buildkite",
		claims:   map[string]any{"organization_id": "0184990a-477b-4fa8-9968-496074483k77", "pipeline_id": "0184990a-4782-42b5-afc1-16715b10b1l0", "build_branch": "main"},
	},
	"circleci": {
		recorded: "circleci", issuer: sts.Issuer{Issuer: "https://oidc.circleci.com/org/b1a2c3d4-1111-2222-3333-444455556666"},
		claims: map[string]any{"oidc.circleci.com/project-id": "c1a2c3d4-1111-2222-3333-444455556666", "oidc.circleci.com/vcs-ref": "refs/heads/main"},
	},
	"terraform-cloud": {
		recorded: "terraform-cloud",
		claims:   map[string]any{"terraform_workspace_id": "ws-mbsd5E3Ktt5Rg2Xm", "terraform_run_phase": "apply"},
	},
	"google": {
		recorded: "google", claims: map[string]any{"sub": "103874629837462983746"},
	},
	"aws": {
		recorded: "aws", issuer: sts.Issuer{Issuer: "https://abc123-def456-ghi789-jkl012.tokens.sts.global.api.aws"},
		claims: map[string]any{"sub": "arn:aws:iam::123456789012:role/DataProcessingRole"},
	},
	"azure": {
		recorded: "azure", issuer: sts.Issuer{Issuer: "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0"},
		claims: map[string]any{"oid": "690222be-ff1a-4d56-abd1-7e4f7d38e474", "tid": "72f988bf-86f1-41af-91ab-2d7cd011db47"},
	},
}

// trustPlatform makes an Issuer named platform of a preset whose tokens the fixture
// can sign, with edits, and no rule for it.
func (f *fixture) trustPlatform(t testing.TB, preset string, edits ...func(*sts.Issuer)) platform {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f.issuers.signers["platform"] = key
	p := platforms[preset]
	i := p.issuer
	i.Name, i.Preset, i.SelfPresented, i.Algorithms = "platform", preset, true, []string{"ES256"}
	for _, e := range edits {
		e(&i)
	}
	f.apply(t, sts.Change{Put: []sts.Resource{{Issuer: &i}}})
	return p
}

// platformRequest presents a recorded token, with times of now, for us, and edits.
func (f *fixture) platformRequest(t testing.TB, name string, edits map[string]any) sts.TokenRequest {
	t.Helper()
	c := edit(recorded(t, name), map[string]any{"aud": selfIssuer, "iat": f.now.Unix(), "nbf": f.now.Unix(), "exp": f.now.Unix() + 600})
	token := f.issuers.sign(t, "platform", map[string]any{"alg": "ES256", "kid": "platform-1", "typ": "JWT"}, edit(c, edits))
	return sts.TokenRequest{Grant: sts.TokenExchange, Audiences: []string{"api"}, Subject: sts.Presented{Token: token, Type: sts.JWT}}
}

// problems applies a rule and returns what is wrong with it.
func (f *fixture) problems(t testing.TB, r policy.Rule) []sts.Problem {
	t.Helper()
	_, err := f.service.Apply(t.Context(), sts.Change{Put: []sts.Resource{rule("platform", r)}})
	e, _ := errors.AsType[*sts.Error](err)
	if err == nil {
		return nil
	}
	if e == nil || e.Code != sts.InvalidResource {
		t.Fatal(err)
	}
	return e.Problems
}

// TestPresets accepts the safe rule of each platform, grants by it what the
// platform's documentation says that tokens look like, and grants nothing else.
func TestPresets(t *testing.T) {
	if got := slices.Sorted(maps.Keys(platforms)); !slices.Equal(got, sts.Presets()) {
		t.Fatalf("tested %v of %v", got, sts.Presets())
	}
	for name := range platforms {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			p := f.trustPlatform(t, name)
			if problems := f.problems(t, p.rule(nil)); problems != nil {
				t.Fatalf("the safe rule is refused: %+v", problems)
			}
			_, claims := f.token(t, f.platformRequest(t, p.recorded, nil))
			if want := "platform:" + recorded(t, p.recorded)["sub"].(string); claims["sub"] != want {
				t.Errorf("sub %v, want %s", claims["sub"], want)
			}
			for claim, v := range p.claims {
				other := map[string]any{claim: "another"}
				if s, ok := v.(string); ok && claim == "sub" {
					other[claim] = s + "x"
				}
				if name == "kubernetes" || name == "spiffe" {
					continue // see their own tests
				}
				f.assertRefused(t, f.platformRequest(t, p.recorded, other), sts.InvalidRequest)
				f.assertRefused(t, f.platformRequest(t, p.recorded, map[string]any{claim: absent}), sts.InvalidRequest)
			}
			for aud, says := range map[string]any{"the platform's own": recorded(t, p.recorded)["aud"], "none": absent, "others'": "https://other.example.com"} {
				if says == selfIssuer {
					continue
				}
				e := f.assertRefused(t, f.platformRequest(t, p.recorded, map[string]any{"aud": says}), sts.InvalidRequest)
				if !strings.Contains(e.Message, "aud") {
					t.Errorf("aud is %s: %s", aud, e.Message)
				}
			}
		})
	}
}

// TestPresetAlgorithms holds that a preset says which algorithms count, and the
// issuer where there is one for all.
func TestPresetAlgorithms(t *testing.T) {
	for name, allowed := range map[string]bool{"github-actions": false, "gitlab": false, "kubernetes": true, "spiffe": true, "google": false} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			p := f.trustPlatform(t, name, func(i *sts.Issuer) { i.Algorithms = nil })
			f.problems(t, p.rule(nil))
			r := f.platformRequest(t, p.recorded, nil)
			if allowed {
				f.token(t, r)
				return
			}
			if e := f.assertRefused(t, r, sts.InvalidRequest); !strings.Contains(e.Message, "algorithm") {
				t.Error(e.Message)
			}
		})
	}
	f := newFixture(t)
	f.trustPlatform(t, "google")
	last := f.issuers.checked[len(f.issuers.checked)-1]
	for _, i := range f.issuers.checked {
		if i.Name == "platform" {
			last = i
		}
	}
	if last.Issuer != "https://accounts.google.com" || !slices.Equal(last.JWKSHosts, []string{"www.googleapis.com"}) {
		t.Errorf("the keys of Google are looked for as %+v", last)
	}
	got, _, err := f.service.Resource(sts.Ref{Kind: sts.KindIssuer, Name: "platform"})
	if err != nil || got.Issuer.Issuer != "" {
		t.Errorf("the resource is not what was written: %+v", got.Issuer)
	}
}

// TestNoIssuerTwice holds that two Issuers that lack their identifier are told that,
// and not that it is the same.
func TestNoIssuerTwice(t *testing.T) {
	f := newFixture(t)
	_, err := f.service.Apply(t.Context(), sts.Change{Put: []sts.Resource{{Issuer: &sts.Issuer{Name: "one"}}, {Issuer: &sts.Issuer{Name: "two"}}}})
	e, ok := errors.AsType[*sts.Error](err)
	if !ok || len(e.Problems) != 2 {
		t.Fatalf("%v: %+v", err, e)
	}
	for _, p := range e.Problems {
		if p.Message != "is missing: the exact iss of its tokens" {
			t.Errorf("%+v", p)
		}
	}
}

// TestPresetIssuers holds what is refused of an Issuer, and which field is wrong.
func TestPresetIssuers(t *testing.T) {
	bundle := &sts.SPIFFEBundle{TrustDomain: "example.org", URL: "https://spire.example.org/bundle"}
	for name, tc := range map[string]struct {
		i     sts.Issuer
		field string // empty: accepted
	}{
		"github":                           {sts.Issuer{Preset: "github-actions"}, ""},
		"H-13 github enterprise":           {sts.Issuer{Preset: "github-actions", Issuer: "https://token.actions.githubusercontent.com/ACME"}, ""},
		"github enterprise server":         {sts.Issuer{Preset: "github-actions", Issuer: "https://github.corp.example.com/_services/token"}, ""},
		"github data residency":            {sts.Issuer{Preset: "github-actions", Issuer: "https://token.actions.acme.ghe.com"}, ""},
		"I-04 github look-alike":           {sts.Issuer{Preset: "github-actions", Issuer: "https://token.actions.githubusercontent.com.evil.com"}, "issuer"},
		"I-04 github ghe.com look-alike":   {sts.Issuer{Preset: "github-actions", Issuer: "https://token.actions.acme.ghe.com.evil.com"}, "issuer"},
		"github two segments":              {sts.Issuer{Preset: "github-actions", Issuer: "https://token.actions.githubusercontent.com/a/b"}, "issuer"},
		"github trailing slash":            {sts.Issuer{Preset: "github-actions", Issuer: "https://token.actions.githubusercontent.com/"}, "issuer"},
		"H-01 github default audience":     {sts.Issuer{Preset: "github-actions", Audience: "https://github.com/octo"}, "audience"},
		"H-01 ghes default audience":       {sts.Issuer{Preset: "github-actions", Issuer: "https://github.corp.example.com/_services/token", Audience: "https://github.corp.example.com/octo"}, "audience"},
		"audience of AWS":                  {sts.Issuer{Preset: "github-actions", Audience: "sts.amazonaws.com"}, "audience"},
		"audience of Google":               {sts.Issuer{Preset: "gitlab", Audience: "https://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q"}, "audience"},
		"audience of Azure, no preset":     {sts.Issuer{Issuer: "https://idp2.example.com", Audience: "api://AzureADTokenExchange"}, "audience"},
		"GL-06 gitlab.com":                 {sts.Issuer{Preset: "gitlab"}, ""},
		"GL-06 gitlab self-managed":        {sts.Issuer{Preset: "gitlab", Issuer: "https://gitlab.example.com"}, ""},
		"GL-01 gitlab default audience":    {sts.Issuer{Preset: "gitlab", Audience: "https://gitlab.com/"}, "audience"},
		"GL-01 gitlab audience is issuer":  {sts.Issuer{Preset: "gitlab", Issuer: "https://gitlab.example.com", Audience: "https://gitlab.example.com"}, "audience"},
		"kubernetes without issuer":        {sts.Issuer{Preset: "kubernetes"}, "issuer"},
		"K-02 kubernetes API server":       {sts.Issuer{Preset: "kubernetes", Issuer: "https://k8s.example.com", Audience: "https://kubernetes.default.svc"}, "audience"},
		"K-02 kubernetes distribution":     {sts.Issuer{Preset: "kubernetes", Issuer: "https://k8s.example.com", Audience: "k3s"}, "audience"},
		"K-02 kubernetes cluster URL":      {sts.Issuer{Preset: "kubernetes", Issuer: "https://container.googleapis.com/v1/projects/p/locations/l/clusters/c", Audience: "https://container.googleapis.com/v1/projects/p/locations/l/clusters/c/"}, "audience"},
		"eks":                              {sts.Issuer{Preset: "kubernetes", Issuer: "https://oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLED539D4633E53DE1B71EXAMPLE"}, ""},
		"review":                           {sts.Issuer{Preset: "kubernetes", Issuer: "https://k8s.example.com", TokenReview: &sts.TokenReview{APIServer: "https://k8s", TokenFile: "/t"}}, ""},
		"review of another platform":       {sts.Issuer{Preset: "gitlab", TokenReview: &sts.TokenReview{APIServer: "https://k8s", TokenFile: "/t"}}, "token_review"},
		"spiffe":                           {sts.Issuer{Preset: "spiffe", SPIFFEBundle: bundle}, ""},
		"spiffe with an issuer":            {sts.Issuer{Preset: "spiffe", SPIFFEBundle: bundle, Issuer: "https://oidc.example.org"}, ""},
		"spiffe with another trust domain": {sts.Issuer{Preset: "spiffe", SPIFFEBundle: bundle, Issuer: "spiffe://example.com"}, "issuer"},
		"spiffe without bundle":            {sts.Issuer{Preset: "spiffe", Issuer: "https://oidc.example.org"}, "spiffe_bundle"},
		"bundle without spiffe":            {sts.Issuer{Issuer: "https://oidc.example.org", SPIFFEBundle: bundle}, "spiffe_bundle"},
		"bundle nowhere":                   {sts.Issuer{Preset: "spiffe", SPIFFEBundle: &sts.SPIFFEBundle{TrustDomain: "example.org"}}, "spiffe_bundle"},
		"S-01 trust domain":                {sts.Issuer{Preset: "spiffe", SPIFFEBundle: &sts.SPIFFEBundle{TrustDomain: "Example.org", URL: "https://x"}}, "spiffe_bundle.trust_domain"},
		"others of another platform":       {sts.Issuer{Preset: "gitlab", AllowOtherAudiences: true}, "allow_other_audiences"},
		"unknown preset":                   {sts.Issuer{Preset: "github"}, "preset"},
		"circleci without organization":    {sts.Issuer{Preset: "circleci", Issuer: "https://oidc.circleci.com"}, "issuer"},
		"circleci default audience":        {sts.Issuer{Preset: "circleci", Issuer: "https://oidc.circleci.com/org/b1a2c3d4-1111-2222-3333-444455556666", Audience: "b1a2c3d4-1111-2222-3333-444455556666"}, "audience"},
		"buildkite default audience":       {sts.Issuer{Preset: "buildkite", Audience: "https://buildkite.com/acme-inc"}, "audience"},
		"terraform default audience":       {sts.Issuer{Preset: "terraform-cloud", Audience: "https://app.terraform.io/"}, "audience"},
		"terraform enterprise":             {sts.Issuer{Preset: "terraform-cloud", Issuer: "https://tfe.example.com"}, ""},
		"aws look-alike":                   {sts.Issuer{Preset: "aws", Issuer: "https://tokens.sts.global.api.aws.evil.com"}, "issuer"},
		"azure of everybody":               {sts.Issuer{Preset: "azure", Issuer: "https://login.microsoftonline.com/common/v2.0"}, "issuer"},
		"azure in China":                   {sts.Issuer{Preset: "azure", Issuer: "https://login.partner.microsoftonline.cn/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0"}, ""},
		"azure version 1":                  {sts.Issuer{Preset: "azure", Issuer: "https://sts.windows.net/72f988bf-86f1-41af-91ab-2d7cd011db47/"}, ""},
		"no issuer at all":                 {sts.Issuer{}, "issuer"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			i := tc.i
			i.Name = "new"
			_, err := f.service.Apply(t.Context(), sts.Change{Put: []sts.Resource{{Issuer: &i}}})
			e, _ := errors.AsType[*sts.Error](err)
			switch {
			case tc.field == "" && err != nil:
				t.Errorf("%v %+v", err, e.Problems)
			case tc.field != "" && (e == nil || e.Problems[0].Field != tc.field || e.Problems[0].Index != 0):
				t.Errorf("%v, want a problem of %s", err, tc.field)
			}
		})
	}
}
