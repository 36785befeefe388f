package sts

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/policy"
)

// Bounds of a revocation.
const (
	maxReason      = 255
	maxBeforeAhead = time.Minute // how far in the future tokens may be revoked that are issued until then
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
	made, e := s.revokeToken(ctx, d, req.Token)
	done := Revoked{Decision: d.ids.decision, Nonce: s.nextNonce(d)}
	if made == nil && e == nil {
		return done, nil
	}
	// A revocation is in force, whether or not it can be recorded.
	d.rec.Revocation = made
	if err := s.record(ctx, d, e); err != nil {
		return Revoked{}, s.unrecorded(d, err)
	}
	if e != nil {
		e.Decision, e.Nonce = done.Decision, done.Nonce
		return Revoked{}, e
	}
	return done, nil
}

func (s *Service) revokeToken(ctx context.Context, d *decision, token string) (*Revocation, *Error) {
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
	// 6. Revoke.
	by := t.ClientID
	if missing == nil {
		by = "client " + by
	}
	done, e := s.add(ctx, Revocation{
		Kind: RevokeToken, Issuer: policy.Self, Value: identity(t, token), Expires: t.Expires.Add(2 * Skew),
		Created: d.now.UTC(), By: by, Reason: "revoked by whom it was issued to",
	})
	if e != nil {
		return nil, e
	}
	return &done, nil
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

// add makes a revocation: when it returns without an error, it is in force.
func (s *Service) add(ctx context.Context, r Revocation) (Revocation, *Error) {
	done, err := s.revocations.Add(ctx, r)
	if err == nil {
		return done, nil
	}
	if ctx.Err() == nil {
		s.health.failed(CapabilityAdmin, s.now(), DependencyStorage, err)
	}
	// "If the server responds with HTTP status code 503, the client must assume the
	// token still exists and may retry" [RFC 7009 §2.2.1].
	return Revocation{}, &Error{
		Code: Unavailable, RetryAfter: retryLater, Err: err,
		Message: "the revocation could not be stored and may or may not be in force; try again",
	}
}

// Revoke is what an administrator asks to revoke.
type Revoke struct {
	Kind   RevocationKind
	Issuer string // of a token or a key; empty: self
	Value  string // a jti, txn, sub of our tokens, name of a client or an Issuer, or kid; empty for all
	Token  string // instead of the jti: the token itself, ours or that of an Issuer
	// TokenType is what the Token is; empty: whatever its Issuer allows.
	Before time.Time // zero: now
	Until  time.Time // at least so long; zero: as long as what it blocks can live
	Reason string
}

// Revoke makes tokens count no more, for an administrator. When it returns, the
// revocation is durable, in force here, and recorded. An error is an *Error; one of
// code Unavailable leaves it open whether it is in force.
func (s *Service) Revoke(ctx context.Context, by Principal, req Revoke) (Revocation, error) {
	d := s.begin(EventRevoke, TokenRequest{Source: Source{Peer: by.Peer}})
	r, e := s.prepare(ctx, d, req)
	if e == nil {
		r.Created, r.By, r.Reason = d.now.UTC(), by.Name, req.Reason
		r, e = s.carryOut(ctx, r)
	}
	if e == nil || e.Code == Unavailable {
		d.rec.Revocation = &r
	}
	if err := s.record(ctx, d, e); err != nil {
		return Revocation{}, s.unrecorded(d, err)
	}
	if e != nil {
		e.Decision = d.ids.decision
		return Revocation{}, e
	}
	return r, nil
}

// carryOut makes a revocation. That of a key of ours takes it out of the published
// set as well: whoever has it can sign at any time.
func (s *Service) carryOut(ctx context.Context, r Revocation) (Revocation, *Error) {
	if r.Kind == RevokeKey && r.Issuer == policy.Self {
		if _, err := s.keys.Revoke(ctx, r.Value); err != nil {
			return r, keysError(err, "the key may or may not have been revoked; look before you try again")
		}
	}
	return s.add(ctx, r)
}

// prepare turns what is asked for into a revocation, or says what is wrong with it.
func (s *Service) prepare(ctx context.Context, d *decision, req Revoke) (Revocation, *Error) {
	r := Revocation{Kind: req.Kind, Issuer: req.Issuer, Value: req.Value, Before: req.Before.UTC()}
	switch {
	case !slices.Contains(RevocationKinds, req.Kind):
		return r, refuse(InvalidRequest, "kind", "kind must be one of token, txn, subject, client, issuer, key, all")
	case strings.TrimSpace(req.Reason) == "" || len(req.Reason) > maxReason:
		return r, refuse(InvalidRequest, "reason", fmt.Sprintf("a reason of 1 to %d characters is needed, for whoever finds the revocation later", maxReason))
	case req.Issuer != "" && req.Kind != RevokeToken && req.Kind != RevokeKey:
		return r, refuse(InvalidRequest, "issuer", "issuer says whose a token or a key is; subjects are named as in our tokens, which is ISSUER:SUB for those of an Issuer")
	case req.Token != "" && (req.Kind != RevokeToken || req.Value != "" || req.Issuer != ""):
		return r, refuse(InvalidRequest, "token", "token stands for the id of a token and its issuer; give either")
	}
	if req.Token != "" {
		return s.prepareToken(ctx, d, r, req.Token)
	}
	if e := s.checkValue(d.st, &r); e != nil {
		return r, e
	}
	if e := checkBefore(d.now, &r); e != nil {
		return r, e
	}
	r.Expires = d.st.outlived(r, d.now)
	switch {
	case req.Until.IsZero() || r.Expires.IsZero():
	case req.Until.Sub(d.now) > maxUntil:
		return r, refuse(InvalidRequest, "until", fmt.Sprintf("until is more than %s from now", maxUntil))
	case req.Until.After(r.Expires):
		r.Expires = req.Until.UTC()
	}
	return r, nil
}

// maxUntil is how long a revocation can be asked to be kept.
const maxUntil = 10 * 365 * 24 * time.Hour

// prepareToken finds out which token it is. One that does not count needs no
// revocation, and what anybody can have written is not believed.
func (s *Service) prepareToken(ctx context.Context, d *decision, r Revocation, token string) (Revocation, *Error) {
	var t *policy.Token
	var e *Error
	for _, kind := range []TokenType{AccessToken, JWT, IDToken} {
		var p *proven
		d.rec.Subject = &RecordParty{Unverified: true}
		if p, e = s.prove(ctx, d, "token", Presented{token, kind}, d.rec.Subject); e != nil {
			continue
		}
		d.rec.Subject.says(p.claims)
		if t, e = s.checkClaims("token", p, d.now); e == nil {
			break
		}
	}
	if e != nil {
		return r, &Error{Code: e.Code, Field: "token", RetryAfter: e.RetryAfter, Message: "the token does not count here, so there is nothing to revoke: " + e.Message, Err: e.Err}
	}
	// What comes from a token ends with it, unless the token authenticated a client.
	end := t.Expires
	if least := d.now.Add(maxTTL); t.Issuer != policy.Self && end.Before(least) {
		end = least
	}
	r.Issuer, r.Value, r.Expires = t.Issuer, identity(t, token), end.Add(2*Skew).UTC()
	return r, nil
}

// checkValue checks what a revocation is by, as far as it can be told: a name that
// was mistyped would block nothing.
func (s *Service) checkValue(st *state, r *Revocation) *Error {
	bad := func(format string, args ...any) *Error {
		return refuse(InvalidRequest, "value", fmt.Sprintf(format, args...))
	}
	if r.Kind == RevokeToken || r.Kind == RevokeKey {
		if r.Issuer == "" {
			r.Issuer = policy.Self
		}
		if _, ok := st.resources[Ref{KindIssuer, r.Issuer}]; !ok && r.Issuer != policy.Self {
			return refuse(NotFound, "issuer", "there is no Issuer of this name")
		}
	}
	switch most := map[RevocationKind]int{RevokeToken: maxJTI, RevokeTxn: maxName, RevokeSubject: maxSubject + maxName + 1, RevokeKey: maxName}[r.Kind]; r.Kind {
	case RevokeAll:
		if r.Value != "" {
			return bad("a revocation of all tokens has no value")
		}
	case RevokeClient:
		if _, ok := st.client(r.Value, s.now()); !ok {
			return refuse(NotFound, "value", "there is no client of this name; tokens of one that was deleted do not count anyway")
		}
	case RevokeIssuer:
		if _, ok := st.resources[Ref{KindIssuer, r.Value}]; !ok {
			return refuse(NotFound, "value", "there is no Issuer of this name; tokens of one that was deleted do not count anyway")
		}
	default:
		if r.Value == "" || len(r.Value) > most || strings.ContainsFunc(r.Value, func(c rune) bool { return c < ' ' || c == 0x7f }) {
			return bad("a %s has 1 to %d characters", r.Kind, most)
		}
	}
	if r.Kind == RevokeToken {
		r.Value = "jti " + r.Value
	}
	return nil
}

// checkBefore completes until when the tokens were issued that are revoked. What
// is known by its id is revoked whenever it was issued, and so is what a key
// signed: who has it writes any time into a token.
func checkBefore(now time.Time, r *Revocation) *Error {
	if r.Kind == RevokeToken || r.Kind == RevokeTxn || r.Kind == RevokeKey {
		if !r.Before.IsZero() {
			return refuse(InvalidRequest, "before", "before goes with a subject, a client, an issuer or all: a token, a transaction and a key are revoked whole")
		}
		return nil
	}
	if r.Before.IsZero() {
		r.Before = now.UTC()
	}
	if r.Before.After(now.Add(maxBeforeAhead)) {
		return refuse(InvalidRequest, "before", fmt.Sprintf("before is more than %s in the future; to keep somebody from getting tokens, disable the client or change the rules", maxBeforeAhead))
	}
	if r.Before.Unix() <= 0 {
		return refuse(InvalidRequest, "before", "before is not a time of this service")
	}
	r.Before = r.Before.Truncate(time.Second)
	return nil
}

// outlived is when no token is alive any more that a revocation blocks; zero for a
// key of an Issuer, which can sign again at any time. Clocks of those who issue may
// be ahead, and tokens are accepted for a while after they have expired.
func (st *state) outlived(r Revocation, now time.Time) time.Time {
	if r.Kind == RevokeKey && r.Issuer != policy.Self {
		return time.Time{}
	}
	longest := maxTTL
	for _, i := range st.issuers {
		longest = max(longest, i.maxLifetime())
	}
	return now.Add(longest + maxBeforeAhead + 2*Skew).UTC().Truncate(time.Second)
}

// Revocations returns up to limit revocations of a kind, or of all kinds if it is
// empty, that come after one, and whether there are more. The error is an *Error.
func (s *Service) Revocations(ctx context.Context, kind RevocationKind, after *Revocation, limit int) ([]Revocation, bool, error) {
	if kind != "" && !slices.Contains(RevocationKinds, kind) {
		return nil, false, refuse(InvalidRequest, "kind", "kind must be one of token, txn, subject, client, issuer, key, all")
	}
	page, more, err := s.revocations.List(ctx, kind, after, limit)
	if err != nil {
		return nil, false, &Error{Code: Unavailable, RetryAfter: retryLater, Message: "the revocations cannot be read now; try again later", Err: err}
	}
	return page, more, nil
}

// RevocationCount is how many revocations there are.
func (s *Service) RevocationCount() int { return s.revocations.Count() }

// RevokeRestored revokes everything that was issued before the store was restored
// from a backup: what had been revoked by then is not known any more. It is called
// at each start, and does something at the first.
func (s *Service) RevokeRestored(ctx context.Context, at time.Time) error {
	r := Revocation{
		Kind: RevokeAll, Before: at.UTC(), Created: s.now().UTC(), By: "this service",
		Reason: "the storage was restored from a backup, and what had been revoked since is not known",
	}
	r.Expires = s.state.Load().outlived(r, at)
	if s.revocations.Revoked(r.Name(), at) || !s.now().Before(r.Expires) {
		return nil
	}
	done, e := s.add(ctx, r)
	if e != nil {
		return e
	}
	return s.recordEvent(ctx, &Record{Event: EventRevoke, Outcome: "allow", Revocation: &done})
}
