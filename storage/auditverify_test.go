package storage

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/sts"
	"pgregory.net/rapid"
)

// testSigner signs with the last of its keys, and publishes all.
type testSigner struct {
	mu   sync.Mutex
	keys []*ecdsa.PrivateKey
	uses int // the key that signs
	err  error
}

func newTestSigner(t testing.TB, keys int) *testSigner {
	t.Helper()
	s := new(testSigner)
	for range keys {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		s.keys = append(s.keys, k)
	}
	return s
}

func (s *testSigner) kid(i int) string { return fmt.Sprintf("key-%d", i) }

func (s *testSigner) Sign(_ context.Context, set, typ string, payload []byte) (string, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return "", "", s.err
	}
	input := jose.SigningInput(jose.Header{Algorithm: jose.ES256, KeyID: s.kid(s.uses), Type: typ}, payload)
	sig, err := jose.Sign(jose.ES256, s.keys[s.uses], input)
	return jose.Compact(input, sig), s.kid(s.uses), err
}

func (s *testSigner) KeySet() jose.KeySet {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []jose.Key
	for i, k := range s.keys {
		keys = append(keys, jose.Key{ID: s.kid(i), Algorithm: jose.ES256, Public: &k.PublicKey})
	}
	set, err := jose.NewKeySet(keys...)
	if err != nil {
		panic(err)
	}
	return set
}

// only is a set of some of the keys.
func (s *testSigner) only(t testing.TB, of ...int) jose.KeySet {
	t.Helper()
	var keys []jose.Key
	for _, i := range of {
		k, ok := s.KeySet().Key(s.kid(i))
		if !ok {
			t.Fatal("no such key")
		}
		keys = append(keys, k)
	}
	set, err := jose.NewKeySet(keys...)
	must(t, err)
	return set
}

// verifyLog verifies files that must be good.
func verifyLog(t testing.TB, v AuditVerifier, files ...string) AuditReport {
	t.Helper()
	for _, name := range files {
		f, err := os.Open(name)
		must(t, err)
		must(t, v.File(name, f))
		must(t, f.Close())
	}
	report, err := v.Report()
	must(t, err)
	return report
}

// verifyBytes verifies the contents of files, which are named by their numbers.
func verifyBytes(v AuditVerifier, files [][]byte) (AuditReport, error) {
	for i, b := range files {
		if err := v.File(fmt.Sprint(i), bytes.NewReader(b)); err != nil {
			return AuditReport{}, err
		}
	}
	return v.Report()
}

// signedLog makes a log of some files that was closed, and returns what is in them.
// There is a checkpoint for every few records.
func signedLog(t testing.TB, signer *testSigner, files, records int) [][]byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	var out [][]byte
	for file := range files {
		a, _, err := OpenAudit(AuditOptions{File: path, Signer: signer, CheckpointRecords: 1, CheckpointEvery: time.Hour})
		must(t, err)
		if file > 0 {
			must(t, a.rotate())
		}
		for i := range records {
			must(t, a.Record(t.Context(), &sts.Record{Event: sts.EventToken, Decision: fmt.Sprintf("%d-%d", file, i), Reason: strings.Repeat("é", i%5)}))
			if i == records/2 {
				a.checkpoint.poke()
				waitFor(t, func() bool { return a.checkpoint.covered.Load() >= a.lastRecord.Load() })
			}
		}
		must(t, a.Close())
	}
	full, err := fullFiles(path)
	must(t, err)
	for _, name := range append(full, path) {
		b, err := os.ReadFile(name)
		must(t, err)
		out = append(out, b)
	}
	if len(out) != files {
		t.Fatalf("%d files, not %d", len(out), files)
	}
	return out
}

// waitFor waits for a condition.
func waitFor(t testing.TB, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen within 20 s")
		}
	}
}

// cloneLog copies the files of a log.
func cloneLog(files [][]byte) [][]byte {
	out := make([][]byte, len(files))
	for i := range files {
		out[i] = bytes.Clone(files[i])
	}
	return out
}

// linesOf are all lines of a log, and in which file each is.
func linesOf(files [][]byte) (lines [][]byte, file []int) {
	for i, b := range files {
		for line := range bytes.Lines(b) {
			lines, file = append(lines, bytes.Clone(line)), append(file, i)
		}
	}
	return lines, file
}

