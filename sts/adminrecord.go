package sts

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Refused calls of the admin interface are recorded up to a rate: anybody can make
// them. What was left out is counted in the next one.
const (
	refusalsPerSecond = 1
	refusalsAtOnce    = 20
)

// refusals are the calls that were refused and not recorded yet.
type refusals struct {
	*rate.Limiter
	left atomic.Int64
}

func newRefusals() *refusals {
	return &refusals{Limiter: rate.NewLimiter(refusalsPerSecond, refusalsAtOnce)}
}

// RefusedAdmin records that a call of the admin interface was refused to by, or to
// somebody who is not known. Nothing takes effect, so that it may fail.
func (s *Service) RefusedAdmin(ctx context.Context, by Principal, from Source, action string, why *Error) {
	if !s.refusals.AllowN(s.now(), 1) {
		s.refusals.left.Add(1)
		return
	}
	rec := &Record{
		Event: EventAdmin, Outcome: outcomeDeny, RequestID: from.RequestID, Peer: from.Peer, Forwarded: from.Forwarded, Error: why.Code, Reason: why.Message,
		Admin: &RecordAdmin{Action: action, By: by, Suppressed: s.refusals.left.Swap(0)},
	}
	if why.Err != nil {
		rec.Reason += ": " + why.Err.Error()
	}
	_ = s.recordEvent(ctx, rec)
}

// administer has something done that is recorded before, and, if it fails, after.
// The record comes first, because what was done and is not recorded cannot be found;
// that a record tells of what did not happen, the second one says.
func (s *Service) administer(ctx context.Context, by Principal, action, target string, do func() error) error {
	rec := &Record{Event: EventAdmin, Outcome: outcomeAllow, Peer: by.Peer, Admin: &RecordAdmin{Action: action, Target: target, By: by}}
	if err := s.recordEvent(ctx, rec); err != nil {
		return err
	}
	err := do()
	if err == nil {
		return nil
	}
	_ = s.recordEvent(ctx, denial(rec, err)) // what is said is why it was not done
	return err
}

// denial is the record of what was not done after all, or may not have been.
func denial(rec *Record, err error) *Record {
	failed := *rec
	failed.Time, failed.Outcome = time.Time{}, outcomeDeny
	if e, ok := errors.AsType[*Error](err); ok {
		failed.Error, failed.Reason = e.Code, e.Message
		if e.Err != nil {
			failed.Reason += ": " + e.Err.Error()
		}
	}
	return &failed
}
