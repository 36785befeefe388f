package storage

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/sts"
)

// A line of the audit log is a JSON object that begins with its number, the hash
// of the line before, and what it tells of:
//
//	{"seq":7,"prev":"<SHA-256 in hex>","event":"token",…}
//
// The hash is that of the bytes of the line as they stand in the file, line break
// included, so there is no second form of a line to agree on, and a shell can check
// it: `sed -n 6p audit.jsonl | sha256sum` is the prev of line 7. The first line of
// a chain has number 1 and a prev of zeros.
const (
	lineSeq   = `{"seq":`
	linePrev  = `,"prev":"`
	lineEvent = `","event":"`
)

// auditFormat is the version of this format, which each file names.
const auditFormat = 1

// maxChainLine is the longest line: a record, and what the chain adds.
const maxChainLine = sts.MaxRecordSize + 256

type lineHash [sha256.Size]byte

func (h lineHash) String() string { return hex.EncodeToString(h[:]) }

func parseLineHash(s []byte) (h lineHash, ok bool) {
	if len(s) != 2*len(h) || bytes.ContainsAny(s, "ABCDEF") {
		return h, false
	}
	_, err := hex.Decode(h[:], s)
	return h, err == nil
}

// chainHead is where a chain has come to.
type chainHead struct {
	chain string // its random name
	seq   int64  // of the last line
	hash  lineHash
}

// link appends a line to buf: body, which begins with its event and ends with a
// line break, in its place in the chain. It returns the next head.
func (h chainHead) link(buf, body []byte) ([]byte, chainHead) {
	start := len(buf)
	buf = append(buf, lineSeq...)
	buf = strconv.AppendInt(buf, h.seq+1, 10)
	buf = append(buf, linePrev...)
	buf = hex.AppendEncode(buf, h.hash[:])
	buf = append(buf, `",`...)
	buf = append(buf, body[1:]...) // its brace is there already
	return buf, chainHead{h.chain, h.seq + 1, sha256.Sum256(buf[start:])}
}

// chainLine is what the chain says of a line.
type chainLine struct {
	seq   int64
	prev  lineHash
	event sts.Event
	body  []byte // from its event on, without the brace
}

var errNotLine = errors.New(`it does not begin like a line of an audit log: {"seq":NUMBER,"prev":"HASH","event":"NAME"`)

// parseChainLine reads the beginning of a line, exactly as link writes it. The rest
// is not looked at.
func parseChainLine(line []byte) (l chainLine, err error) {
	rest, ok := bytes.CutPrefix(line, []byte(lineSeq))
	digits := 0
	for digits < len(rest) && digits < 19 && rest[digits] >= '0' && rest[digits] <= '9' {
		digits++
	}
	if !ok || digits == 0 || rest[0] == '0' {
		return l, errNotLine
	}
	if l.seq, err = strconv.ParseInt(string(rest[:digits]), 10, 64); err != nil {
		return l, errNotLine
	}
	rest, ok = bytes.CutPrefix(rest[digits:], []byte(linePrev))
	if !ok || len(rest) < 2*sha256.Size+len(lineEvent) {
		return l, errNotLine
	}
	if l.prev, ok = parseLineHash(rest[:2*sha256.Size]); !ok {
		return l, errNotLine
	}
	l.body = rest[2*sha256.Size+len(`",`):]
	rest, ok = bytes.CutPrefix(rest[2*sha256.Size:], []byte(lineEvent))
	end := bytes.IndexByte(rest, '"')
	if !ok || end <= 0 || end > 32 {
		return l, errNotLine
	}
	l.event = sts.Event(rest[:end])
	return l, nil
}

