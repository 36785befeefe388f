package server

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
	"github.com/workload-sts/sts/sts/policytest"
)

// ExplainDecision implements stsv1.AdminServiceServer.
func (a *adminService) ExplainDecision(ctx context.Context, m *stsv1.ExplainDecisionRequest) (*stsv1.ExplainDecisionResponse, error) {
	if m.GetId() == "" {
		return nil, malformed("id", "id is missing: name the decision")
	}
	got, err := a.service.ExplainDecision(ctx, m.GetId())
	if err != nil {
		return nil, err
	}
	return ExplainedToProto(got), nil
}

// ExplainedToProto returns an explained decision as callers see it.
func ExplainedToProto(e sts.Explained) *stsv1.ExplainDecisionResponse {
	out := &stsv1.ExplainDecisionResponse{
		Id: e.Record.Decision, Time: timestamppb.New(e.Record.Time), Revision: e.Record.Revision,
		Code: string(e.Record.Error), Reason: e.Record.Reason, Reasons: reasonsToProto(e.Record.Reasons), Unknown: e.Then.Unknown,
	}
	if e.Then.Unknown == "" {
		out.Explanation = OutcomeToProto(e.Then.Outcome)
	}
	if e.Now != nil && e.Now.Unknown == "" {
		out.Now = OutcomeToProto(e.Now.Outcome)
	}
	return out
}

// SimulateRequest implements stsv1.AdminServiceServer.
func (a *adminService) SimulateRequest(ctx context.Context, m *stsv1.SimulateRequestRequest) (*stsv1.SimulateRequestResponse, error) {
	if m.GetRequest() == nil {
		return nil, malformed("request", "request is missing")
	}
	s, err := policytest.Simulation(a.service, m.GetRequest(), time.Now())
	if err != nil {
		return nil, malformed("request", "the request to try is not well-formed: "+err.Error())
	}
	return &stsv1.SimulateRequestResponse{Explanation: OutcomeToProto(a.service.Simulate(ctx, s))}, nil
}

// OutcomeToProto returns what comes of a request as callers see it.
func OutcomeToProto(o sts.Outcome) *stsv1.Explanation {
	out := &stsv1.Explanation{Revision: o.Revision, Granted: o.Error == nil, Reasons: reasonsToProto(o.Reasons), Text: o.Text()}
	if o.Error != nil {
		out.Code, out.Message = string(o.Error.Code), o.Error.Message
	}
	e := o.Explanation
	if e == nil {
		return out
	}
	if e.Granted != nil {
		out.Grant = offerToProto(*e.Granted)
	}
	out.Rules, out.Omitted, out.Others = trialsToProto(e.Rules), int32(e.Omitted), trialsToProto(e.Others)
	out.Denials = trialsToProto(e.Denials)
	for _, s := range e.Scopes {
		out.Scopes = append(out.Scopes, &stsv1.ScopeTrial{Scope: s.Scope, Asked: s.Asked, Granted: s.Granted, By: s.By, Could: s.Could, Denied: s.Denied, Hint: s.Hint})
	}
	for _, w := range e.Would {
		out.Would = append(out.Would, offerToProto(w))
	}
	return out
}

func reasonsToProto(in []sts.RecordReason) []*stsv1.DecisionReason {
	var out []*stsv1.DecisionReason
	for _, r := range in {
		out = append(out, &stsv1.DecisionReason{Rule: r.Rule, Predicate: r.Predicate, Presented: r.Presented, Expected: r.Expected, Hint: r.Hint})
	}
	return out
}

func trialsToProto(in []policy.RuleTrial) []*stsv1.RuleTrial {
	var out []*stsv1.RuleTrial
	for _, r := range in {
		t := &stsv1.RuleTrial{Rule: r.Rule, Matches: r.Matches, Contributes: r.Contributes, Denies: r.Denies}
		for _, c := range r.Checks {
			t.Checks = append(t.Checks, &stsv1.Check{Predicate: c.Predicate, Holds: c.Holds, Presented: c.Presented, Expected: c.Expected, Hint: c.Hint})
		}
		out = append(out, t)
	}
	return out
}

func offerToProto(o policy.Offer) *stsv1.Offer {
	out := &stsv1.Offer{Rules: o.Rules, Audiences: o.Audiences, Scopes: o.Scopes, Sub: o.Subject, Act: o.Actors, Lifetime: durationpb.New(o.Lifetime), Binding: "none", Exchanges: int32(o.Exchanges)}
	switch {
	case o.Confirmation.JKT != "":
		out.Binding = "dpop"
	case o.Confirmation.X5T != "":
		out.Binding = "mtls"
	}
	if len(o.Claims) > 0 {
		out.Claims, _ = structOf(o.Claims) // they are JSON values
	}
	if m := o.MayAct; m != nil {
		out.MayAct = &stsv1.OfferedMayAct{Iss: m.Iss, Sub: m.Subject, ClientId: m.ClientID}
	}
	return out
}
