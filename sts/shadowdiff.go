package sts

import (
	"reflect"
	"slices"
	"strings"
	"time"
)

// DifferenceKind says what a shadow revision decides otherwise.
type DifferenceKind string

// What can be different. Of two grants it can be several at once.
const (
	WouldAllow    DifferenceKind = "would_allow" // what is denied
	WouldDeny     DifferenceKind = "would_deny"  // what is allowed
	OtherError    DifferenceKind = "other_error" // with another error code
	OtherScopes   DifferenceKind = "other_scopes"
	OtherLifetime DifferenceKind = "other_lifetime"
	OtherClaims   DifferenceKind = "other_claims"
	OtherToken    DifferenceKind = "other_token" // subject, actors, binding, audiences or key set
)

var differenceKinds = [...]DifferenceKind{WouldAllow, WouldDeny, OtherError, OtherScopes, OtherLifetime, OtherClaims, OtherToken}

func (k DifferenceKind) index() int { return slices.Index(differenceKinds[:], k) }

// Difference is what a shadow revision decides otherwise, again and again. Those
// with the same kinds, rules, client and issuer are one.
type Difference struct {
	Kinds         []DifferenceKind
	Client        string // empty: the workload itself
	SubjectIssuer string // Issuer, or self; empty: none
	ActorIssuer   string
	Audiences     []string // asked for, the last time
	Live, Shadow  DecidedBy
	Count         int64
	First, Last   time.Time
	Decision      string // the last one: its record has the rest
}

// DecidedBy is how one of two revisions decided.
type DecidedBy struct {
	Allowed  bool
	Rules    []string // that granted
	Scopes   []string
	Lifetime time.Duration
	Code     Code   // of a denial
	Reason   string // the sentence, and what the nearest rule missed
}

// differenceKey tells differences apart.
type differenceKey struct{ kinds, client, issuers, live, shadow string }

// ShadowStatus is what a shadow revision has shown on this node.
type ShadowStatus struct {
	Revision
	Current     bool      // what it was made from is in force still
	Problem     string    // why it cannot decide here; empty: it can
	Since       time.Time // when this node began to ask it
	Decided     int64     // how many decisions it was asked for
	Skipped     int64     // how many it was not, because there were too many or they took too long
	Counts      map[DifferenceKind]int64
	Differences []Difference // the latest, the last one first
}

// Shadow returns what the shadow revision has shown on this node since it is here.
func (s *Service) Shadow() (ShadowStatus, error) {
	run, err := s.shadow.named(0)
	if err != nil {
		return ShadowStatus{}, err
	}
	out := ShadowStatus{
		Revision: run.revision, Current: run.revision.Base == s.state.Load().revision, Problem: run.problem, Since: run.since,
		Decided: run.decided.Load(), Skipped: run.skipped.Load(), Counts: map[DifferenceKind]int64{},
	}
	run.mu.Lock()
	defer run.mu.Unlock()
	for k, n := range run.counts {
		out.Counts[k] = n
	}
	for _, d := range run.seen.Values() { // the oldest first
		out.Differences = append(out.Differences, *d)
	}
	slices.Reverse(out.Differences)
	return out, nil
}

// ShadowDecisions counts what all shadow revisions of this process have said: for
// each kind of difference, how many were the same, and how many were skipped.
func (s *Service) ShadowDecisions() map[string]int64 {
	out := map[string]int64{}
	for i, k := range differenceKinds {
		out[string(k)] = s.shadow.totals[i].Load()
	}
	out["same"] = s.shadow.totals[len(differenceKinds)].Load()
	out["skipped"] = s.shadow.totals[len(differenceKinds)+1].Load()
	return out
}

// compare says what the second decides otherwise.
func compare(live, other verdict) []DifferenceKind {
	switch {
	case live.denial != nil && other.denial != nil:
		if live.denial.Code != other.denial.Code {
			return []DifferenceKind{OtherError}
		}
		return nil
	case live.denial != nil:
		return []DifferenceKind{WouldAllow}
	case other.denial != nil:
		return []DifferenceKind{WouldDeny}
	}
	a, b := live.grant, other.grant
	var out []DifferenceKind
	for _, c := range []struct {
		kind DifferenceKind
		same bool
	}{
		{OtherScopes, slices.Equal(a.Scopes(), b.Scopes())},
		{OtherLifetime, a.Expires().Equal(b.Expires())},
		{OtherClaims, len(a.Claims()) == 0 && len(b.Claims()) == 0 || reflect.DeepEqual(a.Claims(), b.Claims())},
		{OtherToken, a.Subject() == b.Subject() && a.KeySet() == b.KeySet() && slices.Equal(a.Audiences(), b.Audiences()) &&
			reflect.DeepEqual(a.Act(), b.Act()) && a.Confirmation() == b.Confirmation()},
	} {
		if !c.same {
			out = append(out, c.kind)
		}
	}
	return out
}

// note counts a difference.
func (r *shadowRun) note(kinds []DifferenceKind, t shadowTask, v verdict) {
	d := &Difference{
		Kinds: kinds, Live: decidedBy(t.live, t.asked.Now), Shadow: decidedBy(v, t.asked.Now),
		Audiences: t.asked.Targets, First: t.asked.Now, Last: t.asked.Now, Decision: t.decision, Count: 1,
	}
	if t.asked.Client != nil {
		d.Client = t.asked.Client.ID
	}
	if t.asked.Subject != nil {
		d.SubjectIssuer = t.asked.Subject.Issuer
	}
	if t.asked.Actor != nil {
		d.ActorIssuer = t.asked.Actor.Issuer
	}
	key := differenceKey{client: d.Client, issuers: d.SubjectIssuer + " " + d.ActorIssuer, live: d.Live.name(), shadow: d.Shadow.name()}
	for _, k := range kinds {
		key.kinds += string(k) + " "
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range kinds {
		r.counts[k]++
	}
	if old, ok := r.seen.Get(key); ok {
		d.First, d.Count = old.First, old.Count+1
	}
	r.seen.Add(key, d)
}

func (d DecidedBy) name() string { return string(d.Code) + " " + strings.Join(d.Rules, " ") }

func decidedBy(v verdict, now time.Time) DecidedBy {
	if v.denial == nil {
		return DecidedBy{Allowed: true, Rules: v.grant.Rules(), Scopes: v.grant.Scopes(), Lifetime: v.grant.Expires().Sub(now)}
	}
	reason := v.denial.Message
	if len(v.denial.Reasons) > 0 {
		near := v.denial.Reasons[0]
		reason += "; nearest: rule " + near.Rule + ": " + near.Predicate + " is " + near.Presented + ", expected " + near.Expected
	}
	return DecidedBy{Code: denialCodes[v.denial.Code], Reason: cut(reason, maxReasonText)}
}
