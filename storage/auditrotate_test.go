package storage

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/workload-sts/sts/sts"
)

func recordN(t testing.TB, a *Audit, n int) {
	t.Helper()
	for i := range n {
		must(t, a.Record(t.Context(), &sts.Record{Event: sts.EventToken, Decision: fmt.Sprint(i), Reason: strings.Repeat("r", 100)}))
	}
}

// TestAuditRotation: files that are full are followed by others, in one chain and
// with names that sort; the number of them is bounded.
func TestAuditRotation(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.jsonl")
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	open := func(keep int) *Audit {
		a, _, err := OpenAudit(AuditOptions{File: path, MaxSize: 2000, MaxAge: time.Hour, KeepFiles: keep, Now: func() time.Time { return now }})
		must(t, err)
		return a
	}
	a := open(0)
	recordN(t, a, 50)
	full, err := fullFiles(path)
	must(t, err)
	if len(full) < 5 {
		t.Fatalf("%d files", len(full))
	}
	for _, name := range append(full, path) {
		info, err := os.Stat(name)
		must(t, err)
		if info.Size() > 3000 || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has %d bytes, mode %o", name, info.Size(), info.Mode().Perm())
		}
	}
	must(t, a.Close())
	// The shell sorts them right.
	globbed, err := filepath.Glob(filepath.Join(dir, "audit*.jsonl"))
	must(t, err)
	slices.Sort(globbed)
	if r := verifyLog(t, AuditVerifier{}, globbed...); r.First != 1 || r.Last < 55 {
		t.Errorf("%+v", r)
	}
	// By age: with the first record after it, and not without one.
	a = open(0)
	recordN(t, a, 1)
	before := len(globbed)
	now = now.Add(2 * time.Hour)
	recordN(t, a, 1)
	if full, err := fullFiles(path); err != nil || len(full) != before {
		t.Errorf("%d files are full, not %d: %v", len(full), before, err)
	}
	must(t, a.Close())
	a = open(3)
	recordN(t, a, 50)
	must(t, a.Close())
	if full, err := fullFiles(path); err != nil || len(full) != 3 {
		t.Errorf("%d files are kept: %v", len(full), err)
	}
	files, _ := logFiles(t, path)
	verifyLog(t, AuditVerifier{}, files...)
	if left, _ := filepath.Glob(path + "?*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestAuditRotationCrash ends a process at each step of a rotation: opening goes on
// in one chain [F28].
func TestAuditRotationCrash(t *testing.T) {
	for name, crash := range map[string]func(t *testing.T, path, next string){
		"the new file is there": func(*testing.T, string, string) {},
		"the old one is renamed": func(t *testing.T, path, _ string) {
			must(t, os.Rename(path, fullName(path, 1, time.Now())))
		},
		"the new file is half written": func(t *testing.T, path, next string) {
			must(t, os.Rename(path, fullName(path, 1, time.Now())))
			must(t, os.Truncate(next, 30))
			must(t, os.Rename(next, path))
		},
		"the new file is empty": func(t *testing.T, path, next string) {
			must(t, os.Rename(path, fullName(path, 1, time.Now())))
			must(t, os.Truncate(next, 0))
			must(t, os.Rename(next, path))
		},
		"all is renamed": func(t *testing.T, path, next string) {
			must(t, os.Rename(path, fullName(path, 1, time.Now())))
			must(t, os.Rename(next, path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, path := newLog(t)
			recordN(t, a, 3)
			line, _ := a.head.link(nil, fileBody(a.head.chain, a.head.seq+1, time.Now()))
			next, err := a.newFile(line)
			must(t, err)
			must(t, next.Close())
			must(t, a.Close())
			crash(t, path, next.Name())
			a, _, err = OpenAudit(AuditOptions{File: path})
			must(t, err)
			recordN(t, a, 1)
			must(t, a.Close())
			files, content := logFiles(t, path)
			if r := verifyLog(t, AuditVerifier{}, files...); r.First != 1 {
				t.Errorf("%+v", r)
			}
			if n := bytes.Count(content, []byte(`"event":"token"`)); n != 4 {
				t.Errorf("%d records", n)
			}
			if left, _ := filepath.Glob(path + newFileSuffix + "*"); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// TestAuditRotationFails: while no new file can be made, records go on in the one
// before.
func TestAuditRotationFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	a, _, err := OpenAudit(AuditOptions{File: path, MaxSize: 500})
	must(t, err)
	must(t, os.Rename(path, path+".moved"))
	must(t, os.WriteFile(path, []byte("something else"), 0o600))
	recordN(t, a, 10)
	if a.metrics.rotationFailures.Load() == 0 || a.metrics.rotations.Load() != 0 || a.Err() != nil {
		t.Errorf("%d failures, %v", a.metrics.rotationFailures.Load(), a.Err())
	}
	must(t, os.Remove(path))
	recordN(t, a, 2)
	must(t, a.Close())
	verifyLog(t, AuditVerifier{}, path+".moved", path)
	if left, _ := filepath.Glob(path + newFileSuffix + "*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestAuditChangedByOthers: who cuts or lengthens the file in use stops it.
func TestAuditChangedByOthers(t *testing.T) {
	for _, change := range []func(path string) error{
		func(path string) error { return os.Truncate(path, 0) },
		func(path string) error { return os.WriteFile(path, []byte("x"), 0o600) },
	} {
		a, path := newLog(t)
		recordN(t, a, 2)
		must(t, change(path))
		if err := a.Record(t.Context(), &sts.Record{Event: sts.EventToken}); err == nil || !strings.Contains(err.Error(), "changed by others") || a.Err() == nil {
			t.Errorf("%v, %v", err, a.Err())
		}
		if a.Close() == nil {
			t.Error("Close hides it")
		}
	}
}

// TestAuditOpenRefuses what no crash explains: what a checkpoint covers was on the
// disk.
func TestAuditOpenRefuses(t *testing.T) {
	signer := newTestSigner(t, 1)
	content := signedLog(t, signer, 1, 8)[0]
	lines := bytes.SplitAfter(content, []byte("\n"))
	for name, damaged := range map[string][]byte{
		"removed": bytes.Join(slices.Concat(lines[:3], lines[4:]), nil),
		"changed": bytes.Replace(content, []byte(`"decision":"0-2"`), []byte(`"decision":"0-9"`), 1),
	} {
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		must(t, os.WriteFile(path, damaged, 0o600))
		_, _, err := OpenAudit(AuditOptions{File: path})
		if err == nil || !strings.Contains(err.Error(), "stsctl audit verify") {
			t.Errorf("%s: %v", name, err)
		}
		if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, damaged) {
			t.Errorf("%s: the file was changed: %v", name, err)
		}
	}
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	must(t, os.WriteFile(path, bytes.Replace(content, []byte(`"format":1`), []byte(`"format":2`), 1), 0o600))
	if _, _, err := OpenAudit(AuditOptions{File: path}); err == nil || !strings.Contains(err.Error(), "format 2") {
		t.Errorf("a newer format: %v", err)
	}
}
