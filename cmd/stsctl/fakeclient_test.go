package main

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// client finds a client; nil if there is none.
func (f *fakeServer) client(name string) *stsv1.Client {
	return f.resources[key("Client", name)].GetClient()
}

func (f *fakeServer) RotateClientSecret(ctx context.Context, req *stsv1.RotateClientSecretRequest) (*stsv1.RotateClientSecretResponse, error) {
	if err := f.authorize(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.client(req.GetName())
	switch {
	case c == nil:
		return nil, f.refusal(codes.NotFound, "not_found", "there is no such resource")
	case c.GetPrivateKeyJwt() != nil:
		return nil, f.refusal(codes.InvalidArgument, "invalid_request", "the client authenticates by private_key_jwt and has no secret to replace")
	}
	secret, hash := sts.NewSecret()
	resp := &stsv1.RotateClientSecretResponse{ClientSecret: secret, Id: "new-id"}
	kept := c.GetSecrets()
	if len(kept) > 0 && req.GetOverlap().AsDuration() > 0 {
		kept = kept[len(kept)-1:]
		kept[0].NotAfter = in(req.GetOverlap().AsDuration())
		resp.PreviousNotAfter = kept[0].NotAfter
	} else {
		kept = nil
	}
	c.Secrets = append(kept, &stsv1.ClientSecret{Hash: hash})
	f.revision++
	resp.Revision = f.revision
	return resp, nil
}

func (f *fakeServer) GetClientStatus(ctx context.Context, req *stsv1.GetClientStatusRequest) (*stsv1.GetClientStatusResponse, error) {
	if err := f.authorize(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.client(req.GetName())
	if c == nil {
		return nil, f.refusal(codes.NotFound, "not_found", "there is no such resource")
	}
	out := &stsv1.GetClientStatusResponse{Name: c.GetName(), Disabled: c.GetDisabled(), Revision: f.revision}
	if c.GetPrivateKeyJwt() != nil {
		out.Method = "private_key_jwt"
		out.Credentials = []*stsv1.CredentialStatus{{Id: "private_key_jwt", LastUsed: in(-90 * time.Minute)}}
		if c.GetPrivateKeyJwt().GetJwksUri() != "" {
			out.Keys = fakeIssuers()[2]
		}
	}
	for i, s := range c.GetSecrets() {
		out.Method = "client_secret"
		status := &stsv1.CredentialStatus{Id: []string{"first-id", "second-id"}[i], NotAfter: s.GetNotAfter()}
		if i == 0 {
			status.LastUsed = in(-90 * time.Minute)
		}
		out.Credentials = append(out.Credentials, status)
	}
	return out, nil
}
