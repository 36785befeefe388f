package testserver

import (
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestBuildTogether lets several builders, as several test processes would be,
// make one command.
func TestBuildTogether(t *testing.T) {
	module := t.TempDir()
	write(t, filepath.Join(module, "go.mod"), []byte("module example.test/one\n\ngo 1.26\n"))
	write(t, filepath.Join(module, "main.go"), []byte("package main\n\nfunc main() { println(1) }\n"))
	path := filepath.Join(t.TempDir(), "bin", "one")
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if got, err := build(module, path); err != nil || exec.Command(got).Run() != nil {
				t.Errorf("build: %q, %v", got, err)
			}
		})
	}
	all.Wait()
	write(t, filepath.Join(module, "main.go"), []byte("package main\n\nfunc main() { does not compile }\n"))
	if _, err := build(module, path); err == nil || !strings.Contains(err.Error(), "main.go:3") {
		t.Errorf("a build that fails: %v", err)
	}
}

func TestLockWaitsNoLongerThanItsLimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(path, Patience)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(path, 60*time.Millisecond); err == nil {
		t.Error("a lock was taken twice")
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	if unlock, err = lock(path, Patience); err != nil {
		t.Fatal(err)
	}
	unlock()
}
