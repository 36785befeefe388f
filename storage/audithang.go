package storage

import "time"

// diskWait is how long the disk may take for a write or a sync until those who
// wait are sent away.
const diskWait = 10 * time.Second

// operation is a call of the file, which may hang. Its members belong to Audit.mu.
type operation struct {
	since time.Time // zero: none is under way
	hangs bool
	timer *time.Timer
}

// begin watches a call of the file; a.mu is held.
func (a *Audit) begin(o *operation) {
	o.since = time.Now()
	if o.timer == nil {
		o.timer = time.AfterFunc(diskWait, func() { a.sendAway(o) })
	} else {
		o.timer.Reset(diskWait)
	}
}

// end is the end of such a call; a.mu is held.
func (a *Audit) end(o *operation) {
	o.timer.Stop()
	o.since, o.hangs = time.Time{}, false
}

// sendAway tells all who wait that the disk hangs, if it still does.
func (a *Audit) sendAway(o *operation) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if o.since.IsZero() || time.Since(o.since) < diskWait {
		return // that call has ended
	}
	o.hangs = true
	if a.writing != nil {
		a.writing.finish(errHangs)
	}
	a.pending.finish(errHangs)
	a.pending = &group{done: make(chan struct{})}
}
