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

// TestPowerCut cuts the power of a server under load, again and again: the disk has
// only what was synced. All that was acknowledged is there, nothing is used twice, and
// each token has its record [F28, F29, F30, V2, V3, V5, V6].
func TestPowerCut(t *testing.T) {
	d := newDisk(t, "power cut", 96)
	h := newHistory(t, 0)
	s := h.addBolt(d.data(), d.under()...)
	h.run(6)
	time.Sleep(time.Second)
	for i := range faultsOf(t, 10) {
		time.Sleep(time.Duration(100+h.rnd.IntN(400)) * time.Millisecond)
		up := h.log.Down(s.number)
		// At one moment for the server and its disk: a sync that the file system is
		// shut down under may be said to have worked.
		paused, err := testserver.Pause(s.cmd.Process)
		if err != nil {
			t.Fatal(err)
		}
		d.shutdown()
		if i%2 == 0 {
			s.kill(t)
		}
		if err := paused.Resume(); err != nil {
			t.Fatal(err)
		}
		if i%2 != 0 {
			h.awaitEnd(s) // it notices by itself
		}
		d.unmount()
		d.newBoot()
		d.mount()
		h.begin(s)
		up()
	}
	h.end()
}

// awaitEnd waits until a server has ended by itself, since it cannot go on.
func (h *history) awaitEnd(s *site) {
	h.t.Helper()
	select {
	case <-s.done:
	case <-time.After(20 * time.Second):
		h.t.Fatalf("server %d goes on without its disk:\n%s", s.number, s.log)
	}
	if code := s.cmd.ProcessState.ExitCode(); code != 1 {
		h.t.Errorf("server %d ended with %d:\n%s", s.number, code, s.log)
	}
}

// TestDiskFull fills the disk of a server under load. What must be written is
// refused, what need not goes on, and all is well again when there is room, without
// a restart [F31, F52, L-07].
func TestDiskFull(t *testing.T) {
	d := newDisk(t, "disk full", 24)
	h := newHistory(t, 0)
	s := h.addBolt(d.data())
	h.run(6)
	c := h.probe()
	for range faultsOf(t, 2) {
		time.Sleep(500 * time.Millisecond)
		free := d.fill()
		h.awaitRefused(s, c)
		h.provesReading(s, c)
		time.Sleep(time.Second)
		free()
		begin := time.Now()
		h.await(s)
		if took := time.Since(begin); took > 8*time.Second {
			t.Errorf("well %v after there was room again", took)
		}
	}
	h.end()
}

// TestDiskHangs freezes the disk of a server under load. Those who wait are let go
// in time, what need not be written goes on, and all is well again when the disk
// is, without a restart [F32, F52, L-07].
func TestDiskHangs(t *testing.T) {
	d := newDisk(t, "disk hang", 64)
	h := newHistory(t, 0)
	s := h.addBolt(d.data())
	h.run(6)
	c := h.probe()
	for i := range faultsOf(t, 1) {
		time.Sleep(500 * time.Millisecond)
		d.freeze()
		h.provesReading(s, c)
		time.Sleep(time.Duration(3+20*(i%2)) * time.Second)
		d.thaw()
		h.await(s)
	}
	h.end()
}

// probe is a client beside those of the load, with a token of its own.
func (h *history) probe() *loadClient {
	h.t.Helper()
	c := &loadClient{h: h, number: -1, rnd: h.rnd}
	call, body := c.ask(h.sites[0], "/oauth2/token", credentialsForm(), c.secret)
	if call.Status != 200 {
		h.t.Fatalf("%d %s", call.Status, call.Problem)
	}
	c.own, _ = body["access_token"].(string)
	return c
}

// awaitRefused waits until no token is issued any more.
func (h *history) awaitRefused(s *site, c *loadClient) {
	h.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if call := c.issue(s); call.Status == 503 {
			return
		} else if h.log.Add(call); time.Now().After(deadline) {
			h.t.Fatalf("tokens are issued that cannot be recorded: %d", call.Status)
		}
	}
}

// provesReading holds a server to what it can do although nothing can be written:
// say that a token is active, publish its keys, be alive.
func (h *history) provesReading(s *site, c *loadClient) {
	h.t.Helper()
	begin := time.Now()
	for range 5 {
		call, body := c.ask(s, "/oauth2/introspect", map[string][]string{"token": {c.own}}, c.secret)
		if call.Status != 200 || body["active"] != true {
			h.t.Errorf("introspection while nothing can be written: %d %v", call.Status, body)
		}
		if set := getRaw(h.t, s.url+"/.well-known/jwks.json"); !strings.Contains(set, `"kid"`) {
			h.t.Errorf("key set while nothing can be written: %s", set)
		}
		getRaw(h.t, s.url+"/healthz/live")
	}
	if took := time.Since(begin); took > 5*time.Second {
		h.t.Errorf("reading took %v while nothing can be written", took)
	}
}

// TestReadOnlyDisk starts a server whose disk cannot be written: it says so, and
// which file [F33].
func TestReadOnlyDisk(t *testing.T) {
	d := newDisk(t, "read-only disk", 64)
	dir := d.data()
	startDev(t, dir).kill(t)
	d.do("mount", "-o", "remount,ro", d.dir)
	out, stderr, code := command(t, os.Environ(), "", filepath.Join(bin, "stsd"), "serve", "--dev", "--data", dir, "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
	if code != 1 || !strings.Contains(stderr, "read-only file system") || !strings.Contains(stderr, dir) {
		t.Errorf("%d %s%s", code, out, stderr)
	}
	d.do("mount", "-o", "remount,rw", d.dir)
	n := startDev(t, dir)
	if r := n.token(t, credentialsGrant(n)); r.status != 200 {
		t.Errorf("when it can be written again: %d %s", r.status, r.raw)
	}
}
