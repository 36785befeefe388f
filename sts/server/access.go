package server

import (
	"context"
	"errors"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// who says who may call a method.
type who int

const (
	nobody  who = iota // what a method has that is not in the table
	anyone             // its request authenticates itself, or needs not
	readers            // administrators who may read, at least
	writers            // administrators who may change things
)

// access is an entry of the authorization table.
type access struct {
	who     who
	share   share // of what is worked on at once
	quiet   bool  // logged at debug level: polled by machines
	decides bool  // what the wire refuses is a decision, and recorded as one
}

// accessTo is the authorization table. A method that is missing is refused.
var accessTo = map[string]access{
	stsv1.TokenService_IssueToken_FullMethodName:    {who: anyone, share: tokenShare, decides: true},
	stsv1.TokenService_ExchangeToken_FullMethodName: {who: anyone, share: tokenShare, decides: true},
	stsv1.TokenService_WatchToken_FullMethodName:    {who: anyone, share: noShare, decides: true},

	// Resource servers depend on them, whatever else is asked for.
	stsv1.TokenService_IntrospectToken_FullMethodName: {who: anyone, share: lookupShare, decides: true},
	stsv1.TokenService_RevokeToken_FullMethodName:     {who: anyone, share: lookupShare, decides: true},

	stsv1.RegistrationService_RegisterClient_FullMethodName:           {who: anyone, share: registrationShare, decides: true},
	stsv1.RegistrationService_GetClientRegistration_FullMethodName:    {who: anyone, share: registrationShare, decides: true},
	stsv1.RegistrationService_UpdateClientRegistration_FullMethodName: {who: anyone, share: registrationShare, decides: true},
	stsv1.RegistrationService_DeleteClientRegistration_FullMethodName: {who: anyone, share: registrationShare, decides: true},

	stsv1.DiscoveryService_GetProviderMetadata_FullMethodName: {who: anyone, share: noShare, quiet: true},
	stsv1.DiscoveryService_GetJwks_FullMethodName:             {who: anyone, share: noShare, quiet: true},

	stsv1.AdminService_Apply_FullMethodName:          {who: writers},
	stsv1.AdminService_ApplyMany_FullMethodName:      {who: writers},
	stsv1.AdminService_GetResource_FullMethodName:    {who: readers},
	stsv1.AdminService_ListResources_FullMethodName:  {who: readers},
	stsv1.AdminService_PutResource_FullMethodName:    {who: writers},
	stsv1.AdminService_DeleteResource_FullMethodName: {who: writers},
	stsv1.AdminService_ListKeys_FullMethodName:       {who: readers},

	stsv1.AdminService_ListRevisions_FullMethodName: {who: readers},
	stsv1.AdminService_GetRevision_FullMethodName:   {who: readers},
	stsv1.AdminService_Rollback_FullMethodName:      {who: writers},
	stsv1.AdminService_GetShadow_FullMethodName:     {who: readers},
	stsv1.AdminService_PromoteShadow_FullMethodName: {who: writers},
	stsv1.AdminService_DiscardShadow_FullMethodName: {who: writers},

	stsv1.AdminService_RotateClientSecret_FullMethodName: {who: writers},
	stsv1.AdminService_GetClientStatus_FullMethodName:    {who: readers},

	stsv1.AdminService_RotateKey_FullMethodName: {who: writers},
	stsv1.AdminService_RevokeKey_FullMethodName: {who: writers},

	stsv1.AdminService_Revoke_FullMethodName:          {who: writers},
	stsv1.AdminService_ListRevocations_FullMethodName: {who: readers},

	stsv1.AdminService_ListIssuerStatus_FullMethodName: {who: readers},
	stsv1.AdminService_ListAuditChains_FullMethodName:  {who: readers},

	stsv1.AdminService_ListRegisteredClients_FullMethodName:  {who: readers},
	stsv1.AdminService_DeleteRegisteredClient_FullMethodName: {who: writers},

	stsv1.AdminService_ExplainDecision_FullMethodName: {who: readers},
	stsv1.AdminService_SimulateRequest_FullMethodName: {who: readers},
	stsv1.AdminService_Backup_FullMethodName:          {who: writers}, // since it has every secret

	healthpb.Health_Check_FullMethodName: {who: anyone, share: noShare, quiet: true},
	healthpb.Health_List_FullMethodName:  {who: anyone, share: noShare, quiet: true},
	healthpb.Health_Watch_FullMethodName: {who: anyone, share: noShare, quiet: true},
}

// authorize refuses a caller that may not call the method. Where a request came
// from, and over which face, gives no right.
func (c *chain) authorize(ctx context.Context, k *call) error {
	needed := sts.ReadAccess
	switch accessTo[k.method].who {
	case anyone:
		return nil
	case readers:
	case writers:
		needed = sts.WriteAccess
	default:
		return errors.New("method " + k.method + " is not in the authorization table")
	}
	if k.caller == nil {
		k.caller = c.admin.identify(ctx, k)
	}
	switch {
	case k.caller.err != nil:
		return k.caller.err
	case k.caller.access >= needed:
		return nil
	case k.caller.access == sts.NoAccess:
		return &sts.Error{Code: sts.InsufficientScope, Scope: sts.ScopeAdminWrite, Message: "the access token has neither of the scopes " + sts.ScopeAdminRead + " and " + sts.ScopeAdminWrite}
	}
	return &sts.Error{Code: sts.InsufficientScope, Scope: sts.ScopeAdminWrite, Message: "the caller may read and not change anything; this method needs the scope " + sts.ScopeAdminWrite + ", or write access"}
}
