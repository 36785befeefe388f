package main

import (
	"context"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

// Revoke keeps what it is asked for, and knows the client demo.
func (f *fakeServer) Revoke(ctx context.Context, req *stsv1.RevokeRequest) (*stsv1.RevokeResponse, error) {
	if err := f.authorize(ctx); err != nil {
		return nil, err
	}
	if req.GetKind() == "client" && req.GetValue() != "demo" {
		return nil, f.refusal(codes.NotFound, "not_found", "there is no client of this name")
	}
	r := &stsv1.Revocation{Kind: req.GetKind(), Value: req.GetValue(), Issuer: req.GetIssuer(), Before: req.GetBefore(), Created: timestamppb.Now(), By: "admin", Reason: req.GetReason()}
	switch {
	case req.GetToken() != "":
		r.Value, r.Issuer = "jti of-the-token", "self"
	case req.GetKind() == "token":
		r.Value = "jti " + r.Value
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.revoked = append(f.revoked, r)
	return &stsv1.RevokeResponse{Revocation: r}, nil
}

// ListRevocations has two on a page.
func (f *fakeServer) ListRevocations(ctx context.Context, req *stsv1.ListRevocationsRequest) (*stsv1.ListRevocationsResponse, error) {
	if err := f.authorize(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	from := len(req.GetPageToken())
	out := &stsv1.ListRevocationsResponse{}
	for i, r := range f.revoked {
		switch {
		case i < from || req.GetKind() != "" && r.GetKind() != req.GetKind():
		case len(out.Revocations) == min(2, int(req.GetPageSize())):
			out.NextPageToken = strings.Repeat("x", i)
			return out, nil
		default:
			out.Revocations = append(out.Revocations, r)
		}
	}
	return out, nil
}

// IntrospectToken takes every token for active that is not empty of dots.
func (f *fakeServer) IntrospectToken(_ context.Context, req *stsv1.IntrospectTokenRequest) (*stsv1.IntrospectTokenResponse, error) {
	if req.GetClientId() == "" || req.GetClientSecret() == "" {
		return nil, f.refusal(codes.Unauthenticated, "invalid_client", "client authentication failed")
	}
	active := strings.Count(req.GetToken(), ".") == 2
	out := &stsv1.IntrospectTokenResponse{Active: &active}
	if active {
		claims, err := structpb.NewStruct(map[string]any{"team": "payments"})
		if err != nil {
			return nil, err
		}
		out.Sub, out.Exp, out.Aud, out.Claims = "demo", 1_800_000_000, []string{"payments"}, claims
	}
	return out, nil
}
