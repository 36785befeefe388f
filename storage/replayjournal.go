package storage

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
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

// journal appends uses to a file. Those that arrive while a write is under way
// go out together in the next one.
//
// A write that fails leaves nothing behind and is tried anew with the next use,
// so that a disk that was full works again when it has room. If a sync fails, or
// what a failed write left cannot be removed, no more uses are taken.
type journal struct {
	path string
	boot string

	writing sync.Mutex // held while file is written or replaced
	file    journalFile
	more    chan struct{} // has room for one: there are uses

	mu      sync.Mutex
	pending *journalGroup
	size    int64 // of file, what was written whole
	failed  error
	closed  bool
	dirty   bool // something is written and not synced

	stop    chan struct{} // closed by close
	written chan struct{} // closed when writeLoop ends
}

// journalGroup are uses that are written together.
type journalGroup struct {
	buf   []byte
	count int
	done  chan struct{}
	err   error
}

func newJournal(path, boot string) *journal {
	return &journal{
		path: path, boot: boot, more: make(chan struct{}, 1), pending: &journalGroup{done: make(chan struct{})},
		stop: make(chan struct{}), written: make(chan struct{}),
	}
}

func (j *journal) start() { go j.writeLoop() }

var errReplayQueue = errors.New("more single uses are waiting for the disk than are held")

// write returns when a use is written, or with an error if it may not be.
func (j *journal) write(ctx context.Context, e replayEntry) error {
	g, err := j.enter(e)
	if err != nil {
		return err
	}
	select {
	case <-g.done:
		return g.err
	case <-ctx.Done():
		return fmt.Errorf("waiting for the replay journal: %w", ctx.Err())
	}
}

func (j *journal) enter(e replayEntry) (*journalGroup, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	g := j.pending
	switch {
	case j.closed:
		return nil, ErrClosed
	case j.failed != nil:
		return nil, j.failed
	case g.count == maxReplayQueue:
		return nil, errReplayQueue
	}
	g.buf = e.append(g.buf)
	if g.count++; g.count == 1 {
		select {
		case j.more <- struct{}{}:
		default: // writeLoop has still to look
		}
	}
	return g, nil
}

// writeLoop is the only one that appends, so that a disk that hangs holds one
// goroutine and its callers can leave.
func (j *journal) writeLoop() {
	defer close(j.written)
	for {
		select {
		case <-j.more:
			runtime.Gosched() // let those who were told of the last write come in
			j.append()
		case <-j.stop:
			j.append() // close lets no more come in
			return
		}
	}
}

// append writes what is pending.
func (j *journal) append() {
	j.mu.Lock()
	g, err := j.pending, j.failed
	j.pending = &journalGroup{done: make(chan struct{})}
	j.mu.Unlock()
	if err == nil && g.count > 0 {
		err = j.appendWhole(g.buf)
	}
	g.err = err
	close(g.done)
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
		_, seek := j.file.Seek(j.bytes(), io.SeekStart)
		if undo := errors.Join(j.file.Truncate(j.bytes()), seek); undo != nil {
			return j.fail(errors.Join(err, undo))
		}
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.size += int64(n)
	j.dirty = true
	return nil
}

func (j *journal) bytes() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.size
}

// fail takes no more uses from now on.
func (j *journal) fail(err error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed == nil {
		j.failed = fmt.Errorf("the replay journal takes no more uses until it is opened again: %w", err)
	}
	return j.failed
}

func (j *journal) err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.failed
}

// sync makes what is written survive a power cut. It is not for the uses, which
// count for nothing after one: it is for their times, which tell how late it was
// at least. It runs beside writes, but never beside replace.
func (j *journal) sync() {
	j.mu.Lock()
	dirty := j.dirty && j.failed == nil
	j.dirty = false
	j.mu.Unlock()
	if !dirty {
		return
	}
	if err := j.file.Sync(); err != nil {
		j.fail(err)
	}
}

// close writes that nothing is lost, durably, and closes the file.
func (j *journal) close(now int64) error {
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	close(j.stop)
	<-j.written
	err := j.err()
	if err == nil {
		err = errors.Join(j.appendWhole(replayEntry{at: now}.append(nil)), j.file.Sync())
	}
	return errors.Join(err, j.file.Close())
}

// replace writes the journal anew and durably, with what live gives. Uses that
// are written meanwhile are carried over.
func (j *journal) replace(header func() replayHeader, live func(func([]byte) error) error) error {
	// What is in the file up to here, live gives as well.
	from := j.bytes()
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
	j.mu.Lock()
	j.file, j.size = next, size
	j.mu.Unlock()
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
	n, err := io.Copy(next, io.NewSectionReader(j.file, from, j.bytes()-from))
	return size + n, err
}
