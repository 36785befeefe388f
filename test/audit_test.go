package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestAuditChainOfExchanges follows the script of docs/delegation.md through the audit
// log, from the token that went in to the one that came out, and from there to why it
// was granted.
func TestAuditChainOfExchanges(t *testing.T) {
	idp := newIssuer(t)
	n, secrets := walkDelegation(t, idp)
	env := append(n.environ(), "USER_TOKEN="+buyer(t, idp, n, nil), "GATEWAY_SECRET="+secrets["gateway"], "ORDERS_SECRET="+secrets["orders"])
	if out, stderr, code := command(t, env, "", "/bin/sh", delegation+"walk.sh"); code != 0 || len(strings.Fields(out)) != 3 {
		t.Fatalf("%s%s", out, stderr)
	}
	records := n.audit(t)
	if len(records) < 3 {
		t.Fatalf("%d records", len(records))
	}
	hops := records[len(records)-3:]
	member := func(i int, party, name string) string {
		m, _ := hops[i][party].(map[string]any)
		return fmt.Sprint(m[name])
	}
	log := filepath.Join(n.dir, "audit.jsonl")
	for hop := range hops { // from whichever token one has
		out, stderr, code := n.stsctl(t, "", "audit", "search", "--chain", "--jti", member(hop, "issued", "jti"), log)
		if code != 0 {
			t.Fatal(stderr)
		}
		rest := out
		for i, act := range []string{"gateway", "gateway", "orders < gateway"} {
			for _, want := range []string{
				fmt.Sprintf("of +alice, of idp, jti %s\n", regexp.QuoteMeta(member(0, "subject", "jti"))),
				fmt.Sprintf("act +%s\n", act),
				fmt.Sprintf("issued +jti %s, until ", regexp.QuoteMeta(member(i, "issued", "jti"))),
				fmt.Sprintf("signed +kid %s\n", regexp.QuoteMeta(member(i, "issued", "kid"))),
				fmt.Sprintf("rules +.*, revision %v\n", hops[i]["revision"]),
				fmt.Sprintf("decision %s, record %v\n", hops[i]["decision"], hops[i]["seq"]),
			} {
				if i > 0 {
					want = strings.Replace(want, "alice, of idp", "idp:alice, of self", 1)
					want = strings.Replace(want, regexp.QuoteMeta(member(0, "subject", "jti")), regexp.QuoteMeta(member(i-1, "issued", "jti")), 1)
				}
				at := regexp.MustCompile(want).FindStringIndex(rest)
				if at == nil {
					t.Fatalf("hop %d has no %q below the one before:\n%s", i, want, out)
				}
				rest = rest[at[1]:]
			}
		}
	}
	// The link from there to why.
	resources := filepath.Join(t.TempDir(), "resources.yaml")
	in, stderr, code := n.stsctl(t, "", "get", "all", "-o", "yaml")
	if code != 0 {
		t.Fatal(stderr)
	}
	if err := os.WriteFile(resources, []byte(in), 0o600); err != nil {
		t.Fatal(err)
	}
	out, stderr, code := n.stsctl(t, "", "explain", fmt.Sprint(hops[2]["decision"]), "--audit", log, "--dir", resources)
	if code != 0 || !strings.Contains(out, "allowed") || !strings.Contains(out, "orders-calls-payments") {
		t.Errorf("%s%s", out, stderr)
	}
}

