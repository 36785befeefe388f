package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/workload-sts/sts/sts"
)

// Commit implements sts.Store.
func (s *Store) Commit(ctx context.Context, c sts.Commit) (sts.Revision, error) {
	for range headAttempts {
		// 1. What it is made from. The head comes first: see headKey.
		h, err := s.head(ctx)
		if err != nil {
			return sts.Revision{}, err
		}
		if h.of(c.Line) != c.Expected || c.EndsShadow != 0 && h.Shadow != c.EndsShadow {
			return sts.Revision{}, sts.ErrConflict
		}
		m, pages, err := s.next(ctx, h, c)
		if err != nil {
			if err := s.passed(ctx, h, err); err != nil {
				return sts.Revision{}, err
			}
			continue
		}
		next := h.moved(c.Line)
		if c.EndsShadow != 0 {
			next.Shadow = 0
		}
		m.Format, m.Revision.Number = manifestFormat, next.of(c.Line)
		// 2. The new pages.
		if err := s.putPages(ctx, pages); err != nil {
			return sts.Revision{}, err
		}
		// 3. All of it in force.
		done, err := s.moveHead(ctx, h, next, c.Line, m)
		if err != nil {
			return sts.Revision{}, err
		}
		if done {
			s.committed(c.Line, m, pages)
			return m.Revision, nil
		}
		// The head was moved, or the collector was at work.
	}
	return sts.Revision{}, sts.ErrConflict
}

// next makes the manifest of a commit, and its new pages.
func (s *Store) next(ctx context.Context, h head, c sts.Commit) (manifest, []encoded, error) {
	from, err := s.manifest(ctx, c.From, h)
	if err != nil {
		return manifest{}, nil, err
	}
	return s.build(ctx, from, c)
}

// passed returns nil if something is missing because it has been given up since the
// head was read. Then the head has another entry: it is written anew whenever
// anything is deleted.
func (s *Store) passed(ctx context.Context, h head, missing error) error {
	if !errors.Is(missing, errNoPage) && !errors.Is(missing, sts.ErrNoRevision) {
		return missing
	}
	now, err := s.readHead(ctx)
	if err != nil || now.entry.Revision == h.entry.Revision {
		return errors.Join(missing, err)
	}
	return nil
}

// moveHead writes a manifest and moves the head if it is still as it was read. What
// else is compared is deleted.
func (s *Store) moveHead(ctx context.Context, old, next head, line sts.Line, m manifest, and ...Compare) (done bool, err error) {
	value, err := json.Marshal(m)
	if err != nil {
		return false, fmt.Errorf("encoding revision %d: %w", m.Number, err)
	}
	if len(value) > maxStoredValue {
		return false, fmt.Errorf("revision %d has %d resources, more than can be stored", m.Number, m.Size)
	}
	op, err := next.op()
	if err != nil {
		return false, err
	}
	ops := []Op{op, {Key: manifestKey(sts.Place{Line: line, Number: m.Number}), Value: value}}
	for _, c := range and {
		ops = append(ops, Op{Key: c.Key, Delete: true})
	}
	_, done, err = s.kv.Txn(ctx, append([]Compare{{headKey, old.entry.Revision}}, and...), ops)
	return done, err
}

// committed remembers what was written, so that it need not be read.
func (s *Store) committed(line sts.Line, m manifest, pages []encoded) {
	known := make(map[string]page, len(pages))
	s.mu.Lock()
	for _, p := range pages {
		known[p.hash] = p.resources
		delete(s.doubt, p.hash)
	}
	s.mu.Unlock()
	s.remember(line, m, known)
	select {
	case s.commits <- struct{}{}:
	default: // the collector has been told already
	}
}

// putPages writes pages in as many transactions as it takes. Until a commit with
// them is done, nobody may ever need them.
func (s *Store) putPages(ctx context.Context, pages []encoded) error {
	s.mu.Lock()
	for _, p := range pages {
		s.doubt[p.hash] = true
	}
	s.mu.Unlock()
	var ops []Op
	size := 0
	flush := func() error {
		if len(ops) == 0 {
			return nil
		}
		_, _, err := s.kv.Txn(ctx, nil, ops)
		ops, size = nil, 0
		return err
	}
	for _, p := range pages {
		op := Op{Key: pagePrefix + p.hash, Value: p.data}
		if n := len(op.Key) + len(op.Value); len(ops) == MaxTxn || size+n > MaxTxnBytes {
			if err := flush(); err != nil {
				return err
			}
		}
		ops, size = append(ops, op), size+len(op.Key)+len(op.Value)
	}
	return flush()
}

