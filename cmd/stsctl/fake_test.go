package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/sts/resource"
)

const fakeAdminToken = "admin-token-of-the-fake"

// fakeServer is a small token service in memory: it keeps resources, knows a
// rule by its clients and audiences only, and signs real tokens, which its
// discovery document and key set verify.
type fakeServer struct {
	stsv1.UnimplementedAdminServiceServer
	stsv1.UnimplementedTokenServiceServer

	parts atomic.Int64 // of changes that came in parts

	addr, issuer string
	key          *ecdsa.PrivateKey
	kid          string

	mu         sync.Mutex
	resources  map[string]*stsv1.Resource // by kind/name
	revision   int64
	keys       []*stsv1.KeySetStatus
	revoked    []*stsv1.Revocation
	registered []*stsv1.RegisteredClient
	backups    int // that were asked for

	chains []*stsv1.AuditChain // by name
}

// startFake serves gRPC with the options given and HTTP on loopback, until stop
// is called.
func startFake(options ...grpc.ServerOption) (f *fakeServer, stop func(), err error) {
	f = &fakeServer{resources: map[string]*stsv1.Resource{}, revision: 1, keys: fakeKeys(), registered: fakeRegistered()}
	if f.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, nil, err
	}
	if f.kid, err = jose.Thumbprint(f.key.Public()); err != nil {
		return nil, nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, f.issuer, f.issuer+"/.well-known/jwks.json")
	})
	mux.HandleFunc("/.well-known/jwks.json", func(w http.ResponseWriter, _ *http.Request) {
		set, err := jose.NewKeySet(jose.Key{ID: f.kid, Algorithm: jose.ES256, Public: f.key.Public()})
		if err == nil {
			err = json.NewEncoder(w).Encode(set)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.Handle("/moved", http.RedirectHandler("/.well-known/jwks.json", http.StatusFound))
	web := httptest.NewUnstartedServer(mux)
	f.issuer = "http://" + web.Listener.Addr().String() // before a handler can read it
	web.Start()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		web.Close()
		return nil, nil, err
	}
	f.addr = listener.Addr().String()
	server := grpc.NewServer(append(options, grpc.MaxRecvMsgSize(maxMessage))...)
	stsv1.RegisterAdminServiceServer(server, f)
	stsv1.RegisterTokenServiceServer(server, f)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // ends with Stop
	}()
	return f, func() {
		server.Stop()
		<-done
		web.Close()
	}, nil
}

// refusal makes a status as the service does.
func (f *fakeServer) refusal(code codes.Code, reason, message string, more ...protoadapt.MessageV1) error {
	info := &errdetails.ErrorInfo{Reason: reason, Domain: f.issuer}
	if reason == "invalid_target" || reason == "invalid_client" {
		info.Metadata = map[string]string{"decision_id": "d-42"}
		message += " (decision d-42)"
	}
	st, err := status.New(code, message).WithDetails(append([]protoadapt.MessageV1{info}, more...)...)
	if err != nil {
		return err
	}
	return st.Err()
}

func (f *fakeServer) authorize(ctx context.Context) error {
	md, _ := metadata.FromIncomingContext(ctx)
	if !slices.Equal(md.Get("authorization"), []string{"Bearer " + fakeAdminToken}) {
		return f.refusal(codes.Unauthenticated, "unauthenticated", "the admin token is wrong")
	}
	return nil
}

func key(kind, name string) string { return kind + "/" + name }

