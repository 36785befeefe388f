package storage

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// etcdFormat is the format of what is kept in etcd.
const etcdFormat = 1

// etcdRecord says whose a prefix is. It stands beside the entries, and every
// transaction demands that it is as it was.
type etcdRecord struct {
	Format  int    `json:"format"`
	Store   string `json:"store"`   // a name that no other store has
	Cluster string `json:"cluster"` // the id of the cluster that holds it
	// Restored is why the store is refused until an operator confirms it: a node has
	// seen that the cluster has lost something.
	Restored string `json:"restored,omitempty"`

	revision int64
}

// etcdStore is what is known of the store that is in the cluster.
type etcdStore struct {
	seen   atomic.Int64 // the highest revision that any answer has shown
	record atomic.Pointer[etcdRecord]

	mu  sync.Mutex
	why error // not nil: refused
}

func (e *Etcd) recordKey() string { return e.options.Prefix + "store" }

// refused returns why the store is not used, nil if it is.
func (s *etcdStore) refused() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why
}

func (s *etcdStore) refuse(why string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.why == nil {
		s.why = fmt.Errorf("%s: %w", why, ErrRestored)
	}
	return s.why
}

// check looks at an answer to a request that was made when the revision was seen to
// be before. Reads are linearizable, so it cannot be less unless something was
// lost.
func (s *etcdStore) check(h *pb.ResponseHeader, before int64) error {
	if r := s.record.Load(); r != nil && r.Cluster != clusterID(h) {
		return s.refuse(fmt.Sprintf("the id of the etcd cluster was %s and is %s", r.Cluster, clusterID(h)))
	}
	if h.Revision < before {
		return s.refuse(fmt.Sprintf("the revision of the etcd cluster was %d and is %d", before, h.Revision))
	}
	s.saw(h.Revision)
	return nil
}

func (s *etcdStore) saw(revision int64) {
	for {
		seen := s.seen.Load()
		if revision <= seen || s.seen.CompareAndSwap(seen, revision) {
			return
		}
	}
}

func clusterID(h *pb.ResponseHeader) string { return fmt.Sprintf("%016x", h.ClusterId) }

// take makes the prefix ours, or finds that it is.
func (e *Etcd) take(ctx context.Context) error {
	r, err := e.ask(ctx, e.recordKey())
	if err != nil {
		return err
	}
	if len(r.Kvs) == 0 {
		if err := e.make(ctx, r.Header); err != nil {
			return err
		}
		if r, err = e.ask(ctx, e.recordKey()); err != nil {
			return err
		}
	}
	return e.reread(r, r.Header)
}

// ask is read, whether the store is refused or not.
func (e *Etcd) ask(ctx context.Context, key string, o ...clientv3.OpOption) (r *clientv3.GetResponse, err error) {
	err = e.again(ctx, func(ctx context.Context, c *etcdClient) error {
		r, err = c.Get(ctx, key, o...)
		return err
	})
	return r, err
}

// make writes the record of a new store. Another node may be faster.
func (e *Etcd) make(ctx context.Context, h *pb.ResponseHeader) error {
	r, err := e.ask(ctx, e.options.Prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return err
	}
	if again, err := e.ask(ctx, e.recordKey()); err != nil || len(again.Kvs) > 0 {
		return err
	}
	if r.Count > 0 {
		return fmt.Errorf("the prefix %s in etcd has %d keys, and not the record %s that this program makes first: use another prefix, or remove what is there", e.options.Prefix, r.Count, e.recordKey())
	}
	_, err = e.write(ctx, 0, &etcdRecord{Format: etcdFormat, Store: rand.Text(), Cluster: clusterID(h)})
	return err
}

// write replaces the record if it has a revision, together with more.
func (e *Etcd) write(ctx context.Context, revision int64, r *etcdRecord, more ...clientv3.Op) (done bool, err error) {
	value, err := json.Marshal(r)
	if err != nil {
		return false, err
	}
	bounded, cancel := context.WithTimeout(ctx, e.options.RequestTimeout)
	defer cancel()
	answer, err := e.client.Load().Txn(bounded).
		If(clientv3.Compare(clientv3.ModRevision(e.recordKey()), "=", revision)).
		Then(append(more, clientv3.OpPut(e.recordKey(), string(value)))...).Commit()
	if err != nil {
		return false, e.problem(ctx, err, true)
	}
	return answer.Succeeded, nil
}

