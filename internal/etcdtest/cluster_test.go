package etcdtest

import (
	"context"
	"testing"
	"time"
)

// TestCluster breaks a cluster in the ways that the tests of others need.
func TestCluster(t *testing.T) {
	c := Start(t, 3)
	put := func(key string) {
		t.Helper()
		c.Try(t, func(ctx context.Context) error { _, err := c.Root().Put(ctx, key, "x"); return err })
	}
	count := func(key string) int64 {
		t.Helper()
		var n int64
		c.Try(t, func(ctx context.Context) error {
			r, err := c.Root().Get(ctx, key)
			if err == nil {
				n = r.Count
			}
			return err
		})
		return n
	}
	put("a")
	file := c.Snapshot(t)
	put("b")
	first := c.Leader(t)
	first.Kill(t)
	put("c")
	if c.Leader(t) == first {
		t.Fatal("a killed member leads")
	}
	first.Restart(t)
	before := c.Leader(t)
	c.MoveLeader(t)
	if c.Leader(t) == before {
		t.Error("the leader did not move")
	}
	paused := c.Follower(t)
	paused.Pause(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := c.Root().Status(ctx, paused.URL()); err == nil {
		t.Error("a paused member answers")
	}
	paused.Resume(t)
	c.Compact(t)
	c.Restore(t, file, "second")
	if count("a") != 1 || count("b") != 0 {
		t.Error("a restored cluster does not have what its snapshot had")
	}
}
