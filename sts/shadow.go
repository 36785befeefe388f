package sts

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/workload-sts/sts/policy"
)

// Bounds of what a shadow revision costs. One decision at a time takes some
// microseconds, or as long as its expressions may take; what comes faster than
// that is skipped, and counted.
const (
	shadowQueue    = 1024
	shadowTime     = 100 * time.Millisecond
	maxDifferences = 1000
)

// shadow has a second revision decide what the first has decided.
//
// It sees requests whose client and tokens the revision in force has verified, and
// asks the rules of the other one about the same request. A client or an Issuer
// that is not there, is disabled or does not let workloads present their own tokens
// is a denial. Requests that were refused before the rules were asked are not seen:
// what another revision would have verified, only its keys could tell.
type shadow struct {
	queue   chan shadowTask
	current atomic.Pointer[shadowRun] // nil: there is no shadow revision
	totals  [len(differenceKinds) + 2]atomic.Int64
}

// shadowRun is one shadow revision, from when it was taken over here.
type shadowRun struct {
	revision Revision
	st       atomic.Pointer[state] // nil: it does not fit together here, see problem
	problem  string
	since    time.Time

	decided, skipped atomic.Int64
	mu               sync.Mutex
	counts           map[DifferenceKind]int64
	seen             *simplelru.LRU[differenceKey, *Difference]
}

// shadowTask is a decision that was made.
type shadowTask struct {
	run      *shadowRun
	asked    policy.Request
	decision string
	live     verdict
}

// verdict is what rules said: one of the two.
type verdict struct {
	grant  policy.Grant
	denial *policy.Denial
}

func newShadow() *shadow { return &shadow{queue: make(chan shadowTask, shadowQueue)} }

func newShadowRun(r Revision, st *state, problem string) *shadowRun {
	seen, _ := simplelru.NewLRU[differenceKey, *Difference](maxDifferences, nil) // errs only for a size below 1
	run := &shadowRun{revision: r, problem: problem, since: time.Now(), counts: map[DifferenceKind]int64{}, seen: seen}
	run.st.Store(st)
	return run
}

// number is that of the shadow revision that is here, 0 if there is none.
func (s *shadow) number() int64 {
	if run := s.current.Load(); run != nil {
		return run.revision.Number
	}
	return 0
}

// install puts another one in its place; nil: none.
func (s *shadow) install(run *shadowRun) { s.current.Store(run) }

// named returns the shadow revision, if it has the number; 0 stands for any.
func (s *shadow) named(number int64) (*shadowRun, error) {
	run := s.current.Load()
	switch {
	case run == nil:
		return nil, &Error{Code: NotFound, Message: "there is no shadow revision; make one by applying a change with shadow"}
	case number != 0 && number != run.revision.Number:
		return nil, &Error{Code: Conflict, Message: "another shadow revision was put in its place; look at that one first"}
	}
	return run, nil
}

// reloadShadow takes over the shadow revision of the store. One that does not fit
// together here does not keep the live one from being followed.
func (s *Service) reloadShadow(ctx context.Context) error {
	snapshot, err := s.store.Load(ctx, Place{Line: Shadow})
	switch {
	case errors.Is(err, ErrNoRevision):
		s.shadow.install(nil)
		return nil
	case err != nil:
		return err
	case snapshot.Number == s.shadow.number():
		return nil
	}
	st, problems := s.newState(byRef(snapshot.Resources), snapshot.Base, s.state.Load())
	if len(problems) > 0 {
		s.shadow.install(newShadowRun(snapshot.Revision, nil, joined(problems).Error()))
		return nil
	}
	s.shadow.install(newShadowRun(snapshot.Revision, st, ""))
	return nil
}

// offer has the shadow revision decide what was decided, if it has the time. It
// never waits.
func (s *shadow) offer(d *decision) {
	run := s.current.Load()
	if run == nil || run.st.Load() == nil || !d.grant.Valid() && d.denial == nil {
		return
	}
	select {
	case s.queue <- shadowTask{run, d.asked, d.ids.decision, verdict{d.grant, d.denial}}:
	default:
		s.skip(run)
	}
}

func (s *shadow) skip(run *shadowRun) {
	run.skipped.Add(1)
	s.totals[len(s.totals)-1].Add(1)
}

// run decides until ctx ends.
func (s *shadow) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case t := <-s.queue:
			if t.run == s.current.Load() {
				s.decide(ctx, t)
			}
		}
	}
}

func (s *shadow) decide(ctx context.Context, t shadowTask) {
	ctx, cancel := context.WithTimeout(ctx, shadowTime)
	defer cancel()
	v := t.run.st.Load().verdict(ctx, t.asked)
	if ctx.Err() != nil {
		s.skip(t.run) // expressions that were interrupted did not match
		return
	}
	kinds := compare(t.live, v)
	t.run.decided.Add(1)
	if len(kinds) == 0 {
		s.totals[len(differenceKinds)].Add(1)
		return
	}
	for _, k := range kinds {
		s.totals[k.index()].Add(1)
	}
	t.run.note(kinds, t, v)
}

// verdict asks rules about a request that another state has verified.
func (st *state) verdict(ctx context.Context, asked policy.Request) verdict {
	if c := asked.Client; c != nil {
		mine, known := st.client(c.ID, asked.Now)
		if !known || mine.Disabled {
			return verdict{denial: &policy.Denial{Code: policy.UnauthorizedClient, Message: "the client does not exist or is disabled"}}
		}
		asked.Client = &mine.party
	}
	for _, t := range []*policy.Token{asked.Subject, asked.Actor} {
		if t == nil || t.Issuer == policy.Self {
			continue
		}
		i := st.resources[Ref{KindIssuer, t.Issuer}].Issuer
		if i == nil || i.complete().Issuer != t.Iss && !i.spiffe() {
			return verdict{denial: &policy.Denial{Code: policy.InvalidRequest, Message: "the issuer of a token is not trusted"}}
		}
		if t == asked.Subject && asked.Client == nil && !i.SelfPresented {
			return verdict{denial: &policy.Denial{Code: policy.UnauthorizedClient, Message: "workloads may not present tokens of the issuer themselves"}}
		}
	}
	grant, err := st.rules.Decide(ctx, asked)
	if err == nil {
		return verdict{grant: grant}
	}
	denial, ok := err.(*policy.Denial)
	if !ok {
		denial = &policy.Denial{Code: policy.InvalidRequest, Message: err.Error()}
	}
	return verdict{denial: denial}
}
