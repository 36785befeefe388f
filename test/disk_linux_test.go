package e2e

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/workload-sts/sts/internal/testserver"
)

// disk is a real file system that can be broken: an ext4 in a file.
type disk struct {
	t     *testing.T
	image string
	dir   string // where it is mounted
	boot  string // file with what stands for the boot id of the machine

	frozen *exec.Cmd // thaws it when this process ends
	guard  io.Closer
}

// newDisk makes a file system and mounts it. The test is skipped, visibly, where
// that cannot be done.
func newDisk(t *testing.T, injector string, mib int) *disk {
	t.Helper()
	testserver.NeedsRoot(t, injector, "mkfs.ext4", "mount", "umount", "losetup", "fsfreeze", "unshare")
	scratch := t.TempDir()
	d := &disk{t: t, image: filepath.Join(scratch, "image"), dir: filepath.Join(scratch, "disk"), boot: filepath.Join(scratch, "boot_id")}
	if err := os.Mkdir(d.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(d.image, nil, 0o600), os.Truncate(d.image, int64(mib)<<20)); err != nil {
		t.Fatal(err)
	}
	d.do("mkfs.ext4", "-q", "-m", "0", d.image)
	d.newBoot()
	d.mount()
	t.Cleanup(func() {
		d.thaw()
		d.unmount()
	})
	return d
}

func (d *disk) do(name string, args ...string) string {
	d.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		d.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (d *disk) mount() {
	d.t.Helper()
	d.do("mount", "-o", "loop", d.image, d.dir)
	if err := os.Chmod(d.dir, 0o700); err != nil {
		d.t.Fatal(err)
	}
}

// unmount returns when nothing of the mounted file system is left: a process that
// was killed may have it for a moment longer.
func (d *disk) unmount() {
	d.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Unmount(d.dir, 0)
		gone := errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) // it is not mounted
		if gone && len(bytes.TrimSpace([]byte(d.do("losetup", "-j", d.image)))) == 0 {
			return
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("the disk cannot be taken off: %v", err)
		}
	}
}

// shutdown stops the file system at once, as if the power went: what it has not
// written is lost, and it answers all with an error from then on.
func (d *disk) shutdown() {
	d.t.Helper()
	const (
		shutdown   = 0x8004587D // EXT4_IOC_SHUTDOWN
		noLogFlush = 2
	)
	f, err := os.Open(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), shutdown, noLogFlush); err != nil {
		d.t.Fatalf("shutting the file system down: %v", err)
	}
}

// freeze lets everything that is written wait. Another process thaws the disk if
// this one dies: who waits for a frozen disk cannot be killed.
func (d *disk) freeze() {
	d.t.Helper()
	d.frozen = exec.Command("sh", "-c", `read _; exec fsfreeze -u "$0"`, d.dir)
	var err error
	if d.guard, err = d.frozen.StdinPipe(); err != nil {
		d.t.Fatal(err)
	}
	if err := d.frozen.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.do("fsfreeze", "-f", d.dir)
}

// thaw ends what freeze began.
func (d *disk) thaw() {
	d.t.Helper()
	if d.frozen == nil {
		return
	}
	d.guard.Close()
	if err := d.frozen.Wait(); err != nil {
		d.t.Errorf("thawing the disk: %v", err)
	}
	d.frozen = nil
}

// fill takes all room of the disk; the function that it returns gives it back.
func (d *disk) fill() (free func()) {
	d.t.Helper()
	path := filepath.Join(d.dir, "balloon")
	f, err := os.Create(path)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			d.t.Fatal(err)
		}
	}
	return func() {
		d.t.Helper()
		if err := os.Remove(path); err != nil {
			d.t.Error(err)
		}
	}
}

// newBoot makes the machine another boot to who runs under [disk.under].
func (d *disk) newBoot() {
	d.t.Helper()
	var b [16]byte
	rand.Read(b[:])
	id := fmt.Sprintf("%x-%x-%x-%x-%x\n", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
	if err := os.WriteFile(d.boot, []byte(id), 0o644); err != nil {
		d.t.Fatal(err)
	}
}

// under is a command that runs another one which believes that the machine has
// been started as newBoot says.
func (d *disk) under() []string {
	return []string{"unshare", "--mount", "sh", "-c", `mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"`, d.boot}
}

// data makes the directory of a server on the disk, durably.
func (d *disk) data() string {
	d.t.Helper()
	dir := filepath.Join(d.dir, "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		d.t.Fatal(err)
	}
	d.do("sync", "-f", dir)
	return dir
}
