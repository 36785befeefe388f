package storage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/workload-sts/sts/sts"
)

// maxTorn is the longest part of a record that is looked for at the end of a file.
// It is larger than any record that this version writes.
const maxTorn = 8 * sts.MaxRecordSize

// OpenAudit opens the file, made with mode 0600 if it is missing; its directory
// must exist. If a crash tore its last line, that is moved to a file beside it,
// whose name is returned.
//
// The file may be renamed while it is open: records then go on into it under its
// new name.
func OpenAudit(path string) (a *Audit, torn string, err error) {
	f, info, err := openPrivate(path, os.O_CREATE|os.O_APPEND)
	if err != nil {
		return nil, "", fmt.Errorf("opening the audit log: %w", err)
	}
	if info.Size() == 0 {
		err = syncDir(filepath.Dir(path))
	} else {
		torn, err = setAside(f, info.Size(), path)
	}
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("opening the audit log: %w", err), f.Close())
	}
	return newAudit(f), torn, nil
}

// setAside moves what follows the last line break to another file and returns its
// name, empty if nothing does.
func setAside(f *os.File, size int64, path string) (string, error) {
	start := make([]byte, 1)
	if _, err := f.ReadAt(start, 0); err != nil {
		return "", err
	}
	if start[0] != '{' {
		return "", fmt.Errorf("%s does not begin with a record; it is not an audit log", path)
	}
	tail := make([]byte, min(size, maxTorn))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil && err != io.EOF {
		return "", err
	}
	rest := tail[bytes.LastIndexByte(tail, '\n')+1:]
	whole := size - int64(len(rest))
	switch {
	case len(rest) == 0:
		return "", nil
	case len(rest) == len(tail) && whole > 0:
		return "", fmt.Errorf("%s has no line break in its last %d bytes; it is not an audit log", path, maxTorn)
	}
	torn, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".torn-*") // has mode 0600
	if err != nil {
		return "", err
	}
	_, err = torn.Write(rest)
	if err := errors.Join(err, torn.Sync(), torn.Close(), syncDir(filepath.Dir(path))); err != nil {
		return "", err
	}
	return torn.Name(), errors.Join(f.Truncate(whole), f.Sync())
}
