package storage

import (
	"sync"
	"time"
)

// dropped says what a sink did not get.
type dropped struct {
	count, first, last int64
	since              time.Time
}

// drops counts what a sink did not get.
type drops struct {
	mu    sync.Mutex
	now   dropped
	total int64
}

func (d *drops) add(seq int64, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.now.count == 0 {
		d.now.first, d.now.since = seq, now
	}
	d.now.count++
	d.now.last = seq
	d.total++
}

// take returns what was dropped since it was called last, if anything was.
func (d *drops) take() (dropped, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.now
	d.now = dropped{}
	return n, n.count > 0
}

// since tells whether something was dropped at some time or before that was not
// told yet.
func (d *drops) since(at time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now.count > 0 && !d.now.since.After(at)
}

// giveBack undoes take.
func (d *drops) giveBack(n dropped) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.now.count > 0 {
		n.count, n.last = n.count+d.now.count, d.now.last
	}
	d.now = n
}

func (d *drops) count() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.total
}
