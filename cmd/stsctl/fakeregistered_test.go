package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

// fakeRegistered are three clients that were registered dynamically.
func fakeRegistered() []*stsv1.RegisteredClient {
	now := time.Now()
	client := func(name, template, called, disabled string) *stsv1.RegisteredClient {
		metadata := &structpb.Struct{Fields: map[string]*structpb.Value{
			"token_endpoint_auth_method": structpb.NewStringValue("private_key_jwt"), "client_name": structpb.NewStringValue(called),
		}}
		return &stsv1.RegisteredClient{
			Name: name, Template: template, Metadata: metadata, By: "ci", Disabled: disabled,
			Created: timestamppb.New(now.Add(-time.Hour)), Ends: timestamppb.New(now.Add(720*time.Hour + time.Minute)),
		}
	}
	return []*stsv1.RegisteredClient{
		client("agents~a", "agents", "Agent A", ""), client("agents~b", "agents", "", "its ClientTemplate does not exist any more"), client("partners~c", "partners", "C", ""),
	}
}

// ListRegisteredClients has two on a page.
func (f *fakeServer) ListRegisteredClients(ctx context.Context, req *stsv1.ListRegisteredClientsRequest) (*stsv1.ListRegisteredClientsResponse, error) {
	if err := f.authorize(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	from := len(req.GetPageToken())
	out := &stsv1.ListRegisteredClientsResponse{}
	for i, c := range f.registered {
		switch {
		case i < from || req.GetTemplate() != "" && c.GetTemplate() != req.GetTemplate():
		case len(out.Clients) == min(2, int(req.GetPageSize())):
			out.NextPageToken = strings.Repeat("x", i)
			return out, nil
		default:
			out.Clients = append(out.Clients, c)
		}
	}
	return out, nil
}

func (f *fakeServer) DeleteRegisteredClient(ctx context.Context, req *stsv1.DeleteRegisteredClientRequest) (*stsv1.DeleteRegisteredClientResponse, error) {
	if err := f.authorize(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.IndexFunc(f.registered, func(c *stsv1.RegisteredClient) bool { return c.GetName() == req.GetName() })
	if i < 0 {
		return nil, f.refusal(codes.NotFound, "not_found", "there is no registered client of this name")
	}
	f.registered = slices.Delete(f.registered, i, i+1)
	return &stsv1.DeleteRegisteredClientResponse{}, nil
}
