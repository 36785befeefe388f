package server

import (
	"context"
	"strconv"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// Bounds of the history.
const (
	defaultHistoryPage = 20
	maxHistoryPage     = 100
	maxDiffs           = 200
	maxDiffBytes       = 2 << 20
)

// principalOf returns who makes an administrative call.
func principalOf(ctx context.Context) sts.Principal {
	if k, ok := callOf(ctx); ok && k.caller != nil {
		return k.caller.principal
	}
	return sts.Principal{}
}

// ListRevisions implements stsv1.AdminServiceServer.
func (a *adminService) ListRevisions(ctx context.Context, m *stsv1.ListRevisionsRequest) (*stsv1.ListRevisionsResponse, error) {
	size, bad := pageSize(m.GetPageSize(), defaultHistoryPage, maxHistoryPage)
	if bad != nil {
		return nil, bad
	}
	var before int64
	if m.GetPageToken() != "" {
		var err error
		if before, err = strconv.ParseInt(m.GetPageToken(), 10, 64); err != nil || before <= 0 {
			return nil, badPageToken()
		}
	}
	list, more, err := a.service.History(ctx, before, size)
	if err != nil {
		return nil, err
	}
	out := &stsv1.ListRevisionsResponse{}
	for _, r := range list {
		out.Revisions = append(out.Revisions, revisionToProto(r))
	}
	if more {
		out.NextPageToken = strconv.FormatInt(list[len(list)-1].Number, 10)
	}
	return out, nil
}

// GetRevision implements stsv1.AdminServiceServer.
func (a *adminService) GetRevision(ctx context.Context, m *stsv1.GetRevisionRequest) (*stsv1.GetRevisionResponse, error) {
	to := sts.Place{Line: sts.Live, Number: m.GetRevision()}
	if m.GetShadow() {
		to.Line = sts.Shadow
	}
	if to.Number < 0 || to.Number == 0 && !m.GetShadow() {
		return nil, malformed("revision", "revision must be the number of a revision, from 1")
	}
	r, err := a.service.Revision(ctx, to)
	if err != nil {
		return nil, err
	}
	to.Number = r.Number
	from := sts.Place{Line: sts.Live, Number: r.Base}
	if m.GetAgainst() != 0 {
		from.Number = m.GetAgainst()
	}
	diffs, err := a.service.Diff(ctx, from, to)
	if err != nil {
		return nil, err
	}
	out := &stsv1.GetRevisionResponse{Revision: revisionToProto(r.Revision), Against: from.Number, Total: int64(len(diffs))}
	size := 0
	for _, d := range diffs[:min(len(diffs), maxDiffs)] {
		p := &stsv1.ResourceDiff{Ref: &stsv1.ResourceRef{Kind: string(d.Ref.Kind), Name: d.Ref.Name}}
		if d.Before.Kind() != "" {
			p.Before = ToProto(d.Before)
		}
		if d.After.Kind() != "" {
			p.After = ToProto(d.After)
		}
		if size += proto.Size(p); size > maxDiffBytes {
			break
		}
		out.Differences = append(out.Differences, p)
	}
	return out, nil
}

// Rollback implements stsv1.AdminServiceServer.
func (a *adminService) Rollback(ctx context.Context, m *stsv1.RollbackRequest) (*stsv1.ApplyResponse, error) {
	if m.GetTo() <= 0 {
		return nil, malformed("to", "to must be the number of a revision, from 1")
	}
	return applied(a.service.Rollback(ctx, sts.Rollback{
		To: m.GetTo(), Expected: m.GetExpectedRevision(), DryRun: m.GetDryRun(), Why: m.GetWhy(), By: principalOf(ctx),
	}))
}

// GetShadow implements stsv1.AdminServiceServer.
func (a *adminService) GetShadow(context.Context, *stsv1.GetShadowRequest) (*stsv1.GetShadowResponse, error) {
	st, err := a.service.Shadow()
	if err != nil {
		return nil, err
	}
	out := &stsv1.GetShadowResponse{
		Revision: revisionToProto(st.Revision), Current: st.Current, Problem: st.Problem, Since: timeToProto(st.Since),
		Decided: st.Decided, Skipped: st.Skipped, Counts: map[string]int64{},
	}
	for k, n := range st.Counts {
		out.Counts[string(k)] = n
	}
	for _, d := range st.Differences {
		p := &stsv1.DecisionDiff{
			Client: d.Client, SubjectIssuer: d.SubjectIssuer, ActorIssuer: d.ActorIssuer, Audiences: d.Audiences,
			Live: decidedToProto(d.Live), Shadow: decidedToProto(d.Shadow), Count: d.Count,
			First: timeToProto(d.First), Last: timeToProto(d.Last), DecisionId: d.Decision,
		}
		for _, k := range d.Kinds {
			p.Kinds = append(p.Kinds, string(k))
		}
		out.Differences = append(out.Differences, p)
	}
	return out, nil
}

// PromoteShadow implements stsv1.AdminServiceServer.
func (a *adminService) PromoteShadow(ctx context.Context, m *stsv1.PromoteShadowRequest) (*stsv1.ApplyResponse, error) {
	return applied(a.service.Promote(ctx, sts.Promotion{Shadow: m.GetShadowRevision(), DryRun: m.GetDryRun(), Why: m.GetWhy(), By: principalOf(ctx)}))
}

// DiscardShadow implements stsv1.AdminServiceServer.
func (a *adminService) DiscardShadow(ctx context.Context, m *stsv1.DiscardShadowRequest) (*stsv1.DiscardShadowResponse, error) {
	err := a.service.Discard(ctx, sts.Promotion{Shadow: m.GetShadowRevision(), Why: m.GetWhy(), By: principalOf(ctx)})
	if err != nil {
		return nil, err
	}
	return &stsv1.DiscardShadowResponse{}, nil
}

func applied(done sts.Changed, err error) (*stsv1.ApplyResponse, error) {
	if err != nil {
		return nil, err
	}
	return &stsv1.ApplyResponse{
		Revision:       done.Revision,
		Created:        refsToProto(done.Created),
		Updated:        refsToProto(done.Updated),
		Deleted:        refsToProto(done.Deleted),
		ShadowRevision: done.Shadow,
	}, nil
}

func revisionToProto(r sts.Revision) *stsv1.Revision {
	changed := func(refs sts.Refs) *stsv1.ChangedResources {
		return &stsv1.ChangedResources{Count: int64(refs.Count), First: refsToProto(refs.First)}
	}
	return &stsv1.Revision{
		Revision: r.Number, Base: r.Base, Restores: r.Restores, Promotes: r.Promotes, Time: timeToProto(r.Time),
		By: r.By.Name, Method: r.By.Method, Peer: r.By.Peer, Why: r.Why, Resources: int64(r.Size),
		Created: changed(r.Created), Updated: changed(r.Updated), Deleted: changed(r.Deleted),
	}
}

func decidedToProto(d sts.DecidedBy) *stsv1.DecidedBy {
	out := &stsv1.DecidedBy{Allowed: d.Allowed, Rules: d.Rules, Scopes: d.Scopes, Error: string(d.Code), Reason: d.Reason}
	if d.Allowed {
		out.Lifetime = durationpb.New(d.Lifetime)
	}
	return out
}
