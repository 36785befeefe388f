package sts

import (
	"errors"
	"slices"
	"strings"

	"github.com/workload-sts/sts/policy"
)

// Disclosure is how much of a denial by rules its caller is told, besides the safe
// sentence and the id of the decision.
type Disclosure string

// The disclosures, from nothing to most.
const (
	DiscloseNothing Disclosure = ""            // or none
	DiscloseClaims  Disclosure = "claim-names" // which predicate of the nearest rule failed
	DiscloseAll     Disclosure = "full"        // and what was presented and is expected, with a hint
)

// level orders disclosures; one that is not known is nothing.
func (d Disclosure) level() int {
	switch d {
	case DiscloseClaims:
		return 1
	case DiscloseAll:
		return 2
	}
	return 0
}

func (d Disclosure) known() bool { return d == "none" || d == DiscloseNothing || d.level() > 0 }

const disclosureNames = "none, claim-names, full"

// Detail is what a caller may be told of why it was denied.
type Detail struct {
	Predicate string
	Presented string // full only: what the caller itself presented
	Expected  string // full only
	Hint      string // full only
}

// disclose returns what the caller of a denied request may be told.
//
// It must be known who asks, and all of those whose tokens the request has must
// let it be told: a client does not learn of an Issuer's tokens what the Issuer
// keeps to itself, nor the other way round. It is about the nearest rule alone, and
// about a rule for this requester: whoever asks learns nothing of rules for others,
// not even their names.
func (d *decision) disclose(denial *policy.Denial) *Detail {
	if !d.authenticated() || len(denial.Reasons) == 0 {
		return nil
	}
	why := denial.Reasons[0]
	return told(leastOf(d.disclosures()), why.Predicate, why.Presented, why.Expected, why.Hint)
}

// discloseToken returns what the caller may be told of what is wrong with a token
// that it presents: it has the token, so it learns what is expected. Either its
// client has authenticated, or the token is of its issuer; the Issuer of the token
// must let it be told too. That a token was revoked, and by what, is nobody's
// business but the operator's.
func (d *decision) discloseToken(e *Error) *Detail {
	m, ok := errors.AsType[*mismatch](e.Err)
	if !ok || errors.Is(m, errRevoked) {
		return nil
	}
	slot, _, _ := strings.Cut(m.Predicate, ".")
	party := map[string]*RecordParty{"subject_token": d.rec.Subject, "actor_token": d.rec.Actor}[slot]
	if party == nil || party.Unverified && d.asked.Client == nil {
		return nil
	}
	all := d.disclosures()
	if i := d.st.resources[Ref{KindIssuer, party.Issuer}].Issuer; i != nil {
		all = append(all, i.Disclosure)
	}
	return told(leastOf(all), m.Predicate, m.Presented, m.Expected, m.Hint)
}

// told is as much of a reason as a disclosure lets out.
func told(level Disclosure, predicate, presented, expected, hint string) *Detail {
	switch level {
	case DiscloseClaims:
		return &Detail{Predicate: predicate}
	case DiscloseAll:
		return &Detail{predicate, cut(presented, maxShown), cut(expected, maxShown), hint}
	}
	return nil
}

// disclosures are what the client and the Issuers of the verified tokens allow.
func (d *decision) disclosures() []Disclosure {
	var all []Disclosure
	if c := d.asked.Client; c != nil {
		if known, ok := d.st.client(c.ID, d.now); ok {
			all = append(all, known.Disclosure)
		}
	}
	for _, t := range []*policy.Token{d.asked.Subject, d.asked.Actor} {
		if t != nil && t.Issuer != policy.Self {
			all = append(all, d.st.resources[Ref{KindIssuer, t.Issuer}].Issuer.Disclosure)
		}
	}
	return all
}

// leastOf is the least that all allow; nothing if there is nobody.
func leastOf(all []Disclosure) Disclosure {
	if len(all) == 0 {
		return DiscloseNothing
	}
	return slices.MinFunc(all, func(a, b Disclosure) int { return a.level() - b.level() })
}
