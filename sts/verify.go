package sts

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"slices"
	"time"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/policy"
)

// DefaultAlgorithms are the signature algorithms accepted from an issuer that
// names none.
var DefaultAlgorithms = []string{"ES256", "ES384", "EdDSA", "RS256", "PS256"}

// typAccessToken is the typ header of an access token [RFC 9068 §2.1], as
// package jose normalises it; typJWT that of other tokens.
const (
	typAccessToken = "at+jwt"
	typJWT         = "jwt"
)

// proven is a token whose signature was verified: claims are what the key of
// the issuer signed. Times and audience have not been looked at.
type proven struct {
	issuer *Issuer // nil: this service
	kid    string
	alg    jose.Algorithm
	typ    string
	key    crypto.PublicKey
	claims map[string]any
}

// errToken is the answer to everything wrong with a token that is not worth a
// sentence of its own; the cause goes into the audit record.
func errToken(field, message string, cause error) *Error {
	return &Error{Code: InvalidRequest, Field: field, Message: message, Err: cause}
}

// prove returns the claims of a presented token if its issuer signed them.
//
// The order is: form, header, issuer, algorithm and type, and only then the key,
// so that nothing foreign causes a request of ours before all that is local has
// passed [RFC 8725 §3].
func (s *Service) prove(ctx context.Context, st *state, field string, p Presented) (*proven, *Error) {
	sum := sha256.Sum256([]byte(p.Token))
	if seen, ok := st.proven.Get(sum); ok {
		if s.stillProven(ctx, seen) {
			return seen, checkType(field, p.Type, seen)
		}
		st.proven.Remove(sum)
	}
	jws, err := jose.Parse(p.Token)
	if err != nil {
		return nil, errToken(field, "the "+field+" is not a signed JWT in compact form that this service accepts", err)
	}
	claims, err := jws.Claims()
	if err != nil {
		return nil, errToken(field, "the claims of the "+field+" are not a well-formed JSON object", err)
	}
	iss, _ := claims["iss"].(string)
	out := &proven{kid: jws.Header.KeyID, alg: jws.Header.Algorithm, typ: jws.Header.Type, claims: claims}
	if iss != s.issuer {
		i, ok := st.issuers[iss]
		if !ok {
			return nil, errToken(field, "the issuer of the "+field+" is not trusted here; it must be defined as an Issuer", errors.New("unknown iss"))
		}
		out.issuer = i
	}
	if e := checkType(field, p.Type, out); e != nil {
		return nil, e
	}
	key, e := s.keyFor(ctx, field, out)
	if e != nil {
		return nil, e
	}
	if err := jws.Verify(key); err != nil {
		return nil, errToken(field, "the signature of the "+field+" does not verify with the key of its issuer", err)
	}
	out.key = key.Public
	st.proven.Add(sum, out)
	return out, nil
}

// stillProven tells whether the key that verified a token is still the one that
// its issuer publishes.
func (s *Service) stillProven(ctx context.Context, p *proven) bool {
	key, e := s.keyFor(ctx, "", p)
	if e != nil {
		return false
	}
	k, ok := key.Public.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(p.key)
}

// checkType holds what a token is declared as against what it is [RFC 8725
// §3.11]: an access token says so in its typ header, anything else must not.
func checkType(field string, declared TokenType, p *proven) *Error {
	if p.issuer == nil {
		if p.typ != typAccessToken || declared != AccessToken {
			return errToken(field, "of the tokens of this service only access tokens can be exchanged, declared as "+string(AccessToken), nil)
		}
		return nil
	}
	is := p.typ == typAccessToken && declared == AccessToken ||
		(p.typ == typJWT || p.typ == "") && (declared == JWT || declared == IDToken)
	if !is {
		return errToken(field, "the "+field+" is not of the type that "+field+"_type declares", nil)
	}
	if !slices.Contains(p.issuer.tokenTypes(), declared.short()) {
		return errToken(field, "the Issuer of the "+field+" does not allow tokens of this type", nil)
	}
	return nil
}

// keyFor returns the key that the header names, if the algorithm is one that the
// issuer may use.
func (s *Service) keyFor(ctx context.Context, field string, p *proven) (jose.Key, *Error) {
	if p.issuer == nil {
		key, ok := s.keys.KeySet().Key(p.kid)
		if !ok || key.Algorithm != p.alg {
			return jose.Key{}, errToken(field, "the "+field+" was not signed by a key that this service publishes: the key is unknown, retired or revoked; present a fresh token", jose.ErrUnknownKey)
		}
		return key, nil
	}
	if !slices.Contains(p.issuer.algorithms(), string(p.alg)) {
		return jose.Key{}, errToken(field, "the signature algorithm of the "+field+" is not allowed for its issuer", jose.ErrAlgorithm)
	}
	key, err := s.issuerKeys.Key(ctx, p.issuer.Name, p.kid, p.alg)
	switch {
	case err == nil:
		return key, nil
	case errors.Is(err, jose.ErrUnknownKey):
		return jose.Key{}, errToken(field, "the issuer of the "+field+" publishes no key of the kid in its header", err)
	default:
		return jose.Key{}, &Error{
			Code: Unavailable, Field: field, RetryAfter: retryIssuer, Err: err,
			Message: "the keys of the issuer of the " + field + " cannot be fetched now; try again later",
		}
	}
}

// retryIssuer is when to try again if an issuer's keys could not be had.
const retryIssuer = 5 * time.Second

// present verifies a presented token whole and returns it as policy sees it,
// together with how the audit record names it.
func (s *Service) present(ctx context.Context, st *state, field string, p Presented, now time.Time) (*policy.Token, *RecordParty, *Error) {
	pr, e := s.prove(ctx, st, field, p)
	if e != nil {
		return nil, nil, e
	}
	c, e := s.checkClaims(field, pr, now)
	if e != nil {
		return nil, nil, e
	}
	party := &RecordParty{Issuer: c.Issuer, Sub: c.Subject, Txn: c.Txn, Act: chain(c.Act), Exp: c.Expires.Unix()}
	if party.JTI, _ = pr.claims["jti"].(string); party.JTI == "" {
		sum := sha256.Sum256([]byte(p.Token))
		party.Hash = "sha256:" + base64.RawURLEncoding.EncodeToString(sum[:])
	}
	return c, party, nil
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
