package server

import (
	"context"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// RotateClientSecret implements stsv1.AdminServiceServer.
func (a *adminService) RotateClientSecret(ctx context.Context, m *stsv1.RotateClientSecretRequest) (*stsv1.RotateClientSecretResponse, error) {
	overlap := sts.DefaultOverlap
	if d := m.GetOverlap(); d != nil {
		if !d.IsValid() {
			return nil, malformed("overlap", "overlap is not a time such as 3600s")
		}
		overlap = d.AsDuration()
	}
	if m.GetName() == "" {
		return nil, malformed("name", "name is missing: name the client")
	}
	done, err := a.service.RotateSecret(ctx, principalOf(ctx), m.GetName(), overlap, m.GetExpectedRevision())
	if err != nil {
		return nil, err
	}
	return &stsv1.RotateClientSecretResponse{
		ClientSecret: done.Secret, Id: done.ID, PreviousNotAfter: timeToProto(done.PreviousNotAfter), Revision: done.Revision,
	}, nil
}

// GetClientStatus implements stsv1.AdminServiceServer.
func (a *adminService) GetClientStatus(ctx context.Context, m *stsv1.GetClientStatusRequest) (*stsv1.GetClientStatusResponse, error) {
	if m.GetName() == "" {
		return nil, malformed("name", "name is missing: name the client")
	}
	c, err := a.service.ClientStatus(ctx, m.GetName())
	if err != nil {
		return nil, err
	}
	out := &stsv1.GetClientStatusResponse{Name: c.Name, Method: c.Method, Disabled: c.Disabled, Revision: c.Revision}
	if c.Keys != nil {
		out.Keys = keysToProto(*c.Keys)
	}
	for _, s := range c.Credentials {
		out.Credentials = append(out.Credentials, &stsv1.CredentialStatus{Id: s.ID, NotAfter: timeToProto(s.NotAfter), LastUsed: timeToProto(s.LastUsed)})
	}
	return out, nil
}
