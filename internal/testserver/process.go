// Package testserver runs the servers of others for tests: it builds them, each
// from a module of its own, starts them as processes that end with the test, gives
// them certificates, and puts a network in front of them that fails on demand.
package testserver

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Patience is how long a step of a server may take before the test fails.
const Patience = 30 * time.Second

// Process is a server that runs. It belongs to one goroutine.
type Process struct {
	Ready string // the line that it printed when it served

	cmd   *exec.Cmd
	stdin io.Closer
	log   bytes.Buffer // read it only after ended
	lines chan string  // the first line of its output
	ended chan struct{}
	guard *guard // not nil: paused
}

// Run starts a server and returns when it has printed a line, which says that it
// serves. It ends when this process does, or by Kill. It is tried for a while: a
// port that was free may be in use for a moment.
func Run(t testing.TB, binary string, args ...string) *Process {
	t.Helper()
	for deadline := time.Now().Add(Patience); ; time.Sleep(100 * time.Millisecond) {
		p := begin(t, exec.Command(binary, args...))
		if p.await(t) {
			return p
		}
		if log := p.Kill(); !strings.Contains(log, "address already in use") || time.Now().After(deadline) {
			t.Fatalf("%s does not start:\n%s", filepath.Base(binary), log)
		}
	}
}

// Begin starts servers that need one another before they serve; see Await.
func Begin(t testing.TB, binary string, args ...string) *Process {
	t.Helper()
	return begin(t, exec.Command(binary, args...))
}

// Await waits until a server that was begun serves.
func (p *Process) Await(t testing.TB) {
	t.Helper()
	if !p.await(t) {
		t.Fatalf("%s does not start:\n%s", p.name(), p.Kill())
	}
}

func (p *Process) await(t testing.TB) bool {
	t.Helper()
	select {
	case p.Ready = <-p.lines:
		return true
	case <-p.ended:
		return false
	case <-time.After(Patience):
		t.Fatalf("%s is not ready after %v:\n%s", p.name(), Patience, p.Kill())
		return false
	}
}

func (p *Process) name() string { return filepath.Base(p.cmd.Path) }

// PID returns the id of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

func begin(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{cmd: cmd, lines: make(chan string, 1), ended: make(chan struct{})}
	cmd.Stderr = &p.log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.stdin = stdin
	var reading sync.WaitGroup
	reading.Go(func() {
		lines := bufio.NewScanner(stdout)
		if lines.Scan() {
			p.lines <- lines.Text()
		}
		io.Copy(io.Discard, stdout)
	})
	go func() {
		defer close(p.ended)
		reading.Wait()
		cmd.Wait() // it was killed or says in its log why it ended
	}()
	return p
}

// Kill ends the process at once, as SIGKILL does, waits for its end, and returns
// what it wrote to its standard error.
func (p *Process) Kill() string {
	if p.guard != nil {
		p.guard.dismiss()
		p.guard = nil
	}
	p.cmd.Process.Kill()
	<-p.ended
	p.stdin.Close()
	return p.log.String()
}

// Pause stops the process without ending it: connections stay, new ones are
// even accepted, and nobody answers.
func (p *Process) Pause(t testing.TB) {
	t.Helper()
	if p.guard != nil {
		t.Fatalf("%s is paused already", p.name())
	}
	g, err := newGuard(p.PID())
	if err != nil {
		t.Fatal(err)
	}
	p.guard = g
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// The signal is on its way; a request now might still be answered.
	for deadline := time.Now().Add(Patience); ; time.Sleep(time.Millisecond) {
		stat, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(p.PID()), "stat"))
		if _, state, _ := bytes.Cut(stat, []byte(") ")); err != nil || bytes.HasPrefix(state, []byte("T")) {
			return // without /proc there is nothing to wait for
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not stop at SIGSTOP", p.name())
		}
	}
}

// Resume lets a paused process go on.
func (p *Process) Resume(t testing.TB) {
	t.Helper()
	if p.guard == nil {
		t.Fatalf("%s is not paused", p.name())
	}
	p.guard.dismiss()
	p.guard = nil
	if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

// guard is a process that wakes a paused server when this process dies: the
// server cannot notice that by itself.
type guard struct {
	cmd   *exec.Cmd
	stdin io.Closer // ends with this process
}

func newGuard(pid int) (*guard, error) {
	cmd := exec.Command("sh", "-c", fmt.Sprintf("read _; kill -CONT %d", pid))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	return &guard{cmd: cmd, stdin: stdin}, cmd.Start()
}

func (g *guard) dismiss() {
	g.cmd.Process.Kill()
	g.cmd.Wait() // killed
	g.stdin.Close()
}
