package server

import (
	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/policy"
)

func (c *converter) rule(m *stsv1.Rule) *policy.Rule {
	out := &policy.Rule{
		Name:        m.GetName(),
		Description: m.GetDescription(),
		Requester: policy.Requester{
			Clients:  m.GetRequester().GetClients(),
			Labels:   m.GetRequester().GetLabels(),
			Workload: m.GetRequester().GetWorkload(),
		},
		Subject: c.party("subject", m.GetSubject()),
		Actor:   c.party("actor", m.GetActor()),
		Require: policy.Require{
			Binding:     policy.Binding(m.GetRequire().GetBinding()),
			MaxTokenAge: c.duration("require.max_token_age", m.GetRequire().GetMaxTokenAge()),
			MaxAuthAge:  c.duration("require.max_auth_age", m.GetRequire().GetMaxAuthAge()),
		},
		When:        m.GetWhen(),
		Allow:       c.allow(m.GetAllow()),
		AcceptRisks: m.GetAcceptRisks(),
	}
	if d := m.GetDeny(); d != nil {
		out.Deny = &policy.Deny{Audiences: d.GetAudiences(), Scopes: d.GetScopes()}
		if m.GetAllow() != nil {
			c.problem("allow", "cannot be given together with deny; a rule has one of them")
		}
	}
	if l := m.GetLimits(); l != nil {
		out.Limits = policy.Limits{Actors: int(l.GetActors()), Exchanges: int(l.GetExchanges()), UsesPerTransaction: int(l.GetUsesPerTransaction())}
	}
	return out
}

func (c *converter) allow(m *stsv1.Allow) policy.Allow {
	out := policy.Allow{
		Audiences:         m.GetAudiences(),
		Scopes:            m.GetScopes(),
		TTL:               c.duration("allow.ttl", m.GetTtl()),
		Claims:            m.GetClaims(),
		Impersonate:       m.GetImpersonate(),
		MultipleAudiences: m.GetMultipleAudiences(),
		TokenTypes:        m.GetTokenTypes(),
		ScopesFromRequest: m.GetScopesFromRequest(),
		Sub:               m.GetSub(),
	}
	for i, from := range m.GetScopesFromClaims() {
		s := policy.ScopesForValue{Claim: from.GetClaim(), Scopes: from.GetScopes()}
		if v := from.GetValue(); v != nil {
			s.Value = c.value(indexed("allow.scopes_from_claims", i)+".value", v)
		}
		out.ScopesFromClaims = append(out.ScopesFromClaims, s)
	}
	if a := m.GetMayAct(); a != nil {
		out.MayAct = &policy.MayActParty{Client: a.GetClient(), Issuer: a.GetIssuer(), Subject: a.GetSub()}
	}
	return out
}

func ruleToProto(r *policy.Rule) *stsv1.Rule {
	out := &stsv1.Rule{
		Name:        r.Name,
		Description: r.Description,
		Subject:     partyToProto(r.Subject),
		Actor:       partyToProto(r.Actor),
		When:        r.When,
		AcceptRisks: r.AcceptRisks,
	}
	if r.Deny != nil {
		out.Deny = &stsv1.Deny{Audiences: r.Deny.Audiences, Scopes: r.Deny.Scopes}
	} else {
		out.Allow = allowToProto(&r.Allow)
	}
	if q := r.Require; q != (policy.Require{}) {
		out.Require = &stsv1.Require{Binding: string(q.Binding), MaxTokenAge: durationToProto(q.MaxTokenAge), MaxAuthAge: durationToProto(q.MaxAuthAge)}
	}
	if q := r.Requester; len(q.Clients) > 0 || len(q.Labels) > 0 || q.Workload {
		out.Requester = &stsv1.Requester{Clients: q.Clients, Labels: q.Labels, Workload: q.Workload}
	}
	if l := r.Limits; l != (policy.Limits{}) {
		out.Limits = &stsv1.Limits{Actors: int32(l.Actors), Exchanges: int32(l.Exchanges), UsesPerTransaction: int32(l.UsesPerTransaction)}
	}
	return out
}

func allowToProto(a *policy.Allow) *stsv1.Allow {
	out := &stsv1.Allow{
		Audiences:         a.Audiences,
		Scopes:            a.Scopes,
		Ttl:               durationToProto(a.TTL),
		Claims:            a.Claims,
		Impersonate:       a.Impersonate,
		MultipleAudiences: a.MultipleAudiences,
		TokenTypes:        a.TokenTypes,
		ScopesFromRequest: a.ScopesFromRequest,
		Sub:               a.Sub,
	}
	for _, from := range a.ScopesFromClaims {
		out.ScopesFromClaims = append(out.ScopesFromClaims, &stsv1.ScopesFromClaim{Claim: from.Claim, Value: valueToProto(from.Value), Scopes: from.Scopes})
	}
	if m := a.MayAct; m != nil {
		out.MayAct = &stsv1.MayAct{Client: m.Client, Issuer: m.Issuer, Sub: m.Subject}
	}
	return out
}
