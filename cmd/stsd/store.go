package main

import (
	"context"
	"errors"
	"io/fs"
	"os"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/storage"
)

// openStore opens what state is kept in, and what remembers single uses.
func (n *node) openStore(ctx context.Context, c *stsv1.StorageConfig) (*storage.Store, error) {
	if c.Etcd != nil {
		return n.openEtcd(ctx, c.Etcd)
	}
	_, missing := os.Stat(c.BoltFile)
	kv, err := storage.OpenBolt(c.BoltFile, storage.BoltOptions{Now: clock})
	if err != nil {
		return nil, err
	}
	n.closers = append(n.closers, kv.Close)
	store := storage.NewStore(kv)
	begins, err := store.Begins(ctx)
	if err != nil {
		return nil, err
	}
	// Where there is no store yet, there was no client to use anything.
	replay, err := storage.OpenReplay(c.ReplayFile, storage.ReplayOptions{Now: clock, New: errors.Is(missing, fs.ErrNotExist), Begins: begins})
	if err != nil {
		return nil, err
	}
	n.closers = append(n.closers, replay.Close)
	n.replay = replay
	if lost := replay.Lost(); lost != "" {
		n.log.Warn("what was used once before is not known: client assertions that were made until now are refused", "file", c.ReplayFile, "reason", lost)
	}
	return store, nil
}

func (n *node) openEtcd(ctx context.Context, c *stsv1.EtcdConfig) (*storage.Store, error) {
	kv, err := storage.OpenEtcd(ctx, etcdOptions(c))
	if err != nil {
		return nil, err
	}
	n.closers = append(n.closers, kv.Close)
	store := storage.NewStore(kv)
	begins, err := store.Begins(ctx)
	if err != nil {
		return nil, err
	}
	replay := storage.NewReplayKV(kv, storage.ReplayKVOptions{Now: clock, Begins: begins, Log: n.log})
	n.closers = append(n.closers, replay.Close)
	n.replay = replay
	n.metrics = append(n.metrics, replay.Collector())
	n.closers = append(n.closers, storage.Announce(kv, hostname()).Close)
	if !begins.IsZero() {
		n.log.Info("the store was restored from a backup or moved: single-use tokens that were made until then are refused", "at", begins)
	}
	return store, nil
}
