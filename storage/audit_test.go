package storage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/workload-sts/sts/sts"
	"pgregory.net/rapid"
)

var _ sts.Audit = (*Audit)(nil)

func newLog(t testing.TB) (*Audit, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	a, torn, err := OpenAudit(path)
	must(t, err)
	if torn != "" {
		t.Errorf("a new file was torn: %s", torn)
	}
	t.Cleanup(func() { a.Close() })
	return a, path
}

// decisions reads a log, every line of which must be a record.
func decisions(t testing.TB, path string) []string {
	t.Helper()
	log, err := os.ReadFile(path)
	must(t, err)
	var out []string
	for line := range bytes.Lines(log) {
		var r sts.Record
		d := json.NewDecoder(bytes.NewReader(line))
		d.DisallowUnknownFields()
		if err := d.Decode(&r); err != nil || line[len(line)-1] != '\n' {
			t.Fatalf("line %d: %v: %q", len(out)+1, err, line)
		}
		out = append(out, r.Decision)
	}
	return out
}

// TestAuditConcurrent: each record is in the file when Record returns, once, and
// whole.
func TestAuditConcurrent(t *testing.T) {
	a, path := newLog(t)
	const callers, each = 64, 20
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				id := fmt.Sprintf("%d-%d", c, i)
				if err := a.Record(context.Background(), &sts.Record{Decision: id, Reason: strings.Repeat("r", i*40)}); err != nil {
					t.Error(err)
					return
				}
				if i%10 != 0 {
					continue
				}
				if log, err := os.ReadFile(path); err != nil || !bytes.Contains(log, []byte(`"decision":"`+id+`"`)) {
					t.Errorf("%s is not written; %v", id, err)
				}
			}
		})
	}
	wg.Wait()
	seen := map[string]int{}
	last := map[string]int{}
	for _, id := range decisions(t, path) {
		seen[id]++
		caller, i, _ := strings.Cut(id, "-")
		var n int
		fmt.Sscan(i, &n)
		if n < last[caller] {
			t.Errorf("%s came after %d", id, last[caller])
		}
		last[caller] = n
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s is there %d times", id, n)
		}
	}
	if len(seen) != callers*each {
		t.Errorf("%d records of %d", len(seen), callers*each)
	}
	must(t, a.Close())
	if err := a.Record(context.Background(), &sts.Record{}); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	must(t, a.Close())
}

// TestAuditClose: what is being recorded when it is closed is written or refused.
func TestAuditClose(t *testing.T) {
	a, path := newLog(t)
	var mu sync.Mutex
	acknowledged := map[string]bool{}
	var wg, started sync.WaitGroup
	for c := range 8 {
		started.Add(1)
		wg.Go(func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%d-%d", c, i)
				err := a.Record(context.Background(), &sts.Record{Decision: id})
				if err != nil {
					if !errors.Is(err, ErrClosed) {
						t.Errorf("while closing: %v", err)
					}
					return
				}
				mu.Lock()
				acknowledged[id] = true
				mu.Unlock()
				if i == 0 {
					started.Done()
				}
			}
		})
	}
	started.Wait()
	must(t, a.Close())
	wg.Wait()
	got := decisions(t, path)
	for _, id := range got {
		delete(acknowledged, id)
	}
	if len(acknowledged) > 0 || len(got) < 8 {
		t.Errorf("acknowledged and gone: %v", acknowledged)
	}
}

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
		"long":                    {whole + "{" + strings.Repeat("x", maxRecord/2), "{" + strings.Repeat("x", maxRecord/2), whole},
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
	must(t, os.WriteFile(path, []byte("{"+strings.Repeat("x", 2*maxRecord)), 0o600))
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
		if err := a.Record(context.Background(), &sts.Record{Decision: "3"}); err == nil || !strings.Contains(err.Error(), "removed") {
			t.Errorf("after removing: %v", err)
		}
	}
	if err := a.Close(); err == nil {
		t.Error("Close hides it")
	}
}

// testFile is a file in memory whose calls can be made to fail.
type testFile struct {
	mu      sync.Mutex
	content []byte
	writes  int
	syncs   int
	room    int           // how much can be written until it fails, if writeErr is set
	hold    chan struct{} // writes wait for it, if it is not nil

	writeErr, truncateErr, syncErr error
}

func (f *testFile) Write(p []byte) (int, error) {
	if f.hold != nil {
		<-f.hold
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes++
	n := len(p)
	if f.writeErr != nil {
		n = min(n, f.room)
	}
	f.content = append(f.content, p[:n]...)
	if n < len(p) {
		return n, f.writeErr
	}
	return n, nil
}

func (f *testFile) Stat() (os.FileInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fileSize(len(f.content)), nil
}

func (f *testFile) Truncate(size int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.truncateErr == nil {
		f.content = f.content[:size]
	}
	return f.truncateErr
}

func (f *testFile) Sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.syncs++
	return f.syncErr
}

