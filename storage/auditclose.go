package storage

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ageEvery is how often it is looked whether a file is old enough.
const ageEvery = time.Minute

func (a *Audit) syncLoop() {
	t := time.NewTicker(syncEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			_ = a.flush() // Err tells
		case <-a.stopAll:
			return
		}
	}
}

// ageLoop has a file that is old enough followed by the next, also if no records
// come.
func (a *Audit) ageLoop() {
	t := time.NewTicker(ageEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			// No record is lost if that fails; the next one tries again.
			ctx, cancel := context.WithTimeout(context.Background(), diskWait)
			_ = a.add(ctx, nil)
			cancel()
		case <-a.stopAll:
			return
		}
	}
}

// Close writes what is being recorded and a last checkpoint, makes all of it
// durable and closes the file; an error means that some of it may not be. If the
// disk hangs, that is the error, and the file is left to the end of the process.
func (a *Audit) Close() (err error) {
	a.ends.Do(func() {
		closed := make(chan error, 1)
		go func() { closed <- a.end() }()
		select {
		case err = <-closed:
		case <-time.After(diskWait):
			err = a.hangs()
		}
		a.closeSinks()
	})
	return err
}

func (a *Audit) end() error {
	close(a.stopAll)
	a.loops.Wait()
	a.close()
	a.ending = true
	var err error
	for _, s := range a.sinks {
		if n, ok := s.dropped.take(); ok {
			err = errors.Join(err, a.last(s.droppedBody(n)))
		}
	}
	if a.checkpoint != nil && a.err() == nil {
		err = errors.Join(err, a.checkpoint.finish())
	}
	// In this order: what could not be signed is still made durable.
	return errors.Join(err, a.flush(), a.file.Close())
}

// closeSinks lets the sinks have what waits, for some seconds.
func (a *Audit) closeSinks() {
	var closing sync.WaitGroup
	for _, s := range a.sinks {
		closing.Go(func() {
			if err := s.close(); err != nil {
				a.o.Log.Warn("closing a sink of the audit log", "error", err.Error())
			}
		})
	}
	closing.Wait()
}
