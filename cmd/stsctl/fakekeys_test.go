package main

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

// in is a time so far from now, in the middle of a unit that is shown.
func in(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(time.Now().Add(d)) }

// fakeKeys are two key sets: one in the middle of a rotation, and one that nobody
// has looked after.
func fakeKeys() []*stsv1.KeySetStatus {
	const day, half = 24 * time.Hour, 30 * time.Minute
	return []*stsv1.KeySetStatus{
		{
			Name: "cloud", Algorithm: "RS256", Provider: "vault-wrapped", Problems: []string{"the wrapping key can be exported\x1b[31m"},
			Keys: []*stsv1.KeyStatus{{Set: "cloud", Kid: "-cloud-1", Algorithm: "RS256", Role: "current", Location: "in the storage", Published: in(-9*day - half), Signs: in(-9*day - half)}},
		},
		{
			Name: "default", Algorithm: "ES256", Provider: "vault", RotationDue: in(29*day + half),
			Keys: []*stsv1.KeyStatus{
				{Set: "default", Kid: "key-2", Algorithm: "ES256", Role: "current", Location: "transit/keys/sts version 2", Published: in(-day - half), Signs: in(-day + half), Verifiers: 40, Fetches: 7000, LastFetch: in(-half)},
				{Set: "default", Kid: "key-1", Algorithm: "ES256", Role: "previous", Location: "transit/keys/sts version 1", Published: in(-31*day - half), Signs: in(-30*day - half), Ends: in(3*time.Hour + half), Verifiers: 40, Fetches: 9000, LastFetch: in(-half)},
			},
		},
	}
}

// keySet finds a key set, and a key in it; nil if there is none.
func (f *fakeServer) keySet(name, kid string) (*stsv1.KeySetStatus, *stsv1.KeyStatus) {
	for _, s := range f.keys {
		for _, k := range s.GetKeys() {
			if k.GetKid() == kid {
				return s, k
			}
		}
		if s.GetName() == name {
			return s, nil
		}
	}
	return nil, nil
}

func (f *fakeServer) ListKeys(ctx context.Context, _ *stsv1.ListKeysRequest) (*stsv1.ListKeysResponse, error) {
	if err := f.authorize(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return &stsv1.ListKeysResponse{KeySets: f.keys}, nil
}

// RotateKey makes a key that six verifiers fetch at once, but not of the set
// cloud.
func (f *fakeServer) RotateKey(ctx context.Context, req *stsv1.RotateKeyRequest) (*stsv1.RotateKeyResponse, error) {
	if err := f.authorize(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	set, _ := f.keySet(req.GetSet(), "")
	if set == nil {
		return nil, f.refusal(codes.NotFound, "not_found", "there is no such key set")
	}
	if set.Keys[0].Role == "next" {
		return &stsv1.RotateKeyResponse{Key: set.Keys[0]}, nil
	}
	key := &stsv1.KeyStatus{Set: set.Name, Kid: "key-3", Algorithm: set.Algorithm, Role: "next", Location: "transit/keys/sts version 3", Published: in(0), Signs: in(42*time.Minute + 30*time.Second)}
	if set.Name == "default" {
		key.Verifiers, key.Fetches, key.LastFetch = 6, 8, in(0)
	}
	set.Keys, set.RotationDue = append([]*stsv1.KeyStatus{key}, set.Keys...), nil
	return &stsv1.RotateKeyResponse{Key: key}, nil
}

func (f *fakeServer) RevokeKey(ctx context.Context, req *stsv1.RevokeKeyRequest) (*stsv1.RevokeKeyResponse, error) {
	if err := f.authorize(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	set, key := f.keySet("", req.GetKid())
	if key == nil {
		return nil, f.refusal(codes.NotFound, "not_found", "there is no such key")
	}
	key.Role, key.Revoked, key.Location = "revoked", in(0), ""
	resp := &stsv1.RevokeKeyResponse{Revoked: key, AcceptedUntil: in(5*time.Minute + 30*time.Second)}
	for _, k := range set.GetKeys() {
		if k.Role == "next" {
			k.Role, k.Signs, resp.Successor = "current", in(0), k
		}
	}
	return resp, nil
}
