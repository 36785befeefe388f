package storage

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// OpenAudit opens an audit log to go on in it. A file that is missing is made with
// mode 0600: it continues the chain of the newest that is full, and begins a chain
// if there is none.
//
// What a crash left that is not whole is moved to a file beside it, whose name is
// returned; the log says so. Damage that a crash does not explain, because a
// checkpoint after it says that it was on the disk, is an error.
//
// The file may be renamed while it is open: records then go on into it under its
// new name.
func OpenAudit(o AuditOptions) (a *Audit, torn string, err error) {
	o.defaults()
	f, err := openNamed(o.File, os.O_CREATE|os.O_APPEND)
	if err != nil {
		return nil, "", fmt.Errorf("opening the audit log: %w", err)
	}
	tail, err := continueFile(f, o)
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("opening the audit log %s: %w", o.File, err), f.Close())
	}
	a = newAudit(o, o.wrap(f), tail)
	torn, err = a.tellTorn()
	if err == nil {
		err = a.tellUnknown()
	}
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("opening the audit log %s: %w", o.File, err), a.Close())
	}
	return a, torn, nil
}

// openNamed opens the file that has the name when it is locked: the one before it
// may have been replaced in between.
func openNamed(path string, flag int) (*os.File, error) {
	for {
		f, info, err := openPrivate(path, flag)
		if err != nil {
			return nil, err
		}
		named, err := os.Stat(path)
		if err == nil && os.SameFile(info, named) {
			return f, nil
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
}

// continueFile brings a file to where records can be appended, and says where its
// chain is.
func continueFile(f *os.File, o AuditOptions) (tail auditTail, err error) {
	if err := removeUnfinished(o.File); err != nil {
		return tail, err
	}
	if tail, err = readTail(f); err != nil {
		return tail, err
	}
	end := tail
	if tail.size == 0 {
		// There is no line in it: it goes on where the one before it ends.
		if end, err = lastFull(o.File); err != nil {
			return tail, err
		}
	}
	// Before anything is changed that somebody will want to look at.
	known, err := o.Store.knownChain(o, end.head)
	if err != nil {
		return tail, err
	}
	if tail.rest > 0 {
		if err = setAside(f, tail, o.File); err != nil {
			return tail, err
		}
	}
	if tail.size == 0 {
		tail, err = beginFile(f, o, end)
	}
	tail.known = known
	return tail, err
}

// beginFile writes the first line of a file, which continues the chain of the one
// before.
func beginFile(f *os.File, o AuditOptions, before auditTail) (auditTail, error) {
	now := o.Now().UTC()
	line, head := before.head.link(nil, fileBody(before.head.chain, before.head.seq+1, now))
	_, err := f.Write(line)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = syncDir(filepath.Dir(o.File))
	}
	return auditTail{head: head, size: int64(len(line)), first: head.seq, began: now, covered: before.covered, record: head.seq}, err
}

// removeUnfinished removes what was being made when a process was killed.
func removeUnfinished(path string) error {
	left, err := filepath.Glob(path + newFileSuffix + "*")
	if err != nil {
		return err
	}
	for _, name := range left {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// lastFull returns where the newest file that is full ends, or a new chain.
func lastFull(path string) (auditTail, error) {
	full, err := fullFiles(path)
	if err != nil {
		return auditTail{}, err
	}
	if len(full) == 0 {
		return auditTail{head: chainHead{chain: rand.Text()}}, nil
	}
	name := full[len(full)-1]
	f, err := os.Open(name)
	if err != nil {
		return auditTail{}, err
	}
	defer f.Close()
	tail, err := readTail(f)
	if err == nil && (tail.rest > 0 || tail.size == 0) {
		err = fmt.Errorf("its last line is damaged at byte %d, which no crash explains; move it away to begin a new chain", tail.size)
	}
	if err != nil {
		return auditTail{}, fmt.Errorf("the file before it, %s: %w", name, err)
	}
	return tail, nil
}
