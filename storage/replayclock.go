package storage

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	clocksDiffer = 5 * time.Second // more is an alarm
	clocksKept   = 4 * replayMark  // how long one is in force after the last sign of it
)

// clocks compares the clock of this node with those that others have noted. One
// that is ahead is told at once by all others; one that is behind tells it itself.
type clocks struct {
	now  func() time.Time
	log  *slog.Logger
	held atomic.Int64 // revision up to which the notes are known

	mu     sync.Mutex
	behind time.Duration // what was seen last, or more
	at     time.Time     // when
	alarm  bool
}

// seen compares with a time that the clock of some node has just shown.
func (c *clocks) seen(at int64) {
	now := c.now()
	behind := max(0, time.Duration(at-now.Unix())*time.Second)
	c.mu.Lock()
	defer c.mu.Unlock()
	if behind < c.behind && now.Sub(c.at).Abs() < clocksKept {
		return // others whose clocks are right are heard between those of the wrong one
	}
	c.behind, c.at = behind, now
	switch {
	case behind > clocksDiffer && !c.alarm:
		c.log.Error("the clock of this server, or of another on the same store, is wrong: set it. Until then, what is used once may be refused by those whose clocks are right",
			"behind", behind, "allowed", clocksDiffer)
	case behind <= clocksDiffer && c.alarm:
		c.log.Info("the clocks of the servers agree again")
	}
	c.alarm = behind > clocksDiffer
}

// shown takes note of a time that some clock has shown, long ago maybe.
func (r *ReplayKV) shown(at int64) {
	for known := r.latest.Load(); at > known && !r.latest.CompareAndSwap(known, at); known = r.latest.Load() {
	}
	r.clocks.seen(at)
}

// heard takes what nodes note.
func (r *ReplayKV) heard(c Changes) error {
	for _, e := range c.Events {
		if at, err := parseMark(e.Entry); err == nil {
			r.shown(at)
		}
	}
	r.clocks.held.Store(c.Revision)
	return nil
}

// read takes what was noted last.
func (r *ReplayKV) read(ctx context.Context) error {
	list, revision, err := r.kv.List(ctx, usedMarkKey, "", 1)
	if err != nil {
		return err
	}
	for _, e := range list {
		if at, err := parseMark(e); err == nil {
			r.shown(at)
		}
	}
	r.clocks.held.Store(revision)
	return nil
}

func parseMark(e Entry) (int64, error) {
	at, err := strconv.ParseInt(string(e.Value), 10, 64)
	if err != nil {
		return 0, errors.New("the key " + usedMarkKey + " of the store holds what this program has not written")
	}
	return at, nil
}

var descClockBehind = prometheus.NewDesc("sts_clock_behind_seconds",
	"How far the clock of this node is behind that of another on the same etcd; more than 5 is an alarm. Missing with bolt_file.", nil, nil)

// ReplayMetrics describes the metrics of a ReplayKV, for their reference.
func ReplayMetrics() []*prometheus.Desc { return []*prometheus.Desc{descClockBehind} }

// Collector returns the metrics of the memory.
func (r *ReplayKV) Collector() prometheus.Collector { return replayCollector{r} }

type replayCollector struct{ r *ReplayKV }

// Describe implements prometheus.Collector.
func (replayCollector) Describe(ch chan<- *prometheus.Desc) { ch <- descClockBehind }

// Collect implements prometheus.Collector.
func (c replayCollector) Collect(ch chan<- prometheus.Metric) {
	c.r.clocks.mu.Lock()
	defer c.r.clocks.mu.Unlock()
	ch <- prometheus.MustNewConstMetric(descClockBehind, prometheus.GaugeValue, c.r.clocks.behind.Seconds())
}
