package keys

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	retryEvery  = time.Second      // what failed is tried again
	createTime  = 10 * time.Second // longest that making a key may take
	claimTime   = 15 * time.Second // and how long others leave it to who began, besides the skew of clocks
	forgetAfter = time.Minute      // a private key that does not sign any more
	swapRetries = 16               // others that change the state at the same time
)

// Run keeps the Ring at what is stored, and the keys at their schedule, until ctx
// ends.
func (r *Ring) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { r.watch(ctx); return nil })
	g.Go(func() error { r.poll(ctx); return nil })
	for _, s := range r.sets {
		g.Go(func() error { r.maintain(ctx, s); return nil })
	}
	return g.Wait()
}

// watch takes over changes as they are made.
func (r *Ring) watch(ctx context.Context) {
	for ctx.Err() == nil {
		r.mu.Lock()
		known := r.revision
		r.mu.Unlock()
		err := r.c.Store.Changed(ctx, stateName, known)
		if err == nil {
			err = r.load(ctx)
		}
		if err != nil {
			sleep(ctx, retryEvery)
		}
	}
}

// poll confirms what is known, often enough that nothing goes stale, and removes
// keys that are gone.
func (r *Ring) poll(ctx context.Context) {
	every := min(max(r.maxStale/10, 50*time.Millisecond), 3*time.Second)
	failing := false
	for sleep(ctx, every) {
		attempt, cancel := context.WithTimeout(ctx, max(every, time.Second))
		err := r.load(attempt)
		if err == nil {
			err = r.sweep(attempt)
		}
		cancel()
		if err != nil && !failing && ctx.Err() == nil {
			r.c.Log.Error("the state of the signing keys cannot be read or written", "error", err)
		}
		failing = err != nil
	}
}

