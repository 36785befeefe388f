package storage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/workload-sts/sts/sts"
)

// syncEvery is how often written records are made to survive a power cut. They
// survive the death of this process as soon as they are written.
const syncEvery = time.Second

// maxQueue bounds how many records wait for the disk; more are refused.
const maxQueue = 4096

// auditFile is what Audit needs of a file.
type auditFile interface {
	io.Writer
	io.ReaderAt
	Truncate(size int64) error
	Sync() error
	Close() error
}

// Audit appends decisions to a file, one JSON object a line. It implements
// sts.Audit.
//
// A record is written when Record returns. Records that arrive while a write is
// under way go out together in the next one. A write that fails leaves no part of
// a record: it is cut off again, those who wait get the error, and the next
// record is tried anew, so that a disk that was full works again when it has
// room. A sync that fails is different: what the disk holds is not known then,
// and no more records are taken.
type Audit struct {
	file auditFile

	turn sync.Mutex // held by the group that is written
	size int64      // of whole records; under turn

	mu      sync.Mutex
	pending *group // takes records that come in
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

// OpenAudit opens the file, made with mode 0600 if it is missing. If a crash tore
// its last line, that is moved to a file beside it, whose name is returned.
func OpenAudit(path string) (a *Audit, torn string, err error) {
	if err := checkPrivate(path); err != nil {
		return nil, "", err
	}
	_, statErr := os.Stat(path)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, "", fmt.Errorf("opening the audit log: %w", err)
	}
	info, err := f.Stat()
	if err == nil && errors.Is(statErr, os.ErrNotExist) {
		err = syncDir(filepath.Dir(path))
	}
	size := int64(0)
	if err == nil {
		size, torn, err = setAside(f, info.Size(), path)
	}
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("opening the audit log: %w", err), f.Close())
	}
	return newAudit(f, size), torn, nil
}

func newAudit(f auditFile, size int64) *Audit {
	a := &Audit{file: f, size: size, pending: newGroup(), stop: make(chan struct{}), stopped: make(chan struct{})}
	go a.syncLoop()
	return a
}

func newGroup() *group { return &group{done: make(chan struct{})} }

// maxRecord is the longest record that is looked for at the end of the file.
const maxRecord = 1 << 20

// setAside moves what follows the last line break to another file and returns
// the size that is left.
func setAside(f *os.File, size int64, path string) (int64, string, error) {
	tail := make([]byte, min(size, maxRecord))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil && err != io.EOF {
		return 0, "", err
	}
	whole := size - int64(len(tail)) + int64(bytes.LastIndexByte(tail, '\n')) + 1
	if whole == size {
		return size, "", nil
	}
	if whole == size-int64(len(tail)) && whole > 0 {
		return 0, "", fmt.Errorf("%s has no line break in its last %d bytes; it is not an audit log", path, maxRecord)
	}
	torn := fmt.Sprintf("%s.torn-%d", path, whole)
	if err := os.WriteFile(torn, tail[len(tail)-int(size-whole):], 0o600); err != nil {
		return 0, "", err
	}
	return whole, torn, errors.Join(f.Truncate(whole), f.Sync())
}

var errQueue = errors.New("more audit records are waiting for the disk than are held")

// Record implements sts.Audit.
func (a *Audit) Record(_ context.Context, r *sts.Record) error {
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding an audit record: %w", err)
	}
	a.mu.Lock()
	switch {
	case a.closed:
		a.mu.Unlock()
		return ErrClosed
	case a.failed != nil:
		defer a.mu.Unlock()
		return a.failed
	case a.pending.count == maxQueue:
		a.mu.Unlock()
		return errQueue
	}
	g := a.pending
	g.buf.Write(line)
	g.buf.WriteByte('\n')
	g.count++
	leader := g.count == 1
	a.mu.Unlock()
	if leader {
		a.write(g)
	}
	<-g.done
	return g.err
}

// write writes a group once the one before it is written. It is called by the
// first of the group; the others come in while it waits.
func (a *Audit) write(g *group) {
	a.turn.Lock()
	defer a.turn.Unlock()
	a.mu.Lock()
	a.pending = newGroup()
	g.err = a.failed
	a.mu.Unlock()
	if g.err == nil {
		g.err = a.append(g.buf.Bytes())
	}
	close(g.done)
}

// append writes whole records or nothing.
func (a *Audit) append(records []byte) error {
	n, err := a.file.Write(records)
	if err == nil {
		a.size += int64(n)
		a.mu.Lock()
		a.dirty = true
		a.mu.Unlock()
		return nil
	}
	err = fmt.Errorf("writing the audit log: %w", err)
	if n > 0 {
		if cut := a.file.Truncate(a.size); cut != nil {
			err = errors.Join(err, cut)
			a.fail(err)
		}
	}
	return err
}

func (a *Audit) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failed = fmt.Errorf("the audit log takes no more records until the server is started again: %w", err)
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

// sync makes what is written survive a power cut.
func (a *Audit) sync() error {
	a.mu.Lock()
	dirty := a.dirty && a.failed == nil
	a.dirty = false
	a.mu.Unlock()
	if !dirty {
		return nil
	}
	err := a.file.Sync()
	if err != nil {
		a.fail(err)
	}
	return err
}

// Close makes all records durable and closes the file. Records that are being
// written are finished first.
func (a *Audit) Close() error {
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return nil
	}
	a.closed = true
	a.mu.Unlock()
	close(a.stop)
	<-a.stopped
	a.turn.Lock()
	defer a.turn.Unlock()
	return errors.Join(a.sync(), a.file.Close())
}
