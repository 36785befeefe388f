package storage

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/workload-sts/sts/sts"
)

// filled returns the closed file of a store with some history, and what it has.
func filled(t *testing.T) (path string, want []Entry) {
	t.Helper()
	b, path := newBolt(t)
	for i := range 300 {
		op := Op{Key: fmt.Sprintf("k/%03d", i%200), Value: bytes.Repeat([]byte{byte(i)}, 3000)}
		if i%3 == 0 {
			op.Expires = time.Now().Add(time.Duration(1+i) * time.Hour)
		}
		_, _, err := b.Txn(t.Context(), nil, []Op{op})
		must(t, err)
	}
	for i := range 150 {
		_, _, err := b.Txn(t.Context(), nil, []Op{{Key: fmt.Sprintf("k/%03d", i), Delete: true}})
		must(t, err)
	}
	want, _, err := b.List(t.Context(), "", "", 0)
	must(t, err)
	must(t, b.Close())
	return path, want
}

func has(t *testing.T, path string, want []Entry) {
	t.Helper()
	b, err := OpenBolt(path, BoltOptions{})
	must(t, err)
	defer b.Close()
	got, _, err := b.List(t.Context(), "", "", 0)
	got = slices.DeleteFunc(got, func(e Entry) bool { return e.Key == restoredKey })
	if err != nil || !slices.EqualFunc(got, want, equalEntries) {
		t.Errorf("%s has %d entries, not these %d: %v", path, len(got), len(want), err)
	}
}

// alone asserts that nothing was left beside some files.
func alone(t *testing.T, dir string, files int) {
	t.Helper()
	if names, err := os.ReadDir(dir); err != nil || len(names) != files {
		t.Errorf("there are %v, %v", names, err)
	}
}

func TestCompactBolt(t *testing.T) {
	path, want := filled(t)
	before, after, err := CompactBolt(path)
	must(t, err)
	if after.Size >= before.Size/2 || after.Revision != before.Revision || after.Entries != len(want) {
		t.Errorf("%+v became %+v", before, after)
	}
	has(t, path, want)
	alone(t, filepath.Dir(path), 1)

	b, err := OpenBolt(path, BoltOptions{})
	must(t, err)
	if _, _, err := CompactBolt(path); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("a store in use: %v", err)
	}
	must(t, b.Close())
	must(t, os.Truncate(path, 30_000))
	if _, _, err := CompactBolt(path); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("a damaged store: %v", err)
	}
}

// TestOpenBoltCompacted opens a store that is compacted at the same time, over and
// over: each finds the file that has the name.
func TestOpenBoltCompacted(t *testing.T) {
	path, _ := filled(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 20 {
			if _, _, err := CompactBolt(path); err != nil && !strings.Contains(err.Error(), "in use") && !strings.Contains(err.Error(), "meanwhile") {
				t.Error(err)
			}
		}
	})
	written := 0
	for i := range 20 {
		b, err := OpenBolt(path, BoltOptions{})
		if err != nil {
			if !strings.Contains(err.Error(), "in use") && !strings.Contains(err.Error(), "meanwhile") {
				t.Error(err)
			}
			continue
		}
		if _, _, err := b.Txn(t.Context(), nil, []Op{{Key: fmt.Sprint("written/", i)}}); err != nil {
			t.Error(err)
		} else {
			written++
		}
		must(t, b.Close())
	}
	wg.Wait()
	b, err := OpenBolt(path, BoltOptions{})
	must(t, err)
	defer b.Close()
	if list, _, err := b.List(t.Context(), "written/", "", 0); err != nil || len(list) != written || written == 0 {
		t.Errorf("%d of %d writes are there: %v", len(list), written, err)
	}
}

func TestBackupBolt(t *testing.T) {
	path, want := filled(t)
	dir := t.TempDir()
	backup := filepath.Join(dir, "backup.db")
	info, err := BackupBolt(path, backup)
	if err != nil || info.Entries != len(want) {
		t.Fatal(info, err)
	}
	has(t, backup, want)
	if _, err := BackupBolt(path, backup); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("over another file: %v", err)
	}
	_, err = WriteBackup(filepath.Join(dir, "cut.db"), func(w io.Writer) error {
		content, err := os.ReadFile(path)
		w.Write(content[:len(content)/3])
		return err
	}, func(BoltInfo) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("a part: %v", err)
	}
	alone(t, dir, 1)
}

