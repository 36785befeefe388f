package e2e

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestUpgrade starts a server on what servers of earlier versions have left: its
// resources are there, its clients authenticate, its signing keys can be read, and its
// audit log goes on [B-03]. The archives are data directories as they were, never to
// be changed.
func TestUpgrade(t *testing.T) {
	rows := []struct {
		archive string
		log     bool // its audit log can go on
	}{
		{"before-chained-audit", false},
		{"first", true},
	}
	for _, row := range rows {
		t.Run(row.archive, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if out, stderr, code := command(t, os.Environ(), "", "tar", "-xzf", filepath.Join("testdata", row.archive+".tar.gz"), "-C", dir); code != 0 {
				t.Fatalf("%s%s", out, stderr)
			}
			audit := filepath.Join(dir, "audit.jsonl")
			before := readFile(t, audit)
			if !row.log {
				_, stderr, code := command(t, os.Environ(), "", filepath.Join(bin, "stsd"), "serve", "--dev", "--data", dir, "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
				if code != 1 || !strings.Contains(stderr, "move this one away") {
					t.Fatalf("on an audit log that cannot go on: %d %s", code, stderr)
				}
				if err := os.Rename(audit, filepath.Join(dir, "old.jsonl")); err != nil {
					t.Fatal(err)
				}
				before = ""
			}
			n := startDev(t, dir)
			for _, audience := range []string{"demo", "old"} {
				r := n.token(t, url.Values{"grant_type": {"client_credentials"}, "audience": {audience}})
				if r.status != http.StatusOK {
					t.Errorf("for %s: %d %s", audience, r.status, r.raw)
				}
			}
			n.apply(t, "kind: Audience\nname: new\n")
			n.stop(t)
			if after := readFile(t, audit); !strings.HasPrefix(after, before) || len(after) == len(before) {
				t.Error("the audit log does not go on")
			}
			if out, stderr, code := command(t, os.Environ(), "", filepath.Join(bin, "stsctl"), "audit", "verify", audit); code != 0 {
				t.Errorf("audit log: %s%s", out, stderr)
			}
		})
	}
}
