package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/sts"
)

// syncEvery is how often written records are made to survive a power cut, unless
// each is. They survive the death of this process as soon as they are written.
const syncEvery = time.Second

// What waits for the disk is bounded; more is refused.
const (
	maxQueue      = 4096     // records
	maxQueueBytes = 16 << 20 // a group of records stops growing there
)

// AuditOptions say how to keep an audit log. Only File must be set.
type AuditOptions struct {
	File string // the file in use; its directory must exist
	// Sync has each record on the disk before Record returns. Else it is written then,
	// and on the disk a second later.
	Sync bool

	MaxSize   int64         // a file that has as many bytes is followed by the next; 0: no bound
	MaxAge    time.Duration // and so is one that was begun so long ago; 0: no bound
	KeepFiles int           // of those that are full, the oldest is removed if there are more; 0: all are kept

	// Signer signs checkpoints; nil: there are none. A checkpoint is due after so many
	// records, or so long after the first that is not covered.
	Signer            AuditSigner
	KeySet            string        // that signs; default sts.DefaultKeySet
	CheckpointRecords int64         // default 1,000
	CheckpointEvery   time.Duration // default 60 s

	Sinks []AuditSink // get a copy of each line

	// Store keeps the last checkpoint too, so that a log that is not what it was is
	// noticed when it is opened; nil: nothing does. Node says whose log it is among
	// those of a store that several share.
	Store *Store
	Node  string

	Log *slog.Logger     // default: nothing is logged
	Now func() time.Time // default time.Now

	wrap func(auditFile) auditFile // for tests
}

// Defaults, which configurations have too.
const (
	DefaultCheckpointRecords = 1000
	DefaultCheckpointEvery   = time.Minute
)

