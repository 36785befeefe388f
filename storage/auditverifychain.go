package storage

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"github.com/workload-sts/sts/sts"
)

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
		if jws := v.Kept[f.Chain]; jws != "" {
			return f.Chain, v.expected(jws)
		}
	}
	return f.Chain, nil
}
