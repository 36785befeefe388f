package policy

import (
	"errors"
	"fmt"

	"cel.dev/cel-go/cel"
	celast "cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// unknownSizes estimates costs without knowing how large claims are; what is
// refused when a rule is compiled is only what is too costly at least.
type unknownSizes struct{}

func (unknownSizes) EstimateSize(cost.AstNode) *cost.SizeEstimate { return nil }

func (unknownSizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

// actualCost charges what CEL takes for free if it does not know the type of what
// it works on, as it is with all claims: adding strings and lists, and comparing.
type actualCost struct{}

// CallCost implements cost.ActualCostEstimator; nil leaves the cost to CEL.
func (actualCost) CallCost(function, _ string, args []ref.Val, result ref.Val) *uint64 {
	var c uint64
	switch function {
	case operators.Add:
		c = 1
		if l, ok := result.(traits.Lister); ok {
			if n, ok := l.Size().(types.Int); ok {
				c += uint64(n) * costOfJoined
			}
		} else {
			c += weight(result, maxCost)
		}
	case operators.Equals, operators.NotEquals, operators.In:
		c = 1
		for _, a := range args {
			c += weight(a, maxCost)
		}
	default:
		return nil
	}
	return &c
}

// costOfJoined is what an element costs of two lists that are added. They are not
// copied, but whoever reads the result goes through all that it was joined of.
const costOfJoined = 4

// charsPerUnit is how many characters are handled for a unit of cost, or an element.
const charsPerUnit = 10

// weight is what it costs to look at all of a value, or more than most if that is
// exceeded.
func weight(v ref.Val, most uint64) uint64 {
	switch v := v.(type) {
	case types.String:
		return 1 + uint64(len(v))/charsPerUnit
	case types.Bytes:
		return 1 + uint64(len(v))/charsPerUnit
	case traits.Mapper:
		n := uint64(1)
		for it := v.Iterator(); it.HasNext() == types.True && n <= most; {
			key := it.Next()
			n += weight(key, most-n)
			if n <= most {
				n += weight(v.Get(key), most-n)
			}
		}
		return n
	case traits.Lister:
		n := uint64(1)
		for it := v.Iterator(); it.HasNext() == types.True && n <= most; {
			n += weight(it.Next(), most-n)
		}
		return n
	default:
		return 1
	}
}

// checkNesting bounds how deep macros such as all, exists and map are within each
// other, and in what they go through: each level multiplies what there is to do.
func checkNesting(ast *cel.Ast) error {
	if depth := nesting(celast.NavigateAST(ast.NativeRep())); depth > maxComprehensions {
		return fmt.Errorf("the expression has macros (all, exists, map, filter) %d deep in each other, at most %d are allowed", depth, maxComprehensions)
	}
	return nil
}

func nesting(e celast.NavigableExpr) int {
	deepest := 0
	for _, child := range e.Children() {
		deepest = max(deepest, nesting(child))
	}
	if e.Kind() == celast.ComprehensionKind {
		deepest++
	}
	return deepest
}

var errTooLarge = errors.New("the result is too large for a claim")