func (o *AuditOptions) defaults() {
	if o.KeySet == "" {
		o.KeySet = sts.DefaultKeySet
	}
	if o.CheckpointRecords == 0 {
		o.CheckpointRecords = DefaultCheckpointRecords
	}
	if o.CheckpointEvery == 0 {
		o.CheckpointEvery = DefaultCheckpointEvery
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.wrap == nil {
		o.wrap = func(f auditFile) auditFile { return f }
	}
}

// AuditSigner signs checkpoints, and tells the keys by which they are verified.
// [sts.SigningKeys] does.
type AuditSigner interface {
	// Sign returns the compact JWS of a payload within a bounded time.
	Sign(ctx context.Context, set, typ string, payload []byte) (token, kid string, err error)
	// KeySet returns the public keys of what is signed now, and soon.
	KeySet() jose.KeySet
}

// auditFile is what Audit needs of a file that appends.
type auditFile interface {
	io.Writer
	Stat() (os.FileInfo, error)
	Truncate(size int64) error
	Sync() error
	Close() error
}

// Audit appends records to a file, one JSON object a line, in a chain that shows
// every change: see DESIGN.md. It implements sts.Audit.
//
// A record is written when Record returns, and on the disk then or about a second
// later. A write that fails leaves no part of a record. If a sync fails, what a
// failed write left cannot be cut off, or the file is changed or removed by others
// while in use, no more records are taken until it is opened again; Err tells.
// How writing is shared, bounded and given up is what [groupWriter] says.
type Audit struct {
	*groupWriter
	o AuditOptions

	// Of the goroutine that writes, and of Close after it.
	head   chainHead
	size   int64     // of file, as far as it was written by us
	began  time.Time // the file
	known  keptChain // what the store knew when it was opened
	tells  bool      // there is something in the file that is not of the log itself
	ending bool      // no more records come in
	out    []byte

	fileMu sync.Mutex // held while file is replaced
	file   auditFile

	// What checkpoints are made of.
	reached    atomic.Pointer[chainHead] // what was written last
	lastRecord atomic.Int64              // the last line that is not a checkpoint
	fileFirst  atomic.Int64              // the first line of file
	checkpoint *checkpointer             // nil: there are none

	sinks   []*sinkQueue
	metrics auditMetrics

	ends    sync.Once
	stopAll chan struct{} // closed by Close
	loops   sync.WaitGroup
}

// Record implements sts.Audit.
func (a *Audit) Record(ctx context.Context, r *sts.Record) error {
	line := lines.Get().(*line)
	defer lines.Put(line)
	if err := line.encode(r); err != nil {
		return fmt.Errorf("encoding an audit record: %w", err)
	}
	return a.add(ctx, line.Bytes())
}

// Err tells why no more records are taken until the file is opened again, nil
// while they are.
func (a *Audit) Err() error { return a.err() }

var errQueue = errors.New("more audit records are waiting for the disk than are held")

// newAudit goes on in a file. It has all defaults filled in.
func newAudit(o AuditOptions, f auditFile, tail auditTail) *Audit {
	a := &Audit{o: o, file: f, head: tail.head, size: tail.size, began: tail.began, known: tail.known, tells: tail.head.seq > tail.first, stopAll: make(chan struct{})}
	a.reached.Store(&tail.head)
	a.fileFirst.Store(tail.first)
	a.lastRecord.Store(tail.record)
	a.groupWriter = newGroupWriter(groupConfig{
		what: "audit log", most: maxQueue, mostBytes: maxQueueBytes, full: errQueue, durable: o.Sync,
		write: a.append,
		sync: func() error {
			a.fileMu.Lock()
			f := a.file
			a.fileMu.Unlock()
			return f.Sync()
		},
	})
	a.start()
	a.loops.Go(a.syncLoop)
	if o.MaxAge > 0 {
		a.loops.Go(a.ageLoop)
	}
	for _, s := range o.Sinks {
		q := newSinkQueue(a, s)
		a.sinks = append(a.sinks, q)
		go q.run()
	}
	if o.Signer != nil {
		a.checkpoint = newCheckpointer(a, tail.covered)
		a.loops.Go(a.checkpoint.run)
	}
	return a
}

// append puts records into the chain and writes them whole, or nothing.
func (a *Audit) append(entries []byte, _ int) error {
	if a.rotationDue() {
		if err := a.rotate(); err != nil {
			if a.err() != nil {
				return err
			}
			// It goes on in the file that there is, and tries again with the next records.
			a.metrics.rotationFailures.Add(1)
			a.o.Log.Error("the audit log cannot begin a new file; it goes on in the one before", "error", err.Error())
		}
	}
	if len(entries) == 0 {
		return nil // it was only about the rotation
	}
	head, buf, record := a.head, a.out[:0], int64(0)
	for start := 0; start < len(entries); {
		end := start + indexLine(entries[start:])
		buf, head = head.link(buf, entries[start:end])
		if !bytes.HasPrefix(entries[start:end], checkpointBegin) {
			record = head.seq
			a.tells = a.tells || !bytes.HasPrefix(entries[start:end], keyBegin)
		}
		start = end
	}
	if cap(buf) <= maxSpare {
		a.out = buf
	}
	if err := a.writeWhole(buf); err != nil {
		return err
	}
	before := a.head.seq
	a.head = head
	a.reached.Store(&head)
	if record > 0 {
		a.lastRecord.Store(record)
	}
	a.metrics.records.Add(head.seq - before)
	for _, s := range a.sinks {
		s.offer(buf)
	}
	if a.checkpoint != nil && head.seq-a.checkpoint.covered.Load() >= a.o.CheckpointRecords {
		a.checkpoint.poke()
	}
	return nil
}

// writeWhole writes to the file all of b or nothing.
func (a *Audit) writeWhole(b []byte) error {
	before, err := a.file.Stat()
	if err != nil {
		return fmt.Errorf("writing the audit log: %w", err)
	}
	if s, ok := before.Sys().(*syscall.Stat_t); ok && s.Nlink == 0 {
		return a.fail(errors.New("its file was removed while in use"))
	}
	if before.Size() != a.size {
		return a.fail(fmt.Errorf("its file was changed by others while in use: it has %d bytes, expected %d", before.Size(), a.size))
	}
	n, err := a.file.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err == nil {
		a.size += int64(n)
		return nil
	}
	a.metrics.writeFailures.Add(1)
	err = fmt.Errorf("writing the audit log: %w", err)
	if cut := a.file.Truncate(a.size); cut != nil {
		return a.fail(errors.Join(err, cut))
	}
	return err
}
