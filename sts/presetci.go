package sts

import (
	"net/url"
	"regexp"
	"strings"
)

// buildkite is Buildkite pipelines [buildkite.com, OIDC in Buildkite Pipelines].
var buildkite = preset{
	issuer:     "https://agent.buildkite.com",
	algorithms: []string{"RS256"},
	foreign: func(_ *Issuer, audience string) string {
		if strings.HasPrefix(audience, "https://buildkite.com/") {
			return "anybody (it is what Buildkite puts in where a job names no audience)"
		}
		return ""
	},
	claims: with(stringClaims(`sub organization_slug organization_id pipeline_slug pipeline_id build_branch build_tag build_commit
		build_source build_id step_key job_id agent_id cluster_id cluster_name queue_id queue_key runner_environment`), isNumber, "build_number"),
	rule: func(c *ruleCheck) {
		if !c.exact("pipeline_id") && (c.narrow("pipeline_slug", "sub") || !c.exact("organization_id")) {
			c.unsafe(riskBuildkiteName, c.claims(), "the rule knows the pipeline by its slug only, which can be given to another pipeline or organization",
				"let the job ask for the claim (buildkite-agent oidc request-token --claim organization_id,pipeline_id) and add pipeline_id to claims")
		}
		if !c.narrow("build_branch", "build_tag", "build_commit") {
			c.unsafe(riskBuildkiteRef, c.claims(), "every branch and tag of the pipeline fits the rule, so everybody who can start a build can use it",
				"add build_branch to claims, and see to it that the pipeline does not build forks")
		}
	},
}

var circleIssuer = regexp.MustCompile(`^https://[^/]+/org/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$`)

// Claims of CircleCI.
const (
	circleProject  = "oidc.circleci.com/project-id"
	circleRef      = "oidc.circleci.com/vcs-ref"
	circleContexts = "oidc.circleci.com/context-ids"
)

// circleCI is the jobs of one organization of CircleCI [circleci.com, Using OpenID
// Connect tokens in jobs].
var circleCI = preset{
	pattern: func(iss string) string {
		if circleIssuer.MatchString(iss) {
			return ""
		}
		return "is not the issuer of a CircleCI organization: https://oidc.circleci.com/org/ORGANIZATION-ID"
	},
	algorithms: []string{"RS256"},
	foreign: func(i *Issuer, audience string) string {
		if m := circleIssuer.FindStringSubmatch(i.Issuer); m != nil && audience == m[1] {
			return "anybody (it is what CircleCI puts in where a project names no audience)"
		}
		return ""
	},
	claims: with(stringClaims("sub oidc.circleci.com/org-id oidc.circleci.com/vcs-origin oidc.circleci.com/job-id oidc.circleci.com/pipeline-id oidc.circleci.com/pipeline-definition-id "+circleProject+" "+circleRef), isList, circleContexts),
	rule: func(c *ruleCheck) {
		pattern := strings.Split(c.party.ClaimGlobs["sub"], "/") // org/ID/project/ID/user/ID
		bySub := len(pattern) >= 4 && pattern[0] == "org" && pattern[2] == "project" && !strings.Contains(pattern[3], "*")
		if !c.exact(circleProject, "sub") && !bySub {
			c.unsafe(riskCircleProject, c.claims(), "every project of the organization fits the rule", "add "+circleProject+" to claims")
		}
		if !c.narrow(circleRef) && !c.exact(circleContexts, "sub") {
			c.unsafe(riskCircleRef, c.claims(), "every branch and tag of the project fits the rule, so everybody who can push one can use it",
				"add "+circleRef+", such as refs/heads/main, or "+circleContexts+" with a context that is restricted, to claims")
		}
	},
}

// terraformCloud is runs of HCP Terraform, or of Terraform Enterprise
// [developer.hashicorp.com, Workload identity].
var terraformCloud = preset{
	issuer:     "https://app.terraform.io",
	algorithms: []string{"RS256"},
	spaces:     true, // "Default Project" is what every organization begins with
	foreign: func(i *Issuer, audience string) string {
		own, err := url.Parse(i.Issuer)
		if u, err2 := url.Parse(audience); err == nil && err2 == nil && u.Host != "" && u.Host == own.Host {
			return "Terraform itself"
		}
		return ""
	},
	claims: stringClaims(`sub terraform_run_phase terraform_workspace_id terraform_workspace_name terraform_organization_id
		terraform_organization_name terraform_project_id terraform_project_name terraform_full_workspace terraform_run_id`),
	rule: func(c *ruleCheck) {
		named := c.narrow("sub", "terraform_workspace_name", "terraform_full_workspace", "terraform_project_name")
		if !c.exact("terraform_workspace_id", "terraform_project_id") && (named || !c.exact("terraform_organization_id")) {
			c.unsafe(riskTerraformName, c.claims(), "the rule knows the workspace by its name only, which can be given to another",
				"add terraform_workspace_id to claims, or terraform_project_id or terraform_organization_id for all workspaces there")
		}
		if !c.exact("terraform_run_phase") {
			c.unsafe(riskTerraformPhase, c.claims(), "the rule also fits plans, which run for changes that nobody has approved yet",
				"add terraform_run_phase: apply to claims, and write another rule for plans that allows less")
		}
	},
}
