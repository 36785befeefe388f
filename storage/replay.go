package storage

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/workload-sts/sts/sts"
)

// defaultMaxReplays is how many uses are remembered at once: about 100 MB.
const defaultMaxReplays = 1 << 20

// replayShards is how many parts the memory has, so that callers do not wait for
// one another.
const replayShards = 64

// ErrReplayFull is what Use returns when as many uses are remembered as there is
// room for. What is remembered is never dropped for it.
var ErrReplayFull = errors.New("as many single uses are remembered as there is room for")

// ReplayOptions say how to open a Replay. The zero value is right but for New.
type ReplayOptions struct {
	// New says that nothing can have been used before, so that a journal need not be
	// there.
	New bool
	// Begins is since when the store beside it has its history: what was used before
	// may be known elsewhere only, whatever the journal says. Zero is from the first.
	Begins time.Time

	Max    int                    // uses remembered at once; default 1,048,576
	Now    func() time.Time       // default time.Now
	BootID func() (string, error) // names this boot of the machine; default the kernel's name
}

// Replay remembers what was used once, in memory and in a journal. It implements
// sts.Replay.
//
// A use is written to the journal before Use returns, so a process that is killed
// loses none: what is written is with the kernel. Only the machine can lose it,
// and that is noticed: the journal says in which boot of the machine it was
// written. After another one, or if the journal is gone or damaged, the memory
// begins anew, and what could have been accepted before it began is refused with
// an error that is sts.ErrForgotten. See DESIGN.md.
type Replay struct {
	now     func() time.Time
	max     int64
	shards  [replayShards]replayShard
	count   atomic.Int64 // of all shards
	journal *journal

	// begins is when the memory begins: what could be accepted then or earlier may
	// have been used without being here. Zero: nothing was ever used before.
	begins time.Time
	lost   string // why it begins then and not before

	sweeping sync.Mutex // held while what has expired is dropped, and while the journal is written anew
	swept    int64      // when that was done last
	stop     chan struct{}
	stopped  chan struct{}
}

type replayShard struct {
	mu   sync.Mutex
	used map[useID]int64 // until when, in Unix seconds
	// forgotten is the latest time that an entry was good until which was dropped:
	// what is not good after it stays refused, should the clock be put back.
	forgotten int64
}

// useID names a use, whatever space it is of: a sum of all that identifies it.
type useID [20]byte

func newUseID(space sts.ReplaySpace, key string) useID {
	// The length keeps the two apart.
	sum := sha256.Sum256(fmt.Appendf(nil, "%d:%s%s", len(space), space, key))
	return useID(sum[:len(useID{})])
}

// Use implements sts.Replay.
func (r *Replay) Use(ctx context.Context, space sts.ReplaySpace, key string, since, until time.Time) (bool, error) {
	if !r.begins.IsZero() && !since.After(r.begins) {
		return false, forgotten(r.begins.Sub(since))
	}
	e := replayEntry{id: newUseID(space, key), at: r.now().Unix(), until: ceil(until)}
	if fresh, err := r.enter(e); !fresh {
		return false, err
	}
	// From here on it is used, whatever becomes of the write.
	if err := r.journal.use(ctx, e); err != nil {
		return false, err
	}
	return true, nil
}

// ceil is the second that a time is in, or the next one, so that nothing is
// forgotten too early.
func ceil(t time.Time) int64 { return t.Add(time.Second - 1).Unix() }

// enter takes a use into the memory, if it is not there.
func (r *Replay) enter(e replayEntry) (bool, error) {
	if r.count.Load() >= r.max {
		r.sweep(e.at) // the memory may be full of what has expired
	}
	s := &r.shards[e.id[0]%replayShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, used := s.used[e.id]; used {
		return false, nil
	}
	if e.until <= max(s.forgotten, e.at) {
		return false, forgotten(0)
	}
	if r.count.Add(1) > r.max {
		r.count.Add(-1)
		return false, ErrReplayFull
	}
	s.used[e.id] = e.until
	return true, nil
}

// sweep drops what has expired, at most once a second.
func (r *Replay) sweep(now int64) {
	if !r.sweeping.TryLock() {
		return
	}
	defer r.sweeping.Unlock()
	if now == r.swept {
		return
	}
	r.swept = now
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		before := len(s.used)
		maps.DeleteFunc(s.used, func(_ useID, until int64) bool {
			if until <= now {
				s.forgotten = max(s.forgotten, until)
			}
			return until <= now
		})
		r.count.Add(int64(len(s.used) - before))
		s.mu.Unlock()
	}
}

// Lost tells why the memory does not reach back to all that was ever used, empty
// if it does.
func (r *Replay) Lost() string { return r.lost }

// Err tells why nothing can be remembered until the process starts anew, nil
// while it can.
func (r *Replay) Err() error { return r.journal.err() }

const (
	sweepEvery = time.Minute
	// compactAbove is the size from which a journal is written anew when most of it
	// has expired.
	compactAbove = 1 << 20
)

// maintain makes the journal durable once a second, and drops what has expired
// from the memory and from the journal.
func (r *Replay) maintain() {
	defer close(r.stopped)
	tick := time.NewTicker(syncEvery)
	defer tick.Stop()
	for n := time.Duration(1); ; n++ {
		select {
		case <-r.stop:
			return
		case <-tick.C:
		}
		_ = r.journal.flush() // Err tells
		if n%(sweepEvery/syncEvery) != 0 {
			continue
		}
		r.sweep(r.now().Unix())
		if size := r.journal.size.Load(); size > compactAbove && size/replayEntrySize > 2*r.count.Load() {
			// An error leaves the journal as it is, for the next time.
			r.sweeping.Lock() // so that the header tells of all that is missing
			_ = r.journal.replace(r.header, r.live)
			r.sweeping.Unlock()
		}
	}
}

func (r *Replay) header() replayHeader {
	h := replayHeader{boot: r.journal.boot, begins: r.begins}
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		h.forgotten = max(h.forgotten, s.forgotten)
		s.mu.Unlock()
	}
	return h
}

// live gives all that is remembered, a shard at a time.
func (r *Replay) live(write func([]byte) error) error {
	var buf []byte
	for i := range r.shards {
		s := &r.shards[i]
		buf = buf[:0]
		s.mu.Lock()
		for id, until := range s.used {
			buf = replayEntry{id: id, until: until}.append(buf)
		}
		s.mu.Unlock()
		if err := write(buf); err != nil {
			return err
		}
	}
	return nil
}

// Close makes the journal durable and closes it. After that it counts in another
// boot of the machine too.
func (r *Replay) Close() error {
	select {
	case <-r.stop:
		return nil
	default:
	}
	close(r.stop)
	<-r.stopped
	return r.journal.end(r.now().Unix())
}

// errForgotten is sts.ErrForgotten with the time after which something new will
// do.
type errForgotten struct{ wait time.Duration }

func forgotten(wait time.Duration) error { return &errForgotten{wait + time.Second} }

func (e *errForgotten) Error() string             { return sts.ErrForgotten.Error() }
func (e *errForgotten) Unwrap() error             { return sts.ErrForgotten }
func (e *errForgotten) RetryAfter() time.Duration { return e.wait }
