package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestAuditLogRemoved takes the audit log away from a server: no token leaves
// unrecorded, the server is not ready from then on, and ends with the reason, so
// that what started it starts it anew. Then it works [F33, F52].
func TestAuditLogRemoved(t *testing.T) {
	dir := t.TempDir()
	n := startDev(t, dir)
	n.token(t, credentialsGrant(n))
	if err := os.Remove(filepath.Join(dir, "audit.jsonl")); err != nil {
		t.Fatal(err)
	}
	if r := n.token(t, credentialsGrant(n)); r.status != http.StatusServiceUnavailable || r.str("access_token") != "" {
		t.Errorf("status %d: %s", r.status, r.raw)
	}
	if res, err := http.Get(n.env["STS_HTTP"] + "/healthz/ready?capability=issue"); err == nil {
		res.Body.Close()
		if res.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("ready: status %d", res.StatusCode)
		}
	}
	select {
	case <-n.done:
	case <-time.After(20 * time.Second):
		t.Fatal("the server goes on")
	}
	if code := n.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(n.log.String(), "removed while in use") {
		t.Errorf("it ended with %d:\n%s", code, n.log)
	}
	again := startDev(t, dir)
	if r := again.token(t, credentialsGrant(again)); r.status != http.StatusOK || len(again.audit(t)) != 1 {
		t.Errorf("after a new start: status %d, %d records", r.status, len(again.audit(t)))
	}
}
