package sts

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"slices"
	"time"

	"github.com/workload-sts/sts/policy"
)

// decision is a request on its walk. Each step reads what those before it left.
type decision struct {
	req   TokenRequest
	st    *state
	now   time.Time
	ids   ids
	asked policy.Request

	ownOnly bool // tokens of Issuers are not looked at

	assertion  *parsedAssertion // nil: the client authenticates otherwise
	credential string           // which of the client's has authenticated it; see Client.credentials

	proof   *proof           // nil: none
	lineage []RevocationName // of the tokens that are presented, with themselves

	// What the policy said, if it was asked: one of the two.
	grant  policy.Grant
	denial *policy.Denial
	rec    Record // filled as the walk goes, so that a refusal records how far it came
}

// Token decides a request and returns the token, or an error that is an *Error.
//
// Whatever the outcome, it is in the audit record before Token returns. What
// cannot be recorded does not happen.
func (s *Service) Token(ctx context.Context, req TokenRequest) (Token, error) {
	d := s.begin(EventToken, req)
	token, e := s.walk(ctx, d)
	nonce := s.nextNonce(d)
	s.shadow.offer(d)
	// 8. Record. The caller cannot cancel this: the decision has been taken.
	if err := s.record(ctx, d, e); err != nil {
		return Token{}, &Error{
			Code: Unavailable, Decision: d.ids.decision, RetryAfter: retryLater, Nonce: nonce, Err: err,
			Message: "the decision cannot be recorded now and so does not take effect; try again later",
		}
	}
	s.recent.add(d.rec)
	if e != nil {
		e.Decision, e.Nonce = d.ids.decision, nonce
		return Token{}, e
	}
	s.health.worked(CapabilityIssue)
	token.Nonce = nonce
	return token, nil
}

// begin begins the walk of a request.
func (s *Service) begin(event Event, req TokenRequest) *decision {
	d := &decision{req: req, st: s.state.Load(), now: s.now(), ids: newIDs()}
	d.rec = Record{
		Event: event, Time: d.now.UTC(), Decision: d.ids.decision, RequestID: req.Source.RequestID, Peer: req.Source.Peer, Forwarded: req.Source.Forwarded, Revision: d.st.revision,
	}
	d.asked = policy.Request{Now: d.now, SelfIssuer: s.issuer}
	return d
}

// nextNonce is for the next proof of who sends proofs.
func (s *Service) nextNonce(d *decision) string {
	if s.nonces == nil || d.req.Proof == "" {
		return ""
	}
	return s.nonces.next(d.now)
}

// When to come back after something of ours failed: what is said if nothing is
// known, and the longest that is said, since nobody knows an outage so well.
const (
	retryLater = 2 * time.Second
	retryMost  = time.Hour
)

// retryAfter is when to come back, as the error says if it does.
func retryAfter(err error) time.Duration {
	if e, ok := errors.AsType[interface {
		error
		RetryAfter() time.Duration
	}](err); ok && e.RetryAfter() > 0 {
		return min(e.RetryAfter(), retryMost)
	}
	return retryLater
}

// walk takes the steps of DESIGN.md in their order: local and cheap ones first,
// the network next, the signing key last.
func (s *Service) walk(ctx context.Context, d *decision) (Token, *Error) {
	// 0. Not too much.
	if e := s.limits.arrives(d.req.Source, d.now); e != nil {
		return Token{}, e
	}
	// 1. The request itself.
	if e := d.check(); e != nil {
		return Token{}, e
	}
	if e := s.stale(); e != nil {
		return Token{}, e
	}
	// 2. Who asks.
	if e := s.requester(ctx, d); e != nil {
		return Token{}, e
	}
	// 3. Which keys they prove to have.
	if e := s.possession(d); e != nil {
		return Token{}, e
	}
	// 4. On whose behalf.
	if e := s.parties(ctx, d); e != nil {
		e.Detail = d.discloseToken(e)
		return Token{}, e
	}
	if e := d.hashed(); e != nil {
		return Token{}, e
	}
	d.rec.Facts = s.factsOf(d)
	// 5. May they? Only the policy makes a Grant.
	var err error
	d.grant, err = d.st.rules.Decide(ctx, d.asked)
	if e := ctx.Err(); e != nil {
		return Token{}, gone(e) // rules whose expressions were interrupted did not match
	}
	if err != nil {
		return Token{}, d.denied(err)
	}
	d.rec.Facts.Allowed = true
	undo, e := s.limits.quota(d, d.grant)
	if e != nil {
		return Token{}, e
	}
	token, e := s.issue(ctx, d)
	if e != nil {
		undo()
	}
	return token, e
}

