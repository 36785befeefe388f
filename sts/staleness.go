package sts

import (
	"fmt"
	"time"
)

// defaultMaxStaleness bounds how long a node believes what it knows without
// hearing from the store.
const defaultMaxStaleness = 30 * time.Second

// current refuses when what is known here may be out of date: what has been
// revoked since is not known, so nothing is issued, exchanged or found active.
func (s *Service) current(now time.Time) *Error {
	err := s.stale(now)
	if err == nil {
		return nil
	}
	s.health.failed(CapabilityIssue, now, DependencyStorage, err)
	return &Error{Code: Unavailable, RetryAfter: retryLater, Message: "this node has not heard from its storage for too long to know what counts; try again later, or another node", Err: err}
}

// stale says why what is known here does not count any more, nil while it does.
func (s *Service) stale(now time.Time) error {
	if age := age(now, s.revocations.Confirmed()); age > s.maxStaleness {
		return fmt.Errorf("what is revoked was last confirmed with the store %s ago, at most %s ago will do", age.Round(time.Millisecond), s.maxStaleness)
	}
	return nil
}

// age is by the clock of the process and by that of the machine, whichever says
// more: the first stands still while a machine is suspended, the other can be put
// back.
func age(now, then time.Time) time.Duration {
	return max(now.Sub(then), now.Round(0).Sub(then.Round(0)))
}
