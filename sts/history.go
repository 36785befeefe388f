package sts

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// History returns up to limit revisions, the newest first, whose number is less
// than before (0: all), and whether there are more.
func (s *Service) History(ctx context.Context, before int64, limit int) (list []Revision, more bool, err error) {
	list, err = s.store.Revisions(ctx, before, limit+1)
	if err != nil {
		return nil, false, unreadableRevision(err)
	}
	if len(list) > limit {
		return list[:limit], true, nil
	}
	return list, false, nil
}

// Revision returns a revision with its resources; number 0 stands for the one in
// force.
func (s *Service) Revision(ctx context.Context, p Place) (Contents, error) {
	snapshot, err := s.store.Load(ctx, p)
	if err != nil {
		return Contents{}, unreadableRevision(err)
	}
	return snapshot, nil
}

func unreadableRevision(err error) error {
	if errors.Is(err, ErrNoRevision) {
		return &Error{Code: NotFound, Message: "there is no such revision, or it is not kept any more; the history lists those that are", Err: err}
	}
	return &Error{Code: Unavailable, RetryAfter: retryLater, Message: "the revisions cannot be read now", Err: err}
}

// ResourceDiff is what becomes of a resource between two revisions. One that is not
// there is zero.
type ResourceDiff struct {
	Ref           Ref
	Before, After Resource
}

// Diff says what is different between two revisions, in the order of kind and name.
func (s *Service) Diff(ctx context.Context, from, to Place) ([]ResourceDiff, error) {
	var sides [2]map[Ref]Resource
	for i, p := range []Place{from, to} {
		if p == (Place{Line: Live}) {
			continue // before the first one there was nothing
		}
		snapshot, err := s.Revision(ctx, p)
		if err != nil {
			return nil, err
		}
		sides[i] = byRef(snapshot.Resources)
	}
	changed := between(sides[0], sides[1])
	out := []ResourceDiff{}
	for _, ref := range slices.Concat(changed.Created, changed.Updated, changed.Deleted) {
		out = append(out, ResourceDiff{ref, sides[0][ref], sides[1][ref]})
	}
	slices.SortFunc(out, func(a, b ResourceDiff) int { return compareRefs(a.Ref, b.Ref) })
	return out, nil
}

// between says what makes resources of others, in the order of kind and name.
func between(from, to map[Ref]Resource) Changed {
	var c Changed
	for ref, r := range to {
		switch old, there := from[ref]; {
		case !there:
			c.Created = append(c.Created, ref)
		case old != r && !same(old, r):
			c.Updated = append(c.Updated, ref)
		}
	}
	for ref := range from {
		if _, there := to[ref]; !there {
			c.Deleted = append(c.Deleted, ref)
		}
	}
	for _, list := range [][]Ref{c.Created, c.Updated, c.Deleted} {
		slices.SortFunc(list, compareRefs)
	}
	return c
}

// Rollback says which revision to go back to.
type Rollback struct {
	To       int64
	Expected int64 // if not 0, the revision that must be in force
	DryRun   bool
	By       Principal
	Why      string
}

// Rollback makes a new revision with the resources of an old one, which must pass
// the checks of any change.
//
// How a client authenticates stays as it is, and a client that is disabled stays
// disabled: a secret that was replaced, or a client that was stopped, must not come
// back because a rule was wrong. A client that does not exist any more comes back
// as it was.
func (s *Service) Rollback(ctx context.Context, r Rollback) (Changed, error) {
	old, err := s.Revision(ctx, Place{Live, r.To})
	switch {
	case r.To <= 0:
		return Changed{}, &Error{Code: InvalidRequest, Field: "to", Message: "the revision to go back to is missing"}
	case err != nil:
		return Changed{}, err
	}
	return s.change(ctx, func(st *state) (*proposal, error) {
		if r.Expected != 0 && r.Expected != st.revision {
			return nil, &Error{Code: Conflict, Message: fmt.Sprintf("revision %d is in force, not %d; look at what changed and try again", st.revision, r.Expected)}
		}
		p := &proposal{line: Live, next: byRef(old.Resources), dryRun: r.DryRun, commit: Commit{
			Revision: Revision{By: r.By, Why: r.Why, Restores: r.To}, From: Place{Live, r.To},
		}}
		for ref, then := range p.next {
			now, there := st.resources[ref]
			if !there {
				continue
			}
			if then.Client != nil {
				if kept := keepCredentials(then.Client, now.Client); !same(then, kept) {
					p.commit.Put = append(p.commit.Put, kept)
					p.next[ref], then = kept, kept
				}
			}
			if same(now, then) {
				p.next[ref] = now // it stays where it was: see difference
			}
		}
		p.done = between(st.resources, p.next)
		return p, nil
	})
}

