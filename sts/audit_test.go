package sts_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"testing"

	"github.com/workload-sts/sts/sts"
)

// TestEventsAreListed: each Event is in one of the lists that readers of the log go
// by, so none can be forgotten.
func TestEventsAreListed(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "audit.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	listed := slices.Concat(sts.RecordEvents, sts.LogEvents)
	var defined []sts.Event
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			if kind, ok := spec.Type.(*ast.Ident); ok && kind.Name == "Event" {
				value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				defined = append(defined, sts.Event(value))
			}
		}
		return true
	})
	slices.Sort(listed)
	slices.Sort(defined)
	if len(defined) == 0 || !slices.Equal(listed, defined) {
		t.Errorf("defined %q, listed %q", defined, listed)
	}
}
