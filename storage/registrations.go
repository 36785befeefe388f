package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/workload-sts/sts/sts"
)

// registeredPrefix + client/ + name: a registered client. registeredPrefix + last/ +
// name of a ClientTemplate: the last client that was registered by it. Whoever
// registers another one replaces that, if it is what he has heard of, and so knows
// how many there are.
const (
	registeredPrefix = "registered/"
	registeredClient = registeredPrefix + "client/"
	registeredLast   = registeredPrefix + "last/"
)

// registrationPage is how many entries are read at a time.
const registrationPage = 1_000

// Registrations keeps registered clients in a KV, and all of them in memory. It
// implements sts.Registrations.
type Registrations struct {
	kv       KV
	creating sync.Mutex // held by whoever registers: of two of this node one would lose

	mu        sync.Mutex
	all       map[string]*sts.Registration // replaced, not changed
	last      map[string]int64             // revisions of registeredLast, by template
	added     map[string]int64             // revisions of what was written here that the watch has not told yet, by key
	revision  int64                        // up to it the watch has told everything
	confirmed time.Time
	heard     chan struct{} // closed when the watch has told something
	follow    func(map[string]*sts.Registration)
}

// Registrations reads the registered clients of the store. Run keeps them up to
// date.
func (s *Store) Registrations(ctx context.Context) (*Registrations, error) {
	r := &Registrations{kv: s.kv, added: map[string]int64{}, heard: make(chan struct{}), follow: func(map[string]*sts.Registration) {}}
	return r, r.load(ctx)
}

// Follow implements sts.Registrations.
func (r *Registrations) Follow(f func(map[string]*sts.Registration)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.follow = f
	f(r.all)
}

// Confirmed implements sts.Registrations.
func (r *Registrations) Confirmed() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.confirmed
}

// load reads all there are, and forgets those that are gone.
func (r *Registrations) load(ctx context.Context) error {
	asked := time.Now()
	all, last := map[string]*sts.Registration{}, map[string]int64{}
	revision, err := inPages(ctx, r.kv, registeredPrefix, registrationPage, func(e Entry) error { return putRegistered(all, last, e) })
	if err != nil {
		return fmt.Errorf("reading registered clients: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if revision < r.revision {
		return fmt.Errorf("the store has gone back from revision %d to %d, as one that was restored from a backup: start anew", r.revision, revision)
	}
	for key, at := range r.added {
		if at <= revision {
			delete(r.added, key)
			continue
		}
		r.keepOwn(all, last, key)
	}
	r.all, r.last, r.revision, r.confirmed = all, last, revision, asked
	r.tell()
	return nil
}

// keepOwn takes over what was written here after the rest was read.
func (r *Registrations) keepOwn(all map[string]*sts.Registration, last map[string]int64, key string) {
	if template, ok := strings.CutPrefix(key, registeredLast); ok {
		last[template] = r.last[template]
		return
	}
	name := strings.TrimPrefix(key, registeredClient)
	delete(all, name)
	if own, ok := r.all[name]; ok {
		all[name] = own
	}
}

// tell passes on what is there; r.mu is held.
func (r *Registrations) tell() {
	close(r.heard)
	r.heard = make(chan struct{})
	r.follow(r.all)
}

// Run keeps the registrations up to date until ctx ends.
func (r *Registrations) Run(ctx context.Context) error {
	held := func() int64 {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.revision
	}
	keepUp(ctx, r.kv, registeredPrefix, held, r.take, r.load)
	return nil
}

// take takes over what the watch tells.
func (r *Registrations) take(c Changes) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	all, changed := r.all, false
	for _, e := range c.Events {
		if r.added[e.Key] >= e.Revision {
			continue // it was written here, and maybe again
		}
		if !changed {
			all, changed = maps.Clone(r.all), true
		}
		if e.Deleted {
			delete(all, strings.TrimPrefix(e.Key, registeredClient))
			continue
		}
		if err := putRegistered(all, r.last, e.Entry); err != nil {
			return err
		}
	}
	for key, at := range r.added {
		if at <= c.Revision {
			delete(r.added, key)
		}
	}
	r.revision = c.Revision
	if c.Asked.After(r.confirmed) {
		r.confirmed = c.Asked
	}
	if changed {
		r.all = all
		r.tell()
	}
	return nil
}

