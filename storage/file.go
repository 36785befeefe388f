package storage

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// lockWait is how long another process may hold a file before that is an error.
// A server that is being replaced has this long to let go.
const lockWait = 500 * time.Millisecond

// openPrivate opens a file for this process alone. It refuses what is not a file,
// what others on the machine may read, and what another process holds.
func openPrivate(path string, flag int) (*os.File, os.FileInfo, error) {
	return openLocked(path, os.O_RDWR|flag)
}

func openLocked(path string, flag int) (*os.File, os.FileInfo, error) {
	f, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%s is not a file", path)
	case info.Mode().Perm()&0o077 != 0:
		err = fmt.Errorf("%s can be read or written by others (mode %04o); make it private with `chmod 600 %s`", path, info.Mode().Perm(), path)
	default:
		err = lock(f, path)
	}
	if err == nil {
		info, err = f.Stat() // what the one before may have written last
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info, nil
}

// lock takes the lock that goes away with f.
func lock(f *os.File, path string) error {
	for deadline := time.Now().Add(lockWait); ; time.Sleep(lockWait / 20) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case err != syscall.EWOULDBLOCK && err != syscall.EINTR:
			return fmt.Errorf("locking %s: %w", path, err)
		case time.Now().After(deadline):
			return fmt.Errorf("%s is in use by another process; stop that one first", path)
		}
	}
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
