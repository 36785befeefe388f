package storage

import (
	"context"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
)

// The bounds of what is kept for watchers, and of what they are told at once.
const (
	maxRecent      = 16_384   // transactions
	maxRecentBytes = 16 << 20 // of their keys, values and what holds them
	eventBytes     = 120      // what holds one event
	maxTold        = 1000     // events, unless one transaction has more
	confirmEvery   = time.Second
)

// boltLog has the last transactions of a store.
type boltLog struct {
	floor int64 // the transactions after this revision are known
	txns  []recentTxn
	bytes int
}

type recentTxn struct {
	revision int64
	events   []Event
	bytes    int
}

// add appends a transaction that changed something, and drops the oldest ones that
// there is no room for.
func (l *boltLog) add(revision int64, events []Event) {
	if len(events) == 0 {
		return
	}
	t := recentTxn{revision: revision, events: events}
	for _, e := range events {
		t.bytes += len(e.Key) + len(e.Value) + eventBytes
	}
	l.txns, l.bytes = append(l.txns, t), l.bytes+t.bytes
	drop := 0
	for ; len(l.txns)-drop > maxRecent || l.bytes > maxRecentBytes; drop++ {
		l.floor = l.txns[drop].revision
		l.bytes -= l.txns[drop].bytes
	}
	clear(l.txns[:drop]) // for the garbage collector
	l.txns = l.txns[drop:]
}

// since returns the events of keys with a prefix after a revision, and the revision
// up to which these are all.
func (l *boltLog) since(prefix string, after int64) ([]Event, int64, error) {
	if after < l.floor {
		return nil, 0, ErrCompacted
	}
	from, _ := slices.BinarySearchFunc(l.txns, after+1, func(t recentTxn, revision int64) int { return int(t.revision - revision) })
	var events []Event
	for _, t := range l.txns[from:] {
		if len(events) > 0 && len(events)+len(t.events) > maxTold {
			break
		}
		for _, e := range t.events {
			if strings.HasPrefix(e.Key, prefix) {
				events = append(events, e)
			}
		}
		after = t.revision
	}
	return events, after, nil
}

// Watch implements KV.
func (b *Bolt) Watch(ctx context.Context, prefix string, after int64, f func(Changes) error) error {
	if err := b.reached(ctx, after); err != nil {
		return err
	}
	confirm := time.NewTimer(0)
	defer confirm.Stop()
	due := true         // to tell that there was nothing
	var asked time.Time // and all until then was told
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := b.Err(); err != nil {
			return err
		}
		now := time.Now()
		b.mu.Lock()
		changed := b.changed
		events, revision, err := b.recent.since(prefix, after)
		more := revision < b.revision
		b.mu.Unlock()
		if err != nil {
			return err
		}
		after = revision
		if !more {
			asked = now
		}
		if len(events) > 0 || due {
			if err := f(Changes{Revision: after, Events: events, Asked: asked}); err != nil {
				return err
			}
			due = false
			confirm.Reset(confirmEvery)
		}
		if more {
			continue
		}
		select {
		case <-changed:
		case <-confirm.C:
			due = true
		case <-b.closing:
			return ErrClosed
		case <-ctx.Done():
		}
	}
}

// reached returns ErrCompacted for a revision that is still to come. One that can
// be read already may not have reached the watchers yet.
func (b *Bolt) reached(ctx context.Context, revision int64) error {
	return b.view(ctx, func(tx *bolt.Tx) error {
		state, err := readState(tx)
		if err == nil && revision > state.revision {
			err = ErrCompacted
		}
		return err
	})
}

// wake lets watchers look again. The caller has locked b.mu.
func (b *Bolt) wake() {
	close(b.changed)
	b.changed = make(chan struct{})
}
