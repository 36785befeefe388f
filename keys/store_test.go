package keys

import (
	"bytes"
	"context"
	"errors"
	"sync"
)

// memStore keeps states in memory, and fails as a test wants.
type memStore struct {
	mu       sync.Mutex
	data     []byte
	revision int64
	changed  chan struct{} // closed at the next change
	after    error         // what the next Swap returns although it has written
}

func newMemStore() *memStore { return &memStore{changed: make(chan struct{})} }

func (m *memStore) Load(context.Context, string) ([]byte, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.data), m.revision, nil
}

func (m *memStore) Swap(_ context.Context, _ string, revision int64, data []byte) (int64, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if revision != m.revision {
		return 0, false, nil
	}
	m.set(data)
	err := m.after
	m.after = nil
	return m.revision, err == nil, err
}

func (m *memStore) set(data []byte) {
	m.data = bytes.Clone(data)
	m.revision++
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *memStore) Changed(ctx context.Context, _ string, after int64) error {
	for {
		m.mu.Lock()
		wait, revision := m.changed, m.revision
		m.mu.Unlock()
		if revision > after {
			return nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

var errLost = errors.New("connection lost")

// link is a node's way to a store that others use too. It can be cut, and it can
// break in the middle of a write.
type link struct {
	*memStore
	cut     bool
	breakIn int // calls until it breaks for good, as a crash does; 0: never
	dead    bool
	lose    func() bool // whether the answer to a write is lost
}

func (l *link) alive() error {
	if l.breakIn > 0 {
		if l.breakIn--; l.breakIn == 0 {
			l.dead = true
		}
	}
	if l.dead || l.cut {
		return errLost
	}
	return nil
}

func (l *link) Load(ctx context.Context, name string) ([]byte, int64, error) {
	if err := l.alive(); err != nil {
		return nil, 0, err
	}
	return l.memStore.Load(ctx, name)
}

func (l *link) Swap(ctx context.Context, name string, revision int64, data []byte) (int64, bool, error) {
	if err := l.alive(); err != nil {
		return 0, false, err
	}
	next, done, err := l.memStore.Swap(ctx, name, revision, data)
	if l.lose != nil && l.lose() {
		return 0, false, errLost
	}
	return next, done, err
}
