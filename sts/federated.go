package sts

import (
	"context"
	"errors"
	"slices"
	"strings"
)

// authenticateFederated returns the client that a token of a trusted issuer is
// mapped to. The token passes what every token of that issuer passes, and three
// things more: it is addressed to nobody else, it has the claims of one client,
// and that is the client that the request names, if it names one.
func (s *Service) authenticateFederated(ctx context.Context, d *decision, issuer *Issuer) (*client, *Error) {
	cred := d.req.Credential
	if cred.Method != SPIFFEJWT {
		d.rec.AuthMethod = FederatedJWT
	}
	// 1. What every token of the issuer must be. An access token is not an identity.
	declared := JWT
	if t := issuer.tokenTypes(); !slices.Contains(t, JWT.short()) && slices.Contains(t, IDToken.short()) {
		declared = IDToken
	}
	proven, e := s.prove(ctx, d, slotAssertion, Presented{Token: cred.Assertion, Type: declared}, d.rec.Assertion)
	if e != nil {
		return nil, unproven(e)
	}
	d.rec.Assertion.says(proven.claims)
	token, e := s.checkClaims(slotAssertion, proven, d.now)
	if e != nil {
		return nil, &Error{Code: InvalidClient, Message: "client authentication failed: " + e.Message, Err: e.Err}
	}
	_, bound := proven.claims["cnf"]
	switch {
	// What is addressed to others too, they can present here [draft-ietf-oauth-rfc7523bis,
	// draft-ietf-oauth-spiffe-client-auth §3.1]. Issuers write lists, of one.
	case len(token.Audiences) != 1:
		return nil, flawedAssertion(proven.claims, &flaw{"aud", "is not for this service alone: its aud has other values too", show(s.audienceOf(issuer), true)})
	case bound:
		return nil, flawedAssertion(proven.claims, &flaw{"cnf", "is bound to a key, and possession of the key is not proven", "none"})
	case cred.Method == SPIFFEJWT && !strings.HasPrefix(token.Subject, "spiffe://"):
		return nil, flawedAssertion(proven.claims, &flaw{"sub", "is not a JWT-SVID: its sub is not a SPIFFE ID", "a SPIFFE ID"})
	}
	if e := s.notRevoked(d, slotAssertion, proven, token, cred.Assertion); e != nil {
		return nil, &Error{Code: InvalidClient, Message: "client authentication failed: " + e.Message, Err: e.Err}
	}
	// 2. Whose identity it is.
	c, e := d.federatedClient(issuer, proven.claims)
	if e != nil {
		return nil, e
	}
	if !c.Federated.SingleUse && !issuer.SingleUse {
		return c, nil
	}
	// 3. That it is the first use, whatever it was used for.
	u := useOf(issuer, token, cred.Assertion)
	u.owner = clientShare(c.Name)
	if e := s.useOnce(ctx, u); e != nil {
		return nil, e
	}
	return c, nil
}

// unproven is the answer to a token of an issuer that did not verify. That keys
// cannot be had now is passed on.
func unproven(e *Error) *Error {
	if e.Code != InvalidRequest {
		return e
	}
	why := e.Err
	if m, ok := errors.AsType[*mismatch](e.Err); ok {
		why = m
	}
	if why == nil {
		why = reason(e.Message)
	}
	return badAssertion(why)
}

// federatedClient returns the one client of an issuer's whose claims a token has.
func (d *decision) federatedClient(issuer *Issuer, claims map[string]any) (*client, *Error) {
	var found []*client
	for _, c := range d.st.federated[issuer.Name] {
		if c.Federated.matches(claims) && (d.req.Credential.ClientID == "" || c.Name == d.req.Credential.ClientID) {
			found = append(found, c)
		}
	}
	if len(found) == 1 {
		d.rec.Client = found[0].Name
	}
	switch {
	case len(found) == 0:
		return nil, badAssertion(reason("no client has the claims of the token in its federated identity, or not the one that client_id names"))
	case len(found) > 1:
		return nil, badAssertion(reason("the token is that of several clients, and client_id does not say which"))
	case found[0].Disabled:
		return nil, badAssertion(reason("the client is disabled"))
	}
	return found[0], nil
}

func (f *FederatedIdentity) matches(claims map[string]any) bool {
	return len(f.Claims) > 0 && haveExactly(claims, f.Claims)
}

// haveExactly compares exactly, types too. A claim that is a list matches nothing.
func haveExactly(claims, wanted map[string]any) bool {
	for name, want := range wanted {
		switch got := claims[name].(type) {
		case string, bool, int64, float64:
			if got != want {
				return false
			}
		default:
			return false
		}
	}
	return true
}
