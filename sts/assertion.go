package sts

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/workload-sts/sts/jose"
)

const (
	slotAssertion = "client_assertion"

	// typClientAuthentication is the typ header of a client assertion
	// [draft-ietf-oauth-rfc7523bis], as package jose normalises it.
	typClientAuthentication = "client-authentication+jwt"

	// maxAssertionLifetime bounds how long an assertion that a client signed itself
	// lives, and with it how much has to be remembered.
	maxAssertionLifetime = 5 * time.Minute
)

// authenticateAssertion returns the client that an assertion authenticates [RFC
// 7521 §4.2].
//
// The order is that of every token: form, header, who it says to be from, the key,
// the signature, the claims. That it was not used before is asked last, so that
// nobody can use up an id for its owner.
func (s *Service) authenticateAssertion(ctx context.Context, d *decision) (*client, *Error) {
	iss, named := d.assertion.claims["iss"].(string)
	// Only a JWT-SVID may do without an iss [RFC 7523 §3].
	if issuer, ok := d.st.issuerOf(d.assertion.claims); ok && (named || d.req.Credential.Method == SPIFFEJWT) {
		return s.authenticateFederated(ctx, d, issuer)
	}
	if d.req.Credential.Method == SPIFFEJWT {
		return nil, badAssertion(d.untrusted(slotAssertion, d.assertion.claims).Err)
	}
	return s.authenticateKey(ctx, d, d.assertion.jws, d.assertion.claims, iss)
}

// parsedAssertion is an assertion that is well-formed, and nothing more.
type parsedAssertion struct {
	jws    *jose.JWS
	claims map[string]any
}

// parseAssertion reads the assertion of the request, if it has one.
func (d *decision) parseAssertion() *Error {
	text := d.req.Credential.Assertion
	if text == "" {
		return nil
	}
	d.rec.Assertion = &RecordParty{Unverified: true}
	jws, err := jose.Parse(text)
	if err != nil {
		return badAssertion(err)
	}
	claims, err := jws.Claims()
	if err != nil {
		return badAssertion(err)
	}
	d.assertion = &parsedAssertion{jws, claims}
	return nil
}

// badAssertion is the answer to every assertion whose signer is not proven to be
// who it says, whatever is wrong: anybody can have written it.
func badAssertion(why error) *Error {
	return &Error{
		Code: InvalidClient, Err: why,
		Message: "client authentication failed; check which client the client_assertion names by iss, sub and client_id, its alg and typ, and the key that signed it",
	}
}

// flawedAssertion is the answer to an assertion that the client's key signed, so
// the client is told what is wrong with it.
func flawedAssertion(claims map[string]any, f *flaw) *Error {
	v, present := claims[f.claim]
	presented := show
	if f.claim == "exp" || f.claim == "nbf" || f.claim == "iat" {
		presented = showTime
	}
	return &Error{
		Code: InvalidClient, Message: "client authentication failed: the client_assertion " + f.says,
		Err: &mismatch{RecordReason: RecordReason{Predicate: slotAssertion + "." + f.claim, Presented: presented(v, present), Expected: f.expected}},
	}
}

// authenticateKey returns the client that signed an assertion itself [RFC 7523
// §3].
//
// Once the client has been looked for, a signature is verified whatever there was
// to find, so that an unknown client takes as long as a wrong key.
func (s *Service) authenticateKey(ctx context.Context, d *decision, jws *jose.JWS, claims map[string]any, iss string) (*client, *Error) {
	// 1. Who it says to be.
	sub, _ := claims["sub"].(string)
	id := d.req.Credential.ClientID
	switch {
	case iss == "" || iss != sub:
		return nil, badAssertion(reason("iss and sub of the assertion are not one and the same client"))
	case id != "" && id != iss:
		return nil, badAssertion(reason("client_id is not the client that the assertion names"))
	case jws.Header.Type != "" && jws.Header.Type != typJWT && jws.Header.Type != typClientAuthentication:
		return nil, badAssertion(reason("the typ of the assertion is neither " + typClientAuthentication + " nor JWT"))
	}
	// 2. The client, and a key of it.
	c, key, e := s.clientKey(ctx, d, jws.Header, iss)
	if e != nil {
		verifyDecoy(jws)
		return nil, e
	}
	// 3. The signature.
	if err := jws.Verify(key); err != nil {
		if errors.Is(err, jose.ErrKeyMismatch) {
			verifyDecoy(jws)
		}
		return nil, badAssertion(fmt.Errorf("the assertion is not signed by the key that it names: %w", err))
	}
	d.rec.Assertion.Unverified = false
	d.rec.Assertion.says(claims)
	// 4. The claims.
	u, f := s.checkAssertion(c, claims, d.now)
	if f != nil {
		return nil, flawedAssertion(claims, f)
	}
	// 5. That it is the first use.
	if e := s.useOnce(ctx, u); e != nil {
		return nil, e
	}
	return c, nil
}

