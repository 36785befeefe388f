package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// boltFormat is the version of the layout below. A file of a newer one is not
// opened.
const boltFormat = 1

// Layout: bucket "meta" has "format" and "revision", each 8 bytes big endian;
// bucket "kv" has for each key the revision of its entry, 8 bytes, and the value.
var (
	bucketMeta  = []byte("meta")
	bucketKV    = []byte("kv")
	keyFormat   = []byte("format")
	keyRevision = []byte("revision")
)

// lockWait is how long another process may hold the file before that is an
// error.
const lockWait = 500 * time.Millisecond

// checkBelow is the size up to which a file is checked whole when it is opened:
// about 0.2 s.
const checkBelow = 64 << 20

// Bolt is a KV in one file.
type Bolt struct {
	db *bolt.DB

	mu       sync.Mutex
	failed   error         // the write that could not be made durable
	revision int64         // of the last transaction
	changed  chan struct{} // closed when revision rises
	closed   chan struct{}
}

// BoltOptions are for tests; the zero value is right.
type BoltOptions struct {
	// OpenFile replaces how the file is opened.
	OpenFile func(string, int, os.FileMode) (*os.File, error)
}

// OpenBolt opens the store in a file, which is made with mode 0600 if it is
// missing. Its directory must exist.
func OpenBolt(path string, o BoltOptions) (*Bolt, error) {
	if err := checkPrivate(path); err != nil {
		return nil, err
	}
	info, statErr := os.Stat(path)
	if statErr == nil && info.Size() == 0 {
		return nil, fmt.Errorf("%s is empty: it was cut off or not written by this program; restore it from a backup, or remove it to begin with nothing", path)
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lockWait, OpenFile: o.OpenFile, FreelistType: bolt.FreelistMapType})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("%s is in use by another process; stop that one first", path)
	case err != nil:
		return nil, fmt.Errorf("opening %s: %w; restore it from a backup if it is damaged", path, err)
	}
	b := &Bolt{db: db, changed: make(chan struct{}), closed: make(chan struct{})}
	if err := b.prepare(path, statErr == nil && info.Size() < checkBelow); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if statErr != nil {
		if err := syncDir(filepath.Dir(path)); err != nil {
			return nil, errors.Join(err, db.Close())
		}
	}
	return b, nil
}

// checkPrivate refuses a file that others on the machine can read.
func checkPrivate(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s can be read or written by others (mode %04o); make it private with `chmod 600 %s`", path, info.Mode().Perm(), path)
	}
	return nil
}

// syncDir makes the name of a new file durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// prepare checks an old file or lays out a new one.
func (b *Bolt) prepare(path string, check bool) (err error) {
	defer func() { // a page that is not what it says makes bbolt panic
		if p := recover(); p != nil {
			err = fmt.Errorf("%s is damaged: %v; restore it from a backup", path, p)
		}
	}()
	if check {
		err := b.db.View(func(tx *bolt.Tx) error {
			var first error
			for e := range tx.Check() { // drained, so that its goroutine ends
				if first == nil {
					first = e
				}
			}
			return first
		})
		if err != nil {
			return fmt.Errorf("%s is damaged: %w; restore it from a backup", path, err)
		}
	}
	return b.db.Update(func(tx *bolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		if meta == nil {
			var err error
			if meta, err = tx.CreateBucket(bucketMeta); err != nil {
				return err
			}
			if _, err := tx.CreateBucketIfNotExists(bucketKV); err != nil {
				return err
			}
			return errors.Join(meta.Put(keyFormat, number(boltFormat)), meta.Put(keyRevision, number(0)))
		}
		format := meta.Get(keyFormat)
		if len(format) != 8 || len(meta.Get(keyRevision)) != 8 || tx.Bucket(bucketKV) == nil {
			return fmt.Errorf("%s was not written by this program", path)
		}
		if v := binary.BigEndian.Uint64(format); v != boltFormat {
			return fmt.Errorf("%s has format %d, this program reads format %d; use the program that wrote it, or a newer one", path, v, boltFormat)
		}
		b.revision = int64(binary.BigEndian.Uint64(meta.Get(keyRevision)))
		return nil
	})
}

