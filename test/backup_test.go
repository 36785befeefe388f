package e2e

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestBackup copies the store of a server that is being written, and makes another
// server of the copy: it has what was acknowledged before the copy, it does not
// begin without an explicit yes, and it takes no token of before [B-02, F55].
func TestBackup(t *testing.T) {
	dir := t.TempDir()
	n := startDev(t, filepath.Join(dir, "first"))
	n.apply(t, "kind: Audience\nname: before\n")
	exchange := func(n *node, token string) reply {
		return n.token(t, url.Values{
			"grant_type": {grantExchange}, "subject_token": {token}, "subject_token_type": {typeAccessToken}, "audience": {n.env["STS_AUDIENCE"]},
		})
	}
	token := n.token(t, credentialsGrant(n)).str("access_token")
	if r := exchange(n, token); r.status != http.StatusOK {
		t.Fatalf("a token of before: %d %s", r.status, r.raw)
	}
	stop := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				n.apply(t, "kind: Audience\nname: meanwhile\nscopes: [a]\n")
				n.apply(t, "kind: Audience\nname: meanwhile\nscopes: [b]\n")
			}
		}
	})
	backup := filepath.Join(dir, "backup.db")
	stdout, stderr, code := n.stsctl(t, "", "storage", "backup", backup)
	close(stop)
	writing.Wait()
	if code != 0 || !strings.Contains(stdout, "is a whole backup") {
		t.Fatalf("backup: %s%s", stdout, stderr)
	}
	if !strings.Contains(readFile(t, filepath.Join(dir, "first", "audit.jsonl")), `"action":"backup"`) {
		t.Error("the backup is not in the audit log")
	}
	n.apply(t, "kind: Audience\nname: after\n")
	store := filepath.Join(dir, "first", "sts.db")
	if _, stderr, code := n.stsctl(t, "", "storage", "compact", store); code != 4 || !strings.Contains(stderr, "in use by another process") {
		t.Errorf("compacting a store in use: %d, %s", code, stderr)
	}
	n.kill(t)

	for _, args := range [][]string{{"compact", store}, {"verify", store}} {
		if stdout, stderr, code := n.stsctl(t, "", append([]string{"storage"}, args...)...); code != 0 {
			t.Errorf("%v: %s%s", args, stdout, stderr)
		}
	}
	first := startDev(t, filepath.Join(dir, "first"))
	if there := listAudiences(t, first); !strings.Contains(there, "before ") || !strings.Contains(there, "after ") {
		t.Errorf("after compacting: %s", there)
	}

	first.kill(t)

	// The store is lost, and comes from the backup.
	for _, name := range []string{store, store + ".replay"} {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	restore := []string{"storage", "restore", "--from", backup, "--to", store}
	if _, stderr, code := n.stsctl(t, "", restore...); code != 2 || !strings.Contains(stderr, "--accept-rollback") {
		t.Errorf("restore without a yes: %d, %s", code, stderr)
	}
	if stdout, stderr, code := n.stsctl(t, "", append(restore, "--accept-rollback")...); code != 0 {
		t.Fatalf("restore: %s%s", stdout, stderr)
	}
	second := startDev(t, filepath.Join(dir, "first"))
	if there := listAudiences(t, second); !strings.Contains(there, "before ") || strings.Contains(there, "after ") {
		t.Errorf("after the restore: %s", there)
	}
	if !strings.Contains(second.log.String(), "what was used once before is not known") {
		t.Error("the restored server does not say that it does not know what was used")
	}
	if r := exchange(second, token); r.status == http.StatusOK {
		t.Error("a token of before counts after the restore")
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		r := exchange(second, second.token(t, credentialsGrant(second)).str("access_token"))
		if r.status == http.StatusOK {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a token of afterwards: %d %s", r.status, r.raw)
		}
	}
	second.kill(t)
	third := startDev(t, filepath.Join(dir, "first"))
	if records := strings.Count(readFile(t, filepath.Join(dir, "first", "audit.jsonl")), `"event":"revoke"`); records != 1 {
		t.Errorf("%d revocations were recorded, one is enough", records)
	}
	if r := exchange(third, token); r.status == http.StatusOK {
		t.Error("a token of before counts after another start")
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func listAudiences(t *testing.T, n *node) string {
	t.Helper()
	out, stderr, code := n.stsctl(t, "", "get", "audiences")
	if code != 0 {
		t.Fatalf("get audiences: %s", stderr)
	}
	return out
}
