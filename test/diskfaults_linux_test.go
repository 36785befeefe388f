package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/workload-sts/sts/internal/testserver"
)

// TestPowerCut cuts the power of a server under load, again and again: the disk has
// only what was synced. All that was acknowledged is there, nothing is used twice, and
// each token has its record [F28, F29, F30, V2, V3, V5, V6].
func TestPowerCut(t *testing.T) {
	d := newDisk(t, "power cut", 96)
	h := newHistory(t, 0)
	h.durability = "sync"
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
	for range faultsOf(t, 2) {
		time.Sleep(500 * time.Millisecond)
		c := h.probe()
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
	for i := range faultsOf(t, 1) {
		time.Sleep(500 * time.Millisecond)
		c := h.probe()
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
