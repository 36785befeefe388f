package storage

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/workload-sts/sts/sts"
)

// Keys of what was used once.
const (
	usedPrefix  = "used/"      // + sum of space and key: which call has used it
	usedMarkKey = "used-clock" // the latest time that the clock of any node has shown, in Unix seconds
)

const (
	replayAttempts = 3
	replayMark     = 30 * time.Second // how often the clock is noted; less than entries outlive their time in etcd
)

// ReplayKVOptions say how a ReplayKV works. The zero value is right but for Begins.
type ReplayKVOptions struct {
	// Begins is since when the store has forgotten nothing; zero is from
	// the first use. See Store.Begins.
	Begins time.Time

	Now     func() time.Time // default time.Now
	Attempt time.Duration    // how long one of three attempts may take; default 1 s
	Log     *slog.Logger     // told when clocks of nodes differ; default discards
}

// ReplayKV remembers in a store what was used once, for all nodes that share it. It
// implements sts.Replay.
//
// A use is a key that is written if it is not there, with an expiry. While the
// store does not answer, everything is refused.
type ReplayKV struct {
	kv KV
	o  ReplayKVOptions

	latest atomic.Int64 // the latest time that the clock of any node is known to have shown
	mark   sync.Mutex   // held while latest is brought up to date
	marked time.Time    // when that was done last, zero for never
	clocks clocks

	stop context.CancelFunc
	own  sync.WaitGroup
}

var _ sts.Replay = (*ReplayKV)(nil)

// NewReplayKV returns what remembers uses in a store. Close it before the store.
func NewReplayKV(kv KV, o ReplayKVOptions) *ReplayKV {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Attempt == 0 {
		o.Attempt = time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &ReplayKV{kv: kv, o: o, clocks: clocks{now: o.Now, log: o.Log}}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	r.own.Go(func() { r.run(ctx) })
	r.own.Go(func() { keepUp(ctx, kv, usedMarkKey, r.clocks.held.Load, r.heard, r.read) })
	return r
}

// Use implements sts.Replay.
func (r *ReplayKV) Use(ctx context.Context, space sts.ReplaySpace, key string, since, until time.Time) (bool, error) {
	if begins := r.o.Begins; !begins.IsZero() && !since.After(begins) {
		return false, forgotten(begins.Sub(since))
	}
	if err := r.first(ctx); err != nil {
		return false, err
	}
	now := r.o.Now()
	// What was not good any more at a time that some clock has shown may be gone, and
	// stays refused should clocks be put back.
	if ceil(until) <= max(r.latest.Load(), now.Unix()) {
		return false, forgotten(0)
	}
	id := newUseID(space, key)
	at := usedPrefix + hex.EncodeToString(id[:])
	mine := make([]byte, 16) // tells this call from others
	rand.Read(mine)
	return r.use(ctx, at, mine, until)
}

// use writes a key if it is not there. An attempt whose answer is lost may take
// effect at any time; then the next one fails, and finds that it was this call that
// has written the key.
func (r *ReplayKV) use(ctx context.Context, at string, mine []byte, until time.Time) (bool, error) {
	var err error
	for attempt := range replayAttempts {
		var done bool
		if done, err = r.attempt(ctx, at, mine, until); err == nil {
			if done || attempt == 0 {
				return done, nil
			}
			return r.isMine(ctx, at, mine)
		}
		if ctx.Err() != nil || !errors.Is(err, ErrDoubt) {
			break
		}
	}
	return false, err
}

func (r *ReplayKV) attempt(ctx context.Context, at string, mine []byte, until time.Time) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, r.o.Attempt)
	defer cancel()
	_, done, err := r.kv.Txn(ctx, []Compare{{Key: at}}, []Op{{Key: at, Value: mine, Expires: until}})
	return done, err
}

func (r *ReplayKV) isMine(ctx context.Context, at string, mine []byte) (bool, error) {
	e, err := r.kv.Get(ctx, at)
	if errors.Is(err, ErrNotFound) {
		return false, forgotten(0) // it was there, and its time is over
	}
	return err == nil && bytes.Equal(e.Value, mine), err
}

// first makes sure that the clocks of other nodes are known.
func (r *ReplayKV) first(ctx context.Context) error {
	r.mark.Lock()
	defer r.mark.Unlock()
	if !r.marked.IsZero() {
		return nil
	}
	return r.note(ctx)
}

// note brings the latest time up to date, here and in the store. The caller holds
// mark.
func (r *ReplayKV) note(ctx context.Context) error {
	var known int64
	e, err := r.kv.Get(ctx, usedMarkKey)
	if err == nil {
		known, err = parseMark(e)
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	now := r.o.Now()
	r.shown(max(known, now.Unix()))
	if now.Unix() > known {
		value := strconv.AppendInt(nil, now.Unix(), 10)
		// Whoever is faster has a clock that is as good.
		if _, _, err := r.kv.Txn(ctx, []Compare{{usedMarkKey, e.Revision}}, []Op{{Key: usedMarkKey, Value: value}}); err != nil {
			return err
		}
	}
	r.marked = now
	return nil
}

func (r *ReplayKV) run(ctx context.Context) {
	tick := time.NewTicker(replayMark)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			r.mark.Lock()
			r.note(ctx) // it is tried again with the next tick; entries outlive a few of them
			r.mark.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

// Err implements sts.Replay.
func (r *ReplayKV) Err() error { return r.kv.Err() }

// Close ends the work of the memory. What was used is in the store.
func (r *ReplayKV) Close() error {
	r.stop()
	r.own.Wait()
	return nil
}
