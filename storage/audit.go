package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/workload-sts/sts/sts"
)

// syncEvery is how often written records are made to survive a power cut. They
// survive the death of this process as soon as they are written.
const syncEvery = time.Second

// What waits for the disk is bounded; more is refused.
const (
	maxQueue      = 4096     // records
	maxQueueBytes = 16 << 20 // a group of records stops growing there
)

// maxSpare is how large a buffer is kept for the next records.
const maxSpare = 1 << 20

// auditFile is what Audit needs of a file that appends.
type auditFile interface {
	io.Writer
	Stat() (os.FileInfo, error)
	Truncate(size int64) error
	Sync() error
	Close() error
}

// Audit appends decisions to a file, one JSON object a line. It implements
// sts.Audit.
//
// A record is written when Record returns, and on the disk at most about a second
// later. Records that arrive while a write is under way go out together in the
// next one. A write that fails leaves no part of a record: it is cut off again,
// those who wait get the error, and the next record is tried anew, so that a disk
// that was full works again when it has room. A sync that fails is different:
// what the disk holds is not known then, and no more records are taken until the
// file is opened again. The same holds if the file is removed while in use. Err
// tells.
//
// A disk that hangs holds two goroutines, no callers: after diskWait those who
// wait get an error and later ones get it at once, until the disk answers. The
// records of the write that hung may be in the file then; those behind are not.
type Audit struct {
	file auditFile

	writes, syncs operation
	more          chan struct{} // has room for one: there are records

	mu      sync.Mutex
	pending *group       // takes records that come in
	writing *group       // is being written
	spare   bytes.Buffer // for the next group
	failed  error
	closed  bool
	dirty   bool // something is written and not synced

	stop             chan struct{} // closed by Close
	written, stopped chan struct{} // closed when writeLoop and syncLoop end
}

// group are records that are written together.
type group struct {
	buf   bytes.Buffer
	count int
	done  chan struct{}
	err   error
	over  bool // done is closed
}

// finish tells those who wait what became of a group, unless they were told
// before. a.mu is held.
func (g *group) finish(err error) {
	if !g.over {
		g.over, g.err = true, err
		close(g.done)
	}
}

func newAudit(f auditFile) *Audit {
	a := &Audit{
		file: f, pending: &group{done: make(chan struct{})}, more: make(chan struct{}, 1),
		stop: make(chan struct{}), written: make(chan struct{}), stopped: make(chan struct{}),
	}
	go a.writeLoop()
	go a.syncLoop()
	return a
}

var (
	errQueue = errors.New("more audit records are waiting for the disk than are held")
	errHangs = fmt.Errorf("the disk under the audit log has not answered for %s", diskWait)
)

// Record implements sts.Audit.
func (a *Audit) Record(ctx context.Context, r *sts.Record) error {
	g, err := a.enter(r)
	if err != nil {
		return err
	}
	select {
	case <-g.done:
		return g.err
	case <-ctx.Done():
		return fmt.Errorf("waiting for the audit log: %w", ctx.Err())
	}
}

// enter adds a record to the pending group.
func (a *Audit) enter(r *sts.Record) (*group, error) {
	line := lines.Get().(*line)
	defer lines.Put(line)
	if err := line.encode(r); err != nil {
		return nil, fmt.Errorf("encoding an audit record: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	g := a.pending
	switch {
	case a.closed:
		return nil, ErrClosed
	case a.failed != nil:
		return nil, a.failed
	case a.writes.hangs || a.syncs.hangs:
		return nil, errHangs
	case g.count == maxQueue || g.buf.Len() >= maxQueueBytes:
		return nil, errQueue
	}
	g.buf.Write(line.Bytes())
	if g.count++; g.count == 1 {
		select {
		case a.more <- struct{}{}:
		default: // writeLoop has still to look
		}
	}
	return g, nil
}

// Err tells why no more records are taken until the file is opened again, nil
// while they are.
func (a *Audit) Err() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.failed
}

// writeLoop is the only one that writes, so that a disk that hangs holds one
// goroutine and its callers can leave.
func (a *Audit) writeLoop() {
	defer close(a.written)
	for {
		select {
		case <-a.more:
			runtime.Gosched() // let those who were told of the last write come in
			a.write()
		case <-a.stop:
			select {
			case <-a.more:
				a.write() // Close lets no more come in
			default:
			}
			return
		}
	}
}

// write writes what is pending.
func (a *Audit) write() {
	a.mu.Lock()
	g, err := a.pending, a.failed
	a.pending, a.writing = &group{buf: a.spare, done: make(chan struct{})}, g
	a.spare = bytes.Buffer{}
	a.begin(&a.writes)
	a.mu.Unlock()
	if err == nil && g.count > 0 {
		err = a.append(g.buf.Bytes())
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.end(&a.writes)
	a.writing = nil
	a.dirty = a.dirty || err == nil && g.count > 0
	if g.buf.Cap() <= maxSpare {
		g.buf.Reset()
		a.spare = g.buf
	}
	g.finish(err)
}

// append writes whole records or nothing.
func (a *Audit) append(records []byte) error {
	before, err := a.file.Stat()
	if err != nil {
		return fmt.Errorf("writing the audit log: %w", err)
	}
	if s, ok := before.Sys().(*syscall.Stat_t); ok && s.Nlink == 0 {
		return a.fail(errors.New("its file was removed while in use"))
	}
	n, err := a.file.Write(records)
	if err == nil && n < len(records) {
		err = io.ErrShortWrite
	}
	if err == nil {
		return nil
	}
	err = fmt.Errorf("writing the audit log: %w", err)
	if cut := a.file.Truncate(before.Size()); cut != nil {
		return a.fail(errors.Join(err, cut))
	}
	return err
}

// fail takes no more records from now on.
func (a *Audit) fail(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failed == nil {
		a.failed = fmt.Errorf("the audit log takes no more records until it is opened again: %w", err)
	}
	return a.failed
}

func (a *Audit) syncLoop() {
	defer close(a.stopped)
	t := time.NewTicker(syncEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			a.sync()
		case <-a.stop:
			return
		}
	}
}

// sync makes what is written survive a power cut. It is not repeated after an
// error: the kernel may have dropped what it could not write.
func (a *Audit) sync() {
	a.mu.Lock()
	dirty := a.dirty && a.failed == nil
	a.dirty = false
	if dirty {
		a.begin(&a.syncs)
	}
	a.mu.Unlock()
	if !dirty {
		return
	}
	err := a.file.Sync()
	a.mu.Lock()
	a.end(&a.syncs)
	a.mu.Unlock()
	if err != nil {
		a.fail(err)
	}
}

// Close makes all records durable and closes the file; an error means that some
// may not be. Records that are being written are finished first. If the disk
// hangs, that is the error, and the file is left to the end of the process.
func (a *Audit) Close() error {
	a.mu.Lock()
	closed := a.closed
	a.closed = true
	a.mu.Unlock()
	if closed {
		return nil
	}
	close(a.stop)
	synced := make(chan struct{})
	go func() {
		defer close(synced)
		<-a.written
		<-a.stopped
		a.sync()
	}()
	select {
	case <-synced:
	case <-time.After(diskWait):
		return errHangs
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return errors.Join(a.failed, a.file.Close())
}
