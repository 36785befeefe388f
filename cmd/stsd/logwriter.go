package main

import (
	"bytes"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// What waits for the reader of the log is bounded; more is dropped, and counted.
const (
	logLines = 8192
	logBytes = 8 << 20
	logDrain = 2 * time.Second // what the reader may take at the end
)

// logWriter writes log lines beside those who log: a reader that has stopped, or is
// gone, holds up no request. It implements io.WriteCloser; each Write is a line.
type logWriter struct {
	to      io.Writer
	lines   chan []byte
	bytes   atomic.Int64
	dropped atomic.Int64
	closing sync.Once
	stop    chan struct{}
	done    chan struct{}
}

func newLogWriter(to io.Writer) *logWriter {
	w := &logWriter{to: to, lines: make(chan []byte, logLines), stop: make(chan struct{}), done: make(chan struct{})}
	go w.run()
	return w
}

// Write hands a line over, or drops it. It does not wait.
func (w *logWriter) Write(line []byte) (int, error) {
	if w.bytes.Load()+int64(len(line)) > logBytes {
		w.dropped.Add(1)
		return len(line), nil
	}
	select {
	case w.lines <- bytes.Clone(line):
		w.bytes.Add(int64(len(line)))
	default:
		w.dropped.Add(1)
	}
	return len(line), nil
}

func (w *logWriter) run() {
	defer close(w.done)
	for {
		select {
		case line := <-w.lines:
			w.write(line)
		case <-w.stop:
			for {
				select {
				case line := <-w.lines:
					w.write(line)
				default:
					return
				}
			}
		}
	}
}

func (w *logWriter) write(line []byte) {
	if _, err := w.to.Write(line); err != nil {
		w.dropped.Add(1) // nobody is there to be told
	}
	w.bytes.Add(-int64(len(line)))
}

// Dropped is how many lines were not written.
func (w *logWriter) Dropped() int64 { return w.dropped.Load() }

// Close writes what waits, if the reader takes it in time. Later lines are not
// written.
func (w *logWriter) Close() error {
	w.closing.Do(func() { close(w.stop) })
	select {
	case <-w.done:
	case <-time.After(logDrain):
	}
	return nil
}
