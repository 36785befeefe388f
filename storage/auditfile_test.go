package storage

import (
	"context"
	"encoding/json"
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
		a, _, err := OpenAudit(path)
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
	reopen(other, "not an audit log")
	if content, err := os.ReadFile(other); err != nil || string(content) != "audit: x" {
		t.Errorf("a file of something else was changed: %q, %v", content, err)
	}
}

// TestAuditTorn: what a crash left of a record is moved aside, never glued to the
// next one, and never lost.
func TestAuditTorn(t *testing.T) {
	whole := `{"decision":"1"}` + "\n" + `{"decision":"2"}` + "\n"
	for name, c := range map[string]struct{ content, torn, left string }{
		"nothing":                 {"", "", ""},
		"whole":                   {whole, "", whole},
		"half a record":           {whole + `{"decision":"3`, `{"decision":"3`, whole},
		"all but its line break":  {whole + `{"decision":"3"}`, `{"decision":"3"}`, whole},
		"one byte":                {whole + "{", "{", whole},
		"only half a record":      {`{"decision`, `{"decision`, ""},
		"a hole after the record": {whole + "\x00\x00\x00", "\x00\x00\x00", whole},
		"long":                    {whole + "{" + strings.Repeat("x", sts.MaxRecordSize), "{" + strings.Repeat("x", sts.MaxRecordSize), whole},
		"of an earlier version":   {whole + "{" + strings.Repeat("x", 1_500_000), "{" + strings.Repeat("x", 1_500_000), whole},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "audit.jsonl")
			must(t, os.WriteFile(path, []byte(c.content), 0o600))
			a, torn, err := OpenAudit(path)
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
			must(t, a.Record(context.Background(), &sts.Record{Decision: "next"}))
			content, err := os.ReadFile(path)
			must(t, err)
			if left, ok := strings.CutPrefix(string(content), c.left); !ok || strings.Count(left, "\n") != 1 || !json.Valid([]byte(left)) {
				t.Errorf("the log has %q", content)
			}
		})
	}
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	must(t, os.WriteFile(path, []byte("{"+strings.Repeat("x", 2*maxTorn)), 0o600))
	if _, _, err := OpenAudit(path); err == nil {
		t.Error("a file without line breaks was opened")
	}
}

func TestAuditFileTaken(t *testing.T) { // F33
	a, path := newLog(t)
	must(t, a.Record(context.Background(), &sts.Record{Decision: "1"}))
	must(t, os.Rename(path, path+".1"))
	must(t, a.Record(context.Background(), &sts.Record{Decision: "2"}))
	if got := decisions(t, path+".1"); len(got) != 2 {
		t.Errorf("after renaming: %v", got)
	}
	must(t, os.Remove(path+".1"))
	for range 2 {
		if err := a.Record(context.Background(), &sts.Record{Decision: "3"}); err == nil || !strings.Contains(err.Error(), "removed") || a.Err() == nil {
			t.Errorf("after removing: %v, %v", err, a.Err())
		}
	}
	if err := a.Close(); err == nil {
		t.Error("Close hides it")
	}
}
