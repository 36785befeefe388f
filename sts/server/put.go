package server

import (
	"context"
	"net/http"
	"strings"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// PutResource implements stsv1.AdminServiceServer.
func (a *adminService) PutResource(ctx context.Context, m *stsv1.PutResourceRequest) (*stsv1.PutResourceResponse, error) {
	ref, bad := refOf(m.GetKind(), m.GetName())
	if bad != nil {
		return nil, bad
	}
	r, problems := FromProto(m.GetResource())
	if len(problems) > 0 {
		return nil, &sts.Error{Code: sts.InvalidResource, Problems: problems, Message: "nothing was changed: the resource is not well-formed"}
	}
	if r.Ref() != ref {
		return nil, malformed("name", "the resource is another one than kind and name say; to rename one, apply a change that deletes it and puts the new one")
	}
	change := sts.Change{Put: []sts.Resource{r}, By: principalOf(ctx), Match: map[sts.Ref]string{}}
	if bad := expects(ctx, change, ref, m.GetEtag(), m.GetCreate()); bad != nil {
		return nil, bad
	}
	done, err := a.service.Apply(ctx, change)
	if err != nil {
		return nil, err
	}
	return &stsv1.PutResourceResponse{Resource: ToProto(r), Etag: r.ETag(), Revision: done.Revision, Created: len(done.Created) > 0}, nil
}

// expects puts into a change what the caller has seen of a resource: by the message,
// or by the headers of HTTP, and not by both.
func expects(ctx context.Context, change sts.Change, ref sts.Ref, etag string, create bool) *refusal {
	if k, ok := callOf(ctx); ok && k.match != nil {
		if etag != "" || create {
			return malformed("etag", "the request says twice what it expects: by a header and by a parameter")
		}
		etag, create = k.match.etag, k.match.create
	}
	switch {
	case create && etag != "":
		return malformed("etag", "a resource that must not exist has no etag; leave out etag or create")
	case create:
		change.Match[ref] = ""
	case etag != "":
		change.Match[ref] = etag
	}
	return nil
}

// match is what the headers If-Match and If-None-Match say [RFC 9110 §13.1].
type match struct {
	etag   string
	create bool
}

// readMatch returns nil if there are no such headers. One etag is understood, and
// what is not understood is refused: to overlook it would overwrite what somebody
// else wrote.
func readMatch(r *http.Request) (*match, *refusal) {
	is, none := r.Header.Values("If-Match"), r.Header.Values("If-None-Match")
	switch {
	case len(is)+len(none) == 0:
		return nil, nil
	case r.Method != http.MethodPut && r.Method != http.MethodDelete:
		return nil, malformed("If-Match", "this method takes neither If-Match nor If-None-Match")
	case len(is)+len(none) > 1:
		return nil, malformed("If-Match", "more than one of If-Match and If-None-Match")
	case len(none) == 1 && none[0] == "*" && r.Method == http.MethodPut:
		return &match{create: true}, nil
	case len(none) == 1:
		return nil, malformed("If-None-Match", "If-None-Match is understood as * alone, with PUT: the resource must not exist")
	case is[0] == sts.AnyETag:
		return &match{etag: sts.AnyETag}, nil
	}
	etag, ok := strings.CutPrefix(is[0], `"`)
	etag, closed := strings.CutSuffix(etag, `"`)
	if !ok || !closed || etag == "" || strings.ContainsAny(etag, `",`) {
		return nil, malformed("If-Match", "If-Match must be one etag in quotes, as the header ETag has it, or *")
	}
	return &match{etag: etag}, nil
}

// describe puts what HTTP says by a header or a status into the answer.
func describe(w http.ResponseWriter, m any) {
	if e, ok := m.(interface{ GetEtag() string }); ok && e.GetEtag() != "" {
		w.Header().Set("ETag", `"`+e.GetEtag()+`"`)
	}
	if p, ok := m.(*stsv1.PutResourceResponse); ok && p.GetCreated() {
		w.WriteHeader(http.StatusCreated)
	}
}
