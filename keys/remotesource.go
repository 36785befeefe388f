package keys

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/workload-sts/sts/jose"
)

// remoteSource is what is known of one issuer.
type remoteSource struct {
	Source
	name   string
	client interface {
		httpDoer
		CloseIdleConnections()
	}
	reviews *reviews      // of a source ByReview, else nil
	local   *remoteSource // the keys of an API server, if they are to be had; else nil
	counts  *counts

	mu         sync.Mutex
	keys       jose.KeySet
	sequence   int64 // of a SPIFFE bundle
	validators validators
	age        time.Duration // how long the keys were said to last
	fetched    time.Time     // when they were fetched
	refresh    time.Time     // when to ask again, ahead of the end of the keys' life
	stale      time.Time     // when the keys are not used any more
	attempted  time.Time     // when the issuer was asked last
	err        error         // of that attempt
	fetching   chan struct{} // closed when the attempt under way ends; nil: none
	awaited    bool          // that attempt is the first since the keys were past their end
}

// counts are attempts at one issuer since the start, whatever its source was.
type counts struct{ ok, failed atomic.Uint64 }

func newSource(r *Remote, name string, s Source) (*remoteSource, error) {
	out := &remoteSource{Source: s, name: name, counts: &counts{}}
	if s.Kind() == Inline {
		keys, _, err := jose.ParseKeySet([]byte(s.JWKS))
		out.keys, out.fetched = keys, r.c.Now()
		return out, err
	}
	client, err := newHTTPClient(s, r.c.Resolver)
	if err != nil {
		return nil, err
	}
	out.client = client
	if s.Kind() == ByReview {
		out.reviews = newReviews(client)
	}
	if s.Review.Keys {
		out.local = &remoteSource{Source: s.keys(), name: name, client: reviewClient{r, out}, counts: out.counts}
	}
	return out, nil
}

func (s *remoteSource) close() {
	if s.client != nil {
		s.client.CloseIdleConnections()
	}
	if s.reviews != nil {
		s.reviews.close()
	}
}

// watch reads a file whose turn it is, without waiting for that. Elsewhere it
// does nothing: nobody is asked before a token needs it.
func (s *remoteSource) watch(r *Remote) {
	if s.file() == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := r.c.Now(); !now.Before(s.refresh) {
		s.start(r, now)
	}
}

// cooldown is the least time between attempts.
func (s *remoteSource) cooldown(r *Remote) time.Duration {
	if s.file() != "" {
		return min(fileCooldown, r.c.Cooldown)
	}
	return r.c.Cooldown
}

// hinted is how long a bundle that has not changed was said to last.
func (s *remoteSource) hinted() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.age
}

// lookup answers from memory, or returns what to wait for before asking again.
func (s *remoteSource) lookup(r *Remote, kid string, alg jose.Algorithm) (jose.Key, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := r.c.Now()
	fixed := s.Kind() == Inline
	usable := s.keys.Len() > 0 && (fixed || now.Before(s.stale))
	if usable {
		if key, ok := s.find(kid, alg); ok {
			if !fixed && !now.Before(s.refresh) {
				s.start(r, now)
			}
			if s.fetching != nil && s.awaited {
				return jose.Key{}, s.fetching, nil
			}
			return key, nil, nil
		}
		if fixed {
			return jose.Key{}, nil, jose.ErrUnknownKey
		}
		if kid == "" {
			return jose.Key{}, nil, fmt.Errorf("%w: the token names none", jose.ErrUnknownKey)
		}
	}
	if s.fetching == nil {
		s.start(r, now)
	}
	switch {
	case s.fetching != nil:
		return jose.Key{}, s.fetching, nil
	case usable && s.err == nil:
		return jose.Key{}, nil, jose.ErrUnknownKey
	case s.err != nil: // the issuer may have a key that we could not be told of
		return jose.Key{}, nil, fmt.Errorf("the keys of issuer %q: %w", s.name, s.err)
	default:
		return jose.Key{}, nil, errClosed
	}
}

// find looks a key up by its id. A token without one is verified only with the
// one key that fits, and only if the source says so.
func (s *remoteSource) find(kid string, alg jose.Algorithm) (jose.Key, bool) {
	if kid != "" {
		return s.keys.Key(kid)
	}
	var found jose.Key
	n := 0
	for k := range s.keys.All() {
		if alg.Fits(k.Public) == nil && (k.Algorithm == "" || k.Algorithm == alg) {
			found = k
			n++
		}
	}
	return found, n == 1 && s.AllowMissingKID
}

// start begins an attempt unless one is under way or the last one was a moment
// ago. Failed attempts count too: a flood of unknown key ids costs an issuer that
// is down no more than one that is up.
func (s *remoteSource) start(r *Remote, now time.Time) {
	if s.fetching != nil || !s.attempted.IsZero() && now.Before(s.attempted.Add(s.cooldown(r))) {
		return
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.closed {
		return
	}
	done := make(chan struct{})
	// After a pause the keys may have been withdrawn long ago, so they are not used
	// again before somebody has asked. Keys in use are asked for ahead of that, and
	// while they cannot be had, often enough for nobody to wait.
	s.awaited = now.Sub(s.attempted) >= s.age
	s.fetching, s.attempted = done, now
	r.wg.Go(func() {
		defer close(done)
		got, err := s.fetch(r)
		if err = s.take(r, got, err); err != nil {
			s.counts.failed.Add(1)
		} else {
			s.counts.ok.Add(1)
		}
		r.c.OnFetch(s.name, err, got.skipped)
	})
}

// take ends an attempt: what was fetched counts from now on, unless it is older
// than what there is.
func (s *remoteSource) take(r *Remote, got fetched, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := r.c.Now()
	if err == nil && got.sequence > 0 && got.sequence < s.sequence && at.Before(s.stale) {
		err = fmt.Errorf("its bundle has sequence %d, which is older than %d that was there before; it is taken if it stays so until %s", got.sequence, s.sequence, s.stale.UTC().Format(time.RFC3339))
	}
	s.fetching, s.err = nil, err
	if err != nil {
		return err // the keys from before are used until they are stale
	}
	if !got.notModified {
		s.keys, s.sequence, s.validators = got.keys, got.sequence, got.validators
	}
	s.age, s.fetched = got.maxAge, at
	// Ahead of the end, and not all nodes at once.
	s.refresh = at.Add(got.maxAge*3/4 - rand.N(got.maxAge/8))
	s.stale = at.Add(got.maxAge + r.c.MaxStale)
	return nil
}