func number(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

// Get implements KV.
func (b *Bolt) Get(_ context.Context, key string) (e Entry, err error) {
	err = b.view(func(tx *bolt.Tx) error {
		v := tx.Bucket(bucketKV).Get([]byte(key))
		if v == nil {
			return ErrNotFound
		}
		e, err = entry([]byte(key), v)
		return err
	})
	return e, err
}

// List implements KV.
func (b *Bolt) List(_ context.Context, prefix string) (list []Entry, revision int64, err error) {
	err = b.view(func(tx *bolt.Tx) error {
		revision = int64(binary.BigEndian.Uint64(tx.Bucket(bucketMeta).Get(keyRevision)))
		c := tx.Bucket(bucketKV).Cursor()
		for k, v := c.Seek([]byte(prefix)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, v = c.Next() {
			e, err := entry(k, v)
			if err != nil {
				return err
			}
			list = append(list, e)
		}
		return nil
	})
	return list, revision, err
}

// entry copies: what bbolt hands out is gone with the transaction.
func entry(k, v []byte) (Entry, error) {
	if len(v) < 8 {
		return Entry{}, fmt.Errorf("the entry of key %q is damaged", k)
	}
	return Entry{Key: string(k), Value: bytes.Clone(v[8:]), Revision: int64(binary.BigEndian.Uint64(v))}, nil
}

func (b *Bolt) view(f func(*bolt.Tx) error) error {
	err := b.db.View(f)
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return ErrClosed
	}
	return err
}

// errCompare leaves a transaction without writing.
var errCompare = errors.New("a comparison does not hold")

// Txn implements KV.
func (b *Bolt) Txn(ctx context.Context, compare []Compare, ops []Op) (int64, bool, error) {
	if err := ctx.Err(); err != nil {
		return 0, false, err
	}
	b.mu.Lock()
	failed := b.failed
	b.mu.Unlock()
	if failed != nil {
		return 0, false, fmt.Errorf("the store takes no more writes until it is opened again: %w", failed)
	}
	var revision int64
	prepared := false
	err := b.db.Update(func(tx *bolt.Tx) error {
		meta, kv := tx.Bucket(bucketMeta), tx.Bucket(bucketKV)
		revision = int64(binary.BigEndian.Uint64(meta.Get(keyRevision)))
		for _, c := range compare {
			var have int64
			if v := kv.Get([]byte(c.Key)); len(v) >= 8 {
				have = int64(binary.BigEndian.Uint64(v))
			}
			if have != c.Revision {
				return errCompare
			}
		}
		revision++
		for _, op := range ops {
			var err error
			if op.Value == nil {
				err = kv.Delete([]byte(op.Key))
			} else {
				err = kv.Put([]byte(op.Key), append(number(revision), op.Value...))
			}
			if err != nil {
				return err
			}
		}
		prepared = true
		return meta.Put(keyRevision, number(revision))
	})
	switch {
	case errors.Is(err, bolterrors.ErrDatabaseNotOpen):
		return 0, false, ErrClosed
	case errors.Is(err, errCompare):
		return revision, false, nil
	case errors.Is(err, syscall.ENOSPC):
		// Nothing that the last meta page refers to has been touched: the space that
		// is missing is that of new pages. The store goes on when there is room.
		return 0, false, fmt.Errorf("writing the store: %w", err)
	case err != nil && prepared:
		b.fail(err)
		return 0, false, fmt.Errorf("writing the store: %w", err)
	case err != nil:
		return 0, false, err
	}
	b.raise(revision)
	return revision, true, nil
}

// fail remembers that what is on the disk is not known any more. A failed sync is
// never tried again: the kernel may have dropped the pages it could not write.
func (b *Bolt) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failed = err
}

// raise wakes those who wait for a revision.
func (b *Bolt) raise(revision int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if revision > b.revision {
		b.revision = revision
		close(b.changed)
		b.changed = make(chan struct{})
	}
}

// Wait implements KV.
func (b *Bolt) Wait(ctx context.Context, after int64) (int64, error) {
	for {
		b.mu.Lock()
		revision, changed := b.revision, b.changed
		b.mu.Unlock()
		if revision > after {
			return revision, nil
		}
		select {
		case <-changed:
		case <-b.closed:
			return 0, ErrClosed
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// Close implements KV.
func (b *Bolt) Close() error {
	b.mu.Lock()
	select {
	case <-b.closed:
		b.mu.Unlock()
		return nil
	default:
		close(b.closed)
	}
	b.mu.Unlock()
	return b.db.Close()
}
