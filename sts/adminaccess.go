package sts

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"slices"

	"github.com/workload-sts/sts/policy"
)

// Scopes of tokens for the admin interface. To be able to write is to be able to
// read.
const (
	ScopeAdminRead  = "sts.admin.read"
	ScopeAdminWrite = "sts.admin.write"
)

// AdminAudience identifies the admin interface: tokens for it have it, and nothing
// else, as their aud. An Audience with this identifier must be defined and granted
// by rules, as any other; without one nobody gets such a token.
func (s *Service) AdminAudience() string { return s.issuer + "/v1" }

// Access is how much of the admin interface somebody may use.
type Access int

// What somebody may do with the admin interface, in ascending order.
const (
	NoAccess Access = iota
	ReadAccess
	WriteAccess
)

// TokenUse is a token of this service that is used at an endpoint of this service,
// and what proves that its bearer may.
type TokenUse struct {
	Scheme      string // Bearer or DPoP
	Token       string
	Proof       string // DPoP proof [RFC 9449 §4]; empty: none
	ProofTarget ProofTarget
	// The key of the first is proven; see TokenRequest.
	Certificates []*x509.Certificate
	Source       Source
}

// Schemes of the authorization header by which a token is used.
const (
	SchemeBearer = "Bearer" // [RFC 6750 §2.1]
	SchemeDPoP   = "DPoP"   // [RFC 9449 §7.1]
)

// AuthorizeAdmin returns who uses a token at the admin interface, and what it
// allows. The error is an *Error of code Unauthenticated, or of a proof.
//
// The token is verified as a subject token is: form, header, issuer, type and only
// then the key; then times. What it is for comes next, and last that a proof has
// not been used before.
func (s *Service) AuthorizeAdmin(ctx context.Context, u TokenUse) (Principal, Access, error) {
	d := &decision{
		st: s.state.Load(), now: s.now(), ownOnly: true,
		req: TokenRequest{Grant: TokenExchange, Proof: u.Proof, ProofTarget: u.ProofTarget, Certificates: u.Certificates, Source: u.Source, Subject: Presented{u.Token, AccessToken}},
	}
	t, e := s.used(ctx, d, u, s.AdminAudience(), "the admin interface")
	if e != nil {
		e.Nonce = s.nextNonce(d)
		// Who used the token is not known, which token it was may be.
		p := Principal{Peer: u.Source.Peer}
		if r := d.rec.Subject; r != nil && !r.Unverified {
			p.Token = r.JTI
		}
		return p, NoAccess, e
	}
	p := Principal{Name: t.Subject, Method: "token", Token: d.rec.Subject.JTI, Peer: u.Source.Peer}
	if t.ClientID != "" && t.ClientID != t.Subject {
		p.Name += " by " + t.ClientID
	}
	switch {
	case slices.Contains(t.Scopes, ScopeAdminWrite):
		return p, WriteAccess, nil
	case slices.Contains(t.Scopes, ScopeAdminRead):
		return p, ReadAccess, nil
	}
	return p, NoAccess, nil
}

// used verifies a token that is used at an endpoint of ours, which has an audience
// of its own.
func (s *Service) used(ctx context.Context, d *decision, u TokenUse, audience, endpoint string) (*policy.Token, *Error) {
	const field = "access token"
	if e := s.stale(); e != nil {
		return nil, e
	}
	t, e := s.present(ctx, d, field, d.req.Subject, &d.rec.Subject)
	switch {
	case e != nil && e.Code == InvalidRequest:
		return nil, unauthenticated(e.Message, e.Err)
	case e != nil:
		return nil, e
	case !slices.Equal(t.Audiences, []string{audience}):
		return nil, unauthenticated("the access token is not for "+endpoint+": its aud must be "+audience+" and nothing else", nil)
	}
	d.asked.Subject = t
	return t, s.bearer(ctx, d, t.Confirmation, u)
}

// bearer holds a token to the key that it is bound to, if it is.
func (s *Service) bearer(ctx context.Context, d *decision, c policy.Confirmation, u TokenUse) *Error {
	switch {
	case c.Other:
		return unauthenticated("the access token is bound to a key in a way that this service cannot check", nil)
	case c.X5T != "" && (len(u.Certificates) == 0 || thumbprint(u.Certificates[0]) != c.X5T):
		return unauthenticated("the access token is bound to a certificate, which this connection does not show", nil)
	case c.JKT == "" && u.Scheme == SchemeDPoP: // [RFC 9449 §7.1]
		return unauthenticated("the access token is not bound to a key; send it by the Bearer scheme", nil)
	case c.JKT == "":
		return nil
	case u.Scheme != SchemeDPoP: // [RFC 9449 §7.2]
		return unauthenticated("the access token is bound to a key; send it by the DPoP scheme, with a proof", nil)
	case u.Proof == "":
		return badProof("the access token is bound to a key; send a DPoP proof made with it", nil)
	}
	var e *Error
	if d.proof, e = s.verifyProof(d); e != nil {
		return e
	}
	sum := sha256.Sum256([]byte(u.Token))
	switch {
	case d.proof.jkt != c.JKT:
		return badProof("the DPoP proof is not of the key that the access token is bound to", nil)
	case d.proof.ath != base64.RawURLEncoding.EncodeToString(sum[:]):
		return badProof("the ath of the DPoP proof is not the hash of the access token", nil)
	}
	return s.useUp(ctx, d)
}

func unauthenticated(message string, err error) *Error {
	if err == nil {
		err = errors.New(message)
	}
	return &Error{Code: Unauthenticated, Message: message, Err: err}
}

// HasAudience tells whether an Audience has an identifier.
func (s *Service) HasAudience(identifier string) bool { return s.state.Load().identifiers[identifier] }