// TestOutputWithoutReader [F51]: that nobody reads the log and the copies of the audit
// log any more, be it that the readers have stopped or that they are gone, changes
// nothing for those who ask for tokens, and the audit log has all of it.
func TestOutputWithoutReader(t *testing.T) {
	for _, gone := range []bool{false, true} {
		t.Run(fmt.Sprintf("gone %v", gone), func(t *testing.T) {
			dir := t.TempDir()
			startDev(t, dir).stop(t) // makes the files
			env := readEnvFile(t, filepath.Join(dir, "dev.env"))
			httpAddr, grpcAddr := strings.TrimPrefix(env["STS_HTTP"], "http://"), env["STS_GRPC"]
			config := filepath.Join(dir, "stsd.yaml")
			if err := os.WriteFile(config, fmt.Appendf(nil, `issuer: %s
http: {listen: %q}
grpc: {listen: %q}
storage: {bolt_file: sts.db}
keys: {sets: [{name: default, local: {key_file: signing.key}}]}
audit: {file: audit.jsonl, sinks: [{stdout: {}}]}
`, env["STS_ISSUER"], httpAddr, grpcAddr), 0o600); err != nil {
				t.Fatal(err)
			}
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			cmd := exec.Command(filepath.Join(bin, "stsd"), "serve", "--config", config)
			cmd.Stdout, cmd.Stderr = w, w
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			w.Close()
			n := &node{env: env, dir: dir, cmd: cmd, log: &lockedBuffer{}, done: make(chan error, 1)}
			go func() { n.done <- cmd.Wait() }()
			defer n.stop(t)
			defer func() { go io.Copy(io.Discard, r) }() // it can end at once
			for lines := bufio.NewScanner(r); lines.Scan() && !strings.Contains(lines.Text(), `"msg":"serving"`); {
			}
			if gone {
				r.Close()
			}
			before := len(n.audit(t))
			const requests = 150 // more than a pipe holds
			for range requests {
				if res := n.token(t, credentialsGrant(n)); res.status != http.StatusOK {
					t.Fatalf("status %d: %s", res.status, res.raw)
				}
			}
			if got := len(n.audit(t)) - before; got != requests {
				t.Errorf("%d records of %d requests", got, requests)
			}
			if metrics := getRaw(t, env["STS_HTTP"]+"/metrics"); gone != !strings.Contains(metrics, "\nsts_log_dropped_total 0\n") {
				t.Error("lines that nobody reads are not counted, or others are")
			}
		})
	}
}

// TestAuditKept takes records out of the log of a server that is stopped: it does not
// start again, says what to do, and the way that it says works.
func TestAuditKept(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "audit.jsonl")
	n := startDev(t, dir)
	n.token(t, credentialsGrant(n))
	n.stop(t)
	n = startDev(t, dir)
	before, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	n.token(t, credentialsGrant(n))
	n.stop(t)
	if err := os.WriteFile(log, before, 0o600); err != nil {
		t.Fatal(err)
	}
	stderr, err := exec.Command(filepath.Join(bin, "stsd"), "serve", "--dev", "--data", dir, "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0").CombinedOutput()
	if err == nil || !regexp.MustCompile(`^stsd: opening the audit log .*audit.jsonl: record \d+ is missing or is another than the checkpoint says that the store keeps: .* move all its files away to begin a new chain`).Match(stderr) {
		t.Fatalf("%v: %s", err, stderr)
	}
	moved := filepath.Join(t.TempDir(), "audit.jsonl")
	if err := os.Rename(log, moved); err != nil {
		t.Fatal(err)
	}
	n = startDev(t, dir)
	if r := n.token(t, credentialsGrant(n)); r.status != http.StatusOK {
		t.Errorf("status %d", r.status)
	}
	if !strings.Contains(n.log.String(), "the audit log begins a chain that the store does not know") {
		t.Errorf("it is not loud:\n%s", n.log)
	}
	n.stop(t)
	n = startDev(t, dir) // its last checkpoint is kept now
	out, errs, code := n.stsctl(t, "", "audit", "chains", "-o", "json")
	var kept struct {
		Chains []struct{ Checkpoint string }
	}
	if err := json.Unmarshal([]byte(out), &kept); code != 0 || err != nil || len(kept.Chains) != 2 || kept.Chains[0].Checkpoint == "" {
		t.Fatalf("%v, %s%s", err, out, errs)
	}
	if out, errs, code := n.stsctl(t, "", "audit", "verify", "--server", "--issuer", n.env["STS_ISSUER"], log); code != 0 {
		t.Errorf("%s%s", out, errs)
	}
	if out, errs, code := n.stsctl(t, "", "audit", "verify", "--server", moved); code == 0 {
		t.Errorf("the server says that nothing is missing: %s%s", out, errs)
	}
}
