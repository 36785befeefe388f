package sts

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/workload-sts/sts/policy"
)

// Finding is something about a rule that its author may not have meant. It can be
// accepted by its id, in accept_risks of the rule.
type Finding struct {
	Problem
	ID  string
	Fix string
}

// What a lint finds, by these ids.
const (
	lintUnreachable = "unreachable"
	lintRedundant   = "redundant"
	lintAnySubject  = "any-subject"
	lintWildcard    = "wildcard"
	lintImpersonate = "impersonates"
	lintUnaddressed = "accepts-unaddressed"
	lintLong        = "long-lived"
	lintUnbound     = "unbound"
	lintAnyScope    = "any-scope"
	lintMapsSub     = "maps-sub"
	lintLaterHops   = "later-hops"
	LintUntested    = "untested-grant" // found by who has test cases
)

// lintMeanings say in a sentence each what somebody who accepts it accepts.
var lintMeanings = map[string]string{
	lintUnreachable: "No request can match the rule, or what it grants is denied by another.",
	lintRedundant:   "Another rule grants all that the rule does, to the same requesters and more.",
	lintAnySubject:  "Every token of the Issuer fits the rule.",
	lintWildcard:    "A pattern of the rule stands for a whole segment of a name.",
	lintImpersonate: "The requester does not show in the token as an actor.",
	lintUnaddressed: "Tokens that are addressed to others can be exchanged.",
	lintLong:        "Tokens of the rule live longer than an hour.",
	LintUntested:    "No test case is granted one of the scopes, or for one of the audiences, by the rule.",
	lintAnyScope:    "Every scope that the Audiences define, now or later, can be had by asking for it.",
	lintMapsSub:     "The subject of the token is what a claim says that the Issuer does not keep unique.",
	lintLaterHops:   "What a denied token is exchanged for elsewhere can be exchanged for what is denied.",
	lintUnbound:     "The rule gives unbound a scope that another rule gives bound to a key alone.",
}

// longLived is the lifetime from which on a lint speaks of it.
const longLived = time.Hour

// Lint looks for what the authors of rules may not have meant, the dangers of
// presets included. It does not look at what rules accept.
func (o *Offline) Lint() []Finding {
	var out []Finding
	for _, p := range o.Unsafe() {
		out = append(out, Finding{Problem: p, ID: "unsafe"})
	}
	l := &lint{o: o}
	for _, ref := range o.st.order {
		if ref.Kind == KindRule {
			l.rules = append(l.rules, o.st.resources[ref].Rule)
		}
	}
	l.near, l.bound = newLintIndex(l.rules), l.boundTargets()
	for _, r := range l.rules {
		l.reach(r)
		if r.Deny == nil {
			l.identities(r)
			l.grants(r)
			l.others(r)
		} else {
			l.prohibitions(r)
		}
	}
	return append(out, l.found...)
}

type lint struct {
	o     *Offline
	rules []*policy.Rule
	near  *lintIndex
	bound map[scopeAt]*policy.Rule
	found []Finding
}

func (l *lint) find(r *policy.Rule, id, field, fix, format string, args ...any) {
	if slices.Contains(r.AcceptRisks, id) {
		return
	}
	l.found = append(l.found, Finding{Problem: Problem{Ref: Ref{KindRule, r.Name}, Index: -1, Field: field, Message: fmt.Sprintf(format, args...)}, ID: id, Fix: fix})
}

// workloads tells whether a requester is the workload itself.
func workloads(q policy.Requester) bool { return len(q.Clients)+len(q.Labels) == 0 }

// reach looks for rules that no request can match.
func (l *lint) reach(r *policy.Rule) {
	switch {
	case !workloads(r.Requester) && len(l.o.clientsOf(r.Requester))+len(l.o.templatesOf(r.Requester)) == 0:
		l.find(r, lintUnreachable, "requester", "give a Client or a ClientTemplate these labels, enable it, or remove the rule", "no enabled Client is this requester, and no ClientTemplate has its labels")
	case workloads(r.Requester) && r.Subject != nil && r.Deny == nil:
		if i := l.o.st.resources[Ref{KindIssuer, r.Subject.Issuer}].Issuer; i != nil && !i.SelfPresented {
			l.find(r, lintUnreachable, "subject.issuer", "set self_presented in the Issuer, or name the requester", "the workloads of Issuer %q may not present their tokens themselves", i.Name)
		}
	}
	if policy.NeverHolds(r.When) {
		l.find(r, lintUnreachable, "when", "correct the expression, or remove the rule", "the expression is false for every request")
	}
	if b := r.Require.Binding; (b == policy.DPoPBinding || b == policy.MTLSBinding) && !slices.ContainsFunc(r.Allow.Audiences, func(name string) bool {
		a := l.o.st.resources[Ref{KindAudience, name}].Audience
		return a == nil || a.Binding != policy.DPoPBinding && a.Binding != policy.MTLSBinding || a.Binding == b
	}) {
		l.find(r, lintUnreachable, "require.binding", "require what the Audience demands", "every Audience of the rule demands another binding")
	}
}

