package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/workload-sts/sts/internal/testserver"
	"github.com/workload-sts/sts/sts"
)

// withoutSync calls f in a thread in which the kernel answers fdatasync with an
// error and syncs nothing.
func withoutSync(t *testing.T, errno syscall.Errno, f func()) {
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		filter := []unix.SockFilter{
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the number of the call
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_FDATASYNC, Jf: 1},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		}
		program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			t.Errorf("no_new_privs: %v", err)
			return
		}
		if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
			t.Errorf("seccomp: %v", err)
			return
		}
		f()
	})
	wg.Wait()
}

// TestBoltSyncFails lets one sync fail. Nothing is acknowledged after it, although
// the next sync would work; opening anew does [F30].
func TestBoltSyncFails(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC, syscall.EDQUOT} {
		t.Run(errno.Error(), func(t *testing.T) {
			b, path := newBolt(t)
			put(t, b, "a", "1")
			failing := &txn{ops: []Op{{Key: "b"}}, finished: make(chan struct{})}
			withoutSync(t, errno, func() { b.write([]*txn{failing}) }) // for writeLoop, which waits
			<-failing.finished
			if !errors.Is(failing.err, ErrFailed) || !errors.Is(failing.err, errno) || failing.done {
				t.Fatalf("the write whose sync failed: %v, %v", failing.done, failing.err)
			}
			for range 3 {
				if _, _, err := b.Txn(t.Context(), nil, []Op{{Key: "c"}}); !errors.Is(err, ErrFailed) {
					t.Fatalf("a write after it: %v", err)
				}
			}
			if err := NewStore(b).Err(); !errors.Is(err, ErrFailed) || !errors.Is(err, errno) {
				t.Errorf("Err is %v", err)
			}
			if e, err := b.Get(t.Context(), "a"); err != nil || string(e.Value) != "1" {
				t.Errorf("reading after it: %v, %v", e, err)
			}
			must(t, b.Close())
			b, err := OpenBolt(path, BoltOptions{})
			must(t, err)
			defer b.Close()
			if _, err := b.Get(t.Context(), "c"); !errors.Is(err, ErrNotFound) {
				t.Errorf("a write that was refused: %v", err)
			}
			put(t, b, "c", "1")
		})
	}
}

// smallDisk mounts a file system in memory.
func smallDisk(t *testing.T, kib int) string {
	t.Helper()
	testserver.NeedsRoot(t, "small disk")
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dk,mode=0700", kib)))
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	})
	return dir
}

// fill takes all the room of a disk; the function that it returns gives it back.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "balloon")
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	return func() { must(t, os.Remove(path)) }
}

// TestBoltDiskFull: writes are refused and leave nothing, reads go on, and it works
// again by itself when there is room [F31].
func TestBoltDiskFull(t *testing.T) {
	dir := smallDisk(t, 1024)
	b, err := OpenBolt(filepath.Join(dir, "sts.db"), BoltOptions{})
	must(t, err)
	defer b.Close()
	put(t, b, "a", "1")
	for round := range 3 {
		free := fill(t, dir)
		refused := 0
		for i := range 20 {
			_, _, err := b.Txn(t.Context(), nil, []Op{{Key: "a", Value: []byte("lost")}, {Key: fmt.Sprint(i), Value: make([]byte, 100_000)}})
			if !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrFailed) {
				t.Fatalf("round %d, write %d on a full disk: %v", round, i, err)
			}
			refused++
			must(t, b.Err())
			if e, err := b.Get(t.Context(), "a"); err != nil || string(e.Value) != "1" {
				t.Fatalf("read on a full disk: %v, %v", e, err)
			}
		}
		free()
		if r := put(t, b, "b", strings.Repeat("2", 100_000)); r != int64(2+round) {
			t.Errorf("revision %d after %d writes that were refused", r, refused)
		}
	}
	must(t, b.Close())
	b, err = OpenBolt(filepath.Join(dir, "sts.db"), BoltOptions{})
	must(t, err)
	defer b.Close()
	if list, revision, err := b.List(t.Context(), "", "", 0); err != nil || len(list) != 2 || revision != 4 {
		t.Errorf("%d entries at revision %d: %v", len(list), revision, err)
	}
}

// TestReadOnly: a file system that cannot be written is a clear error [F33].
func TestReadOnly(t *testing.T) {
	dir := smallDisk(t, 1024)
	store, log := filepath.Join(dir, "sts.db"), filepath.Join(dir, "audit.jsonl")
	b, err := OpenBolt(store, BoltOptions{})
	must(t, err)
	must(t, b.Close())
	a, _, err := OpenAudit(AuditOptions{File: log})
	must(t, err)
	must(t, a.Close())
	must(t, unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	refuses(t, store, "read-only file system")
	refuses(t, filepath.Join(dir, "new.db"), "read-only file system")
	if _, _, err := OpenAudit(AuditOptions{File: log}); !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), log) {
		t.Errorf("audit log: %v", err)
	}
}

// TestAuditDiskFull: no record is taken that does not fit, none is left in half,
// and it works again by itself when there is room [F31].
func TestAuditDiskFull(t *testing.T) {
	dir := smallDisk(t, 256)
	path := filepath.Join(dir, "audit.jsonl")
	a, _, err := OpenAudit(AuditOptions{File: path})
	must(t, err)
	defer a.Close()
	written := 0
	record := func() error {
		err := a.Record(context.Background(), &sts.Record{Event: sts.EventToken, Decision: fmt.Sprint(written), Reason: strings.Repeat("r", 1500)})
		if err == nil {
			written++
		}
		return err
	}
	must(t, record())
	for range 3 {
		free := fill(t, dir)
		for err = record(); err == nil; err = record() {
		}
		for range 10 {
			if err := record(); !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("on a full disk: %v", err)
			}
		}
		if got := decisions(t, path); len(got) != written {
			t.Fatalf("%d records on a full disk, %d were acknowledged", len(got), written)
		}
		free()
		must(t, record())
	}
	must(t, a.Close())
	if got := decisions(t, path); len(got) != written {
		t.Errorf("%d records, %d were acknowledged", len(got), written)
	}
}
