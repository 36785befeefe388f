package storage

import (
	"cmp"
	"encoding/binary"
	"time"

	bolt "go.etcd.io/bbolt"
)

const (
	maxSweep   = 250                   // entries deleted at once, so that no writer waits for long
	sweepPause = 20 * time.Millisecond // between these while there are more, or as long as they take

	// A clock that is ahead of the time that has passed by more than clockStep was
	// set, and by mistake for all we know: it is believed after clockDoubt.
	clockStep  = 5 * time.Second
	clockDoubt = time.Hour
)

// sweeper says what has expired.
type sweeper struct {
	now   func() time.Time
	every time.Duration

	opened time.Time     // and since then
	start  time.Time     // by the wall clock; moved when that was set
	ahead  bool          // the wall clock is
	since  time.Duration // since when, by the other one
}

func newSweeper(o BoltOptions) sweeper {
	s := sweeper{now: o.Now, every: cmp.Or(o.SweepEvery, time.Second)}
	if s.now == nil {
		s.now = time.Now
	}
	s.opened = s.now()
	s.start = s.opened.Round(0)
	return s
}

// horizon returns the moment up to which entries have expired now.
func (s *sweeper) horizon() time.Time {
	now := s.now()
	return s.until(now.Round(0), now.Sub(s.opened))
}

// until returns the later of two clocks, that is the earlier moment: the one on the
// wall, and the one that counts since the store was opened.
func (s *sweeper) until(wall time.Time, passed time.Duration) time.Time {
	counted := s.start.Add(passed)
	switch {
	case wall.Sub(counted) <= clockStep:
		s.ahead = false
	case !s.ahead:
		s.ahead, s.since = true, passed
	case passed-s.since > clockDoubt:
		s.start, s.ahead = wall.Add(-passed), false
		return wall
	}
	if wall.Before(counted) {
		return wall
	}
	return counted
}

// sweep deletes entries that have expired and returns when to do that again. They
// are found and deleted by the only one that writes, so that none is deleted that
// was put anew meanwhile.
func (b *Bolt) sweep() (next time.Duration) {
	horizon := b.sweeper.horizon().Unix()
	if b.Err() != nil {
		return b.sweeper.every
	}
	var ops []Op
	err := b.guard(func() error {
		return b.db.View(func(tx *bolt.Tx) error {
			c := tx.Bucket(bucketExpiry).Cursor()
			for k, _ := c.First(); len(k) > 8 && len(ops) < maxSweep && int64(binary.BigEndian.Uint64(k)) <= horizon; k, _ = c.Next() {
				ops = append(ops, Op{Key: string(k[8:]), Delete: true})
			}
			return nil
		})
	})
	if err != nil || len(ops) == 0 {
		return b.sweeper.every
	}
	begun := time.Now()
	t := &txn{ops: ops, finished: make(chan struct{})}
	b.write([]*txn{t})
	if t.err == nil && len(ops) == maxSweep {
		return min(max(sweepPause, time.Since(begun)), b.sweeper.every)
	}
	return b.sweeper.every
}