// identities looks at who a rule is for.
func (l *lint) identities(r *policy.Rule) {
	ofSubject, ofActor := policy.LooksAt(r.When)
	for _, p := range []struct {
		field string
		*policy.Party
		when bool // the expression is about it
	}{{"subject", r.Subject, ofSubject}, {"actor", r.Actor, ofActor}} {
		if p.Party == nil {
			continue
		}
		if p.Issuer != policy.Self && len(p.Claims)+len(p.ClaimGlobs) == 0 && !p.when {
			l.find(r, lintAnySubject, p.field, "say whose tokens by claims", "every token of Issuer %q fits", p.Issuer)
		}
		for _, name := range slices.Sorted(maps.Keys(p.ClaimGlobs)) {
			for segment := range strings.FieldsFuncSeq(p.ClaimGlobs[name], func(r rune) bool { return r == '/' || r == ':' }) {
				if strings.Trim(segment, "*") == "" {
					l.find(r, lintWildcard, p.field+".claim_globs."+name, "write the segment out, or a part of it", "the pattern %q stands for any value of a whole segment", p.ClaimGlobs[name])
					break
				}
			}
		}
		if p.AcceptUnaddressed {
			l.find(r, lintUnaddressed, p.field+".accept_unaddressed", "let the token be addressed to the client", "a token that is addressed to somebody else can be exchanged by whoever finds it")
		}
	}
}

// grants looks at what a rule gives.
func (l *lint) grants(r *policy.Rule) {
	if r.Allow.Impersonate && r.Subject != nil {
		l.find(r, lintImpersonate, "allow.impersonate", "leave it out, and let the requester show as the actor", "who receives the token cannot see that somebody else than the subject acts")
	}
	if r.Allow.TTL > longLived {
		l.find(r, lintLong, "allow.ttl", "let tokens live for minutes; they are easily had anew", "tokens live for %s, and cannot be taken back from those who verify them by themselves", r.Allow.TTL)
	}
	if r.Allow.ScopesFromRequest && (r.Subject == nil || r.Subject.Issuer != policy.Self) {
		l.find(r, lintAnyScope, "allow.scopes_from_request", "list the scopes", "who asks gets every scope of the Audiences, those that are added later too")
	}
	if sub := r.Allow.Sub; sub != "" && sub != "subject.sub" {
		l.find(r, lintMapsSub, "allow.sub", "map to a claim that nobody can choose or be given anew, such as an id", "who can choose what %s yields chooses the subject of the token", sub)
	}
}

// maxOthers bounds how many other rules are named for one reason: the next lint
// finds what is left.
const maxOthers = 3

// against returns the first rules, by name, that make one superfluous by what is
// told about each.
func (l *lint) against(r *policy.Rule, does func(other *policy.Rule) bool) []string {
	var names []string
	l.near.near(r, func(other *policy.Rule) {
		i, known := slices.BinarySearch(names, other.Name)
		if i < maxOthers && !known && does(other) {
			names = slices.Insert(names, i, other.Name)
			names = names[:min(len(names), maxOthers)]
		}
	})
	return names
}

// others compares a rule that allows with the others.
func (l *lint) others(r *policy.Rule) {
	for _, name := range l.against(r, func(other *policy.Rule) bool { return other.Deny != nil && denies(other, r, "") }) {
		l.find(r, lintUnreachable, "", "remove one of the two", "rule %q denies all that it grants", name)
	}
	for _, name := range l.against(r, func(other *policy.Rule) bool {
		return other.Deny == nil && implies(other, r) && (!implies(r, other) || other.Name < r.Name)
	}) {
		l.find(r, lintRedundant, "", "remove it", "rule %q grants all of this, to the same requesters and more", name)
	}
	if !boundAlone(r) {
		l.unbound(r)
	}
}

