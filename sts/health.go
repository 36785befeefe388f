package sts

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// Capability is something that the service can or cannot do at the moment.
type Capability string

// The capabilities, each of which depends on other things outside.
const (
	CapabilityIssue  Capability = "issue"  // needs a signing key and the audit log
	CapabilityVerify Capability = "verify" // discovery and JWKS; needs the store, but not for long
	CapabilityAdmin  Capability = "admin"  // needs the store
)

// What a capability can lack, if nothing more exact is known.
const (
	DependencySigningKey = "signing key"
	DependencyAudit      = "audit log"
	DependencyStorage    = "storage"
	DependencyReplay     = "replay store"
)

// Missing says why a capability is not available.
type Missing struct {
	Dependency string // what it lacks, in a word that anybody may know: vault, storage, audit log, signing key
	Err        error  // why, for the operator
}

// failureCounts is how long a failure makes a capability not ready, if nothing
// works in between. After that only another failure does, so that a node without
// traffic finds out that its dependency is back.
const failureCounts = 5 * time.Second

// health remembers the last failure of each capability that has not worked since.
type health struct {
	issue, admin atomic.Pointer[failure]
}

type failure struct {
	at time.Time
	Missing
}

func (h *health) of(c Capability) *atomic.Pointer[failure] {
	if c == CapabilityIssue {
		return &h.issue
	}
	return &h.admin
}

// failed takes what is missing if the error does not name it by itself.
func (h *health) failed(c Capability, now time.Time, dependency string, err error) {
	h.of(c).Store(&failure{now, missing(dependency, err)})
}

// worked says that nothing is missing any more.
func (h *health) worked(c Capability) {
	if p := h.of(c); p.Load() != nil { // as a rule there is nothing to write
		p.Store(nil)
	}
}

func missing(dependency string, err error) Missing {
	if e, ok := errors.AsType[interface {
		error
		Dependency() string
	}](err); ok && e.Dependency() != "" {
		dependency = e.Dependency()
	}
	return Missing{dependency, err}
}

// Ready tells for each capability why it is not available, nil if it is. The keys
// are asked, so that it does not take a request to find out that they are gone,
// or back.
func (s *Service) Ready(context.Context) map[Capability]*Missing {
	now := s.now()
	out := map[Capability]*Missing{CapabilityIssue: nil, CapabilityVerify: nil, CapabilityAdmin: nil}
	for _, c := range []Capability{CapabilityIssue, CapabilityAdmin} {
		if f := s.health.of(c).Load(); f != nil && now.Sub(f.at) < failureCounts {
			out[c] = &f.Missing
		}
	}
	if err := s.keys.Ready(); err != nil {
		m := missing(DependencySigningKey, err)
		out[CapabilityIssue] = &m
	}
	if s.keys.MaxAge() <= 0 {
		out[CapabilityVerify] = &Missing{DependencyStorage, errStaleKeySet}
	}
	if e := s.stale(); e != nil {
		m := &Missing{DependencyStorage, e.Err}
		out[CapabilityIssue], out[CapabilityAdmin] = m, m
	}
	// These are for good.
	if err := s.replay.Err(); err != nil {
		out[CapabilityIssue] = &Missing{DependencyReplay, err}
	}
	if err := s.audit.Err(); err != nil {
		out[CapabilityIssue] = &Missing{DependencyAudit, err}
	}
	if err := s.store.Err(); err != nil {
		out[CapabilityAdmin] = &Missing{DependencyStorage, err}
	}
	return out
}

var errStaleKeySet = errors.New("the store has not answered for so long that another node may sign with a key that is not in the key set here")
