package main

import (
	"context"
	"time"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

// fakeIssuers are issuers in every state that their keys can be in.
func fakeIssuers() []*stsv1.IssuerStatus {
	const half = 30 * time.Second
	return []*stsv1.IssuerStatus{
		{Name: "cluster", Source: "token_review", Fetched: in(-4*time.Second - 500*time.Millisecond), Asked: in(-4 * time.Second)},
		{
			Name: "github", Source: "discovery", Fetched: in(-3*time.Minute - half), Asked: in(-3*time.Minute - half), Refresh: in(4*time.Minute + half), Stale: in(66 * time.Minute),
			Keys: []*stsv1.IssuerKey{{Kid: "cc413527-173f-5a05-976e-9c52b1d7b431", Algorithm: "RS256"}, {Algorithm: "RSA 2048"}},
		},
		{
			Name: "gitlab", Source: "discovery", Fetched: in(-30*time.Minute - half), Asked: in(-half), Refresh: in(-20 * time.Minute), Stale: in(40*time.Minute + half),
			Keys: []*stsv1.IssuerKey{{Kid: "k1", Algorithm: "RS256"}}, Problem: "fetching its keys: the answer has status 500\x1b[31m",
		},
		{Name: "gone", Source: "jwks_uri", Fetched: in(-3*time.Hour - half), Asked: in(-half), Problem: "connection refused"},
		{Name: "inline", Source: "jwks", Keys: []*stsv1.IssuerKey{{Kid: "k1", Algorithm: "EC P-256"}}},
		{Name: "mesh", Source: "spiffe_bundle", Asked: in(-half), Problem: "no such file"},
		{Name: "new", Source: "discovery"},
	}
}

func (f *fakeServer) ListIssuerStatus(ctx context.Context, _ *stsv1.ListIssuerStatusRequest) (*stsv1.ListIssuerStatusResponse, error) {
	if err := f.authorize(ctx); err != nil {
		return nil, err
	}
	return &stsv1.ListIssuerStatusResponse{Issuers: fakeIssuers()}, nil
}
