package sts_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// TestUnsafeRules edits the safe rule of a platform in one way each. It is refused
// where it was written, with the risk by which it is accepted after all.
func TestUnsafeRules(t *testing.T) {
	type edits = map[string]any
	for _, tc := range []struct {
		id, preset string
		claims     edits
		globs      map[string]string
		when       string
		risk       string // empty: safe; "-": cannot be accepted
		field      string
	}{
		{"the good rule", "github-actions", nil, nil, "", "", ""},
		{"H-04 name only", "github-actions", edits{"repository_id": absent, "repository_owner_id": absent, "repository": "octo/app"}, nil, "", "github-name-only", "subject.claims"},
		{"H-04 name and owner's id", "github-actions", edits{"repository_id": absent, "repository": "octo/app"}, nil, "", "github-name-only", "subject.claims"},
		{"H-04 owner's name", "github-actions", edits{"repository_id": absent, "repository_owner_id": absent, "repository_owner": "octo"}, nil, "", "github-name-only", "subject.claims"},
		{"H-04 nobody", "github-actions", edits{"repository_id": absent, "repository_owner_id": absent}, nil, "", "github-name-only", "subject.claims"},
		{"all of an owner", "github-actions", edits{"repository_id": absent}, nil, "", "", ""},
		{"ids by when", "github-actions", edits{"repository_id": absent, "repository_owner_id": absent}, nil, `subject.claims.repository_id == "456789" && subject.claims.ref.startsWith("refs/")`, "", ""},
		{"ids by when, perhaps", "github-actions", edits{"repository_id": absent, "repository_owner_id": absent}, nil, `subject.claims.repository_id == "456789" || subject.claims.actor == "x"`, "github-name-only", "subject.claims"},
		{"H-02 exact sub", "github-actions", edits{"sub": "repo:octo/app:ref:refs/heads/main"}, nil, "", "", ""},
		{"H-02 exact sub alone", "github-actions", edits{"repository_id": absent, "repository_owner_id": absent, "ref": absent, "sub": "repo:octo/app:ref:refs/heads/main"}, nil, "", "github-name-only", "subject.claims"},
		{"H-03 sub with ids", "github-actions", edits{"repository_id": absent, "repository_owner_id": absent, "ref": absent, "sub": "repo:octo@123456/app@456789:ref:refs/heads/main"}, nil, "", "", ""},
		{"H-03 sub of both forms", "github-actions", edits{"repository_id": absent, "repository_owner_id": absent, "sub": []any{"repo:octo@123456/app@456789:ref:refs/heads/main", "repo:octo/app:ref:refs/heads/main"}}, nil, "", "github-name-only", "subject.claims"},
		{"H-03 dash is part of a name", "github-actions", edits{"repository_id": absent, "repository_owner_id": absent, "sub": "repo:octo-123456/app-456789:ref:refs/heads/main"}, nil, "", "github-name-only", "subject.claims"},
		{"H-06 owner", "github-actions", nil, map[string]string{"sub": "repo:octo*"}, "", "github-wildcard-owner", "subject.claim_globs.sub"},
		{"H-06 everybody", "github-actions", nil, map[string]string{"sub": "repo:*"}, "", "github-wildcard-owner", "subject.claim_globs.sub"},
		{"H-06 owner, same name", "github-actions", nil, map[string]string{"repository": "*/app"}, "", "github-wildcard-owner", "subject.claim_globs.repository"},
		{"H-06 part of the owner", "github-actions", nil, map[string]string{"repository_owner": "octo-*"}, "", "github-wildcard-owner", "subject.claim_globs.repository_owner"},
		{"repository of a known owner", "github-actions", nil, map[string]string{"repository": "octo/app-*"}, "", "", ""},
		{"H-06 repository of an unknown owner", "github-actions", edits{"repository_id": absent, "repository_owner_id": absent}, map[string]string{"repository": "octo/*"}, "", "github-name-only github-wildcard-owner", "subject.claims"},
		{"H-07 every event", "github-actions", edits{"event_name": absent}, nil, "", "github-any-event", "subject.claims"},
		{"H-07 every event by sub", "github-actions", edits{"event_name": absent}, map[string]string{"sub": "repo:octo/app:*"}, "", "github-any-event", "subject.claims"},
		{"event by when", "github-actions", edits{"event_name": absent}, nil, `subject.claims.event_name in ["push"]`, "", ""},
		{"H-10 all events but one", "github-actions", edits{"event_name": absent}, nil, `subject.claims.event_name != "pull_request"`, "github-any-event", "subject.claims"},
		{"H-10 pull_request_target", "github-actions", edits{"event_name": []any{"push", "pull_request_target"}}, nil, "", "github-pull-request-ref", "subject.claims.event_name"},
		{"H-10 workflow_run", "github-actions", edits{"event_name": "workflow_run"}, nil, "", "github-pull-request-ref", "subject.claims.event_name"},
		{"H-10 base of a pull request", "github-actions", edits{"event_name": "pull_request", "ref": absent, "base_ref": "main"}, nil, "", "github-pull-request-ref", "subject.claims.event_name"},
		{"H-10 pull_request_target, protected ref", "github-actions", edits{"event_name": "pull_request_target", "ref": absent, "ref_protected": "true"}, nil, "", "github-pull-request-ref", "subject.claims.event_name"},
		{"H-10 workflow_run, workflow of a ref", "github-actions", edits{"event_name": "workflow_run", "ref": absent, "workflow_ref": "octo/app/.github/workflows/deploy.yml@refs/heads/main"}, nil, "", "github-pull-request-ref", "subject.claims.event_name"},
		{"pull requests as such", "github-actions", edits{"event_name": "pull_request", "ref": absent}, nil, "", "", ""},
		{"H-09 no ref", "github-actions", edits{"ref": absent}, nil, "", "github-any-ref", "subject.claims"},
		{"H-09 a pattern of every branch", "github-actions", edits{"ref": absent}, map[string]string{"ref": "refs/heads/*"}, "", "github-any-ref", "subject.claims"},
		{"H-09 a pattern of every ref", "github-actions", edits{"ref": absent}, map[string]string{"ref": "refs/*/*"}, "", "github-any-ref", "subject.claims"},
		{"releases", "github-actions", edits{"ref": absent}, map[string]string{"ref": "refs/tags/v*"}, "", "", ""},
		{"H-09 customised sub", "github-actions", edits{"ref": absent, "sub": "repository_owner:octo"}, nil, "", "github-any-ref", "subject.claims"},
		{"environment", "github-actions", edits{"ref": absent, "environment": "prod"}, nil, "", "", ""},
		{"environment by sub", "github-actions", edits{"ref": absent, "sub": "repo:octo/app:environment:prod"}, nil, "", "", ""},
		{"H-08 environment that looks like a ref", "github-actions", edits{"ref": absent, "sub": "repo:octo/app:environment:prod:ref:refs/heads/main"}, nil, "", "github-any-ref", "subject.claims"},
		{"reusable workflow", "github-actions", edits{"repository_id": absent, "repository_owner_id": absent, "ref": absent, "job_workflow_ref": "octo/automation/.github/workflows/oidc.yml@refs/heads/main"}, nil, "", "github-reusable-workflow", "subject.claims"},
		{"reusable workflow, known owner", "github-actions", edits{"repository_id": absent, "ref": absent, "job_workflow_ref": "octo/automation/.github/workflows/oidc.yml@refs/heads/main"}, nil, "", "", ""},
		{"number for a string", "github-actions", edits{"repository_id": int64(456789)}, nil, "", "-", "subject.claims.repository_id"},
		{"number for a string by when", "github-actions", nil, nil, `subject.claims.actor_id == 12`, "-", "when"},
		{"boolean for a string", "github-actions", edits{"ref_protected": true}, nil, "", "-", "subject.claims.ref_protected"},

		{"the good rule", "gitlab", nil, nil, "", "", ""},
		{"GL-02 path only", "gitlab", edits{"project_id": absent, "project_path": "my-group/my-project"}, nil, "", "gitlab-name-only", "subject.claims"},
		{"GL-02 path and group", "gitlab", edits{"project_id": absent, "project_path": "my-group/my-project", "namespace_id": "72"}, nil, "", "gitlab-name-only", "subject.claims"},
		{"all of a group", "gitlab", edits{"project_id": absent, "namespace_id": "72"}, nil, "", "", ""},
		{"GL-07 group", "gitlab", nil, map[string]string{"project_path": "my-*/my-project"}, "", "gitlab-wildcard-group", "subject.claim_globs.project_path"},
		{"GL-07 project of an unknown group", "gitlab", edits{"project_id": absent}, map[string]string{"project_path": "my-group/*"}, "", "gitlab-name-only gitlab-wildcard-group", "subject.claims"},
		{"GL-07 sub", "gitlab", nil, map[string]string{"sub": "project_path:*/x:ref_type:branch:ref:main"}, "", "gitlab-wildcard-group", "subject.claim_globs.sub"},
		{"GL-04 boolean", "gitlab", edits{"ref_protected": true}, nil, "", "-", "subject.claims.ref_protected"},
		{"GL-04 boolean by when", "gitlab", nil, nil, `subject.claims.environment_protected == true`, "-", "when"},
		{"string for a number", "gitlab", edits{"runner_id": "1"}, nil, "", "-", "subject.claims.runner_id"},
		{"pattern for a number", "gitlab", nil, map[string]string{"runner_id": "1*"}, "", "-", "subject.claim_globs.runner_id"},
		{"list that contains", "gitlab", edits{"groups_direct": "mygroup/mysubgroup"}, nil, "", "", ""},
		{"GL-08 every source", "gitlab", edits{"pipeline_source": absent}, nil, "", "gitlab-any-source", "subject.claims"},
		{"every ref", "gitlab", edits{"ref_path": absent, "ref_protected": absent}, nil, "", "gitlab-any-ref", "subject.claims"},
		{"environment that anybody can name", "gitlab", edits{"ref_path": absent, "ref_protected": absent, "environment": "prod"}, nil, "", "gitlab-any-ref", "subject.claims"},
		{"protected environment", "gitlab", edits{"ref_path": absent, "ref_protected": absent, "environment": "prod", "environment_protected": "true"}, nil, "", "", ""},
		{"a pattern of every branch", "gitlab", edits{"ref_path": absent, "ref_protected": absent}, map[string]string{"ref_path": "refs/heads/*"}, "", "gitlab-any-ref", "subject.claims"},
		{"branch or tag", "gitlab", edits{"ref_path": absent, "ref_protected": absent, "ref": "main"}, nil, "", "gitlab-ref-type", "subject.claims.ref"},
		{"branch", "gitlab", edits{"ref_path": absent, "ref_protected": absent, "ref": "main", "ref_type": "branch"}, nil, "", "", ""},

		{"the good rule", "kubernetes", nil, nil, "", "", ""},
		{"every account", "kubernetes", edits{"sub": absent}, nil, "", "kubernetes-any-account", "subject.claims"},
		{"accounts of a namespace", "kubernetes", edits{"sub": absent}, map[string]string{"sub": "system:serviceaccount:prod:*"}, "", "", ""},
		{"account of any namespace", "kubernetes", edits{"sub": absent}, map[string]string{"sub": "system:serviceaccount:*:deployer"}, "", "kubernetes-any-namespace", "subject.claim_globs.sub"},
		{"K-10 prefix of a namespace", "kubernetes", edits{"sub": absent}, map[string]string{"sub": "system:serviceaccount:prod*:deployer"}, "", "kubernetes-any-namespace", "subject.claim_globs.sub"},
		{"no service account", "kubernetes", edits{"sub": "prod/deployer"}, nil, "", "-", "subject.claims.sub"},

		{"the good rule", "spiffe", nil, nil, "", "", ""},
		{"every workload", "spiffe", edits{"sub": absent}, nil, "", "spiffe-any-id", "subject.claims"},
		{"S-07 whole segments", "spiffe", edits{"sub": absent}, map[string]string{"sub": "spiffe://example.org/ns/prod/sa/*"}, "", "", ""},
		{"S-07 part of a segment", "spiffe", edits{"sub": absent}, map[string]string{"sub": "spiffe://example.org/ns/prod*/sa/x"}, "", "spiffe-partial-segment", "subject.claim_globs.sub"},
		{"S-04 other trust domain", "spiffe", edits{"sub": "spiffe://evil.org/ns/prod/sa/deployer"}, nil, "", "-", "subject.claims.sub"},
		{"S-04 pattern for the trust domain", "spiffe", edits{"sub": absent}, map[string]string{"sub": "spiffe://example*/ns/prod/sa/x"}, "", "-", "subject.claim_globs.sub"},
		{"S-01 not an id", "spiffe", edits{"sub": "spiffe://example.org/a/"}, nil, "", "-", "subject.claims.sub"},

		{"slug only", "buildkite", edits{"pipeline_id": absent, "organization_id": absent, "pipeline_slug": "super-duper-app"}, nil, "", "buildkite-name-only", "subject.claims"},
		{"every branch", "buildkite", edits{"build_branch": absent}, nil, "", "buildkite-any-branch", "subject.claims"},
		{"every project", "circleci", edits{"oidc.circleci.com/project-id": absent}, nil, "", "circleci-any-project", "subject.claims"},
		{"every ref", "circleci", edits{"oidc.circleci.com/vcs-ref": absent}, nil, "", "circleci-any-ref", "subject.claims"},
		{"name only", "terraform-cloud", edits{"terraform_workspace_id": absent, "terraform_workspace_name": "my-workspace"}, nil, "", "terraform-name-only", "subject.claims"},
		{"every phase", "terraform-cloud", edits{"terraform_run_phase": absent}, nil, "", "terraform-any-phase", "subject.claims"},
		{"email only", "google", edits{"sub": absent, "email": "deployer@my-project.iam.gserviceaccount.com"}, nil, "", "google-email-only", "subject.claims"},
		{"C-18 email_verified a string", "google", edits{"email_verified": "true"}, nil, "", "-", "subject.claims.email_verified"},
		{"every principal", "aws", edits{"sub": absent}, nil, "", "aws-any-principal", "subject.claims"},
		{"every account", "aws", edits{"sub": absent}, map[string]string{"sub": "arn:aws:iam::*:role/DataProcessingRole"}, "", "aws-any-principal", "subject.claims"},
		{"every role", "aws", edits{"sub": absent}, map[string]string{"sub": "arn:aws:iam::123456789012:role/*"}, "", "aws-any-principal", "subject.claims"},
		{"some roles", "aws", edits{"sub": absent}, map[string]string{"sub": "arn:aws:iam::123456789012:role/deploy-*"}, "", "", ""},
		{"roles of a path", "aws", edits{"sub": absent}, map[string]string{"sub": "arn:aws:iam::123456789012:role/deploy/*"}, "", "", ""},
		{"name only", "azure", edits{"oid": absent, "preferred_username": "deployer@example.com"}, nil, "", "azure-name-only", "subject.claims"},
	} {
		t.Run(tc.preset+" "+tc.id, func(t *testing.T) {
			f := newFixture(t)
			p := f.trustPlatform(t, tc.preset)
			r := p.rule(tc.claims)
			r.Subject.ClaimGlobs, r.When = tc.globs, tc.when
			problems := f.problems(t, r)
			if tc.risk == "" {
				if problems != nil {
					t.Errorf("a safe rule is refused: %+v", problems)
				}
				return
			}
			if problems == nil {
				t.Fatal("accepted")
			}
			if problems[0].Field != tc.field || problems[0].Index != 0 || problems[0].Ref.Name != "platform" {
				t.Errorf("%+v, want field %s", problems[0], tc.field)
			}
			if tc.risk == "-" {
				if len(problems) != 1 || strings.Contains(problems[0].Message, "accept_risks") {
					t.Errorf("%+v", problems)
				}
				return
			}
			want := strings.Fields(tc.risk)
			if len(problems) != len(want) {
				t.Fatalf("%+v, want %v", problems, want)
			}
			for i, risk := range want {
				if !strings.HasSuffix(problems[i].Message, "accept_risks: ["+risk+"]") {
					t.Errorf("%s, want risk %s", problems[i].Message, risk)
				}
			}
			r.AcceptRisks = want
			if problems := f.problems(t, r); problems != nil {
				t.Errorf("still refused: %+v", problems)
			}
			if got, _, err := f.service.Resource(sts.Ref{Kind: sts.KindRule, Name: "platform"}); err != nil || !slices.Equal(got.Rule.AcceptRisks, want) {
				t.Errorf("what was accepted is not recorded: %+v", got.Rule)
			}
			if left := f.service.Unsafe(); left != nil {
				t.Errorf("accepted and still reported: %+v", left)
			}
		})
	}
}

