package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/sts"
)

// registrationService is the handler of registrations of every face.
type registrationService struct {
	stsv1.UnimplementedRegistrationServiceServer
	service *sts.Service
	chain   *chain
	proofs  proofURLs
}

// RegisterClient implements stsv1.RegistrationServiceServer.
func (s *registrationService) RegisterClient(ctx context.Context, m *stsv1.RegisterClientRequest) (*stsv1.ClientRegistration, error) {
	req, bad := s.request(ctx, m, "", m.GetMetadata())
	done, err := s.service.Register(ctx, req)
	return s.registered(ctx, "register", done, err, bad)
}

// GetClientRegistration implements stsv1.RegistrationServiceServer.
func (s *registrationService) GetClientRegistration(ctx context.Context, m *stsv1.GetClientRegistrationRequest) (*stsv1.ClientRegistration, error) {
	req, bad := s.request(ctx, m, m.GetClientId(), nil)
	done, err := s.service.ReadRegistration(ctx, req)
	return s.registered(ctx, "read", done, err, bad)
}

// UpdateClientRegistration implements stsv1.RegistrationServiceServer.
func (s *registrationService) UpdateClientRegistration(ctx context.Context, m *stsv1.UpdateClientRegistrationRequest) (*stsv1.ClientRegistration, error) {
	req, bad := s.request(ctx, m, m.GetClientId(), m.GetMetadata())
	done, err := s.service.UpdateRegistration(ctx, req)
	return s.registered(ctx, "update", done, err, bad)
}

// DeleteClientRegistration implements stsv1.RegistrationServiceServer.
func (s *registrationService) DeleteClientRegistration(ctx context.Context, m *stsv1.DeleteClientRegistrationRequest) (*stsv1.DeleteClientRegistrationResponse, error) {
	req, bad := s.request(ctx, m, m.GetClientId(), nil)
	done, err := s.service.DeleteRegistration(ctx, req)
	if _, err := s.registered(ctx, "delete", done, err, bad); err != nil {
		return nil, err
	}
	return &stsv1.DeleteClientRegistrationResponse{}, nil
}

// request reads a request. What is wrong with it is for the domain to refuse, so
// that it is recorded.
func (s *registrationService) request(ctx context.Context, m proto.Message, client string, members *structpb.Struct) (sts.RegistrationRequest, *refusal) {
	k, _ := callOf(ctx)
	md, _ := metadata.FromIncomingContext(ctx)
	req := sts.RegistrationRequest{ClientID: client}
	bad := firstOf(k.malformed, known(m), sized("client_id", client, maxParameter))
	if bad == nil && proto.Size(members) > maxForm {
		bad = malformed("metadata", "the client metadata is larger than 64 KiB")
	}
	use, err := tokenUse(k, peerOf(ctx), md.Get("authorization"), md.Get(metadataProof), s.target(k, client))
	if bad == nil && err != nil {
		bad = refuse(ctx, "", err)
	}
	req.Use = use
	if bad != nil {
		e := *bad.sts
		req.Malformed = &e
		return req, bad
	}
	req.Metadata = members.AsMap()
	return req, nil
}

// target is what a DPoP proof must be for.
func (s *registrationService) target(k *call, client string) sts.ProofTarget {
	if k.face == overGRPC {
		return sts.ProofTarget{Method: http.MethodPost, URI: s.proofs.grpc + k.method}
	}
	if client == "" {
		return sts.ProofTarget{Method: http.MethodPost, URI: s.service.RegistrationAudience()}
	}
	return sts.ProofTarget{Method: registrationMethods[k.method], URI: s.service.RegistrationAudience() + "/" + client}
}

// registrationMethods are the methods of HTTP at the URL of a client.
var registrationMethods = map[string]string{
	stsv1.RegistrationService_GetClientRegistration_FullMethodName:    http.MethodGet,
	stsv1.RegistrationService_UpdateClientRegistration_FullMethodName: http.MethodPut,
	stsv1.RegistrationService_DeleteClientRegistration_FullMethodName: http.MethodDelete,
}

