package e2e

import (
	"encoding/json"
	"net/url"
	"os"
	"strings"
	"testing"
)

// TestReadme applies the resources that the README shows.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	n := startDev(t, t.TempDir())
	out, _, _ := n.stsctl(t, "", "secret", "new", "-o", "json")
	var made struct{ Hash string }
	if err := json.Unmarshal([]byte(out), &made); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	blocks := 0
	for i, block := range strings.Split(string(readme), "```yaml\n") {
		if i == 0 {
			continue
		}
		block, _, _ = strings.Cut(block, "```")
		n.apply(t, strings.ReplaceAll(block, "hmac-sha256:...", made.Hash))
		blocks++
	}
	if blocks != 3 {
		t.Errorf("%d blocks of resources in the README, want 3", blocks)
	}
	r := n.token(t, url.Values{"grant_type": {"client_credentials"}, "audience": {"payments"}})
	if r.str("error") != "unauthorized_client" && r.str("error") != "invalid_target" {
		t.Errorf("the demo client is not allowed payments: %s", r.raw)
	}
}
