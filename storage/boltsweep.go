package storage

import (
	"cmp"
	"encoding/binary"
	"time"

	bolt "go.etcd.io/bbolt"
)

const (
	maxSweep   = 1000                  // entries deleted at once, so that no writer waits for long
	sweepPause = 20 * time.Millisecond // between these while there are more

	// A clock that is ahead of the time that has passed by more than clockStep was
	// set, and by mistake for all we know: it is believed after clockDoubt.
	clockStep  = 5 * time.Second
	clockDoubt = time.Hour
)

// sweeper says what has expired.
type sweeper struct {
	now   func() time.Time
	every time.Duration

	start time.Time // by which the wall clock and the time passed since are compared
	ahead time.Time // since when the wall clock has been ahead, zero if it is not
}

func newSweeper(o BoltOptions) sweeper {
	s := sweeper{now: o.Now, every: cmp.Or(o.SweepEvery, time.Second)}
	if s.now == nil {
		s.now = time.Now
	}
	s.start = s.now()
	return s
}

// horizon returns the moment up to which entries have expired, by the later of two
// clocks: the one on the wall, and the one that counts since the store was opened.
func (s *sweeper) horizon(now time.Time) time.Time {
	wall, passed := now.Round(0), s.start.Round(0).Add(now.Sub(s.start))
	switch {
	case wall.Sub(passed) <= clockStep:
		s.ahead = time.Time{}
	case s.ahead.IsZero():
		s.ahead = now
	case now.Sub(s.ahead) > clockDoubt:
		s.start, s.ahead = now, time.Time{}
		return wall
	}
	if wall.Before(passed) {
		return wall
	}
	return passed
}

// sweep deletes entries that have expired and returns when to do that again. They
// are found and deleted by the only one that writes, so that none is deleted that
// was put anew meanwhile.
func (b *Bolt) sweep() (next time.Duration) {
	horizon := b.sweeper.horizon(b.sweeper.now()).Unix()
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
	t := &txn{ops: ops, finished: make(chan struct{})}
	b.write([]*txn{t})
	if t.err == nil && len(ops) == maxSweep {
		return min(sweepPause, b.sweeper.every)
	}
	return b.sweeper.every
}
