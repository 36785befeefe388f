package server

import (
	"context"
	"encoding/base64"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// ListRegisteredClients implements stsv1.AdminServiceServer.
func (a *adminService) ListRegisteredClients(_ context.Context, m *stsv1.ListRegisteredClientsRequest) (*stsv1.ListRegisteredClientsResponse, error) {
	size, bad := pageSize(m.GetPageSize(), defaultPageSize, maxPageSize)
	if bad != nil {
		return nil, bad
	}
	after, err := base64.RawURLEncoding.Strict().DecodeString(m.GetPageToken())
	if err != nil || len(after) > maxParameter {
		return nil, badPageToken()
	}
	page, more := a.service.RegisteredClients(m.GetTemplate(), string(after), size)
	out := &stsv1.ListRegisteredClientsResponse{}
	for _, c := range page {
		client, err := registeredToProto(c)
		if err != nil {
			return nil, err
		}
		out.Clients = append(out.Clients, client)
	}
	if more {
		out.NextPageToken = base64.RawURLEncoding.EncodeToString([]byte(page[len(page)-1].Name))
	}
	return out, nil
}

// DeleteRegisteredClient implements stsv1.AdminServiceServer.
func (a *adminService) DeleteRegisteredClient(ctx context.Context, m *stsv1.DeleteRegisteredClientRequest) (*stsv1.DeleteRegisteredClientResponse, error) {
	if m.GetName() == "" {
		return nil, malformed("name", "name is missing: name the client")
	}
	done, err := a.service.DeleteRegisteredClient(ctx, principalOf(ctx), m.GetName())
	if err != nil {
		return nil, err
	}
	if k, ok := callOf(ctx); ok {
		k.decision, k.unrecorded = done.Decision, done.Unrecorded
	}
	return &stsv1.DeleteRegisteredClientResponse{Unrecorded: done.Unrecorded != nil}, nil
}

func registeredToProto(c sts.RegisteredClient) (*stsv1.RegisteredClient, error) {
	members := c.Metadata.Members()
	delete(members, "jwks")
	metadata, err := structOf(members)
	out := &stsv1.RegisteredClient{
		Name: c.Name, Template: c.Template, Metadata: metadata, By: c.By, Disabled: c.Unfit,
		Created: timeToProto(c.Created), Changed: timeToProto(c.Changed), LastUsed: timeToProto(c.LastUsed), Ends: timeToProto(c.Ends),
	}
	if c.Statement != nil {
		out.StatementIssuer = c.Statement.Issuer
	}
	return out, err
}
