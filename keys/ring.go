// Package keys looks after the keys that sign our tokens, wherever their private
// halves are, and finds the keys that sign the tokens of trusted issuers.
package keys

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/workload-sts/sts/jose"
)

// Store keeps the state of the keys, opaque, by name.
type Store interface {
	// Load returns the state and its revision; nil and 0 if there is none.
	Load(ctx context.Context, name string) (data []byte, revision int64, err error)
	// Swap replaces the state if its revision is still the one given; done tells
	// whether it was. After an error the state may be the old or the new one.
	Swap(ctx context.Context, name string, revision int64, data []byte) (next int64, done bool, err error)
	// Changed returns when the revision of the state is above after, or with the
	// error of ctx.
	Changed(ctx context.Context, name string, after int64) error
}

// SetConfig describes a key set: a name, what it signs with, and who holds the
// private keys.
type SetConfig struct {
	Name      string
	Algorithm jose.Algorithm // of keys that are made from now on
	Provider  Provider
}

// Config is what a Ring is made of. All members but Now are required.
type Config struct {
	Store    Store
	Sets     []SetConfig
	Schedule Schedule
	Log      *slog.Logger
	Now      func() time.Time // default time.Now
}

// Ring is the keys of all sets of a service: for each set one that signs, and all
// that are published. It can be used concurrently.
//
// Any number of nodes may have a Ring on one store: they sign with the same keys
// at the same time, and publish the same set.
type Ring struct {
	c         Config
	sets      map[string]*keySet
	maxStale  time.Duration
	view      atomic.Pointer[view]
	confirmed atomic.Pointer[time.Time] // when the state was last known to be the stored one
	evidence  evidence

	mu       sync.Mutex // guards what follows
	state    state
	revision int64
	roles    map[string]Role // of all keys, as last told to the log
}

// Errors of operators' requests.
var (
	ErrUnknownSet = errors.New("no such key set")
	ErrUnknownKey = errors.New("no such key")
)

// maxStaleness is how long a node signs without hearing from the store. What it
// missed in that time is at most a revocation.
const maxStaleness = 30 * time.Second

// Open returns the Ring of the keys in the store. If there are none at all, it
// makes the first key of each set; of several nodes that begin at once, one does
// and all use its keys.
//
// It never overwrites: keys that cannot be read, or that the configured providers
// cannot use, are an error. A provider that cannot be reached is one only if the
// first keys are needed from it; else what is published is served, and signing
// waits.
func Open(ctx context.Context, c Config) (*Ring, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	r := &Ring{
		c: c, sets: map[string]*keySet{}, roles: map[string]Role{}, evidence: newEvidence(),
		maxStale: min(maxStaleness, c.Schedule.PublishAhead-c.Schedule.Skew),
	}
	for _, p := range c.Schedule.Check() {
		return nil, fmt.Errorf("the rotation of keys: %s %s", p.Field, p.Message)
	}
	for _, s := range c.Sets {
		if s.Name == "" || r.sets[s.Name] != nil {
			return nil, fmt.Errorf("two key sets are named %q, or one has no name", s.Name)
		}
		r.sets[s.Name] = &keySet{
			SetConfig: s, signers: map[string]signer{}, unusable: map[string]error{}, wake: make(chan struct{}, 1),
		}
	}
	if err := r.load(ctx); err != nil {
		return nil, err
	}
	if r.stateNow().Keys == nil {
		if err := r.begin(ctx); err != nil {
			return nil, err
		}
	}
	if err := r.checkProviders(); err != nil {
		return nil, err
	}
	for _, s := range r.sets {
		// A set whose provider is out of reach is tried again by Run.
		err := r.openSigners(ctx, s)
		if err != nil && !outOfReach(err) {
			r.Close()
			return nil, err
		}
		r.note(s, problemOpen, err)
	}
	return r, nil
}