// TestUnsafeMoment holds when rules are examined: when they or their Issuer change,
// and not at a start.
func TestUnsafeMoment(t *testing.T) {
	f := newFixture(t)
	p := f.trustPlatform(t, "github-actions", func(i *sts.Issuer) {
		i.Preset, i.Issuer = "", "https://token.actions.githubusercontent.com"
	})
	byName := p.rule(map[string]any{"repository_id": absent, "repository_owner_id": absent, "repository": "octo/app"})
	if problems := f.problems(t, byName); problems != nil {
		t.Fatalf("without a preset: %+v", problems)
	}
	i := sts.Issuer{Name: "platform", Preset: "github-actions"}
	_, err := f.service.Apply(t.Context(), sts.Change{Put: []sts.Resource{{Issuer: &i}}})
	if err == nil {
		t.Fatal("a preset is given to the Issuer of an unsafe rule")
	}

	// As an older version has left it.
	f.store.Put(sts.Resource{Issuer: &i})
	again, err := sts.New(t.Context(), sts.Config{Issuer: selfIssuer, Store: f.store, Keys: f.keys, IssuerKeys: f.issuers, ClientKeys: f.clients, Replay: f.replay, Audit: f.audit, Revocations: f.revoked})
	if err != nil {
		t.Fatalf("a rule that was accepted once stops the start: %v", err)
	}
	if left := again.Unsafe(); len(left) != 1 || left[0].Ref.Name != "platform" {
		t.Errorf("%+v", left)
	}
	if _, err := again.Apply(t.Context(), sts.Change{Put: []sts.Resource{{Audience: &sts.Audience{Name: "beside"}}}}); err != nil {
		t.Errorf("another change is refused for it: %v", err)
	}

	_, err = f.service.Apply(t.Context(), sts.Change{Put: []sts.Resource{rule("web-users", policy.Rule{
		Requester: policy.Requester{Clients: []string{"web"}}, Subject: &policy.Party{Issuer: "idp"}, Allow: allow("api"), AcceptRisks: []string{"github-name-onyl"},
	})}})
	if err == nil {
		t.Error("a risk that does not exist is accepted")
	}
}

