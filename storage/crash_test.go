package storage

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/workload-sts/sts/sts"
)

// crashDir is the variable that makes the test binary a writer in a directory.
const crashDir = "STORAGE_TEST_CRASH_DIR"

const crashWriters = 4

// writeUntilKilled writes to a store and an audit log for ever, and names what was
// acknowledged on the standard output. It returns only an error.
func writeUntilKilled(dir string) error {
	kv, err := OpenBolt(filepath.Join(dir, "sts.db"), BoltOptions{SweepEvery: time.Millisecond})
	if err != nil {
		return err
	}
	signer, err := crashSigner(dir)
	if err != nil {
		return err
	}
	// A file is full after some dozen records.
	audit, _, err := OpenAudit(AuditOptions{
		File: filepath.Join(dir, "audit.jsonl"), Sync: os.Getpid()%2 == 0, MaxSize: 40 << 10, Signer: signer, CheckpointRecords: 20,
	})
	if err != nil {
		return err
	}
	ctx := context.Background()
	failed := make(chan error)
	go func() { failed <- tell(kv) }()
	for w := range crashWriters {
		from, err := counter(kv, w)
		if err != nil {
			return err
		}
		go func() {
			for i := from + 1; ; i++ {
				value := fmt.Append(nil, i, strings.Repeat(" ", i%500))
				var ops []Op
				for _, part := range []string{"x", "y", "z"} {
					ops = append(ops, Op{Key: fmt.Sprintf("last/%d/%s", w, part), Value: value})
				}
				ops = append(ops, Op{Key: fmt.Sprintf("all/%d/%d", w, i), Value: value})
				moment := time.Now().Add(lifetimes[i%len(lifetimes)])
				ops = append(ops, Op{Key: fmt.Sprintf("expires/%d/%d", w, i), Expires: moment})
				if _, done, err := kv.Txn(ctx, nil, ops); err != nil || !done {
					failed <- fmt.Errorf("writing: %v, %w", done, err)
					return
				}
				fmt.Printf("kv %d %d %d\n", w, i, moment.Unix())
			}
		}()
		go func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%d-%d-%d", os.Getpid(), w, i)
				if err := audit.Record(ctx, &sts.Record{Event: sts.EventToken, Decision: id, Reason: strings.Repeat("r", i%3000)}); err != nil {
					failed <- err
					return
				}
				fmt.Printf("audit %s\n", id)
				time.Sleep(time.Millisecond) // so that the store is written as often
			}
		}()
	}
	return <-failed
}

// crashSigner signs with the key of a directory.
func crashSigner(dir string) (*testSigner, error) {
	path := filepath.Join(dir, "signing.key")
	if der, err := os.ReadFile(path); err == nil {
		k, err := x509.ParseECPrivateKey(der)
		return &testSigner{keys: []*ecdsa.PrivateKey{k}}, err
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		return nil, err
	}
	return &testSigner{keys: []*ecdsa.PrivateKey{k}}, os.WriteFile(path, der, 0o600)
}

// lifetimes are those of entries that expire, in turn.
var lifetimes = []time.Duration{time.Hour, -time.Hour, time.Second, 3 * time.Second}

// tell names on the standard output what a watcher is told.
func tell(kv KV) error {
	_, revision, err := kv.List(context.Background(), "", "", 1)
	if err != nil {
		return err
	}
	return kv.Watch(context.Background(), "last/", revision, func(c Changes) error {
		for _, e := range c.Events {
			if rest, ok := strings.CutSuffix(e.Key, "/x"); ok {
				fmt.Printf("told %s %s\n", strings.TrimPrefix(rest, "last/"), strings.TrimSpace(string(e.Value)))
			}
		}
		return nil
	})
}

// counter is the last number that a writer has written.
func counter(kv KV, w int) (n int, err error) {
	list, _, err := kv.List(context.Background(), fmt.Sprintf("last/%d/", w), "", 0)
	if err != nil || len(list) == 0 {
		return 0, err
	}
	if len(list) != 3 || !bytes.Equal(list[0].Value, list[1].Value) || !bytes.Equal(list[1].Value, list[2].Value) {
		return 0, fmt.Errorf("half a transaction: %v", list)
	}
	_, err = fmt.Sscan(string(list[0].Value), &n)
	return n, err
}

