package sts

import (
	"sync"
	"time"
)

// maxShare is how many single uses of one client, or of one workload's Issuer, are
// remembered by a node at once: a quarter of what there is room for, so that nobody
// fills it for all.
const maxShare = 1 << 18

// shares count the uses that are remembered, by whose they are. They are counted by
// the minute in which they end, so a use counts up to a minute longer than it is
// remembered. Counts begin anew with the process.
type shares struct {
	most int

	mu    sync.Mutex
	by    map[string]*share
	swept int64 // minute
}

// share is what one owner has.
type share struct {
	count  int
	ending map[int64]int // by minute
}

func newShares(most int) *shares { return &shares{most: most, by: map[string]*share{}} }

func minute(t time.Time) int64 { return t.Unix() / 60 }

// take counts a use that is remembered until a time. It returns 0, or how long to
// wait until the owner has some left.
func (s *shares) take(owner string, now, until time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep(minute(now))
	o := s.by[owner]
	if o == nil {
		o = &share{ending: map[int64]int{}}
		s.by[owner] = o
	}
	if o.count >= s.most {
		return o.next(now)
	}
	o.count++
	o.ending[s.end(until)]++
	return 0
}

// giveBack takes a use back that was counted and is not remembered.
func (s *shares) giveBack(owner string, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.by[owner]; o != nil && o.ending[s.end(until)] > 0 {
		o.count--
		o.ending[s.end(until)]--
	}
}

// end is the minute that a use is counted in: none that is over.
func (s *shares) end(until time.Time) int64 { return max(minute(until), s.swept) }

// sweep drops what has ended, once in a minute. s.mu is held.
func (s *shares) sweep(now int64) {
	if now <= s.swept {
		return
	}
	s.swept = now
	for owner, o := range s.by {
		for end, n := range o.ending {
			if end < now {
				o.count -= n
				delete(o.ending, end)
			}
		}
		if len(o.ending) == 0 {
			delete(s.by, owner)
		}
	}
}

// next is how long it takes until the first uses end.
func (o *share) next(now time.Time) time.Duration {
	first := minute(now)
	for found := false; !found && len(o.ending) > 0; first++ {
		found = o.ending[first] > 0
	}
	return max(time.Unix(first*60, 0).Sub(now), time.Second)
}
