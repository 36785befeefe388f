package storage

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"

	"github.com/workload-sts/sts/sts"
)

// metric returns what a metric with one label says.
func metric(t testing.TB, a *Audit, name string) float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	must(t, r.Register(a.Collector()))
	families, err := r.Gather()
	must(t, err)
	for _, f := range families {
		if m := f.GetMetric(); f.GetName() == name && len(m) == 1 {
			return m[0].GetCounter().GetValue() + m[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}

// TestSinkBlocked [F51]: a pipe whose reader has stopped holds up neither records nor
// the file. What it does not get is counted, in the metric and, when the reader goes
// on, in a record; what it got and what was counted are all there was.
func TestSinkBlocked(t *testing.T) {
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	a, _, err := OpenAudit(AuditOptions{File: path, Sinks: []AuditSink{NewWriterSink("stdout", w)}})
	must(t, err)
	t.Cleanup(func() { a.Close() })
	const n = sinkQueueLines + 4000 // more than the queue and the pipe hold
	var wg sync.WaitGroup
	for c := range 8 {
		wg.Go(func() {
			for i := range n / 8 {
				begin := time.Now()
				if err := a.Record(t.Context(), &sts.Record{Event: sts.EventToken, Decision: fmt.Sprintf("%d-%d", c, i)}); err != nil || time.Since(begin) > 5*time.Second {
					t.Errorf("%v after %s", err, time.Since(begin))
					return
				}
			}
		})
	}
	wg.Wait()
	if got := len(decisions(t, path)); got != n/8*8 {
		t.Errorf("the file has %d records of %d", got, n)
	}
	dropped := metric(t, a, "sts_audit_sink_dropped_total")
	if dropped == 0 || metric(t, a, "sts_audit_sink_waiting") == 0 {
		t.Errorf("%v dropped, %v wait", dropped, metric(t, a, "sts_audit_sink_waiting"))
	}
	// The reader goes on.
	got := map[int64]bool{}
	var told droppedLine
	for lines := bufio.NewReader(r); told.Event == ""; {
		line, err := lines.ReadBytes('\n')
		must(t, err)
		l, err := parseChainLine(line)
		must(t, err)
		if got[l.seq] {
			t.Fatalf("line %d came twice", l.seq)
		}
		got[l.seq] = true
		if l.event == sts.EventDropped {
			must(t, json.Unmarshal(line, &told))
		}
	}
	// Without the first line of the file, and with the last one.
	if all := int64(n/8*8 + 1); told.Sink != "stdout" || float64(told.Count) != dropped || int64(len(got))+told.Count != all {
		t.Errorf("%d came, told %+v, of %d", len(got), told, all)
	}
}

// TestSinkFails: a sink that fails, hangs and works again at random gets every line
// or has it counted, and the file has all of them whatever it does. A close waits for
// it some seconds at most.
func TestSinkFails(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			got := map[int64]bool{}
			var mu sync.Mutex
			outcomes := rapid.SliceOfN(rapid.IntRange(0, 3), 0, 12).Draw(r, "outcomes")
			sink := AuditSink{Name: "s", Send: func(ctx context.Context, lines [][]byte) error {
				mu.Lock()
				outcome := 0
				if len(outcomes) > 0 {
					outcome, outcomes = outcomes[0], outcomes[1:]
				}
				mu.Unlock()
				take := len(lines)
				var err error
				switch outcome {
				case 1: // fails after a part
					take, err = take/2, errors.New("connection reset")
				case 2: // hangs until it is given up
					<-ctx.Done()
					take, err = 0, ctx.Err()
				case 3: // will never take the last
					take, err = take-1, &refusedLines{count: 1, why: "too old"}
				}
				mu.Lock()
				defer mu.Unlock()
				for _, line := range lines[:take] {
					l, err := parseChainLine(line)
					must(t, err)
					got[l.seq] = true
				}
				return err
			}}
			path := filepath.Join(dir, "audit.jsonl")
			_ = os.Remove(path)
			a, _, err := OpenAudit(AuditOptions{File: path, Sinks: []AuditSink{sink}})
			must(t, err)
			n := rapid.IntRange(1, 40).Draw(r, "records")
			for i := range n {
				must(t, a.Record(t.Context(), &sts.Record{Event: sts.EventToken, Decision: fmt.Sprint(i)}))
				time.Sleep(time.Duration(rapid.IntRange(0, 1000).Draw(r, "pause")) * time.Millisecond)
			}
			time.Sleep(15 * time.Minute) // longer than any number of attempts
			mu.Lock()
			outcomes = nil // what is dropped after the end of the log cannot be in it
			mu.Unlock()
			begin := time.Now()
			must(t, a.Close())
			if d := time.Since(begin); d > 6*time.Second {
				t.Errorf("closing took %s", d)
			}
			if len(decisions(t, path)) != n {
				t.Errorf("the file has %d records of %d", len(decisions(t, path)), n)
			}
			report := verifyLog(t, AuditVerifier{}, path)
			mu.Lock()
			defer mu.Unlock()
			if missing := report.Last - 1 - int64(len(got)); missing != report.Dropped || a.sinks[0].dropped.count() != missing {
				t.Errorf("%d lines, %d came, %d are counted, %d in the log", report.Last-1, len(got), a.sinks[0].dropped.count(), report.Dropped)
			}
		})
	})
}

// TestSinkHangsAtClose: a sink that never answers does not keep a log open, nor
// its last checkpoint out of it.
func TestSinkHangsAtClose(t *testing.T) {
	dir := t.TempDir()
	signer := newTestSigner(t, 1)
	synctest.Test(t, func(t *testing.T) {
		blocked := make(chan struct{})
		sink := AuditSink{Name: "s", Send: func(context.Context, [][]byte) error { <-blocked; return nil }}
		path := filepath.Join(dir, "audit.jsonl")
		a, _, err := OpenAudit(AuditOptions{File: path, Sinks: []AuditSink{sink}, Signer: signer})
		must(t, err)
		must(t, a.Record(t.Context(), &sts.Record{Event: sts.EventToken, Decision: "1"}))
		begin := time.Now()
		must(t, a.Close())
		if d := time.Since(begin); d > 6*time.Second {
			t.Errorf("closing took %s", d)
		}
		if r := verifyLog(t, AuditVerifier{}, path); !r.Closed {
			t.Errorf("%+v", r)
		}
		close(blocked)
	})
}
