package sts

import (
	"context"
	"errors"
	"time"
)

// use is one use of something that may be used once.
type use struct {
	what         string // what it is called, in answers
	space        ReplaySpace
	key          string
	owner        string // out of whose share it comes: a client, or the Issuer of a workload
	since, until time.Time
}

// replayKey is the key of an id that somebody chose, who has no NUL in its name,
// so that nobody can use up the ids of others.
func replayKey(owner, id string) string { return owner + "\x00" + id }

// clientShare and issuerShare name owners. No two are the same: the name of an
// Issuer has no colon.
func clientShare(client string) string { return "client:" + client }
func issuerShare(issuer string) string { return "issuer:" + issuer }

// spend uses something up, and reports whether this is the first use. Of what is
// used first and not spent after all, the use stays.
func (s *Service) spend(ctx context.Context, u use) (bool, *Error) {
	if wait := s.shares.take(u.owner, s.now(), u.until); wait > 0 {
		return false, tooMany(LimitSingleUse, "more single uses of this client are remembered than its share", wait)
	}
	fresh, err := s.replay.Use(ctx, u.space, u.key, u.since, u.until)
	switch e := ctx.Err(); {
	case err == nil && !fresh:
		s.shares.giveBack(u.owner, u.until)
		return false, nil
	case err == nil:
		return true, nil
	case e != nil: // a caller that went away says nothing about the store
		return false, gone(e)
	case errors.Is(err, ErrForgotten):
		return false, &Error{
			Code: Unavailable, RetryAfter: retryAfter(err), Err: err,
			Message: "it is not known whether the " + u.what + " was used before, since this service has lost its memory of that in a crash; make a new one after the time to wait",
		}
	}
	s.health.failed(CapabilityIssue, s.now(), DependencyReplay, err)
	return false, &Error{
		Code: Unavailable, RetryAfter: retryAfter(err), Err: err,
		Message: "it cannot be told now whether the " + u.what + " was used before; make a new one and try again later",
	}
}

// useOnce refuses an assertion that was used before.
func (s *Service) useOnce(ctx context.Context, u use) *Error {
	u.what = "client_assertion"
	fresh, e := s.spend(ctx, u)
	if e != nil || fresh {
		return e
	}
	return &Error{
		Code: InvalidClient, Message: "client authentication failed: the client_assertion was used before; make a new one for each request",
		Err: &mismatch{RecordReason: RecordReason{Predicate: slotAssertion + ".jti", Presented: "used before", Expected: "a new one"}},
	}
}
