package server

import (
	"context"
	"errors"
	"strings"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// who says who may call a method.
type who int

const (
	nobody who = iota // what a method has that is not in the table
	anyone            // its request authenticates itself, or needs not
	admins            // bearers of the admin token
)

// access is an entry of the authorization table.
type access struct {
	who     who
	quiet   bool // logged at debug level: polled by machines
	decides bool // what the wire refuses is a decision, and recorded as one
}

// accessTo is the authorization table. A method that is missing is refused.
var accessTo = map[string]access{
	stsv1.TokenService_IssueToken_FullMethodName:    {who: anyone, decides: true},
	stsv1.TokenService_ExchangeToken_FullMethodName: {who: anyone, decides: true},
	stsv1.TokenService_WatchToken_FullMethodName:    {who: anyone, decides: true},

	stsv1.TokenService_IntrospectToken_FullMethodName: {who: anyone, decides: true},
	stsv1.TokenService_RevokeToken_FullMethodName:     {who: anyone, decides: true},

	stsv1.DiscoveryService_GetProviderMetadata_FullMethodName: {who: anyone, quiet: true},
	stsv1.DiscoveryService_GetJwks_FullMethodName:             {who: anyone, quiet: true},

	stsv1.AdminService_Apply_FullMethodName:          {who: admins},
	stsv1.AdminService_ApplyMany_FullMethodName:      {who: admins},
	stsv1.AdminService_GetResource_FullMethodName:    {who: admins},
	stsv1.AdminService_ListResources_FullMethodName:  {who: admins},
	stsv1.AdminService_DeleteResource_FullMethodName: {who: admins},
	stsv1.AdminService_ListKeys_FullMethodName:       {who: admins},

	stsv1.AdminService_RotateClientSecret_FullMethodName: {who: admins},
	stsv1.AdminService_GetClientStatus_FullMethodName:    {who: admins},

	stsv1.AdminService_RotateKey_FullMethodName: {who: admins},
	stsv1.AdminService_RevokeKey_FullMethodName: {who: admins},

	stsv1.AdminService_Revoke_FullMethodName:          {who: admins},
	stsv1.AdminService_ListRevocations_FullMethodName: {who: admins},

	stsv1.AdminService_ListIssuerStatus_FullMethodName: {who: admins},

	healthpb.Health_Check_FullMethodName: {who: anyone, quiet: true},
	healthpb.Health_List_FullMethodName:  {who: anyone, quiet: true},
	healthpb.Health_Watch_FullMethodName: {who: anyone, quiet: true},
}

// authorize refuses a caller that may not call the method. Where a request came
// from, and over which face, gives no right.
func (c *chain) authorize(ctx context.Context, method string) error {
	switch accessTo[method].who {
	case anyone:
		return nil
	case admins:
		md, _ := metadata.FromIncomingContext(ctx)
		return authenticateAdmin(ctx, c.service, md.Get("authorization"))
	default:
		return errors.New("method " + method + " is not in the authorization table")
	}
}

// authenticateAdmin takes the values of the authorization header or metadata.
func authenticateAdmin(ctx context.Context, s *sts.Service, authorization []string) error {
	if len(authorization) == 1 {
		scheme, token, ok := strings.Cut(authorization[0], " ")
		if ok && strings.EqualFold(scheme, "Bearer") {
			return s.AuthenticateAdmin(ctx, token)
		}
	}
	return &sts.Error{Code: sts.Unauthenticated, Message: "the admin interface needs the admin token, as authorization: Bearer TOKEN, once"}
}
