package sts

import "github.com/workload-sts/sts/policy"

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
	level := d.disclosure()
	why := denial.Reasons[0]
	switch level {
	case DiscloseClaims:
		return &Detail{Predicate: why.Predicate}
	case DiscloseAll:
		return &Detail{why.Predicate, cut(why.Presented, maxShown), cut(why.Expected, maxShown), why.Hint}
	}
	return nil
}

// disclosure is the least that the client and the Issuers of the tokens allow.
func (d *decision) disclosure() Disclosure {
	var all []Disclosure
	if c := d.asked.Client; c != nil {
		if known, ok := d.st.client(c.ID, d.now); ok {
			all = append(all, known.Disclosure)
		}
	}
	for _, t := range []*policy.Token{d.asked.Subject, d.asked.Actor} {
		if t == nil || t.Issuer == policy.Self {
			continue
		}
		all = append(all, d.st.resources[Ref{KindIssuer, t.Issuer}].Issuer.Disclosure)
	}
	if len(all) == 0 {
		return DiscloseNothing
	}
	least := all[0]
	for _, one := range all[1:] {
		if one.level() < least.level() {
			least = one
		}
	}
	return least
}
