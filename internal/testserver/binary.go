package testserver

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// buildLimit is how long a first build may take: some servers bring hundreds of
// modules.
const buildLimit = 20 * time.Minute

// binaries are those that this process has looked for.
var binaries sync.Map // name → func() (string, error)

// Binary returns the path of a server whose source is the module test/NAME. The
// environment variable STS_NAME names one that is built; without it, this process
// asks the go command once to bring bin/NAME up to date.
func Binary(name string) (string, error) {
	f, _ := binaries.LoadOrStore(name, sync.OnceValues(func() (string, error) { return find(name) }))
	return f.(func() (string, error))()
}

func find(name string) (string, error) {
	variable := "STS_" + strings.ToUpper(name)
	if path := os.Getenv(variable); path != "" {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("%s: %w", variable, err)
		}
		return path, nil
	}
	_, here, _, _ := runtime.Caller(0)
	root := filepath.Dir(filepath.Dir(filepath.Dir(here)))
	module := filepath.Join(root, "test", name)
	if _, err := os.Stat(filepath.Join(module, "go.mod")); err != nil {
		return "", fmt.Errorf("the source of %s is not where this test was compiled; build it and name it in %s: %w", name, variable, err)
	}
	return build(module, filepath.Join(root, "bin", name))
}

// build makes a module's command if it is older than the module's files. Several
// processes may do so at a time: the first builds, the others wait and find
// nothing left to do.
func build(module, path string) (_ string, err error) {
	unlock, err := lock(path+".lock", buildLimit)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return "", err
		}
		unlock, err = lock(path+".lock", buildLimit)
	}
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if upToDate(module, path) {
		return path, nil
	}
	made := path + ".new" // so that what is at path is whole
	cmd := exec.Command("go", "build", "-o", made, ".")
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "GOWORK=off")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("go build in %s: %w\n%s", module, err, out.Bytes())
	}
	return path, os.Rename(made, path)
}

// upToDate compares times as make does. The go command would find out too, but
// it touches what it finds unchanged, and then no result of a test that has
// looked at the command is ever reused. By asking for the time of each file
// here, the test also depends on all of them.
func upToDate(module, path string) bool {
	made, err := os.Stat(path)
	if err != nil {
		return false
	}
	files, err := os.ReadDir(module)
	if err != nil {
		return false
	}
	for _, f := range files {
		source, err := os.Stat(filepath.Join(module, f.Name()))
		if err != nil || source.ModTime().After(made.ModTime()) {
			return false
		}
	}
	return true
}

// lock takes a lock that ends with the process, and returns what gives it back.
func lock(path string, limit time.Duration) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(limit)
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return f.Close, nil
		case err != syscall.EWOULDBLOCK && err != syscall.EINTR:
			return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close())
		case time.Now().After(deadline):
			return nil, errors.Join(fmt.Errorf("%s is still locked after %v: another process builds it", path, limit), f.Close())
		}
		time.Sleep(50 * time.Millisecond)
	}
}
