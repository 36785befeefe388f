package storage

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// EtcdOptions say how an etcd cluster is reached and used.
type EtcdOptions struct {
	Endpoints []string // https://HOST:PORT of the members; http for loopback addresses only
	Prefix    string   // begins all keys; default DefaultEtcdPrefix

	// PEM files; they are read again for each connection.
	CAFile            string // authorities of the members; default the system's
	CertFile, KeyFile string // what this client shows; default nothing
	ServerName        string // in the members' certificates; default the host of each endpoint

	Username     string // default none
	PasswordFile string // one line; read again when the login is refused

	RequestTimeout time.Duration // of a request, with its attempts; default DefaultEtcdTimeout
	DialTimeout    time.Duration // of a connection; default DefaultEtcdTimeout
	// ExpiryMargin is how long leases outlive the entries attached to them; default
	// 2 minutes.
	ExpiryMargin time.Duration
}

// Defaults of EtcdOptions.
const (
	DefaultEtcdPrefix  = "/sts/"
	DefaultEtcdTimeout = 3 * time.Second

	defaultExpiryMargin = 2 * time.Minute
)

func (o EtcdOptions) withDefaults() EtcdOptions {
	if o.Prefix == "" {
		o.Prefix = DefaultEtcdPrefix
	}
	if o.RequestTimeout == 0 {
		o.RequestTimeout = DefaultEtcdTimeout
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = DefaultEtcdTimeout
	}
	if o.ExpiryMargin == 0 {
		o.ExpiryMargin = defaultExpiryMargin
	}
	return o
}

// CheckEtcdEndpoint tells whether an endpoint can be used.
func CheckEtcdEndpoint(endpoint string, loopback func(host string) bool) error {
	u, err := url.Parse(endpoint)
	switch {
	case err != nil || u.Host == "" || u.Port() == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "":
		return errors.New("must be a URL of scheme, host and port alone, such as https://etcd-0.internal:2379")
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return errors.New("must be https; http is for loopback addresses only")
	case u.Scheme != "https" && u.Scheme != "http":
		return errors.New("must be an https URL")
	}
	return nil
}

// CheckEtcdPrefix tells whether a prefix of keys can be used.
func CheckEtcdPrefix(prefix string) error {
	if len(prefix) > 128 || !strings.HasPrefix(prefix, "/") || !strings.HasSuffix(prefix, "/") || len(prefix) < 2 {
		return errors.New("must begin and end with a slash and have at most 128 bytes, such as " + DefaultEtcdPrefix)
	}
	return checkKey(prefix)
}

// Etcd is a KV in an etcd cluster.
//
// Reads are linearizable. Every request has a deadline. A cluster that cannot be
// reached or has no quorum makes calls fail, and is good again when it is back. A
// cluster that has lost what it acknowledged, as one that was restored from a
// backup, is refused until an operator has said that this is how it is to be: see
// ErrRestored and ConfirmEtcd.
type Etcd struct {
	options EtcdOptions
	data    string // begins the keys of entries
	pulse   *pulse
	files   *etcdFiles
	client  atomic.Pointer[etcdClient]
	login   sync.Mutex // held while another client is made
	leases  etcdLeases
	store   etcdStore
	beats   etcdBeats

	ctx     context.Context // of what belongs to no caller
	cancel  context.CancelFunc
	open    context.Context // of watches
	shut    context.CancelFunc
	mu      sync.Mutex // held while running is raised
	closed  bool
	running sync.WaitGroup // calls under way
	own     sync.WaitGroup // goroutines of the store
}

var _ KV = (*Etcd)(nil)

// OpenEtcd connects to a cluster, and takes a prefix in it that is empty or was
// taken by this program before.
func OpenEtcd(ctx context.Context, o EtcdOptions) (_ *Etcd, err error) {
	e, err := newEtcd(o)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("opening the store in etcd: %w", err), e.Close())
		}
	}()
	if err := e.connect(ctx); err != nil {
		return nil, err
	}
	if err := e.take(ctx); err != nil {
		return nil, err
	}
	e.own.Go(e.beat)
	return e, nil
}

// newEtcd returns an Etcd that is not connected.
func newEtcd(o EtcdOptions) (*Etcd, error) {
	o = o.withDefaults()
	if err := CheckEtcdPrefix(o.Prefix); err != nil {
		return nil, fmt.Errorf("the prefix of keys in etcd: %w", err)
	}
	e := &Etcd{options: o, data: o.Prefix + "data/", pulse: &pulse{conns: map[string]*pulseConn{}}}
	e.files = &etcdFiles{options: o}
	if _, err := e.files.config(); err != nil {
		return nil, err
	}
	e.leases.of = map[int64]*etcdLease{}
	e.beats.next, e.beats.soon = make(chan struct{}), make(chan struct{}, 1)
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.open, e.shut = context.WithCancel(e.ctx)
	return e, nil
}

// Get implements KV.
func (e *Etcd) Get(ctx context.Context, key string) (Entry, error) {
	if err := checkKey(key); err != nil {
		return Entry{}, err
	}
	r, err := e.read(ctx, e.data+key)
	if err != nil {
		return Entry{}, err
	}
	if len(r.Kvs) == 0 {
		return Entry{}, ErrNotFound
	}
	return e.entry(r.Kvs[0])
}

// etcdPage is how many entries are read in one request.
const etcdPage = 1000

// List implements KV.
func (e *Etcd) List(ctx context.Context, prefix, after string, limit int) ([]Entry, int64, error) {
	// Should the revision be compacted between two pages, all are read anew.
	for range 3 {
		list, revision, err := e.list(ctx, prefix, after, limit)
		if !errors.Is(err, ErrCompacted) {
			return list, revision, err
		}
	}
	return nil, 0, errors.New("etcd is compacted faster than the entries can be read: compact it less often, such as every 5 minutes")
}

func (e *Etcd) list(ctx context.Context, prefix, after string, limit int) ([]Entry, int64, error) {
	from, end := e.data+prefix, clientv3.GetPrefixRangeEnd(e.data+prefix)
	if after != "" {
		from = max(from, e.data+after+"\x00")
	}
	var list []Entry
	revision := int64(0)
	for {
		page := etcdPage
		if limit > 0 {
			page = min(page, limit-len(list))
		}
		o := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(int64(page)), clientv3.WithRev(revision)}
		if from >= end {
			o = []clientv3.OpOption{clientv3.WithCountOnly()} // nothing comes after; only the revision is asked for
		}
		r, err := e.read(ctx, from, o...)
		if err != nil {
			return nil, 0, err
		}
		if revision == 0 {
			revision = r.Header.Revision
		}
		for _, kv := range r.Kvs {
			entry, err := e.entry(kv)
			if err != nil {
				return nil, 0, err
			}
			list = append(list, entry)
			from = string(kv.Key) + "\x00"
		}
		if !r.More || limit > 0 && len(list) >= limit {
			return list, revision, nil
		}
	}
}

// Err implements KV. A cluster may always come back, but not one that an operator
// had to confirm.
func (e *Etcd) Err() error {
	if why := e.store.refused(); errors.Is(why, errConfirmed) {
		return why
	}
	return nil
}

// Close implements KV.
func (e *Etcd) Close() error {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.shut()
	e.running.Wait()
	e.cancel()
	e.own.Wait()
	if c := e.client.Swap(nil); c != nil {
		return c.Close()
	}
	return nil
}

// enter begins a call, which ends with leave.
func (e *Etcd) enter(ctx context.Context) (leave func(), err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e.running.Add(1)
	return e.running.Done, nil
}