// issue takes the last steps, which leave something behind.
func (s *Service) issue(ctx context.Context, d *decision) (Token, *Error) {
	// 6. Once only.
	if e := s.useUp(ctx, d); e != nil {
		return Token{}, e
	}
	if e := s.once(ctx, d); e != nil {
		return Token{}, e
	}
	if e := s.countUses(ctx, d, d.grant); e != nil {
		return Token{}, e
	}
	// 7. Sign what was granted.
	return s.mint(ctx, d, d.grant)
}

// gone is the answer to a caller whose time is up.
func gone(err error) *Error {
	return &Error{Code: Unavailable, RetryAfter: retryLater, Message: "the request was cancelled or took too long", Err: err}
}

// requester authenticates the client. Without a credential the workload itself
// may ask, if its token is of an Issuer that allows it.
func (s *Service) requester(ctx context.Context, d *decision) *Error {
	cred := d.req.Credential
	if cred == (Credential{}) {
		if d.req.Grant == TokenExchange {
			return nil // decided by parties, when the issuer is known
		}
		if len(d.req.Certificates) > 0 {
			return errNotNamed()
		}
		return invalidClientMissing()
	}
	d.rec.AuthMethod = cred.Method
	if _, known := d.st.client(cred.ClientID, d.now); known {
		d.rec.Client = cred.ClientID
	}
	if e := d.parseAssertion(); e != nil {
		return e
	}
	who := d.attempt()
	if wait := s.throttle.wait(who, d.now); wait > 0 {
		e := cred.failure(reason("too many failures in a row for this client from this address: not looked at"))
		e.RetryAfter = wait
		return e
	}
	c, e := s.authenticate(ctx, d)
	if e != nil {
		if e.Code == InvalidClient {
			e.RetryAfter = s.throttle.failed(who, d.now)
		}
		return e
	}
	s.throttle.succeeded(who, d.now)
	if c.grants != nil && d.req.Grant != "" && !slices.Contains(c.grants, d.req.Grant) {
		d.rec.Client = c.Name
		return &Error{Code: UnauthorizedClient, Field: "grant_type", Message: "the client is not registered for this grant_type"}
	}
	s.usage.note(c, d.credential, d.now)
	d.rec.Client = c.Name
	d.asked.Client = &c.party
	return s.limits.asks(d)
}

func invalidClientMissing() *Error {
	return &Error{Code: InvalidClient, Message: "no client authentication; send the client id and secret by the Basic scheme or in the request, or a client_assertion"}
}

// parties verifies the subject and the actor token.
func (s *Service) parties(ctx context.Context, d *decision) *Error {
	if d.req.Grant != TokenExchange {
		return nil
	}
	if d.asked.Client == nil {
		if e := d.selfPresented(s.issuer); e != nil {
			return e
		}
	}
	var e *Error
	if d.asked.Subject, e = s.present(ctx, d, "subject_token", d.req.Subject, &d.rec.Subject); e != nil {
		return e
	}
	if d.asked.Client == nil {
		if e := s.limits.asks(d); e != nil {
			return e
		}
	}
	if d.req.Actor.Token == "" {
		return nil
	}
	d.asked.Actor, e = s.present(ctx, d, "actor_token", d.req.Actor, &d.rec.Actor)
	return e
}

// denied turns a policy denial into an answer: the safe sentence for the caller,
// the reasons for the record.
func (d *decision) denied(err error) *Error {
	denial, ok := errors.AsType[*policy.Denial](err)
	if !ok {
		return &Error{Code: ServerError, Message: "the request could not be decided", Err: err}
	}
	d.denial = denial
	for _, r := range denial.Reasons {
		d.rec.Reasons = append(d.rec.Reasons, RecordReason{Rule: r.Rule, Predicate: r.Predicate, Presented: r.Presented, Expected: r.Expected, Hint: r.Hint})
	}
	return &Error{Code: denialCodes[denial.Code], Message: denial.Message, Err: denial, Detail: d.disclose(denial)}
}

var denialCodes = map[policy.Code]Code{
	policy.InvalidRequest:     InvalidRequest,
	policy.InvalidTarget:      InvalidTarget,
	policy.InvalidScope:       InvalidScope,
	policy.UnauthorizedClient: UnauthorizedClient,
	policy.InvalidProof:       InvalidDPoPProof,
}

// ids are the random names of a decision and of what it issues.
type ids struct{ decision, jti, txn string }

var base32Lower = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// newIDs draws a decision id of 80 bits, short enough to be read out, and token
// and transaction ids of 128 bits.
func newIDs() ids {
	var b [10 + 16 + 16]byte
	rand.Read(b[:])
	return ids{
		decision: base32Lower.EncodeToString(b[:10]),
		jti:      base64.RawURLEncoding.EncodeToString(b[10:26]),
		txn:      base64.RawURLEncoding.EncodeToString(b[26:]),
	}
}
