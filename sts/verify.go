package sts

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/policy"
)

// DefaultAlgorithms are the signature algorithms accepted from an issuer that
// names none.
var DefaultAlgorithms = []string{"ES256", "ES384", "EdDSA", "RS256", "PS256"}

// typAccessToken is the typ header of an access token [RFC 9068 §2.1], as
// package jose normalises it; typJWT that of other tokens. A JWT-SVID may have
// typJOSE [JWT-SVID §2.3].
const (
	typAccessToken = "at+jwt"
	typJWT         = "jwt"
	typJOSE        = "jose"
)

// proven is a token whose signature was verified: claims are what the key of
// the issuer signed. Times and audience have not been looked at.
type proven struct {
	issuer *Issuer // nil: this service
	kid    string
	alg    jose.Algorithm
	typ    string
	key    crypto.PublicKey // nil: its issuer was asked
	claims map[string]any
}

// errToken is the answer to everything wrong with a token that is not worth a
// sentence of its own; the cause goes into the audit record.
func errToken(field, message string, cause error) *Error {
	return &Error{Code: InvalidRequest, Field: field, Message: message, Err: cause}
}

// prove returns the claims of a presented token if its issuer signed them. It
// writes into party how far it came.
//
// The order is: form, header, issuer, algorithm and type, and only then the key,
// so that nothing foreign causes a request of ours before all that is local has
// passed [RFC 8725 §3].
func (s *Service) prove(ctx context.Context, d *decision, field string, p Presented, party *RecordParty) (*proven, *Error) {
	sum := sha256.Sum256([]byte(p.Token))
	if seen, ok := d.st.proven.Get(sum); ok && (seen.issuer == nil || !d.ownOnly) {
		if s.stillProven(ctx, d, seen, p.Token) {
			party.Unverified, party.Issuer = false, seen.issuerName()
			return seen, d.checkType(field, p.Type, seen)
		}
		d.st.proven.Remove(sum)
	}
	jws, err := jose.Parse(p.Token)
	if err != nil {
		return nil, errToken(field, "the "+field+" is not a signed JWT in compact form that this service accepts", err)
	}
	claims, err := jws.Claims()
	if err != nil {
		return nil, errToken(field, "the claims of the "+field+" are not a well-formed JSON object", err)
	}
	out := &proven{kid: jws.Header.KeyID, alg: jws.Header.Algorithm, typ: jws.Header.Type, claims: claims}
	if claims["iss"] != s.issuer {
		if d.ownOnly {
			return nil, errToken(field, "the "+field+" is not of this service", nil)
		}
		i, ok := d.st.issuerOf(claims)
		if !ok {
			return nil, d.untrusted(field, claims)
		}
		out.issuer = i
	}
	party.Issuer = out.issuerName()
	if d.authenticated() {
		party.says(claims)
	}
	e := d.checkType(field, p.Type, out)
	if e != nil {
		return nil, e
	}
	review := out.issuer != nil && out.issuer.TokenReview != nil
	if !review || out.issuer.TokenReview.CheckSignature {
		e = s.verify(ctx, d, field, jws, out)
	}
	if e == nil && review {
		e = s.review(ctx, d, field, p.Token, out)
	}
	if e != nil {
		return nil, e
	}
	party.Unverified = false
	d.st.proven.Add(sum, out)
	return out, nil
}

// verify checks the signature with the key that the header names.
func (s *Service) verify(ctx context.Context, d *decision, field string, jws *jose.JWS, out *proven) *Error {
	key, e := s.keyFor(ctx, d, field, out)
	if e != nil {
		return e
	}
	if err := jws.Verify(key); err != nil {
		return errToken(field, "the signature of the "+field+" does not verify with the key of its issuer", &mismatch{
			RecordReason{Predicate: field + ".signature", Presented: "not of key " + d.showUnverified(out.kid, visible(out.kid)), Expected: "of that key of " + out.issuerName()}, err,
		})
	}
	out.key = key.Public
	return nil
}

// issuerName is the name of the Issuer, or self.
func (p *proven) issuerName() string {
	if p.issuer == nil {
		return policy.Self
	}
	return p.issuer.Name
}

// untrusted refuses a token of an issuer that is not defined.
func (d *decision) untrusted(field string, claims map[string]any) *Error {
	why := &mismatch{RecordReason: RecordReason{Predicate: field + ".iss", Presented: "missing, or not a string", Expected: "that of an Issuer"}}
	if iss, ok := claims["iss"].(string); ok {
		why.Presented = d.showUnverified(iss, publicURL(iss))
	}
	return errToken(field, "the issuer of the "+field+" is not trusted here; it must be defined as an Issuer", why)
}

// stillProven tells whether the key that verified a token is still the one that
// its issuer publishes, or whether its issuer still says that it is good.
func (s *Service) stillProven(ctx context.Context, d *decision, p *proven, token string) bool {
	if p.issuer != nil && p.issuer.TokenReview != nil {
		return s.review(ctx, d, "", token, p) == nil
	}
	key, e := s.keyFor(ctx, d, "", p)
	if e != nil {
		return false
	}
	k, ok := key.Public.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(p.key)
}