// clientKey returns the client of a name and the key of it that a header names.
func (s *Service) clientKey(ctx context.Context, d *decision, h jose.Header, name string) (*client, jose.Key, *Error) {
	c, ok := d.st.client(name, d.now)
	bad := func(why string) (*client, jose.Key, *Error) { return nil, jose.Key{}, badAssertion(reason(why)) }
	if !ok {
		return bad("no client of this name")
	}
	d.rec.Client = c.Name
	switch {
	case c.Disabled:
		return bad("the client is disabled")
	case c.PrivateKeyJWT == nil:
		return bad("the client does not authenticate with a key of its own")
	case !slices.Contains(c.PrivateKeyJWT.algorithms(), string(h.Algorithm)):
		return bad("the algorithm " + string(h.Algorithm) + " is not allowed for the client; allowed are " + strings.Join(c.PrivateKeyJWT.algorithms(), ", "))
	}
	key, err := s.findClientKey(ctx, c, h)
	switch {
	case err == nil:
		return c, key, nil
	case errors.Is(err, jose.ErrUnknownKey):
		return nil, jose.Key{}, badAssertion(fmt.Errorf("the client has no key of the kid of the assertion: %w", err))
	default:
		return nil, jose.Key{}, &Error{
			Code: Unavailable, RetryAfter: retryIssuer, Err: err,
			Message: "the keys of the client cannot be fetched now; try again later",
		}
	}
}

func (s *Service) findClientKey(ctx context.Context, c *client, h jose.Header) (jose.Key, error) {
	if c.PrivateKeyJWT.JWKS == "" {
		return s.clientKeys.Key(ctx, c.Name, h.KeyID, h.Algorithm)
	}
	if h.KeyID != "" {
		if key, ok := c.keys.Key(h.KeyID); ok {
			return key, nil
		}
		return jose.Key{}, jose.ErrUnknownKey
	}
	// Without a kid there must be no doubt [OIDC Core 1.0 §10.1].
	for key := range c.keys.All() {
		if c.keys.Len() == 1 {
			return key, nil
		}
	}
	return jose.Key{}, fmt.Errorf("%w: the assertion names none, and the client has several", jose.ErrUnknownKey)
}

func (k *ClientKey) algorithms() []string {
	if len(k.Algorithms) == 0 {
		return DefaultAlgorithms
	}
	return k.Algorithms
}

// checkAssertion checks the claims of an assertion that the client's key signed,
// and returns what it is that may be used once.
func (s *Service) checkAssertion(c *client, claims map[string]any, now time.Time) (use, *flaw) {
	exp, f := checkTimes(claims, now, defaultMaxLifetime)
	if f != nil {
		return use{}, f
	}
	// A lifetime is counted from iat, or from now where there is none.
	start, since := now, exp.Add(-maxAssertionLifetime)
	if iat, ok := jose.Seconds(claims["iat"]); ok {
		start = time.Unix(iat, 0)
		since = start.Add(-Skew)
	}
	if exp.Sub(start) > maxAssertionLifetime {
		return use{}, &flaw{
			"exp", fmt.Sprintf("lives longer than the %s that an assertion may", maxAssertionLifetime),
			fmt.Sprintf("%s after %s", maxAssertionLifetime, clock(start)),
		}
	}
	if f := s.assertionAudience(c.PrivateKeyJWT, claims["aud"]); f != nil {
		return use{}, f
	}
	jti, f := assertionID(claims)
	return use{
		space: ReplayClientAssertion, key: replayKey(c.Name, jti), owner: clientShare(c.Name), since: since, until: exp.Add(Skew),
	}, f
}

// assertionID returns the jti of an assertion, which it must have.
func assertionID(claims map[string]any) (string, *flaw) {
	jti, ok := claims["jti"].(string)
	if !ok || jti == "" || len(jti) > maxJTI {
		return "", &flaw{"jti", fmt.Sprintf("has no jti claim that is a string of 1 to %d characters", maxJTI), "such a string, a new one for each assertion"}
	}
	return jti, nil
}

// assertionAudience holds an assertion to be for us alone: the issuer identifier
// as the one value, not in a list [draft-ietf-oauth-rfc7523bis].
//
// The URL of the token endpoint is what a malicious server can make a client write
// that believes its metadata [CVE-2025-27370], so a client that does must be
// allowed to.
func (s *Service) assertionAudience(k *ClientKey, aud any) *flaw {
	f := &flaw{
		"aud", "is not for this service alone: its aud must be the issuer identifier of this service, as a string and not in a list",
		show(s.issuer, true),
	}
	if aud == s.issuer {
		return nil
	}
	list, ok := audiences(aud)
	if !k.AcceptTokenEndpointAudience || !ok {
		return f
	}
	for _, a := range list {
		if a != s.issuer && a != s.tokenEndpoint() {
			return f
		}
	}
	return nil
}

// verifyDecoy takes the time of a verification.
func verifyDecoy(jws *jose.JWS) {
	if key, ok := decoyKeys()[jws.Header.Algorithm]; ok {
		_ = jws.Verify(jose.Key{Public: key}) // it is the time that counts
	}
}

// decoyKeys are keys that nobody has the private half of, one for each algorithm.
var decoyKeys = sync.OnceValue(func() map[jose.Algorithm]crypto.PublicKey {
	ec := func(c elliptic.Curve) crypto.PublicKey {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			panic(err) // the curves are ours
		}
		return k.Public()
	}
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err) // rand does not fail
	}
	// No prime factors are needed to fail.
	n := make([]byte, 256)
	rand.Read(n)
	n[0] |= 0x80
	n[len(n)-1] |= 1
	rsaKey := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537}
	return map[jose.Algorithm]crypto.PublicKey{
		jose.ES256: ec(elliptic.P256()), jose.ES384: ec(elliptic.P384()), jose.EdDSA: ed, jose.RS256: rsaKey, jose.PS256: rsaKey,
	}
})
