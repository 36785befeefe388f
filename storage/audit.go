package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/workload-sts/sts/sts"
)

// syncEvery is how often written records are made to survive a power cut. They
// survive the death of this process as soon as they are written.
const syncEvery = time.Second

// maxQueue bounds how many records wait for the disk; more are refused.
const maxQueue = 4096

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
// file is opened again. The same holds if the file is removed while in use.
type Audit struct {
	file auditFile

	turn chan struct{} // has room for the group that is written

	mu      sync.Mutex
	pending *group       // takes records that come in
	spare   bytes.Buffer // for the next group
	failed  error
	closed  bool
	dirty   bool // something is written and not synced

	stop, stopped chan struct{}
}

// group are records that are written together.
type group struct {
	buf   bytes.Buffer
	count int
	done  chan struct{}
	err   error
}

func newAudit(f auditFile) *Audit {
	a := &Audit{
		file: f, turn: make(chan struct{}, 1), pending: &group{done: make(chan struct{})},
		stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	go a.syncLoop()
	return a
}

var errQueue = errors.New("more audit records are waiting for the disk than are held")

// Record implements sts.Audit.
func (a *Audit) Record(_ context.Context, r *sts.Record) error {
	line := lines.Get().(*line)
	defer lines.Put(line)
	if err := line.encode(r); err != nil {
		return fmt.Errorf("encoding an audit record: %w", err)
	}
	a.mu.Lock()
	var err error
	switch {
	case a.closed:
		err = ErrClosed
	case a.failed != nil:
		err = a.failed
	case a.pending.count == maxQueue:
		err = errQueue
	}
	if err != nil {
		a.mu.Unlock()
		return err
	}
	g := a.pending
	g.buf.Write(line.Bytes())
	g.count++
	first := g.count == 1
	a.mu.Unlock()
	if first {
		a.write(g)
	}
	<-g.done
	return g.err
}

// write writes a group once the one before it is written. It is called by the
// first of the group; the others come in while it waits.
func (a *Audit) write(g *group) {
	a.turn <- struct{}{}
	defer func() { <-a.turn }()
	a.mu.Lock()
	a.pending = &group{buf: a.spare, done: make(chan struct{})}
	a.spare = bytes.Buffer{}
	g.err = a.failed
	a.mu.Unlock()
	if g.err == nil {
		g.err = a.append(g.buf.Bytes())
	}
	a.mu.Lock()
	if g.buf.Cap() <= maxSpare {
		g.buf.Reset()
		a.spare = g.buf
	}
	a.dirty = a.dirty || g.err == nil
	a.mu.Unlock()
	close(g.done)
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
	a.mu.Unlock()
	if !dirty {
		return
	}
	if err := a.file.Sync(); err != nil {
		a.fail(err)
	}
}

// Close makes all records durable and closes the file; an error means that some
// may not be. Records that are being written are finished first.
func (a *Audit) Close() error {
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return nil
	}
	a.closed = true
	last := a.pending
	waiting := last.count > 0
	a.mu.Unlock()
	if waiting {
		<-last.done
	}
	a.turn <- struct{}{}
	defer func() { <-a.turn }()
	close(a.stop)
	<-a.stopped
	a.sync()
	a.mu.Lock()
	defer a.mu.Unlock()
	return errors.Join(a.failed, a.file.Close())
}
