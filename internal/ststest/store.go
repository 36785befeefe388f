// Package ststest has parts of the domain that are kept in memory, for tests.
package ststest

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/workload-sts/sts/sts"
)

// Store is a sts.Store in memory. The zero value is not ready; see NewStore.
type Store struct {
	mu         sync.Mutex
	kept       map[sts.Place]kept
	heads      sts.Heads
	lastShadow int64
	moved      chan struct{} // closed when the heads move
	broken     error
	failed     error
	silent     bool
}

type kept struct {
	revision  sts.Revision
	resources map[sts.Ref]sts.Resource
}

// NewStore returns a store whose revision 1 has resources; without any it has no
// revision.
func NewStore(resources ...sts.Resource) *Store {
	s := &Store{kept: map[sts.Place]kept{}, moved: make(chan struct{})}
	if len(resources) > 0 {
		s.Put(resources...)
	}
	return s
}

// Break has calls fail that read or write, nil: no more.
func (s *Store) Break(err error) { s.set(func() { s.broken = err }) }

// Fail makes what Err returns.
func (s *Store) Fail(err error) { s.set(func() { s.failed = err }) }

// Silence has Follow say nothing, as a store that cannot be heard.
func (s *Store) Silence(silent bool) { s.set(func() { s.silent = silent }) }

func (s *Store) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.wake()
}

func (s *Store) wake() {
	close(s.moved)
	s.moved = make(chan struct{})
}

// Put makes another live revision, unchecked, as another node might.
func (s *Store) Put(resources ...sts.Resource) { s.edit(resources, nil) }

// Delete is Put without some resources.
func (s *Store) Delete(refs ...sts.Ref) { s.edit(nil, refs) }

func (s *Store) edit(put []sts.Resource, del []sts.Ref) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := sts.Commit{Line: sts.Live, Expected: s.heads.Live, From: sts.Place{Line: sts.Live, Number: s.heads.Live}, Put: put, Delete: del}
	if _, err := s.commit(c); err != nil {
		panic(err)
	}
}

// Load implements sts.Store.
func (s *Store) Load(_ context.Context, p sts.Place) (sts.Contents, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return sts.Contents{}, s.broken
	}
	if p.Number == 0 {
		p.Number = s.of(p.Line)
	}
	if p == (sts.Place{Line: sts.Live}) {
		return sts.Contents{}, nil
	}
	k, ok := s.kept[p]
	if !ok {
		return sts.Contents{}, sts.ErrNoRevision
	}
	return sts.Contents{Revision: k.revision, Resources: slices.Collect(maps.Values(k.resources))}, nil
}

func (s *Store) of(line sts.Line) int64 {
	if line == sts.Shadow {
		return s.heads.Shadow
	}
	return s.heads.Live
}

// Commit implements sts.Store.
func (s *Store) Commit(_ context.Context, c sts.Commit) (sts.Revision, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return sts.Revision{}, s.broken
	}
	return s.commit(c)
}

func (s *Store) commit(c sts.Commit) (sts.Revision, error) {
	if s.of(c.Line) != c.Expected || c.EndsShadow != 0 && c.EndsShadow != s.heads.Shadow {
		return sts.Revision{}, sts.ErrConflict
	}
	from, ok := s.kept[c.From]
	if !ok && c.From.Number != 0 {
		return sts.Revision{}, sts.ErrNoRevision
	}
	resources := maps.Clone(from.resources)
	if resources == nil {
		resources = map[sts.Ref]sts.Resource{}
	}
	for _, r := range c.Put {
		resources[r.Ref()] = r
	}
	for _, ref := range c.Delete {
		delete(resources, ref)
	}
	if c.EndsShadow != 0 {
		s.heads.Shadow = 0
	}
	if c.Line == sts.Shadow {
		s.lastShadow++
		s.heads.Shadow = s.lastShadow
	} else {
		s.heads.Live++
	}
	r := c.Revision
	r.Number, r.Size = s.of(c.Line), len(resources)
	s.kept[sts.Place{Line: c.Line, Number: r.Number}] = kept{r, resources}
	s.wake()
	return r, nil
}

// Discard implements sts.Store.
func (s *Store) Discard(_ context.Context, number int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.broken != nil:
		return s.broken
	case number == 0 || s.heads.Shadow != number:
		return sts.ErrConflict
	}
	s.heads.Shadow = 0
	s.wake()
	return nil
}

// Revisions implements sts.Store.
func (s *Store) Revisions(_ context.Context, before int64, limit int) ([]sts.Revision, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if before <= 0 || before > s.heads.Live {
		before = s.heads.Live + 1
	}
	var out []sts.Revision
	for n := before - 1; n > 0 && len(out) < limit; n-- {
		out = append(out, s.kept[sts.Place{Line: sts.Live, Number: n}].revision)
	}
	return out, s.broken
}

// Follow implements sts.Store.
func (s *Store) Follow(ctx context.Context, f func(sts.Heads) error) error {
	confirm := time.NewTicker(time.Second)
	defer confirm.Stop()
	for {
		s.mu.Lock()
		heads, moved, silent, broken := s.heads, s.moved, s.silent, s.broken
		s.mu.Unlock()
		heads.Confirmed = time.Now()
		if broken != nil {
			return broken
		}
		if !silent {
			if err := f(heads); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-moved:
		case <-confirm.C:
		}
	}
}

// Err implements sts.Store.
func (s *Store) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}
