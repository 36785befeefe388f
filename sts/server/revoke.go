package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// Revoke implements stsv1.AdminServiceServer.
func (a *adminService) Revoke(ctx context.Context, m *stsv1.RevokeRequest) (*stsv1.RevokeResponse, error) {
	for name, text := range map[string]string{"kind": m.GetKind(), "value": m.GetValue(), "issuer": m.GetIssuer(), "reason": m.GetReason()} {
		if bad := sized(name, text, maxParameter); bad != nil {
			return nil, bad
		}
	}
	if bad := sized("token", m.GetToken(), maxToken); bad != nil {
		return nil, bad
	}
	req := sts.Revoke{
		Kind: sts.RevocationKind(m.GetKind()), Issuer: m.GetIssuer(), Value: m.GetValue(), Token: m.GetToken(), Reason: m.GetReason(),
	}
	for name, t := range map[string]struct {
		from *timestamppb.Timestamp
		to   *time.Time
	}{"before": {m.GetBefore(), &req.Before}, "until": {m.GetUntil(), &req.Until}} {
		if t.from == nil {
			continue
		}
		if err := t.from.CheckValid(); err != nil {
			return nil, malformed(name, name+" is not a time")
		}
		*t.to = t.from.AsTime()
	}
	done, err := a.revoke(ctx, req)
	if err != nil {
		return nil, err
	}
	return &stsv1.RevokeResponse{Revocation: revocationToProto(done.Revocation), Unrecorded: done.Unrecorded != nil}, nil
}

// revoke revokes, and has the log line say if it is not recorded.
func (a *adminService) revoke(ctx context.Context, req sts.Revoke) (sts.RevokeDone, error) {
	done, err := a.service.Revoke(ctx, principalOf(ctx), req)
	if k, ok := callOf(ctx); ok {
		k.decision, k.unrecorded = done.Decision, done.Unrecorded
	}
	return done, err
}

// ListRevocations implements stsv1.AdminServiceServer.
func (a *adminService) ListRevocations(ctx context.Context, m *stsv1.ListRevocationsRequest) (*stsv1.ListRevocationsResponse, error) {
	size, bad := pageSize(m.GetPageSize(), defaultPageSize, maxPageSize)
	if bad != nil {
		return nil, bad
	}
	var after *sts.Revocation
	if m.GetPageToken() != "" {
		var ok bool
		if after, ok = readRevocationToken(m.GetPageToken()); !ok {
			return nil, badPageToken()
		}
	}
	page, more, err := a.service.Revocations(ctx, sts.RevocationKind(m.GetKind()), after, size)
	if err != nil {
		return nil, err
	}
	out := &stsv1.ListRevocationsResponse{}
	for _, r := range page {
		out.Revocations = append(out.Revocations, revocationToProto(r))
	}
	if more {
		out.NextPageToken = revocationToken(page[len(page)-1])
	}
	return out, nil
}

// revocationToken says after which revocation the next page starts.
func revocationToken(r sts.Revocation) string {
	b, err := json.Marshal([3]string{string(r.Kind), r.Issuer, r.Value})
	if err != nil {
		panic(err) // strings always encode
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func readRevocationToken(s string) (*sts.Revocation, bool) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s)
	var id [3]string
	if err != nil || len(raw) > maxParameter || json.Unmarshal(raw, &id) != nil {
		return nil, false
	}
	return &sts.Revocation{Kind: sts.RevocationKind(id[0]), Issuer: id[1], Value: id[2]}, true
}

func revocationToProto(r sts.Revocation) *stsv1.Revocation {
	return &stsv1.Revocation{
		Kind: string(r.Kind), Value: r.Value, Issuer: r.Issuer, By: r.By, Reason: r.Reason,
		Before: timeToProto(r.Before), Expires: timeToProto(r.Expires), Created: timeToProto(r.Created),
	}
}
