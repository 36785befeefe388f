package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	celast "cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"google.golang.org/protobuf/types/known/structpb"
)

// Bounds of an expression.
const (
	maxExpression     = 10_000 // characters
	maxNesting        = 100    // depth of the parsed expression
	maxCost           = 60_000 // of one evaluation, in units of CEL, about 3 ms
	maxSpent          = 60_000 // of the evaluations of a decision, before its last one
	maxPattern        = 100    // instructions of a regular expression, about 8 ms with the longest claim
	maxComprehensions = 4      // macros in each other
	interruptEach     = 100    // iterations between looks at the context
)

// environment is the typed environment of expressions. Variables are declared by
// their qualified names, so that a name that does not exist fails when an
// expression is compiled.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	claims := cel.MapType(cel.StringType, cel.DynType)
	return cel.NewEnv(
		cel.ParserExpressionSizeLimit(maxExpression),
		cel.ParserRecursionLimit(maxNesting),
		cel.RegexProgramSizeLimit(maxPattern), // cost counts a pattern only after it ran
		cel.Variable("subject.issuer", cel.StringType),
		cel.Variable("subject.sub", cel.StringType),
		cel.Variable("subject.claims", claims),
		cel.Variable("actor.issuer", cel.StringType),
		cel.Variable("actor.sub", cel.StringType),
		cel.Variable("actor.claims", claims),
		cel.Variable("client.id", cel.StringType),
		cel.Variable("client.labels", cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable("request.audiences", cel.ListType(cel.StringType)),
		cel.Variable("request.scopes", cel.ListType(cel.StringType)),
		cel.Variable("request.time", cel.TimestampType),
	)
})

// yields is what an expression must yield.
type yields int

const (
	yieldsAny yields = iota
	yieldsBool
	yieldsText
)

// compileExpression returns a program, or an error that shows where in the
// expression something is wrong.
func compileExpression(source string, y yields) compiled {
	ast, err := checkExpression(source, y)
	if err != nil {
		return compiled{err: err}
	}
	env, err := environment()
	if err != nil {
		return compiled{err: err}
	}
	var out compiled
	out.program, out.err = env.Program(ast,
		cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxCost), cel.CostTracking(actualCost{}), cel.InterruptCheckFrequency(interruptEach))
	out.reads, out.readsAny = claimsRead(ast.NativeRep().Expr())
	return out
}

func checkExpression(source string, y yields) (*cel.Ast, error) {
	if len(source) > maxExpression {
		return nil, fmt.Errorf("the expression has %d characters, at most %d are allowed", len(source), maxExpression)
	}
	env, err := environment()
	if err != nil {
		return nil, err
	}
	ast, issues := env.Compile(source)
	if issues.Err() != nil {
		return nil, errors.New(strings.TrimPrefix(issues.Err().Error(), "ERROR: "))
	}
	switch t := ast.OutputType(); {
	case y == yieldsBool && t != cel.BoolType:
		return nil, fmt.Errorf("the expression yields %s, it must yield bool; compare it with something", t)
	case y == yieldsText && t != cel.StringType && t != cel.DynType:
		return nil, fmt.Errorf("the expression yields %s, it must yield string; write string(...) around it", t)
	}
	if readsActors(ast) {
		return nil, errors.New("the claim act cannot be read: only who presents an actor token decides about access, not who acted before [RFC 8693 §4.1]")
	}
	if err := checkNesting(ast); err != nil {
		return nil, err
	}
	estimate, err := env.EstimateCost(ast, unknownSizes{})
	if err != nil {
		return nil, err
	}
	if estimate.Min > maxCost {
		return nil, fmt.Errorf("the expression costs at least %d, at most %d are allowed", estimate.Min, maxCost)
	}
	return ast, nil
}

// claimsRead returns the claims that an expression names, as subject.NAME and
// actor.NAME, and whether it looks at the claims in any other way.
func claimsRead(e celast.Expr) (names []string, any bool) {
	used := map[int64]bool{} // claims that are asked for one by its name
	whole := map[int64]bool{}
	celast.PreOrderVisit(e, celast.NewExprVisitor(func(e celast.Expr) {
		if claimsOf(e) != "" {
			whole[e.ID()] = true
		}
		party, claim, at := claimRead(e)
		if party != "" {
			used[at] = true
			names = append(names, party+"."+claim)
		}
	}))
	for id := range whole {
		any = any || !used[id]
	}
	return names, any
}

