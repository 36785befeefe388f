package storage

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/sts"
)

// AuditVerifier holds the files of an audit log to be one chain that nobody
// changed. Give it the files in their order, then call Report.
//
// Whoever can write the files, and has no signing key, can do no more than this
// unnoticed: add, change or take away lines after the last checkpoint that counts,
// take away whole files at the beginning, and replace the whole log by an earlier
// state of itself. Against that helps Expect. See docs/audit.md.
type AuditVerifier struct {
	// Keys are trusted from elsewhere. Without any, the first keys of the log are:
	// then a log that was made from nothing is not told from the real one.
	Keys jose.KeySet
	// Expect are signed checkpoints that the log is known to have had.
	Expect []string
	// Kept are those by the name of the chain that has them: only that of the log
	// counts.
	Kept map[string]string

	report AuditReport
	ready  bool
	expect []expectation
	found  map[string]bool // signed checkpoints that are in the log and expected

	head   chainHead
	before []byte // the last line, and where it is
	at     linePlace
	doubt  *doubt // nil: there is none
	hashes []lineHash
	base   int64 // number of the line whose hash is the first of hashes
	keys   map[string]*loggedKey
}

// expectation is a checkpoint that the log must have.
type expectation struct {
	Checkpoint
	jws string
}

// loggedKey is a key that the log has.
type loggedKey struct {
	jose.Key
	seq     int64 // of its line; 0: from elsewhere
	trusted bool
}

type linePlace struct {
	file string
	line int64
}

// AuditReport says what was found.
type AuditReport struct {
	Chain       string    `json:"chain"`
	First       int64     `json:"first"` // number of the first line
	Last        int64     `json:"last"`
	Begins      time.Time `json:"begins"` // the first file
	Bytes       int64     `json:"bytes"`
	Checkpoints int64     `json:"checkpoints"` // that count
	// Covered is the last line that a checkpoint covers that counts, 0 if there is none.
	Covered int64 `json:"covered"`
	// LastCheckpoint is that checkpoint, signed, to be kept elsewhere.
	LastCheckpoint string `json:"last_checkpoint,omitempty"`
	// Stranger is the kid of the last checkpoint after that, if there is one: nothing
	// that is trusted vouches for that key.
	Stranger string `json:"stranger,omitempty"`
	// Closed says that nothing follows what the last checkpoint covers but itself.
	Closed bool `json:"closed"`
	// Pinned says that the keys were trusted from elsewhere.
	Pinned bool `json:"pinned"`
	// LongestGap is how many lines in a row no checkpoint covered until the next
	// did.
	LongestGap int64 `json:"longest_gap"`
	Torn       int64 `json:"torn"`    // times that something was set aside after a crash
	Unknown    int64 `json:"unknown"` // times that the store did not know the chain: it began, or was put there
	Dropped    int64 `json:"dropped"` // lines that a sink did not get
}

// AuditFault is the first line of a log that is not what it must be.
type AuditFault struct {
	File      string `json:"file"`
	Line      int64  `json:"line"` // in the file, from 1
	Seq       int64  `json:"seq"`  // number that the line has or must have
	Problem   string `json:"problem"`
	Presented string `json:"presented,omitempty"`
	Expected  string `json:"expected,omitempty"`
}

func (f *AuditFault) Error() string {
	s := fmt.Sprintf("%s:%d: record %d: %s", f.File, f.Line, f.Seq, f.Problem)
	if f.Expected != "" {
		s += fmt.Sprintf(": presented %s, expected %s", f.Presented, f.Expected)
	}
	return s
}

func (p linePlace) fault(seq int64, problem, presented, expected string) *AuditFault {
	return &AuditFault{File: p.file, Line: p.line, Seq: seq, Problem: problem, Presented: presented, Expected: expected}
}

// start reads what is expected.
func (v *AuditVerifier) start() error {
	if v.ready {
		return nil
	}
	v.keys, v.found = map[string]*loggedKey{}, map[string]bool{}
	for k := range v.Keys.All() {
		v.keys[k.ID] = &loggedKey{Key: k, trusted: true}
		v.report.Pinned = true
	}
	for _, jws := range v.Expect {
		if err := v.expected(jws); err != nil {
			return err
		}
	}
	v.ready = true
	return nil
}

// expected has the log held to a checkpoint.
func (v *AuditVerifier) expected(jws string) error {
	c, kid, err := ParseCheckpoint(jws)
	if k := v.keys[kid]; err == nil && k != nil {
		err = verifyCheckpoint(jws, k.Key)
	}
	if err != nil {
		return fmt.Errorf("the expected checkpoint: %w", err)
	}
	v.expect = append(v.expect, expectation{c, jws})
	return nil
}