// sleep waits, and tells whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// maintain does what is to be done for a set, when it is.
func (r *Ring) maintain(ctx context.Context, s *keySet) {
	for ctx.Err() == nil {
		t := time.NewTimer(r.step(ctx, s))
		select {
		case <-t.C:
		case <-s.wake:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// inspectEvery is how often providers are asked what has become of their keys.
func (r *Ring) inspectEvery() time.Duration {
	return min(max(r.c.Schedule.MaxAge/2, time.Second), 30*time.Second)
}

// pause is how long a set is left alone: not long if something is wrong with it.
func (r *Ring) pause(s *keySet) time.Duration {
	if s.failing() {
		return retryEvery
	}
	return r.inspectEvery()
}

// step moves a set on by what can be done now, and returns when to look again.
func (r *Ring) step(ctx context.Context, s *keySet) time.Duration {
	r.note(s, problemOpen, r.openSigners(ctx, s))
	var newer *storedKey
	// A step comes up to a quarter of a pause early.
	if pause := r.pause(s); s.nextInspection(r.c.Now(), pause) <= pause/4 {
		var err error
		newer, err = r.inspect(ctx, s)
		r.note(s, problemInspect, err)
	}
	r.note(s, problemCreate, r.advance(ctx, s, newer))
	now := r.c.Now()
	wait := s.nextInspection(now, r.pause(s))
	if due := r.due(s.Name, now); !due.IsZero() {
		until := due.Sub(now)
		if until <= 0 {
			until = retryEvery // another node is about to make it, or it failed
		}
		wait = min(wait, until)
	}
	return wait*3/4 + rand.N(wait/4+1) // not all nodes at once
}

// advance takes the one step that the keys of a set need, if any.
func (r *Ring) advance(ctx context.Context, s *keySet, newer *storedKey) error {
	now := r.c.Now()
	switch {
	case newer != nil:
		return r.add(ctx, *newer)
	case slices.ContainsFunc(r.stateNow().of(s.Name), unscheduled):
		return r.schedule(ctx, s.Name)
	}
	if due := r.due(s.Name, now); due.IsZero() || now.Before(due) {
		return nil
	}
	// An attempt that failed has changed what is stored, which wakes all nodes.
	at, before := s.notMadeLast()
	if now.Sub(at).Abs() < retryEvery/2 {
		return before
	}
	made, err := r.replace(ctx, s)
	if err == nil && !made {
		return before // another node is about to, or has failed to
	}
	return err
}

// due is when the next key of a set is to be made; zero if it is there or nobody
// asked for one, and now if nothing signs.
func (r *Ring) due(set string, now time.Time) time.Time {
	line := r.at(now).lines[set]
	if _, waits := next(line); waits {
		return time.Time{}
	}
	if c, ok := current(line); ok {
		if r.c.Schedule.Period == 0 {
			return time.Time{}
		}
		return c.Signs.Add(r.c.Schedule.Period - r.c.Schedule.PublishAhead)
	}
	return now
}

func unscheduled(k storedKey) bool { return k.Signs.IsZero() && !k.revoked() }

// change changes the stored state: f is given what is stored, and tells whether
// it changed it. When change returns nil, what f left is stored and known here.
func (r *Ring) change(ctx context.Context, f func(*state) bool) error {
	for range swapRetries {
		data, revision, err := r.c.Store.Load(ctx, stateName)
		if err != nil {
			return fmt.Errorf("reading the state of the signing keys: %w", err)
		}
		s, err := decodeState(data)
		if err != nil {
			return err
		}
		s = s.clone()
		if !f(&s) {
			return r.install(s, revision)
		}
		if data, err = s.encode(); err != nil {
			return fmt.Errorf("encoding the state of the signing keys: %w", err)
		}
		next, done, err := r.c.Store.Swap(ctx, stateName, revision, data)
		if err != nil {
			return fmt.Errorf("storing the state of the signing keys: %w", err)
		}
		if done {
			return r.install(s, next)
		}
	}
	return errors.New("the state of the signing keys is changed by others all the time")
}

// begin makes the first keys of all sets. They sign at once: before them there
// was no key set that a verifier could have cached.
func (r *Ring) begin(ctx context.Context) error {
	var first []storedKey
	for _, c := range r.c.Sets {
		found, err := c.Provider.inspect(ctx, c, nil)
		if err != nil {
			return fmt.Errorf("the first key of key set %q: %w", c.Name, err)
		}
		if found.newer == nil {
			made, err := c.Provider.create(ctx, c, nil)
			if err != nil {
				return fmt.Errorf("the first key of key set %q: %w", c.Name, err)
			}
			found.newer = &made
		}
		if slices.ContainsFunc(first, func(k storedKey) bool { return k.ID == found.newer.ID }) {
			return fmt.Errorf("key set %q has the same key as another: give each set a key of its own", c.Name)
		}
		first = append(first, *found.newer)
	}
	return r.change(ctx, func(s *state) bool {
		if len(s.Keys) > 0 {
			return false // another node was first
		}
		now := r.c.Now().UTC()
		s.Keys = slices.Clone(first)
		for i := range s.Keys {
			s.Keys[i].Published, s.Keys[i].Signs = now, now
		}
		return true
	})
}

// add publishes a key. It gets its time to sign when it has been read back,
// unless nothing signs because the current key was revoked: then it signs now.
func (r *Ring) add(ctx context.Context, k storedKey) error {
	taken := false
	err := r.change(ctx, func(s *state) bool {
		if taken = s.key(k.ID) >= 0; taken {
			return false
		}
		delete(s.Claims, k.Set)
		now := r.c.Now().UTC()
		k.Published, k.Signs = now, time.Time{}
		line := timeline(s.of(k.Set), r.c.Schedule.Retain, now)
		_, signs := current(line)
		served := slices.ContainsFunc(line, func(p placed) bool { return p.served(now) })
		if served && !signs {
			k.Signs = now
		}
		s.Keys = append(s.Keys, k)
		return true
	})
	if err == nil && taken {
		if known := r.stateNow(); known.Keys[known.key(k.ID)].Set != k.Set {
			return fmt.Errorf("key set %q has the same key as key set %q: give each set a key of its own", k.Set, known.Keys[known.key(k.ID)].Set)
		}
	}
	return err
}

// schedule says when the keys of a set that have been read back will sign:
// PublishAhead from now. That every node which asks the store from now on sees
// them is what makes the schedule safe, however long it took to store them.
func (r *Ring) schedule(ctx context.Context, set string) error {
	return r.change(ctx, func(s *state) bool {
		at := r.c.Now().UTC().Add(r.c.Schedule.PublishAhead)
		for _, k := range s.of(set) {
			if !k.Signs.IsZero() && !k.Signs.Before(at) {
				at = k.Signs.Add(time.Second) // one after the other
			}
		}
		changed := false
		for i, k := range s.Keys {
			if k.Set == set && unscheduled(k) {
				s.Keys[i].Signs, changed = at, true
				at = at.Add(time.Second)
			}
		}
		return changed
	})
}

// replace makes the next key of a set and publishes it, unless there is one or
// another node is making it. It is claimed first, so that of several nodes one
// makes it.
func (r *Ring) replace(ctx context.Context, s *keySet) (made bool, err error) {
	s.making.Lock()
	defer s.making.Unlock()
	var claimed bool
	err = r.change(ctx, func(st *state) bool {
		now := r.c.Now().UTC()
		claimed = false
		if _, waits := next(timeline(st.of(s.Name), r.c.Schedule.Retain, now)); waits {
			return false
		}
		if at, taken := st.Claims[s.Name]; taken && now.Sub(at).Abs() < claimTime+r.c.Schedule.Skew {
			return false
		}
		st.Claims[s.Name], claimed = now, true
		return true
	})
	if err != nil || !claimed {
		return false, err
	}
	making, cancel := context.WithTimeout(ctx, createTime)
	defer cancel()
	key, err := s.Provider.create(making, s.SetConfig, r.stateNow().of(s.Name))
	if err == nil {
		err = r.add(ctx, key)
		return err == nil, err
	}
	s.notMade(r.c.Now())
	release := r.change(context.WithoutCancel(ctx), func(st *state) bool {
		_, taken := st.Claims[s.Name]
		delete(st.Claims, s.Name)
		return taken
	})
	return false, errors.Join(fmt.Errorf("making the next key of key set %q: %w", s.Name, err), release)
}

// succeed makes a key for a set in which nothing signs, or waits until another node
// has: all of them see that there is none.
func (r *Ring) succeed(ctx context.Context, s *keySet) error {
	ctx, cancel := context.WithTimeout(ctx, createTime)
	defer cancel()
	for {
		made, err := r.replaceOrWait(ctx, s)
		if made || err != nil {
			return err
		}
		if _, signs := r.at(r.c.Now()).signing[s.Name]; signs {
			return nil
		}
	}
}

// replaceOrWait makes the next key as replace does, or gives another node that is
// about to a moment, and looks what came of it.
func (r *Ring) replaceOrWait(ctx context.Context, s *keySet) (made bool, err error) {
	if made, err = r.replace(ctx, s); made || err != nil {
		return made, err
	}
	if !sleep(ctx, retryEvery/10) {
		return false, fmt.Errorf("another server is making the next key of key set %q, and has not yet: %w", s.Name, ctx.Err())
	}
	return false, r.load(ctx)
}

// sweep removes keys whose tokens have all expired. Those that were revoked stay:
// they say that nothing before them comes back.
func (r *Ring) sweep(ctx context.Context) error {
	gone := func(st state) (ids []string) {
		now := r.c.Now()
		for _, set := range st.sets() {
			for _, p := range timeline(st.of(set), r.c.Schedule.Retain, now) {
				if p.role == Gone && now.Sub(p.ends) > r.c.Schedule.Skew {
					ids = append(ids, p.ID)
				}
			}
		}
		return ids
	}
	if len(gone(r.stateNow())) == 0 {
		return nil
	}
	return r.change(ctx, func(st *state) bool {
		ids := gone(*st)
		st.Keys = slices.DeleteFunc(st.Keys, func(k storedKey) bool { return slices.Contains(ids, k.ID) })
		return len(ids) > 0
	})
}
