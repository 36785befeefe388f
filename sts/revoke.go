package sts

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/workload-sts/sts/policy"
)

// Bounds of a revocation.
const (
	maxReason      = 255
	maxBeforeAhead = time.Minute // how far in the future tokens may be revoked that are issued until then
)

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
// revocation is durable, in force here, and recorded unless it says otherwise. An
// error is an *Error; one of code Unavailable leaves it open whether it is in
// force.
func (s *Service) Revoke(ctx context.Context, by Principal, req Revoke) (RevokeDone, error) {
	d := s.begin(EventRevoke, TokenRequest{Source: Source{Peer: by.Peer}})
	d.rec.Outcome, d.rec.Admin = outcomeAllow, &RecordAdmin{Action: "revoke", By: by}
	r, e := s.prepare(ctx, d, req)
	d.rec.Subject = named(d.rec.Subject, req.Token)
	if e != nil {
		e.Decision = d.ids.decision
		denied := denial(&d.rec, e)
		if err := s.recordEvent(ctx, denied); err != nil {
			return RevokeDone{}, err
		}
		return RevokeDone{}, e
	}
	r.Created, r.By, r.Reason = d.now.UTC(), by.Name, req.Reason
	d.rec.Revocation = &r
	done := RevokeDone{Decision: d.ids.decision}
	e, done.Unrecorded = s.takeAway(ctx, &d.rec, func() (e *Error) {
		done.Revocation, done.Key, e = s.carryOut(ctx, r)
		return e
	})
	if e != nil {
		e.Decision = d.ids.decision
		return RevokeDone{}, e
	}
	return done, nil
}

// RevokeDone says what is in force.
type RevokeDone struct {
	Decision   string // id of the record
	Revocation Revocation
	Key        KeyRevocation // what became of the key set, of a key of ours
	Unrecorded error         // why it is not in the audit log yet; nil: it is
}

// carryOut makes a revocation. That of a key of ours takes it out of the published
// set as well: whoever has it can sign at any time.
func (s *Service) carryOut(ctx context.Context, r Revocation) (done Revocation, key KeyRevocation, e *Error) {
	if r.Kind == RevokeKey && r.Issuer == policy.Self {
		var err error
		if key, err = s.keys.Revoke(ctx, r.Value); err != nil {
			return r, key, keysError(err, "the key may or may not have been revoked; look before you try again")
		}
	}
	done, e = s.add(ctx, r)
	return done, key, e
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
			return refuse(NotFound, "value", "there is no client of this name; what was issued to one that was deleted does not count anyway, and what others got for its tokens is revoked by the subject of this name")
		}
	case RevokeIssuer:
		if _, ok := st.resources[Ref{KindIssuer, r.Value}]; !ok {
			return refuse(NotFound, "value", "there is no Issuer of this name; tokens of one that was deleted and of its workloads do not count anyway; to revoke what clients got for them, apply the Issuer again, without rules, and revoke it then")
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
	rec := s.eventRecord(&Record{Event: EventRevoke, Outcome: outcomeAllow, Revocation: &r})
	e, _ := s.takeAway(ctx, rec, func() *Error {
		_, e := s.add(ctx, r)
		return e
	})
	if e != nil {
		return e
	}
	return nil
}