// claimRead reads what claimOf does, and has(subject.claims.NAME) and "NAME" in
// subject.claims; at is the id of the part that stands for all claims.
func claimRead(e celast.Expr) (party, claim string, at int64) {
	switch e.Kind() {
	case celast.SelectKind:
		of := e.AsSelect().Operand()
		return claimsOf(of), e.AsSelect().FieldName(), of.ID()
	case celast.CallKind:
		call := e.AsCall()
		if len(call.Args()) != 2 {
			return "", "", 0
		}
		of, key := call.Args()[0], call.Args()[1]
		switch call.FunctionName() {
		case operators.In:
			of, key = key, of
		case operators.Index:
		default:
			return "", "", 0
		}
		if name, ok := literal(key); ok {
			if name, ok := name.(string); ok {
				return claimsOf(of), name, of.ID()
			}
		}
	}
	return "", "", 0
}

// readsActors tells whether an expression names the claim act.
func readsActors(ast *cel.Ast) bool {
	found := false
	celast.PreOrderVisit(ast.NativeRep().Expr(), celast.NewExprVisitor(func(e celast.Expr) {
		switch e.Kind() {
		case celast.SelectKind:
			found = found || e.AsSelect().FieldName() == "act" && isClaims(e.AsSelect().Operand())
		case celast.CallKind:
			call := e.AsCall()
			if call.FunctionName() == operators.Index && len(call.Args()) == 2 && isClaims(call.Args()[0]) {
				key := call.Args()[1]
				found = found || key.Kind() == celast.LiteralKind && key.AsLiteral().Equal(types.String("act")) == types.True
			}
		}
	}))
	return found
}

func isClaims(e celast.Expr) bool {
	return e.Kind() == celast.IdentKind && strings.HasSuffix(e.AsIdent(), ".claims") ||
		e.Kind() == celast.SelectKind && e.AsSelect().FieldName() == "claims"
}

// variables are the values of the environment in one decision.
type variables struct {
	r                    *Request
	subject, actor       map[string]any // claims without act, made when first asked for
	hasSubject, hasActor bool
}

func (v *variables) Parent() cel.Activation { return nil }

func (v *variables) ResolveName(name string) (any, bool) {
	switch name {
	case "subject.issuer":
		return tokenOrNone(v.r.Subject).Issuer, true
	case "subject.sub":
		return tokenOrNone(v.r.Subject).Subject, true
	case "subject.claims":
		if !v.hasSubject {
			v.subject, v.hasSubject = visible(v.r.Subject), true
		}
		return v.subject, true
	case "actor.issuer":
		return tokenOrNone(v.r.Actor).Issuer, true
	case "actor.sub":
		return tokenOrNone(v.r.Actor).Subject, true
	case "actor.claims":
		if !v.hasActor {
			v.actor, v.hasActor = visible(v.r.Actor), true
		}
		return v.actor, true
	case "client.id":
		return clientOrNone(v.r.Client).ID, true
	case "client.labels":
		if labels := clientOrNone(v.r.Client).Labels; labels != nil {
			return labels, true
		}
		return map[string]string{}, true
	case "request.audiences":
		return nonNil(v.r.Targets), true
	case "request.scopes":
		return nonNil(v.r.Scopes), true
	case "request.time":
		return v.r.Now, true
	}
	return nil, false
}

func nonNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

func tokenOrNone(t *Token) *Token {
	if t == nil {
		return &Token{}
	}
	return t
}

func clientOrNone(c *Client) *Client {
	if c == nil {
		return &Client{}
	}
	return c
}

var errSpent = fmt.Errorf("not evaluated: the expressions of the rules for this request cost more than %d together", maxSpent)

// overspent refuses a request whose expressions cost too much together: with some
// of them unknown, nobody could say which rules match.
func (q *query) overspent() *Denial {
	if q.spent <= maxSpent {
		return nil
	}
	return deny(InvalidRequest, "the conditions of the rules for this request cost too much to evaluate").
		because("cost", fmt.Sprint(q.spent), fmt.Sprintf("at most %d", maxSpent))
}

// visible are the claims that expressions see.
func visible(t *Token) map[string]any {
	if t == nil {
		return map[string]any{}
	}
	if _, ok := t.Claims["act"]; !ok {
		return t.Claims
	}
	claims := maps.Clone(t.Claims)
	delete(claims, "act")
	return claims
}

// evaluate runs a program. An error is a reason for a rule not to match, or for one
// that denies to match.
func (q *query) evaluate(ctx context.Context, p cel.Program) (any, error) {
	if q.spent > maxSpent {
		return nil, errSpent
	}
	out, details, err := p.ContextEval(ctx, &q.vars)
	if cost := details.ActualCost(); cost != nil {
		q.spent += *cost
	}
	if err != nil {
		return nil, err
	}
	if b, ok := out.(types.Bool); ok {
		return bool(b), nil
	}
	if weight(out, maxCost) > maxCost {
		return nil, errTooLarge
	}
	native, err := out.ConvertToNative(reflect.TypeFor[*structpb.Value]())
	if err != nil {
		return nil, fmt.Errorf("the result is not a JSON value: %w", err)
	}
	return native.(*structpb.Value).AsInterface(), nil
}
