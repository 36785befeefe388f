package sts

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/workload-sts/sts/policy"
)

// A danger that the author of a rule can accept, by these names.
const (
	riskGitHubName     = "github-name-only"
	riskGitHubOwner    = "github-wildcard-owner"
	riskGitHubRef      = "github-any-ref"
	riskGitHubEvent    = "github-any-event"
	riskGitHubPull     = "github-pull-request-ref"
	riskGitHubCaller   = "github-reusable-workflow"
	riskGitLabName     = "gitlab-name-only"
	riskGitLabGroup    = "gitlab-wildcard-group"
	riskGitLabRef      = "gitlab-any-ref"
	riskGitLabType     = "gitlab-ref-type"
	riskGitLabSource   = "gitlab-any-source"
	riskK8sNamespace   = "kubernetes-any-namespace"
	riskK8sAccount     = "kubernetes-any-account"
	riskSPIFFEAny      = "spiffe-any-id"
	riskSPIFFESegment  = "spiffe-partial-segment"
	riskBuildkiteName  = "buildkite-name-only"
	riskBuildkiteRef   = "buildkite-any-branch"
	riskCircleProject  = "circleci-any-project"
	riskCircleRef      = "circleci-any-ref"
	riskTerraformName  = "terraform-name-only"
	riskTerraformPhase = "terraform-any-phase"
	riskGoogleName     = "google-email-only"
	riskAWSAny         = "aws-any-principal"
	riskAzureName      = "azure-name-only"
)

// risks say in a sentence each what somebody who accepts a risk accepts.
var risks = map[string]string{
	riskGitHubName:     "A repository or owner is known by its name only, which somebody else can have after it is renamed or deleted.",
	riskGitHubOwner:    "A pattern stands for an owner, or for a repository of an owner that is not known by its id.",
	riskGitHubRef:      "Every branch, tag and environment of the repository may use the rule.",
	riskGitHubEvent:    "Every event may use the rule, pull_request_target and workflow_run included, which run for strangers.",
	riskGitHubPull:     "Events that run for pull requests are trusted by a ref, which is that of the base, whoever wrote the code.",
	riskGitHubCaller:   "Any repository that calls the reusable workflow may use the rule.",
	riskGitLabName:     "A project or group is known by its path only, which somebody else can have after it is renamed or deleted.",
	riskGitLabGroup:    "A pattern stands for a group, or for a project of a group that is not known by its id.",
	riskGitLabRef:      "Every branch and tag of the project may use the rule.",
	riskGitLabType:     "A branch or tag of the name may use the rule, and one can be made where the other is protected.",
	riskGitLabSource:   "Every pipeline source may use the rule: merge requests, schedules, triggers.",
	riskK8sNamespace:   "A service account of any namespace may use the rule that has the right name.",
	riskK8sAccount:     "Every service account of the cluster may use the rule.",
	riskSPIFFEAny:      "Every workload of the trust domain may use the rule.",
	riskSPIFFESegment:  "A pattern stands for a part of a segment, so prod also means prod-evil.",
	riskBuildkiteName:  "A pipeline is known by its slug only, which can be given to another pipeline.",
	riskBuildkiteRef:   "Every branch and tag of the pipeline may use the rule.",
	riskCircleProject:  "Every project of the organization may use the rule.",
	riskCircleRef:      "Every branch and tag, and every context, of the project may use the rule.",
	riskTerraformName:  "An organization or workspace is known by its name only, which can be given to another.",
	riskTerraformPhase: "Plans may use the rule, which run for changes that nobody has approved.",
	riskGoogleName:     "An account is known by its email address only, which can be given to another.",
	riskAWSAny:         "Every principal of the account that may ask for a token may use the rule.",
	riskAzureName:      "A principal is not known by its object id, and names can be given to others.",
}

// RiskMeanings returns what each danger that a preset knows accepts, by its name in
// Rule.AcceptRisks. What a lint finds has names of its own.
func RiskMeanings() map[string]string { return maps.Clone(risks) }

// fieldFederated is where a client is mapped to tokens.
const fieldFederated = "federated"

// ruleCheck is a rule under examination, as far as it is about tokens of one
// Issuer with a preset.
type ruleCheck struct {
	rule   *policy.Rule
	issuer *Issuer
	party  *policy.Party
	field  string      // subject or actor, or that of a client
	when   policy.Pins // what the expression demands of the party's claims
	found  []Problem
}

