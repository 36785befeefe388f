package storage

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/workload-sts/sts/sts"
)

// keptLog is a log of several files whose last checkpoint a store keeps.
type keptLog struct {
	path   string
	store  *Store
	signer *testSigner
}

func newKeptLog(t testing.TB) *keptLog {
	t.Helper()
	dir := t.TempDir()
	kv, err := OpenBolt(filepath.Join(dir, "sts.db"), BoltOptions{})
	must(t, err)
	t.Cleanup(func() { kv.Close() })
	l := &keptLog{path: filepath.Join(dir, "audit.jsonl"), store: NewStore(kv), signer: newTestSigner(t, 1)}
	a := l.mustOpen(t)
	recordN(t, a, 5)
	must(t, a.rotate())
	recordN(t, a, 5)
	must(t, a.Close())
	return l
}

func (l *keptLog) open() (*Audit, error) {
	a, _, err := OpenAudit(AuditOptions{File: l.path, Signer: l.signer, Store: l.store, Node: "n1"})
	return a, err
}

func (l *keptLog) mustOpen(t testing.TB) *Audit {
	t.Helper()
	a, err := l.open()
	must(t, err)
	return a
}

// chains are what is kept.
func (l *keptLog) chains(t testing.TB) []sts.AuditChain {
	t.Helper()
	out, err := l.store.AuditChains(t.Context())
	must(t, err)
	slices.SortFunc(out, func(a, b sts.AuditChain) int { return b.Heard().Compare(a.Heard()) })
	return out
}

// removeAll removes the files of the log.
func (l *keptLog) removeAll(t testing.TB) {
	t.Helper()
	files, err := filepath.Glob(strings.TrimSuffix(l.path, ".jsonl") + "*.jsonl")
	must(t, err)
	for _, name := range files {
		must(t, os.Remove(name))
	}
}

// begins are the lines of the log that say that the store did not know it.
func (l *keptLog) begins(t testing.TB) []beginLine {
	t.Helper()
	_, content := logFiles(t, l.path)
	var out []beginLine
	for line := range bytes.Lines(content) {
		if chain, err := parseChainLine(line); err == nil && chain.event == sts.EventBegin {
			var b beginLine
			must(t, json.Unmarshal(line, &b))
			out = append(out, b)
		}
	}
	return out
}

// inUse is what is in the file in use. That it is missing is like nothing.
func (l *keptLog) inUse() string {
	content, _ := os.ReadFile(l.path)
	return string(content)
}

// forge writes the file in use anew with one word in it changed, and hashes that
// fit.
func (l *keptLog) forge(t testing.TB) {
	t.Helper()
	content, err := os.ReadFile(l.path)
	must(t, err)
	var out []byte
	var head chainHead
	for line := range bytes.Lines(content) {
		c, err := parseChainLine(line)
		must(t, err)
		if head.seq == 0 {
			head = chainHead{seq: c.seq - 1, hash: c.prev}
		}
		if c.event == sts.EventCheckpoint || c.event == sts.EventKey {
			continue // cannot be signed anew
		}
		out, head = head.link(out, append([]byte("{"), bytes.Replace(c.body, []byte(`"decision":"3"`), []byte(`"decision":"x"`), 1)...))
	}
	must(t, os.WriteFile(l.path, out, 0o600))
}

