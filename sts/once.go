package sts

import (
	"context"
	"errors"
	"time"
)

// use is one use of something that may be used once.
type use struct {
	space        ReplaySpace
	key          string
	since, until time.Time
}

// replayKey is the key of an id that somebody chose, who has no NUL in its name,
// so that nobody can use up the ids of others.
func replayKey(owner, id string) string { return owner + "\x00" + id }

// useOnce refuses an assertion that was used before.
func (s *Service) useOnce(ctx context.Context, u use) *Error {
	fresh, err := s.replay.Use(ctx, u.space, u.key, u.since, u.until)
	switch {
	case err == nil && fresh:
		return nil
	case err == nil:
		return &Error{
			Code: InvalidClient, Message: "client authentication failed: the client_assertion was used before; make a new one for each request",
			Err: &mismatch{RecordReason: RecordReason{Predicate: slotAssertion + ".jti", Presented: "used before", Expected: "a new one"}},
		}
	case errors.Is(err, ErrForgotten):
		return &Error{
			Code: Unavailable, RetryAfter: retryAfter(err), Err: err,
			Message: "it is not known whether the client_assertion was used before, since this service has lost its memory of that in a crash; make a new one after the time to wait",
		}
	default:
		// A caller that went away says nothing about the store.
		if ctx.Err() == nil {
			s.health.failed(CapabilityIssue, s.now(), DependencyReplay, err)
		}
		return &Error{
			Code: Unavailable, RetryAfter: retryAfter(err), Err: err,
			Message: "the use of the client_assertion cannot be written down now; make a new one and try again later",
		}
	}
}
