package policy

import (
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
)

// Pins are values that a claim can have, any of them, by its name.
type Pins map[string][]any

// Pinned returns what an expression demands of the claims of the subject and of
// the actor, as far as that can be told by looking: its parts that are joined by
// && and say that a claim equals a literal, or is in a list of literals. ok is
// false if it is not an expression that [Compile] takes.
//
// What it returns holds whenever the expression is true. The expression may demand
// more.
func Pinned(when string) (subject, actor Pins, ok bool) {
	subject, actor = Pins{}, Pins{}
	if when == "" {
		return subject, actor, true
	}
	env, err := environment()
	if err != nil || len(when) > maxExpression {
		return nil, nil, false
	}
	parsed, issues := env.Compile(when)
	if issues.Err() != nil {
		return nil, nil, false
	}
	conjuncts(parsed.NativeRep().Expr(), func(e ast.Expr) {
		party, claim, values := equality(e)
		if len(values) == 0 {
			return
		}
		pins := map[string]Pins{"subject": subject, "actor": actor}[party]
		if _, already := pins[claim]; !already {
			pins[claim] = values
		}
	})
	return subject, actor, true
}

// conjuncts visits what must all be true for e to be.
func conjuncts(e ast.Expr, visit func(ast.Expr)) {
	if e.Kind() == ast.CallKind && e.AsCall().FunctionName() == operators.LogicalAnd {
		for _, arg := range e.AsCall().Args() {
			conjuncts(arg, visit)
		}
		return
	}
	visit(e)
}

// equality reads CLAIM == LITERAL, either way round, and CLAIM in [LITERALS]. Of
// anything else it returns no values.
func equality(e ast.Expr) (party, claim string, values []any) {
	if e.Kind() != ast.CallKind || len(e.AsCall().Args()) != 2 {
		return "", "", nil
	}
	left, right := e.AsCall().Args()[0], e.AsCall().Args()[1]
	switch e.AsCall().FunctionName() {
	case operators.Equals:
		if party, claim = claimOf(left); party == "" {
			left, right = right, left
			party, claim = claimOf(left)
		}
		if v, ok := literal(right); ok && party != "" {
			return party, claim, []any{v}
		}
	case operators.In:
		if party, claim = claimOf(left); party == "" || right.Kind() != ast.ListKind {
			return "", "", nil
		}
		for _, element := range right.AsList().Elements() {
			v, ok := literal(element)
			if !ok {
				return "", "", nil
			}
			values = append(values, v)
		}
		return party, claim, values
	}
	return "", "", nil
}

// claimOf reads subject.claims.NAME, subject.claims["NAME"] and subject.sub, and
// the same of the actor. The party is empty if it is something else.
func claimOf(e ast.Expr) (party, claim string) {
	switch e.Kind() {
	case ast.IdentKind:
		if party, ok := strings.CutSuffix(e.AsIdent(), ".sub"); ok {
			return party, "sub"
		}
	case ast.SelectKind:
		if s := e.AsSelect(); !s.IsTestOnly() {
			return claimsOf(s.Operand()), s.FieldName()
		}
	case ast.CallKind:
		call := e.AsCall()
		if call.FunctionName() != operators.Index || len(call.Args()) != 2 {
			return "", ""
		}
		if name, ok := literal(call.Args()[1]); ok {
			if name, ok := name.(string); ok {
				return claimsOf(call.Args()[0]), name
			}
		}
	}
	return "", ""
}

func claimsOf(e ast.Expr) (party string) {
	if e.Kind() != ast.IdentKind {
		return ""
	}
	party, ok := strings.CutSuffix(e.AsIdent(), ".claims")
	if !ok {
		return ""
	}
	return party
}

func literal(e ast.Expr) (any, bool) {
	if e.Kind() != ast.LiteralKind {
		return nil, false
	}
	switch v := e.AsLiteral().(type) {
	case types.String:
		return string(v), true
	case types.Bool:
		return bool(v), true
	case types.Int:
		return int64(v), true
	case types.Double:
		return float64(v), true
	default:
		return nil, false
	}
}

// NeverHolds tells whether an expression is false whatever is asked, as far as that
// can be told by looking: one of its parts that are joined by && is false, or two
// demand that a claim has different values. false means perhaps not.
func NeverHolds(when string) bool {
	env, err := environment()
	if err != nil || when == "" || len(when) > maxExpression {
		return false
	}
	parsed, issues := env.Compile(when)
	if issues.Err() != nil {
		return false
	}
	never := false
	seen := map[string][]any{}
	conjuncts(parsed.NativeRep().Expr(), func(e ast.Expr) {
		if v, ok := literal(e); ok && v == false {
			never = true
		}
		party, claim, values := equality(e)
		if len(values) == 0 {
			return
		}
		key := party + "." + claim
		if before, again := seen[key]; again && !holds(any(before), any(values)) {
			never = true
		}
		seen[key] = values
	})
	return never
}

// LooksAt tells whether an expression depends on whose token the subject's, and the
// actor's, is: on its sub or a claim of it. An expression that does not compile
// depends on nothing.
func LooksAt(when string) (subject, actor bool) {
	env, err := environment()
	if err != nil || when == "" || len(when) > maxExpression {
		return false, false
	}
	parsed, issues := env.Compile(when)
	if issues.Err() != nil {
		return false, false
	}
	ast.PreOrderVisit(parsed.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.IdentKind {
			return
		}
		switch e.AsIdent() {
		case "subject.sub", "subject.claims":
			subject = true
		case "actor.sub", "actor.claims":
			actor = true
		}
	}))
	return subject, actor
}
