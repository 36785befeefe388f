package storage

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/workload-sts/sts/sts"
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
	tail, aside, err := continueFile(f, o)
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("opening the audit log %s: %w", o.File, err), f.Close())
	}
	a = newAudit(o, o.wrap(f), tail)
	if aside != nil {
		if err := a.add(context.Background(), body(aside)); err != nil {
			return nil, "", errors.Join(fmt.Errorf("opening the audit log %s: %w", o.File, err), a.Close())
		}
		torn = filepath.Join(filepath.Dir(o.File), aside.File)
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
// chain is, and what was set aside.
func continueFile(f *os.File, o AuditOptions) (tail auditTail, aside *tornLine, err error) {
	if err := removeUnfinished(o.File); err != nil {
		return tail, nil, err
	}
	if tail, err = readTail(f); err != nil {
		return tail, nil, err
	}
	if tail.rest > 0 {
		if aside, err = setAside(f, tail, o); err != nil {
			return tail, nil, err
		}
	}
	if tail.size > 0 {
		return tail, aside, nil
	}
	// There is no line in it: it goes on where the one before it ends.
	before, err := lastFull(o.File)
	if err != nil {
		return tail, nil, err
	}
	now := o.Now().UTC()
	line, head := before.head.link(nil, fileBody(before.head.chain, before.head.seq+1, now))
	if _, err = f.Write(line); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = syncDir(filepath.Dir(o.File))
	}
	return auditTail{head: head, size: int64(len(line)), first: head.seq, began: now, covered: before.covered, record: head.seq}, aside, err
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

// setAside moves what follows the whole lines of a file to another one.
func setAside(f *os.File, tail auditTail, o AuditOptions) (*tornLine, error) {
	rest := make([]byte, tail.rest)
	if _, err := f.ReadAt(rest, tail.size); err != nil && err != io.EOF {
		return nil, err
	}
	dir := filepath.Dir(o.File)
	torn, err := os.CreateTemp(dir, filepath.Base(o.File)+".torn-*") // has mode 0600
	if err != nil {
		return nil, err
	}
	_, err = torn.Write(rest)
	if err := errors.Join(err, torn.Sync(), torn.Close(), syncDir(dir)); err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(tail.size), f.Sync()); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(rest)
	return &tornLine{
		Event: sts.EventTorn, Time: o.Now().UTC(), File: filepath.Base(torn.Name()), Bytes: len(rest), SHA256: hex.EncodeToString(sum[:]),
	}, nil
}