// TestActorRules holds that the actor of a rule is examined like its subject.
func TestActorRules(t *testing.T) {
	f := newFixture(t)
	f.trustPlatform(t, "kubernetes")
	problems := f.problems(t, policy.Rule{
		Requester: policy.Requester{Clients: []string{"web"}}, Subject: &policy.Party{Issuer: "idp"}, Actor: &policy.Party{Issuer: "platform"}, Allow: allow("api"),
	})
	if len(problems) != 1 || problems[0].Field != "actor.claims" {
		t.Errorf("%+v", problems)
	}
}

// TestRiskMeanings holds that every risk has a sentence and a name that says whose
// it is.
func TestRiskMeanings(t *testing.T) {
	for risk, meaning := range sts.RiskMeanings() {
		if !strings.HasSuffix(meaning, ".") || !slices.ContainsFunc(sts.Presets(), func(p string) bool { return strings.HasPrefix(risk, strings.Split(p, "-")[0]) }) {
			t.Errorf("%s: %s", risk, meaning)
		}
	}
	if m := sts.RiskMeanings(); len(m) == 0 || !maps.Equal(m, sts.RiskMeanings()) {
		t.Error(m)
	}
}

// TestFederatedClientOfPreset holds that a client is not known by what somebody else
// can have either [H-04].
func TestFederatedClientOfPreset(t *testing.T) {
	f := newFixture(t)
	client := func(risks []string, claims map[string]any) sts.Resource {
		return sts.Resource{Client: &sts.Client{Name: "deploy", Federated: &sts.FederatedIdentity{Issuer: "github", Claims: claims, AcceptRisks: risks}}}
	}
	github := sts.Resource{Issuer: &sts.Issuer{Name: "github", Preset: "github-actions", Audience: "https://sts.example.com"}}
	pinned := map[string]any{
		"repository_id": "1234", "repository_owner_id": "99", "ref": "refs/heads/main", "event_name": "push", "sub": "repo:octo/app:ref:refs/heads/main",
	}
	for name, tc := range map[string]struct {
		r     sts.Resource
		field string
	}{
		"by names":          {client(nil, map[string]any{"sub": "repo:octo/app:ref:refs/heads/main"}), "federated"},
		"no such risk":      {client([]string{"github-nmae-only"}, pinned), "federated.accept_risks[0]"},
		"by ids":            {client(nil, pinned), ""},
		"by names, knowing": {client([]string{"github-name-only", "github-any-event", "github-any-ref", "github-pull-request-ref"}, map[string]any{"sub": "repo:octo/app:ref:refs/heads/main"}), ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := f.service.Apply(t.Context(), sts.Change{Put: []sts.Resource{github, tc.r}, DryRun: true})
			e, _ := errors.AsType[*sts.Error](err)
			switch {
			case tc.field == "" && err != nil:
				t.Errorf("%v: %+v", err, e.Problems)
			case tc.field != "" && (e == nil || e.Problems[0].Ref.Kind != sts.KindClient || !strings.HasPrefix(e.Problems[0].Field, tc.field)):
				t.Errorf("%v: %+v", err, e)
			case tc.field == "federated" && !strings.HasSuffix(e.Problems[0].Message, "write accept_risks: [github-name-only] under federated"):
				t.Errorf("it does not say where the risk is accepted: %s", e.Problems[0].Message)
			}
		})
	}
}
