package storage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/workload-sts/sts/sts"
)

// What is set aside has the first name until the log says so, on the disk, and the
// second from then on. So a crash in between leaves nothing that is not told.
const (
	asideSuffix = ".aside-"
	tornSuffix  = ".torn-"
)

// setAside moves what follows the whole lines of a file to another one.
func setAside(f *os.File, tail auditTail, path string) error {
	rest := make([]byte, tail.rest)
	if _, err := f.ReadAt(rest, tail.size); err != nil && err != io.EOF {
		return err
	}
	aside, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+asideSuffix+"*") // has mode 0600
	if err != nil {
		return err
	}
	_, err = aside.Write(rest)
	if err := errors.Join(err, aside.Sync(), aside.Close(), syncDir(filepath.Dir(path))); err != nil {
		return err
	}
	return errors.Join(f.Truncate(tail.size), f.Sync())
}

// tellTorn records what was set aside, now or before a crash, and returns the names
// of the files.
func (a *Audit) tellTorn() (string, error) {
	aside, err := filepath.Glob(a.o.File + asideSuffix + "*")
	if err != nil || len(aside) == 0 {
		return "", err
	}
	var names []string
	for _, from := range aside {
		to := strings.Replace(from, asideSuffix, tornSuffix, 1)
		line, err := a.tornLine(from, filepath.Base(to))
		if err == nil {
			err = a.add(context.Background(), body(line))
		}
		if err == nil {
			err = a.flush()
		}
		if err == nil {
			err = os.Rename(from, to)
		}
		if err != nil {
			return "", err
		}
		names = append(names, to)
	}
	return strings.Join(names, ", "), syncDir(filepath.Dir(a.o.File))
}

// tornLine describes what is in a file that gets another name.
func (a *Audit) tornLine(from, name string) (tornLine, error) {
	f, err := os.Open(from)
	if err != nil {
		return tornLine{}, err
	}
	defer f.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	return tornLine{Event: sts.EventTorn, Time: a.o.Now().UTC(), File: name, Bytes: size, SHA256: hex.EncodeToString(sum.Sum(nil))}, err
}