func (f *fakeServer) Apply(ctx context.Context, req *stsv1.ApplyRequest) (*stsv1.ApplyResponse, error) {
	if err := f.authorize(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := req.GetExpectedRevision(); e != 0 && e != f.revision {
		return nil, f.refusal(codes.Aborted, "conflict", "another revision is in force")
	}
	next, resp := maps.Clone(f.resources), &stsv1.ApplyResponse{}
	for _, r := range req.GetResources() {
		kind, name, _ := resource.KindAndName(r)
		ref := &stsv1.ResourceRef{Kind: kind, Name: name}
		switch old, exists := next[key(kind, name)]; {
		case !exists:
			resp.Created = append(resp.Created, ref)
		case !proto.Equal(old, r):
			resp.Updated = append(resp.Updated, ref)
		}
		next[key(kind, name)] = r
	}
	bad := &errdetails.BadRequest{}
	for _, ref := range req.GetDelete() {
		if next[key(ref.GetKind(), ref.GetName())] == nil {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{
				Field: key(ref.GetKind(), ref.GetName()), Description: "cannot be deleted, it does not exist",
			})
		}
		delete(next, key(ref.GetKind(), ref.GetName()))
		resp.Deleted = append(resp.Deleted, ref)
	}
	bad.FieldViolations = append(bad.FieldViolations, unsound(next, req.GetResources())...)
	if len(bad.GetFieldViolations()) > 0 {
		return nil, f.refusal(codes.InvalidArgument, "invalid_resource", "nothing was changed", bad)
	}
	resp.Revision = f.revision
	if !req.GetDryRun() && len(resp.Created)+len(resp.Updated)+len(resp.Deleted) > 0 {
		f.resources = next
		f.revision++
		resp.Revision = f.revision
	}
	return resp, nil
}

func (f *fakeServer) ApplyMany(stream grpc.ClientStreamingServer[stsv1.ApplyRequest, stsv1.ApplyResponse]) error {
	whole := &stsv1.ApplyRequest{}
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		f.parts.Add(1)
		proto.Merge(whole, part)
	}
	resp, err := f.Apply(stream.Context(), whole)
	if err != nil {
		return err
	}
	return stream.SendAndClose(resp)
}

// unsound finds references of rules to audiences that are not defined, and
// expressions that end too early.
func unsound(all map[string]*stsv1.Resource, sent []*stsv1.Resource) []*errdetails.BadRequest_FieldViolation {
	var out []*errdetails.BadRequest_FieldViolation
	for _, k := range slices.Sorted(maps.Keys(all)) {
		place := k
		if i := slices.Index(sent, all[k]); i >= 0 {
			place = fmt.Sprintf("resources[%d].rule", i)
		}
		if when := all[k].GetRule().GetWhen(); strings.HasSuffix(when, "==") {
			out = append(out, &errdetails.BadRequest_FieldViolation{
				Field: place + ".when", Description: "syntax error\n | " + when + "\n | " + strings.Repeat(".", len(when)) + "^",
			})
		}
		for i, a := range all[k].GetRule().GetAllow().GetAudiences() {
			if all[key("Audience", a)] == nil {
				out = append(out, &errdetails.BadRequest_FieldViolation{
					Field: fmt.Sprintf("%s.allow.audiences[%d]", place, i), Description: fmt.Sprintf("audience %q is not defined", a),
				})
			}
		}
	}
	return out
}

