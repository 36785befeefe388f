package storage

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/workload-sts/sts/sts"
)

// Bounds of what is done at once, and how often it is tried anew.
const (
	readsAtOnce  = 8
	headAttempts = 16 // each time somebody else has moved the head
	listedAtOnce = 16 // manifests or pages in one answer of the store
)

// Load implements sts.Store.
func (s *Store) Load(ctx context.Context, p sts.Place) (sts.Contents, error) {
	if p.Number != 0 {
		return s.loadKept(ctx, p)
	}
	var last error
	for range headAttempts {
		h, err := s.head(ctx)
		if err != nil {
			return sts.Contents{}, err
		}
		p.Number = h.of(p.Line)
		if p.Number == 0 {
			s.forget(p.Line)
			if p.Line == sts.Live {
				return sts.Contents{}, nil
			}
			return sts.Contents{}, sts.ErrNoRevision
		}
		m, snapshot, pages, err := s.load(ctx, p, h)
		if err == nil {
			s.remember(p.Line, m, pages)
			return snapshot, nil
		}
		if !errors.Is(err, errNoPage) && !errors.Is(err, sts.ErrNoRevision) {
			return sts.Contents{}, err
		}
		// Nothing of what is in force is ever deleted, so it is not in force any
		// more, or the store is damaged.
		last = fmt.Errorf("revision %d: %w", p.Number, err)
		if again, err := s.readHead(ctx); err != nil || again.of(p.Line) == p.Number {
			return sts.Contents{}, errors.Join(last, err)
		}
	}
	return sts.Contents{}, last
}

// loadKept loads a revision that need not be in force.
func (s *Store) loadKept(ctx context.Context, p sts.Place) (sts.Contents, error) {
	_, snapshot, _, err := s.load(ctx, p, head{})
	if errors.Is(err, errNoPage) {
		// Either the store is damaged, or the revision has just been given up.
		if _, gone := s.kv.Get(ctx, manifestKey(p)); errors.Is(gone, ErrNotFound) {
			return sts.Contents{}, sts.ErrNoRevision
		}
	}
	return snapshot, err
}

// load reads a revision. Pages that are known are not read again.
func (s *Store) load(ctx context.Context, p sts.Place, h head) (manifest, sts.Contents, map[string]page, error) {
	m, err := s.manifest(ctx, p, h)
	if err != nil {
		return m, sts.Contents{}, nil, err
	}
	parts := make([][]page, len(m.Buckets))
	buckets := make([][]sts.Resource, len(m.Buckets))
	g, reading := errgroup.WithContext(ctx)
	g.SetLimit(max(readsAtOnce, runtime.GOMAXPROCS(0)))
	for i := range m.Buckets {
		g.Go(func() (err error) {
			parts[i], buckets[i], err = s.bucket(reading, m, i)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return m, sts.Contents{}, nil, err
	}
	pages := map[string]page{}
	for i, bucket := range m.Buckets {
		for n, hash := range bucket {
			pages[hash] = parts[i][n]
		}
	}
	snapshot := sts.Contents{Revision: m.Revision, Resources: slices.Concat(buckets...)}
	if len(snapshot.Resources) != m.Size {
		return m, sts.Contents{}, nil, unreadable(manifestKey(p), fmt.Errorf("it has %d resources instead of %d", len(snapshot.Resources), m.Size))
	}
	return m, snapshot, pages, nil
}

// Revisions implements sts.Store.
func (s *Store) Revisions(ctx context.Context, before int64, limit int) ([]sts.Revision, error) {
	h, err := s.head(ctx)
	if err != nil {
		return nil, err
	}
	if before <= 0 || before > h.Live {
		before = h.Live + 1
	}
	var out []sts.Revision
	for n := before - 1; n > 0 && len(out) < limit; n-- {
		m, err := s.manifest(ctx, sts.Place{Line: sts.Live, Number: n}, head{})
		if errors.Is(err, sts.ErrNoRevision) {
			break // those before it are gone as well
		}
		if err != nil {
			return nil, err
		}
		out = append(out, m.Revision)
	}
	return out, nil
}

// Follow implements sts.Store.
func (s *Store) Follow(ctx context.Context, f func(sts.Heads) error) error {
	for {
		asked := time.Now()
		list, revision, err := s.kv.List(ctx, headKey, "", 1)
		if err != nil {
			return fmt.Errorf("reading which revision is in force: %w", err)
		}
		var h head
		if len(list) == 1 && list[0].Key == headKey {
			if h, err = decodeHead(list[0]); err != nil {
				return err
			}
		}
		if err := f(h.heads(asked)); err != nil {
			return err
		}
		err = s.kv.Watch(ctx, headKey, revision, func(c Changes) error {
			for _, e := range c.Events {
				if e.Key != headKey {
					continue
				}
				if h = (head{}); e.Deleted {
					continue
				}
				if h, err = decodeHead(e.Entry); err != nil {
					return err
				}
			}
			return f(h.heads(c.Asked))
		})
		if !errors.Is(err, ErrCompacted) {
			return err
		}
	}
}

func (h head) heads(asked time.Time) sts.Heads {
	return sts.Heads{Live: h.Live, Shadow: h.Shadow, Confirmed: asked}
}