// keepCredentials returns a client as it was, but for how it authenticates.
func keepCredentials(then, now *Client) Resource {
	c := *then
	c.Secrets, c.PrivateKeyJWT, c.Federated, c.TLS = now.Secrets, now.PrivateKeyJWT, now.Federated, now.TLS
	c.Disabled = c.Disabled || now.Disabled
	return Resource{Client: &c}
}

// Promotion says which shadow revision to put in force, or to give up.
type Promotion struct {
	Shadow int64 // its number; 0: the one that is there
	DryRun bool  // of Promote
	By     Principal
	Why    string // empty: as the shadow revision says
}

// Promote puts the shadow revision in force, if what it was made from still is.
func (s *Service) Promote(ctx context.Context, c Promotion) (Changed, error) {
	return s.change(ctx, func(st *state) (*proposal, error) {
		run, err := s.shadow.named(c.Shadow)
		switch {
		case err != nil:
			return nil, err
		case run.revision.Base != st.revision:
			return nil, s.overtaken(ctx, run.revision.Base, st.revision)
		case run.st.Load() == nil:
			return nil, &Error{Code: InvalidResource, Message: "the shadow revision cannot be used here: " + run.problem}
		}
		why := c.Why
		if why == "" {
			why = run.revision.Why
		}
		n, shadow := run.revision.Number, run.st.Load().resources
		return &proposal{
			line: Live, next: shadow, done: between(st.resources, shadow), dryRun: c.DryRun,
			commit: Commit{Revision: Revision{By: c.By, Why: why, Promotes: n}, From: Place{Shadow, n}, EndsShadow: n},
		}, nil
	})
}

// overtaken says what was changed since a shadow revision was made.
func (s *Service) overtaken(ctx context.Context, base, now int64) error {
	const most = 10
	var names []string
	list, err := s.store.Revisions(ctx, 0, int(min(now-base, maxRefs)))
	for _, r := range list {
		for _, ref := range slices.Concat(r.Created.First, r.Updated.First, r.Deleted.First) {
			if name := ref.String(); r.Number > base && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	changed := ""
	switch {
	case len(names) > most:
		changed = fmt.Sprintf(" (%s and others changed)", strings.Join(names[:most], ", "))
	case len(names) > 0:
		changed = fmt.Sprintf(" (%s changed)", strings.Join(names, ", "))
	}
	return &Error{Code: Conflict, Err: err, Message: fmt.Sprintf(
		"the shadow revision was made from revision %d, and %d is in force%s; apply the change with shadow once more and look at what it does now", base, now, changed)}
}

// Discard gives the shadow revision up.
func (s *Service) Discard(ctx context.Context, c Promotion) error {
	s.replace.Lock()
	defer s.replace.Unlock()
	run, err := s.shadow.named(c.Shadow)
	if err != nil {
		return err
	}
	rev := run.revision
	rev.By, rev.Why = c.By, c.Why
	rec := &Record{Event: EventChange, Outcome: outcomeAllow, Peer: c.By.Peer, Change: &RecordedChange{Line: Shadow, Discards: true, Revision: rev}}
	if err := s.recordEvent(ctx, rec); err != nil {
		return err
	}
	err = s.store.Discard(ctx, rev.Number)
	if err == nil {
		s.shadow.install(nil)
		return nil
	}
	e := &Error{Code: Conflict, Message: "another shadow revision was put in its place, or it is gone already; look again", Err: err}
	if !errors.Is(err, ErrConflict) {
		s.health.failed(CapabilityAdmin, s.now(), DependencyStorage, err)
		e = &Error{Code: Unavailable, RetryAfter: retryLater, Message: "the shadow revision may or may not be gone; look before you try again", Err: err}
	}
	_ = s.recordEvent(ctx, denial(rec, e)) // what is said is why it was not done
	return e
}