// putRegistered takes over an entry.
func putRegistered(all map[string]*sts.Registration, last map[string]int64, e Entry) error {
	if template, ok := strings.CutPrefix(e.Key, registeredLast); ok {
		last[template] = e.Revision
		return nil
	}
	v := &sts.Registration{}
	err := strictly(e.Value, v)
	if err == nil && v.Statement != nil {
		err = exactClaims(v.Statement.Claims)
	}
	if err != nil || registeredClient+v.Name != e.Key {
		return fmt.Errorf("the record %q cannot be read; was it written by a newer version?", e.Key)
	}
	v.Expires, v.Revision = e.Expires.UTC(), e.Revision
	all[v.Name] = v
	return nil
}

// Bounds of a registration that others come before.
const (
	createAttempts = 8
	createWait     = time.Second
)

// Create implements sts.Registrations. Clients of one template are registered one
// after the other on all nodes, each by one who knows of all before.
func (r *Registrations) Create(ctx context.Context, v sts.Registration, most int) error {
	r.creating.Lock()
	defer r.creating.Unlock()
	for range createAttempts {
		r.mu.Lock()
		before, heard, n := r.last[v.Template], r.heard, 0
		for _, other := range r.all {
			if other.Template == v.Template {
				n++
			}
		}
		_, taken := r.all[v.Name]
		r.mu.Unlock()
		switch {
		case taken:
			return sts.ErrConflict
		case n >= most:
			return sts.ErrTooMany
		}
		last := registeredLast + v.Template
		done, err := r.write(ctx, []Compare{{last, before}, {registeredClient + v.Name, 0}}, &v, Op{Key: last, Value: []byte(v.Name)})
		if done || err != nil {
			return err
		}
		// Another node came first. What it registered, the watch tells.
		select {
		case <-heard:
		case <-time.After(createWait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.New("other registrations by the same template kept coming in between")
}

// Replace implements sts.Registrations.
func (r *Registrations) Replace(ctx context.Context, v sts.Registration) error {
	done, err := r.write(ctx, []Compare{{registeredClient + v.Name, v.Revision}}, &v)
	if err == nil && !done {
		return sts.ErrConflict
	}
	return err
}

// Delete implements sts.Registrations.
func (r *Registrations) Delete(ctx context.Context, v sts.Registration) error {
	key := registeredClient + v.Name
	revision, done, err := r.kv.Txn(ctx, []Compare{{key, v.Revision}}, []Op{{Key: key, Delete: true}})
	switch {
	case err != nil:
		return err
	case !done:
		return sts.ErrConflict
	}
	r.force(revision, key, func(all map[string]*sts.Registration) { delete(all, v.Name) })
	return nil
}

// write puts a registration, and what else there is, if nothing came in between.
func (r *Registrations) write(ctx context.Context, compare []Compare, v *sts.Registration, more ...Op) (bool, error) {
	value, err := json.Marshal(v)
	if err != nil {
		return false, fmt.Errorf("encoding a registration: %w", err)
	}
	key := registeredClient + v.Name
	revision, done, err := r.kv.Txn(ctx, compare, append([]Op{{Key: key, Value: value, Expires: v.Expires}}, more...))
	if err != nil || !done {
		return false, err
	}
	r.mu.Lock()
	for _, op := range more {
		template := strings.TrimPrefix(op.Key, registeredLast)
		if revision > r.last[template] {
			r.last[template] = revision
			r.note(op.Key, revision)
		}
	}
	r.mu.Unlock()
	v.Revision = revision
	r.force(revision, key, func(all map[string]*sts.Registration) { all[v.Name] = v })
	return true, nil
}

// force puts into force here what the store has since a revision, unless the watch
// has told that, or what came after it.
func (r *Registrations) force(revision int64, key string, change func(map[string]*sts.Registration)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if revision <= r.revision || r.added[key] > revision {
		return
	}
	r.note(key, revision)
	r.all = maps.Clone(r.all)
	change(r.all)
	r.tell()
}

// note takes down that what the watch tells of a key up to a revision is known;
// r.mu is held.
func (r *Registrations) note(key string, revision int64) {
	if revision > r.revision {
		r.added[key] = max(r.added[key], revision)
	}
}
