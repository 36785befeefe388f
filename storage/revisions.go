package storage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/workload-sts/sts/sts"
)

// How revisions are kept.
//
// A page has the resources of a bucket, that is, those whose kind and name hash to
// it. It is named by its SHA-256 and never changed. A manifest says what is known
// about one revision, and which pages it has. The head says which revisions are in
// force.
//
// A commit reads the head, puts the pages that are new, and then, in one
// transaction that compares the revision of the head's entry with the one it read,
// puts the manifest and moves the head. So however many transactions the pages
// take, a reader sees all of a revision or nothing, and after a crash in between
// there are pages that nothing refers to, no more.
//
// The collector deletes those, and revisions that are not kept any more. Each of
// its transactions compares the head's entry with the one that it read before it
// found out what is referred to, and puts it anew as it was, which gives it another
// revision. Why no page that is needed is ever deleted:
//
//   - A commit that moves the head between the collector's look and its deletion
//     makes that comparison fail, so nothing is deleted.
//   - A commit that moves the head after the deletion has read the head before it,
//     if it put its pages before it; the comparison of the commit fails, it reads
//     the head anew and puts its pages again.
//   - A commit that put its pages after the deletion has put back what it needs.
//     Pages that it does not put are those of the revision it is made from, whose
//     manifest it read after the head; where that one goes, so does the entry of the
//     head that it compares with.
//
// Manifests go before their pages, so one that is there has all of its pages.
const (
	headKey        = "head"
	pagePrefix     = "page/"     // + SHA-256 in hex
	revisionPrefix = "revision/" // + line + "/" + number as 16 hex digits
)

// head says which revision of each line is in force, 0 for none. LastShadow makes
// sure that no number is used twice.
type head struct {
	Live       int64 `json:"live"`
	Shadow     int64 `json:"shadow"`
	LastShadow int64 `json:"last_shadow"`

	entry Entry // revision 0: there is none
}

// of returns the number in force of a line.
func (h head) of(line sts.Line) int64 {
	if line == sts.Shadow {
		return h.Shadow
	}
	return h.Live
}

// moved returns the head with the next number of a line in force.
func (h head) moved(line sts.Line) head {
	if line == sts.Shadow {
		h.LastShadow++
		h.Shadow = h.LastShadow
	} else {
		h.Live++
	}
	return h
}

func (h head) op() (Op, error) {
	value, err := json.Marshal(h)
	return Op{Key: headKey, Value: value}, err
}

// manifest is a revision without its resources.
type manifest struct {
	Format int `json:"format"`
	sts.Revision
	Buckets [][]string `json:"buckets"` // a power of two of them, each with its pages in order
}

const manifestFormat = 1

func manifestKey(p sts.Place) string {
	return fmt.Sprintf("%s%s/%016x", revisionPrefix, p.Line, p.Number)
}

// Store keeps typed records in a KV. It implements sts.Store.
type Store struct {
	kv     KV
	layout layout

	mu      sync.Mutex
	current map[sts.Line]manifest // the newest that was read or written
	pages   map[string]page       // those of current
	doubt   map[string]bool       // put by commits of ours that are not known to have been done
	commits chan struct{}         // wakes the collector
}

// NewStore returns the records of a KV.
func NewStore(kv KV) *Store {
	return &Store{kv: kv, layout: usualLayout, current: map[sts.Line]manifest{}, pages: map[string]page{}, doubt: map[string]bool{}, commits: make(chan struct{}, 1)}
}

// head reads the head. A store of the layout before has none until its resources
// have become revision 1.
func (s *Store) head(ctx context.Context) (head, error) {
	h, err := s.readHead(ctx)
	if err != nil || h.entry.Revision != 0 {
		return h, err
	}
	if err := s.migrate(ctx); err != nil {
		return h, err
	}
	return s.readHead(ctx)
}

func (s *Store) readHead(ctx context.Context) (head, error) {
	e, err := s.kv.Get(ctx, headKey)
	if errors.Is(err, ErrNotFound) {
		return head{}, nil
	}
	if err != nil {
		return head{}, fmt.Errorf("reading which revision is in force: %w", err)
	}
	return decodeHead(e)
}

func decodeHead(e Entry) (head, error) {
	var h head
	if err := strictly(e.Value, &h); err != nil {
		return head{}, unreadable(headKey, err)
	}
	if h.Live < 0 || h.Shadow < 0 || h.Shadow > h.LastShadow {
		return head{}, unreadable(headKey, errors.New("its numbers make no sense"))
	}
	h.entry = e
	return h, nil
}

// manifest reads the manifest of a revision; sts.ErrNoRevision if there is none. h
// is the head as it was read before: what is in force is not read twice.
func (s *Store) manifest(ctx context.Context, p sts.Place, h head) (manifest, error) {
	if p.Number == 0 {
		return manifest{Buckets: [][]string{nil}}, nil
	}
	s.mu.Lock()
	m := s.current[p.Line]
	s.mu.Unlock()
	if p.Number == m.Number && p.Number == h.of(p.Line) {
		return m, nil
	}
	e, err := s.kv.Get(ctx, manifestKey(p))
	if errors.Is(err, ErrNotFound) {
		return manifest{}, sts.ErrNoRevision
	}
	if err != nil {
		return manifest{}, fmt.Errorf("reading revision %d: %w", p.Number, err)
	}
	return decodeManifest(e, p)
}

func decodeManifest(e Entry, p sts.Place) (manifest, error) {
	var m manifest
	if err := strictly(e.Value, &m); err != nil {
		return manifest{}, unreadable(e.Key, err)
	}
	if m.Format != manifestFormat || m.Number != p.Number || !powerOfTwo(len(m.Buckets)) {
		return manifest{}, unreadable(e.Key, errors.New("it holds something else than it should"))
	}
	return m, nil
}

// strictly reads one JSON value: a member that this program does not know might be
// a restriction.
func strictly(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	d.UseNumber()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, more := d.Token(); more != io.EOF {
		return errors.New("something follows it")
	}
	return nil
}

func unreadable(key string, err error) error {
	return fmt.Errorf("the record %q cannot be read: %w; was it written by a newer version?", key, err)
}
