package storage

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/workload-sts/sts/sts"
)

// auditPrefix + the name of a chain: what the store keeps of the audit log of a
// node, as JSON.
const auditPrefix = "audit/"

const (
	// auditKept is how long a chain is kept that nothing is heard of.
	auditKept = 90 * 24 * time.Hour
	keepEvery = 10 * time.Second // how often a checkpoint is kept at most
	keepTime  = 3 * time.Second  // what that may take
)

// AuditChains implements sts.AuditChains.
func (s *Store) AuditChains(ctx context.Context) ([]sts.AuditChain, error) {
	list, _, err := s.kv.List(ctx, auditPrefix, "", 0)
	if err != nil {
		return nil, fmt.Errorf("reading what is kept of audit logs: %w", err)
	}
	out := make([]sts.AuditChain, 0, len(list))
	for _, e := range list {
		var c sts.AuditChain
		if err := json.Unmarshal(e.Value, &c); err != nil {
			return nil, fmt.Errorf("reading what is kept of audit logs: %s: %w", e.Key, err)
		}
		out = append(out, c)
	}
	return out, nil
}

// keepAuditChain keeps what a chain has come to. It has one writer, the node whose
// log it is.
func (s *Store) keepAuditChain(ctx context.Context, c sts.AuditChain, now time.Time) error {
	value, err := json.Marshal(c)
	if err != nil {
		return err
	}
	_, _, err = s.kv.Txn(ctx, nil, []Op{{Key: auditPrefix + c.Chain, Value: value, Expires: now.Add(auditKept)}})
	return err
}

// keptChain is what the store knows of a log when it is opened.
type keptChain struct {
	sts.AuditChain                 // of the log itself; without a name if the store does not know it
	before         *sts.AuditChain // else the one that this node had before, nil if there was none
}

// knownChain returns what the store knows of a chain. If the log does not have what
// the store keeps, that is an error: what is kept was on the disk before it was kept,
// so no crash explains it.
func (s *Store) knownChain(o AuditOptions, head chainHead) (known keptChain, err error) {
	if s == nil {
		return known, nil
	}
	all, err := s.AuditChains(context.Background())
	if err != nil {
		return known, err
	}
	at := slices.IndexFunc(all, func(c sts.AuditChain) bool { return c.Chain == head.chain })
	if at >= 0 && all[at].Seq > 0 {
		hash, err := hashOfLine(o.File, all[at].Seq)
		switch {
		case errors.Is(err, errLineBefore):
			at = -1 // a store of long ago: nothing tells that this is the log that it knew
		case err != nil && !errors.Is(err, errNoLine):
			return known, err
		case hash.String() != all[at].Hash:
			return known, fmt.Errorf("record %d is missing or is another than the checkpoint says that the store keeps: the log was changed, cut, or put back "+
				"while the server was stopped, which no crash does; look with `stsctl audit verify`, and move all its files away to begin a new chain, which will say so", all[at].Seq)
		}
	}
	if at >= 0 {
		return keptChain{AuditChain: all[at]}, nil
	}
	for i, c := range all {
		if c.Node == o.Node && c.Chain != head.chain && (known.before == nil || c.Heard().After(known.before.Heard())) {
			known.before = &all[i]
		}
	}
	return known, nil
}

var (
	errNoLine     = errors.New("the audit log does not have that record")
	errLineBefore = errors.New("that record is in a file that is gone")
)

// hashOfLine returns the hash of a line of a log by its number.
func hashOfLine(path string, seq int64) (lineHash, error) {
	files, err := fullFiles(path)
	if err != nil {
		return lineHash{}, err
	}
	files = append(files, path)
	for i := len(files) - 1; i >= 0; i-- {
		hash, err := hashInFile(files[i], seq)
		if !errors.Is(err, errLineBefore) {
			return hash, err
		}
	}
	return lineHash{}, errLineBefore
}

