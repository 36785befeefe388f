package storage

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// OpenReplay opens the journal in a file, which is made with mode 0600 if it is
// missing; its directory must exist. Close it.
func OpenReplay(path string, o ReplayOptions) (*Replay, error) {
	r := &Replay{now: o.Now, max: int64(o.Max), stop: make(chan struct{}), stopped: make(chan struct{})}
	if r.now == nil {
		r.now = time.Now
	}
	if r.max == 0 {
		r.max = defaultMaxReplays
	}
	if o.BootID == nil {
		o.BootID = readBootID
	}
	boot, err := o.BootID()
	if err != nil || len(boot) != bootIDSize {
		boot = unknownBoot
	}
	for i := range r.shards {
		r.shards[i].used = map[useID]int64{}
	}
	old, info, err := openJournal(path)
	if err != nil {
		return nil, fmt.Errorf("opening the replay journal: %w", err)
	}
	r.journal = newJournal(path, boot)
	if err := r.load(old, info.Size(), boot, o); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the replay journal %s: %w", path, err), old.Close())
	}
	// What was being made when a process was killed.
	if left, err := filepath.Glob(path + newJournalSuffix + "*"); err == nil {
		for _, name := range left {
			_ = os.Remove(name) // nobody reads it
		}
	}
	// It is written anew, and durably: what says that it was closed must not be
	// there any more if the machine stops from now on.
	r.journal.file = old
	if err := r.journal.replace(r.header, r.live); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the replay journal %s: %w", path, err), old.Close())
	}
	r.journal.start()
	go r.maintain()
	return r, nil
}

// openJournal opens the file that has the name when it is locked: the one before
// it may have been replaced in between.
func openJournal(path string) (*os.File, os.FileInfo, error) {
	for {
		f, info, err := openPrivate(path, os.O_CREATE)
		if err != nil {
			return nil, nil, err
		}
		named, err := os.Stat(path)
		if err == nil && os.SameFile(info, named) {
			return f, info, nil
		}
		if err := f.Close(); err != nil {
			return nil, nil, err
		}
	}
}

// load reads what was used before, and decides since when that is known.
func (r *Replay) load(f io.Reader, size int64, boot string, o ReplayOptions) error {
	now := r.now()
	h, latest, closed, err := replayHeader{}, int64(0), false, error(nil)
	if size > 0 {
		h, latest, closed, err = readJournal(bufio.NewReaderSize(f, 1<<16), func(e replayEntry) {
			s := &r.shards[e.id[0]%replayShards]
			if e.until <= now.Unix() {
				s.forgotten = max(s.forgotten, e.until)
			} else if _, twice := s.used[e.id]; !twice {
				r.count.Add(1)
				s.used[e.id] = e.until
			}
		})
	}
	switch {
	case err != nil && !errors.Is(err, errJournalDamaged):
		return err
	case err != nil:
		r.lost = "it is damaged"
	case size == 0 && !o.New:
		r.lost = "it was missing"
	case size > 0 && !closed && (h.boot != boot || boot == unknownBoot):
		r.lost = "the machine was started anew without the server having stopped"
	}
	if r.begins = h.begins; r.begins.Before(o.Begins) {
		r.begins = o.Begins
	}
	if r.lost != "" {
		// The clock may stand before what it was: it is at least what the journal has
		// seen, and what it may have missed before it was last made durable.
		r.begins = time.Unix(max(ceil(now), latest+int64(2*syncEvery/time.Second)), 0)
	}
	for i := range r.shards {
		r.shards[i].forgotten = max(r.shards[i].forgotten, h.forgotten)
	}
	return nil
}
