package sts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// commitAttempts bounds how often a change is tried anew after other writers.
const commitAttempts = 8

// Apply makes a change: all of it or, with an error that is an *Error, nothing.
// When it returns, the change is durable and in force here.
//
// An error of code Unavailable means that the change may or may not have been
// made; what is in force afterwards is what the store has.
func (s *Service) Apply(ctx context.Context, c Change) (Changed, error) {
	for range commitAttempts {
		done, err := s.tryApply(ctx, c)
		if !errors.Is(err, ErrConflict) {
			return done, err
		}
		if err := s.reload(ctx); err != nil {
			return Changed{}, &Error{Code: Unavailable, RetryAfter: retryLater, Message: "the resources cannot be read now", Err: err}
		}
	}
	return Changed{}, &Error{Code: Conflict, Message: "other changes kept coming in between; try again"}
}

func (s *Service) tryApply(ctx context.Context, c Change) (Changed, error) {
	s.replace.Lock()
	defer s.replace.Unlock()
	st := s.state.Load()
	if c.Expected != 0 && c.Expected != st.revision {
		return Changed{}, &Error{Code: Conflict, Message: fmt.Sprintf("revision %d is in force, not %d; look at what changed and try again", st.revision, c.Expected)}
	}
	if e := c.unmet(st.resources); e != nil {
		return Changed{}, e
	}
	next, done, problems := merge(st.resources, c)
	if len(problems) > 0 {
		return Changed{}, invalidResources(problems)
	}
	done.Revision = st.revision
	if len(done.Created)+len(done.Updated)+len(done.Deleted) == 0 {
		return done, nil
	}
	replacement, problems := s.newState(next, st.revision)
	changed := map[Ref]bool{}
	for _, ref := range slices.Concat(done.Created, done.Updated) {
		changed[ref] = true
	}
	problems = append(problems, unsafe(next, func(r Ref) bool { return changed[r] })...)
	if len(problems) > 0 {
		return Changed{}, invalidResources(locate(problems, c))
	}
	if c.DryRun {
		return done, nil
	}
	revision, err := s.store.Commit(ctx, st.revision, changedOnly(c.Put, done), done.Deleted)
	if errors.Is(err, ErrConflict) {
		return Changed{}, err
	}
	if err != nil {
		s.health.failed(CapabilityAdmin, s.now(), DependencyStorage, err)
		return Changed{}, &Error{Code: Unavailable, RetryAfter: retryLater, Message: "the change could not be stored and may or may not be in force; look before you try again", Err: err}
	}
	replacement.revision, done.Revision = revision, revision
	s.install(replacement)
	return done, nil
}

func invalidResources(problems []Problem) *Error {
	return &Error{Code: InvalidResource, Problems: problems, Message: "nothing was changed: the resources would not fit together"}
}

// merge returns the resources after the change, and what that changes.
func merge(now map[Ref]Resource, c Change) (map[Ref]Resource, Changed, []Problem) {
	next := maps.Clone(now)
	var done Changed
	var problems []Problem
	put := map[Ref]bool{}
	for i, r := range c.Put {
		ref := r.Ref()
		old, exists := now[ref]
		switch {
		case ref.Name == "":
			problems = append(problems, Problem{Ref: ref, Index: i, Field: "name", Message: "a resource needs a kind and a name"})
		case put[ref]:
			problems = append(problems, Problem{Ref: ref, Index: i, Field: "name", Message: "defined twice in this change"})
		case !exists:
			done.Created = append(done.Created, ref)
		case !same(old, r):
			done.Updated = append(done.Updated, ref)
		}
		put[ref] = true
		next[ref] = r
	}
	for _, ref := range c.Delete {
		switch _, exists := now[ref]; {
		case put[ref]:
			problems = append(problems, Problem{Ref: ref, Index: -1, Message: "put and deleted in one change"})
		case !exists:
			problems = append(problems, Problem{Ref: ref, Index: -1, Message: "cannot be deleted, it does not exist"})
		case !slices.Contains(done.Deleted, ref):
			done.Deleted = append(done.Deleted, ref)
		}
		delete(next, ref)
	}
	return next, done, problems
}

// same compares resources as they are stored: a number that was read back is
// still the number that was written.
func same(a, b Resource) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// locate says which resource of the change each problem is in.
func locate(problems []Problem, c Change) []Problem {
	index := map[Ref]int{}
	for i, r := range c.Put {
		index[r.Ref()] = i
	}
	for i := range problems {
		if n, ok := index[problems[i].Ref]; ok {
			problems[i].Index = n
		}
	}
	return problems
}

// changedOnly leaves out resources that are already stored as they are.
func changedOnly(put []Resource, done Changed) []Resource {
	changed := map[Ref]bool{}
	for _, ref := range slices.Concat(done.Created, done.Updated) {
		changed[ref] = true
	}
	return slices.DeleteFunc(slices.Clone(put), func(r Resource) bool { return !changed[r.Ref()] })
}

// Resource returns a resource and the revision that it was read at.
func (s *Service) Resource(ref Ref) (Resource, int64, error) {
	st := s.state.Load()
	r, ok := st.resources[ref]
	if !ok {
		return Resource{}, 0, &Error{Code: NotFound, Message: "there is no such resource"}
	}
	return r, st.revision, nil
}

// Resources returns up to limit resources of a kind, or of all kinds if it is
// empty, that come after a given one in the order of kind and name, whether
// there are more, and the revision.
func (s *Service) Resources(kind Kind, after Ref, limit int) (page []Resource, more bool, revision int64) {
	st := s.state.Load()
	start := 0
	if after != (Ref{}) {
		var found bool
		if start, found = slices.BinarySearchFunc(st.order, after, compareRefs); found {
			start++
		}
	}
	for _, ref := range st.order[start:] {
		if kind != "" && ref.Kind != kind {
			continue
		}
		if len(page) == limit {
			return page, true, st.revision
		}
		page = append(page, st.resources[ref])
	}
	return page, false, st.revision
}
