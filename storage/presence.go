package storage

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"time"
)

const (
	presencePrefix = "nodes/" // + a name that nobody else has: who uses the store
	presenceEvery  = 20 * time.Second
	presenceLasts  = 3 * presenceEvery
)

// Presence says in a store that this process uses it, until it is closed or, after a
// crash, for a minute. A store that several processes share has no lock that would
// say so.
type Presence struct {
	kv   KV
	key  string
	stop context.CancelFunc
	own  sync.WaitGroup
}

// Announce says in a store who uses it. Close it before the store.
func Announce(kv KV, who string) *Presence {
	p := &Presence{kv: kv, key: presencePrefix + rand.Text()}
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	p.own.Go(func() {
		tick := time.NewTicker(presenceEvery)
		defer tick.Stop()
		for {
			// One that fails is made up for by the next.
			kv.Txn(ctx, nil, []Op{{Key: p.key, Value: []byte(who), Expires: time.Now().Add(presenceLasts)}})
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return p
}

// Close takes back what was said.
func (p *Presence) Close() error {
	p.stop()
	p.own.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	p.kv.Txn(ctx, nil, []Op{{Key: p.key, Delete: true}}) // it ends by itself, soon
	return nil
}

// unused returns an error if somebody uses a store.
func unused(ctx context.Context, kv KV) error {
	list, _, err := kv.List(ctx, presencePrefix, "", 0)
	if err != nil || len(list) == 0 {
		return err
	}
	var who []string
	for _, e := range list {
		who = append(who, string(e.Value))
	}
	return fmt.Errorf("servers use the store, and what they write from now on would be missing in the copy: %s; stop them, and try again. One that was killed is forgotten within a minute", strings.Join(who, ", "))
}
