package server

import (
	"context"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// ListIssuerStatus implements stsv1.AdminServiceServer.
func (a *adminService) ListIssuerStatus(_ context.Context, req *stsv1.ListIssuerStatusRequest) (*stsv1.ListIssuerStatusResponse, error) {
	size, bad := pageSize(req.GetPageSize(), defaultPageSize, maxPageSize)
	if bad != nil {
		return nil, bad
	}
	out := &stsv1.ListIssuerStatusResponse{}
	for _, s := range a.service.IssuerStatus() { // by name
		if s.Name <= req.GetPageToken() {
			continue
		}
		if len(out.Issuers) == size {
			out.NextPageToken = out.Issuers[size-1].GetName()
			break
		}
		out.Issuers = append(out.Issuers, keysToProto(s))
	}
	return out, nil
}

func keysToProto(s sts.IssuerStatus) *stsv1.IssuerStatus {
	m := &stsv1.IssuerStatus{
		Name:    s.Name,
		Source:  s.Source,
		Fetched: timeToProto(s.Fetched),
		Asked:   timeToProto(s.Asked),
		Refresh: timeToProto(s.Refresh),
		Stale:   timeToProto(s.Stale),
		Problem: s.Problem,
	}
	for _, k := range s.Keys {
		m.Keys = append(m.Keys, &stsv1.IssuerKey{Kid: k.ID, Algorithm: k.Algorithm})
	}
	return m
}

// bundle returns nil for what is not there, which says something else than what is
// empty.
func bundle(m *stsv1.SpiffeBundle) *sts.SPIFFEBundle {
	if m == nil {
		return nil
	}
	return &sts.SPIFFEBundle{TrustDomain: m.GetTrustDomain(), File: m.GetFile(), URL: m.GetUrl()}
}

func bundleToProto(b *sts.SPIFFEBundle) *stsv1.SpiffeBundle {
	if b == nil {
		return nil
	}
	return &stsv1.SpiffeBundle{TrustDomain: b.TrustDomain, File: b.File, Url: b.URL}
}

func review(m *stsv1.TokenReview) *sts.TokenReview {
	if m == nil {
		return nil
	}
	return &sts.TokenReview{APIServer: m.GetApiServer(), CAFile: m.GetCaFile(), TokenFile: m.GetTokenFile(), CheckSignature: m.GetCheckSignature()}
}

func reviewToProto(r *sts.TokenReview) *stsv1.TokenReview {
	if r == nil {
		return nil
	}
	return &stsv1.TokenReview{ApiServer: r.APIServer, CaFile: r.CAFile, TokenFile: r.TokenFile, CheckSignature: r.CheckSignature}
}
