package sts

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// failureCheck is how often Run looks whether the store and the audit log can
// still work, and how long it leaves a store alone that did not answer.
const failureCheck = time.Second

// Run keeps the Service at what is in the store until ctx ends, or returns why the
// store or the audit log cannot work until the process starts anew.
func (s *Service) Run(ctx context.Context) error {
	// At the end what is not written yet, while the store still works.
	defer s.renewRegistrations(context.WithoutCancel(ctx))
	defer s.saveUsage(context.WithoutCancel(ctx), true)
	defer s.tellSuppressed(context.WithoutCancel(ctx), true)
	defer s.tellEnded(context.WithoutCancel(ctx))
	defer s.tellLate(ctx)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.watchFailures(ctx) })
	g.Go(func() error { s.follow(ctx); return nil })
	g.Go(func() error { s.shadow.run(ctx); return nil })
	return g.Wait()
}

// watchFailures returns what is for good, nil when ctx ends.
func (s *Service) watchFailures(ctx context.Context) error {
	check := time.NewTicker(failureCheck)
	defer check.Stop()
	for {
		if s.saveUsage(ctx, false) {
			s.renewRegistrations(ctx)
		}
		s.tellSuppressed(ctx, false)
		s.tellLate(ctx)
		s.tellEnded(ctx)
		if failed := errors.Join(s.audit.Err(), s.store.Err(), s.replay.Err()); failed != nil && ctx.Err() == nil {
			return failed
		}
		select {
		case <-ctx.Done():
			return nil
		case <-check.C:
		}
	}
}

// follow takes over what is put in force in the store, until ctx ends.
func (s *Service) follow(ctx context.Context) {
	for {
		err := s.store.Follow(ctx, func(h Heads) error { return s.caughtUp(ctx, h) })
		if ctx.Err() != nil {
			return
		}
		s.health.failed(CapabilityAdmin, s.now(), DependencyStorage, err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(failureCheck):
		}
	}
}

// caughtUp reloads if something else is in force than what is here, and takes down
// when the store has confirmed that it is the same.
func (s *Service) caughtUp(ctx context.Context, h Heads) error {
	if h.Live > s.state.Load().revision || h.Shadow != s.shadow.number() {
		if err := s.reload(ctx); err != nil {
			return err
		}
	}
	// A store that has less than it had was put back. Nobody knows what is missing
	// in it, so that confirms nothing.
	if s.state.Load().revision == h.Live {
		s.confirmed.Store(&h.Confirmed)
	}
	return nil
}

// reload takes over what is in the store.
func (s *Service) reload(ctx context.Context) error {
	s.replace.Lock()
	defer s.replace.Unlock()
	asked := time.Now()
	live, err := s.store.Load(ctx, Place{Line: Live})
	if err != nil {
		return fmt.Errorf("loading resources: %w", err)
	}
	st := s.state.Load()
	if st == nil || live.Number > st.revision {
		next, problems := s.newState(byRef(live.Resources), live.Number, st)
		if len(problems) > 0 {
			return fmt.Errorf("the stored resources at revision %d do not fit together: %w", live.Number, joined(problems))
		}
		s.install(next)
	}
	if st == nil {
		s.confirmed.Store(&asked)
	}
	return s.reloadShadow(ctx)
}

func byRef(list []Resource) map[Ref]Resource {
	resources := make(map[Ref]Resource, len(list))
	for _, r := range list {
		resources[r.Ref()] = r
	}
	return resources
}

func joined(problems []Problem) error {
	var all error
	for _, p := range problems {
		all = errors.Join(all, fmt.Errorf("%s: %s: %s", p.Ref, p.Field, p.Message))
	}
	return all
}

// Staleness is how long ago the store confirmed last that the resources here, and
// what is revoked, are what is in force: by the clock that always goes forward, or
// by the other one if that says more, as after a machine has slept.
func (s *Service) Staleness() time.Duration {
	then, now := *s.confirmed.Load(), time.Now()
	if revoked := s.revocations.Confirmed(); revoked.Before(then) {
		then = revoked
	}
	if s.registry.store != nil {
		if registered := s.registry.store.Confirmed(); registered.Before(then) {
			then = registered
		}
	}
	return max(now.Sub(then), now.Round(0).Sub(then.Round(0)), 0)
}

// stale refuses to go on by what may not be in force any more.
func (s *Service) stale() *Error {
	age := s.Staleness()
	if s.maxStaleness == 0 || age <= s.maxStaleness {
		return nil
	}
	return &Error{
		Code: Unavailable, RetryAfter: retryLater,
		Message: "this service has not heard from its storage for too long to know what is in force; try again later",
		Err:     &staleError{age.Round(time.Second), s.maxStaleness},
	}
}

type staleError struct{ age, most time.Duration }

func (e *staleError) Error() string {
	return fmt.Sprintf("the storage has not confirmed what is in force for %s, at most %s is allowed (storage.max_staleness)", e.age, e.most)
}

func (e *staleError) Dependency() string { return DependencyStorage }
