package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/workload-sts/sts/sts"
)

// rotationDue tells whether the next records go into a new file. A file that only
// tells of the log itself is never followed by another, nor is one at the end.
func (a *Audit) rotationDue() bool {
	if !a.tells || a.ending {
		return false
	}
	return a.o.MaxSize > 0 && a.size >= a.o.MaxSize || a.o.MaxAge > 0 && a.o.Now().Sub(a.began) >= a.o.MaxAge
}

// rotate has the next records go into a new file that continues the chain. An error
// leaves the file before in use, unless Err says otherwise.
//
// The new file is made, and durable, under another name before anything is renamed,
// and what is in the old one is durable before. So a crash at any moment leaves
// either the old file in use, or the new one, or none: then opening continues the
// chain from the newest that is full.
func (a *Audit) rotate() error {
	if err := a.flush(); err != nil {
		return err
	}
	head, began := a.head, a.o.Now().UTC()
	line, head := head.link(nil, fileBody(head.chain, head.seq+1, began))
	next, err := a.newFile(line)
	if err != nil {
		return err
	}
	if err := a.renameFiles(next.Name()); err != nil {
		return errors.Join(err, next.Close(), removeIfThere(next.Name()))
	}
	old := a.file
	a.fileMu.Lock()
	a.file = a.o.wrap(next)
	a.fileMu.Unlock()
	a.head, a.size, a.began, a.tells = head, int64(len(line)), began, false
	a.fileFirst.Store(head.seq)
	a.reached.Store(&head)
	a.lastRecord.Store(head.seq)
	// From here on the file before is not the one in use.
	if err := errors.Join(syncDir(filepath.Dir(a.o.File)), old.Close()); err != nil {
		return a.fail(err)
	}
	a.metrics.rotations.Add(1)
	for _, s := range a.sinks {
		s.offer(line)
	}
	if a.checkpoint != nil {
		a.checkpoint.poke()
	}
	if err := a.removeOld(); err != nil {
		a.o.Log.Error("a file of the audit log that is to be removed cannot be", "error", err.Error())
	}
	return nil
}

func fileBody(chain string, first int64, now time.Time) []byte {
	return body(fileLine{Event: sts.EventFile, Time: now.UTC(), Chain: chain, First: first, Format: auditFormat})
}

const newFileSuffix = ".new-"

// newFile makes a file that is not in use yet, durably.
func (a *Audit) newFile(line []byte) (*os.File, error) {
	temp, err := os.CreateTemp(filepath.Dir(a.o.File), filepath.Base(a.o.File)+newFileSuffix+"*") // has mode 0600
	if err != nil {
		return nil, err
	}
	// CreateTemp cannot open to append.
	f, err := os.OpenFile(temp.Name(), os.O_RDWR|os.O_APPEND, 0)
	if err = errors.Join(err, temp.Close()); err != nil {
		return nil, errors.Join(err, os.Remove(temp.Name()))
	}
	if err = lock(f, f.Name()); err == nil {
		_, err = f.Write(line)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return f, nil
}

// renameFiles gives the file in use the name of one that is full, and next its
// name. One that was moved away by others keeps its new name.
func (a *Audit) renameFiles(next string) error {
	mine, err := a.file.Stat()
	if err != nil {
		return err
	}
	named, err := os.Stat(a.o.File)
	if errors.Is(err, fs.ErrNotExist) {
		return os.Rename(next, a.o.File)
	}
	if err != nil {
		return err
	}
	if !os.SameFile(mine, named) {
		return fmt.Errorf("%s is not the file in use any more, which was moved away; remove it", a.o.File)
	}
	full := fullName(a.o.File, a.fileFirst.Load(), a.began)
	if _, err := os.Lstat(full); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is there already: %v", full, err)
	}
	if err := os.Rename(a.o.File, full); err != nil {
		return err
	}
	if err := os.Rename(next, a.o.File); err != nil {
		if undo := os.Rename(full, a.o.File); undo != nil {
			return a.fail(errors.Join(err, undo))
		}
		return err
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// fullName is the name of a file that is full. The names sort as the lines in the
// files do, and before that of the file in use.
func fullName(path string, first int64, began time.Time) string {
	ext := filepath.Ext(path)
	return fmt.Sprintf("%s-%012d-%s%s", strings.TrimSuffix(path, ext), first, began.UTC().Format("20060102T150405Z"), ext)
}

// fullFiles returns the files that are full, the oldest first.
func fullFiles(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	ext := filepath.Ext(path)
	begin := strings.TrimSuffix(filepath.Base(path), ext) + "-"
	var out []string
	for _, e := range entries {
		middle, ok := strings.CutPrefix(e.Name(), begin)
		if middle, ok2 := strings.CutSuffix(middle, ext); ok && ok2 && isFullName(middle) {
			out = append(out, filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
	slices.Sort(out)
	return out, nil
}

// isFullName tells whether this is a number of a line and a time.
func isFullName(s string) bool {
	number, at, ok := strings.Cut(s, "-")
	_, err := time.Parse("20060102T150405Z", at)
	return ok && err == nil && len(number) >= 12 && strings.Trim(number, "0123456789") == ""
}

// removeOld removes the oldest files that are more than are kept.
func (a *Audit) removeOld() error {
	if a.o.KeepFiles <= 0 {
		return nil
	}
	full, err := fullFiles(a.o.File)
	if err != nil {
		return err
	}
	for len(full) > a.o.KeepFiles {
		if err := os.Remove(full[0]); err != nil {
			return err
		}
		full = full[1:]
	}
	return nil
}
