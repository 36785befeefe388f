package storage

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"
)

const (
	// etcdStuck is how long a stream of changes may be behind what the cluster has
	// said before it is opened anew, at another member.
	etcdStuck = 3 * time.Second
	// etcdRetry is how long to wait before that.
	etcdRetry = 100 * time.Millisecond
	// What may wait for a watcher that is slow.
	etcdWaiting      = 100_000
	etcdWaitingBytes = 64 << 20
)

// Watch implements KV.
//
// That nothing has changed is known from two answers: the cluster says, by a
// linearizable read, at which revision it stands; and the member that tells us of
// changes says that it has told everything up to there.
func (e *Etcd) Watch(ctx context.Context, prefix string, after int64, f func(Changes) error) error {
	leave, err := e.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.open, cancel)()
	w := &etcdWatch{e: e, prefix: e.data + prefix, began: time.Now(), start: after, ready: make(chan struct{}, 1)}
	w.changes.Revision = after
	e.beats.want()
	var following sync.WaitGroup
	following.Go(func() { w.end(w.follow(watching, after)) })
	defer following.Wait()
	defer cancel()
	for {
		select {
		case <-w.ready:
		case <-watching.Done():
		}
		if e.open.Err() != nil {
			return ErrClosed
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		changes, news, err := w.take()
		if err != nil {
			return err
		}
		if !news {
			continue
		}
		if err := f(changes); err != nil {
			return err
		}
	}
}

// etcdWatch is a call of Watch: changes come in by one goroutine and go out by
// another.
type etcdWatch struct {
	e      *Etcd
	prefix string
	began  time.Time
	start  int64
	ready  chan struct{} // has a value when there is something to take

	mu      sync.Mutex
	changes Changes // what waits to be taken
	bytes   int
	news    bool
	err     error // why nothing more comes
}

// take returns what waits.
func (w *etcdWatch) take() (c Changes, news bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil && !w.news {
		return Changes{}, false, w.err
	}
	c, news = w.changes, w.news
	w.changes.Events, w.bytes, w.news = nil, 0, false
	if w.err != nil {
		w.wake() // to come back for the error
	}
	return c, news, nil
}

func (w *etcdWatch) wake() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

func (w *etcdWatch) end(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
	w.wake()
}

// add takes events in.
func (w *etcdWatch) add(events []*clientv3.Event) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, event := range events {
		entry, err := w.e.entry(event.Kv)
		deleted := event.Type == clientv3.EventTypeDelete
		if deleted {
			entry, err = Entry{Key: string(event.Kv.Key[len(w.e.data):]), Revision: event.Kv.ModRevision}, nil
		}
		if err != nil {
			return err
		}
		w.changes.Events = append(w.changes.Events, Event{Entry: entry, Deleted: deleted})
		w.bytes += len(entry.Key) + len(entry.Value)
		w.changes.Revision = max(w.changes.Revision, entry.Revision)
	}
	w.news = true
	w.wake()
	if len(w.changes.Events) > etcdWaiting || w.bytes > etcdWaitingBytes {
		return ErrCompacted // they are dropped, so they are not known any more
	}
	return nil
}

// confirm notes that everything up to a revision was told.
func (w *etcdWatch) confirm(revision int64, asked time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changes.Revision = max(w.changes.Revision, revision)
	w.changes.Asked = asked
	w.news = true
	w.wake()
}

// follow takes changes in until ctx ends or they cannot be known any more. The
// stream that they come by may break and is opened anew where it stood.
func (w *etcdWatch) follow(ctx context.Context, after int64) error {
	for {
		var err error
		if after, err = w.stream(ctx, after); !errors.Is(err, errBroken) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(etcdRetry):
		}
	}
}

// errBroken is why a stream of changes has ended that can go on.
var errBroken = errors.New("the stream of changes has ended")

var etcdStreams atomic.Int64

// stream takes changes in from one stream, and returns up to where.
func (w *etcdWatch) stream(ctx context.Context, after int64) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Each has a stream of its own, told by what is in its metadata, so that a member
	// says of this one where it stands, whatever others wait for. A member without a
	// leader ends it.
	ctx = clientv3.WithRequireLeader(metadata.AppendToOutgoingContext(ctx, "sts-watch", strconv.FormatInt(etcdStreams.Add(1), 10)))
	c := w.e.client.Load()
	told := c.Watch(ctx, w.prefix, clientv3.WithPrefix(), clientv3.WithRev(after+1), clientv3.WithFragment(), clientv3.WithCreatedNotify())
	var asked beat // what the stream is asked about
	var since time.Time
	last, next := w.e.beats.now()
	for {
		var again <-chan time.Time
		if asked != (beat{}) {
			again = time.After(etcdRetry) // a member does not answer while it has something to tell
		}
		select {
		case <-again:
		case <-ctx.Done():
			return after, ctx.Err()
		case <-next:
			last, next = w.e.beats.now()
		case r, ok := <-told:
			if !ok {
				return after, errBroken
			}
			if err := w.broken(r); err != nil {
				return after, err
			}
			if r.Created {
				break // now it can be asked
			}
			if len(r.Events) > 0 {
				if err := w.add(r.Events); err != nil {
					return after, err
				}
				after = max(after, r.Events[len(r.Events)-1].Kv.ModRevision)
				w.e.store.saw(after)
			}
			if r.IsProgressNotify() {
				after = max(after, r.Header.Revision)
			}
			if asked != (beat{}) && after >= asked.revision {
				w.confirm(after, asked.asked)
				asked = beat{}
			}
			continue
		}
		if last.asked.After(w.began) {
			if err := w.current(last); err != nil {
				return after, err
			}
			if asked == (beat{}) {
				asked, since = last, time.Now()
			}
		}
		switch {
		case asked == (beat{}):
		case after >= asked.revision:
			w.confirm(after, asked.asked)
			asked = beat{}
		case time.Since(since) > etcdStuck:
			return after, errBroken
		default:
			w.question(ctx, c)
		}
	}
}

// question asks the member how far it has told everything; it answers by the
// stream.
func (w *etcdWatch) question(ctx context.Context, c *etcdClient) {
	ctx, cancel := context.WithTimeout(ctx, etcdRetry)
	defer cancel()
	c.RequestProgress(ctx) // if it cannot be asked, it is asked again at the next beat
}

// current tells whether a watch is still about the store that is there.
func (w *etcdWatch) current(last beat) error {
	if err := w.e.Err(); err != nil {
		return err
	}
	if last.asked.After(w.began) && last.revision < w.start && w.e.store.refused() == nil {
		return ErrCompacted // it has not reached that revision
	}
	return nil
}

// broken returns why a stream has ended, nil if it has not.
func (w *etcdWatch) broken(r clientv3.WatchResponse) error {
	switch err := r.Err(); {
	case err == nil:
		return nil
	case r.CompactRevision > 0 || errors.Is(err, rpctypes.ErrCompacted):
		return ErrCompacted
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		return w.e.problem(context.Background(), err, false)
	default:
		return errBroken
	}
}
