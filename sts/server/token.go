package server

import (
	"context"
	"slices"
	"strings"
	"time"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// tokenService is the handler of token requests of every face.
type tokenService struct {
	stsv1.UnimplementedTokenServiceServer
	service  *sts.Service
	chain    *chain
	watches  chan struct{}   // a place for each open watch
	stopping <-chan struct{} // closed when the server stops
	timeout  time.Duration   // for each walk of a watch
	jitter   func() float64  // in [0, 1)
	proofs   proofURLs
}

// IssueToken implements stsv1.TokenServiceServer.
func (t *tokenService) IssueToken(ctx context.Context, m *stsv1.IssueTokenRequest) (*stsv1.TokenResponse, error) {
	req, bad := issueRequest(ctx, m)
	token, err := t.token(ctx, req, bad)
	if err != nil {
		return nil, err
	}
	return tokenResponse(token), nil
}

// ExchangeToken implements stsv1.TokenServiceServer.
func (t *tokenService) ExchangeToken(ctx context.Context, m *stsv1.ExchangeTokenRequest) (*stsv1.TokenResponse, error) {
	req, bad := exchangeRequest(ctx, m)
	token, err := t.token(ctx, req, bad)
	if err != nil {
		return nil, err
	}
	return tokenResponse(token), nil
}

// token asks the domain. A request that the wire refuses goes there as well, so
// that it is decided and recorded like any other.
func (t *tokenService) token(ctx context.Context, req sts.TokenRequest, bad *refusal) (sts.Token, error) {
	k, _ := callOf(ctx)
	if k.grant == "" {
		k.grant = grantLabel(req.Grant)
	}
	bad = t.complete(ctx, &req, bad)
	token, err := t.service.Token(ctx, req)
	if err != nil {
		return sts.Token{}, refusedAs(err, &req, bad)
	}
	k.decision, k.nonce = token.Decision, token.Nonce
	return token, nil
}

// complete puts into a request what proves its caller's keys, and where it came
// from. One that the wire refuses, which is returned, has nothing but the refusal.
func (t *tokenService) complete(ctx context.Context, req *sts.TokenRequest, bad *refusal) *refusal {
	k, _ := callOf(ctx)
	if k.malformed != nil {
		bad = k.malformed
	}
	if bad == nil {
		bad = t.proofs.prove(ctx, k, req)
	}
	if bad != nil {
		// The domain completes its error, so it gets one of its own.
		e := *bad.sts
		*req = sts.TokenRequest{Grant: req.Grant, Malformed: &e}
	}
	req.Source = k.source(ctx)
	return bad
}

// refusedAs keeps the numbers of a refusal by the wire.
func refusedAs(err error, req *sts.TokenRequest, bad *refusal) error {
	if bad != nil && err == error(req.Malformed) {
		return &refusal{sts: req.Malformed, grpc: bad.grpc, http: bad.http}
	}
	return err
}

func issueRequest(ctx context.Context, m *stsv1.IssueTokenRequest) (sts.TokenRequest, *refusal) {
	req := sts.TokenRequest{
		Grant:     sts.ClientCredentials,
		Audiences: present(m.GetAudience()),
		Resources: present(m.GetResource()),
		Scope:     m.GetScope(),
	}
	bad := firstOf(
		known(m), grantIs(m.GetGrantType(), req.Grant), credentialSized(m),
		sized("scope", m.GetScope(), maxParameter), targetsSized(m.GetAudience(), m.GetResource()),
	)
	if bad == nil {
		req.Credential, bad = credential(ctx, m)
	}
	if bad == nil {
		bad = certified(ctx, &req)
	}
	return req, bad
}

func exchangeRequest(ctx context.Context, m *stsv1.ExchangeTokenRequest) (sts.TokenRequest, *refusal) {
	req := sts.TokenRequest{
		Grant:         sts.TokenExchange,
		Audiences:     present(m.GetAudience()),
		Resources:     present(m.GetResource()),
		Scope:         m.GetScope(),
		RequestedType: sts.TokenType(m.GetRequestedTokenType()),
		Subject:       sts.Presented{Token: m.GetSubjectToken(), Type: sts.TokenType(m.GetSubjectTokenType())},
		Actor:         sts.Presented{Token: m.GetActorToken(), Type: sts.TokenType(m.GetActorTokenType())},
	}
	bad := firstOf(
		known(m), grantIs(m.GetGrantType(), req.Grant), credentialSized(m),
		sized("scope", m.GetScope(), maxParameter), targetsSized(m.GetAudience(), m.GetResource()),
		sized("requested_token_type", m.GetRequestedTokenType(), maxParameter),
		sized("subject_token", m.GetSubjectToken(), maxToken), sized("subject_token_type", m.GetSubjectTokenType(), maxParameter),
		sized("actor_token", m.GetActorToken(), maxToken), sized("actor_token_type", m.GetActorTokenType(), maxParameter),
	)
	if bad == nil {
		req.Credential, bad = credential(ctx, m)
	}
	if bad == nil {
		bad = certified(ctx, &req)
	}
	return req, bad
}

// present leaves out empty values, which count as omitted on every face [RFC 6749
// §3.2].
func present(values []string) []string {
	if !slices.Contains(values, "") {
		return values
	}
	return slices.DeleteFunc(slices.Clone(values), func(s string) bool { return s == "" })
}

func firstOf(rs ...*refusal) *refusal {
	for _, r := range rs {
		if r != nil {
			return r
		}
	}
	return nil
}

// grantIs refuses a grant type that is not the one of the method.
func grantIs(got string, want sts.GrantType) *refusal {
	if got == "" || got == string(want) {
		return nil
	}
	return &refusal{sts: &sts.Error{
		Code: sts.UnsupportedGrantType, Field: "grant_type",
		Message: "grant_type must be " + string(want) + ", or left out, for this method",
	}}
}

func sized(name, value string, most int) *refusal {
	if len(value) <= most {
		return nil
	}
	return malformed(name, name+" is too long; at most 16384 characters for a token and 4000 for anything else")
}

func targetsSized(audience, resource []string) *refusal {
	if len(audience)+len(resource) > maxParameters {
		return malformed("audience", "more than 64 audiences and resources")
	}
	for _, a := range audience {
		if r := sized("audience", a, maxParameter); r != nil {
			return r
		}
	}
	for _, a := range resource {
		if r := sized("resource", a, maxParameter); r != nil {
			return r
		}
	}
	return nil
}

// tokenResponse puts a token into the reply of RFC 8693 §2.2.1.
func tokenResponse(t sts.Token) *stsv1.TokenResponse {
	return &stsv1.TokenResponse{
		AccessToken:     t.Value,
		IssuedTokenType: string(t.Issued),
		TokenType:       t.Scheme,
		ExpiresIn:       int32(t.ExpiresIn / time.Second),
		Scope:           strings.Join(t.Scopes, " "),
	}
}
