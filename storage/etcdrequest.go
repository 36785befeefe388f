package storage

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// etcdAttempts is how often a request is made that may be made again, in the time
// of one; each goes to another member than the one before.
const etcdAttempts = 3

// read is a linearizable read. It returns ErrCompacted if the revision that it
// asks for was compacted.
func (e *Etcd) read(ctx context.Context, key string, o ...clientv3.OpOption) (r *clientv3.GetResponse, err error) {
	leave, err := e.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := e.store.refused(); err != nil {
		return nil, err
	}
	before := e.store.seen.Load()
	err = e.again(ctx, func(ctx context.Context, c *etcdClient) error {
		r, err = c.Get(ctx, key, o...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return r, e.store.check(r.Header, before)
}

// again makes a request that does no harm when it is made again.
func (e *Etcd) again(ctx context.Context, request func(context.Context, *etcdClient) error) error {
	all, cancel := context.WithTimeout(ctx, e.options.RequestTimeout)
	defer cancel()
	var err error
	for range etcdAttempts {
		c := e.client.Load()
		one, cancel := context.WithTimeout(all, e.options.RequestTimeout/etcdAttempts)
		err = request(one, c)
		cancel()
		if err == nil || all.Err() != nil {
			break
		}
		if e.loggedOut(err) {
			if err = e.relogin(all, c); err != nil {
				break
			}
			continue
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			break // the library has tried again already if that could help
		}
	}
	return e.problem(ctx, err, false)
}

// Txn implements KV.
func (e *Etcd) Txn(ctx context.Context, compare []Compare, ops []Op) (int64, bool, error) {
	if err := checkTxn(compare, ops); err != nil {
		return 0, false, err
	}
	leave, err := e.enter(ctx)
	if err != nil {
		return 0, false, err
	}
	defer leave()
	bounded, cancel := context.WithTimeout(ctx, e.options.RequestTimeout)
	defer cancel()
	// What is tried again was certainly not done.
	for attempt := 1; ; attempt++ {
		revision, done, err := e.txn(ctx, bounded, compare, ops)
		if attempt == etcdAttempts || !errors.Is(err, errTryAgain) {
			return revision, done, err
		}
	}
}

// errTryAgain is why a transaction was not done and may be tried again.
var errTryAgain = errors.New("the transaction was not done")

func (e *Etcd) txn(caller, ctx context.Context, compare []Compare, ops []Op) (int64, bool, error) {
	if err := e.store.refused(); err != nil {
		return 0, false, err
	}
	c, id := e.client.Load(), e.store.record.Load()
	puts, leases, err := e.puts(ctx, ops)
	if err != nil {
		return 0, false, e.problem(caller, err, false)
	}
	// A cluster that another node has found to be restored takes no writes of ours.
	conditions := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(e.recordKey()), "=", id.revision)}
	for _, cmp := range compare {
		conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(e.data+cmp.Key), "=", cmp.Revision))
	}
	before := e.store.seen.Load()
	r, err := c.Txn(ctx).If(conditions...).Then(puts...).Else(clientv3.OpGet(e.recordKey())).Commit()
	switch {
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		e.leases.forget(leases)
		return 0, false, errors.Join(errTryAgain, e.problem(caller, err, false))
	case err != nil && e.loggedOut(err):
		if err := e.relogin(ctx, c); err != nil {
			return 0, false, e.problem(caller, err, false)
		}
		return 0, false, errors.Join(errTryAgain, e.problem(caller, err, false))
	case err != nil:
		return 0, false, e.problem(caller, err, len(ops) > 0)
	}
	if err := e.store.check(r.Header, before); err != nil {
		return 0, false, err
	}
	if !r.Succeeded {
		found := r.Responses[0].GetResponseRange()
		if len(found.Kvs) != 1 || found.Kvs[0].ModRevision != id.revision {
			e.reread((*clientv3.GetResponse)(found), r.Header)
			return 0, false, errors.Join(errTryAgain, errors.New("the record of the store in etcd has changed"))
		}
	}
	return r.Header.Revision, r.Succeeded, nil
}

// puts are the operations in etcd's words, and the leases that they attach to.
func (e *Etcd) puts(ctx context.Context, ops []Op) ([]clientv3.Op, []*etcdLease, error) {
	out := make([]clientv3.Op, 0, len(ops))
	var leases []*etcdLease
	for _, op := range ops {
		key := e.data + op.Key
		switch {
		case op.Delete:
			out = append(out, clientv3.OpDelete(key))
		case op.Expires.IsZero():
			out = append(out, clientv3.OpPut(key, etcdValue(op)))
		default:
			l, err := e.lease(ctx, op.Expires)
			if err != nil {
				return nil, nil, err
			}
			leases = append(leases, l)
			out = append(out, clientv3.OpPut(key, etcdValue(op), clientv3.WithLease(l.id)))
		}
	}
	return out, leases, nil
}
