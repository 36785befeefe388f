package keys

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// keySet is what this node knows of one configured set besides the state.
type keySet struct {
	SetConfig
	making sync.Mutex    // held while the next key is made
	wake   chan struct{} // something is to be done

	mu        sync.Mutex        // guards what follows
	signers   map[string]signer // by kid
	unusable  map[string]error  // by kid: what the provider will not sign with
	problems  problems
	inspected time.Time // when the provider was asked last
	notMadeAt time.Time // when it was last tried in vain to make the next key
	past      tally     // of signers that are closed
}

// poke makes maintain look at a set now.
func (s *keySet) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// note remembers what is wrong with a set, or that it is not any more, and tells
// the log when that is news.
func (r *Ring) note(s *keySet, what problem, err error) {
	s.mu.Lock()
	before := s.problems.errs[what]
	s.problems.errs[what] = err
	s.mu.Unlock()
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()):
		r.c.Log.Error("signing keys", "key_set", s.Name, "error", err)
	case err == nil && before != nil:
		r.c.Log.Info("signing keys: mended", "key_set", s.Name, "was", before)
	}
}

// failing tells whether something is to be tried again soon.
func (s *keySet) failing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.problems.errs[:], func(err error) bool { return err != nil }) || len(s.unusable) > 0
}

// nextInspection is how long it is until the provider is to be asked again.
func (s *keySet) nextInspection(now time.Time, every time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(every-now.Sub(s.inspected).Abs(), 0)
}

// notMade notes that the next key could not be made. It may have been made all the
// same, so the next inspection is due.
func (s *keySet) notMade(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notMadeAt, s.inspected = at, time.Time{}
}

// notMadeLast returns when it was last tried in vain to make the next key, and why
// it cannot be made as far as is known.
func (s *keySet) notMadeLast() (time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.notMadeAt, s.problems.errs[problemCreate]
}

// inspect asks the provider what has become of the keys, and returns a key that
// it has and the set has not.
func (r *Ring) inspect(ctx context.Context, s *keySet) (*storedKey, error) {
	now := r.c.Now()
	found, err := s.Provider.inspect(ctx, s.SetConfig, r.at(now).lines[s.Name])
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inspected = now
	if err != nil {
		return nil, fmt.Errorf("looking after the keys of key set %q: %w", s.Name, err)
	}
	for kid, why := range found.unusable {
		if s.unusable[kid] == nil {
			r.c.Log.Error("a signing key cannot be used any more", "key_set", s.Name, "kid", kid, "error", why)
		}
	}
	for _, w := range found.warnings {
		if !slices.Contains(s.problems.warnings, w) {
			r.c.Log.Warn("signing keys", "key_set", s.Name, "warning", w)
		}
	}
	s.unusable, s.problems.warnings = found.unusable, found.warnings
	return found.newer, nil
}

// openSigners opens what the keys that sign, and will sign, are used with, and
// lets go of what is not used any more. The error joins those of all keys.
func (r *Ring) openSigners(ctx context.Context, s *keySet) error {
	now := r.c.Now()
	wanted := map[string]bool{}
	var errs []error
	for _, p := range r.at(now).lines[s.Name] {
		switch p.role {
		case Next, Current:
			wanted[p.ID] = true
			if err := s.openSigner(ctx, p.storedKey); err != nil {
				errs = append(errs, err)
			}
		case Previous:
			// Signatures under way end first.
			wanted[p.ID] = now.Before(p.ends.Add(forgetAfter - r.c.Schedule.Retain))
		}
	}
	s.mu.Lock()
	var idle []signer
	for kid, sg := range s.signers {
		if !wanted[kid] {
			idle = append(idle, sg)
			s.past.add(sg)
			delete(s.signers, kid)
		}
	}
	s.mu.Unlock()
	for _, sg := range idle {
		sg.Close()
	}
	return errors.Join(errs...)
}

func (s *keySet) openSigner(ctx context.Context, k storedKey) error {
	s.mu.Lock()
	_, open := s.signers[k.ID]
	s.mu.Unlock()
	if open {
		return nil
	}
	sg, err := s.Provider.open(ctx, k)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signers[k.ID] = sg
	return nil
}
