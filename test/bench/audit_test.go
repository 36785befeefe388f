package bench

import (
	"fmt"
	"slices"
	"testing"

	"github.com/workload-sts/sts/storage"
)

const auditCallers = 64

// BenchmarkAuditDurability prints the table of DESIGN.md: how many tokens a second
// there are if each record is on the disk before its token leaves, of those if it is
// there a second later. Two services take turns, over the same wire.
func BenchmarkAuditDurability(b *testing.B) {
	async := newServiceWith(b, storage.AuditOptions{})
	durable := newServiceWith(b, storage.AuditOptions{Sync: true})
	fmt.Printf("\n| %d callers | `sync` of `async` (median of %d pairs) | least, most | target |\n|---|---|---|---|\n", auditCallers, pairs)
	for _, path := range []struct {
		name           string
		async, durable call
	}{
		{"client credentials, gRPC", async.credentialsGRPC, durable.credentialsGRPC},
		{"client credentials, HTTP", async.credentialsHTTP, durable.credentialsHTTP},
	} {
		measureWith(b, auditCallers, path.async, round/4) // warm up
		measureWith(b, auditCallers, path.durable, round/4)
		var ratios []float64
		for range pairs {
			least := measureWith(b, auditCallers, path.async, round)
			got := measureWith(b, auditCallers, path.durable, round)
			ratios = append(ratios, got.perSecond/least.perSecond)
		}
		slices.Sort(ratios)
		fmt.Printf("| %s | %.0f %% | %.0f %%, %.0f %% | 60 %% |\n", path.name, 100*ratios[pairs/2], 100*ratios[0], 100*ratios[pairs-1])
	}
}