// File verifies the next file. An error that is an *AuditFault names the first line
// that is bad, as far as that can be told.
func (v *AuditVerifier) File(name string, r io.Reader) error {
	if err := v.start(); err != nil {
		return err
	}
	lines := newLineReader(r)
	place := linePlace{file: name}
	for {
		line, err := lines.next()
		if errors.Is(err, io.EOF) {
			break
		}
		place.line++
		switch {
		case errors.Is(err, errTornLine) || errors.Is(err, errLongLine):
			if fault := v.broken(); fault != nil {
				return fault
			}
			return place.fault(v.head.seq+1, err.Error(), fmt.Sprintf("%d bytes", len(line)), "a whole line")
		case err != nil:
			return fmt.Errorf("reading %s: %w", name, err)
		}
		if err := v.line(place, line, lines); err != nil {
			return err
		}
	}
	if place.line == 0 {
		return place.fault(v.head.seq+1, "the file is empty", "0 bytes", "a line that begins a file")
	}
	return nil
}

// line takes the next line. rest is what follows, of which the next line may be
// read to find out which of two is bad.
func (v *AuditVerifier) line(place linePlace, line []byte, rest *lineReader) error {
	l, err := parseChainLine(line)
	if err != nil {
		if fault := v.broken(); fault != nil {
			return fault
		}
		return place.fault(v.head.seq+1, err.Error(), shownLine(line), "a line of the log")
	}
	if v.doubt != nil {
		return v.doubt.settle(l, true)
	}
	if fault := v.linked(place, line, l, rest); fault != nil || v.doubt != nil {
		return fault
	}
	head := chainHead{v.head.chain, l.seq, sha256.Sum256(line)}
	if place.line == 1 || l.event == sts.EventFile {
		if head.chain, err = v.begins(place, line, l); err != nil {
			return err
		}
	}
	v.head = head
	v.before, v.at = append(v.before[:0], line...), place
	v.remember(head)
	v.report.Last, v.report.Bytes, v.report.Closed = l.seq, v.report.Bytes+int64(len(line)), false
	for _, c := range v.expect {
		if c.Seq == l.seq && (c.Hash != head.hash.String() || c.Chain != head.chain) {
			return place.fault(l.seq, "it is not what the expected checkpoint says: this record or one before it was changed",
				head.hash.String()+" in chain "+head.chain, c.Hash+" in chain "+c.Chain)
		}
	}
	return v.tells(place, line, l)
}

// tells takes what a line says.
func (v *AuditVerifier) tells(place linePlace, line []byte, l chainLine) error {
	switch l.event {
	case sts.EventKey:
		return v.key(place, line, l)
	case sts.EventCheckpoint:
		return v.checkpoint(place, line, l)
	case sts.EventTorn:
		v.report.Torn++
	case sts.EventBegin:
		v.report.Unknown++
	case sts.EventDropped:
		var d droppedLine
		if json.Unmarshal(line, &d) == nil {
			v.report.Dropped += d.Count
		}
	case sts.EventFile: // see begins
	default:
		if !slices.Contains(sts.RecordEvents, l.event) {
			return place.fault(l.seq, "it tells of something that this program does not know", fmt.Sprintf("event %q", l.event), "one of docs/audit.md")
		}
	}
	return nil
}

// remember keeps the hash of a line until a checkpoint covers it.
func (v *AuditVerifier) remember(h chainHead) {
	if len(v.hashes) == 0 {
		v.base = h.seq
	}
	v.hashes = append(v.hashes, h.hash)
	if extra := len(v.hashes) - 2*maxUncovered; extra > 0 {
		v.hashes = append(v.hashes[:0], v.hashes[extra+maxUncovered:]...)
		v.base += int64(extra + maxUncovered)
	}
}

// Report says what was found when all files were verified.
func (v *AuditVerifier) Report() (AuditReport, error) {
	if err := v.start(); err != nil {
		return v.report, err
	}
	if v.doubt != nil {
		return v.report, v.doubt.settle(chainLine{}, false)
	}
	if fault := v.broken(); fault != nil {
		return v.report, fault
	}
	for _, c := range v.expect {
		switch {
		case c.Seq >= v.report.First && !v.found[c.jws]:
			return v.report, v.at.fault(v.head.seq, "the log does not have the expected checkpoint: it was truncated, or is another",
				fmt.Sprintf("%d as the last record", v.head.seq), fmt.Sprintf("a record after %d with that checkpoint", c.Seq))
		case c.Seq < v.report.First:
			return v.report, fmt.Errorf("the expected checkpoint covers record %d, which is in a file before those that were given", c.Seq)
		}
	}
	if v.report.Pinned && v.report.Covered == 0 {
		return v.report, v.at.fault(v.head.seq, "no checkpoint is signed by one of the keys that were given", "none", "one")
	}
	return v.report, nil
}

// shownLine is the beginning of a line that is not one.
func shownLine(line []byte) string {
	const most = 80
	if len(line) > most {
		return fmt.Sprintf("%q...", line[:most])
	}
	return fmt.Sprintf("%q", line)
}
