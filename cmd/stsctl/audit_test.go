package main

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/storage"
	"github.com/workload-sts/sts/sts"
)

// logSigner signs checkpoints.
type logSigner struct {
	key *ecdsa.PrivateKey
	kid string
}

func (s logSigner) Sign(_ context.Context, _, typ string, payload []byte) (string, string, error) {
	input := jose.SigningInput(jose.Header{Algorithm: jose.ES256, KeyID: s.kid, Type: typ}, payload)
	sig, err := jose.Sign(jose.ES256, s.key, input)
	return jose.Compact(input, sig), s.kid, err
}

func (s logSigner) KeySet() jose.KeySet {
	set, err := jose.NewKeySet(jose.Key{ID: s.kid, Algorithm: jose.ES256, Public: &s.key.PublicKey})
	if err != nil {
		panic(err)
	}
	return set
}

// testLog writes a log of two files, one of them compressed, and its key set. A
// token of a user is exchanged by web, and what comes of it by agent; other tries
// and is refused.
func testLog(t *testing.T) (files []string, jwks string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	signer := logSigner{key, "k1"}
	dir := t.TempDir()
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	exp := now.Add(time.Hour).Unix()
	party := func(issuer, sub, jti, txn string, act ...string) *sts.RecordParty {
		return &sts.RecordParty{Issuer: issuer, Sub: sub, JTI: jti, Txn: txn, Act: act, Exp: exp}
	}
	issued := func(jti, client, aud, txn string, act ...string) *sts.RecordToken {
		return &sts.RecordToken{JTI: jti, KID: "k1", Type: sts.AccessToken, Sub: "idp:user-1", ClientID: client, Audiences: []string{aud}, Scopes: []string{"read"}, Act: act, Txn: txn, Exp: exp, Rules: []string{"r-" + client}}
	}
	for i, part := range [][]*sts.Record{{
		{Decision: "d1", Outcome: "allow", Grant: sts.TokenExchange, Client: "web", Subject: party("idp", "user-1", "ext-1", ""), Issued: issued("t1", "web", "agent", "x1", "web"), Revision: 7},
		{Decision: "d2", Outcome: "allow", Grant: sts.ClientCredentials, Client: "batch", Issued: issued("t9", "batch", "db", "x9"), Revision: 7},
	}, {
		{Decision: "d3", Outcome: "allow", Grant: sts.TokenExchange, Client: "agent", Subject: party("self", "idp:user-1", "t1", "x1", "web"), Issued: issued("t2", "agent", "db", "x1", "agent", "web"), Revision: 8},
		{Decision: "d4", Outcome: "deny", Error: sts.InvalidTarget, Reason: "not allowed by policy", Grant: sts.TokenExchange, Client: "other", Subject: party("self", "idp:user-1", "t2", "x1", "agent", "web"), Revision: 8},
		{Event: sts.EventRevoke, Decision: "d5", Outcome: "allow", Revision: 8, Revocation: &sts.Revocation{Kind: sts.RevokeToken, Issuer: "self", Value: "jti t1", By: "ops"}, Admin: &sts.RecordAdmin{Action: "revoke", By: sts.Principal{Name: "ops", Token: "adm-1"}}},
		{Event: sts.EventRevoke, Decision: "d6", Outcome: "allow", Revision: 8, Revocation: &sts.Revocation{Kind: sts.RevokeClient, Value: "batch", By: "ops"}},
	}} {
		a, _, err := storage.OpenAudit(storage.AuditOptions{File: filepath.Join(dir, "audit.jsonl"), Signer: signer, MaxSize: 1})
		must(err)
		for n, r := range part {
			r.Event, r.Time = cmp.Or(r.Event, sts.EventToken), now.Add(time.Duration(10*i+n)*time.Minute)
			must(a.Record(t.Context(), r))
		}
		must(a.Close())
	}
	files, err = filepath.Glob(filepath.Join(dir, "audit*.jsonl"))
	must(err)
	if len(files) < 2 {
		t.Fatalf("files %v", files)
	}
	content, err := os.ReadFile(files[0])
	must(err)
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, err = w.Write(content)
	must(err)
	must(w.Close())
	must(os.WriteFile(files[0]+".gz", z.Bytes(), 0o600))
	files[0] += ".gz"
	set, err := json.Marshal(signer.KeySet())
	must(err)
	jwks = filepath.Join(dir, "jwks.json")
	must(os.WriteFile(jwks, set, 0o600))
	return files, jwks
}

func stsctl(t *testing.T, want int, args ...string) (stdout, stderr string) {
	t.Helper()
	t.Setenv("TZ", "UTC")
	var out, errs bytes.Buffer
	if code := run(t.Context(), args, strings.NewReader(""), &out, &errs); code != want {
		t.Fatalf("%v ended with %d, not %d: %s", args, code, want, errs.String())
	}
	return out.String(), errs.String()
}