// The lines by which the log tells of itself.
type (
	// fileLine is the first line of a file.
	fileLine struct {
		Event  sts.Event `json:"event"`
		Time   time.Time `json:"time"`
		Chain  string    `json:"chain"`
		First  int64     `json:"first"` // the number of this line
		Format int       `json:"format"`
	}
	// keyLine has the public half of a key that checkpoints, and tokens, are signed
	// with.
	keyLine struct {
		Event sts.Event `json:"event"`
		Time  time.Time `json:"time"`
		JWK   jose.Key  `json:"jwk"`
	}
	// checkpointLine is a Checkpoint, signed.
	checkpointLine struct {
		Event  sts.Event `json:"event"`
		Time   time.Time `json:"time"`
		Covers int64     `json:"covers"`
		JWS    string    `json:"jws"`
	}
	// tornLine says what was at the end of a file after a crash.
	tornLine struct {
		Event  sts.Event `json:"event"`
		Time   time.Time `json:"time"`
		File   string    `json:"file"` // where it is now
		Bytes  int64     `json:"bytes"`
		SHA256 string    `json:"sha256"`
	}
	// beginLine says that the store did not know the chain: it is new, or was put
	// here.
	beginLine struct {
		Event  sts.Event `json:"event"`
		Time   time.Time `json:"time"`
		Chain  string    `json:"chain"`
		Found  int64     `json:"found"`            // the number of the last line, when it was found
		Before string    `json:"before,omitempty"` // the chain that this node had before
		JWS    string    `json:"jws,omitempty"`    // the last checkpoint of that one
	}
	// droppedLine says what a sink did not get.
	droppedLine struct {
		Event sts.Event `json:"event"`
		Time  time.Time `json:"time"`
		Sink  string    `json:"sink"`
		Count int64     `json:"count"`
		First int64     `json:"first"` // numbers of the lines, others in between may have got there
		Last  int64     `json:"last"`
		Since time.Time `json:"since"`
	}
)

// body is a line of ours before it is in the chain.
func body(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // for a type that is not JSON
	}
	return append(b, '\n')
}

// AuditCheckpointType is the typ of a signed checkpoint: no access token has it, so
// none is ever taken for the other.
const AuditCheckpointType = "sts-audit-checkpoint"

// Checkpoint says what a chain has come to. It is signed by a signing key.
type Checkpoint struct {
	Chain string    `json:"chain"`
	Seq   int64     `json:"seq"`
	Hash  string    `json:"hash"` // of that line, SHA-256 in hex
	Time  time.Time `json:"time"`
}

// How the bodies of lines begin by which the log tells of itself.
var (
	checkpointBegin = []byte(`{"event":"checkpoint"`)
	keyBegin        = []byte(`{"event":"key"`)
)

// line is the line of a checkpoint in the log.
func (c Checkpoint) line(jws string) []byte {
	return body(checkpointLine{Event: sts.EventCheckpoint, Time: c.Time, Covers: c.Seq, JWS: jws})
}

// ParseCheckpoint reads a signed checkpoint without verifying it, and returns which
// key is said to have signed it.
func ParseCheckpoint(jws string) (c Checkpoint, kid string, err error) {
	token, err := jose.Parse(jws)
	if err != nil {
		return c, "", err
	}
	if token.Header.Type != AuditCheckpointType {
		return c, "", fmt.Errorf("it is not a checkpoint: its typ is %q, expected %q", token.Header.Type, AuditCheckpointType)
	}
	if err := json.Unmarshal(token.Payload, &c); err != nil {
		return c, "", fmt.Errorf("reading the checkpoint: %w", err)
	}
	// There is one way to write a checkpoint.
	if again, err := json.Marshal(c); err != nil || !bytes.Equal(again, token.Payload) || c.Seq < 1 {
		return c, "", errors.New("its payload is not that of a checkpoint")
	}
	return c, token.Header.KeyID, nil
}

// verifyCheckpoint tells whether a key signed a checkpoint.
func verifyCheckpoint(jws string, key jose.Key) error {
	token, err := jose.Parse(jws)
	if err != nil {
		return err
	}
	return token.Verify(key)
}