// build makes the manifest of a revision, and the pages that it does not have in
// common with the one that it is made from.
func (s *Store) build(ctx context.Context, from manifest, c sts.Commit) (manifest, []encoded, error) {
	m := manifest{Revision: c.Revision, Buckets: slices.Clone(from.Buckets)}
	change, err := changeOf(c)
	if err != nil {
		return m, nil, err
	}
	// Those that are new and those that are gone are known only when it is done; for
	// the number of buckets it does not matter.
	n := s.layout.buckets(from.Size+len(c.Put)-len(c.Delete), len(from.Buckets))
	m.Size = from.Size
	if n != len(from.Buckets) {
		return s.rebuild(ctx, from, m, change, n)
	}
	var pages []encoded
	for i, some := range byBucket(change, n) {
		_, old, err := s.bucket(ctx, from, i)
		if err != nil {
			return m, nil, err
		}
		next := merged(old, some)
		m.Size += len(next) - len(old)
		put, err := s.layout.encode(next)
		if err != nil {
			return m, nil, err
		}
		m.Buckets[i] = nil
		for _, p := range put {
			m.Buckets[i] = append(m.Buckets[i], p.hash)
			if !slices.Contains(from.Buckets[i], p.hash) {
				pages = append(pages, p)
			}
		}
	}
	return m, pages, nil
}

// rebuild is build with another number of buckets.
func (s *Store) rebuild(ctx context.Context, from, m manifest, change map[sts.Ref]*sts.Resource, n int) (manifest, []encoded, error) {
	var all page
	for i := range from.Buckets {
		_, p, err := s.bucket(ctx, from, i)
		if err != nil {
			return m, nil, err
		}
		all = append(all, p...)
	}
	all = merged(all, change)
	buckets := make([]page, n)
	for _, r := range all {
		i := bucketOf(r.Ref(), n)
		buckets[i] = append(buckets[i], r)
	}
	m.Buckets, m.Size = make([][]string, n), len(all)
	var pages []encoded
	for i, bucket := range buckets {
		put, err := s.layout.encode(bucket)
		if err != nil {
			return m, nil, err
		}
		for _, p := range put {
			m.Buckets[i] = append(m.Buckets[i], p.hash)
		}
		pages = append(pages, put...)
	}
	return m, pages, nil
}

// changeOf returns what becomes of each resource of a change, nil: it is deleted.
// Whatever is put can be read back.
func changeOf(c sts.Commit) (map[sts.Ref]*sts.Resource, error) {
	change := make(map[sts.Ref]*sts.Resource, len(c.Put)+len(c.Delete))
	for i, r := range c.Put {
		value, err := json.Marshal(r)
		if err == nil {
			_, err = decodeResource(value)
		}
		if err != nil {
			return nil, fmt.Errorf("%s would not be read back: %w", r.Ref(), err)
		}
		change[r.Ref()] = &c.Put[i]
	}
	for _, ref := range c.Delete {
		change[ref] = nil
	}
	if len(change) != len(c.Put)+len(c.Delete) {
		return nil, fmt.Errorf("a resource is changed twice in one change")
	}
	return change, nil
}

func byBucket(change map[sts.Ref]*sts.Resource, n int) map[int]map[sts.Ref]*sts.Resource {
	out := map[int]map[sts.Ref]*sts.Resource{}
	for ref, r := range change {
		i := bucketOf(ref, n)
		if out[i] == nil {
			out[i] = map[sts.Ref]*sts.Resource{}
		}
		out[i][ref] = r
	}
	return out
}

// merged returns resources after a change, in order.
func merged(old page, change map[sts.Ref]*sts.Resource) page {
	next := make(page, 0, len(old)+len(change))
	for _, r := range old {
		if _, touched := change[r.Ref()]; !touched {
			next = append(next, r)
		}
	}
	for _, r := range change {
		if r != nil {
			next = append(next, *r)
		}
	}
	slices.SortFunc(next, compareResources)
	return next
}

// Discard implements sts.Store.
func (s *Store) Discard(ctx context.Context, number int64) error {
	for range headAttempts {
		h, err := s.head(ctx)
		if err != nil {
			return err
		}
		if h.Shadow != number || number == 0 {
			return sts.ErrConflict
		}
		next := h
		next.Shadow = 0
		op, err := next.op()
		if err != nil {
			return err
		}
		_, done, err := s.kv.Txn(ctx, []Compare{{headKey, h.entry.Revision}}, []Op{op})
		if err != nil || done {
			return err
		}
	}
	return sts.ErrConflict
}
