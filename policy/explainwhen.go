package policy

import (
	"context"
	"maps"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/parser"
)

// explainWhen says what came of an expression, v and err. In full it also says
// which of its parts that are joined by && do not hold, and what the claims are
// that such a part compares; that compiles and evaluates it anew.
func (r *rule) explainWhen(ctx context.Context, q *query, v any, err error, full bool) Check {
	c := Check{Predicate: "when", Expected: r.When, Presented: "true"}
	switch {
	case err == nil && v == true:
		return c
	case err != nil:
		c.Presented, c.Expected = err.Error(), "true"
	default:
		c.Presented = "false"
	}
	if !full {
		return c
	}
	if parts := failing(ctx, q, r.When); parts != "" {
		c.Presented += ": " + parts
	}
	c.Expected, c.Hint = r.When, q.nearPins(r.When)
	return c
}

// nearPins is the first hint about what an expression demands by equality.
func (q *query) nearPins(when string) string {
	subject, actor, _ := Pinned(when)
	for i, pins := range []Pins{subject, actor} {
		t := []*Token{q.r.Subject, q.r.Actor}[i]
		if t == nil {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(pins)) {
			expected := []any(pins[name])
			got, ok := t.Claims[name]
			if name == "sub" && !ok {
				got, ok = t.Subject, true
			}
			if ok && holds(got, any(expected)) {
				continue
			}
			if hint := nearClaim(t, name, any(expected)); hint != "" {
				return name + ": " + hint
			}
		}
	}
	return ""
}

// maxParts bounds how many parts of an expression are shown.
const maxParts = 5

// failing evaluates an expression once more, all of it, and shows the parts that
// do not hold. It is empty if there is nothing to add: there is one part only, or
// the evaluation was cut off.
func failing(ctx context.Context, q *query, when string) string {
	env, err := environment()
	if err != nil {
		return ""
	}
	compiled, issues := env.Compile(when)
	if issues.Err() != nil {
		return ""
	}
	program, err := env.Program(compiled, cel.EvalOptions(cel.OptExhaustiveEval), cel.CostLimit(maxCost), cel.InterruptCheckFrequency(interruptEach))
	if err != nil {
		return ""
	}
	_, details, _ := program.ContextEval(ctx, &q.vars) // its error is known
	if details == nil {
		return ""
	}
	native := compiled.NativeRep()
	var parts []string
	conjuncts(native.Expr(), func(e ast.Expr) {
		value, known := details.State().Value(e.ID())
		if !known || value == types.True || len(parts) >= maxParts {
			return
		}
		text, err := parser.Unparse(e, native.SourceInfo())
		if err != nil {
			return
		}
		parts = append(parts, strings.Join(strings.Fields(text), " ")+operands(e, func(id int64) (ref.Val, bool) { return details.State().Value(id) }))
	})
	return strings.Join(parts, "; ")
}

// operands shows the values of what a part compares, if these are claims.
func operands(e ast.Expr, value func(int64) (ref.Val, bool)) string {
	if e.Kind() != ast.CallKind {
		return ""
	}
	call := e.AsCall()
	sides := call.Args()
	if call.IsMemberFunction() {
		sides = append([]ast.Expr{call.Target()}, sides...)
	}
	var shown []string
	for _, side := range sides {
		party, claim := claimOf(side)
		if party == "" {
			continue
		}
		v, known := value(side.ID())
		if !known || types.IsUnknownOrError(v) {
			shown = append(shown, party+" has no "+claim)
			continue
		}
		shown = append(shown, party+"'s "+claim+" is "+show(v.Value(), true))
	}
	if len(shown) == 0 {
		return ""
	}
	return " (" + strings.Join(shown, ", ") + ")"
}
