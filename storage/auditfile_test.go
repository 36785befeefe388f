package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/workload-sts/sts/sts"
)

func TestAuditFileIsPrivate(t *testing.T) { // L-10, F33, F35
	a, path := newLog(t)
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("made with mode %o", info.Mode().Perm())
	}
	reopen := func(path string, words ...string) {
		t.Helper()
		a, _, err := OpenAudit(AuditOptions{File: path})
		if err == nil {
			a.Close()
			t.Fatal("it was opened")
		}
		for _, w := range append(words, path) {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("the error does not say %q: %v", w, err)
			}
		}
	}
	reopen(path, "in use by another process")
	must(t, a.Close())
	must(t, os.Chmod(path, 0o640))
	reopen(path, "0640", "chmod 600")
	reopen(filepath.Join(t.TempDir(), "missing", "audit.jsonl"), "no such file")
	reopen(t.TempDir())
	other := filepath.Join(t.TempDir(), "stsd.yaml")
	must(t, os.WriteFile(other, []byte("audit: x"), 0o600))
	reopen(other, "an audit log of this version")
	if content, err := os.ReadFile(other); err != nil || string(content) != "audit: x" {
		t.Errorf("a file of something else was changed: %q, %v", content, err)
	}
}

// TestAuditTorn: what a crash left of a record is moved aside, never glued to the
// next one, never lost, and the log says so.
func TestAuditTorn(t *testing.T) {
	first, path := newLog(t)
	for _, id := range []string{"1", "2"} {
		must(t, first.Record(t.Context(), &sts.Record{Event: sts.EventToken, Decision: id}))
	}
	must(t, first.Close())
	content, err := os.ReadFile(path)
	must(t, err)
	whole := string(content)
	next := strings.Replace(whole[strings.LastIndex(whole[:len(whole)-1], "\n")+1:], `"seq":3`, `"seq":4`, 1)
	for name, c := range map[string]struct{ torn, left string }{
		"nothing":                    {"", whole},
		"half a record":              {next[:30], whole},
		"all but its line break":     {next[:len(next)-1], whole},
		"one byte":                   {"{", whole},
		"only half a record":         {whole[:40], ""},
		"only a byte":                {"{", ""},
		"only a hole":                {strings.Repeat("\x00", 4096), ""},
		"a hole after the record":    {"\x00\x00\x00", whole},
		"a hole and a line after it": {"\x00\x00\x00\n" + next, whole},
		"long":                       {next[:60] + strings.Repeat("x", 3*sts.MaxRecordSize), whole},
		"a line of another chain":    {next, whole}, // its prev is that of record 3
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "audit.jsonl")
			must(t, os.WriteFile(path, []byte(c.left+c.torn), 0o600))
			a, torn, err := OpenAudit(AuditOptions{File: path})
			must(t, err)
			defer a.Close()
			if (torn != "") != (c.torn != "") {
				t.Fatalf("torn is %q", torn)
			}
			if torn != "" {
				content, err := os.ReadFile(torn)
				must(t, err)
				info, err := os.Stat(torn)
				must(t, err)
				if string(content) != c.torn || info.Mode().Perm() != 0o600 || !strings.HasPrefix(torn, path+".torn-") {
					t.Errorf("%s has %q, mode %o", torn, content, info.Mode().Perm())
				}
			}
			must(t, a.Record(t.Context(), &sts.Record{Event: sts.EventToken, Decision: "next"}))
			content, err := os.ReadFile(path)
			must(t, err)
			if !strings.HasPrefix(string(content), c.left) || !strings.Contains(string(content), `"decision":"next"`) {
				t.Errorf("the log has %q", content)
			}
			if c.torn != "" && !strings.Contains(string(content), `"event":"torn"`) {
				t.Errorf("the log does not tell of it: %q", content)
			}
			verifyLog(t, AuditVerifier{}, path)
		})
	}
	for _, content := range []string{"{" + strings.Repeat("x", 4*sts.MaxRecordSize), `{"decision":"1"}` + "\n", lineSeq + strings.Repeat("x", 4*sts.MaxRecordSize)} {
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		must(t, os.WriteFile(path, []byte(content), 0o600))
		if _, _, err := OpenAudit(AuditOptions{File: path}); !errors.Is(err, errNotAudit) {
			t.Errorf("%.20q was opened: %v", content, err)
		}
	}
}

// TestAuditHoles holds what a power cut can leave in the middle of what was not
// synced: everything from the first line that is not whole is set aside.
func TestAuditHoles(t *testing.T) {
	first, path := newLog(t)
	for i := range 10 {
		must(t, first.Record(t.Context(), &sts.Record{Event: sts.EventToken, Decision: fmt.Sprint(i)}))
	}
	must(t, first.Close())
	content, err := os.ReadFile(path)
	must(t, err)
	lines := bytes.SplitAfter(content, []byte("\n"))
	start := 0
	for i, line := range lines[:11] {
		if i > 0 {
			for at := 0; at < len(line); at += 5 {
				damaged := bytes.Clone(content)
				clear(damaged[start+at : min(start+at+100, len(damaged))])
				must(t, os.WriteFile(path, damaged, 0o600))
				f, err := os.Open(path)
				must(t, err)
				tail, err := readTail(f)
				must(t, err)
				must(t, f.Close())
				if tail.size != int64(start) || tail.size+tail.rest != int64(len(content)) {
					t.Fatalf("a hole at byte %d of line %d: whole are %d of %d bytes, %d are not", at, i+1, tail.size, start, tail.rest)
				}
			}
		}
		start += len(line)
	}
}

func TestAuditFileTaken(t *testing.T) { // F33
	a, path := newLog(t)
	must(t, a.Record(context.Background(), &sts.Record{Event: sts.EventToken, Decision: "1"}))
	must(t, os.Rename(path, path+".1"))
	must(t, a.Record(context.Background(), &sts.Record{Event: sts.EventToken, Decision: "2"}))
	if got := decisions(t, path+".1"); len(got) != 2 {
		t.Errorf("after renaming: %v", got)
	}
	must(t, os.Remove(path+".1"))
	for range 2 {
		if err := a.Record(context.Background(), &sts.Record{Event: sts.EventToken, Decision: "3"}); err == nil || !strings.Contains(err.Error(), "removed") || a.Err() == nil {
			t.Errorf("after removing: %v, %v", err, a.Err())
		}
	}
	if err := a.Close(); err == nil {
		t.Error("Close hides it")
	}
}