// TestAuditKept: a log that is not what it was when the server stopped is noticed
// when it is opened. What contradicts the store is refused, and left as it was; what
// the store does not know is recorded.
func TestAuditKept(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil   func(t *testing.T, l *keptLog)
		refused bool
		begins  int   // lines that tell of it, in the log then
		found   int64 // the last line of an unknown chain; -1: whichever
	}{
		"untouched": {spoil: func(*testing.T, *keptLog) {}, begins: 1, found: 1},
		"torn": {spoil: func(t *testing.T, l *keptLog) {
			f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND, 0)
			must(t, err)
			_, err = f.WriteString(`{"seq":99,"prev":"`)
			must(t, err)
			must(t, f.Close())
		}, begins: 1, found: 1},
		"cut": {refused: true, spoil: func(t *testing.T, l *keptLog) {
			content, err := os.ReadFile(l.path)
			must(t, err)
			lines := bytes.SplitAfter(content, []byte("\n"))
			must(t, os.WriteFile(l.path, bytes.Join(lines[:3], nil), 0o600))
		}},
		"forged":                  {refused: true, spoil: func(t *testing.T, l *keptLog) { l.forge(t) }},
		"without the file in use": {refused: true, spoil: func(t *testing.T, l *keptLog) { must(t, os.Remove(l.path)) }},
		"put back": {refused: true, spoil: func(t *testing.T, l *keptLog) {
			before, err := os.ReadFile(l.path)
			must(t, err)
			a := l.mustOpen(t)
			recordN(t, a, 3)
			must(t, a.Close())
			must(t, os.WriteFile(l.path, before, 0o600))
		}},
		"removed": {spoil: func(t *testing.T, l *keptLog) { l.removeAll(t) }, begins: 1, found: 1},
		"another": {spoil: func(t *testing.T, l *keptLog) {
			l.removeAll(t)
			a, _, err := OpenAudit(AuditOptions{File: l.path, Signer: l.signer})
			must(t, err)
			recordN(t, a, 2)
			must(t, a.Close())
		}, begins: 1, found: 5},
		"a store of before": {spoil: func(t *testing.T, l *keptLog) {
			kept := l.chains(t)[0]
			a := l.mustOpen(t)
			recordN(t, a, 3)
			must(t, a.Close())
			must(t, l.store.keepAuditChain(t.Context(), kept, time.Now()))
		}, begins: 1, found: 1},
		"a store of long before": {spoil: func(t *testing.T, l *keptLog) {
			kept := l.chains(t)[0]
			kept.Seq = 2
			must(t, l.store.keepAuditChain(t.Context(), kept, time.Now()))
			full, err := fullFiles(l.path)
			must(t, err)
			must(t, os.Remove(full[0]))
		}, begins: 1, found: -1},
	} {
		t.Run(name, func(t *testing.T) {
			l := newKeptLog(t)
			before := l.chains(t)
			if len(before) != 1 || before[0].Seq == 0 || before[0].Node != "n1" || before[0].Begun.IsZero() {
				t.Fatalf("%+v", before)
			}
			tc.spoil(t, l)
			was := l.inUse()
			a, err := l.open()
			if (err != nil) != tc.refused {
				t.Fatalf("%v", err)
			}
			if tc.refused {
				if want := fmt.Sprintf("record %d is missing or is another than the checkpoint says", l.chains(t)[0].Seq); !strings.Contains(err.Error(), want) {
					t.Errorf("%v, not %s", err, want)
				}
				if l.inUse() != was {
					t.Error("what was refused was changed")
				}
				// The way on.
				l.removeAll(t)
				a = l.mustOpen(t)
				tc.begins, tc.found = 1, 1
			}
			recordN(t, a, 1)
			must(t, a.Close())
			got := l.begins(t)
			if len(got) != tc.begins || tc.found >= 0 && got[len(got)-1].Found != tc.found {
				t.Fatalf("%+v", got)
			}
			last, now := got[len(got)-1], l.chains(t)
			if last.Chain == before[0].Chain {
				if last.Before != "" || len(now) != 1 {
					t.Errorf("%+v, %+v", last, now)
				}
			} else if c, _, err := ParseCheckpoint(last.JWS); err != nil || c.Chain != before[0].Chain || last.Before != before[0].Chain || len(now) != 2 || now[0].Chain != last.Chain {
				t.Errorf("%+v, %v, %+v", last, err, now)
			}
			files, _ := logFiles(t, l.path)
			if r := verifyLog(t, AuditVerifier{Kept: map[string]string{now[0].Chain: now[0].Checkpoint}}, files...); !r.Closed || r.Unknown != int64(len(got)) {
				t.Errorf("%+v", r)
			}
			must(t, l.mustOpen(t).Close()) // it is known now
			if len(l.begins(t)) != len(got) {
				t.Errorf("%+v", l.begins(t))
			}
		})
	}
}

// TestAuditKeptVerify: a log that was cut at a checkpoint is found by the one that
// the store keeps.
func TestAuditKeptVerify(t *testing.T) {
	l := newKeptLog(t)
	files, _ := logFiles(t, l.path)
	kept := map[string]string{}
	for _, c := range l.chains(t) {
		kept[c.Chain] = c.Checkpoint
	}
	verifyLog(t, AuditVerifier{Kept: kept}, files...)
	var contents [][]byte
	for _, name := range files[:len(files)-1] {
		b, err := os.ReadFile(name)
		must(t, err)
		contents = append(contents, b)
	}
	if _, err := verifyBytes(AuditVerifier{}, contents); err != nil {
		t.Fatal(err)
	}
	if _, err := verifyBytes(AuditVerifier{Kept: kept}, contents); err == nil || !strings.Contains(err.Error(), "truncated") {
		t.Errorf("%v", err)
	}
}