// joined puts lines into files again.
func joined(lines [][]byte, file []int) [][]byte {
	var out [][]byte
	for i, line := range lines {
		for len(out) <= file[i] {
			out = append(out, nil)
		}
		out[file[i]] = append(out[file[i]], line...)
	}
	return out
}

func TestAuditVerifyGood(t *testing.T) {
	signer := newTestSigner(t, 1)
	files := signedLog(t, signer, 3, 12)
	for name, v := range map[string]AuditVerifier{"by itself": {}, "with keys": {Keys: signer.KeySet()}} {
		report, err := verifyBytes(v, files)
		must(t, err)
		if !report.Closed || report.Covered != report.Last-1 || report.First != 1 || report.Checkpoints < 4 || report.Pinned != (name == "with keys") {
			t.Errorf("%s: %+v", name, report)
		}
		v.Expect = []string{report.LastCheckpoint}
		if _, err := verifyBytes(v, files); err != nil {
			t.Errorf("%s, as expected: %v", name, err)
		}
		// Files at the beginning may be gone, and others archived elsewhere.
		part, err := verifyBytes(v, files[1:])
		if err != nil || part.First == 1 || part.Covered != report.Covered {
			t.Errorf("%s, without the first file: %+v, %v", name, part, err)
		}
		if _, err := verifyBytes(AuditVerifier{Keys: v.Keys}, files[1:2]); err != nil {
			t.Errorf("%s, one file: %v", name, err)
		}
	}
	other := newTestSigner(t, 1)
	if _, err := verifyBytes(AuditVerifier{Keys: other.KeySet()}, files); err == nil {
		t.Error("the keys of another service will do")
	}
	if _, err := verifyBytes(AuditVerifier{Expect: []string{mustReport(t, signedLog(t, signer, 1, 3)).LastCheckpoint}}, files); err == nil {
		t.Error("the checkpoint of another chain will do")
	}
}

func mustReport(t testing.TB, files [][]byte) AuditReport {
	t.Helper()
	report, err := verifyBytes(AuditVerifier{}, files)
	must(t, err)
	return report
}

// TestAuditVerifyEveryByte changes each byte of a log, one at a time: that is found,
// and the record that it is in is named.
func TestAuditVerifyEveryByte(t *testing.T) {
	signer := newTestSigner(t, 1)
	files := signedLog(t, signer, 2, 1)
	seq := int64(1)
	for file := range files {
		for at := 0; at < len(files[file]); at++ {
			for _, to := range []byte{files[file][at] ^ 1, '\n'} {
				if to == files[file][at] {
					continue
				}
				damaged := cloneLog(files)
				damaged[file][at] = to
				_, err := verifyBytes(AuditVerifier{}, damaged)
				fault, ok := errors.AsType[*AuditFault](err)
				if !ok || fault.Seq != seq {
					t.Fatalf("byte %d of file %d, in record %d, became %q: %v", at, file, seq, to, err)
				}
			}
			if files[file][at] == '\n' {
				seq++
			}
		}
	}
}