func (f *testFile) Close() error { return nil }

type fileSize int64

func (s fileSize) Size() int64        { return int64(s) }
func (s fileSize) Name() string       { return "" }
func (s fileSize) Mode() os.FileMode  { return 0o600 }
func (s fileSize) ModTime() time.Time { return time.Time{} }
func (s fileSize) IsDir() bool        { return false }
func (s fileSize) Sys() any           { return nil }

// TestAuditWriteFails: a write that fails leaves nothing, and the next is tried
// [F31]; if what it left cannot be cut off, nothing is written behind it.
func TestAuditWriteFails(t *testing.T) {
	for _, room := range []int{0, 1, 30} {
		for _, writeErr := range []error{syscall.ENOSPC, syscall.EIO, io.ErrShortWrite} {
			f := new(testFile)
			a := newAudit(f)
			record := func(id string) error { return a.Record(context.Background(), &sts.Record{Decision: id}) }
			must(t, record("1"))
			before := string(f.content)
			f.writeErr, f.room = writeErr, room
			for range 3 {
				if err := record("lost"); !errors.Is(err, writeErr) {
					t.Errorf("%v: %v", writeErr, err)
				}
			}
			if string(f.content) != before {
				t.Errorf("%v after %d bytes left %q", writeErr, room, f.content)
			}
			f.writeErr = nil
			must(t, record("2"))
			f.writeErr, f.truncateErr = writeErr, syscall.EIO
			if err := record("lost"); !errors.Is(err, syscall.EIO) {
				t.Errorf("that cannot be cut off: %v", err)
			}
			f.writeErr, f.truncateErr = nil, nil
			before = string(f.content)
			if err := record("3"); err == nil || string(f.content) != before {
				t.Errorf("behind half a record: %v, %q", err, f.content)
			}
			if err := a.Close(); err == nil {
				t.Error("Close hides it")
			}
		}
	}
}

// TestAuditSync: what is written is synced within a second, and once a sync failed
// nothing more is taken, nor synced [F30].
func TestAuditSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(testFile)
		a := newAudit(f)
		record := func() error { return a.Record(context.Background(), &sts.Record{Decision: "1"}) }
		time.Sleep(10 * syncEvery)
		synctest.Wait()
		if f.syncs != 0 {
			t.Errorf("%d syncs of nothing", f.syncs)
		}
		for range 3 {
			must(t, record())
			must(t, record())
			time.Sleep(syncEvery + time.Millisecond)
		}
		time.Sleep(10 * syncEvery)
		synctest.Wait()
		if f.syncs != 3 {
			t.Errorf("%d syncs", f.syncs)
		}
		f.syncErr = syscall.EIO
		must(t, record())
		time.Sleep(syncEvery + time.Millisecond)
		synctest.Wait()
		f.syncErr = nil
		size := len(f.content)
		for range 3 {
			if err := record(); !errors.Is(err, syscall.EIO) {
				t.Errorf("after a sync that failed: %v", err)
			}
		}
		time.Sleep(10 * syncEvery)
		if err := a.Close(); !errors.Is(err, syscall.EIO) {
			t.Errorf("Close: %v", err)
		}
		if f.syncs != 4 || len(f.content) != size {
			t.Errorf("%d syncs, %d bytes more", f.syncs, len(f.content)-size)
		}
	})
}

func TestAuditCloseSyncs(t *testing.T) {
	for _, syncErr := range []error{nil, syscall.EIO} {
		f := &testFile{syncErr: syncErr}
		a := newAudit(f)
		must(t, a.Record(context.Background(), &sts.Record{}))
		if err := a.Close(); !errors.Is(err, syncErr) || f.syncs != 1 {
			t.Errorf("%v: Close is %v after %d syncs", syncErr, err, f.syncs)
		}
	}
}

// TestAuditGroups: records that come while a write hangs go out together, have one
// fate, and are bounded [F32].
func TestAuditGroups(t *testing.T) {
	f := &testFile{hold: make(chan struct{})}
	a := newAudit(f)
	results := make(chan error)
	record := func() { results <- a.Record(context.Background(), &sts.Record{Decision: "d"}) }
	waiting := func(want int) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; runtime.Gosched() {
			a.mu.Lock()
			n := a.pending.count
			a.mu.Unlock()
			if n == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d are waiting, not %d", n, want)
			}
		}
	}
	go record()
	for begun := false; !begun; runtime.Gosched() {
		a.mu.Lock()
		begun = a.pending.count == 0 && len(a.turn) == 1
		a.mu.Unlock()
	}
	for range maxQueue {
		go record()
	}
	waiting(maxQueue)
	if err := a.Record(context.Background(), &sts.Record{}); !errors.Is(err, errQueue) {
		t.Errorf("one too many: %v", err)
	}
	f.hold <- struct{}{}
	f.mu.Lock()
	f.writeErr, f.room = syscall.ENOSPC, 1000
	f.mu.Unlock()
	must(t, <-results)
	f.hold <- struct{}{}
	for range maxQueue {
		if err := <-results; !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("in a group that failed: %v", err)
		}
	}
	if n := bytes.Count(f.content, []byte("\n")); n != 1 || f.writes != 2 {
		t.Errorf("%d records by %d writes", n, f.writes)
	}
	must(t, a.Close())
}