func TestAuditVerifyCommand(t *testing.T) {
	files, jwks := testLog(t)
	verify := func(want int, more ...string) (string, string) {
		t.Helper()
		return stsctl(t, want, append(append([]string{"audit", "verify"}, more...), files...)...)
	}
	out, _ := verify(exitOK, "--jwks", jwks, "--closed")
	if !strings.Contains(out, "are as they were written") || !strings.Contains(out, "by keys that are yours") || strings.Contains(out, "not signed yet") {
		t.Errorf("%s", out)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	last := lines[len(lines)-1]
	if out, _ := verify(exitOK); !strings.Contains(out, "give --jwks or --issuer") {
		t.Errorf("without keys: %s", out)
	}
	var report storage.AuditReport
	out, _ = verify(exitOK, "--jwks", jwks, "-o", "json", "--expect-checkpoint", last)
	if err := json.Unmarshal([]byte(out), &report); err != nil || report.LastCheckpoint != last || !report.Closed {
		t.Errorf("%+v, %v", report, err)
	}
	// Another service's keys, the files in another order, and an edit.
	_, other := testLog(t)
	if _, errs := verify(exitUnverified, "--jwks", other); !strings.Contains(errs, "another key has the id") {
		t.Errorf("%s", errs)
	}
	if _, errs := stsctl(t, exitUnverified, "audit", "verify", files[len(files)-1], files[0]); !strings.Contains(errs, files[0]+":1: record") {
		t.Errorf("%s", errs)
	}
	edited, was := edit(t, files)
	line := bytes.Count(was[:bytes.Index(was, []byte(`"outcome":"deny"`))], []byte("\n")) + 1
	if _, errs := verify(exitUnverified); !strings.Contains(errs, fmt.Sprintf("%s:%d: ", edited, line)) || !strings.Contains(errs, "it was changed: presented ") {
		t.Errorf("%s", errs)
	}
	if err := os.WriteFile(edited, was, 0o600); err != nil {
		t.Fatal(err)
	}
	end := files[len(files)-1]
	// Cut at a checkpoint it is a log, but not the one that it was.
	if err := os.Remove(end); err != nil {
		t.Fatal(err)
	}
	files = files[:len(files)-1]
	verify(exitOK, "--jwks", jwks)
	if _, errs := verify(exitUnverified, "--jwks", jwks, "--expect-checkpoint", last); !strings.Contains(errs, "truncated") {
		t.Errorf("%s", errs)
	}
	stsctl(t, exitInput, "audit", "verify", end)
	stsctl(t, exitUsage, "audit", "verify")
}

// TestAuditVerifyStranger tells who looks at a log without keys that its end is
// signed by a key that nothing before vouches for, as after one was revoked.
func TestAuditVerifyStranger(t *testing.T) {
	files, _ := testLog(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a, _, err := storage.OpenAudit(storage.AuditOptions{File: files[len(files)-1], Signer: logSigner{key, "k2"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(a.Record(t.Context(), &sts.Record{Event: sts.EventToken, Decision: "d7"}), a.Close()); err != nil {
		t.Fatal(err)
	}
	out, errs := stsctl(t, exitUnverified, append([]string{"audit", "verify", "--closed"}, files...)...)
	if !strings.Contains(out, "signed by k2 alone, a key that nothing vouches for") || !strings.Contains(errs, "the last is by k2, a key that nothing vouches for") {
		t.Errorf("%s%s", out, errs)
	}
}

// edit changes the record of a refusal, and returns in which file, and what that was.
func edit(t *testing.T, files []string) (string, []byte) {
	t.Helper()
	for _, name := range files[1:] {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if changed := bytes.Replace(content, []byte(`"outcome":"deny"`), []byte(`"outcome":"none"`), 1); !bytes.Equal(changed, content) {
			if err := os.WriteFile(name, changed, 0o600); err != nil {
				t.Fatal(err)
			}
			return name, content
		}
	}
	t.Fatal("there is no refusal")
	return "", nil
}

func TestAuditSearchCommand(t *testing.T) {
	files, _ := testLog(t)
	search := func(more ...string) []string {
		t.Helper()
		out, _ := stsctl(t, exitOK, append(append([]string{"audit", "search", "-o", "json"}, more...), files...)...)
		var ids []string
		for line := range strings.Lines(out) {
			var r sts.Record
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, r.Decision)
		}
		return ids
	}
	for args, want := range map[string]string{
		"--jti t1":                      "d1 d3 d5",
		"--jti adm-1":                   "d5",
		"--client batch":                "d2 d6",
		"--jti ext-1":                   "d1",
		"--txn x1":                      "d1 d3 d4",
		"--subject user-1":              "d1",
		"--subject idp:user-1 --jti t2": "d3 d4",
		"--client agent":                "d3 d4",
		"--decision d2":                 "d2",
		"--event token --outcome deny":  "d4",
		"--event checkpoint --client x": "",
		"--since 2026-11-25T12:10:30Z --event token": "d4",
		"--event token --until 2026-11-25T12:01:00Z": "d1",
		"--chain --jti t2":                           "d1 d3 d4",
		"--chain --decision d2":                      "d2",
		"--event token --limit 2":                    "d1 d2",
		"--jti nothing":                              "",
	} {
		if got := strings.Join(search(strings.Fields(args)...), " "); got != want {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
	}
	out, _ := stsctl(t, exitOK, append([]string{"audit", "search", "--chain", "--jti", "ext-1"}, files...)...)
	for _, want := range []string{
		"txn x1\n└─ ", " exchange by web: idp:user-1 to agent\n", "of       user-1, of idp, jti ext-1\n", "act      agent < web\n",
		"   └─ ", " exchange by agent: idp:user-1 to db\n", "rules    r-agent, revision 8\n", "signed   kid k1\n",
		"      └─ ", " exchange by other: refused, invalid_target\n", "because  not allowed by policy\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if out, _ := stsctl(t, exitOK, append([]string{"audit", "search", "--client", "agent"}, files...)...); !strings.Contains(out, "ISSUED OR ERROR") || strings.Count(out, "\n") != 3 {
		t.Errorf("%s", out)
	}
	if out, _ := stsctl(t, exitOK, append([]string{"audit", "search", "--client", "batch", "--event", "revoke"}, files...)...); !strings.Contains(out, "client batch by ops") {
		t.Errorf("%s", out)
	}
	stsctl(t, exitUsage, "audit", "search", "--since", "yesterday", files[1])
	stsctl(t, exitUsage, "audit", "search", "--outcome", "maybe", files[1])
}

// TestAuditKeptCommand holds a log to what the server keeps of it.
func TestAuditKeptCommand(t *testing.T) {
	files, jwks := testLog(t)
	f := startFakeFor(t)
	t.Setenv("STS_GRPC", f.addr)
	t.Setenv("STS_ADMIN_TOKEN", fakeAdminToken)
	verify := func(want int, files ...string) (string, string) {
		t.Helper()
		return stsctl(t, want, append([]string{"audit", "verify", "--server", "--jwks", jwks}, files...)...)
	}
	if _, errs := verify(exitUnverified, files...); !strings.Contains(errs, "the server does not know the chain") {
		t.Errorf("%s", errs)
	}
	if out, _ := stsctl(t, exitOK, "audit", "chains"); out != "nothing is kept of audit logs\n" {
		t.Errorf("%s", out)
	}
	var report storage.AuditReport
	out, _ := stsctl(t, exitOK, append([]string{"audit", "verify", "-o", "json"}, files...)...)
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatal(err)
	}
	f.chains = []*stsv1.AuditChain{
		{Chain: "0", Node: "host:/log", Begun: in(-2 * time.Hour), Seq: 1, Checkpoint: "of another chain", Time: in(-time.Hour)},
		{Chain: report.Chain, Begun: in(-time.Hour), Seq: report.Covered, Checkpoint: report.LastCheckpoint, Time: in(-4500 * time.Millisecond)},
		{Chain: "~", Begun: in(-3 * time.Hour)},
	}
	verify(exitOK, files...)
	// Cut at a checkpoint, it is a log for whoever does not know more.
	stsctl(t, exitOK, append([]string{"audit", "verify", "--jwks", jwks}, files[:len(files)-1]...)...)
	if _, errs := verify(exitUnverified, files[:len(files)-1]...); !strings.Contains(errs, "truncated") {
		t.Errorf("%s", errs)
	}
	out, _ = stsctl(t, exitOK, "audit", "chains")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 4 || !strings.HasPrefix(lines[1], report.Chain) || !strings.HasSuffix(lines[1], "s ago") || !strings.HasPrefix(lines[2], "0 ") || !strings.HasPrefix(lines[3], "~ ") {
		t.Errorf("%s", out)
	}
	out, _ = stsctl(t, exitOK, "audit", "chains", "-o", "json")
	var list struct{ Chains []auditChainView }
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list.Chains) != 3 || list.Chains[0].Checkpoint != report.LastCheckpoint || list.Chains[1].Node != "host:/log" {
		t.Errorf("%v, %s", err, out)
	}
	t.Setenv("STS_ADMIN_TOKEN", "another")
	stsctl(t, exitRefused, "audit", "chains")
}
