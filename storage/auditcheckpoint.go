package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/workload-sts/sts/sts"
)

// maxUncovered is how many lines there are at most between one that a checkpoint
// covers and the line of the checkpoint, so that who verifies need not remember the
// hashes of more.
const maxUncovered = 1 << 20

const (
	checkpointLook = time.Second      // how often it is looked whether one is due
	checkpointTime = 3 * time.Second  // what one may take
	checkpointWait = 30 * time.Second // the longest from one that failed to the next
)

// checkpointer has checkpoints signed, beside the records that go on: one that
// cannot be signed now is signed later, and covers more.
//
// Public keys go into the log as they are published, which is before they sign. So
// a key that takes over is in a part of the log that the one before it has signed.
type checkpointer struct {
	a     *Audit
	more  chan struct{} // has room for one: a checkpoint may be due
	write func(line []byte) error

	covered   atomic.Int64    // what the last checkpoint covers
	announced map[string]bool // keys that are in the file whose first line is
	file      int64
	since     time.Time // all was covered then
	failures  int
	retry     time.Time
	kept      *keeper // nil: nothing keeps checkpoints
}

func newCheckpointer(a *Audit, covered int64) *checkpointer {
	c := &checkpointer{a: a, more: make(chan struct{}, 1), since: a.o.Now()}
	c.covered.Store(covered)
	if a.o.Store != nil {
		c.kept = &keeper{a: a, opened: c.since.UTC()}
	}
	c.write = func(line []byte) error {
		ctx, cancel := context.WithTimeout(context.Background(), checkpointTime)
		defer cancel()
		return a.add(ctx, line)
	}
	return c
}

// poke has it looked whether a checkpoint is due.
func (c *checkpointer) poke() {
	select {
	case c.more <- struct{}{}:
	default: // it is going to
	}
}

func (c *checkpointer) run() {
	tick := time.NewTicker(checkpointLook)
	defer tick.Stop()
	for {
		select {
		case <-c.a.stopAll:
			return
		case <-tick.C:
		case <-c.more:
		}
		now := c.a.o.Now()
		if c.a.err() != nil || now.Before(c.retry) {
			continue
		}
		err := c.announce()
		if err == nil && c.due(now) {
			err = c.sign()
		}
		c.outcome(now, err)
		c.kept.look(now)
	}
}

func (c *checkpointer) outcome(now time.Time, err error) {
	if err == nil {
		if c.failures > 0 {
			c.a.o.Log.Info("checkpoints of the audit log are signed again")
		}
		c.failures, c.retry = 0, time.Time{}
		return
	}
	if c.failures == 0 {
		c.a.o.Log.Warn("a checkpoint of the audit log waits; records go on", "error", err.Error())
	}
	c.retry = now.Add(min(time.Second<<min(c.failures, 10), checkpointWait))
	c.failures++
	c.a.metrics.checkpointFailures.Add(1)
}

// due tells whether it is time for a checkpoint.
func (c *checkpointer) due(now time.Time) bool {
	covered := c.covered.Load()
	if c.a.lastRecord.Load() <= covered {
		c.since = now
		return false
	}
	// The clock may be put back.
	waited := now.Sub(c.since)
	return c.a.reached.Load().seq-covered >= c.a.o.CheckpointRecords || waited >= c.a.o.CheckpointEvery || waited < 0 ||
		covered < c.a.fileFirst.Load() // a file begins
}

// announce puts the keys that are published into the file in use, if they are not
// there.
func (c *checkpointer) announce() error {
	if first := c.a.fileFirst.Load(); c.announced == nil || first != c.file {
		c.announced, c.file = map[string]bool{}, first
	}
	for key := range c.a.o.Signer.KeySet().All() {
		if c.announced[key.ID] {
			continue
		}
		if err := c.write(body(keyLine{Event: sts.EventKey, Time: c.a.o.Now().UTC(), JWK: key})); err != nil {
			return fmt.Errorf("writing a key into the audit log: %w", err)
		}
		c.announced[key.ID] = true
	}
	return nil
}

// finish makes the last checkpoint, when no more records come in.
func (c *checkpointer) finish() error {
	defer c.kept.finish()
	if c.a.lastRecord.Load() <= c.covered.Load() {
		return nil
	}
	c.write = c.a.last
	if err := c.announce(); err != nil {
		return err
	}
	return c.sign()
}

// sign makes a checkpoint of all that is written.
func (c *checkpointer) sign() error {
	if c.a.lastRecord.Load() <= c.covered.Load() {
		return nil
	}
	head := *c.a.reached.Load()
	// What a checkpoint covers is on the disk before the checkpoint is: opening relies
	// on it.
	if err := c.a.flush(); err != nil {
		return err
	}
	point := Checkpoint{Chain: head.chain, Seq: head.seq, Hash: head.hash.String(), Time: c.a.o.Now().UTC()}
	payload, err := json.Marshal(point)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkpointTime)
	defer cancel()
	jws, kid, err := c.a.o.Signer.Sign(ctx, c.a.o.KeySet, AuditCheckpointType, payload)
	if err != nil {
		return fmt.Errorf("signing a checkpoint of the audit log: %w", err)
	}
	if err := c.announce(); err != nil {
		return err
	}
	if !c.announced[kid] {
		return fmt.Errorf("the key %s, which signed a checkpoint of the audit log, is not published", kid)
	}
	if c.a.reached.Load().seq-head.seq > maxUncovered/2 {
		return errors.New("signing a checkpoint of the audit log took so long that it covers too little")
	}
	if err := c.write(point.line(jws)); err != nil {
		return fmt.Errorf("writing a checkpoint into the audit log: %w", err)
	}
	c.covered.Store(head.seq)
	c.since = c.a.o.Now()
	c.kept.offer(point, jws)
	c.a.metrics.checkpoints.Add(1)
	return nil
}