// checkType holds what a token is declared as against what it is [RFC 8725
// §3.11]: an access token says so in its typ header, anything else must not.
func (d *decision) checkType(field string, declared TokenType, p *proven) *Error {
	bad := func(message, expected string) *Error {
		typ := "none"
		if p.typ != "" {
			typ = d.showUnverified(p.typ, plainWord(p.typ))
		}
		return errToken(field, message, &mismatch{RecordReason: RecordReason{
			Predicate: field + ".typ", Presented: typ + " declared as " + declared.short(), Expected: expected,
		}})
	}
	const access = typAccessToken + " declared as access_token"
	if p.issuer == nil {
		if p.typ != typAccessToken || declared != AccessToken {
			return bad("of the tokens of this service only access tokens can be exchanged, declared as "+string(AccessToken), access)
		}
		return nil
	}
	is := p.typ == typAccessToken && declared == AccessToken ||
		(p.typ == typJWT || p.typ == "" || p.typ == typJOSE && p.issuer.spiffe()) && (declared == JWT || declared == IDToken)
	if !is {
		return bad("the "+field+" is not of the type that "+field+"_type declares", access+", or "+typJWT+" or none declared as jwt or id_token")
	}
	if !slices.Contains(p.issuer.tokenTypes(), declared.short()) {
		return bad("the Issuer of the "+field+" does not allow tokens of this type", strings.Join(p.issuer.tokenTypes(), " or "))
	}
	return nil
}

// keyFor returns the key that the header names, if the algorithm is one that the
// issuer may use.
func (s *Service) keyFor(ctx context.Context, d *decision, field string, p *proven) (jose.Key, *Error) {
	noKey := func(message string, err error) *Error {
		return errToken(field, message, &mismatch{
			RecordReason{Predicate: field + ".kid", Presented: d.showUnverified(p.kid, visible(p.kid)) + " for " + string(p.alg), Expected: "a key of " + p.issuerName()}, err,
		})
	}
	if p.issuer == nil {
		key, ok := s.keys.KeySet().Key(p.kid)
		if !ok || key.Algorithm != p.alg {
			return jose.Key{}, noKey("the "+field+" was not signed by a key that this service publishes: the key is unknown, retired or revoked; present a fresh token", jose.ErrUnknownKey)
		}
		return key, nil
	}
	if e := s.checkAlgorithm(field, p); e != nil {
		return jose.Key{}, e
	}
	key, err := s.issuerKeys.Key(ctx, p.issuer.Name, p.kid, p.alg)
	switch {
	case err == nil:
		return key, nil
	case errors.Is(err, jose.ErrUnknownKey):
		return jose.Key{}, noKey("the issuer of the "+field+" publishes no key of the kid in its header", err)
	default:
		return jose.Key{}, &Error{
			Code: Unavailable, Field: field, RetryAfter: retryIssuer, Err: err,
			Message: "the keys of the issuer of the " + field + " cannot be fetched now; try again later",
		}
	}
}

// review asks the issuer itself whether it signed a token. Since that costs the
// issuer a call for each token, whatever is wrong with the claims is found before.
func (s *Service) review(ctx context.Context, d *decision, field, token string, p *proven) *Error {
	if e := s.checkAlgorithm(field, p); e != nil {
		return e
	}
	if _, e := s.checkClaims(field, p, d.now); e != nil {
		if m, ok := errors.AsType[*mismatch](e.Err); ok && !d.authenticated() {
			m.Presented = unknown(m.Presented) // anybody can have written it
		}
		return e
	}
	subject, err := s.issuerKeys.Review(ctx, p.issuer.Name, token, s.audienceOf(p.issuer))
	if err == nil && p.claims["sub"] != subject {
		err = fmt.Errorf("%w: the issuer says that it is of another subject", jose.ErrSignature)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jose.ErrSignature):
		return errToken(field, "the issuer of the "+field+" does not vouch for it: it is not of that issuer, not for this service, or has been invalidated", &mismatch{
			RecordReason{Predicate: field + ".signature", Presented: "not confirmed", Expected: "confirmed by TokenReview of " + p.issuer.Name}, err,
		})
	default:
		return &Error{
			Code: Unavailable, Field: field, RetryAfter: retryIssuer, Err: err,
			Message: "the issuer of the " + field + " cannot be asked about it now; try again later",
		}
	}
}

// checkAlgorithm refuses an algorithm that the issuer of a token may not use.
func (s *Service) checkAlgorithm(field string, p *proven) *Error {
	if slices.Contains(p.issuer.algorithms(), string(p.alg)) {
		return nil
	}
	return errToken(field, "the signature algorithm of the "+field+" is not allowed for its issuer", &mismatch{
		RecordReason{Predicate: field + ".alg", Presented: string(p.alg), Expected: strings.Join(p.issuer.algorithms(), " or ")}, jose.ErrAlgorithm,
	})
}

// retryIssuer is when to try again if an issuer's keys could not be had.
const retryIssuer = 5 * time.Second

// present verifies a presented token whole and returns it as policy sees it. It
// leaves in rec how the audit record names the token, as far as it came.
func (s *Service) present(ctx context.Context, d *decision, field string, p Presented, rec **RecordParty) (*policy.Token, *Error) {
	party := &RecordParty{Unverified: true}
	*rec = party
	pr, e := s.prove(ctx, d, field, p, party)
	if pr != nil {
		party.says(pr.claims)
	}
	if e != nil {
		return nil, e
	}
	t, e := s.accept(d, field, pr, party)
	if e != nil {
		return nil, e
	}
	return t, s.notRevoked(d, field, pr, t, p.Token)
}

// accept returns a token whose signature was verified as policy sees it.
func (s *Service) accept(d *decision, field string, p *proven, party *RecordParty) (*policy.Token, *Error) {
	t, e := s.checkClaims(field, p, d.now)
	if e != nil {
		return nil, e
	}
	party.Txn, party.Act = t.Txn, chain(t.Act)
	return t, nil
}

func (i *Issuer) algorithms() []string {
	if len(i.Algorithms) == 0 {
		return DefaultAlgorithms
	}
	return i.Algorithms
}

var defaultTokenTypes = []string{"jwt", "id_token"}

func (i *Issuer) tokenTypes() []string {
	if len(i.TokenTypes) == 0 {
		return defaultTokenTypes
	}
	return i.TokenTypes
}
