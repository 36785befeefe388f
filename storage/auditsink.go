package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/workload-sts/sts/sts"
)

// What waits for a sink is bounded; more is dropped, and counted.
const (
	sinkQueueLines = 8192
	sinkQueueBytes = 16 << 20
	sinkBatch      = 256
	sinkTime       = 10 * time.Second // what a sink may take for a batch
	sinkWait       = 30 * time.Second // the longest from a failure to the next attempt
	sinkAsked      = 5 * time.Minute  // the longest that a sink can ask for
	sinkDrain      = 2 * time.Second  // what it may take at the end
	tellEvery      = time.Minute      // how long lines are dropped at most until a record says so
)

// AuditSink takes copies of the lines of an audit log to somewhere else.
type AuditSink struct {
	Name string // for metrics and records
	// Send takes lines, line breaks included, in order. It is called by one goroutine.
	// After an error they are sent again, also those that it has taken.
	Send  func(ctx context.Context, lines [][]byte) error
	Close func() error // nil: there is nothing to close
}

// NewWriterSink returns a sink that writes lines as they are.
func NewWriterSink(name string, w io.Writer) AuditSink {
	return AuditSink{Name: name, Send: func(_ context.Context, lines [][]byte) error {
		_, err := w.Write(bytes.Join(lines, nil))
		return err
	}}
}

// sinkQueue is what waits for a sink. Neither records nor the file ever wait for it.
type sinkQueue struct {
	AuditSink
	a       *Audit
	lines   chan []byte
	bytes   atomic.Int64
	dropped drops
	down    bool

	stop, stopped chan struct{}
	failures      atomic.Int64
	sent          atomic.Int64
}

func newSinkQueue(a *Audit, s AuditSink) *sinkQueue {
	return &sinkQueue{
		AuditSink: s, a: a, lines: make(chan []byte, sinkQueueLines), stop: make(chan struct{}), stopped: make(chan struct{}),
	}
}

// offer hands lines over, or drops those for which there is no room. buf is not
// kept.
func (q *sinkQueue) offer(buf []byte) {
	for line := range bytes.Lines(buf) {
		if q.bytes.Load()+int64(len(line)) > sinkQueueBytes {
			q.drop(line)
			continue
		}
		select {
		case q.lines <- bytes.Clone(line):
			q.bytes.Add(int64(len(line)))
		default:
			q.drop(line)
		}
	}
}

func (q *sinkQueue) drop(line []byte) {
	if l, err := parseChainLine(line); err == nil {
		q.dropped.add(l.seq, q.a.o.Now())
	}
}

// run sends what waits until close.
func (q *sinkQueue) run() {
	defer close(q.stopped)
	for {
		select {
		case line := <-q.lines:
			q.send(q.batch(line))
		case <-q.stop:
			q.drain()
			return
		}
	}
}

// batch takes what else waits.
func (q *sinkQueue) batch(first []byte) [][]byte {
	out := append(make([][]byte, 0, 16), first)
	for len(out) < sinkBatch {
		select {
		case line := <-q.lines:
			out = append(out, line)
		default:
			return out
		}
	}
	return out
}

// send tries until it succeeds, or until the end.
func (q *sinkQueue) send(lines [][]byte) {
	for wait := time.Second; ; wait = min(2*wait, sinkWait) {
		err := q.try(context.Background(), sinkTime, lines)
		if refused, ok := errors.AsType[*refusedLines](err); ok {
			q.refused(lines, refused)
			return
		}
		if err == nil {
			break
		}
		q.failures.Add(1)
		if !q.down {
			q.down = true
			q.a.o.Log.Warn("a sink of the audit log does not take records; the file goes on", "sink", q.Name, "error", err.Error())
		}
		pause := wait
		if busy, ok := errors.AsType[*busySink](err); ok {
			pause = max(pause, busy.after)
		}
		select {
		case <-time.After(pause):
		case <-q.stop: // once more, then it is over
			if q.try(context.Background(), sinkDrain, lines) != nil {
				q.forget(lines)
			}
			return
		}
	}
	q.forget(lines)
	q.sent.Add(int64(len(lines)))
	if q.down {
		q.down = false
		q.a.o.Log.Info("a sink of the audit log takes records again", "sink", q.Name)
	}
	q.tellDropped()
}

// tellDropped records what was dropped, when there is room for that record to come
// here too, and every minute if there never is.
func (q *sinkQueue) tellDropped() {
	if len(q.lines) > sinkQueueLines/2 && !q.dropped.since(q.a.o.Now().Add(-tellEvery)) {
		return
	}
	if n, ok := q.dropped.take(); ok {
		q.tell(n)
	}
}

// refused counts lines that a sink will never take as dropped.
func (q *sinkQueue) refused(lines [][]byte, e *refusedLines) {
	q.failures.Add(1)
	q.forget(lines)
	q.a.o.Log.Warn("a sink of the audit log refuses records", "sink", q.Name, "error", e.Error())
	n := int64(len(lines))
	if !e.all {
		n = min(n, e.count)
	}
	q.sent.Add(int64(len(lines)) - n)
	for _, line := range lines[int64(len(lines))-n:] {
		q.drop(line)
	}
}

func (q *sinkQueue) try(ctx context.Context, most time.Duration, lines [][]byte) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	return q.Send(ctx, lines)
}

func (q *sinkQueue) forget(lines [][]byte) {
	for _, line := range lines {
		q.bytes.Add(-int64(len(line)))
	}
}

// tell records what a sink did not get, now that it takes lines again. If that
// cannot be written it is told later.
func (q *sinkQueue) tell(n dropped) {
	ctx, cancel := context.WithTimeout(context.Background(), sinkTime)
	defer cancel()
	if err := q.a.add(ctx, q.droppedBody(n)); err != nil {
		q.dropped.giveBack(n)
	}
}

func (q *sinkQueue) droppedBody(n dropped) []byte {
	return body(droppedLine{
		Event: sts.EventDropped, Time: q.a.o.Now().UTC(), Sink: q.Name, Count: n.count, First: n.first, Last: n.last, Since: n.since.UTC(),
	})
}

// drain sends what waits at the end, for as long as it may take.
func (q *sinkQueue) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), sinkDrain)
	defer cancel()
	for {
		select {
		case line := <-q.lines:
			lines := q.batch(line)
			if err := q.try(ctx, sinkDrain, lines); err != nil {
				q.a.o.Log.Warn("a sink of the audit log did not get the last records", "sink", q.Name, "error", err.Error())
				return
			}
			q.sent.Add(int64(len(lines)))
		default:
			return
		}
	}
}

// close returns when the sink got what waits, or did not take it in time.
func (q *sinkQueue) close() error {
	close(q.stop)
	select {
	case <-q.stopped:
	case <-time.After(2*sinkDrain + time.Second):
		return fmt.Errorf("the sink %s of the audit log does not answer", q.Name)
	}
	if q.Close == nil {
		return nil
	}
	return q.Close()
}
