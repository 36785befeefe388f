package keys

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
)

// SetStatus is what an operator sees of a key set.
type SetStatus struct {
	Name        string
	Algorithm   string // of its next key
	Provider    string // empty: the set is not in this node's configuration
	Keys        []KeyStatus
	RotationDue time.Time // when the next key is made; zero: it is there, or only when asked
	Problems    []string
}

// KeyStatus is what an operator sees of a key.
type KeyStatus struct {
	Set, KID, Algorithm string
	Role                string // next, current, previous, revoked
	Location            string // of the private key
	Published           time.Time
	Signs               time.Time // zero: not decided yet
	Ends                time.Time // when it leaves the key set; zero: not known yet
	Revoked             time.Time
	Verifiers           int // distinct verifiers that this node has delivered it to since it started
	Fetches             int64
	LastFetch           time.Time
}

// Status returns what there is to know of all sets: those configured, and those
// that are in the state and not configured any more.
func (r *Ring) Status() []SetStatus {
	now := r.c.Now()
	v := r.at(now)
	names := slices.Sorted(maps.Keys(r.sets))
	for _, set := range slices.Sorted(maps.Keys(v.lines)) {
		if !r.Has(set) {
			names = append(names, set)
		}
	}
	out := make([]SetStatus, 0, len(names))
	for _, name := range names {
		st := SetStatus{Name: name}
		for _, p := range v.lines[name] {
			if p.role != Gone {
				st.Keys = append(st.Keys, r.status(p))
			}
		}
		if s := r.sets[name]; s != nil {
			st.Algorithm, st.Provider, st.RotationDue = string(s.Algorithm), s.Provider.kind(), r.due(name, now)
			st.Problems = r.troubles(s)
		} else {
			st.Problems = []string{"this key set is not in the configuration of this node: its keys stay published until they are revoked"}
		}
		out = append(out, st)
	}
	return out
}

// troubles is what is wrong with a set now.
func (r *Ring) troubles(s *keySet) []string {
	s.mu.Lock()
	out := s.problems.all()
	for _, kid := range slices.Sorted(maps.Keys(s.unusable)) {
		out = append(out, s.unusable[kid].Error())
	}
	s.mu.Unlock()
	if _, signer, err := r.signing(s.Name); err == nil && signer.Err() != nil {
		out = append(out, signer.Err().Error())
	}
	return out
}

func (r *Ring) status(p placed) KeyStatus {
	st := KeyStatus{
		Set: p.Set, KID: p.ID, Algorithm: string(p.Algorithm), Role: string(p.role),
		Published: p.Published, Signs: p.Signs, Ends: p.ends, Revoked: p.Revoked,
	}
	if s := r.sets[p.Set]; s != nil && !p.revoked() {
		st.Location = s.Provider.location(p.storedKey)
	}
	st.Verifiers, st.Fetches, st.LastFetch = r.evidence.of(p.ID)
	return st
}

// keyStatus returns the status of one key that is in the state.
func (r *Ring) keyStatus(kid string) (KeyStatus, bool) {
	for _, line := range r.at(r.c.Now()).lines {
		for _, p := range line {
			if p.ID == kid {
				return r.status(p), true
			}
		}
	}
	return KeyStatus{}, false
}

// Rotate sees to it that a set has a next key, and returns it: one that is
// published already and waits for its turn, or a new one.
func (r *Ring) Rotate(ctx context.Context, set string) (KeyStatus, error) {
	s := r.sets[set]
	if s == nil {
		return KeyStatus{}, fmt.Errorf("%w: %q", ErrUnknownSet, set)
	}
	if err := r.load(ctx); err != nil {
		return KeyStatus{}, err
	}
	before := r.stateNow()
	for {
		line := r.at(r.c.Now()).lines[set]
		n, waits := next(line)
		if waits && n.Signs.IsZero() {
			if err := r.schedule(ctx, set); err != nil {
				return KeyStatus{}, err
			}
			continue
		}
		if !waits { // where nothing signs, a new key signs at once
			n, waits = current(line)
			waits = waits && before.key(n.ID) < 0
		}
		if waits {
			return r.status(n), nil
		}
		if _, err := r.replaceOrWait(ctx, s); err != nil {
			return KeyStatus{}, err
		}
	}
}

// Revocation says what came of revoking a key.
type Revocation struct {
	Revoked   KeyStatus
	Successor KeyStatus // the key that signs now; its KID is empty if none could be made yet
	// AcceptedUntil is until when verifiers that have cached the key set may still
	// accept the revoked key.
	AcceptedUntil time.Time
}

// Revoke takes a key out of the published set at once and for good. If it was the
// one that signs, the next one takes over now, announced or not, and one is made
// if there is none.
//
// When Revoke returns without an error the key is revoked, even if no successor
// could be made: Run goes on trying.
func (r *Ring) Revoke(ctx context.Context, kid string) (Revocation, error) {
	var set string
	var known, changed bool
	err := r.change(ctx, func(st *state) bool {
		i := st.key(kid)
		changed = false
		if known = i >= 0; !known {
			return false
		}
		set = st.Keys[i].Set
		if st.Keys[i].revoked() {
			return false
		}
		now := r.c.Now().UTC()
		line := timeline(st.of(set), r.c.Schedule.Retain, now)
		st.Keys[i].Revoked, st.Keys[i].Material = now, nil
		c, signs := current(line)
		for _, p := range line {
			if signs && c.ID == kid && p.role == Next {
				st.Keys[st.key(p.ID)].Signs = now
				break
			}
		}
		changed = true
		return true
	})
	if err != nil {
		return Revocation{}, err
	}
	if !known {
		return Revocation{}, fmt.Errorf("%w: %q", ErrUnknownKey, kid)
	}
	if changed {
		r.c.Log.Warn("a signing key was revoked", "key_set", set, "kid", kid)
	}
	if s := r.sets[set]; s != nil {
		if _, signs := r.at(r.c.Now()).signing[set]; !signs {
			r.note(s, problemCreate, r.succeed(ctx, s))
		}
		r.note(s, problemOpen, r.openSigners(ctx, s))
	}
	now := r.c.Now()
	out := Revocation{AcceptedUntil: now.Add(r.c.Schedule.MaxAge + r.c.Schedule.Skew)}
	out.Revoked, _ = r.keyStatus(kid)
	if c, ok := r.at(now).signing[set]; ok {
		out.Successor = r.status(c)
	}
	return out, nil
}
