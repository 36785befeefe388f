package storage

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/workload-sts/sts/sts"
)

// The layout before had a record for each resource, and one that was written with
// every change of them.
const (
	oldSpace  = "resource" // begins the next two, which are read together
	oldPrefix = "resource/"
	oldKey    = "resources"
)

// migrate makes the resources of the layout before revision 1. They are there
// until the head is, which is written in a transaction that takes away what the
// program before compared its changes with: so there is no moment at which both
// could change, or neither be read. What is left of them goes later.
func (s *Store) migrate(ctx context.Context) error {
	list, _, err := s.kv.List(ctx, oldSpace, "", 0)
	if err != nil {
		return fmt.Errorf("reading resources: %w", err)
	}
	var revision, newest int64
	var all []sts.Resource
	for _, e := range list {
		if e.Key == oldKey {
			revision = e.Revision
			continue
		}
		r, err := decodeResource(e.Value)
		if err != nil {
			return unreadable(e.Key, err)
		}
		if e.Key != oldPrefix+string(r.Ref().Kind)+"/"+r.Ref().Name {
			return unreadable(e.Key, fmt.Errorf("it holds %s", r.Ref()))
		}
		all, newest = append(all, r), max(newest, e.Revision)
	}
	if newest > revision {
		return fmt.Errorf("a resource has revision %d, but they were last changed at %d: something else has written to the store", newest, revision)
	}
	if revision == 0 {
		return nil // a new store
	}
	c := sts.Commit{Line: sts.Live, Put: all, Revision: sts.Revision{Time: time.Now().UTC(), Why: "taken over from the layout of a version before"}}
	for _, r := range all {
		c.Revision.Created.Add(r.Ref())
	}
	m, pages, err := s.build(ctx, manifest{Buckets: [][]string{nil}}, c)
	if err != nil {
		return err
	}
	if err := s.putPages(ctx, pages); err != nil {
		return err
	}
	next := head{}.moved(sts.Live)
	m.Format, m.Number = manifestFormat, next.Live
	// Another node may do the same at the same time: one of them is first.
	_, err = s.moveHead(ctx, head{}, next, sts.Live, m, Compare{oldKey, revision})
	return err
}

// sweepOld deletes what is left of the layout before.
func (s *Store) sweepOld(ctx context.Context) error {
	for {
		list, _, err := s.kv.List(ctx, oldPrefix, "", MaxTxn)
		if err != nil || len(list) == 0 {
			return err
		}
		var ops []Op
		for _, e := range list {
			if strings.HasPrefix(e.Key, oldPrefix) {
				ops = append(ops, Op{Key: e.Key, Delete: true})
			}
		}
		if _, _, err := s.kv.Txn(ctx, nil, ops); err != nil {
			return err
		}
	}
}
