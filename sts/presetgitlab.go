package sts

import (
	"net/url"
	"slices"
	"strings"
)

// gitlab is GitLab CI, of gitlab.com or of an instance of one's own
// [docs.gitlab.com, OpenID Connect authentication using ID tokens].
var gitlab = preset{
	issuer:     "https://gitlab.com",
	algorithms: []string{"RS256"},
	foreign:    gitlabForeign,
	claims: with(with(stringClaims(`sub namespace_id namespace_path project_id project_path project_visibility
		job_project_id job_project_path job_namespace_id job_namespace_path user_id user_login user_email user_access_level
		pipeline_id pipeline_source job_id job_source ref ref_type ref_path ref_protected environment environment_protected
		environment_action deployment_tier deployment_environment runner_environment sha ci_config_ref_uri ci_config_sha`),
		isNumber, "runner_id"), isList, "groups_direct"),
	rule: gitlabRule,
}

// gitlabForeign knows the audience of tokens that name none: the instance.
func gitlabForeign(i *Issuer, audience string) string {
	own, err := url.Parse(i.Issuer)
	u, err2 := url.Parse(audience)
	if err == nil && err2 == nil && (u.Host == own.Host && u.Host != "" || audience == own.Host) {
		return "the GitLab instance itself, which is the default of its tokens"
	}
	return ""
}

// gitlabRule holds rules to what identifies a project and what its jobs run.
func gitlabRule(c *ruleCheck) {
	subs := gitlabSubjects(c.texts("sub"))
	project := c.exact("project_id")
	group := c.exact("namespace_id")
	switch named := c.narrow("project_path", "sub"); {
	case !project && (named || !group):
		c.unsafe(riskGitLabName, c.claims(), "the rule does not say by its number which project it is for, and somebody else can have a path after it is renamed or deleted",
			"add project_id, or namespace_id without a path for all projects of a group, as strings of digits under claims")
	}
	for _, name := range []string{"sub", "project_path", "namespace_path", "ci_config_ref_uri"} {
		pattern := c.party.ClaimGlobs[name]
		if pattern == "" {
			continue
		}
		group, rest := gitlabPath(name, pattern)
		if strings.Contains(group, "*") || strings.Contains(rest, "*") && !project && !c.exact("namespace_id") {
			c.unsafe(riskGitLabGroup, c.globs(name), "the pattern "+pattern+" stands for more than one group or project, and anybody can make one that fits",
				"write the path out, or leave the pattern out and use project_id with ref_path under claims")
		}
	}
	gitlabRefs(c, subs)
	if !c.exact("pipeline_source") {
		c.unsafe(riskGitLabSource, c.claims(), "the rule does not say what starts the pipeline, so merge requests, schedules and triggers may use it",
			"add pipeline_source to claims, for example [push, web]")
	}
}

// gitlabRefs reports rules that do not say which ref they trust, or only its name.
func gitlabRefs(c *ruleCheck, subs gitlabSubject) {
	protected := slices.Contains(c.texts("ref_protected"), "true") && len(c.values("ref_protected")) == 1 ||
		slices.Contains(c.texts("environment_protected"), "true") && len(c.values("environment_protected")) == 1 && c.exact("environment")
	switch {
	case c.narrow("ref_path", "sha", "ci_config_sha") || protected || subs.ref:
	case !c.narrow("ref"):
		c.unsafe(riskGitLabRef, c.claims(), "every branch and tag of the project fits the rule, so everybody who can push one can use it; an environment that is not protected can be named by any job",
			`add ref_path, such as refs/heads/main, or ref_protected: "true" to claims`)
	case !c.exact("ref_type"):
		c.unsafe(riskGitLabType, c.claims("ref"), "a tag and a branch can have the same name, and who may not push to the one may be able to make the other",
			"use ref_path, such as refs/heads/main, or add ref_type: branch to claims")
	}
}

// gitlabPath returns the parts of a pattern that stand for the top group and for
// what is below it.
func gitlabPath(claim, pattern string) (group, rest string) {
	switch claim {
	case "sub":
		segments := strings.SplitN(pattern, ":", 3)
		if segments[0] != "project_path" || len(segments) < 2 {
			return pattern, ""
		}
		pattern = segments[1]
	case "ci_config_ref_uri": // HOST/GROUP/PROJECT//FILE@REF
		host, path, _ := strings.Cut(pattern, "/")
		if strings.Contains(host, "*") {
			return pattern, ""
		}
		pattern, _, _ = strings.Cut(path, "//")
	}
	group, rest, _ = strings.Cut(pattern, "/")
	return group, rest
}

// gitlabSubject is what all values of sub say.
type gitlabSubject struct{ ref bool }

// gitlabSubjects reads project_path:GROUP/PROJECT:ref_type:TYPE:ref:REF.
func gitlabSubjects(subs []string) gitlabSubject {
	ref := len(subs) > 0
	for _, sub := range subs {
		s := strings.Split(sub, ":")
		ref = ref && len(s) == 6 && s[0] == "project_path" && s[2] == "ref_type" && s[4] == "ref"
	}
	return gitlabSubject{ref}
}
