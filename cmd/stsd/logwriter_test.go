package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestLogWriterBlocked [F51]: a reader that has stopped holds up nobody who logs. What
// it does not get is counted; what it gets is whole and in order.
func TestLogWriterBlocked(t *testing.T) {
	r, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w := newLogWriter(to)
	const n = logLines + 5000
	written := make(chan struct{})
	go func() {
		defer close(written)
		for i := range n {
			fmt.Fprintf(w, "line %d %s\n", i, strings.Repeat("x", 100))
		}
	}()
	select {
	case <-written:
	case <-time.After(20 * time.Second):
		t.Fatal("who logs waits")
	}
	if w.Dropped() == 0 {
		t.Error("nothing is counted")
	}
	last, came := -1, int64(0)
	go func() { w.Close(); to.Close() }() // the reader goes on
	for lines := bufio.NewScanner(r); lines.Scan(); came++ {
		var i int
		if _, err := fmt.Sscanf(lines.Text(), "line %d ", &i); err != nil || i <= last {
			t.Fatalf("%q after line %d", lines.Text(), last)
		}
		last = i
	}
	if came+w.Dropped() != n {
		t.Errorf("%d came and %d are counted of %d", came, w.Dropped(), n)
	}
}

// TestLogWriterBytes bounds what waits by its size too, and a reader that never comes
// back does not keep the process.
func TestLogWriterBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, to := io.Pipe()
		w := newLogWriter(to)
		large := make([]byte, logBytes/4)
		for range 6 {
			w.Write(large)
		}
		if n := w.Dropped(); n != 2 {
			t.Errorf("%d dropped", n)
		}
		begin := time.Now()
		w.Close()
		if d := time.Since(begin); d != logDrain {
			t.Errorf("closing took %s", d)
		}
		r.Close() // the goroutine ends
	})
}