// prohibitions compares a rule that denies with the others that do.
func (l *lint) prohibitions(r *policy.Rule) {
	for _, name := range l.against(r, func(other *policy.Rule) bool {
		return other.Deny != nil && alsoDenies(other, r) && (!alsoDenies(r, other) || other.Name < r.Name)
	}) {
		l.find(r, lintRedundant, "", "remove it", "rule %q denies all of this, and more", name)
	}
	if r.Subject != nil && r.Subject.Issuer != policy.Self && len(r.Deny.Audiences) > 0 {
		l.laterHops(r)
	}
}

// laterHops looks whether what a prohibition is about can be got by a detour: it sees
// the tokens of an issuer, and not those that they are exchanged for.
func (l *lint) laterHops(r *policy.Rule) {
	within := func(audience string) bool { return slices.Contains(r.Deny.Audiences, audience) }
	way := slices.IndexFunc(l.rules, func(other *policy.Rule) bool {
		return other.Deny == nil && ofSelf(other) && slices.ContainsFunc(other.Allow.Audiences, within)
	})
	guarded := slices.ContainsFunc(l.rules, func(other *policy.Rule) bool {
		return other.Deny != nil && ofSelf(other) && !slices.ContainsFunc(r.Deny.Audiences, func(audience string) bool {
			return len(other.Deny.Audiences) > 0 && !slices.Contains(other.Deny.Audiences, audience)
		})
	})
	detour := slices.ContainsFunc(l.o.st.order, func(ref Ref) bool {
		a := l.o.st.resources[ref].Audience
		return a != nil && !within(a.Name) && (len(r.Deny.Scopes) == 0 ||
			slices.ContainsFunc(a.Scopes, func(scope string) bool { return slices.Contains(r.Deny.Scopes, scope) }))
	})
	if way >= 0 && detour && !guarded {
		l.find(r, lintLaterHops, "deny.audiences", fmt.Sprintf("deny scopes or the whole request, or add a rule that denies the same to subjects of issuer self whose sub begins with %s:", r.Subject.Issuer),
			"what such a token was exchanged for at another audience is a token of issuer self, and rule %q takes that", l.rules[way].Name)
	}
}

// ofSelf tells whether a rule is about tokens of this service.
func ofSelf(r *policy.Rule) bool { return r.Subject != nil && r.Subject.Issuer == policy.Self }

func boundAlone(r *policy.Rule) bool {
	return r.Require.Binding != "" && r.Require.Binding != policy.NoBinding
}

// scopeAt is a scope for an Audience.
type scopeAt struct{ audience, scope string }

// boundTargets are what rules give bound alone, each by the first of them, of
// Audiences that do not demand a binding by themselves.
func (l *lint) boundTargets() map[scopeAt]*policy.Rule {
	out := map[scopeAt]*policy.Rule{}
	for _, r := range l.rules {
		if r.Deny != nil || !boundAlone(r) {
			continue
		}
		for _, audience := range r.Allow.Audiences {
			a := l.o.st.resources[Ref{KindAudience, audience}].Audience
			if a == nil || a.Binding != "" && a.Binding != policy.NoBinding {
				continue
			}
			for _, scope := range grantable(r, a) {
				if to := (scopeAt{audience, scope}); out[to] == nil {
					out[to] = r
				}
			}
		}
	}
	return out
}

// unbound looks for a scope that a rule gives unbound and another bound alone.
func (l *lint) unbound(r *policy.Rule) {
	for _, audience := range r.Allow.Audiences {
		for _, scope := range grantable(r, l.o.st.resources[Ref{KindAudience, audience}].Audience) {
			if other := l.bound[scopeAt{audience, scope}]; other != nil {
				l.find(r, lintUnbound, "allow.scopes", "add require.binding, or set binding in the Audience", "scope %q for audience %q is given without a key, while rule %q gives it with one alone", scope, audience, other.Name)
				return
			}
		}
	}
}

// grantable are the scopes of an Audience that a rule can grant.
func grantable(r *policy.Rule, a *Audience) []string {
	if r.Allow.ScopesFromRequest && a != nil {
		return a.Scopes
	}
	return scopesOf(r)
}
