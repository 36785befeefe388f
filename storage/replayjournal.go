package storage

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
)

// maxReplayQueue is how many uses may wait for the disk.
const maxReplayQueue = 4096

// journalFile is what a journal needs of its file.
type journalFile interface {
	io.Writer
	io.ReaderAt
	io.Seeker
	Truncate(size int64) error
	Sync() error
	Close() error
}

// journal appends uses to a file, those that arrive together by one write.
//
// Uses are not synced: see Replay. The sync of every second is for their times,
// which tell how late it was at least; it runs beside writes, and never beside
// replace.
type journal struct {
	*groupWriter
	path string
	boot string

	writing sync.Mutex // held while file is written or replaced
	file    journalFile
	size    atomic.Int64 // of file, what was written whole
}

func newJournal(path, boot string) *journal {
	j := &journal{path: path, boot: boot}
	j.groupWriter = newGroupWriter(groupConfig{
		what: "replay journal", most: maxReplayQueue, mostBytes: maxReplayQueue * replayEntrySize, full: errReplayQueue,
		write: func(entries []byte, _ int) error { return j.appendWhole(entries) },
		sync:  func() error { return j.file.Sync() },
	})
	return j
}

var errReplayQueue = errors.New("more single uses are waiting for the disk than are held")

// use returns when a use is written, or with an error if it may not be.
func (j *journal) use(ctx context.Context, e replayEntry) error {
	return j.add(ctx, e.append(make([]byte, 0, replayEntrySize)))
}

// appendWhole writes whole entries or nothing.
func (j *journal) appendWhole(b []byte) error {
	j.writing.Lock()
	defer j.writing.Unlock()
	n, err := j.file.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		err = fmt.Errorf("writing the replay journal: %w", err)
		_, seek := j.file.Seek(j.size.Load(), io.SeekStart)
		if undo := errors.Join(j.file.Truncate(j.size.Load()), seek); undo != nil {
			return j.fail(errors.Join(err, undo))
		}
		return err
	}
	j.size.Add(int64(n))
	return nil
}

// end writes that nothing is lost, durably, and closes the file.
func (j *journal) end(now int64) error {
	j.close()
	err := j.last(replayEntry{at: now}.append(nil))
	if err == nil {
		err = j.flush()
	}
	return errors.Join(err, j.file.Close())
}

// replace writes the journal anew and durably, with what live gives. Uses that
// are written meanwhile are carried over.
func (j *journal) replace(header func() replayHeader, live func(func([]byte) error) error) error {
	// What is in the file up to here, live gives as well.
	from := j.size.Load()
	next, err := j.rewrite(header, live)
	if err != nil {
		return err
	}
	j.writing.Lock()
	defer j.writing.Unlock()
	size, err := j.carryOver(next, from)
	if err == nil {
		err = os.Rename(next.Name(), j.path)
	}
	if err != nil {
		return errors.Join(err, next.Close(), os.Remove(next.Name()))
	}
	old := j.file
	j.file = next
	j.size.Store(size)
	// From here on the file before is not the journal any more.
	if err := errors.Join(syncDir(filepath.Dir(j.path)), old.Close()); err != nil {
		return j.fail(err)
	}
	return nil
}

// rewrite makes a journal under another name.
func (j *journal) rewrite(header func() replayHeader, live func(func([]byte) error) error) (*os.File, error) {
	f, err := os.CreateTemp(filepath.Dir(j.path), filepath.Base(j.path)+newJournalSuffix+"*") // has mode 0600
	if err != nil {
		return nil, err
	}
	w := bufio.NewWriterSize(f, 1<<16)
	write := func(b []byte) error { _, err := w.Write(b); return err }
	if err = lock(f, f.Name()); err == nil {
		err = write(make([]byte, replayHeaderSize))
	}
	if err == nil {
		err = live(write)
	}
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		_, err = f.WriteAt(header().encode(), 0) // what was dropped meanwhile is missing
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return f, nil
}

const newJournalSuffix = ".new-"

// carryOver appends what was written to the journal since it had so many bytes,
// and returns the size of next.
func (j *journal) carryOver(next *os.File, from int64) (int64, error) {
	size, err := next.Seek(0, io.SeekEnd)
	if err != nil || from == 0 {
		return size, err
	}
	n, err := io.Copy(next, io.NewSectionReader(j.file, from, j.size.Load()-from))
	return size + n, err
}
