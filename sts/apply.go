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

// Bounds of a change.
const (
	commitAttempts = 8    // after other writers
	maxWhy         = 1000 // characters
)

// Apply makes a change: all of it or, with an error that is an *Error, nothing.
// When it returns, the change is durable and in force here, or, if it is one of
// Change.Shadow, decides beside what is.
//
// An error of code Unavailable means that the change may or may not have been
// made; what is in force afterwards is what the store has.
func (s *Service) Apply(ctx context.Context, c Change) (Changed, error) {
	return s.change(ctx, func(st *state) (*proposal, error) {
		if c.Expected != 0 && c.Expected != st.revision {
			return nil, &Error{Code: Conflict, Message: fmt.Sprintf("revision %d is in force, not %d; look at what changed and try again", st.revision, c.Expected)}
		}
		if e := c.unmet(st.resources); e != nil {
			return nil, e
		}
		next, done, problems := merge(st.resources, c)
		if len(problems) > 0 {
			return nil, invalidResources(problems)
		}
		p := &proposal{
			line: Live, next: next, done: done, dryRun: c.DryRun, locate: c.Put,
			commit: Commit{
				Revision: Revision{By: c.By, Why: c.Why},
				From:     Place{Live, st.revision}, Put: changedOnly(c.Put, done), Delete: done.Deleted,
			},
		}
		if c.Shadow {
			p.line = Shadow
		}
		return p, nil
	})
}

// proposal is a revision that is to be checked, and then to be made.
type proposal struct {
	line   Line
	next   map[Ref]Resource
	done   Changed // since the revision in force
	dryRun bool
	locate []Resource // what Index of a problem counts in
	commit Commit     // whose From, Put and Delete make next
}

// change checks what propose makes of the state in force, and commits it. After
// another writer came first it begins anew.
func (s *Service) change(ctx context.Context, propose func(*state) (*proposal, error)) (Changed, error) {
	for range commitAttempts {
		done, err := s.tryChange(ctx, propose)
		if !errors.Is(err, ErrConflict) {
			return done, err
		}
		if err := s.reload(ctx); err != nil {
			return Changed{}, &Error{Code: Unavailable, RetryAfter: retryLater, Message: "the resources cannot be read now", Err: err}
		}
	}
	return Changed{}, &Error{Code: Conflict, Message: "other changes kept coming in between; try again"}
}

func (s *Service) tryChange(ctx context.Context, propose func(*state) (*proposal, error)) (Changed, error) {
	s.replace.Lock()
	defer s.replace.Unlock()
	st := s.state.Load()
	p, err := propose(st)
	if err != nil {
		return Changed{}, err
	}
	p.done.Revision = st.revision
	if len(p.commit.Why) > maxWhy {
		return Changed{}, &Error{Code: InvalidRequest, Field: "why", Message: fmt.Sprintf("why has more than %d characters", maxWhy)}
	}
	if len(p.done.Created)+len(p.done.Updated)+len(p.done.Deleted) == 0 && p.line == Live && p.commit.EndsShadow == 0 {
		return p.done, nil
	}
	// 1. It must be sound as a whole.
	replacement, problems := s.newState(p.next, st.revision, st)
	changed := map[Ref]bool{}
	for _, ref := range slices.Concat(p.done.Created, p.done.Updated) {
		changed[ref] = true
	}
	problems = append(problems, tooLarge(p.next, changed)...)
	problems = append(problems, unsafe(replacement, func(r Ref) bool { return changed[r] })...)
	if len(problems) > 0 {
		return Changed{}, invalidResources(locate(problems, p.locate))
	}
	if p.dryRun {
		return p.done, nil
	}
	// 2. Durable.
	revision, err := s.commit(ctx, st, p)
	if err != nil {
		return Changed{}, err
	}
	// 3. In force here.
	if p.line == Shadow {
		p.done.Shadow = revision.Number
		s.shadow.install(newShadowRun(revision, replacement, ""))
		return p.done, nil
	}
	replacement.revision, p.done.Revision = revision.Number, revision.Number
	s.install(replacement)
	if p.commit.EndsShadow != 0 {
		s.shadow.install(nil)
	}
	return p.done, nil
}

// commit records a change and stores it.
func (s *Service) commit(ctx context.Context, st *state, p *proposal) (Revision, error) {
	c := p.commit
	c.Line, c.Expected = p.line, st.revision
	if p.line == Shadow {
		c.Expected = s.shadow.number()
	}
	c.Revision.Base, c.Revision.Time = st.revision, s.now().UTC()
	c.Revision.Created, c.Revision.Updated, c.Revision.Deleted = refsOf(p.done.Created), refsOf(p.done.Updated), refsOf(p.done.Deleted)
	fields := differences(st.resources, p.next, p.done.Updated)
	c.Revision.Number = c.Expected + 1 // of the live line; the store says it of the other
	if err := s.recordChange(ctx, p.line, c.Revision, fields, nil); err != nil {
		return Revision{}, err
	}
	revision, err := s.store.Commit(ctx, c)
	if err == nil {
		return revision, nil
	}
	conflict := errors.Is(err, ErrConflict) || errors.Is(err, ErrNoRevision)
	failed := &Error{
		Code: Unavailable, RetryAfter: retryLater, Err: err,
		Message: "the change could not be stored and may or may not be in force; look before you try again",
	}
	if conflict {
		failed = &Error{Code: Conflict, Message: "somebody else changed something in between", Err: err}
	}
	// What was recorded did not happen, or is not known to have.
	if err := s.recordChange(ctx, p.line, c.Revision, fields, failed); err != nil {
		return Revision{}, err
	}
	if conflict {
		return Revision{}, ErrConflict
	}
	s.health.failed(CapabilityAdmin, s.now(), DependencyStorage, err)
	return Revision{}, failed
}

func invalidResources(problems []Problem) *Error {
	return &Error{Code: InvalidResource, Problems: problems, Message: "nothing was changed: the resources would not fit together"}
}

// tooLarge reports resources that cannot be stored.
func tooLarge(resources map[Ref]Resource, changed map[Ref]bool) []Problem {
	var out []Problem
	for ref := range changed {
		if b, err := json.Marshal(resources[ref]); err != nil || len(b) > MaxResourceSize {
			out = append(out, Problem{Ref: ref, Index: -1, Message: fmt.Sprintf("has %d KiB as it is stored, at most %d", len(b)>>10, MaxResourceSize>>10)})
		}
	}
	return out
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
		case same(old, r):
			r = old // it stays where it was: see difference
		default:
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

// locate says which of the resources that were put each problem is in.
func locate(problems []Problem, put []Resource) []Problem {
	index := map[Ref]int{}
	for i, r := range put {
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

// The outcomes of records.
const (
	outcomeAllow = "allow"
	outcomeDeny  = "deny"
)

// recordChange records a revision that is being made, or, with an error, that it
// was not made, or is not known to have been.
func (s *Service) recordChange(ctx context.Context, line Line, r Revision, fields []RecordedField, failed *Error) error {
	if line == Shadow {
		r.Number = 0 // the store gives it
	}
	rec := &Record{Event: EventChange, Outcome: outcomeAllow, Peer: r.By.Peer, Change: &RecordedChange{Line: line, Revision: r, Fields: fields}}
	if failed != nil {
		rec.Outcome, rec.Error, rec.Reason = outcomeDeny, failed.Code, failed.Message
	}
	return s.recordEvent(ctx, rec)
}
