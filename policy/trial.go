package policy

import (
	"context"

	"cel.dev/cel-go/cel"
)

// Check is one predicate of a rule, held against a request.
type Check struct {
	Predicate string // path in the rule, such as subject.claims.ref
	Holds     bool
	Presented string
	Expected  string
	Hint      string // how near a predicate that does not hold has come, and what to do; may be empty
}

// trial collects what comes of the predicates of one rule. Decisions and
// explanations run the same predicates: a decision has no trial and stops at the
// first that does not hold, a denial asks which that was, an explanation goes on
// to see all.
type trial struct {
	all    bool
	parts  bool // say also which parts of an expression do not hold
	checks []Check
	failed int
}

// test notes whether a predicate holds, and tells whether to stop there. say is
// called only if somebody wants to read it.
func (t *trial) test(holds bool, say func() Check) (stop bool) {
	switch {
	case t == nil:
		return !holds
	case holds && !t.all:
		return false
	}
	c := say()
	c.Holds = holds
	if holds {
		c.Hint = ""
	} else {
		t.failed++
	}
	t.checks = append(t.checks, c)
	return !holds && !t.all
}

// progress is how far a rule came with a request: the stage of the first
// predicate that does not hold.
type progress struct {
	t    *trial
	at   stage
	held int // predicates that hold before the first that does not
	// last is the expression that was evaluated last, and what came of it. One
	// that was evaluated before is not evaluated again.
	last evaluated
}

// evaluated is an expression with its value.
type evaluated struct {
	program cel.Program
	value   any
	err     error
}

func (p *progress) evaluate(ctx context.Context, program cel.Program, q *query) (any, error) {
	if p.last.program == nil || p.last.program != program {
		p.last.program = program
		p.last.value, p.last.err = q.evaluate(ctx, program)
	}
	return p.last.value, p.last.err
}

// test is that of the trial; at is the stage that the predicate belongs to.
func (p *progress) test(at stage, holds bool, say func() Check) (stop bool) {
	if !holds {
		p.at = min(p.at, at)
	} else if p.at == matched {
		p.held++
	}
	return p.t.test(holds, say)
}
