package sts

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/workload-sts/sts/policy"
)

// Retrial is what would come of a recorded decision.
type Retrial struct {
	Outcome
	// Unknown says why it cannot be told; the Outcome then tells nothing.
	Unknown string
}

// Retry decides what a record tells of by the resources in force.
func (o *Offline) Retry(ctx context.Context, r *Record) Retrial {
	return o.service.retry(ctx, o.st, r)
}

// retry asks the rules of a state what a record's were asked.
func (s *Service) retry(ctx context.Context, st *state, r *Record) Retrial {
	switch {
	case r.Facts == nil:
		return Retrial{Unknown: "rules were not asked: " + r.Reason}
	case r.Facts.Subject == nil && r.Grant == TokenExchange:
		return Retrial{Unknown: r.Facts.Incomplete}
	case !verbatim(r.AskedAudiences) || !verbatim(r.AskedScopes):
		return Retrial{Unknown: "what was asked for was recorded by its hash, since it was not defined then, or not all of it"}
	}
	d := &decision{st: st, now: r.Time, rec: Record{Client: r.Client}}
	d.asked = policy.Request{
		Now: r.Time, SelfIssuer: r.Facts.self(s.issuer), Proven: r.Facts.Proven,
		Targets: r.AskedAudiences, Scopes: r.AskedScopes, TokenType: r.AskedType.short(),
	}
	out := Retrial{Outcome: Outcome{Revision: st.revision}}
	if e := d.revive(r); e != nil {
		d.because(e)
		out.Error, out.Reasons = e, d.rec.Reasons
		return out
	}
	if missing := st.missing(r.Facts); missing != "" {
		return Retrial{Unknown: missing}
	}
	return Retrial{Outcome: s.decided(ctx, d)}
}

// self is the issuer identifier of the service that the facts are of, as far as they
// say it: files may be tried by who is called otherwise.
func (f *Facts) self(ours string) string {
	for _, t := range []*FactsToken{f.Subject, f.Actor} {
		if t != nil && t.Issuer == policy.Self {
			return t.Iss
		}
	}
	return ours
}

// verbatim tells whether a record has what was asked for as it was; see askedFor.
func verbatim(asked []string) bool {
	return len(asked) <= maxAsked && !slices.ContainsFunc(asked, func(v string) bool { return strings.Contains(v, " ") })
}

// revive finds who asked, and their tokens.
func (d *decision) revive(r *Record) *Error {
	if r.Client != "" {
		c, known := d.st.client(r.Client, d.now)
		switch {
		case !known:
			return invalidClient("no client of this name")
		case c.Disabled:
			return invalidClient("the client is disabled")
		}
		d.asked.Client = &c.party
	}
	for _, p := range []struct {
		facts *FactsToken
		to    **policy.Token
		field string
	}{{r.Facts.Subject, &d.asked.Subject, "subject_token"}, {r.Facts.Actor, &d.asked.Actor, "actor_token"}} {
		if p.facts == nil {
			continue
		}
		i := d.st.resources[Ref{KindIssuer, p.facts.Issuer}].Issuer
		switch {
		case p.facts.Issuer == policy.Self:
		case i == nil:
			return d.untrusted(p.field, map[string]any{"iss": p.facts.Iss})
		case r.Client == "" && !i.SelfPresented:
			e := invalidClientMissing()
			e.Err = reason("the Issuer does not have self_presented")
			return e
		}
		token := p.facts.Token
		*p.to = &token
	}
	return nil
}

// missing says which claims the rules could read that facts do not tell of; empty
// if none.
func (st *state) missing(f *Facts) string {
	issuer := ""
	if f.Subject != nil {
		issuer = f.Subject.Issuer
	}
	reads := st.rules.Reads(issuer)
	if reads.Any && (f.Subject != nil || f.Actor != nil) {
		return factsAny
	}
	for _, p := range []struct {
		facts *FactsToken
		names []string
	}{{f.Subject, reads.Subject}, {f.Actor, reads.Actor}} {
		if p.facts == nil {
			continue
		}
		for _, name := range p.names {
			if _, ok := p.facts.Claims[name]; !ok && !slices.Contains(p.facts.Absent, name) {
				return fmt.Sprintf("a rule reads the claim %q, which was not recorded", name)
			}
		}
	}
	return ""
}

// Explained is a decision that was taken, with why.
type Explained struct {
	Record *Record
	// Then is what comes of the same request by the revision that decided it; if that
	// is not kept any more, by the one in force, as its Revision says.
	Then Retrial
	// Now is what comes of it by the revision in force; nil if that is the same one.
	Now *Retrial
}

// ExplainDecision explains a decision that this node took lately, by its id.
func (s *Service) ExplainDecision(ctx context.Context, id string) (Explained, error) {
	r, ok := s.recent.get(id)
	if !ok {
		return Explained{}, &Error{Code: NotFound, Message: "this node does not know the decision: it remembers its latest ones only, and those of other nodes not at all; look for it in the audit log with `stsctl explain ID --audit FILE`"}
	}
	st := s.state.Load()
	now := s.retry(ctx, st, r)
	if st.revision == r.Revision {
		return Explained{Record: r, Then: now}, nil
	}
	kept, err := s.store.Load(ctx, Place{Live, r.Revision})
	if err != nil {
		return Explained{Record: r, Then: now}, nil
	}
	old, problems := s.newState(byRef(kept.Resources), r.Revision, st)
	if len(problems) > 0 { // a key set or a file that it needs is not there any more
		return Explained{Record: r, Then: now}, nil
	}
	return Explained{Record: r, Then: s.retry(ctx, old, r), Now: &now}, nil
}
