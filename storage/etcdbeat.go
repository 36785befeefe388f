package storage

import (
	"errors"
	"sync"
	"time"
)

// etcdBeat is how often the cluster is asked where it stands.
const etcdBeat = time.Second

// A beat is an answer of the cluster: at some moment after asked it stood at a
// revision.
type beat struct {
	asked    time.Time
	revision int64
}

// etcdBeats are the beats of a store.
type etcdBeats struct {
	mu   sync.Mutex
	last beat
	next chan struct{} // closed at the next one
	soon chan struct{} // has a value if somebody waits for it
}

// want makes the next beat come at once.
func (b *etcdBeats) want() {
	select {
	case b.soon <- struct{}{}:
	default:
	}
}

// now returns the last beat and what is closed at the next one.
func (b *etcdBeats) now() (beat, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last, b.next
}

func (b *etcdBeats) set(last beat) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last = last
	close(b.next)
	b.next = make(chan struct{})
}

// beat asks the cluster where it stands, by a linearizable read of the store's
// record, until the store is closed. What a member says by itself would not do: one
// that was cut off or paused does not know how far the others are.
func (e *Etcd) beat() {
	tick := time.NewTicker(etcdBeat)
	defer tick.Stop()
	for {
		e.beatOnce()
		select {
		case <-tick.C:
		case <-e.beats.soon:
		case <-e.ctx.Done():
			return
		}
	}
}

func (e *Etcd) beatOnce() {
	asked, before := time.Now(), e.store.seen.Load()
	r, err := e.ask(e.ctx, e.recordKey())
	if err != nil {
		return // watchers see that no beat has come
	}
	held := e.store.record.Load()
	if len(r.Kvs) == 0 || r.Kvs[0].ModRevision != held.revision {
		e.reread(r, r.Header)
	} else {
		e.store.check(r.Header, before)
	}
	if why := e.store.refused(); errors.Is(why, ErrRestored) {
		e.mark(e.ctx, why) // if it fails, the next beat tries again
	}
	e.beats.set(beat{asked, r.Header.Revision})
}