// TestKill kills a process that writes, at random moments, and looks for all that
// was acknowledged [F28].
func TestKill(t *testing.T) {
	cycles := 50
	if testing.Short() {
		cycles = 5
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	decisions := map[string]bool{}
	last := make([]int, crashWriters)
	expiring := map[string]int64{} // until when these entries must be there
	torn, told, swept := 0, 0, 0
	for cycle := range cycles {
		out := killed(t, dir, time.Duration(rnd.IntN(40_000))*time.Microsecond)
		for line := range strings.Lines(out) {
			var w, i int
			var moment int64
			if id, ok := strings.CutPrefix(line, "audit "); ok && strings.HasSuffix(id, "\n") {
				decisions[strings.TrimSpace(id)] = true
			} else if n, _ := fmt.Sscanf(line, "kv %d %d %d\n", &w, &i, &moment); n == 3 && strings.HasSuffix(line, "\n") {
				last[w] = max(last[w], i)
				expiring[fmt.Sprintf("expires/%d/%d", w, i)] = moment
			} else if n, _ := fmt.Sscanf(line, "told %d %d\n", &w, &i); n == 2 && strings.HasSuffix(line, "\n") {
				last[w] = max(last[w], i) // a watcher is told of nothing that may be gone
				told++
			}
		}
		last = survived(t, dir, last)
		swept += notSwept(t, dir, expiring)
		audit, aside, err := OpenAudit(AuditOptions{File: filepath.Join(dir, "audit.jsonl")})
		if err != nil {
			t.Fatalf("cycle %d: %v", cycle, err)
		}
		if aside != "" {
			torn++
		}
		must(t, audit.Close())
	}
	files, log := logFiles(t, filepath.Join(dir, "audit.jsonl"))
	for line := range bytes.Lines(log) {
		var r sts.Record
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("the audit log has half a record: %v", err)
		}
		delete(decisions, r.Decision)
	}
	signer, err := crashSigner(dir)
	must(t, err)
	report := verifyLog(t, AuditVerifier{Keys: signer.KeySet()}, files...)
	if len(files) < 3 || report.Checkpoints == 0 {
		t.Errorf("%d files, %+v", len(files), report)
	}
	if len(decisions) > 0 {
		t.Errorf("%d decisions were acknowledged and are gone", len(decisions))
	}
	total := 0
	for _, n := range last {
		total += n
	}
	if total < cycles || len(log) == 0 || told == 0 || swept == 0 {
		t.Errorf("only %d changes, %d told, %d swept in %d cycles", total, told, swept, cycles)
	}
	t.Logf("%d kills, %d changes, %d told, %d swept, %d KiB of records in %d files, %d torn", cycles, total, told, swept, len(log)>>10, len(files), torn)
}

// logFiles returns the files of a log, the oldest first, and what is in them.
func logFiles(t testing.TB, path string) (files []string, content []byte) {
	t.Helper()
	files, err := fullFiles(path)
	must(t, err)
	files = append(files, path)
	for _, name := range files {
		b, err := os.ReadFile(name)
		must(t, err)
		content = append(content, b...)
	}
	return files, content
}

// killed runs a writer, kills it some time after the first acknowledgement, and
// returns what it acknowledged.
func killed(t *testing.T, dir string, after time.Duration) string {
	t.Helper()
	return killedWith(t, crashDir, dir, after)
}

// killedWith runs the program that a variable makes of the test binary.
func killedWith(t *testing.T, variable, dir string, after time.Duration) string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), variable+"="+dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	kill := func() { cmd.Process.Kill() }
	defer time.AfterFunc(20*time.Second, kill).Stop()
	r := bufio.NewReader(stdout)
	first, firstErr := r.ReadString('\n')
	defer time.AfterFunc(after, kill).Stop()
	rest, err := io.ReadAll(r)
	kill()
	cmd.Wait() // its error is that it was killed
	if firstErr != nil || err != nil {
		t.Fatalf("the writer did not begin: %v, %v: %s", firstErr, err, stderr.String())
	}
	if s := stderr.String(); s != "" {
		t.Fatalf("the writer ended by itself: %s", s)
	}
	return first + string(rest)
}

// survived checks that every change up to the acknowledged ones is there, and
// returns the last of each writer.
func survived(t *testing.T, dir string, acknowledged []int) []int {
	t.Helper()
	kv, err := OpenBolt(filepath.Join(dir, "sts.db"), BoltOptions{})
	must(t, err)
	defer kv.Close()
	found := make([]int, len(acknowledged))
	for w, n := range acknowledged {
		found[w], err = counter(kv, w)
		must(t, err)
		if found[w] < n {
			t.Fatalf("change %d of writer %d was acknowledged, and the last one there is %d", n, w, found[w])
		}
		all, _, err := kv.List(t.Context(), fmt.Sprintf("all/%d/", w), "", 0)
		must(t, err)
		if len(all) != found[w] {
			t.Fatalf("%d changes of writer %d are there, the last is %d", len(all), w, found[w])
		}
	}
	return found
}

// notSwept checks that each entry is there whose moment has not come. It forgets
// the others, and returns how many of them are gone.
func notSwept(t *testing.T, dir string, expiring map[string]int64) (gone int) {
	t.Helper()
	kv, err := OpenBolt(filepath.Join(dir, "sts.db"), BoltOptions{SweepEvery: time.Hour})
	must(t, err)
	defer kv.Close()
	list, _, err := kv.List(t.Context(), "expires/", "", 0)
	must(t, err)
	there := map[string]bool{}
	for _, e := range list {
		there[e.Key] = true
	}
	now := time.Now().Unix()
	for key, moment := range expiring {
		switch {
		case moment > now && !there[key]:
			t.Errorf("%s was acknowledged until %d, and is gone at %d", key, moment, now)
		case moment <= now:
			delete(expiring, key)
			if !there[key] {
				gone++
			}
		}
	}
	return gone
}
