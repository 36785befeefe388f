package keys

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/workload-sts/sts/jose"
)

// RemoteConfig bounds how the keys of trusted issuers are fetched. Zero members
// have the defaults named.
type RemoteConfig struct {
	FetchTimeout time.Duration // for discovery and keys together; 5s
	MaxBody      int64         // of each answer; 256 KiB
	Cooldown     time.Duration // between attempts at one issuer; 30s
	MaxStale     time.Duration // how long keys are used after they should have been refreshed; 1h
	Now          func() time.Time
	Resolver     *net.Resolver // nil: the system's
	// OnFetch is told of every attempt that ends; err is nil if it succeeded, and
	// skipped says which keys of the set cannot be used.
	OnFetch func(issuer string, err error, skipped []error)
}

// Remote finds the keys of trusted issuers. It asks an issuer only when a token
// needs its keys, at most once at a time and once in a cool-down, whoever asks
// and however often; keys in use are renewed ahead of their end while tokens are
// verified with them. One issuer's trouble is not another's.
//
// There is no memory of key ids that an issuer does not have, which anybody could
// fill: the cool-down alone bounds what they cost.
type Remote struct {
	c      RemoteConfig
	ctx    context.Context // of fetches, which belong to no request
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.RWMutex
	sources map[string]*remoteSource
	closed  bool
}

// NewRemote returns a Remote without issuers. Close it to end its fetches.
func NewRemote(c RemoteConfig) *Remote {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.FetchTimeout, 5*time.Second)
	def(&c.Cooldown, 30*time.Second)
	def(&c.MaxStale, time.Hour)
	if c.MaxBody == 0 {
		c.MaxBody = 256 << 10
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.OnFetch == nil {
		c.OnFetch = func(string, error, []error) {}
	}
	r := &Remote{c: c, sources: map[string]*remoteSource{}}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// Configure replaces the issuers that can be asked for. Issuers whose source is
// the same keep their keys. It does not wait for the network. Sources must have
// passed [Source.Check].
func (r *Remote) Configure(sources map[string]Source) error {
	fresh, err := r.replace(sources)
	for _, s := range fresh {
		s.watch(r)
	}
	return err
}

func (r *Remote) replace(sources map[string]Source) (fresh []*remoteSource, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := make(map[string]*remoteSource, len(sources))
	for name, s := range sources {
		old, ok := r.sources[name]
		if ok && old.equal(s) {
			next[name] = old
			continue
		}
		made, err := newSource(r, name, s)
		if err != nil {
			return nil, fmt.Errorf("issuer %q: %w", name, err)
		}
		if ok {
			made.counts = old.counts
		}
		next[name] = made
		fresh = append(fresh, made)
	}
	for name, old := range r.sources {
		if next[name] != old {
			old.close()
		}
	}
	r.sources = next
	return fresh, nil
}

// Close ends fetches and waits for them.
func (r *Remote) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.wg.Wait()
	for _, s := range r.sources {
		s.close()
	}
}

var (
	errNotConfigured = errors.New("no such issuer is configured")
	errClosed        = errors.New("the server is stopping")
)

// Key returns the key that an issuer publishes under an id, for a token with a
// signature algorithm.
//
// A known key comes from memory. Otherwise the issuer is asked, once for all who
// wait, unless it was asked a moment ago. An error that is jose.ErrUnknownKey
// says that the issuer has no such key; any other, that it could not be asked.
func (r *Remote) Key(ctx context.Context, issuer, kid string, alg jose.Algorithm) (jose.Key, error) {
	s, ok := r.source(issuer)
	if !ok {
		return jose.Key{}, errNotConfigured
	}
	for {
		key, waitFor, err := s.lookup(r, kid, alg)
		if waitFor == nil {
			return key, err
		}
		// What ends may have begun before the keys were missed; then there is one more
		// attempt, and after that the cool-down.
		select {
		case <-waitFor:
		case <-ctx.Done():
			return jose.Key{}, fmt.Errorf("waiting for the keys of issuer %q: %w", issuer, ctx.Err())
		}
	}
}

func (r *Remote) source(issuer string) (*remoteSource, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	s, ok := r.sources[issuer]
	return s, ok
}

// remoteSource is what is known of one issuer.
type remoteSource struct {
	Source
	name   string
	client interface {
		httpDoer
		CloseIdleConnections()
	}
	reviews *reviews // of a source ByReview, else nil
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
