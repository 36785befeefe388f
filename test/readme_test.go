package e2e

import (
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
	secret, _, code := n.stsctl(t, "", "secret", "new")
	if code != 0 {
		t.Fatal("stsctl secret new failed")
	}
	_, hash, ok := strings.Cut(secret, "hmac-sha256:")
	if !ok {
		t.Fatalf("no hash in %q", secret)
	}
	hash = "hmac-sha256:" + strings.TrimSpace(strings.FieldsFunc(hash, func(r rune) bool { return r == '"' || r == '\n' || r == '}' })[0])
	blocks := 0
	for i, block := range strings.Split(string(readme), "```yaml\n") {
		if i == 0 {
			continue
		}
		block, _, _ = strings.Cut(block, "```")
		n.apply(t, strings.ReplaceAll(block, "hmac-sha256:...", hash))
		blocks++
	}
	if blocks != 2 {
		t.Errorf("%d blocks of resources in the README, want 2", blocks)
	}
	r := n.token(t, url.Values{"grant_type": {"client_credentials"}, "audience": {"payments"}})
	if r.str("error") != "unauthorized_client" && r.str("error") != "invalid_target" {
		t.Errorf("the demo client is not allowed payments: %s", r.raw)
	}
}
