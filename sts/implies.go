package sts

import (
	"slices"

	"github.com/workload-sts/sts/policy"
)

// What of rules follows from others, as far as that can be told without evaluating
// anything; false means perhaps.

// implies tells whether a grants all that b does, to all that b does.
func implies(a, b *policy.Rule) bool {
	return conditionsImply(a, b) && (a.Require == policy.Require{} || a.Require == b.Require) && a.Limits == policy.Limits{} &&
		contains(a.Allow.Audiences, b.Allow.Audiences) && contains(a.Allow.Scopes, b.Allow.Scopes) && (len(a.Allow.Scopes) > 0) == (len(b.Allow.Scopes) > 0) &&
		(a.Allow.TTL == 0 || b.Allow.TTL > 0 && a.Allow.TTL >= b.Allow.TTL) && len(b.Allow.Claims) == 0 && len(a.Allow.Claims) == 0 &&
		a.Allow.Impersonate == b.Allow.Impersonate && (a.Allow.MultipleAudiences || !b.Allow.MultipleAudiences) && contains(a.Allow.TokenTypes, b.Allow.TokenTypes) &&
		!a.Allow.ScopesFromRequest && len(a.Allow.ScopesFromClaims) == 0 && !b.Allow.ScopesFromRequest && len(b.Allow.ScopesFromClaims) == 0 && a.Allow.Sub == b.Allow.Sub && a.Allow.MayAct == nil && b.Allow.MayAct == nil
}

// denies tells whether a denies all that b grants, or a scope of it if that is not
// empty.
func denies(a, b *policy.Rule, scope string) bool {
	d := a.Deny
	scopes := len(d.Scopes) == 0 || slices.Contains(d.Scopes, scope)
	if scope == "" && !b.Allow.ScopesFromRequest {
		all := scopesOf(b)
		scopes = scopes || len(all) > 0 && contains(d.Scopes, all)
	}
	return deniedConditions(a, b) && scopes && denyAudiences(d, b)
}

// denyAudiences tells whether a prohibition is for every request for which a rule
// is: one for several audiences is denied if one of them is.
func denyAudiences(d *policy.Deny, b *policy.Rule) bool {
	return len(d.Audiences) == 0 || contains(d.Audiences, b.Allow.Audiences)
}

// deniedConditions is conditionsImply for a rule that denies, for which what it
// does not say restricts nothing.
func deniedConditions(a, b *policy.Rule) bool {
	anybody := workloads(a.Requester) && !a.Requester.Workload
	return (anybody || requesterImplies(a.Requester, b.Requester)) && (a.When == "" || a.When == b.When) &&
		(a.Subject == nil || deniedParty(a.Subject, b.Subject)) && (a.Actor == nil || deniedParty(a.Actor, b.Actor))
}

// deniedParty is partyImplies for a rule that denies, which does not ask whom a
// token is addressed to.
func deniedParty(a, b *policy.Party) bool {
	all := *a
	all.AcceptUnaddressed = true
	return partyImplies(&all, b)
}

// conditionsImply tells whether every request that b matches is one that a does.
func conditionsImply(a, b *policy.Rule) bool {
	return requesterImplies(a.Requester, b.Requester) && partyImplies(a.Subject, b.Subject) && partyImplies(a.Actor, b.Actor) &&
		(a.When == "" || a.When == b.When)
}

func requesterImplies(a, b policy.Requester) bool {
	if workloads(a) != workloads(b) {
		return false
	}
	if len(a.Clients) > 0 && (len(b.Clients) == 0 || !contains(a.Clients, b.Clients)) {
		return false
	}
	for label, value := range a.Labels {
		if got, ok := b.Labels[label]; !ok || got != value {
			return false
		}
	}
	return true
}

func partyImplies(a, b *policy.Party) bool {
	if a == nil || b == nil {
		return a == b
	}
	if a.Issuer != b.Issuer || b.AcceptUnaddressed && !a.AcceptUnaddressed {
		return false
	}
	for name, v := range a.Claims {
		if w, ok := b.Claims[name]; !ok || !contains(valueKeys(v), valueKeys(w)) {
			return false
		}
	}
	for name, pattern := range a.ClaimGlobs {
		if b.ClaimGlobs[name] != pattern {
			return false
		}
	}
	return true
}

func contains(all, some []string) bool {
	return !slices.ContainsFunc(some, func(s string) bool { return !slices.Contains(all, s) })
}

// alsoDenies tells whether a denies all that b denies.
func alsoDenies(a, b *policy.Rule) bool {
	anybody := func(q policy.Requester) bool { return workloads(q) && !q.Workload }
	covers := func(all, some []string) bool { return len(all) == 0 || len(some) > 0 && contains(all, some) }
	return (anybody(a.Requester) || !anybody(b.Requester) && requesterImplies(a.Requester, b.Requester)) && (a.When == "" || a.When == b.When) &&
		(a.Subject == nil || deniedParty(a.Subject, b.Subject)) && (a.Actor == nil || deniedParty(a.Actor, b.Actor)) &&
		covers(a.Deny.Audiences, b.Deny.Audiences) && covers(a.Deny.Scopes, b.Deny.Scopes)
}