// TestAuditTornLater: what a crash left between setting a torn end aside and
// recording it is recorded at the next start.
func TestAuditTornLater(t *testing.T) {
	for _, when := range []string{"before the end was cut", "after it"} {
		t.Run(when, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "audit.jsonl")
			a, _, err := OpenAudit(AuditOptions{File: path})
			must(t, err)
			recordN(t, a, 2)
			must(t, a.Close())
			rest := []byte(`{"seq":4,"pr`)
			must(t, os.WriteFile(path+asideSuffix+"1", rest, 0o600))
			want := 1
			if when != "after it" {
				f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
				must(t, err)
				_, err = f.Write(rest)
				must(t, err)
				must(t, f.Close())
				want = 2 // the copy may have been a part
			}
			a, torn, err := OpenAudit(AuditOptions{File: path})
			must(t, err)
			must(t, a.Close())
			names := strings.Split(torn, ", ")
			_, content := logFiles(t, path)
			told := 0
			for line := range bytes.Lines(content) {
				if l, err := parseChainLine(line); err != nil || l.event != sts.EventTorn {
					continue
				}
				var r tornLine
				must(t, json.Unmarshal(line, &r))
				kept, err := os.ReadFile(filepath.Join(filepath.Dir(path), r.File))
				must(t, err)
				if !bytes.Equal(kept, rest) || r.Bytes != int64(len(rest)) || r.SHA256 != fmt.Sprintf("%x", sha256.Sum256(rest)) {
					t.Errorf("%+v", r)
				}
				told++
			}
			if told != want || len(names) != want {
				t.Errorf("%d records, %q", told, names)
			}
			left, err := filepath.Glob(path + asideSuffix + "*")
			must(t, err)
			a, torn, err = OpenAudit(AuditOptions{File: path})
			must(t, err)
			must(t, a.Close())
			if len(left) > 0 || torn != "" {
				t.Errorf("%q, %q", left, torn)
			}
		})
	}
}

// TestAuditRotatesIdle: a file that is old enough is followed by the next without a
// record to come.
func TestAuditRotatesIdle(t *testing.T) {
	dir := t.TempDir()
	signer := newTestSigner(t, 1)
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(dir, "audit.jsonl")
		a, _, err := OpenAudit(AuditOptions{File: path, MaxAge: time.Hour, Signer: signer})
		must(t, err)
		recordN(t, a, 1)
		time.Sleep(time.Hour + 2*ageEvery)
		full, err := fullFiles(path)
		must(t, err)
		if len(full) != 1 {
			t.Errorf("%q", full)
		}
		time.Sleep(5 * time.Hour) // nothing comes, so nothing begins
		full, err = fullFiles(path)
		must(t, err)
		if len(full) != 1 {
			t.Errorf("%q", full)
		}
		must(t, a.Close())
		if r := verifyLog(t, AuditVerifier{}, append(full, path)...); !r.Closed {
			t.Errorf("%+v", r)
		}
	})
}

// TestAuditKeptNodes: nodes that share a store have a chain each, and one that begins
// anew is told of its own chain before, not of that of another.
func TestAuditKeptNodes(t *testing.T) {
	first, second := newKeptLog(t), filepath.Join(t.TempDir(), "audit.jsonl")
	open := func() *Audit {
		a, _, err := OpenAudit(AuditOptions{File: second, Signer: first.signer, Store: first.store, Node: "n2"})
		must(t, err)
		return a
	}
	a := open()
	recordN(t, a, 3)
	must(t, a.Close())
	other := &keptLog{path: second, store: first.store, signer: first.signer}
	if b := other.begins(t); len(b) != 1 || b[0].Before != "" {
		t.Errorf("%+v", b)
	}
	chains := first.chains(t)
	if len(chains) != 2 || chains[0].Node != "n2" || chains[1].Node != "n1" {
		t.Fatalf("%+v", chains)
	}
	other.removeAll(t)
	must(t, open().Close())
	if b := other.begins(t); len(b) != 1 || b[0].Before != chains[0].Chain || b[0].JWS != chains[0].Checkpoint {
		t.Errorf("%+v", b)
	}
	must(t, first.mustOpen(t).Close())
}
