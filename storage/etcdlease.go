package storage

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Entries of etcd expire by leases, which are never renewed. Entries whose moments
// are near one another share one, so their number depends on time and not on that
// of entries. A lease ends a margin after the last moment that may be attached to
// it, whenever that is done, so an entry is never gone early:
//
//   - The time of a lease is measured by the leader's monotonic clock, from when it
//     was granted, which is after we have read our clock. A leader that takes over
//     begins anew, so a lease ends late.
//   - An entry that is attached late, to a lease that has ended, is not written at
//     all: etcd refuses the transaction, and it is tried again with a new lease.
//   - An entry that is put again loses the lease that it had.
//
// What is left are clocks of nodes that differ, and are put back: the margin is for
// them.

// etcdLease is a lease that was granted, or is being.
type etcdLease struct {
	made chan struct{} // closed when id or err is there
	id   clientv3.LeaseID
	err  error
	ends time.Time // not earlier
	used int       // how many entries were attached
}

// The longest lease of etcd has 9,000,000,000 s. One lease holds so many entries,
// since all that hang on it are deleted in one step of the cluster.
const (
	longestLease = 200 * 365 * 24 * time.Hour
	leaseEntries = 2000
	// leasesOfPeriod is how finely moments are told apart: a lease ends within this
	// part of the time that its entries have left.
	leasesOfPeriod = 16
)

// etcdLeases are the leases of this process.
type etcdLeases struct {
	mu sync.Mutex
	of map[int64]*etcdLease // by the last moment, in Unix seconds, that they hold entries for
}

// bucket is the last moment that shares a lease with one. margin is at most twice
// the width of the narrowest.
func bucket(expires, now time.Time, margin time.Duration) time.Time {
	width := max(time.Second, (margin / 2).Truncate(time.Second))
	for width*leasesOfPeriod < expires.Sub(now) {
		width *= 2
	}
	seconds := int64(width / time.Second)
	return time.Unix((ceil(expires)+seconds-1)/seconds*seconds, 0)
}

// lease returns a lease that ends after a moment, and a margin.
func (e *Etcd) lease(ctx context.Context, expires time.Time) (*etcdLease, error) {
	now := time.Now()
	last := bucket(expires, now, e.options.ExpiryMargin)
	if last.Sub(now) > longestLease {
		return &etcdLease{}, nil // for ever
	}
	e.leases.mu.Lock()
	l := e.leases.of[last.Unix()]
	mine := l == nil || l.used >= leaseEntries || now.After(l.ends)
	if mine {
		l = &etcdLease{made: make(chan struct{}), ends: last.Add(e.options.ExpiryMargin)}
		e.leases.drop(now)
		e.leases.of[last.Unix()] = l
	}
	l.used++
	e.leases.mu.Unlock()
	if mine {
		e.own.Go(func() { e.grant(l, now) })
	}
	select {
	case <-l.made:
		return l, l.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// grant asks for a lease, for all that wait for it.
func (e *Etcd) grant(l *etcdLease, now time.Time) {
	defer close(l.made)
	// Not all at one moment: to delete what hangs on a lease is work.
	left := l.ends.Sub(now) + rand.N(e.options.ExpiryMargin/4)
	seconds := max(1, int64((left+time.Second-1)/time.Second))
	l.err = e.again(e.ctx, func(ctx context.Context, c *etcdClient) error {
		r, err := c.Grant(ctx, seconds)
		if err == nil {
			l.id = r.ID
		}
		return err
	})
	if l.err != nil {
		e.leases.forget([]*etcdLease{l})
	}
}

// drop forgets leases that have ended. The caller holds mu.
func (s *etcdLeases) drop(now time.Time) {
	for at, l := range s.of {
		if now.After(l.ends) {
			delete(s.of, at)
		}
	}
}

// forget makes the next entries get leases of their own.
func (s *etcdLeases) forget(leases []*etcdLease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for at, l := range s.of {
		for _, gone := range leases {
			if l == gone {
				delete(s.of, at)
			}
		}
	}
}