// TestSnapshot copies a store that is being written: the copy has what was there at
// its revision, and no writer waits for whom reads it [F36, F55].
func TestSnapshot(t *testing.T) {
	b, path := newBolt(t)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			value := fmt.Append(nil, i, strings.Repeat("v", i%2000))
			if _, _, err := b.Txn(t.Context(), nil, []Op{{Key: "x", Value: value}, {Key: "y", Value: value}, {Key: fmt.Sprint("k/", i%500), Value: value}}); err != nil {
				t.Error(err)
			}
		}
	})
	for i := range 5 {
		for at, _, _ := b.List(ctx, "x", "", 1); ; {
			now, _, err := b.List(ctx, "x", "", 1)
			must(t, err)
			if len(now) > 0 && (len(at) == 0 || now[0].Revision > at[0].Revision+20) {
				break
			}
		}
		s, err := b.Snapshot(t.Context())
		must(t, err)
		if _, err := b.Snapshot(t.Context()); !errors.Is(err, sts.ErrBusy) {
			t.Errorf("a second one at once: %v", err)
		}
		alone(t, filepath.Dir(path), 1)
		to := filepath.Join(t.TempDir(), fmt.Sprint(i))
		info, err := WriteBackup(to, func(w io.Writer) error {
			n, err := s.WriteTo(w)
			if n != s.(*Snapshot).size {
				t.Errorf("%d bytes of %d", n, s.(*Snapshot).size)
			}
			return err
		}, func(BoltInfo) error { return nil })
		if err != nil || info.Revision != s.Revision() {
			t.Fatalf("%+v of revision %d: %v", info, s.Revision(), err)
		}
		must(t, s.Close())
		copied, err := OpenBolt(to, BoltOptions{})
		must(t, err)
		x, xErr := copied.Get(t.Context(), "x")
		y, yErr := copied.Get(t.Context(), "y")
		if xErr != nil || yErr != nil || !bytes.Equal(x.Value, y.Value) || x.Revision != s.Revision() {
			t.Errorf("the copy has %d and %d at revision %d", x.Revision, y.Revision, s.Revision())
		}
		must(t, copied.Close())
	}
	stop()
	wg.Wait()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Snapshot(cancelled); !errors.Is(err, context.Canceled) {
		t.Errorf("for nobody: %v", err)
	}
	must(t, b.Close())
	if _, err := b.Snapshot(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("of a closed store: %v", err)
	}
	alone(t, filepath.Dir(path), 1)
}

// TestRestoreBolt: what was restored says so, since it does not know what was
// revoked after the backup [B-02, F55].
func TestRestoreBolt(t *testing.T) {
	path, want := filled(t)
	dir := t.TempDir()
	to := filepath.Join(dir, "sts.db")
	now := time.Now()
	if _, err := RestoreBolt(t.Context(), path, to, now); err != nil {
		t.Fatal(err)
	}
	has(t, to, want)
	alone(t, dir, 1)
	b, err := OpenBolt(to, BoltOptions{})
	must(t, err)
	at, err := NewStore(b).Restored(t.Context())
	if err != nil || at.Before(now) || at.After(now.Add(2*time.Second)) {
		t.Errorf("restored at %v, %v", at, err)
	}
	if begins, err := NewStore(b).Begins(t.Context()); err != nil || !begins.Equal(at) {
		t.Errorf("its memory begins at %v, %v", begins, err)
	}
	put(t, b, restoredKey, "soon")
	if _, err := NewStore(b).Restored(t.Context()); err == nil {
		t.Error("a record that cannot be read was taken for none")
	}
	must(t, b.Close())
	if _, err := RestoreBolt(t.Context(), path, to, now); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("over another file: %v", err)
	}
	has(t, path, want) // and was not touched
	b, err = OpenBolt(path, BoltOptions{})
	must(t, err)
	defer b.Close()
	if at, err := NewStore(b).Restored(t.Context()); err != nil || !at.IsZero() {
		t.Errorf("the backup: restored at %v, %v", at, err)
	}
	if _, err := RestoreBolt(t.Context(), path, filepath.Join(dir, "other"), now); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("from a store in use: %v", err)
	}
}

