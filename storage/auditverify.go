package storage

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

	report AuditReport
	ready  bool
	expect []Checkpoint
	found  map[string]bool // those of Expect that are in the log

	head   chainHead
	before []byte // the last line, and where it is
	at     linePlace
	doubt  *doubt // nil: there is none
	hashes []lineHash
	base   int64 // number of the line whose hash is the first of hashes
	keys   map[string]*loggedKey
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
	// Closed says that nothing follows what the last checkpoint covers but itself.
	Closed bool `json:"closed"`
	// Pinned says that the keys were trusted from elsewhere.
	Pinned bool `json:"pinned"`
	// LongestGap is how many lines in a row no checkpoint covered until the next
	// did.
	LongestGap int64 `json:"longest_gap"`
	Torn       int64 `json:"torn"`    // times that something was set aside after a crash
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
		c, kid, err := ParseCheckpoint(jws)
		if err != nil {
			return fmt.Errorf("the expected checkpoint: %w", err)
		}
		if k := v.keys[kid]; k != nil {
			if err := verifyCheckpoint(jws, k.Key); err != nil {
				return fmt.Errorf("the expected checkpoint: %w", err)
			}
		}
		v.expect = append(v.expect, c)
	}
	v.ready = true
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
	switch l.event {
	case sts.EventToken, sts.EventChange, sts.EventRevoke, sts.EventIntrospect, sts.EventRegister, sts.EventAdmin, sts.EventFile:
	case sts.EventKey:
		return v.key(place, line, l)
	case sts.EventCheckpoint:
		return v.checkpoint(place, line, l)
	case sts.EventTorn:
		v.report.Torn++
	case sts.EventDropped:
		var d droppedLine
		if json.Unmarshal(line, &d) == nil {
			v.report.Dropped += d.Count
		}
	default:
		return place.fault(l.seq, "it tells of something that this program does not know", fmt.Sprintf("event %q", l.event), "one of docs/audit.md")
	}
	return nil
}

// linked tells whether a line follows the one before it, and if not, which of the
// two is bad.
func (v *AuditVerifier) linked(place linePlace, line []byte, l chainLine, rest *lineReader) error {
	if v.before == nil {
		if zero := l.prev == (lineHash{}); zero != (l.seq == 1) {
			return place.fault(l.seq, "its number does not fit the hash of the line before it", l.prev.String(), "zeros for the first record of a chain alone")
		}
		v.report.First = l.seq
		return nil
	}
	if l.seq == v.head.seq+1 && l.prev == v.head.hash {
		return nil
	}
	if fault := v.broken(); fault != nil {
		return fault
	}
	if l.seq != v.head.seq+1 {
		problem := "records are missing, or were put into another order"
		if l.seq <= v.head.seq {
			problem = "a record is there twice, or was put into another order"
		}
		return place.fault(v.head.seq+1, problem, fmt.Sprintf("record %d", l.seq), fmt.Sprintf("record %d", v.head.seq+1))
	}
	d := &doubt{
		before: v.at.fault(v.head.seq, "it was changed", v.head.hash.String(), l.prev.String()+", as the next record has it"),
		this:   place.fault(l.seq, "it was changed: prev is not the hash of the line before", l.prev.String(), v.head.hash.String()),
		seq:    l.seq, hash: sha256.Sum256(line), signed: v.signedAnother(l, line),
	}
	next, err := rest.next()
	if err != nil { // the next file tells, or Report
		v.doubt = d
		return nil
	}
	n, err := parseChainLine(next)
	return d.settle(n, err == nil)
}

// doubt is about two lines of which the second does not fit to the first: one of
// them was changed.
type doubt struct {
	before, this *AuditFault
	seq          int64 // of the second line
	hash         lineHash
	signed       bool // the second line is a checkpoint, and says that the first was another
}

// settle blames the first line if the line after the second fits to that.
func (d *doubt) settle(next chainLine, is bool) error {
	if is && next.seq == d.seq+1 && next.prev == d.hash || !is && d.signed {
		return d.before
	}
	return d.this
}

// signedAnother tells whether a line is a checkpoint that says that the line before
// it was not what it is now.
func (v *AuditVerifier) signedAnother(l chainLine, line []byte) bool {
	var c checkpointLine
	if l.event != sts.EventCheckpoint || json.Unmarshal(line, &c) != nil {
		return false
	}
	point, kid, err := ParseCheckpoint(c.JWS)
	k := v.keys[kid]
	return err == nil && k != nil && verifyCheckpoint(c.JWS, k.Key) == nil && point.Seq == v.head.seq && point.Hash != v.head.hash.String()
}

// broken returns a fault if the last line is not even JSON: then it is the bad one,
// and what follows comes of it.
func (v *AuditVerifier) broken() error {
	if v.before == nil || json.Valid(v.before) {
		return nil
	}
	return v.at.fault(v.head.seq, "it is not one JSON object", shownLine(v.before), "a line of the log")
}

// begins holds the first line of a file to be one, and returns the chain.
func (v *AuditVerifier) begins(place linePlace, line []byte, l chainLine) (string, error) {
	var f fileLine
	err := json.Unmarshal(line, &f)
	switch {
	case place.line != 1 || l.event != sts.EventFile:
		return "", place.fault(l.seq, "a file begins with a record that says so, and no other record does", "event "+string(l.event), "event "+string(sts.EventFile)+" in the first line alone")
	case err != nil || f.Format != auditFormat:
		return "", place.fault(l.seq, "a format that is not known", fmt.Sprint(f.Format), fmt.Sprint(auditFormat))
	case f.First != l.seq:
		return "", place.fault(l.seq, "the number of the record is not the one that it says", fmt.Sprint(l.seq), fmt.Sprint(f.First))
	case v.before != nil && f.Chain != v.head.chain:
		return "", place.fault(l.seq, "another chain begins", f.Chain, v.head.chain)
	case !bytes.Equal(l.body, fileBody(f.Chain, f.First, f.Time)[1:]):
		return "", place.fault(l.seq, "it was changed: it is not written as such a record is", shownLine(line), string(bytes.TrimSpace(fileBody(f.Chain, f.First, f.Time))))
	}
	if v.before == nil {
		v.report.Chain, v.report.Begins = f.Chain, f.Time
	}
	return f.Chain, nil
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
	for i, c := range v.expect {
		switch {
		case c.Seq >= v.report.First && !v.found[v.Expect[i]]:
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
