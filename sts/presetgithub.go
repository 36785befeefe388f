package sts

import (
	"net/url"
	"slices"
	"strings"
)

// githubActions is GitHub Actions, of github.com, of an enterprise with an issuer
// of its own, of GHE.com, and of GitHub Enterprise Server [docs.github.com, OpenID
// Connect reference].
var githubActions = preset{
	issuer:     githubIssuer,
	pattern:    githubPattern,
	algorithms: []string{"RS256"},
	foreign:    githubForeign,
	claims: stringClaims(`sub repository repository_id repository_owner repository_owner_id repository_visibility
		ref ref_type ref_protected base_ref head_ref event_name environment job_workflow_ref job_workflow_sha workflow
		workflow_ref workflow_sha actor actor_id run_id run_number run_attempt runner_environment sha enterprise enterprise_id`),
	rule: githubRule,
}

const githubIssuer = "https://token.actions.githubusercontent.com"

func githubPattern(iss string) string {
	u, err := url.Parse(iss)
	if err == nil {
		path := strings.TrimPrefix(u.Path, "/")
		switch {
		case u.Scheme+"://"+u.Host == githubIssuer && !strings.Contains(path, "/") && !strings.HasSuffix(iss, "/"):
			return ""
		case strings.HasPrefix(u.Host, "token.actions.") && strings.HasSuffix(u.Host, ".ghe.com") && path == "":
			return ""
		case path == "_services/token":
			return ""
		}
	}
	return "is not an issuer of GitHub Actions: " + githubIssuer + ", the same with /ENTERPRISE, https://token.actions.SUBDOMAIN.ghe.com, or https://HOST/_services/token for GitHub Enterprise Server"
}

// githubForeign knows the audience of a job that asks for none: the URL of the
// owner, which every service that the owner's jobs sign in at can expect as well.
func githubForeign(i *Issuer, audience string) string {
	u, err := url.Parse(audience)
	if err != nil || u.Scheme != "https" || u.Path == "" {
		return ""
	}
	own, err := url.Parse(i.Issuer)
	if u.Host == "github.com" || strings.HasSuffix(u.Host, ".ghe.com") || err == nil && u.Host == own.Host {
		return "anybody (it is what GitHub puts in where a job names no audience)"
	}
	return ""
}

// githubRule holds rules to what identifies a repository and what its jobs run.
func githubRule(c *ruleCheck) {
	subs := githubSubjects(c.texts("sub"))
	repository := c.exact("repository_id") || subs.immutable
	owner := c.exact("repository_owner_id") || subs.immutable
	named := c.narrow("repository", "sub")
	switch {
	case c.narrow("job_workflow_ref", "workflow_ref") && !repository && !owner && !named:
		c.unsafe(riskGitHubCaller, c.claims(), "job_workflow_ref says which file the job runs, not whose repository runs it: anybody can call a workflow that they can read",
			"add repository_id, or repository_owner_id for all repositories of an owner, as strings of digits under claims")
	case !repository && named:
		c.unsafe(riskGitHubName, c.claims(), "the rule knows the repository by its name only, and somebody else can have the name after it is renamed or deleted, or by a customised sub",
			"add repository_id and repository_owner_id, as strings of digits under claims; with them the rule also fits both forms of sub, repo:org/name:... and repo:org@id/name@id:...")
	case !repository && !owner:
		c.unsafe(riskGitHubName, c.claims(), "the rule fits any repository of GitHub, or of whoever has the owner's name",
			"add repository_id and repository_owner_id, as strings of digits under claims")
	}
	githubPatterns(c, repository || owner)
	githubEvents(c, subs)
}

// githubPatterns reports patterns that stand for somebody.
func githubPatterns(c *ruleCheck, known bool) {
	for _, name := range []string{"sub", "repository", "repository_owner", "job_workflow_ref", "workflow_ref"} {
		pattern := c.party.ClaimGlobs[name]
		if pattern == "" {
			continue
		}
		owner, repository := githubOwner(name, pattern)
		if strings.Contains(owner, "*") || strings.Contains(repository, "*") && !known {
			c.unsafe(riskGitHubOwner, c.globs(name), "the pattern "+pattern+" stands for more than one owner or repository, and anybody can make one that fits",
				"write owner and repository out, or leave the pattern out and use repository_id and repository_owner_id with ref or environment under claims")
		}
	}
}

