package sts

import (
	"context"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/policy"
)

// RevokeToken revokes one of our access tokens for whom it was issued to, and with
// it all that were exchanged from it [RFC 7009]. A token that does not count anyway
// is no error, and nothing happens. An error is an *Error.
//
// A token that was issued to a client is revoked by this client. One that was
// issued to a workload itself is revoked by whoever presents it, as it was got by
// presenting a token; if it is bound to a key, with proof of that.
func (s *Service) RevokeToken(ctx context.Context, req RevokeTokenRequest) (Revoked, error) {
	d := s.begin(EventRevoke, req.Caller)
	d.req.Subject = Presented{req.Token, AccessToken}
	r, e := s.revocable(ctx, d, req.Token)
	done := Revoked{Decision: d.ids.decision, Nonce: s.nextNonce(d)}
	switch {
	case e != nil:
		if err := s.record(ctx, d, e); err != nil {
			return Revoked{}, s.unrecorded(d, err)
		}
	case r != nil:
		d.rec.Revocation = r
		s.complete(d, nil)
		e, done.Unrecorded = s.takeAway(ctx, &d.rec, func() *Error {
			_, e := s.add(ctx, *r)
			return e
		})
	}
	if e != nil {
		e.Decision, e.Nonce = done.Decision, done.Nonce
		return Revoked{}, e
	}
	return done, nil
}

// revocable returns the revocation of a token that who asks may make; nil if it
// does not count anyway.
func (s *Service) revocable(ctx context.Context, d *decision, token string) (*Revocation, *Error) {
	// 1. The request itself.
	if e := checkToken(d, token); e != nil {
		return nil, e
	}
	// 2. Who asks. A workload has nothing but its token.
	missing := s.requester(ctx, d)
	if missing != nil && d.req.Credential != (Credential{}) {
		return nil, missing
	}
	// 3. Which keys they prove to have.
	if e := s.possession(d); e != nil {
		return nil, e
	}
	// 4. The token.
	d.ownOnly = true
	t, e := s.present(ctx, d, "token", d.req.Subject, &d.rec.Subject)
	switch {
	case e != nil && missing != nil:
		return nil, missing
	case e != nil && e.Code != InvalidRequest:
		return nil, e
	case e != nil && s.otherKind(token):
		return nil, refuse(UnsupportedTokenType, "token", "only access tokens can be revoked: nothing here asks whether a token of another type counts")
	case e != nil: // "Invalid tokens do not cause an error response" [RFC 7009 §2.2]
		return nil, nil
	}
	// 5. Was it issued to who asks?
	if e := d.ownedBy(t, missing); e != nil {
		return nil, e
	}
	if e := s.useUp(ctx, d); e != nil {
		return nil, e
	}
	by := t.ClientID
	if missing == nil {
		by = "client " + by
	}
	return &Revocation{
		Kind: RevokeToken, Issuer: policy.Self, Value: identity(t, token), Expires: t.Expires.Add(2 * Skew),
		Created: d.now.UTC(), By: by, Reason: "revoked by whom it was issued to",
	}, nil
}

// ownedBy refuses to let anybody revoke what was issued to somebody else. missing
// is the refusal of who has no credential.
func (d *decision) ownedBy(t *policy.Token, missing *Error) *Error {
	foreign := func(message string) *Error {
		return &Error{Code: UnauthorizedClient, Field: "token", Message: message, Err: &mismatch{RecordReason: RecordReason{
			Predicate: "token.client_id", Presented: show(t.ClientID, true), Expected: "who asks",
		}}}
	}
	if c := d.asked.Client; c != nil {
		if c.ID != t.ClientID {
			return foreign("the token was issued to another client, which alone may revoke it; ask an administrator")
		}
		return nil
	}
	if _, client := d.st.client(t.ClientID, d.now); client {
		return missing
	}
	switch c := t.Confirmation; {
	case c.Other, c.JKT != "" && c.JKT != d.asked.Proven.JKT:
		return badProof("the token is bound to a key; send a DPoP proof made with it", nil)
	case c.X5T != "" && c.X5T != d.asked.Proven.X5T:
		return foreign("the token is bound to a certificate, which this connection does not show")
	}
	return nil
}

// otherKind tells whether a token is one of ours that is not an access token.
func (s *Service) otherKind(token string) bool {
	jws, err := jose.Parse(token)
	if err != nil || jws.Header.Type == typAccessToken {
		return false
	}
	key, ok := s.keys.KeySet().Key(jws.Header.KeyID)
	return ok && key.Algorithm == jws.Header.Algorithm && jws.Verify(key) == nil
}