// Close lets go of the private keys. Nothing can be signed any more.
func (r *Ring) Close() {
	for _, s := range r.sets {
		s.mu.Lock()
		signers := s.signers
		s.signers = map[string]signer{}
		s.mu.Unlock()
		for _, sg := range signers {
			sg.Close()
		}
	}
}

// checkProviders refuses a configuration that names another provider for a set
// that has keys.
func (r *Ring) checkProviders() error {
	for _, k := range r.stateNow().Keys {
		if s := r.sets[k.Set]; s != nil && !k.revoked() && s.Provider.kind() != k.Provider {
			return fmt.Errorf("key set %q has keys of provider %s, and the configuration says %s: give the new keys a set with a name of its own, and let the Audiences name it",
				k.Set, k.Provider, s.Provider.kind())
		}
	}
	return nil
}

// stateNow returns the state that is known; it must not be changed.
func (r *Ring) stateNow() state {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

// load takes over what is in the store.
func (r *Ring) load(ctx context.Context) error {
	asked := r.c.Now()
	data, revision, err := r.c.Store.Load(ctx, stateName)
	if err != nil {
		return fmt.Errorf("reading the state of the signing keys: %w", err)
	}
	r.mu.Lock()
	known := r.revision >= revision && r.view.Load() != nil
	r.mu.Unlock()
	if !known {
		s, err := decodeState(data)
		if err != nil {
			return err
		}
		if err := r.install(s, revision); err != nil {
			return err
		}
	}
	r.confirmed.Store(&asked)
	return nil
}

// age is how long ago the state was last known to be the stored one. It is told by
// the clock that cannot be set.
func (r *Ring) age(now time.Time) time.Duration { return now.Sub(*r.confirmed.Load()) }

// install makes a state the known one, unless a newer one is known.
func (r *Ring) install(s state, revision int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if revision < r.revision || revision == r.revision && r.view.Load() != nil {
		return nil
	}
	if err := r.place(s, r.c.Now()); err != nil {
		return err
	}
	r.state, r.revision = s, revision
	for _, set := range r.sets {
		set.poke()
	}
	return nil
}

// place computes the view of a state at a time and tells the log what is new in
// it; r.mu is held.
func (r *Ring) place(s state, now time.Time) error {
	v, err := newView(s, r.c.Schedule.Retain, now)
	if err != nil {
		return fmt.Errorf("the state of the signing keys: %w", err)
	}
	r.view.Store(v)
	r.evidence.keep(v.published)
	roles := map[string]Role{}
	for _, set := range slices.Sorted(maps.Keys(v.lines)) {
		for _, p := range v.lines[set] {
			roles[p.ID] = p.role
			if before, known := r.roles[p.ID]; (known || len(r.roles) > 0) && before != p.role {
				r.c.Log.Info("signing key", "key_set", set, "kid", p.ID, "role", string(p.role), "was", string(before), "signs", p.Signs)
			}
		}
	}
	r.roles = roles
	return nil
}

// at returns the view at a time.
func (r *Ring) at(now time.Time) *view {
	v := r.view.Load()
	if v.holds(now) {
		return v
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if v = r.view.Load(); !v.holds(now) {
		// The state was read before, so it has a view at any time.
		if err := r.place(r.state, now); err != nil {
			r.c.Log.Error("the signing keys", "error", err)
		}
		v = r.view.Load()
	}
	return v
}

// KeySet returns the public keys to publish, of all sets.
func (r *Ring) KeySet() jose.KeySet { return r.at(r.c.Now()).published }

// MaxAge is how long a verifier may cache the key set that is published now.
//
// A key that this node has not heard of was published after the state was last
// confirmed and does not sign before PublishAhead has passed since, by a clock
// that differs by Skew at most. So a node that does not hear from its store lets
// verifiers cache for less and less.
func (r *Ring) MaxAge() time.Duration {
	s := r.c.Schedule
	return max(0, min(s.MaxAge, s.PublishAhead-s.Skew-r.age(r.c.Now())))
}

// MaxTokenLifetime is the longest lifetime that a token may have.
func (r *Ring) MaxTokenLifetime() time.Duration { return r.c.Schedule.MaxTokenLifetime() }

// Has tells whether there is a key set of a name.
func (r *Ring) Has(set string) bool { return r.sets[set] != nil }

// Sign returns the compact JWS of payload, and the kid in its header. Header and
// signature come from one key, which is looked up once, so they cannot disagree
// while keys rotate.
func (r *Ring) Sign(ctx context.Context, set, typ string, payload []byte) (token, kid string, err error) {
	key, signer, err := r.signing(set)
	if err != nil {
		return "", "", err
	}
	input := jose.SigningInput(jose.Header{Algorithm: key.Algorithm, KeyID: key.ID, Type: typ}, payload)
	sig, err := signer.Sign(ctx, input)
	if err != nil {
		return "", "", fmt.Errorf("signing with key set %q: %w", set, err)
	}
	return jose.Compact(input, sig), key.ID, nil
}

// signing returns the key of a set that signs now.
func (r *Ring) signing(set string) (placed, signer, error) {
	s := r.sets[set]
	if s == nil {
		return placed{}, nil, fmt.Errorf("%w: %q", ErrUnknownSet, set)
	}
	now := r.c.Now()
	if age := r.age(now); age > r.maxStale {
		return placed{}, nil, &unavailable{what: "storage", after: time.Second, reason: fmt.Errorf("the state of the signing keys was last read %s ago", age.Round(time.Millisecond))}
	}
	v := r.at(now)
	key, ok := v.signing[set]
	if !ok {
		e := &unavailable{what: "signing key", after: time.Second, reason: fmt.Errorf("key set %q has no key that signs", set)}
		if n, waits := next(v.lines[set]); waits && n.Signs.After(now) {
			e.after, e.reason = n.Signs.Sub(now), fmt.Errorf("key set %q is new and its first key is still being announced to verifiers: it signs at %s", set, n.Signs.Format(time.RFC3339))
		}
		return placed{}, nil, e
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.unusable[key.ID]; err != nil {
		return placed{}, nil, &unavailable{what: s.Provider.dependency(), after: time.Second, reason: err}
	}
	if signer := s.signers[key.ID]; signer != nil {
		return key, signer, nil
	}
	return placed{}, nil, &unavailable{what: s.Provider.dependency(), after: time.Second, reason: fmt.Errorf("the private key %s of key set %q cannot be used yet: %w", key.ID, set, s.problems.of(problemOpen))}
}

// Ready returns nil, or why tokens of some set cannot be signed now. A set that
// is new and has not begun to sign does not count.
func (r *Ring) Ready() error {
	now := r.c.Now()
	for _, name := range slices.Sorted(maps.Keys(r.sets)) {
		key, signer, err := r.signing(name)
		if err == nil {
			err = signer.Err()
		}
		if err == nil {
			continue
		}
		line := r.at(now).lines[name]
		if _, waits := next(line); key.ID == "" && waits && !slices.ContainsFunc(line, func(p placed) bool { return p.served(now) }) {
			continue
		}
		return fmt.Errorf("key set %q: %w", name, err)
	}
	return nil
}

// unavailable says that signing is not possible now, what is missing for it, and
// when to try again.
type unavailable struct {
	what   string
	after  time.Duration
	reason error
}

func (u *unavailable) Error() string             { return u.reason.Error() }
func (u *unavailable) Unwrap() error             { return u.reason }
func (u *unavailable) Dependency() string        { return u.what }
func (u *unavailable) RetryAfter() time.Duration { return u.after }

// outOfReach tells whether an error is that something else is missing, and may
// come back.
func outOfReach(err error) bool {
	_, ok := errors.AsType[interface {
		error
		Dependency() string
	}](err)
	return ok
}
