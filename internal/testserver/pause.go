package testserver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Paused is a process that was stopped without ending it. Another process wakes
// it when this one dies, since it cannot notice that by itself.
type Paused struct {
	process *os.Process
	guard   *exec.Cmd
	stdin   io.Closer // ends with this process
}

// Pause stops a process, and returns when it stands still.
func Pause(process *os.Process) (*Paused, error) {
	p := &Paused{process: process, guard: exec.Command("sh", "-c", fmt.Sprintf("read _; kill -CONT %d", process.Pid))}
	var err error
	if p.stdin, err = p.guard.StdinPipe(); err != nil {
		return nil, err
	}
	if err := p.guard.Start(); err != nil {
		return nil, err
	}
	if err := process.Signal(syscall.SIGSTOP); err != nil {
		p.dismiss()
		return nil, err
	}
	// The signal is on its way; a request now might still be answered.
	for deadline := time.Now().Add(Patience); ; time.Sleep(time.Millisecond) {
		if still(process.Pid) {
			return p, nil
		}
		if time.Now().After(deadline) {
			return nil, errors.Join(errors.New("it does not stop at SIGSTOP"), p.Resume())
		}
	}
}

// still reports whether all threads of a process stand still: what the kernel was
// doing for them is done. Without /proc nothing is known, and nothing waited for.
func still(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid)) // the pattern is good
	for _, thread := range threads {
		stat, err := os.ReadFile(thread)
		if _, state, _ := bytes.Cut(stat, []byte(") ")); err == nil && !bytes.HasPrefix(state, []byte("T")) {
			return false
		}
	}
	return true
}

// Resume lets the process go on, if it was not killed meanwhile.
func (p *Paused) Resume() error {
	p.dismiss()
	if err := p.process.Signal(syscall.SIGCONT); !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// dismiss ends the guard.
func (p *Paused) dismiss() {
	p.guard.Process.Kill()
	p.guard.Wait() // killed
	p.stdin.Close()
}
