package keys

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
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
// verified with them, and after a pause before they are used again. One issuer's
// trouble is not another's.
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
// Those of an API server that reviews tokens are to be had if its Review says so.
func (r *Remote) Key(ctx context.Context, issuer, kid string, alg jose.Algorithm) (jose.Key, error) {
	s, ok := r.source(issuer)
	if ok && s.Kind() == ByReview {
		s, ok = s.local, s.local != nil
	}
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
