package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Bolt is a KV in one file.
//
// Transactions that arrive while one is being written go out together in the
// next write, each with a revision of its own.
type Bolt struct {
	db   *bolt.DB
	path string

	txns    chan *txn
	closing chan struct{} // closed by Close
	written chan struct{} // closed when the last transaction was written
	file    *os.File      // the one that bbolt has
	seen    os.FileInfo   // of file, when it was last written
	sweeper sweeper       // of writeLoop

	damage atomic.Pointer[error] // what was found in use
	copied sync.Mutex            // held while a Snapshot is made

	mu       sync.Mutex
	failed   error         // the write that could not be made durable
	revision int64         // of the last transaction
	entries  int           // when it was opened
	changed  chan struct{} // closed when revision rises, or something failed
	recent   boltLog       // the last transactions, for watchers
	closed   bool
}

// BoltOptions say how to open a store; the zero value is right.
type BoltOptions struct {
	Now        func() time.Time // by which entries expire; time.Now
	SweepEvery time.Duration    // how often is looked for what has expired; a second
}

// mapSize is how much memory is set aside to map the file, at no cost until it is
// used. Below that size, no write waits for a long read to end.
const (
	mapSize  = 1 << 30
	growStep = 512 << 10 // by how much the file grows, at the cost of one more sync
)

// OpenBolt opens the store in a file, which is made with mode 0600 if it is
// missing. Its directory must exist. A file of an older format is migrated, one of
// a newer format refused.
//
// The whole file is read and checked first, at about 1 GB a second: one that is
// empty, cut off or damaged is refused, never taken for an empty store.
func OpenBolt(path string, o BoltOptions) (*Bolt, error) {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if err := createBolt(path); err != nil {
			return nil, fmt.Errorf("making the store %s: %w", path, err)
		}
	}
	b, err := openChecked(path, false)
	if err != nil {
		return nil, err
	}
	b.txns, b.changed = make(chan *txn), make(chan struct{})
	b.closing, b.written = make(chan struct{}), make(chan struct{})
	b.recent.floor = b.revision
	b.sweeper = newSweeper(o)
	go b.writeLoop()
	return b, nil
}

// openChecked opens a file that is there and checks all of it. A file that is only
// to be read is not migrated either.
func openChecked(path string, readOnly bool) (*Bolt, error) {
	b := &Bolt{path: path}
	flag := os.O_RDWR
	if readOnly {
		flag = os.O_RDONLY
	}
	f, info, err := openLocked(path, flag)
	if err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	if named, err := os.Stat(path); err != nil || !os.SameFile(info, named) {
		return nil, errors.Join(fmt.Errorf("opening the store: %s was replaced meanwhile, as by compacting it; try again", path), f.Close())
	}
	if info.Size() == 0 {
		return nil, errors.Join(fmt.Errorf("%s is empty: it was cut off or not written by this program; restore it from a backup, or remove it to begin with nothing", path), f.Close())
	}
	if err := checkPages(f, info.Size()); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is damaged or was not written by this program: %w; restore it from a backup", path, err), f.Close())
	}
	b.file, b.seen = f, info
	err = guard(func() (err error) {
		b.db, err = bolt.Open(path, 0o600, &bolt.Options{
			Timeout: lockWait, FreelistType: bolt.FreelistMapType, ReadOnly: readOnly, InitialMmapSize: mapSize,
			OpenFile: func(string, int, os.FileMode) (*os.File, error) { return f, nil },
		})
		return err
	})
	if err != nil {
		abandon(f) // its error would only be that bbolt has closed it
		return nil, fmt.Errorf("opening the store %s: %w; restore it from a backup if it is damaged", path, err)
	}
	b.db.AllocSize = growStep
	if err := guard(func() error { return b.load(readOnly) }); errors.Is(err, errDamaged) {
		return nil, errors.Join(fmt.Errorf("%s: %w; restore it from a backup", path, err), abandon(f))
	} else if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), b.db.Close())
	}
	return b, nil
}

