package sts

import (
	"context"
	"sync"
	"time"
)

// Capability is something that the service can or cannot do at the moment.
type Capability string

// The capabilities, each of which depends on other things outside.
const (
	CapabilityIssue  Capability = "issue"  // needs a signing key and the audit log
	CapabilityVerify Capability = "verify" // discovery and JWKS; needs nothing
	CapabilityAdmin  Capability = "admin"  // needs the store
)

// failureCounts is how long a failure makes a capability not ready. After that
// only another failure does, so that a node without traffic finds out that its
// dependency is back.
const failureCounts = 5 * time.Second

// health remembers the last failure of each capability.
type health struct {
	mu   sync.Mutex
	last map[Capability]failure
}

type failure struct {
	at  time.Time
	err error
}

func (h *health) failed(c Capability, now time.Time, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.last == nil {
		h.last = map[Capability]failure{}
	}
	h.last[c] = failure{now, err}
}

// Ready tells for each capability why it is not available, nil if it is.
func (s *Service) Ready(context.Context) map[Capability]error {
	now := s.now()
	out := map[Capability]error{CapabilityIssue: nil, CapabilityVerify: nil, CapabilityAdmin: nil}
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	for c, f := range s.health.last {
		if now.Sub(f.at) < failureCounts {
			out[c] = f.err
		}
	}
	if err := s.audit.Err(); err != nil {
		out[CapabilityIssue] = err
	}
	if err := s.store.Err(); err != nil {
		out[CapabilityAdmin] = err
	}
	return out
}
