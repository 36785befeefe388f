package sts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/policy"
)

// typIntrospection is the typ header of an introspection response [RFC 9701 §5],
// so that it is never taken for a token.
const typIntrospection = "token-introspection+jwt"

// Introspect says whether one of our access tokens counts, to callers whom it is
// addressed to or who are named by its Audience [RFC 7662]. An error is an *Error.
//
// To everybody else, and of everything that is not such a token, it says that it is
// not active, and nothing else: not whose it is, nor why. What is known here must
// be known to be current; no issuer and no signing key is asked, unless the answer
// is to be signed.
func (s *Service) Introspect(ctx context.Context, req IntrospectionRequest) (Introspection, error) {
	d := s.begin(EventIntrospect, req.Caller)
	d.req.Subject = Presented{req.Token, AccessToken}
	out, e := s.introspect(ctx, d, req)
	out.Decision, out.Nonce = d.ids.decision, s.nextNonce(d)
	if e != nil {
		if err := s.record(ctx, d, e); err != nil {
			return Introspection{}, s.unrecorded(d, err)
		}
		e.Decision, e.Nonce = d.ids.decision, out.Nonce
		return Introspection{}, e
	}
	return out, nil
}

// unrecorded is the answer where a record could not be written.
func (s *Service) unrecorded(d *decision, err error) *Error {
	return &Error{
		Code: Unavailable, Decision: d.ids.decision, RetryAfter: retryLater, Nonce: s.nextNonce(d), Err: err,
		Message: "the answer cannot be recorded now and so is not given; try again later",
	}
}

func (s *Service) introspect(ctx context.Context, d *decision, req IntrospectionRequest) (Introspection, *Error) {
	// 1. The request itself.
	if e := checkToken(d, req.Token); e != nil {
		return Introspection{}, e
	}
	// 2. Who asks, by which keys.
	if e := s.requester(ctx, d); e != nil {
		return Introspection{}, e
	}
	if e := s.possession(d); e != nil {
		return Introspection{}, e
	}
	if e := s.useUp(ctx, d); e != nil {
		return Introspection{}, e
	}
	// 3. What is known must be current: never a stale yes.
	if e := s.stale(); e != nil {
		return Introspection{}, e
	}
	// 4. The token.
	claims, e := s.active(ctx, d)
	if e != nil {
		return Introspection{}, e
	}
	out := Introspection{Active: claims != nil, Claims: claims}
	if !req.Signed {
		return out, nil
	}
	// 5. Sign, if it is asked for.
	out.JWT, e = s.signIntrospection(ctx, d, out)
	return out, e
}

// checkToken checks the parameters of a request about a token. The hint of what it
// is changes nothing: there is one kind of token to look for [RFC 7662 §2.1].
func checkToken(d *decision, token string) *Error {
	switch {
	case d.req.Malformed != nil:
		return d.req.Malformed
	case token == "":
		return refuse(InvalidRequest, "token", "token is missing")
	case len(token) > jose.MaxTokenSize:
		return refuse(InvalidRequest, "token", "token is longer than 16384 characters")
	}
	return nil
}

// active returns the claims of the token if it counts and is the business of who
// asks, else nil. A token that was revoked, and one that is none of the caller's
// business, is worth a record: others are what callers meet every day.
func (s *Service) active(ctx context.Context, d *decision) (map[string]any, *Error) {
	d.ownOnly = true // not so the assertion of the caller, which was before
	t, e := s.present(ctx, d, "token", d.req.Subject, &d.rec.Subject)
	switch {
	case e != nil && e.Code != InvalidRequest:
		return nil, e
	case e != nil && !errors.Is(e, errRevoked):
		return nil, nil
	case e == nil && !d.now.Before(t.Expires): // the clock is ours, so there is no skew
		return nil, nil
	case e == nil && !d.st.concerns(t, d.asked.Client):
		e = errToken("token", "the token is not addressed to who asks", &mismatch{RecordReason: RecordReason{
			Predicate: "token.aud", Presented: show(d.asked.Client.ID, true), Expected: "a client that is an Audience of the token, or an introspector of one",
		}})
	}
	if e != nil {
		e.Code = "" // the caller is not told
		if err := s.record(ctx, d, e); err != nil {
			return nil, s.unrecorded(d, err)
		}
		return nil, nil
	}
	claims := maps.Clone(t.Claims)
	delete(claims, "lineage")
	claims["token_type"] = "Bearer"
	if t.Confirmation.JKT != "" {
		claims["token_type"] = "DPoP" // [RFC 9449 §6.2]
	}
	return claims, nil
}

// concerns tells whether a token is the business of a client: one that is an
// Audience of it, or that such an Audience names.
func (st *state) concerns(t *policy.Token, c *policy.Client) bool {
	return slices.ContainsFunc(t.Audiences, func(aud string) bool {
		return slices.Contains(c.Audiences, aud) || slices.Contains(st.introspectors[aud], c.ID)
	})
}

// signIntrospection makes the response as a JWT [RFC 9701 §5]. It has no sub and no
// exp, which a token would have, and is for the caller alone.
//
// The keys are those of the Audience that the caller is, since these are the ones
// that it can verify, so they tell nothing about the token.
func (s *Service) signIntrospection(ctx context.Context, d *decision, i Introspection) (string, *Error) {
	payload, err := json.Marshal(map[string]any{
		"iss": s.issuer, "aud": d.asked.Client.ID, "iat": d.now.Unix(), "jti": d.ids.jti, "token_introspection": i.Members(),
	})
	if err != nil {
		return "", &Error{Code: ServerError, Message: "the answer cannot be encoded", Err: err}
	}
	set := DefaultKeySet
	if c, ok := d.st.clients[d.asked.Client.ID]; ok && len(c.Audiences) > 0 {
		set = d.st.resources[Ref{KindAudience, c.Audiences[0]}].Audience.keySet()
	}
	jwt, _, err := s.keys.Sign(ctx, set, typIntrospection, payload)
	if err != nil {
		if ctx.Err() == nil {
			s.health.failed(CapabilityIssue, s.now(), DependencySigningKey, err)
		}
		return "", &Error{Code: Unavailable, RetryAfter: retryAfter(err), Message: "the answer cannot be signed now; ask without the Accept header, or try again later", Err: fmt.Errorf("signing an introspection response: %w", err)}
	}
	return jwt, nil
}

// Members are the members of the response [RFC 7662 §2.2].
func (i Introspection) Members() map[string]any {
	out := map[string]any{}
	if i.Active {
		maps.Copy(out, i.Claims)
	}
	out["active"] = i.Active
	return out
}