// TestAuditVerifyProperty changes a log at random, as who has no signing key can:
// that is found, and the first bad record is named.
func TestAuditVerifyProperty(t *testing.T) {
	signer := newTestSigner(t, 1)
	files := signedLog(t, signer, 3, 10)
	last := mustReport(t, files).LastCheckpoint
	lines, file := linesOf(files)
	rapid.Check(t, func(t *rapid.T) {
		n := len(lines)
		l, in := append([][]byte(nil), lines...), append([]int(nil), file...)
		k := rapid.IntRange(0, n-1).Draw(t, "record")
		want := int64(k + 1) // the number of the first bad record
		exact := true
		what := rapid.SampledFrom([]string{"delete byte", "insert byte", "remove", "twice", "swap", "move", "truncate", "end", "without a file", "files swapped", "edit and chain", "insert and chain"}).Draw(t, "what")
		var damaged [][]byte
		switch what {
		case "delete byte":
			at := rapid.IntRange(0, len(l[k])-1).Draw(t, "at")
			// The one of two that are the same is told by nobody.
			l[k] = append(bytes.Clone(l[k][:at]), l[k][at+1:]...)
			damaged = joined(l, in)
		case "insert byte":
			at := rapid.IntRange(0, len(l[k])-1).Draw(t, "at")
			l[k] = append(append(bytes.Clone(l[k][:at]), rapid.Byte().Draw(t, "byte")), l[k][at:]...)
			exact = l[k][at] != '\n' || at < len(l[k])-2 // else it is an empty line after it
			damaged = joined(l, in)
		case "remove":
			m := rapid.IntRange(1, n-k).Draw(t, "lines")
			l, in = append(l[:k:k], l[k+m:]...), append(in[:k:k], in[k+m:]...)
			exact = k > 0 && k+m < n // else it begins later, or is truncated
			damaged = joined(l, in)
		case "twice":
			l, in = append(l[:k+1:k+1], l[k:]...), append(in[:k+1:k+1], in[k:]...)
			want++
			damaged = joined(l, in)
		case "swap", "move":
			to := rapid.IntRange(0, n-1).Filter(func(to int) bool { return to != k }).Draw(t, "with")
			want = int64(min(k, to) + 1)
			exact = want > 1 // else it begins elsewhere
			if what == "swap" {
				l[k], l[to] = l[to], l[k]
			} else {
				moved := l[k]
				l = append(l[:k:k], l[k+1:]...)
				l = append(l[:to:to], append([][]byte{moved}, l[to:]...)...)
			}
			damaged = joined(l, in)
		case "truncate":
			damaged = joined(l, in)
			end := len(damaged) - 1
			damaged[end] = damaged[end][:rapid.IntRange(0, len(damaged[end])-1).Draw(t, "bytes")]
			exact = false
		case "end":
			if k == 0 {
				k = 1
			}
			damaged, exact = joined(l[:k], in[:k]), false
		case "without a file":
			f := rapid.IntRange(0, len(files)-1).Draw(t, "file")
			if f == 0 {
				return // may be: it was removed by its age
			}
			damaged = append(append([][]byte(nil), files[:f]...), files[f+1:]...)
			exact = false
		case "files swapped":
			damaged, exact = [][]byte{files[0], files[2], files[1]}, false
		case "edit and chain", "insert and chain":
			if k == 0 || k == n-1 {
				return // who begins a chain, or ends it, makes one up
			}
			edited := bytes.Replace(l[k], []byte(`"time":"20`), []byte(`"time":"19`), 1)
			if what == "insert and chain" {
				l, in = append(l[:k:k], append([][]byte{edited}, l[k:]...)...), append(in[:k:k], append([]int{in[k]}, in[k:]...)...)
			} else {
				l[k] = edited
			}
			damaged, exact = joined(rechained(t, l), in), false
		}
		if equalLogs(damaged, files) {
			return
		}
		_, err := verifyBytes(AuditVerifier{Keys: signer.KeySet(), Expect: []string{last}}, damaged)
		fault, ok := errors.AsType[*AuditFault](err)
		switch {
		case !ok:
			t.Fatalf("%s at record %d: %v", what, k+1, err)
		case exact && fault.Seq != want:
			t.Fatalf("%s at record %d: record %d is named: %v", what, k+1, fault.Seq, err)
		}
	})
}

func equalLogs(a, b [][]byte) bool {
	return bytes.Equal(bytes.Join(a, nil), bytes.Join(b, nil)) && len(a) == len(b)
}

// rechained gives lines the numbers and hashes that fit.
func rechained(t *rapid.T, lines [][]byte) [][]byte {
	var head chainHead
	out := make([][]byte, 0, len(lines))
	for _, line := range lines {
		l, err := parseChainLine(line)
		if err != nil {
			t.Fatal(err)
		}
		var next []byte
		next, head = head.link(nil, append([]byte("{"), l.body...))
		out = append(out, next)
	}
	return out
}