// TestBoltFormat2 opens what the program before this one has written [B-03].
func TestBoltFormat2(t *testing.T) {
	path := gunzipped(t, "testdata/format2.db.gz")
	content, err := os.ReadFile(path)
	must(t, err)
	info, err := VerifyBolt(path)
	if err != nil || info.Format != 2 || info.Entries != 42 {
		t.Fatalf("%+v, %v", info, err)
	}
	if unchanged, err := os.ReadFile(path); err != nil || !bytes.Equal(unchanged, content) {
		t.Error("verifying has changed the file")
	}
	for round := range 2 {
		b, err := OpenBolt(path, BoltOptions{})
		must(t, err)
		list, revision, err := b.List(t.Context(), "", "", 0)
		if err != nil || len(list) != 42 || revision != info.Revision {
			t.Fatalf("round %d: %d entries at %d, %v", round, len(list), revision, err)
		}
		for _, e := range list {
			n := strings.TrimPrefix(e.Key, "resource/Audience/")
			if n != e.Key && (string(e.Value) != `{"audience":{"name":"`+n+`"}}` || e.Revision < 1 || e.Revision > 40 || !e.Expires.IsZero()) {
				t.Errorf("%+v", e)
			}
		}
		if e, err := b.Get(t.Context(), "empty"); err != nil || e.Value == nil || len(e.Value) != 0 {
			t.Errorf("%+v, %v", e, err)
		}
		must(t, b.Close())
	}
	if info, err := VerifyBolt(path); err != nil || info.Format != boltFormat {
		t.Errorf("%+v, %v", info, err)
	}
	// One byte of an entry is not as it was: the sum of format 2 is checked too.
	at := bytes.Index(content, []byte(`"a03"`))
	content[at+1] ^= 1
	must(t, os.WriteFile(path, content, 0o600))
	refuses(t, path, "not as they were written")
}

// TestBoltFormat3 opens what this format was when it was made.
func TestBoltFormat3(t *testing.T) {
	path := gunzipped(t, "testdata/format3.db.gz")
	long := time.Date(2400, 1, 1, 0, 0, 0, 0, time.UTC)
	b, err := OpenBolt(path, BoltOptions{})
	must(t, err)
	defer b.Close()
	list, revision, err := b.List(t.Context(), "", "", 0)
	want := []Entry{{"a", []byte("1"), 1, time.Time{}}, {"b", []byte{}, 2, time.Time{}}, {"c", []byte("3"), 3, long}}
	if err != nil || revision != 4 || !slices.EqualFunc(list, want, equalEntries) {
		t.Errorf("%+v at %d, %v", list, revision, err)
	}
}