// reread takes the record as it was read, and returns why the store is refused.
func (e *Etcd) reread(r *clientv3.GetResponse, h *pb.ResponseHeader) error {
	s := &e.store
	if len(r.Kvs) == 0 {
		return s.refuse(fmt.Sprintf("the record %s of the store in etcd is gone", e.recordKey()))
	}
	next, err := decodeEtcdRecord(r.Kvs[0].Value)
	if err != nil {
		return fmt.Errorf("the record %s in etcd: %w", e.recordKey(), err)
	}
	next.revision = r.Kvs[0].ModRevision
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.record.Load()
	switch {
	case last != nil && last.revision == next.revision:
		return s.why
	case next.Restored != "":
		s.why = fmt.Errorf("%s: %w", next.Restored, ErrRestored)
	case next.Cluster != clusterID(h):
		s.why = fmt.Errorf("the id of the etcd cluster was %s and is %s: %w", next.Cluster, clusterID(h), ErrRestored)
	case last != nil && last.Store != next.Store:
		s.why = fmt.Errorf("the prefix %s in etcd holds another store than before: %w", e.options.Prefix, ErrRestored)
	case last != nil: // nothing else replaces a record
		s.why = errConfirmed
	default:
		s.seen.Store(h.Revision)
	}
	s.record.Store(next)
	return s.why
}

func decodeEtcdRecord(value []byte) (*etcdRecord, error) {
	var r etcdRecord
	d := json.NewDecoder(bytes.NewReader(value))
	if err := json.Unmarshal(value, &struct {
		Format *int `json:"format"`
	}{&r.Format}); err != nil {
		return nil, fmt.Errorf("it cannot be read: %w", err)
	}
	if r.Format != etcdFormat {
		return nil, fmt.Errorf("the store has format %d, and this program reads format %d: use the program that wrote it", r.Format, etcdFormat)
	}
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil || r.Store == "" {
		return nil, errors.Join(errors.New("it cannot be read"), err)
	}
	return &r, nil
}

// mark tells all nodes, and those to come, that the store is refused. It returns
// an error if that has to be tried again.
func (e *Etcd) mark(ctx context.Context, why error) error {
	r := e.store.record.Load()
	if r.Restored != "" {
		return nil
	}
	next := *r
	next.Restored = why.Error()
	_, err := e.write(ctx, r.revision, &next) // who was faster has done it or undone it
	return err
}

// errConfirmed is why a store is not used any more that was refused, and that an
// operator has let be used again. What this process knows, revisions, revocations
// and keys, is from before; a new one knows that there was a restore.
var errConfirmed = errors.New("the etcd cluster was restored from a backup, and an operator has let it be used: what this process knows is from before, start it anew")

// ConfirmEtcd lets a store be used again that is refused with ErrRestored, from the
// moment that it returns: by processes that are started then. It returns why it was
// refused, "" if it was not.
func ConfirmEtcd(ctx context.Context, o EtcdOptions, now time.Time) (why string, err error) {
	e, err := newEtcd(o)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	if err := e.connect(ctx); err != nil {
		return "", err
	}
	r, err := e.ask(ctx, e.recordKey())
	if err != nil {
		return "", err
	}
	if len(r.Kvs) == 0 {
		return "", fmt.Errorf("there is no store at the prefix %s of this etcd cluster", o.withDefaults().Prefix)
	}
	if refused := e.reread(r, r.Header); refused != nil {
		if !errors.Is(refused, ErrRestored) {
			return "", refused
		}
		why = refused.Error()
	}
	next := *e.store.record.Load()
	if why == "" {
		return "", nil
	}
	next.Cluster, next.Restored = clusterID(r.Header), ""
	// As after the restore of a file, so that tokens that were issued before do not
	// count.
	at := Op{Key: restoredKey, Value: restoredAt(now)}
	switch done, err := e.write(ctx, next.revision, &next, clientv3.OpPut(e.data+at.Key, etcdValue(at))); {
	case err != nil:
		return "", err
	case !done:
		return "", errors.New("somebody else has changed the record of the store meanwhile; try again")
	}
	return why, nil
}
