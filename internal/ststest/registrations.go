package ststest

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/workload-sts/sts/sts"
)

// Registrations is a sts.Registrations in memory, which heard from its store just
// now. Followers hear of each change.
type Registrations struct {
	mu        sync.Mutex
	all       map[string]*sts.Registration
	revision  int64
	followers []func(map[string]*sts.Registration)
	broken    error
}

// NewRegistrations returns one without any.
func NewRegistrations() *Registrations {
	return &Registrations{all: map[string]*sts.Registration{}}
}

// Break has writes fail, nil: no more.
func (r *Registrations) Break(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = err
}

// All returns a copy.
func (r *Registrations) All() map[string]*sts.Registration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.all)
}

// Expire removes what need not be kept at a time.
func (r *Registrations) Expire(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = maps.Clone(r.all)
	maps.DeleteFunc(r.all, func(_ string, v *sts.Registration) bool { return now.After(v.Expires) })
	r.tell()
}

// Follow implements sts.Registrations. There may be several followers, as on nodes
// that share a store.
func (r *Registrations) Follow(f func(map[string]*sts.Registration)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.followers = append(r.followers, f)
	f(r.all)
}

func (r *Registrations) tell() {
	for _, f := range r.followers {
		f(r.all)
	}
}

// Create implements sts.Registrations.
func (r *Registrations) Create(_ context.Context, v sts.Registration, most int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, other := range r.all {
		if other.Template == v.Template {
			n++
		}
	}
	switch {
	case r.broken != nil:
		return r.broken
	case n >= most:
		return sts.ErrTooMany
	}
	r.put(v)
	return nil
}

func (r *Registrations) put(v sts.Registration) {
	r.revision++
	v.Revision = r.revision
	r.all = maps.Clone(r.all)
	r.all[v.Name] = &v
	r.tell()
}

// Replace implements sts.Registrations.
func (r *Registrations) Replace(_ context.Context, v sts.Registration) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, ok := r.all[v.Name]
	switch {
	case r.broken != nil:
		return r.broken
	case !ok || old.Revision != v.Revision:
		return sts.ErrConflict
	}
	r.put(v)
	return nil
}

// Delete implements sts.Registrations.
func (r *Registrations) Delete(_ context.Context, v sts.Registration) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, ok := r.all[v.Name]
	switch {
	case r.broken != nil:
		return r.broken
	case !ok || old.Revision != v.Revision:
		return sts.ErrConflict
	}
	r.all = maps.Clone(r.all)
	delete(r.all, v.Name)
	r.tell()
	return nil
}

// Confirmed implements sts.Registrations.
func (r *Registrations) Confirmed() time.Time { return time.Now() }