// registered answers, and counts.
func (s *registrationService) registered(ctx context.Context, action string, done sts.Registered, err error, bad *refusal) (*stsv1.ClientRegistration, error) {
	if err != nil {
		e, ok := errors.AsType[*sts.Error](err)
		if !ok {
			return nil, err
		}
		out := &refusal{sts: e}
		if bad != nil && e.Code == bad.sts.Code {
			out.grpc, out.http = bad.grpc, bad.http
		}
		if e.Code == sts.InvalidDPoPProof || e.Code == sts.UseDPoPNonce { // [RFC 9449 §7.1, §9]
			out.grpc, out.http = codes.Unauthenticated, http.StatusUnauthorized
		}
		return nil, out
	}
	k, _ := callOf(ctx)
	k.decision, k.nonce, k.unrecorded = done.Decision, done.Nonce, done.Unrecorded
	s.chain.metrics.registrations.WithLabelValues(action).Inc()
	if done.Name == "" {
		return &stsv1.ClientRegistration{}, nil
	}
	members, err := structOf(done.Members())
	return &stsv1.ClientRegistration{Client: members}, err
}

// registrationPath is where clients are registered. Below it, by its client_id, is
// each of them.
const registrationPath = "/oauth2/register"

// registrationEndpoint is the client registration endpoint [RFC 7591 §3] and, below
// it, the client configuration endpoints [RFC 7592 §2]: JSON in, JSON out.
type registrationEndpoint struct{ conn grpc.ClientConnInterface }

func (e *registrationEndpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k, _ := callOf(r.Context())
	k.face = overForm
	ctx := withCredentials(r.Context(), r)
	client := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, registrationPath), "/")
	method, in := "", proto.Message(nil)
	var members *structpb.Struct
	if r.Method == http.MethodPost && client == "" || r.Method == http.MethodPut && client != "" {
		members, k.malformed = e.read(w, r)
	}
	switch {
	case client == "":
		method, in = stsv1.RegistrationService_RegisterClient_FullMethodName, &stsv1.RegisterClientRequest{Metadata: members}
		if r.Method != http.MethodPost {
			k.malformed = wrongMethod(w, "POST")
		}
	case r.Method == http.MethodPut:
		method, in = stsv1.RegistrationService_UpdateClientRegistration_FullMethodName, &stsv1.UpdateClientRegistrationRequest{ClientId: client, Metadata: members}
	case r.Method == http.MethodDelete:
		method, in = stsv1.RegistrationService_DeleteClientRegistration_FullMethodName, &stsv1.DeleteClientRegistrationRequest{ClientId: client}
	default:
		method, in = stsv1.RegistrationService_GetClientRegistration_FullMethodName, &stsv1.GetClientRegistrationRequest{ClientId: client}
		if r.Method != http.MethodGet {
			k.malformed = wrongMethod(w, "GET, PUT, DELETE")
		}
	}
	if r.Method == http.MethodDelete && client != "" {
		if answered(ctx, w, e.conn.Invoke(ctx, method, in, &stsv1.DeleteClientRegistrationResponse{})) {
			writeBody(w, http.StatusNoContent, "", nil)
		}
		return
	}
	var out stsv1.ClientRegistration
	if !answered(ctx, w, e.conn.Invoke(ctx, method, in, &out)) {
		return
	}
	status := http.StatusOK
	if client == "" {
		status = http.StatusCreated
	}
	writeJSON(w, status, out.GetClient().AsMap())
}

func wrongMethod(w http.ResponseWriter, allowed string) *refusal {
	w.Header().Set("Allow", allowed)
	bad := malformed("", "this path does not take this method")
	bad.http = http.StatusMethodNotAllowed
	return bad
}

// read reads the JSON of a registration.
func (e *registrationEndpoint) read(w http.ResponseWriter, r *http.Request) (*structpb.Struct, *refusal) {
	if r.URL.RawQuery != "" {
		return nil, malformed("", "the URL has a query; what is registered belongs in the body")
	}
	body, bad := readBody(w, r, "application/json", maxForm)
	if bad != nil {
		return nil, bad
	}
	notJSON := &refusal{sts: &sts.Error{Code: sts.InvalidClientMetadata, Message: "the body is not a well-formed JSON object, or has a member twice"}}
	object, err := jose.ParseObject(body)
	if err != nil || object == nil {
		return nil, notJSON
	}
	text, err := json.Marshal(object)
	members := &structpb.Struct{}
	if err != nil || members.UnmarshalJSON(text) != nil {
		return nil, notJSON
	}
	return members, nil
}
