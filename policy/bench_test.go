package policy

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// BenchmarkRules measures a decision among 10, 1,000 and 10,000 rules in alternating
// rounds, and prints the medians of their ratios: of rules for many clients, and of
// rules that are all for one gateway, for one CI system, or deny.
func BenchmarkRules(b *testing.B) {
	sizes := [...]int{10, 1000, 10_000}
	for _, kind := range []string{"clients", "audience", "claim", "denials"} {
		b.Run(kind, func(b *testing.B) {
			var decide [len(sizes)]func()
			for i, n := range sizes {
				w, r := manyRules(n)
				if kind != "clients" {
					w, r = crowded(kind, n)
				}
				s := compile(b, w)
				decide[i] = func() {
					if _, err := s.Decide(b.Context(), r); err != nil {
						b.Fatal(explained(err))
					}
				}
			}
			var times, ratios [len(sizes)][]float64
			for b.Loop() {
				for range 15 {
					for i := range sizes {
						start := time.Now()
						for range 500 {
							decide[i]()
						}
						times[i] = append(times[i], float64(time.Since(start))/500)
						ratios[i] = append(ratios[i], times[i][len(times[i])-1]/times[0][len(times[i])-1])
					}
				}
			}
			for i, n := range sizes {
				slices.Sort(ratios[i])
				slices.Sort(times[i])
				b.ReportMetric(ratios[i][len(ratios[i])/2], fmt.Sprintf("×/%d", n))
				b.ReportMetric(testing.AllocsPerRun(100, decide[i]), fmt.Sprintf("allocs/%d", n))
			}
			b.ReportMetric(times[0][len(times[0])/2], "ns/10")
			b.ReportMetric(0, "ns/op") // leave out
		})
	}
}