func (f *fakeServer) GetResource(ctx context.Context, req *stsv1.GetResourceRequest) (*stsv1.GetResourceResponse, error) {
	if err := f.authorize(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.resources[key(req.GetKind(), req.GetName())]
	if r == nil {
		return nil, f.refusal(codes.NotFound, "not_found", "there is no such resource")
	}
	return &stsv1.GetResourceResponse{Resource: r, Revision: f.revision}, nil
}

// ListResources returns two resources a page, so that pages are followed.
func (f *fakeServer) ListResources(ctx context.Context, req *stsv1.ListResourcesRequest) (*stsv1.ListResourcesResponse, error) {
	if err := f.authorize(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &stsv1.ListResourcesResponse{Revision: f.revision}
	last := ""
	for _, k := range slices.Sorted(maps.Keys(f.resources)) {
		if !strings.HasPrefix(k, req.GetKind()) || k <= req.GetPageToken() {
			continue
		}
		if len(out.Resources) == 2 {
			out.NextPageToken = last
			break
		}
		out.Resources = append(out.Resources, f.resources[k])
		last = k
	}
	return out, nil
}

// authenticate checks a client's secret as the service does.
func (f *fakeServer) authenticate(id, secret string) error {
	for _, s := range f.resources[key("Client", id)].GetClient().GetSecrets() {
		part := strings.Split(s.GetHash(), ":")
		salt, _ := base64.RawURLEncoding.DecodeString(part[1])
		mac := hmac.New(sha256.New, salt)
		mac.Write([]byte(secret))
		if base64.RawURLEncoding.EncodeToString(mac.Sum(nil)) == part[2] {
			return nil
		}
	}
	return f.refusal(codes.Unauthenticated, "invalid_client", "client authentication failed")
}

// grant signs a token if a rule allows the client the audience. An empty client
// is the workload itself.
func (f *fakeServer) grant(client, subject, scope string, audience []string) (*stsv1.TokenResponse, error) {
	for _, r := range f.resources {
		rule := r.GetRule()
		asks := slices.Contains(rule.GetRequester().GetClients(), client) || client == "" && rule.GetRequester().GetWorkload()
		if !asks || len(audience) != 1 || !slices.Contains(rule.GetAllow().GetAudiences(), audience[0]) {
			continue
		}
		claims := map[string]any{"iss": f.issuer, "sub": subject, "aud": audience[0], "scope": scope, "jti": "j-1"}
		return &stsv1.TokenResponse{
			AccessToken: f.sign("at+jwt", 5*time.Minute, claims), IssuedTokenType: tokenTypePrefix + "access_token",
			TokenType: "Bearer", ExpiresIn: 300, Scope: scope,
		}, nil
	}
	return nil, f.refusal(codes.PermissionDenied, "invalid_target", "not allowed by policy")
}

// sign makes a token that lives as long as said from now.
func (f *fakeServer) sign(typ string, life time.Duration, claims map[string]any) string {
	claims["iat"], claims["exp"] = time.Now().Unix(), time.Now().Add(life).Unix()
	payload, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	input := jose.SigningInput(jose.Header{Algorithm: jose.ES256, KeyID: f.kid, Type: typ}, payload)
	sig, err := jose.Sign(jose.ES256, f.key, input)
	if err != nil {
		panic(err)
	}
	return jose.Compact(input, sig)
}

func (f *fakeServer) IssueToken(_ context.Context, req *stsv1.IssueTokenRequest) (*stsv1.TokenResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if slices.Contains(req.GetAudience(), "vault-is-down") {
		return nil, f.refusal(codes.Unavailable, "temporarily_unavailable", "the signing keys cannot be used now",
			&errdetails.RetryInfo{RetryDelay: durationpb.New(5 * time.Second)})
	}
	if err := f.authenticate(req.GetClientId(), req.GetClientSecret()); err != nil {
		return nil, err
	}
	return f.grant(req.GetClientId(), req.GetClientId(), req.GetScope(), req.GetAudience())
}

// ExchangeToken takes tokens that this server has signed. They must be declared
// as what they are.
func (f *fakeServer) ExchangeToken(_ context.Context, req *stsv1.ExchangeTokenRequest) (*stsv1.TokenResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if req.GetClientId() != "" {
		if err := f.authenticate(req.GetClientId(), req.GetClientSecret()); err != nil {
			return nil, err
		}
	}
	var subject string
	for _, t := range []struct{ field, token, typ string }{
		{"subject_token", req.GetSubjectToken(), req.GetSubjectTokenType()}, {"actor_token", req.GetActorToken(), req.GetActorTokenType()},
	} {
		if t.field == "actor_token" && t.token == "" {
			continue
		}
		jws, err := jose.Parse(t.token)
		if err != nil || jws.Verify(jose.Key{ID: f.kid, Algorithm: jose.ES256, Public: f.key.Public()}) != nil {
			return nil, f.refusal(codes.InvalidArgument, "invalid_request", "the "+t.field+" is not a signed JWT that this service accepts")
		}
		if (jws.Header.Type == "at+jwt") != (t.typ == tokenTypePrefix+"access_token") {
			return nil, f.refusal(codes.InvalidArgument, "invalid_request", "the "+t.field+" is not of the type that "+t.field+"_type declares")
		}
		claims, err := jws.Claims()
		if err != nil {
			return nil, err
		}
		if t.field == "subject_token" {
			subject, _ = claims["sub"].(string)
		}
	}
	resp, err := f.grant(req.GetClientId(), subject, req.GetScope(), req.GetAudience())
	if err == nil && req.GetRequestedTokenType() != "" {
		resp.IssuedTokenType = req.GetRequestedTokenType()
	}
	return resp, err
}

// startFakeFor runs a server for a test.
func startFakeFor(t *testing.T, options ...grpc.ServerOption) *fakeServer {
	t.Helper()
	f, stop, err := startFake(options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return f
}