// load takes over what is in the file, after a migration if it is an older one.
func (b *Bolt) load(readOnly bool) error {
	var format uint64
	err := b.db.View(func(tx *bolt.Tx) (err error) {
		format, err = readFormat(tx)
		return err
	})
	if err == nil && format < boltFormat && !readOnly {
		err = b.db.Update(migrate)
	}
	if err != nil {
		return err
	}
	return b.db.View(func(tx *bolt.Tx) error {
		state, entries, err := verify(tx)
		b.revision, b.entries = state.revision, entries
		return err
	})
}

// createBolt makes a store under another name and then gives it its own, so that
// a store whose making was interrupted is never seen.
func createBolt(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("its directory must exist: %w", err)
	}
	defer dir.Close()
	if err := lock(dir, dir.Name()); err != nil {
		return err
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return err // another process has just made it
	}
	f, err := os.CreateTemp(dir.Name(), filepath.Base(path)+".new-*") // has mode 0600
	if err != nil {
		return err
	}
	f.Close()
	defer os.Remove(f.Name())
	db, err := bolt.Open(f.Name(), 0o600, &bolt.Options{Timeout: lockWait})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		meta, err := tx.CreateBucket(bucketMeta)
		if err != nil {
			return err
		}
		_, kvErr := tx.CreateBucket(bucketKV)
		_, expiryErr := tx.CreateBucket(bucketExpiry)
		return errors.Join(kvErr, expiryErr, meta.Put(keyFormat, number(boltFormat)), meta.Put(keyState, boltState{}.encode()))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return dir.Sync()
}

// abandon closes the file of a bbolt that panicked: what it was doing may hold its
// locks, so that closing it might wait for ever. The memory that it has mapped
// stays, and would keep the lock on the file.
func abandon(f *os.File) error {
	return errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.Close())
}

// errDamaged is the error of a file whose content cannot be right.
var errDamaged = errors.New("the store is damaged")

// guard turns into an error what bbolt does with a page that is not what it says,
// or that cannot be read any more: it panics, or touches memory that is not there.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errDamaged, p)
		}
	}()
	return f()
}

// Get implements KV.
func (b *Bolt) Get(ctx context.Context, key string) (e Entry, err error) {
	err = b.view(ctx, func(tx *bolt.Tx) error {
		v := tx.Bucket(bucketKV).Get([]byte(key))
		if v == nil {
			return ErrNotFound
		}
		e, err = decodeEntry([]byte(key), v)
		return err
	})
	return e, err
}

// List implements KV.
func (b *Bolt) List(ctx context.Context, prefix, after string, limit int) (list []Entry, revision int64, err error) {
	err = b.view(ctx, func(tx *bolt.Tx) error {
		state, err := readState(tx)
		if err != nil {
			return err
		}
		revision = state.revision
		c := tx.Bucket(bucketKV).Cursor()
		k, v := c.Seek([]byte(max(prefix, after)))
		if k != nil && string(k) == after {
			k, v = c.Next()
		}
		for ; bytes.HasPrefix(k, []byte(prefix)) && k != nil && (limit == 0 || len(list) < limit); k, v = c.Next() {
			e, err := decodeEntry(k, v)
			if err != nil {
				return err
			}
			list = append(list, e)
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	return list, revision, nil
}

func (b *Bolt) view(ctx context.Context, f func(*bolt.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-b.closing:
		return ErrClosed
	default:
	}
	err := b.guard(func() error { return b.db.View(f) })
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return ErrClosed
	}
	return err
}

// guard uses bbolt. Once damage was found it is not used again: what panicked may
// have held its locks.
func (b *Bolt) guard(f func() error) error {
	if p := b.damage.Load(); p != nil {
		return *p
	}
	err := guard(f)
	if errors.Is(err, errDamaged) {
		b.damage.CompareAndSwap(nil, &err)
	}
	return err
}

// Err implements KV. It also tells of damage, after which nothing is read either.
func (b *Bolt) Err() error {
	if p := b.damage.Load(); p != nil {
		return *p
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failed
}

// Close implements KV. It waits for the disk as long as a write does.
func (b *Bolt) Close() error {
	b.mu.Lock()
	closed := b.closed
	b.closed = true
	b.mu.Unlock()
	if closed {
		return nil
	}
	close(b.closing)
	<-b.written
	if b.damage.Load() != nil {
		return abandon(b.file)
	}
	return b.db.Close()
}
