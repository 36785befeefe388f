package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/workload-sts/sts/sts"
	bolt "go.etcd.io/bbolt"
)

// snapshotSpare is how much room a snapshot must leave on the disk, so that it is
// never what fills it.
const snapshotSpare = 64 << 20

// Snapshots makes copies of the store, nil if it is none in a file.
func (s *Store) Snapshots() sts.Snapshots {
	if b, ok := s.kv.(*Bolt); ok {
		return b
	}
	return nil
}

// Snapshot is a copy of a store as it was at one moment, in the format of its file.
// Close it.
type Snapshot struct {
	size     int64
	revision int64
	file     *os.File
	store    *Bolt
}

// Snapshot implements sts.Snapshots. The copy is a file without a name on the disk of the
// store: reading the store takes no longer than copying it, so that it does not
// grow while a slow receiver takes its time. Writers do not wait. There is one at a
// time.
func (b *Bolt) Snapshot(ctx context.Context) (sts.Snapshot, error) {
	if !b.copied.TryLock() {
		return nil, sts.ErrBusy
	}
	s := &Snapshot{store: b}
	if err := s.take(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("copying the store: %w", err), s.Close())
	}
	return s, nil
}

func (s *Snapshot) take(ctx context.Context) (err error) {
	dir := filepath.Dir(s.store.path)
	if s.file, err = os.CreateTemp(dir, filepath.Base(s.store.path)+".backup-*"); err != nil {
		return err
	}
	if err := os.Remove(s.file.Name()); err != nil {
		return err
	}
	return s.store.view(ctx, func(tx *bolt.Tx) error {
		var fs syscall.Statfs_t
		if err := syscall.Statfs(dir, &fs); err != nil {
			return err
		}
		if free := uint64(fs.Bavail) * uint64(fs.Bsize); free < uint64(tx.Size())+snapshotSpare {
			return fmt.Errorf("its disk has %d MiB free, and %d MiB are needed: make room, or stop the server and make the backup from the file", free>>20, (tx.Size()+snapshotSpare)>>20)
		}
		state, err := readState(tx)
		if err != nil {
			return err
		}
		s.revision = state.revision
		s.size, err = tx.WriteTo(untilDone{ctx, s.file})
		return err
	})
}

// WriteTo writes the copy, in chunks.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, io.NewSectionReader(s.file, 0, s.size), make([]byte, snapshotChunk))
}

// snapshotChunk is how many bytes are written at once.
const snapshotChunk = 128 << 10

// Revision is that of the store that was copied.
func (s *Snapshot) Revision() int64 { return s.revision }

// Close gives back the room of the copy.
func (s *Snapshot) Close() error {
	defer s.store.copied.Unlock()
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

// untilDone writes until its context ends.
type untilDone struct {
	ctx context.Context
	w   io.Writer
}

func (u untilDone) Write(b []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.w.Write(b)
}
