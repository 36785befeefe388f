package keys

import (
	"time"

	"github.com/workload-sts/sts/jose"
)

// Role is the place of a key in its set at a time. The clock moves a key from one
// to the next.
type Role string

// The roles of a key, in the order in which a key has them. A key is published
// from Next to the end of Previous.
const (
	Next     Role = "next"     // does not sign yet
	Current  Role = "current"  // signs; there is at most one
	Previous Role = "previous" // does not sign any more; tokens that it signed may live
	Gone     Role = "gone"     // all tokens that it signed have expired
	Revoked  Role = "revoked"  // must not be trusted any more
)

// placed is a key with its place in its set.
type placed struct {
	storedKey
	role Role
	ends time.Time // when the key becomes Gone; zero: not known yet
}

// timeline places the keys of one set, in the order in which they sign, at a
// time.
//
// The last key that had its turn is the current one, unless it was revoked: then
// nothing signs, for a key that was retired does not come back.
func timeline(keys []storedKey, retain time.Duration, now time.Time) []placed {
	out := make([]placed, 0, len(keys))
	last := -1 // in out: the key before, of those that had their turn
	for _, k := range keys {
		p := placed{storedKey: k, role: Next}
		if k.served(now) {
			p.role = Current
			if last >= 0 {
				out[last].retire(k.Signs.Add(retain), now)
			}
			last = len(out)
		}
		if k.revoked() {
			p.role = Revoked
		}
		out = append(out, p)
	}
	return out
}

// retire says that a successor has taken over, and until when the key stays.
func (p *placed) retire(ends, now time.Time) {
	p.ends = ends
	if p.role == Revoked {
		return
	}
	p.role = Previous
	if !now.Before(ends) {
		p.role = Gone
	}
}

// published tells whether a key is in the published set.
func (p placed) published() bool { return p.role == Next || p.role == Current || p.role == Previous }

// next returns the first key of a timeline that waits for its turn.
func next(line []placed) (placed, bool) { return first(line, Next) }

// current returns the key of a timeline that signs.
func current(line []placed) (placed, bool) { return first(line, Current) }

func first(line []placed, role Role) (placed, bool) {
	for _, p := range line {
		if p.role == role {
			return p, true
		}
	}
	return placed{}, false
}

// view is a state at a time: which keys sign, which are published.
type view struct {
	from, until time.Time // it holds from ≤ t < until; until zero: for good
	signing     map[string]placed
	published   jose.KeySet
	lines       map[string][]placed // by set
}

// holds tells whether the view is the one at a time. A clock that was put back
// makes another view.
func (v *view) holds(t time.Time) bool {
	return !t.Before(v.from) && (v.until.IsZero() || t.Before(v.until))
}

// newView computes the view of a state at a time.
func newView(s state, retain time.Duration, now time.Time) (*view, error) {
	v := &view{from: now, signing: map[string]placed{}, lines: map[string][]placed{}}
	byRole := map[Role][]jose.Key{}
	for _, set := range s.sets() {
		line := timeline(s.of(set), retain, now)
		v.lines[set] = line
		for _, p := range line {
			v.changes(p.Signs, now)
			v.changes(p.ends, now)
			if !p.published() {
				continue
			}
			key, err := p.publicKey()
			if err != nil {
				return nil, err
			}
			byRole[p.role] = append(byRole[p.role], key)
			if p.role == Current {
				v.signing[set] = p
			}
		}
	}
	// Those that sign come first: some verifiers look no further.
	all := append(byRole[Current], byRole[Next]...)
	var err error
	v.published, err = jose.NewKeySet(append(all, byRole[Previous]...)...)
	return v, err
}

// changes notes a time at which the view will be another.
func (v *view) changes(at, now time.Time) {
	if at.After(now) && (v.until.IsZero() || at.Before(v.until)) {
		v.until = at
	}
}
