package storage

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"
)

// diskWait is how long the disk may take for a write or a sync until those who
// wait are sent away.
const diskWait = 10 * time.Second

// maxSpare is how large a buffer is kept for the next group.
const maxSpare = 1 << 20

// groupWriter writes what its callers add. What arrives while a write is under way
// goes out together in the next one.
//
// A group has one fate: it is written whole or not at all, and a write that failed
// is tried anew with the next group, so that a disk that was full works again when
// it has room. After fail, which a sync that fails calls by itself, nothing more is
// taken: what the disk holds is not known then.
//
// A disk that hangs holds two goroutines, no callers: after diskWait those who wait
// get an error and later ones get it at once, until the disk answers. What was in
// the write that hung may be written then; what was behind it is not.
type groupWriter struct {
	groupConfig

	writes, syncs operation
	more          chan struct{} // has room for one: there are entries

	mu      sync.Mutex
	pending *group // takes entries that come in
	writing *group // is being written
	spare   []byte // for the next group
	failed  error
	closed  bool
	dirty   bool // something is written and not synced

	syncing       sync.Mutex    // held during a sync
	stop, written chan struct{} // closed by close, and when the loop has ended
}

// groupConfig says what a groupWriter writes, and how.
type groupConfig struct {
	what string // is written: "audit log"
	// Entries that wait for the disk are bounded; more is refused with full.
	most, mostBytes int
	full            error
	// durable has entries synced before their callers are told.
	durable bool
	// write writes the entries of a group whole, or nothing. It is called by one
	// goroutine.
	write func(entries []byte, count int) error
	// sync makes what was written survive a power cut. It may be called beside write.
	sync func() error
}

// group is what is written together.
type group struct {
	entries []byte
	count   int
	done    chan struct{}
	err     error
	over    bool // done is closed
}

func newGroup(spare []byte) *group { return &group{entries: spare, done: make(chan struct{})} }

// finish tells those who wait what became of a group, unless they were told
// before. The mu of its writer is held.
func (g *group) finish(err error) {
	if !g.over {
		g.over, g.err = true, err
		close(g.done)
	}
}

func newGroupWriter(c groupConfig) *groupWriter {
	return &groupWriter{
		groupConfig: c, pending: newGroup(nil), more: make(chan struct{}, 1), stop: make(chan struct{}), written: make(chan struct{}),
	}
}

// start begins to write.
func (w *groupWriter) start() { go w.loop() }

// add returns when an entry is written, or with an error if it may not be.
func (w *groupWriter) add(ctx context.Context, entry []byte) error {
	g, err := w.enter(entry)
	if err != nil {
		return err
	}
	select {
	case <-g.done:
		return g.err
	case <-ctx.Done():
		return fmt.Errorf("waiting for the %s: %w", w.what, ctx.Err())
	}
}

func (w *groupWriter) enter(entry []byte) (*group, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.pending
	switch {
	case w.closed:
		return nil, ErrClosed
	case w.failed != nil:
		return nil, w.failed
	case w.writes.hangs || w.syncs.hangs:
		return nil, w.hangs()
	case g.count == w.most || len(g.entries) >= w.mostBytes:
		return nil, w.full
	}
	g.entries = append(g.entries, entry...)
	if g.count++; g.count == 1 {
		select {
		case w.more <- struct{}{}:
		default: // loop has still to look
		}
	}
	return g, nil
}

// loop is the only one that writes, so that a disk that hangs holds one goroutine
// and its callers can leave.
func (w *groupWriter) loop() {
	defer close(w.written)
	for {
		select {
		case <-w.more:
			runtime.Gosched() // let those who were told of the last write come in
			w.writePending()
		case <-w.stop:
			w.writePending() // close lets no more come in
			return
		}
	}
}

func (w *groupWriter) writePending() {
	w.mu.Lock()
	g, err := w.pending, w.failed
	if g.count == 0 {
		w.mu.Unlock()
		return
	}
	w.pending, w.writing, w.spare = newGroup(w.spare), g, nil
	w.begin(&w.writes)
	w.mu.Unlock()
	if err == nil {
		err = w.write(g.entries, g.count)
	}
	w.mu.Lock()
	w.end(&w.writes)
	w.dirty = w.dirty || err == nil
	w.mu.Unlock()
	if err == nil && w.durable {
		err = w.flush()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writing = nil
	if cap(g.entries) <= maxSpare {
		w.spare = g.entries[:0]
	}
	g.finish(err)
}

// flush makes what is written survive a power cut. It is not repeated after an
// error: the kernel may have dropped what it could not write.
func (w *groupWriter) flush() error {
	w.syncing.Lock()
	defer w.syncing.Unlock()
	w.mu.Lock()
	if !w.dirty || w.failed != nil {
		defer w.mu.Unlock()
		return w.failed
	}
	w.dirty = false
	w.begin(&w.syncs)
	w.mu.Unlock()
	err := w.sync()
	w.mu.Lock()
	w.end(&w.syncs)
	w.mu.Unlock()
	if err != nil {
		return w.fail(err)
	}
	return nil
}

// fail takes nothing more from now on, and returns what later callers are told.
func (w *groupWriter) fail(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed == nil {
		w.failed = fmt.Errorf("the %s takes nothing more until it is opened again: %w", w.what, err)
	}
	return w.failed
}

// err tells why nothing more is taken, nil while it is.
func (w *groupWriter) err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}

// close lets no more in and returns when what came before is written, or was
// refused. What is written is not synced. It is called once.
func (w *groupWriter) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	close(w.stop)
	<-w.written
}

// last writes one entry more after close. flush makes it durable.
func (w *groupWriter) last(entry []byte) error {
	if err := w.err(); err != nil {
		return err
	}
	if err := w.write(entry, 1); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dirty = true
	return nil
}

// operation is a call of the file, which may hang. Its members belong to
// groupWriter.mu.
type operation struct {
	since time.Time // zero: none is under way
	hangs bool
	timer *time.Timer
}

// begin watches a call of the file; w.mu is held.
func (w *groupWriter) begin(o *operation) {
	o.since = time.Now()
	if o.timer == nil {
		o.timer = time.AfterFunc(diskWait, func() { w.sendAway(o) })
	} else {
		o.timer.Reset(diskWait)
	}
}

// end is the end of such a call; w.mu is held.
func (w *groupWriter) end(o *operation) {
	o.timer.Stop()
	o.since, o.hangs = time.Time{}, false
}

func (w *groupWriter) hangs() error { return &diskHangs{w.what} }

// diskHangs is the error of those who are sent away.
type diskHangs struct{ what string }

func (e *diskHangs) Error() string {
	return fmt.Sprintf("the disk under the %s has not answered for %s", e.what, diskWait)
}

// sendAway tells all who wait that the disk hangs, if it still does.
func (w *groupWriter) sendAway(o *operation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if o.since.IsZero() || time.Since(o.since) < diskWait {
		return // that call has ended
	}
	o.hangs = true
	if w.writing != nil {
		w.writing.finish(w.hangs())
	}
	w.pending.finish(w.hangs())
	w.pending = newGroup(nil)
}
