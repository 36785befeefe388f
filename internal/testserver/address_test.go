package testserver

import (
	"fmt"
	"net"
	"os/exec"
	"testing"
)

func TestFreeAddress(t *testing.T) {
	seen := map[string]bool{}
	t.Run("while the test runs", func(t *testing.T) {
		for range 200 {
			address := FreeAddress(t)
			if seen[address] {
				t.Errorf("%s was given twice", address)
			}
			seen[address] = true
			if mark, err := net.ListenPacket("udp", address); err == nil {
				mark.Close()
				t.Errorf("%s is not marked", address)
			}
		}
	})
	for address := range seen {
		mark, err := net.ListenPacket("udp", address)
		if err != nil {
			t.Fatalf("kept after the test: %v", err)
		}
		mark.Close()
	}
}

// TestAwaitsItsPort begins servers whose port is in use at first.
func TestAwaitsItsPort(t *testing.T) {
	file := t.TempDir() + "/tried"
	script := fmt.Sprintf(`if [ -e %[1]s ]; then echo serving; exec cat; fi; touch %[1]s; echo "bind: address already in use" >&2; exit 1`, file)
	p := begin(t, exec.Command("sh", "-c", script))
	p.Await(t)
	if p.Ready != "serving" {
		t.Errorf("%q", p.Ready)
	}
	p.Kill()
}
