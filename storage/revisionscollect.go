package storage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/workload-sts/sts/sts"
)

// When the collector works: at a start, once a day, and when something was
// committed here, but not more often than once in a while. At a start and once a day
// it looks at all pages, for those of commits that a crash has interrupted.
const (
	collectEvery = time.Minute
	searchEvery  = 24 * time.Hour
	retryCollect = 10 * time.Second
)

// Collect deletes, until ctx ends, all revisions but the newest, of which it keeps a
// number, and pages that no revision has. What it could not do is reported, and
// tried again.
func (s *Store) Collect(ctx context.Context, keep int, failed func(error)) {
	var swept time.Time
	for {
		all := swept.IsZero() || time.Since(swept) >= searchEvery
		done, err := s.collect(ctx, keep, all)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			failed(fmt.Errorf("deleting old revisions: %w", err))
		}
		if done && all {
			swept = time.Now()
		}
		if !done {
			sleep(ctx, retryCollect, nil)
			continue
		}
		sleep(ctx, collectEvery, nil)
		sleep(ctx, searchEvery, s.commits)
	}
}

// sleep waits for a time, for ctx to end or for a signal.
func sleep(ctx context.Context, d time.Duration, signal <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-signal:
	case <-t.C:
	}
}

// collect deletes what is not needed, once. done is false if somebody else changed
// something in between, so that nothing, or not all of it, was deleted. all looks
// for pages that no revision has; else only those of revisions that go, and of
// commits of this process that came to nothing, are looked at.
func (s *Store) collect(ctx context.Context, keep int, all bool) (done bool, err error) {
	keep = max(keep, 1) // what is in force
	// 1. The head comes first: see headKey.
	h, err := s.readHead(ctx)
	if err != nil || h.entry.Revision == 0 {
		return err == nil, err
	}
	if all {
		if err := s.sweepOld(ctx); err != nil {
			return false, err
		}
	}
	// 2. Which pages are needed, and which may not be.
	needed, perhaps := map[string]bool{}, map[string]bool{}
	var gone []string
	err = s.each(ctx, revisionPrefix, func(e Entry) error {
		p, err := placeOf(e.Key)
		if err != nil {
			return err
		}
		m, err := decodeManifest(e, p)
		if err != nil {
			return err
		}
		pages := needed
		if kept := p.Line == sts.Shadow && p.Number == h.Shadow || p.Line == sts.Live && p.Number > h.Live-int64(keep); !kept {
			gone, pages = append(gone, e.Key), perhaps
		}
		for _, hash := range slices.Concat(m.Buckets...) {
			pages[hash] = true
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	for hash := range s.doubt {
		perhaps[hash] = true
	}
	s.mu.Unlock()
	if all {
		err = s.each(ctx, pagePrefix, func(e Entry) error {
			perhaps[strings.TrimPrefix(e.Key, pagePrefix)] = true
			return nil
		})
		if err != nil {
			return false, err
		}
	}
	// 3. Revisions go before their pages.
	for hash := range perhaps {
		if !needed[hash] {
			gone = append(gone, pagePrefix+hash)
		}
	}
	return s.deleteUnderHead(ctx, h, gone)
}

// deleteUnderHead deletes keys in their order, as long as the head is as it was
// read. It puts the head anew each time, so that whoever has read it begins again.
func (s *Store) deleteUnderHead(ctx context.Context, h head, keys []string) (done bool, err error) {
	revision := h.entry.Revision
	for some := range slices.Chunk(keys, MaxTxn-2) {
		ops := []Op{{Key: headKey, Value: h.entry.Value}}
		for _, key := range some {
			ops = append(ops, Op{Key: key, Delete: true})
		}
		revision, done, err = s.kv.Txn(ctx, []Compare{{headKey, revision}}, ops)
		if err != nil || !done {
			return false, err
		}
		s.mu.Lock()
		for _, key := range some {
			delete(s.doubt, strings.TrimPrefix(key, pagePrefix))
		}
		s.mu.Unlock()
	}
	return true, nil
}

// each calls f with the entries below a prefix, of which there may be too many to
// hold at once.
func (s *Store) each(ctx context.Context, prefix string, f func(Entry) error) error {
	_, err := inPages(ctx, s.kv, prefix, listedAtOnce, f)
	return err
}

// placeOf reads the key of a manifest.
func placeOf(key string) (sts.Place, error) {
	line, number, ok := strings.Cut(strings.TrimPrefix(key, revisionPrefix), "/")
	n, err := strconv.ParseInt(number, 16, 64)
	p := sts.Place{Line: sts.Line(line), Number: n}
	if !ok || err != nil || manifestKey(p) != key || p.Line != sts.Live && p.Line != sts.Shadow {
		return p, unreadable(key, errors.New("this is not the key of a revision"))
	}
	return p, nil
}
