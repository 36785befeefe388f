package server

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// ListKeys implements stsv1.AdminServiceServer.
func (a *adminService) ListKeys(context.Context, *stsv1.ListKeysRequest) (*stsv1.ListKeysResponse, error) {
	out := &stsv1.ListKeysResponse{}
	for _, s := range a.service.Keys() {
		set := &stsv1.KeySetStatus{
			Name:        s.Name,
			Algorithm:   s.Algorithm,
			Provider:    s.Provider,
			RotationDue: timeToProto(s.RotationDue),
			Problems:    s.Problems,
		}
		for _, k := range s.Keys {
			set.Keys = append(set.Keys, keyToProto(k))
		}
		out.KeySets = append(out.KeySets, set)
	}
	return out, nil
}

// RotateKey implements stsv1.AdminServiceServer.
func (a *adminService) RotateKey(ctx context.Context, m *stsv1.RotateKeyRequest) (*stsv1.RotateKeyResponse, error) {
	if m.GetSet() == "" {
		return nil, malformed("set", "set is missing: name the key set")
	}
	key, err := a.service.RotateKey(ctx, principalOf(ctx), m.GetSet())
	if err != nil {
		return nil, err
	}
	return &stsv1.RotateKeyResponse{Key: keyToProto(key)}, nil
}

// RevokeKey implements stsv1.AdminServiceServer.
func (a *adminService) RevokeKey(ctx context.Context, m *stsv1.RevokeKeyRequest) (*stsv1.RevokeKeyResponse, error) {
	if m.GetKid() == "" {
		return nil, malformed("kid", "kid is missing: name the key by its id")
	}
	why := m.GetReason()
	if why == "" {
		why = "no reason was given"
	}
	done, err := a.revoke(ctx, sts.Revoke{Kind: sts.RevokeKey, Value: m.GetKid(), Reason: why})
	if err != nil {
		return nil, err
	}
	out := &stsv1.RevokeKeyResponse{Revoked: keyToProto(done.Key.Revoked), AcceptedUntil: timeToProto(done.Key.AcceptedUntil), Unrecorded: done.Unrecorded != nil}
	if done.Key.Successor.KID != "" {
		out.Successor = keyToProto(done.Key.Successor)
	}
	return out, nil
}

func keyToProto(k sts.KeyStatus) *stsv1.KeyStatus {
	return &stsv1.KeyStatus{
		Set:       k.Set,
		Kid:       k.KID,
		Algorithm: k.Algorithm,
		Role:      string(k.Role),
		Location:  k.Location,
		Published: timeToProto(k.Published),
		Signs:     timeToProto(k.Signs),
		Ends:      timeToProto(k.Ends),
		Revoked:   timeToProto(k.Revoked),
		Verifiers: int32(k.Verifiers),
		Fetches:   k.Fetches,
		LastFetch: timeToProto(k.LastFetch),
	}
}

// timeToProto is nil for a time that is not known.
func timeToProto(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
