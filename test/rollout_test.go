package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// rolloutRules grant the demo client some scopes of an Audience.
func rolloutRules(scopes string) string {
	return "kind: Audience\nname: web\nscopes: [web.read, web.deploy]\n---\nkind: Rule\nname: deploy-from-main\n" +
		"requester: {clients: [demo]}\nallow: {audiences: [web], scopes: [" + scopes + "], ttl: 5m}\n"
}

// TestRollout runs the commands of docs/rollout.md against a server, in their order:
// a change is tried out beside what is in force, put in force, and taken back.
func TestRollout(t *testing.T) {
	n := startDev(t, t.TempDir())
	dir := filepath.Join(t.TempDir(), "policy.d")
	write := func(content string) {
		t.Helper()
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "rules.yaml"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// ctl runs stsctl and returns what it writes, which must match all patterns.
	ctl := func(code int, args []string, patterns ...string) string {
		t.Helper()
		out, stderr, got := n.stsctl(t, "", args...)
		if got != code {
			t.Fatalf("stsctl %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, code, out, stderr)
		}
		for _, p := range patterns {
			if !regexp.MustCompile(`(?m)` + p).MatchString(out + stderr) {
				t.Errorf("stsctl %s: no %q in\n%s%s", strings.Join(args, " "), p, out, stderr)
			}
		}
		return out
	}
	deploy := []string{"token", "--audience", "web", "--scope", "web.deploy"}
	audit := filepath.Join(n.dir, "audit.jsonl")

	write(rolloutRules("web.read, web.deploy"))
	ctl(0, []string{"apply", "-f", dir}, `^revision 2$`)
	write(rolloutRules("web.read"))
	ctl(0, []string{"apply", "-f", dir, "--shadow", "--why", "TICKET-71: deploys need no write"},
		`^would be updated Rule deploy-from-main$`, `revision 2 goes on; shadow revision 1 decides beside it`)
	ctl(0, deploy)
	ctl(0, []string{"token", "--audience", "web"})
	var diff string
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(diff, "2 decisions made beside") && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		diff = ctl(0, []string{"policy", "diff", "--shadow"})
	}
	for _, line := range []string{
		"changed Rule deploy-from-main", "  -   scopes: [web.read, web.deploy]", "  +   scopes: [web.read]",
		"on this node, since", "  other_scopes: 1", "  would_deny: 1", "made from revision 2 by", "TICKET-71: deploys need no write",
	} {
		if !strings.Contains(diff, line) {
			t.Errorf("policy diff --shadow: no %q in\n%s", line, diff)
		}
	}
	ctl(1, []string{"policy", "replay", "--audit", audit, "--against", "shadow"}, `granted web.deploy, would be denied with invalid_scope`, `2 otherwise`)

	ctl(1, []string{"policy", "promote", "--shadow-revision", "7"}, `another shadow revision`)
	ctl(0, []string{"policy", "promote", "--shadow-revision", "1"}, `^revision 3$`)
	_, stderr, code := n.stsctl(t, "", deploy...)
	decision := regexp.MustCompile(`decision ([a-z0-9]{16})`).FindStringSubmatch(stderr)
	if code != 1 || len(decision) != 2 {
		t.Fatalf("after the promotion: exit code %d, %s", code, stderr)
	}
	ctl(1, []string{"policy", "promote", "--shadow-revision", "1"}, `there is no shadow revision`)

	ctl(0, []string{"policy", "history"}, `^3 .*\(was shadow 1\) TICKET-71: deploys need no write$`, `^2 .*\+2 ~0 -0`)
	ctl(0, []string{"policy", "diff", "3"}, `^  -   scopes: \[web.read, web.deploy\]$`)
	ctl(0, []string{"policy", "diff", "3", "2"}, `^  \+   scopes: \[web.read, web.deploy\]$`)
	ctl(1, []string{"policy", "diff", "9"}, `not kept any more`)
	ctl(2, []string{"policy", "rollback", "two"}, `is not the number of a revision`)
	ctl(0, []string{"policy", "rollback", "2", "--dry-run"}, `^would be updated Rule deploy-from-main$`, `nothing was changed`)
	ctl(1, []string{"policy", "rollback", "2", "--expected-revision", "2"}, `revision 3 is in force`)
	ctl(0, []string{"policy", "rollback", "2", "--why", "deploys are refused since 3"}, `^revision 4$`)
	ctl(0, []string{"policy", "history", "--limit", "1"}, `^4 .*\(back to 2\) deploys are refused since 3$`)
	ctl(0, deploy)

	// The decision is explained by the revision that took it, and by the one in force.
	ctl(0, []string{"explain", decision[1]}, `by revision 3: denied with invalid_scope`, `what rule deploy-from-main would grant|scope "web.deploy" is not granted`,
		`^by revision 4, which is in force now: granted: scopes web.deploy`)
	ctl(1, []string{"policy", "replay", "--audit", audit, "--against", "3"}, `2 × demo: granted web.deploy, would be denied with invalid_scope`)
	ctl(1, []string{"policy", "replay", "--audit", audit, "--against", "99"}, `not kept any more`)

	ctl(0, []string{"apply", "-f", dir, "--shadow"}, `shadow revision 2`)
	ctl(0, []string{"policy", "discard"}, `the shadow revision is gone`)
	ctl(1, []string{"policy", "diff", "--shadow"}, `there is no shadow revision`)
	if lines := strings.Count(ctl(0, []string{"policy", "history"}), "\n"); lines != 5 {
		t.Errorf("the history has %d lines", lines)
	}
}

// TestRolloutOfProhibitions takes a rule that denies back, and puts it in force anew.
func TestRolloutOfProhibitions(t *testing.T) {
	n := startDev(t, t.TempDir())
	token := func() int {
		t.Helper()
		_, _, code := n.stsctl(t, "", "token", "--audience", "web", "--scope", "web.deploy")
		return code
	}
	n.apply(t, rolloutRules("web.read, web.deploy"))
	n.apply(t, "kind: Rule\nname: freeze\ndeny: {scopes: [web.deploy]}\n")
	got := []int{token()}
	for _, to := range []string{"2", "3"} {
		if _, stderr, code := n.stsctl(t, "", "policy", "rollback", to); code != 0 {
			t.Fatal(stderr)
		}
		got = append(got, token())
	}
	if !slices.Equal(got, []int{1, 0, 1}) {
		t.Errorf("denied, without the rule and with it again: exit codes %v", got)
	}
	out, _, _ := n.stsctl(t, "", "policy", "can", "--client", "demo", "--audience", "web")
	if !strings.Contains(out, "rule freeze denies web.deploy") || !strings.Contains(out, "granted: scopes web.read ") {
		t.Errorf("it can\n%s", out)
	}
}
