package kvtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workload-sts/sts/storage"
)

func testExpiry(t *testing.T, s Store) {
	ctx := t.Context()
	kv := open(t, s)
	moment := s.now().Add(1200 * time.Millisecond)
	at := write(t, kv,
		storage.Op{Key: "e/short", Value: []byte("1"), Expires: moment},
		storage.Op{Key: "e/long", Value: []byte("2"), Expires: moment.Add(time.Hour)},
		storage.Op{Key: "e/never", Value: []byte("3")})
	list, _, err := kv.List(ctx, "e/", "", 0)
	if err != nil || len(list) != 3 {
		t.Fatal(list, err)
	}
	for i, want := range []time.Time{moment.Add(time.Hour), {}, moment} {
		if got := list[i].Expires; got.Before(want) || got.Sub(want) >= time.Second || got.Nanosecond() != 0 {
			t.Errorf("%s expires at %v, not %v", list[i].Key, got, want)
		}
	}
	must(t, kv.Close())
	kv = open(t, s)
	if missing(t, kv, "e/short") && s.now().Before(moment) {
		t.Error("an entry has expired early when the store was opened again")
	}
	s.pass(3 * time.Second)
	eventually(t, s.Late, "the entry has expired", func() bool { return missing(t, kv, "e/short") })
	list, revision, err := kv.List(ctx, "e/", "", 0)
	if err != nil || len(list) != 2 || list[0].Key != "e/long" || list[1].Key != "e/never" || revision <= at {
		t.Errorf("left at %d are %v, %v", revision, list, err)
	}
	if _, done, err := kv.Txn(ctx, []storage.Compare{{Key: "e/short"}}, []storage.Op{{Key: "e/again"}}); !done || err != nil {
		t.Errorf("compared with nothing: %v, %v", done, err)
	}
}

// testExpiryMoved puts entries anew, with another moment or none, and deletes them:
// the old moment does nothing any more. What expired is told.
func testExpiryMoved(t *testing.T, s Store) {
	kv := open(t, s)
	moment := s.now().Add(time.Second)
	for _, key := range []string{"gone", "later", "never", "sooner", "deleted", "made again"} {
		write(t, kv, storage.Op{Key: key, Expires: moment})
	}
	start := write(t, kv,
		storage.Op{Key: "later", Value: []byte("2"), Expires: moment.Add(time.Hour)},
		storage.Op{Key: "never", Value: []byte("2")},
		storage.Op{Key: "deleted", Delete: true},
		storage.Op{Key: "made again", Delete: true})
	write(t, kv, storage.Op{Key: "made again", Value: []byte("2"), Expires: moment.Add(time.Hour)})
	s.pass(3 * time.Second)
	eventually(t, s.Late, "both have expired", func() bool { return missing(t, kv, "gone") && missing(t, kv, "sooner") })
	s.pass(2 * time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), s.Late)
	defer cancel()
	deleted := map[string]bool{}
	err := kv.Watch(ctx, "", start, func(c storage.Changes) error {
		for _, e := range c.Events {
			if e.Deleted && (e.Value != nil || !e.Expires.IsZero() || deleted[e.Key]) {
				t.Errorf("deletion %+v", e)
			}
			deleted[e.Key] = e.Deleted
		}
		if len(c.Events) == 0 && deleted["gone"] && deleted["sooner"] {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) || len(deleted) != 3 || deleted["made again"] {
		t.Errorf("told of %v: %v", deleted, err)
	}
	list, _, err := kv.List(t.Context(), "", "", 0)
	must(t, err)
	if len(list) != 3 {
		t.Errorf("left are %v", list)
	}
	for _, e := range list {
		if string(e.Value) != "2" {
			t.Errorf("left is %+v", e)
		}
	}
}

// testExpiryRace renews entries whose moment has come, or nearly: one that was
// renewed is there until its new moment.
func testExpiryRace(t *testing.T, s Store) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	kv := open(t, s)
	var wg sync.WaitGroup
	var renewed, expired atomic.Int64
	for w := range 4 {
		wg.Go(func() {
			for i := range 100 {
				key := fmt.Sprintf("%d/%d", w, i%3)
				moment := s.now().Add(time.Second)
				_, _, err := kv.Txn(ctx, nil, []storage.Op{{Key: key, Value: fmt.Append(nil, i), Expires: moment}})
				if ctx.Err() != nil {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				renewed.Add(1)
				for range 5 {
					_, err := kv.Get(ctx, key)
					if ctx.Err() != nil {
						return
					}
					if now := s.now(); err != nil && now.Before(moment) {
						t.Errorf("an entry that expires at %v is gone at %v: %v", moment, now, err)
						return
					}
					if err != nil {
						expired.Add(1)
					}
				}
			}
		})
	}
	over := make(chan struct{})
	go func() { wg.Wait(); close(over) }()
	for {
		select {
		case <-over:
			t.Logf("%d renewed, %d times one had expired", renewed.Load(), expired.Load())
			if renewed.Load() < 10 {
				t.Error("that is too few")
			}
			return
		default:
			s.pass(300 * time.Millisecond)
			time.Sleep(time.Millisecond)
		}
	}
}