func gunzipped(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Open(name)
	must(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	must(t, err)
	content, err := io.ReadAll(z)
	must(t, err)
	path := filepath.Join(t.TempDir(), "sts.db")
	must(t, os.WriteFile(path, content, 0o600))
	return path
}

func TestCopy(t *testing.T) {
	path, want := filled(t)
	from, err := OpenBolt(path, BoltOptions{})
	must(t, err)
	defer from.Close()
	to, _ := newBolt(t)
	n, err := Copy(t.Context(), from, to)
	if err != nil || n != len(want) {
		t.Fatalf("%d entries of %d, %v", n, len(want), err)
	}
	got, _, err := to.List(t.Context(), "", "", 0)
	same := func(a, b Entry) bool { a.Revision, b.Revision = 0, 0; return equalEntries(a, b) }
	if err != nil || !slices.EqualFunc(got, want, same) {
		t.Errorf("%d entries, %v", len(got), err)
	}
	if _, err := Copy(t.Context(), from, to); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("to a store that has something: %v", err)
	}
	for name, op := range map[string]Op{
		"value":   {Key: "k/160", Value: []byte("x")},
		"expiry":  {Key: want[0].Key, Value: want[0].Value, Expires: time.Now().Add(500 * time.Hour)},
		"missing": {Key: "k/160", Delete: true},
		"more":    {Key: "z"},
		"less":    {Key: "k/199", Delete: true},
	} {
		other, _ := newBolt(t)
		kv := &changing{KV: other, op: op}
		if _, err := Copy(t.Context(), from, kv); err == nil || !strings.Contains(err.Error(), "is not as the store") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// changing is a store that somebody else writes before it is read back.
type changing struct {
	KV
	op    Op
	reads int
}

func (c *changing) List(ctx context.Context, prefix, after string, limit int) ([]Entry, int64, error) {
	if c.reads++; c.reads == 2 {
		if _, _, err := c.Txn(ctx, nil, []Op{c.op}); err != nil {
			return nil, 0, err
		}
	}
	return c.KV.List(ctx, prefix, after, limit)
}

// TestMove: what was used once may be known at the old place only.
func TestMove(t *testing.T) {
	path, want := filled(t)
	from, err := OpenBolt(path, BoltOptions{})
	must(t, err)
	defer from.Close()
	to, _ := newBolt(t)
	now := time.Now()
	if n, err := Move(t.Context(), from, to, now); err != nil || n != len(want) {
		t.Fatal(n, err)
	}
	begins, err := NewStore(to).Begins(t.Context())
	restored, err2 := NewStore(to).Restored(t.Context())
	if err != nil || err2 != nil || begins.Before(now) || begins.After(now.Add(2*time.Second)) || !restored.IsZero() {
		t.Errorf("it begins at %v, %v; restored at %v, %v", begins, err, restored, err2)
	}
	// A journal that was left here by an earlier life does not know better.
	journal := filepath.Join(t.TempDir(), "replay")
	old, err := OpenReplay(journal, ReplayOptions{New: true})
	must(t, err)
	must(t, old.Close())
	r, err := OpenReplay(journal, ReplayOptions{Begins: begins})
	must(t, err)
	defer r.Close()
	if ok, err := r.Use(t.Context(), "assertion", "a", now.Add(-time.Minute), now.Add(time.Hour)); ok || err == nil {
		t.Errorf("made before the move: %v, %v", ok, err)
	}
	if ok, err := r.Use(t.Context(), "assertion", "a", begins.Add(time.Second), now.Add(time.Hour)); !ok || err != nil {
		t.Errorf("made after it: %v, %v", ok, err)
	}
}

// failing fails at its nth transaction.
type failing struct {
	KV
	left int
}

func (f *failing) Txn(ctx context.Context, compare []Compare, ops []Op) (int64, bool, error) {
	if f.left--; f.left < 0 {
		return 0, false, errors.New("it broke")
	}
	return f.KV.Txn(ctx, compare, ops)
}

// TestMoveUnfinished: what a move that ended half way leaves behind is no store,
// which would lack revocations. Nor is what holds nothing one to move.
func TestMoveUnfinished(t *testing.T) {
	path, _ := filled(t)
	from, err := OpenBolt(path, BoltOptions{})
	must(t, err)
	defer from.Close()
	for left := range 3 {
		to, path := newBolt(t)
		if _, err := Move(t.Context(), from, &failing{to, left}, time.Now()); err == nil {
			t.Fatalf("moved with %d transactions", left)
		}
		if left == 0 {
			continue // nothing was begun
		}
		if _, err := NewStore(to).Begins(t.Context()); !errors.Is(err, ErrUnfinished) {
			t.Errorf("a part of a store, after %d transactions: %v", left, err)
		}
		other, _ := newBolt(t)
		if _, err := Move(t.Context(), to, other, time.Now()); !errors.Is(err, ErrUnfinished) {
			t.Errorf("a part of a store was moved on: %v", err)
		}
		if _, err := Move(t.Context(), from, to, time.Now()); err == nil {
			t.Error("moved into a part of a store")
		}
		must(t, to.Close())
		if _, err := VerifyBolt(path); !errors.Is(err, ErrUnfinished) {
			t.Errorf("a part of a store was verified: %v", err)
		}
	}
	empty, _ := newBolt(t)
	to, _ := newBolt(t)
	if n, err := Move(t.Context(), empty, to, time.Now()); err == nil {
		t.Errorf("%d entries were moved from nowhere", n)
	}
	if left, _, err := to.List(t.Context(), "", "", 0); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestSweeperClock(t *testing.T) { // F38
	start := time.Unix(1_000_000, 0)
	s := sweeper{start: start}
	at := func(wall, passed time.Duration) time.Duration {
		return s.until(start.Add(wall), passed).Sub(start)
	}
	for i, c := range []struct{ wall, passed, want time.Duration }{
		{time.Minute, time.Minute, time.Minute},
		{2*time.Minute + time.Second, 2 * time.Minute, 2 * time.Minute}, // drift
		{-time.Hour, 3 * time.Minute, -time.Hour},                       // put back: entries stay longer
		{2 * time.Hour, 4 * time.Minute, 4 * time.Minute},               // put ahead: not believed
		{2*time.Hour + 50*time.Minute, 54 * time.Minute, 54 * time.Minute},
		{55 * time.Minute, 55 * time.Minute, 55 * time.Minute},                    // put right
		{5 * time.Hour, 60 * time.Minute, 60 * time.Minute},                       // ahead again
		{6*time.Hour + time.Minute, 121 * time.Minute, 6*time.Hour + time.Minute}, // and stays there
		{6*time.Hour + 2*time.Minute, 122 * time.Minute, 6*time.Hour + 2*time.Minute},
	} {
		if got := at(c.wall, c.passed); got != c.want {
			t.Errorf("step %d: swept until %v, not %v", i, got, c.want)
		}
	}
}