// unsafe reports a danger and what to do about it, unless it is accepted.
func (c *ruleCheck) unsafe(risk, field, danger, fix string) {
	if slices.Contains(c.rule.AcceptRisks, risk) {
		return
	}
	where := ""
	if c.field == fieldFederated {
		where = " under " + fieldFederated
	}
	c.problem(field, "%s; %s. If it is meant, write accept_risks: [%s]%s", danger, fix, risk, where)
}

func (c *ruleCheck) problem(field, format string, args ...any) {
	c.found = append(c.found, Problem{Ref: Ref{KindRule, c.rule.Name}, Index: -1, Field: field, Message: fmt.Sprintf(format, args...)})
}

// claims is the field of the party's claims, or of one of them.
func (c *ruleCheck) claims(name ...string) string {
	return strings.Join(append([]string{c.field, "claims"}, name...), ".")
}

// globs is the field of a pattern.
func (c *ruleCheck) globs(name string) string { return c.field + ".claim_globs." + name }

// values are what a claim can be at most; nil if the rule does not say.
func (c *ruleCheck) values(name string) []any {
	v, ok := c.party.Claims[name]
	if !ok {
		return c.when[name]
	}
	if list, ok := v.([]any); ok {
		return list
	}
	return []any{v}
}

// texts are values that are strings.
func (c *ruleCheck) texts(name string) []string {
	var out []string
	for _, v := range c.values(name) {
		if s, ok := v.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

// exact tells whether the rule says what one of these claims is.
func (c *ruleCheck) exact(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return len(c.values(name)) > 0 })
}

// narrow tells whether the rule says what one of these claims is, or has a pattern
// for it that leaves something out.
func (c *ruleCheck) narrow(names ...string) bool {
	return c.exact(names...) || slices.ContainsFunc(names, func(name string) bool { return !everything.MatchString(c.party.ClaimGlobs[name]) })
}

// everything matches patterns that leave nothing out, or only one kind of ref:
// refs/heads/* is every branch.
var everything = regexp.MustCompile(`^(?:(?:refs/[^/]*/)?[*/:]*)$`)

// types reports values that a claim of the platform can never have.
func (c *ruleCheck) types(claims map[string]claimType) {
	for _, name := range slices.Sorted(maps.Keys(claims)) {
		want := claims[name]
		for _, v := range c.values(name) {
			if is(v, want) {
				continue
			}
			field := c.claims(name)
			if _, ok := c.party.Claims[name]; !ok {
				field = "when"
			}
			fix := ""
			if want == isString {
				fix = fmt.Sprintf("; write %q in quotes", fmt.Sprint(v))
			}
			c.problem(field, "%s is %s in tokens of preset %s, so it never equals %v%s", name, want, c.issuer.Preset, v, fix)
			break
		}
		if c.party.ClaimGlobs[name] != "" && want != isString {
			c.problem(c.globs(name), "%s is %s in tokens of preset %s, and a pattern matches strings only", name, want, c.issuer.Preset)
		}
	}
}

// mappings reports values of scopes_from_claims that a claim can never have.
func (c *ruleCheck) mappings(claims map[string]claimType) {
	for i, m := range c.rule.Allow.ScopesFromClaims {
		want, known := claims[m.Claim]
		values, isList := m.Value.([]any)
		if !isList {
			values = []any{m.Value}
		}
		if j := slices.IndexFunc(values, func(v any) bool { return !is(v, want) }); known && j >= 0 {
			c.problem(fmt.Sprintf("allow.scopes_from_claims[%d].value", i), "%s is %s in tokens of preset %s, so it never equals %v", m.Claim, want, c.issuer.Preset, values[j])
		}
	}
}

// is tells whether a value of a rule can equal a claim of a type.
func is(v any, want claimType) bool {
	switch v.(type) {
	case string:
		return want == isString || want == isList
	case bool:
		return want == isBool
	case int64, float64:
		return want == isNumber
	}
	return false
}

// unsafe examines the rules for which touched holds, or for whose Issuer it does,
// and returns what their author should know before they are in force.
//
// Rules are examined when they are applied. What was applied is not refused at a
// start: a newer version of this service may know a danger that it did not know
// then, and to stop would help nobody.
func unsafe(st *state, touched func(Ref) bool) []Problem {
	resources := st.resources
	var out []Problem
	for _, ref := range st.order {
		switch r := resources[ref]; {
		case r.Issuer != nil && touched(ref):
			out = append(out, r.Issuer.unsafe()...)
		case r.Rule != nil:
			out = append(out, unsafeRule(r.Rule, resources, touched)...)
		case r.Client != nil && r.Client.Federated != nil:
			out = append(out, unsafeClient(r.Client, resources, touched)...)
		}
	}
	return out
}

