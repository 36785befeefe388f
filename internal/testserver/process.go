// Package testserver runs the servers of others for tests: it builds them, each
// from a module of its own, starts them as processes that end with the test, gives
// them certificates, and puts a network in front of them that fails on demand.
package testserver

import (
	"bufio"
	"bytes"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Patience is how long a step of a server may take before the test fails.
const Patience = 30 * time.Second

// Process is a server that runs. It belongs to one goroutine.
type Process struct {
	Ready string // the line that it printed when it served

	cmd    *exec.Cmd
	stdin  io.Closer
	log    *bytes.Buffer // read it only after ended
	lines  chan string   // the first line of its output
	ended  chan struct{}
	paused *Paused // nil: it runs
}

// Run starts a server and waits until it serves; see Await.
func Run(t testing.TB, binary string, args ...string) *Process {
	t.Helper()
	p := Begin(t, binary, args...)
	p.Await(t)
	return p
}

// Begin starts servers that need one another before they serve; see Await. The
// server ends when this process does, or by Kill.
func Begin(t testing.TB, binary string, args ...string) *Process {
	t.Helper()
	return begin(t, exec.Command(binary, args...))
}

// Await waits until a server that was begun has printed a line, which says that it
// serves. One that does not find its port free is begun again for a while.
func (p *Process) Await(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !p.await(t); time.Sleep(100 * time.Millisecond) {
		if log := p.Kill(); !strings.Contains(log, "address already in use") || time.Now().After(deadline) {
			t.Fatalf("%s does not start:\n%s", p.name(), log)
		}
		*p = *begin(t, exec.Command(p.cmd.Path, p.cmd.Args[1:]...))
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
	p := &Process{cmd: cmd, log: &bytes.Buffer{}, lines: make(chan string, 1), ended: make(chan struct{})}
	cmd.Stderr = p.log
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
		reading.Wait()
		cmd.Wait() // it was killed or says in its log why it ended
		close(p.ended)
	}()
	return p
}

// Kill ends the process at once, as SIGKILL does, waits for its end, and returns
// what it wrote to its standard error.
func (p *Process) Kill() string {
	if p.paused != nil {
		p.paused.dismiss()
		p.paused = nil
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
	if p.paused != nil {
		t.Fatalf("%s is paused already", p.name())
	}
	var err error
	if p.paused, err = Pause(p.cmd.Process); err != nil {
		t.Fatalf("%s: %v", p.name(), err)
	}
}

// Resume lets a paused process go on.
func (p *Process) Resume(t testing.TB) {
	t.Helper()
	if p.paused == nil {
		t.Fatalf("%s is not paused", p.name())
	}
	if err := p.paused.Resume(); err != nil {
		t.Fatal(err)
	}
	p.paused = nil
}