// hashInFile looks in one file: first in its last part, since what is looked for is
// mostly there.
func hashInFile(name string, seq int64) (lineHash, error) {
	f, err := os.Open(name)
	if err != nil {
		return lineHash{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return lineHash{}, err
	}
	if info.Size() > maxTail {
		lines := newLineReader(io.NewSectionReader(f, info.Size()-maxTail, maxTail))
		if _, err := lines.next(); err == nil { // it begins inside of a line
			if hash, err := hashFrom(lines, seq); !errors.Is(err, errLineBefore) {
				return hash, err
			}
		}
	}
	return hashFrom(newLineReader(f), seq)
}

func hashFrom(lines *lineReader, seq int64) (lineHash, error) {
	for first := true; ; first = false {
		line, err := lines.next()
		if errors.Is(err, io.EOF) && first {
			return lineHash{}, errLineBefore // of an empty file
		}
		l, bad := parseChainLine(line)
		switch {
		case err != nil || bad != nil:
			return lineHash{}, errNoLine
		case l.seq == seq:
			return sha256.Sum256(line), nil
		case l.seq > seq && first:
			return lineHash{}, errLineBefore
		case l.seq > seq:
			return lineHash{}, errNoLine
		}
	}
}

// tellUnknown records that the store did not know the chain of this log, and has it
// known from now on. In this order: what a crash leaves undone is done at the next
// start.
func (a *Audit) tellUnknown() error {
	if a.o.Store == nil || a.known.Chain != "" {
		return nil
	}
	head, now := *a.reached.Load(), a.o.Now().UTC()
	line := beginLine{Event: sts.EventBegin, Time: now, Chain: head.chain, Found: head.seq}
	if before := a.known.before; before != nil {
		line.Before, line.JWS = before.Chain, before.Checkpoint
		a.o.Log.Warn("the audit log begins a chain that the store does not know; the one before it on this node was another", "chain", head.chain, "records", head.seq,
			"before", line.Before, "before_records", before.Seq)
	}
	if err := a.add(context.Background(), body(line)); err != nil {
		return err
	}
	if err := a.flush(); err != nil {
		return err
	}
	return a.o.Store.keepAuditChain(context.Background(), sts.AuditChain{Chain: head.chain, Node: a.o.Node, Begun: now}, now)
}

// keeper keeps checkpoints in the store, the last one of some seconds. A nil keeper
// does nothing.
type keeper struct {
	a       *Audit
	opened  time.Time      // the log
	next    sts.AuditChain // that is not kept yet; without a name if there is none
	tried   time.Time
	failing bool
}

// offer says what the last checkpoint is.
func (k *keeper) offer(c Checkpoint, jws string) {
	if k != nil {
		k.next = sts.AuditChain{Chain: c.Chain, Node: k.a.o.Node, Checkpoint: jws, Seq: c.Seq, Hash: c.Hash, Time: c.Time}
	}
}

// look keeps it if it is time.
func (k *keeper) look(now time.Time) {
	if k == nil || k.next.Chain == "" {
		return
	}
	if waited := now.Sub(k.tried); waited >= keepEvery || waited < 0 {
		k.tried = now
		k.keep(now)
	}
}

// finish keeps it, at the end.
func (k *keeper) finish() {
	if k != nil && k.next.Chain != "" {
		k.keep(k.a.o.Now())
	}
}

// keep keeps it. That it fails holds up nothing: the next one says more.
func (k *keeper) keep(now time.Time) {
	ctx, cancel := context.WithTimeout(context.Background(), keepTime)
	defer cancel()
	if k.next.Begun = k.a.known.Begun; k.next.Begun.IsZero() {
		k.next.Begun = k.opened
	}
	err := k.a.o.Store.keepAuditChain(ctx, k.next, now)
	if err == nil {
		k.next = sts.AuditChain{}
	} else if !k.failing {
		k.a.o.Log.Warn("the last checkpoint of the audit log cannot be kept in the store; it is tried again", "error", err.Error())
	}
	k.failing = err != nil
}
