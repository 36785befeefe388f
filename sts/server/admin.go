package server

import (
	"context"
	"fmt"
	"time"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// Bounds of the admin interface.
const (
	maxApply     = 8 << 20 // bytes of one change
	maxResources = 10_000  // in one change
)

// adminService is the handler of admin requests of every face. That the caller
// is an admin has been checked by the chain.
type adminService struct {
	stsv1.UnimplementedAdminServiceServer
	service *sts.Service
	timeout time.Duration // for a change whose parts have arrived
}

// Apply implements stsv1.AdminServiceServer.
func (a *adminService) Apply(ctx context.Context, m *stsv1.ApplyRequest) (*stsv1.ApplyResponse, error) {
	if bad := tooMany(m); bad != nil {
		return nil, bad
	}
	change := sts.Change{
		Expected: m.GetExpectedRevision(), DryRun: m.GetDryRun(), Shadow: m.GetShadow(), Why: m.GetWhy(), By: principalOf(ctx), Match: map[sts.Ref]string{},
	}
	var problems []sts.Problem
	for i, r := range m.GetResources() {
		resource, ps := FromProto(r)
		for _, p := range ps {
			p.Index = i
			problems = append(problems, p)
		}
		change.Put = append(change.Put, resource)
	}
	for i, r := range m.GetDelete() {
		ref, bad := refOf(r.GetKind(), r.GetName())
		if bad != nil {
			return nil, malformed(fmt.Sprintf("delete[%d].%s", i, bad.sts.Field), bad.sts.Message)
		}
		change.Delete = append(change.Delete, ref)
	}
	for i, r := range m.GetMatch() {
		ref, bad := refOf(r.GetKind(), r.GetName())
		if bad != nil {
			return nil, malformed(fmt.Sprintf("match[%d].%s", i, bad.sts.Field), bad.sts.Message)
		}
		if _, twice := change.Match[ref]; twice {
			return nil, malformed(fmt.Sprintf("match[%d]", i), "names a resource a second time")
		}
		change.Match[ref] = r.GetEtag()
	}
	if len(problems) > 0 {
		return nil, &sts.Error{Code: sts.InvalidResource, Problems: problems, Message: "nothing was changed: resources are not well-formed"}
	}
	return applied(a.service.Apply(ctx, change))
}

func tooMany(m *stsv1.ApplyRequest) *refusal {
	if len(m.GetResources())+len(m.GetDelete()) > maxResources || len(m.GetMatch()) > maxResources {
		return malformed("resources", fmt.Sprintf("more than %d resources in one change", maxResources))
	}
	return nil
}

// GetResource implements stsv1.AdminServiceServer.
func (a *adminService) GetResource(_ context.Context, m *stsv1.GetResourceRequest) (*stsv1.GetResourceResponse, error) {
	ref, bad := refOf(m.GetKind(), m.GetName())
	if bad != nil {
		return nil, bad
	}
	r, revision, err := a.service.Resource(ref)
	if err != nil {
		return nil, err
	}
	return &stsv1.GetResourceResponse{Resource: ToProto(r), Revision: revision, Etag: r.ETag()}, nil
}

// ListResources implements stsv1.AdminServiceServer.
func (a *adminService) ListResources(ctx context.Context, m *stsv1.ListResourcesRequest) (*stsv1.ListResourcesResponse, error) {
	kind := sts.Kind(m.GetKind())
	if kind != "" && !kinds[kind] {
		return nil, badKind()
	}
	size, bad := pageSize(m.GetPageSize(), defaultPageSize, maxPageSize)
	if bad != nil {
		return nil, bad
	}
	var after sts.Ref
	var of int64
	if m.GetPageToken() != "" {
		if of, after, bad = readPageToken(m.GetPageToken()); bad != nil {
			return nil, bad
		}
	}
	page, more, revision, err := a.resources(ctx, m, kind, after, size)
	if err != nil {
		return nil, err
	}
	if m.GetPageToken() != "" && of != revision {
		return nil, errListChanged(of, revision)
	}
	out := &stsv1.ListResourcesResponse{Revision: revision}
	for _, r := range page {
		out.Resources, out.Etags = append(out.Resources, ToProto(r)), append(out.Etags, r.ETag())
	}
	if more {
		out.NextPageToken = pageToken(revision, page[len(page)-1].Ref())
	}
	return out, nil
}

// resources are those of a page, of the revision that a request names.
func (a *adminService) resources(ctx context.Context, m *stsv1.ListResourcesRequest, kind sts.Kind, after sts.Ref, size int) (page []sts.Resource, more bool, revision int64, err error) {
	place := sts.Place{Line: sts.Live, Number: m.GetRevision()}
	switch {
	case m.GetRevision() < 0:
		return nil, false, 0, malformed("revision", "a revision is a number from 1")
	case m.GetShadow():
		place.Line = sts.Shadow
	case m.GetRevision() == 0:
		page, more, revision = a.service.Resources(kind, after, size)
		return page, more, revision, nil
	}
	return a.service.ResourcesAt(ctx, place, kind, after, size)
}

// DeleteResource implements stsv1.AdminServiceServer.
func (a *adminService) DeleteResource(ctx context.Context, m *stsv1.DeleteResourceRequest) (*stsv1.DeleteResourceResponse, error) {
	ref, bad := refOf(m.GetKind(), m.GetName())
	if bad != nil {
		return nil, bad
	}
	if _, _, err := a.service.Resource(ref); err != nil {
		return nil, err
	}
	change := sts.Change{Delete: []sts.Ref{ref}, By: principalOf(ctx), Match: map[sts.Ref]string{}}
	if bad := expects(ctx, change, ref, m.GetEtag(), false); bad != nil {
		return nil, bad
	}
	done, err := a.service.Apply(ctx, change)
	if err != nil {
		return nil, err
	}
	return &stsv1.DeleteResourceResponse{Revision: done.Revision}, nil
}

var kinds = func() map[sts.Kind]bool {
	out := map[sts.Kind]bool{}
	for _, k := range sts.Kinds {
		out[k] = true
	}
	return out
}()

func badKind() *refusal {
	return malformed("kind", "kind must be Client, ClientTemplate, Issuer, Audience or Rule")
}

func refOf(kind, name string) (sts.Ref, *refusal) {
	ref := sts.Ref{Kind: sts.Kind(kind), Name: name}
	if !kinds[ref.Kind] {
		return ref, badKind()
	}
	if name == "" {
		return ref, malformed("name", "name is missing")
	}
	return ref, nil
}

func refsToProto(refs []sts.Ref) []*stsv1.ResourceRef {
	out := make([]*stsv1.ResourceRef, 0, len(refs))
	for _, r := range refs {
		out = append(out, &stsv1.ResourceRef{Kind: string(r.Kind), Name: r.Name})
	}
	return out
}