func unsafeRule(r *policy.Rule, resources map[Ref]Resource, touched func(Ref) bool) []Problem {
	var out []Problem
	ref := Ref{KindRule, r.Name}
	if touched(ref) {
		out = unknownRisks(ref, "accept_risks", r.AcceptRisks)
	}
	for _, field := range []string{"subject", "actor"} {
		party := map[string]*policy.Party{"subject": r.Subject, "actor": r.Actor}[field]
		if party == nil {
			continue
		}
		issuer := Ref{KindIssuer, party.Issuer}
		i := resources[issuer].Issuer
		if i == nil || i.platform().rule == nil || !touched(ref) && !touched(issuer) {
			continue
		}
		subject, actor, ok := policy.Pinned(r.When)
		if !ok {
			continue // Compile says what is wrong with it
		}
		c := &ruleCheck{rule: r, issuer: i.complete(), party: party, field: field, when: subject}
		if field == "actor" {
			c.when = actor
		}
		c.examine()
		out = append(out, c.found...)
	}
	return out
}

// examine looks for what the platform of the Issuer knows to be dangerous.
func (c *ruleCheck) examine() {
	c.types(c.issuer.platform().claims)
	if c.field == "subject" {
		c.mappings(c.issuer.platform().claims)
	}
	if c.rule.Deny == nil { // a prohibition that reaches too far is no danger of this kind
		c.issuer.platform().rule(c)
	}
}

// unsafeClient examines who a client is by a token of an Issuer with a preset: a
// name that somebody else can have is no better there than in a rule.
func unsafeClient(cl *Client, resources map[Ref]Resource, touched func(Ref) bool) []Problem {
	f := cl.Federated
	ref, issuer := Ref{KindClient, cl.Name}, Ref{KindIssuer, f.Issuer}
	var out []Problem
	if touched(ref) {
		out = unknownRisks(ref, fieldFederated+".accept_risks", f.AcceptRisks)
	}
	i := resources[issuer].Issuer
	if i == nil || i.platform().rule == nil || !touched(ref) && !touched(issuer) {
		return out
	}
	c := &ruleCheck{
		rule: &policy.Rule{Name: cl.Name, AcceptRisks: f.AcceptRisks}, issuer: i.complete(),
		party: &policy.Party{Issuer: f.Issuer, Claims: f.Claims}, field: fieldFederated,
	}
	c.examine()
	for _, p := range c.found {
		p.Ref = ref
		out = append(out, p)
	}
	return out
}

// unknownRisks reports names that are not those of risks.
func unknownRisks(ref Ref, field string, accepted []string) []Problem {
	var out []Problem
	if len(accepted) == 0 {
		return nil
	}
	known := RiskMeanings()
	maps.Copy(known, lintMeanings)
	for i, risk := range accepted {
		if _, ok := known[risk]; !ok {
			out = append(out, Problem{
				Ref: ref, Index: -1, Field: fmt.Sprintf("%s[%d]", field, i),
				Message: fmt.Sprintf("there is no risk %q%s", risk, policy.DidYouMean(risk, known)),
			})
		}
	}
	return out
}

// unsafe examines the Issuer itself.
func (i *Issuer) unsafe() []Problem {
	var out []Problem
	bad := func(field, format string, args ...any) {
		out = append(out, Problem{Ref: Ref{KindIssuer, i.Name}, Index: -1, Field: field, Message: fmt.Sprintf(format, args...)})
	}
	full := i.complete()
	p := full.platform()
	if p.pattern != nil && !i.InsecureHTTP {
		if wrong := p.pattern(full.Issuer); wrong != "" {
			bad("issuer", "%s", wrong)
		}
	}
	if who := full.meantFor(i.Audience); who != "" {
		bad("audience", "tokens with this audience are meant for %s, so everyone who gets one there could present it here; let workloads ask for tokens with an audience of this service alone, such as its issuer identifier, which is the default", who)
	}
	return out
}

// Unsafe returns what would be refused of the resources in force if they were
// applied now: they were applied when this service knew less, or by a version that
// did.
func (s *Service) Unsafe() []Problem {
	return unsafe(s.state.Load(), func(Ref) bool { return true })
}
