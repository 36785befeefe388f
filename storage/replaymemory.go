package storage

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"time"
)

// maxReplays is how many uses a ReplayMemory remembers: an entry takes about 100
// bytes.
const maxReplays = 1_000_000

// ErrReplayFull is what Use returns when it could not remember the use.
var ErrReplayFull = errors.New("as many single uses are remembered as there is room for")

// ReplayMemory remembers what was used in the memory of this process: a restart
// forgets it, and other nodes do not know.
type ReplayMemory struct {
	now  func() time.Time
	most int

	mu      sync.Mutex
	used    map[[sha256.Size]byte]struct{}
	expires map[int64][][sha256.Size]byte // what may be forgotten from a second on
	oldest  int64                         // no second before is in expires
}

// NewReplayMemory returns a ReplayMemory that has seen nothing. The clock may be
// nil for that of the system.
func NewReplayMemory(now func() time.Time) *ReplayMemory {
	if now == nil {
		now = time.Now
	}
	return &ReplayMemory{
		now: now, most: maxReplays, used: map[[sha256.Size]byte]struct{}{}, expires: map[int64][][sha256.Size]byte{}, oldest: now().Unix(),
	}
}

// Use implements sts.Replay. When there is no more room the error is
// ErrReplayFull: nothing that is still good is forgotten for it.
func (r *ReplayMemory) Use(_ context.Context, space, key string, _, until time.Time) (bool, error) {
	id := sha256.Sum256([]byte(space + "\x00" + key)) // a space has no NUL
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now().Unix()
	r.forget(now)
	if _, used := r.used[id]; used {
		return false, nil
	}
	if len(r.used) >= r.most {
		return false, ErrReplayFull
	}
	second := max(until.Unix()+1, now+1)
	r.used[id] = struct{}{}
	r.expires[second] = append(r.expires[second], id)
	return true, nil
}

// forget drops what ended up to now.
func (r *ReplayMemory) forget(now int64) {
	if now-r.oldest > int64(len(r.expires)) { // a long time without any use, or a clock that was set
		for second, ids := range r.expires {
			if second <= now {
				r.drop(second, ids)
			}
		}
		r.oldest = now
	}
	for ; r.oldest <= now; r.oldest++ {
		r.drop(r.oldest, r.expires[r.oldest])
	}
}

func (r *ReplayMemory) drop(second int64, ids [][sha256.Size]byte) {
	for _, id := range ids {
		delete(r.used, id)
	}
	delete(r.expires, second)
}
