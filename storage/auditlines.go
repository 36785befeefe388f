package storage

import (
	"bufio"
	"errors"
	"io"
)

// errTornLine says that what is left of a file is not a line.
var errTornLine = errors.New("it has no line break at its end")

var errLongLine = errors.New("it is longer than lines of an audit log are")

// lineReader reads the lines of an audit log.
type lineReader struct{ r *bufio.Reader }

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{bufio.NewReaderSize(r, max(maxChainLine, 1<<20))}
}

// next returns the next line, line break included, until it is called again. After
// the last one the error is io.EOF; with errTornLine comes what is left.
func (l *lineReader) next() ([]byte, error) {
	line, err := l.r.ReadSlice('\n')
	switch {
	case err == nil:
		return line, nil
	case errors.Is(err, bufio.ErrBufferFull):
		return line, errLongLine
	case errors.Is(err, io.EOF) && len(line) > 0:
		return line, errTornLine
	}
	return nil, err
}