// TestAuditLine: a record is one line whatever is in it, shows as it is, and reads
// back as what it was [L-04].
func TestAuditLine(t *testing.T) {
	hostile := "a\n{\"level\":\"info\"}\r\x00\x1b[31m\x7f\u009b\u2028\u2029\u202e\u2066\u200b\ufeff\U000e0041\\\" <&> é 漢 \U0001f511"
	var r sts.Record
	fillValue(t, reflect.ValueOf(&r).Elem(), nil)
	r.Subject.Sub, r.Reason, r.Issued.KID, r.Client = hostile, hostile, hostile, hostile
	r.Actor.Act = []string{hostile, "\xff\xfe"}
	l := lines.Get().(*line)
	must(t, l.encode(&r))
	oneLine(t, l.Bytes())
	if !bytes.Contains(l.Bytes(), []byte("é 漢 \U0001f511")) {
		t.Errorf("what shows well is escaped: %s", l.Bytes())
	}
	var got sts.Record
	must(t, json.Unmarshal(l.Bytes(), &got))
	r.Actor.Act[1] = "\ufffd\ufffd"
	if !reflect.DeepEqual(got, r) {
		t.Errorf("read back:\n%s\nnot\n%s", asJSON(got), asJSON(r))
	}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Draw(t, "text")
		if err := l.encode(&sts.Record{Reason: text}); err != nil {
			t.Fatal(err)
		}
		oneLine(t, l.Bytes())
		var got sts.Record
		if err := json.Unmarshal(l.Bytes(), &got); err != nil || got.Reason != strings.ToValidUTF8(text, "\ufffd") {
			t.Fatalf("%q became %q, %v", text, got.Reason, err)
		}
	})
}

func oneLine(t interface{ Errorf(string, ...any) }, line []byte) {
	text, ok := strings.CutSuffix(string(line), "\n")
	if !ok {
		t.Errorf("no line break at the end of %q", line)
	}
	for _, c := range text {
		if !unicode.IsPrint(c) {
			t.Errorf("%U stands in %q", c, text)
		}
	}
}

// typical is a record of an exchange.
func typical() *sts.Record {
	return &sts.Record{
		Time: time.Date(2026, 11, 24, 12, 0, 0, 123456789, time.UTC), Decision: "5y0f3kq9a2m8wz1c", RequestID: "0192f3c4-7a5e-7000-8000-0123456789ab",
		Peer: "10.1.2.3", Grant: sts.TokenExchange, Outcome: "allow", Revision: 4711, Client: "checkout", AuthMethod: sts.SecretBasic,
		Subject:        &sts.RecordParty{Issuer: "github", Sub: "repo:acme/shop:ref:refs/heads/main", JTI: "a6c0dd9e-1c7b-4f0e-9d3f-5e2f8a1b0c4d", Exp: 1795521600},
		AskedAudiences: []string{"https://payments.example.com"}, AskedScopes: []string{"payments.read", "payments.write"},
		Issued: &sts.RecordToken{
			JTI: "Zk3nq0y7T0m8b1l2c3d4eQ", KID: "2026-11-24-a1b2", Type: sts.AccessToken, Sub: "github:repo:acme/shop:ref:refs/heads/main", ClientID: "checkout",
			Audiences: []string{"https://payments.example.com"}, Scopes: []string{"payments.read"}, Act: []string{"checkout"}, Txn: "q1w2e3r4t5y6u7i8o9p0aQ", Exp: 1795521900, Rules: []string{"shop-pays"},
		},
	}
}

func BenchmarkAuditLine(b *testing.B) {
	r := typical()
	l := lines.Get().(*line)
	must(b, l.encode(r))
	b.SetBytes(int64(l.Len()))
	b.ReportAllocs()
	for b.Loop() {
		l.encode(r)
	}
}

func BenchmarkAuditRecord(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			a, _ := newLog(b)
			r := typical()
			b.ReportAllocs()
			b.SetParallelism(max(1, callers/runtime.GOMAXPROCS(0)))
			if callers == 1 {
				for b.Loop() {
					must(b, a.Record(b.Context(), r))
				}
				return
			}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := a.Record(b.Context(), r); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
