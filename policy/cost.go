package policy

import "cel.dev/cel-go/common/cost"

// unknownSizes estimates costs without knowing how large claims are; what is
// refused when a rule is compiled is only what is too costly at least.
type unknownSizes struct{}

func (unknownSizes) EstimateSize(cost.AstNode) *cost.SizeEstimate { return nil }

func (unknownSizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}
