package vaulttest

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Pause stops the process without ending it: connections stay, new ones are
// even accepted, and nobody answers.
func (s *Server) Pause(t testing.TB) {
	t.Helper()
	if s.run == nil || s.run.guard != nil {
		t.Fatal("the Vault server does not run")
	}
	pid := s.run.cmd.Process.Pid
	g, err := newGuard(pid)
	if err != nil {
		t.Fatal(err)
	}
	s.run.guard = g
	if err := s.run.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// The signal is on its way; a request now might still be answered.
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		stat, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "stat"))
		if _, state, _ := bytes.Cut(stat, []byte(") ")); err != nil || bytes.HasPrefix(state, []byte("T")) {
			return // without /proc there is nothing to wait for
		}
		if time.Now().After(deadline) {
			t.Fatal("the Vault server does not stop at SIGSTOP")
		}
	}
}

// Resume lets a paused process go on.
func (s *Server) Resume(t testing.TB) {
	t.Helper()
	if s.run == nil || s.run.guard == nil {
		t.Fatal("the Vault server is not paused")
	}
	s.run.guard.dismiss()
	s.run.guard = nil
	if err := s.run.cmd.Process.Signal(syscall.SIGCONT); err != nil {
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