// githubOwner returns the parts of a pattern that stand for the owner and the
// repository.
func githubOwner(claim, pattern string) (owner, repository string) {
	if claim == "sub" {
		segments := strings.SplitN(pattern, ":", 3)
		if segments[0] != "repo" || len(segments) < 2 {
			return pattern, "" // a sub that is customised names whom it likes first
		}
		pattern = segments[1]
	}
	owner, rest, _ := strings.Cut(pattern, "/")
	repository, _, _ = strings.Cut(rest, "/")
	return owner, repository
}

// githubEvents reports rules that trust a ref whatever made the job run.
func githubEvents(c *ruleCheck, subs githubSubject) {
	events := c.texts("event_name")
	pulls := []string{"pull_request", "pull_request_target", "pull_request_review", "pull_request_review_comment"}
	// What runs with the rights and the ref of the base, for whoever opened a pull
	// request or wrote a comment.
	base := []string{"pull_request_target", "workflow_run", "issue_comment", "pull_request_review", "pull_request_review_comment", "check_run", "check_suite"}
	if len(events) == 0 && !subs.pullRequest {
		c.unsafe(riskGitHubEvent, c.claims(), "the rule does not say which event starts the job, and pull_request_target and workflow_run start jobs with the ref of the base for pull requests of strangers",
			"add event_name to claims, for example [push, workflow_dispatch]")
	}
	ref := c.narrow("ref", "sha", "workflow_sha", "job_workflow_sha") || subs.ref
	onlyPulls := len(events) > 0 && !slices.ContainsFunc(events, func(e string) bool { return !slices.Contains(pulls, e) })
	if !ref && !c.narrow("environment", "job_workflow_ref", "workflow_ref", "ref_protected") && !subs.environment && !onlyPulls && !subs.pullRequest {
		c.unsafe(riskGitHubRef, c.claims(), "every branch and tag of the repository fits the rule, so everybody who can push one can use it",
			"add ref, such as refs/heads/main, or environment, or job_workflow_ref to claims")
	}
	risky := slices.ContainsFunc(events, func(e string) bool { return slices.Contains(base, e) })
	pull := slices.ContainsFunc(events, func(e string) bool { return slices.Contains(pulls, e) })
	trusted := ref || c.narrow("ref_protected", "workflow_ref") // that is a ref as well
	if trusted && risky || pull && c.narrow("base_ref") {
		c.unsafe(riskGitHubPull, c.claims("event_name"), "for these events the ref is that of the base, whoever wrote the code of the pull request, so it says nothing about what runs",
			"leave pull_request_target, workflow_run and base_ref out, or write a rule for pull requests that allows less")
	}
}

// githubSubject is what the values of sub say together: what all of them say.
type githubSubject struct{ immutable, ref, environment, pullRequest bool }

// githubSubjects reads values of sub in their two forms: repo:ORG/NAME:CONTEXT and,
// with ids that never change, repo:ORG@ID/NAME@ID:CONTEXT. A name of GitHub has no
// @ and a context no colon of its own, which is written as %3A.
func githubSubjects(subs []string) githubSubject {
	if len(subs) == 0 {
		return githubSubject{}
	}
	out := githubSubject{true, true, true, true}
	for _, sub := range subs {
		segments := strings.Split(sub, ":")
		var s githubSubject
		if len(segments) >= 3 && segments[0] == "repo" {
			owner, name, _ := strings.Cut(segments[1], "/")
			s = githubSubject{
				immutable:   hasID(owner) && hasID(name),
				ref:         segments[2] == "ref" && len(segments) == 4,
				environment: segments[2] == "environment" && len(segments) == 4,
				pullRequest: segments[2] == "pull_request" && len(segments) == 3,
			}
		}
		out = githubSubject{out.immutable && s.immutable, out.ref && s.ref, out.environment && s.environment, out.pullRequest && s.pullRequest}
	}
	return out
}

// hasID tells whether NAME@ID has an id.
func hasID(s string) bool {
	_, id, ok := strings.Cut(s, "@")
	return ok && id != "" && strings.Trim(id, "0123456789") == ""
}