// TestAuditVerifyKeys: a key that took over counts if it was in what the one before
// signed; one that came from nowhere does not.
func TestAuditVerifyKeys(t *testing.T) {
	signer := newTestSigner(t, 1)
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	open := func(s AuditSigner) *Audit {
		a, _, err := OpenAudit(AuditOptions{File: path, Signer: s, CheckpointRecords: 1})
		must(t, err)
		must(t, a.Record(t.Context(), &sts.Record{Event: sts.EventToken, Decision: "1"}))
		waitFor(t, func() bool { return a.checkpoint.covered.Load() >= a.lastRecord.Load() })
		return a
	}
	must(t, open(signer).Close())
	// The next key is published, then it signs.
	next := &testSigner{keys: append(signer.keys, newTestSigner(t, 1).keys...)}
	must(t, open(next).Close())
	next.uses = 1
	must(t, open(next).Close())
	for i, keys := range [][]int{{0}, {1}, {0, 1}} {
		if r := verifyLog(t, AuditVerifier{Keys: next.only(t, keys...)}, path); !r.Closed {
			t.Errorf("%d: %+v", i, r)
		}
	}
	trusted := verifyLog(t, AuditVerifier{Keys: signer.KeySet()}, path)
	// Who has the file, and a key of their own, makes the log go on.
	stranger := &testSigner{keys: append(next.keys, newTestSigner(t, 1).keys...), uses: 2}
	must(t, open(stranger).Close())
	if r := verifyLog(t, AuditVerifier{Keys: signer.KeySet()}, path); r.Covered != trusted.Covered || r.Closed || r.Last <= trusted.Last || trusted.Stranger != "" || r.Stranger != stranger.kid(2) {
		t.Errorf("signed by a stranger: %+v, before %+v", r, trusted)
	}
	// Another key by the same id is not the same.
	impostor := newTestSigner(t, 1)
	content, err := os.ReadFile(path)
	must(t, err)
	if _, err := verifyBytes(AuditVerifier{Keys: impostor.KeySet()}, [][]byte{content}); err == nil || !strings.Contains(err.Error(), "another key has the id") {
		t.Errorf("with another key of that id: %v", err)
	}
}

// TestAuditCheckpointWaits: while nothing can be signed records go on, and a later
// checkpoint covers them.
func TestAuditCheckpointWaits(t *testing.T) {
	signer := newTestSigner(t, 1)
	signer.err = errors.New("vault is sealed")
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	a, _, err := OpenAudit(AuditOptions{File: path, Signer: signer, CheckpointRecords: 2})
	must(t, err)
	for i := range 20 {
		must(t, a.Record(t.Context(), &sts.Record{Event: sts.EventToken, Decision: fmt.Sprint(i)}))
	}
	waitFor(t, func() bool { return a.metrics.checkpointFailures.Load() > 0 })
	signer.mu.Lock()
	signer.err = nil
	signer.mu.Unlock()
	waitFor(t, func() bool { return a.checkpoint.covered.Load() > 20 })
	must(t, a.Close())
	if r := verifyLog(t, AuditVerifier{Keys: signer.KeySet()}, path); !r.Closed || r.Checkpoints != 1 || r.LongestGap < 20 {
		t.Errorf("%+v", r)
	}
	// Nothing happens, so nothing is signed.
	a, _, err = OpenAudit(AuditOptions{File: path, Signer: signer, CheckpointRecords: 1, CheckpointEvery: time.Millisecond})
	must(t, err)
	size := a.size
	a.checkpoint.poke()
	waitFor(t, func() bool { return len(a.checkpoint.more) == 0 })
	must(t, a.Close())
	if info, err := os.Stat(path); err != nil || info.Size() > size+2000 {
		t.Errorf("%d bytes more: %v", info.Size()-size, err)
	}
}

func BenchmarkAuditVerify(b *testing.B) {
	path := filepath.Join(b.TempDir(), "audit.jsonl")
	a, _, err := OpenAudit(AuditOptions{File: path, Signer: newTestSigner(b, 1)})
	must(b, err)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range 500 {
				must(b, a.Record(b.Context(), typical()))
			}
		})
	}
	wg.Wait()
	must(b, a.Close())
	content, err := os.ReadFile(path)
	must(b, err)
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		if _, err := verifyBytes(AuditVerifier{}, [][]byte{content}); err != nil {
			b.Fatal(err)
		}
	}
}
