package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestKill kills the server while changes are applied and looks for every change
// that was acknowledged after the next start [F28].
func TestKill(t *testing.T) {
	dir := t.TempDir()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	cycles := 12
	if testing.Short() {
		cycles = 3
	}
	var acknowledged []string
	for cycle := range cycles {
		n := startDev(t, dir)
		there := listAudiences(t, n)
		for _, name := range acknowledged {
			if !strings.Contains(there, name+" ") {
				t.Fatalf("cycle %d: %s was acknowledged and is gone", cycle, name)
			}
		}
		var mu sync.Mutex
		var wg sync.WaitGroup
		for writer := range 2 {
			wg.Go(func() {
				for i := 0; ; i++ {
					name := fmt.Sprintf("a-%d-%d-%d", cycle, writer, i)
					_, _, code := n.stsctl(t, "kind: Audience\nname: "+name+"\n", "apply", "-f", "-")
					if code != 0 {
						return // the server is dead
					}
					mu.Lock()
					acknowledged = append(acknowledged, name)
					mu.Unlock()
				}
			})
		}
		time.Sleep(time.Duration(100+rnd.IntN(400)) * time.Millisecond)
		n.kill(t)
		wg.Wait()
	}
	if len(acknowledged) < cycles {
		t.Errorf("only %d changes were acknowledged in %d cycles", len(acknowledged), cycles)
	}
	t.Logf("%d acknowledged changes survived %d kills", len(acknowledged), cycles)
}

func listAudiences(t *testing.T, n *node) string {
	t.Helper()
	out, stderr, code := n.stsctl(t, "", "get", "audiences")
	if code != 0 {
		t.Fatalf("get audiences: %s", stderr)
	}
	return out
}
