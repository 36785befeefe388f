package sts

import (
	"context"
	"time"

	"github.com/workload-sts/sts/policy"
)

// Simulation is a request whose credential and tokens count as verified.
type Simulation struct {
	Client         string // empty: the workload presents its own token
	Subject, Actor *SimulatedToken
	Audiences      []string
	Resources      []string
	Scope          string
	RequestedType  TokenType // empty: AccessToken
	Proven         policy.Confirmation
	Now            time.Time
}

// SimulatedToken is a token that counts as signed by its issuer.
type SimulatedToken struct {
	Issuer string // Issuer resource, or policy.Self
	Type   TokenType
	Claims map[string]any
}

// Outcome is what comes of a request.
type Outcome struct {
	Revision int64
	Request  *policy.Request // what the policy was asked; nil if it was not
	Error    *Error          // nil: it is granted
	Reasons  []RecordReason  // why not, the nearest first
	// Explanation is nil if the request is refused before rules are asked.
	Explanation *policy.Explanation
}

// Simulate tells what would come of a request, by the resources in force. No token
// is made, nothing is used up, and nothing is recorded as a decision.
func (s *Service) Simulate(ctx context.Context, r Simulation) Outcome {
	return s.simulate(ctx, s.state.Load(), r)
}

// simulate takes the steps of walk that can be taken without a credential and a
// signature, in their order and by the same code.
func (s *Service) simulate(ctx context.Context, st *state, r Simulation) Outcome {
	d := &decision{st: st, now: r.Now, req: r.request()}
	d.asked = policy.Request{Now: r.Now, SelfIssuer: s.issuer, Proven: r.Proven}
	out := Outcome{Revision: st.revision}
	if e := s.rehearse(d, r); e != nil {
		d.because(e)
		out.Error, out.Reasons = e, d.rec.Reasons
		return out
	}
	return s.decided(ctx, d)
}

// decided asks the rules of a state, and has them say why.
func (s *Service) decided(ctx context.Context, d *decision) Outcome {
	explained := d.st.rules.Explain(ctx, d.asked)
	out := Outcome{Revision: d.st.revision, Request: &d.asked, Explanation: &explained}
	if explained.Denial != nil {
		out.Error = d.denied(explained.Denial)
		out.Reasons = d.rec.Reasons
	}
	return out
}

// simulatedToken stands where the text of a token would.
const simulatedToken = "simulated"

func (r Simulation) request() TokenRequest {
	req := TokenRequest{Grant: ClientCredentials, Audiences: r.Audiences, Resources: r.Resources, Scope: r.Scope, RequestedType: r.RequestedType}
	if r.Subject != nil {
		req.Grant, req.Subject = TokenExchange, Presented{simulatedToken, r.Subject.Type}
	}
	if r.Actor != nil {
		req.Actor = Presented{simulatedToken, r.Actor.Type}
	}
	return req
}

// rehearse takes the steps before the policy is asked.
func (s *Service) rehearse(d *decision, r Simulation) *Error {
	if e := d.check(); e != nil {
		return e
	}
	if r.Actor != nil && r.Subject == nil {
		return refuse(InvalidRequest, "subject_token", "subject_token is missing")
	}
	if e := d.simulatedRequester(s.issuer, r); e != nil {
		return e
	}
	if d.asked.Proven.JKT == "" {
		if e := d.unproven(); e != nil {
			return e
		}
	}
	var e *Error
	if r.Subject != nil {
		if d.asked.Subject, e = s.acceptSimulated(d, "subject_token", r.Subject, &d.rec.Subject); e != nil {
			return e
		}
	}
	if r.Actor != nil {
		d.asked.Actor, e = s.acceptSimulated(d, "actor_token", r.Actor, &d.rec.Actor)
	}
	return e
}

func (d *decision) simulatedRequester(self string, r Simulation) *Error {
	if r.Client == "" {
		if r.Subject == nil {
			return invalidClientMissing()
		}
		return d.presentsItself(r.Subject.Claims, self)
	}
	c, known := d.st.client(r.Client, d.now)
	switch {
	case !known:
		return invalidClient("no client of this name")
	case c.Disabled:
		return invalidClient("the client is disabled")
	}
	d.rec.Client, d.asked.Client = c.Name, &c.party
	return nil
}

func (s *Service) acceptSimulated(d *decision, field string, t *SimulatedToken, rec **RecordParty) (*policy.Token, *Error) {
	p := &proven{typ: typJWT, claims: t.Claims}
	if t.Type == AccessToken {
		p.typ = typAccessToken
	}
	if t.Claims["iss"] != s.issuer {
		i, ok := d.st.issuerOf(t.Claims)
		if !ok {
			return nil, d.untrusted(field, t.Claims)
		}
		p.issuer = i
	}
	*rec = &RecordParty{Issuer: p.issuerName()}
	if e := d.checkType(field, t.Type, p); e != nil {
		return nil, e
	}
	return s.accept(d, field, p, *rec)
}
