package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	bolt "go.etcd.io/bbolt"
)

// BoltInfo says what is in the file of a store.
type BoltInfo struct {
	Format   int
	Size     int64 // of the file, in bytes
	Entries  int
	Revision int64

	sum uint64 // of the entries
}

// VerifyBolt checks the whole file of a store, and changes nothing. A store that is
// in use is an error.
func VerifyBolt(path string) (BoltInfo, error) {
	b, err := openChecked(path, true)
	if err != nil {
		return BoltInfo{}, err
	}
	info, err := b.info()
	if err == nil {
		if err = unfinished(context.Background(), b); err != nil {
			err = fmt.Errorf("%s: %w", path, err)
		}
	}
	return info, errors.Join(err, b.db.Close())
}

// info describes a store that was just opened.
func (b *Bolt) info() (BoltInfo, error) {
	info := BoltInfo{Size: b.seen.Size(), Entries: b.entries}
	err := b.db.View(func(tx *bolt.Tx) error {
		format, err := readFormat(tx)
		if err != nil {
			return err
		}
		state, err := readState(tx)
		info.Format, info.Revision, info.sum = int(format), state.revision, state.sum
		return err
	})
	return info, err
}

// check refuses a copy that has not what it was made of.
func (i BoltInfo) check(copied BoltInfo) error {
	if i.Format != copied.Format || i.Entries != copied.Entries || i.Revision != copied.Revision || i.sum != copied.sum {
		return fmt.Errorf("the copy has %d entries at revision %d, it should have %d at revision %d, as they were", copied.Entries, copied.Revision, i.Entries, i.Revision)
	}
	return nil
}

// CompactBolt writes the file of a store anew, without the room that it does not
// use. The new file takes the place of the old one when it is durable and was
// checked; until then the old one is as it was. A store that is in use is an error.
func CompactBolt(path string) (before, after BoltInfo, err error) {
	b, err := openChecked(path, true) // and locked until the end
	if err != nil {
		return before, after, err
	}
	defer b.db.Close()
	if before, err = b.info(); err != nil {
		return before, after, err
	}
	after, err = makeFile(path, func(name string) error {
		if err := b.compactInto(name); err != nil {
			return err
		}
		return sameOwner(name, b.seen)
	}, before.check, os.Rename)
	if err != nil {
		return before, after, fmt.Errorf("compacting %s: %w; it is as it was", path, err)
	}
	return before, after, nil
}

func (b *Bolt) compactInto(name string) error {
	db, err := bolt.Open(name, 0o600, &bolt.Options{NoSync: true, NoGrowSync: true, PageSize: b.db.Info().PageSize})
	if err != nil {
		return err
	}
	db.AllocSize = growStep
	err = guard(func() error { return bolt.Compact(db, b.db, 1<<20) })
	return errors.Join(err, db.Sync(), db.Close())
}

// sameOwner gives a file the owner of another: a store that root has compacted must
// still be the server's.
func sameOwner(name string, of os.FileInfo) error {
	stat, ok := of.Sys().(*syscall.Stat_t)
	if !ok || int(stat.Uid) == os.Geteuid() && int(stat.Gid) == os.Getegid() {
		return nil
	}
	return os.Chown(name, int(stat.Uid), int(stat.Gid))
}

// BackupBolt copies the store in a file to another file, which must not be there.
// A store that is in use is an error.
func BackupBolt(from, to string) (BoltInfo, error) {
	b, err := openChecked(from, true)
	if err != nil {
		return BoltInfo{}, err
	}
	defer b.db.Close()
	source, err := b.info()
	if err != nil {
		return BoltInfo{}, err
	}
	return WriteBackup(to, func(w io.Writer) error {
		return guard(func() error { return b.db.View(func(tx *bolt.Tx) error { _, err := tx.WriteTo(w); return err }) })
	}, source.check)
}

// WriteBackup makes a file of what write writes. It gets its name, which must not
// be taken, when it is durable and was found to be a whole store that accept
// accepts.
func WriteBackup(to string, write func(io.Writer) error, accept func(BoltInfo) error) (BoltInfo, error) {
	if _, err := os.Lstat(to); err == nil {
		return BoltInfo{}, fmt.Errorf("%s is there already, and a backup replaces nothing; choose another name", to)
	}
	info, err := makeFile(to, func(name string) error {
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	}, accept, renameNew)
	if err != nil {
		return info, fmt.Errorf("writing the backup %s: %w", to, err)
	}
	return info, nil
}

// makeFile fills a file beside its place, makes it durable, checks all of it, and
// puts it there.
func makeFile(path string, fill func(name string) error, check func(BoltInfo) error, place func(name, path string) error) (BoltInfo, error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*") // has mode 0600
	if err != nil {
		return BoltInfo{}, err
	}
	name := f.Name()
	defer os.Remove(name)
	if err := f.Close(); err != nil {
		return BoltInfo{}, err
	}
	if err := fill(name); err != nil {
		return BoltInfo{}, err
	}
	if err := syncFile(name); err != nil {
		return BoltInfo{}, err
	}
	info, err := VerifyBolt(name)
	if err == nil {
		err = check(info)
	}
	if err == nil {
		err = place(name, path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	return info, err
}

func syncFile(name string) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// renameNew gives a file a name that is not taken.
func renameNew(name, path string) error {
	err := os.Link(name, path)
	if !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.ENOTSUP) && !errors.Is(err, syscall.ENOSYS) {
		return err // the other name is removed by who made it
	}
	// A file system without links.
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return errors.Join(err, fmt.Errorf("%s is there already", path))
	}
	return os.Rename(name, path)
}
