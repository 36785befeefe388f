package storage

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/workload-sts/sts/jose"
)

// key takes a key that the log has.
func (v *AuditVerifier) key(place linePlace, line []byte, l chainLine) error {
	var k struct {
		keyLine
		JWK json.RawMessage `json:"jwk"`
	}
	if err := json.Unmarshal(line, &k); err != nil {
		return place.fault(l.seq, "it is not the record of a key: "+err.Error(), shownLine(line), "a line of the log")
	}
	set, skipped, err := jose.ParseKeySet(fmt.Appendf(nil, `{"keys":[%s]}`, k.JWK))
	if err != nil || len(skipped) > 0 || set.Len() != 1 {
		return place.fault(l.seq, "it has no key that can be used", shownLine(k.JWK), "a public key")
	}
	for key := range set.All() {
		known := v.keys[key.ID]
		if known == nil {
			v.keys[key.ID] = &loggedKey{Key: key, seq: l.seq, trusted: !v.report.Pinned && v.report.Checkpoints == 0}
			continue
		}
		had, errHad := jose.Thumbprint(known.Public)
		has, errHas := jose.Thumbprint(key.Public)
		if errHad != nil || errHas != nil || had != has {
			return place.fault(l.seq, fmt.Sprintf("another key has the id %q", key.ID), "thumbprint "+has, "thumbprint "+had)
		}
	}
	return nil
}

// checkpoint verifies a checkpoint, and counts it if the key is trusted: from
// elsewhere, or because a checkpoint that counts covers the line by which the key
// came into the log.
func (v *AuditVerifier) checkpoint(place linePlace, line []byte, l chainLine) error {
	var c checkpointLine
	if err := json.Unmarshal(line, &c); err != nil {
		return place.fault(l.seq, "it is not the record of a checkpoint: "+err.Error(), shownLine(line), "a line of the log")
	}
	point, kid, err := ParseCheckpoint(c.JWS)
	if err != nil {
		return place.fault(l.seq, "the checkpoint cannot be read: "+err.Error(), shownLine([]byte(c.JWS)), "a signed checkpoint")
	}
	if !bytes.Equal(l.body, point.line(c.JWS)[1:]) {
		return place.fault(l.seq, "it was changed: it is not what the signed checkpoint in it says", shownLine(l.body), shownLine(point.line(c.JWS)[1:]))
	}
	key := v.keys[kid]
	if key == nil {
		if len(v.keys) == 0 && v.report.First > 1 {
			return nil // the file before has it
		}
		return place.fault(l.seq, "the checkpoint is signed by a key that is not in the log before it", fmt.Sprintf("kid %q", kid), "the kid of a key record, or of a key that was given")
	}
	if err := verifyCheckpoint(c.JWS, key.Key); err != nil {
		return place.fault(l.seq, "the signature of the checkpoint is not good: "+err.Error(), "a signature", "one of key "+kid)
	}
	if point.Chain != v.head.chain {
		return place.fault(l.seq, "the checkpoint is of another chain", point.Chain, v.head.chain)
	}
	if err := v.covered(place, l, point); err != nil {
		return err
	}
	if slices.ContainsFunc(v.expect, func(e expectation) bool { return e.jws == c.JWS }) {
		v.found[c.JWS] = true
	}
	if !key.trusted {
		v.report.Stranger = kid
		return nil
	}
	v.report.Stranger = ""
	v.report.Checkpoints++
	v.report.LongestGap = max(v.report.LongestGap, point.Seq-max(v.report.Covered, v.report.First-1))
	v.report.Covered, v.report.LastCheckpoint = max(v.report.Covered, point.Seq), c.JWS
	v.report.Closed = point.Seq == l.seq-1
	for _, k := range v.keys {
		k.trusted = k.trusted || k.seq > 0 && k.seq <= point.Seq
	}
	if n := point.Seq - v.base; n > 0 {
		v.hashes = append(v.hashes[:0], v.hashes[n:]...)
		v.base = point.Seq
	}
	return nil
}

// covered holds the log to what a checkpoint says of it.
func (v *AuditVerifier) covered(place linePlace, l chainLine, point Checkpoint) error {
	at := point.Seq - v.base
	switch {
	case point.Seq >= l.seq:
		return place.fault(l.seq, "the checkpoint covers records that come after it", fmt.Sprint(point.Seq), fmt.Sprintf("%d at most", l.seq-1))
	case point.Seq < v.report.First:
		return nil // the file before has it
	case at < 0:
		return place.fault(l.seq, "the checkpoint covers less than the one before it, or too little to be told", fmt.Sprint(point.Seq), fmt.Sprintf("%d at least", v.base))
	}
	if had := v.hashes[at].String(); had != point.Hash {
		first := max(v.report.Covered+1, v.report.First)
		return place.fault(first, fmt.Sprintf("this record, or one up to %d, was changed, and the hashes after it were made to fit: the checkpoint in record %d says so", point.Seq, l.seq), had, point.Hash)
	}
	return nil
}
