package storage

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/workload-sts/sts/sts"
)

// maxTail is how much of a file is read when it is opened: more than can be written
// between two syncs.
const maxTail = 64 << 20

// auditTail is where a file ends.
type auditTail struct {
	head    chainHead // its last whole line
	size    int64     // of the whole lines
	rest    int64     // bytes after them
	first   int64     // the number of its first line
	began   time.Time
	covered int64 // what its last checkpoint covers
	record  int64 // the last line that is not a checkpoint

	known keptChain // what the store knows of the chain
}

// readTail finds out where a file ends, and holds its last part to be a chain. What
// a crash, of the process or of the machine, can have left at the end is counted as
// rest; other damage is an error.
func readTail(f *os.File) (auditTail, error) {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return auditTail{}, err
	}
	s := tailReader{f: f, end: info.Size()}
	if err := s.begin(); err != nil || s.tail.rest > 0 {
		return s.tail, err
	}
	if s.end > maxTail {
		if err := s.skip(); err != nil {
			return s.tail, err
		}
	}
	err = s.follow()
	// No line after the last one says that it is what was written.
	if (errors.Is(err, io.EOF) || errors.Is(err, errTornLine)) && s.before != nil && !json.Valid(s.before) {
		s.drop()
		err = errTornLine
	}
	switch {
	case errors.Is(err, io.EOF):
		return s.tail, nil
	case errors.Is(err, errTornLine):
		s.tail.rest = s.end - s.tail.size
		return s.tail, s.explained()
	}
	return s.tail, err
}

// tailReader reads the tail of a file.
type tailReader struct {
	f      *os.File
	end    int64
	tail   auditTail
	lines  *lineReader
	before []byte    // the last line
	last   chainHead // before it
}

var errNotAudit = errors.New("it does not begin with a line of an audit log of this version; give another file, or move this one away")

// begin reads the first line.
func (s *tailReader) begin() error {
	s.lines = newLineReader(io.NewSectionReader(s.f, 0, s.end))
	line, err := s.lines.next()
	torn := errors.Is(err, errTornLine)
	if err != nil && !torn {
		return errNotAudit
	}
	// What a power cut leaves of a file that was being made.
	if torn && (len(line) < len(lineSeq) && string(line) == lineSeq[:len(line)] || line[0] == 0 || string(line[:min(len(line), len(lineSeq))]) == lineSeq) {
		s.tail.rest = s.end
		return nil
	}
	l, err := parseChainLine(line)
	if err != nil || l.event != sts.EventFile {
		return errNotAudit
	}
	var file fileLine
	if err := json.Unmarshal(line, &file); err != nil || file.First != l.seq {
		return errNotAudit
	}
	if file.Format != auditFormat {
		return fmt.Errorf("it has format %d, this program writes format %d; use the program that wrote it or a newer one", file.Format, auditFormat)
	}
	s.tail = auditTail{
		head: chainHead{file.Chain, l.seq, sha256.Sum256(line)}, size: int64(len(line)), first: l.seq, began: file.Time,
		record: l.seq,
	}
	return nil
}

// skip goes to where the last part begins.
func (s *tailReader) skip() error {
	from := s.end - maxTail
	s.lines = newLineReader(io.NewSectionReader(s.f, from, maxTail))
	half, err := s.lines.next()
	if err != nil {
		return errNotAudit
	}
	line, err := s.lines.next()
	if err != nil {
		return errNotAudit
	}
	l, err := parseChainLine(line)
	if err != nil {
		return fmt.Errorf("the line at byte %d is damaged: %w", from+int64(len(half)), err)
	}
	s.tail.head = chainHead{s.tail.head.chain, l.seq, sha256.Sum256(line)}
	s.tail.size, s.tail.record = from+int64(len(half)+len(line)), l.seq
	return nil
}

// follow reads lines as long as they are in the chain. The error is io.EOF,
// errTornLine, or that the file cannot be read.
func (s *tailReader) follow() error {
	for {
		line, err := s.lines.next()
		if errors.Is(err, errLongLine) {
			return errTornLine
		}
		if err != nil {
			return err
		}
		l, err := parseChainLine(line)
		if err != nil {
			return errTornLine
		}
		if l.seq != s.tail.head.seq+1 || l.prev != s.tail.head.hash {
			return errTornLine
		}
		if l.event == sts.EventCheckpoint {
			s.tail.covered = max(s.tail.covered, covers(line))
		} else {
			s.tail.record = l.seq
		}
		s.last, s.before = s.tail.head, append(s.before[:0], line...)
		s.tail.head = chainHead{s.last.chain, l.seq, sha256.Sum256(line)}
		s.tail.size += int64(len(line))
	}
}

// drop takes the last line out.
func (s *tailReader) drop() {
	s.tail.head, s.tail.size = s.last, s.tail.size-int64(len(s.before))
	s.before, s.tail.record = nil, s.tail.head.seq
}

// covers returns what the line of a checkpoint says that it covers, 0 if it does
// not.
func covers(line []byte) int64 {
	var c checkpointLine
	if json.Unmarshal(line, &c) != nil {
		return 0
	}
	return c.Covers
}

// explained returns an error if no crash can have left what follows the whole
// lines.
func (s *tailReader) explained() error {
	lines := newLineReader(io.NewSectionReader(s.f, s.tail.size, s.tail.rest))
	for {
		line, err := lines.next()
		if errors.Is(err, io.EOF) || errors.Is(err, errTornLine) || errors.Is(err, errLongLine) {
			return nil
		}
		if err != nil {
			return err
		}
		if l, err := parseChainLine(line); err == nil && l.event == sts.EventCheckpoint && covers(line) > s.tail.head.seq {
			return fmt.Errorf("record %d, or the one after it, was changed or is missing, and a checkpoint says that it was there: no crash does that; "+
				"look with `stsctl audit verify`, and move the file away to begin a new chain", s.tail.head.seq)
		}
	}
}
