package storage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/workload-sts/sts/sts"
)

// revokedPrefix + kind + "/" + name: a revocation. Its value is the last second of
// issue that it blocks, or -, and after a space the whole as JSON: a start reads a
// million of the first, and the rest only who lists them.
const revokedPrefix = "revoked/"

// always is the last second of issue of what is revoked whenever it was issued.
const always = math.MaxUint32

// keptLonger is how much longer the store has a revocation than it is needed, by a
// clock that is right: the clock that decides what has expired may have been ahead
// for a while, or be that of another node.
const keptLonger = time.Hour

// revocationPage is how many are read at a time.
const revocationPage = 10_000

// Revocations keeps revocations in a KV, and what a look-up needs of them in
// memory: 20 bytes each, and as much for the map. It implements sts.Revocations.
type Revocations struct {
	kv KV

	mu        sync.RWMutex
	until     map[sts.RevocationName]uint32 // last second of issue that is blocked
	added     map[sts.RevocationName]int64  // revisions of those made here that the watch has not told yet
	revision  int64                         // up to it the watch has told everything
	confirmed time.Time
}

// Revocations reads the revocations of the store. Run keeps them up to date.
func (s *Store) Revocations(ctx context.Context) (*Revocations, error) {
	r := &Revocations{kv: s.kv, added: map[sts.RevocationName]int64{}}
	return r, r.load(ctx)
}

// load reads all there are, and forgets those that are gone.
func (r *Revocations) load(ctx context.Context) error {
	asked := time.Now()
	until := map[sts.RevocationName]uint32{}
	revision, err := inPages(ctx, r.kv, revokedPrefix, revocationPage, func(e Entry) error {
		name, last, err := readRevoked(e)
		if err == nil {
			until[name] = last
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("reading revocations: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if revision < r.revision {
		return fmt.Errorf("the store has gone back from revision %d to %d, as one that was restored from a backup: revocations may be lost, start anew", r.revision, revision)
	}
	for name, at := range r.added {
		if at > revision {
			until[name] = max(until[name], r.until[name])
		} else {
			delete(r.added, name)
		}
	}
	r.until, r.revision, r.confirmed = until, revision, asked
	return nil
}

// Run keeps the revocations up to date until ctx ends.
func (r *Revocations) Run(ctx context.Context) error {
	held := func() int64 {
		r.mu.RLock()
		defer r.mu.RUnlock()
		return r.revision
	}
	keepUp(ctx, r.kv, revokedPrefix, held, r.take, r.load)
	return nil
}

// take takes over what the watch tells.
func (r *Revocations) take(c Changes) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range c.Events {
		name, err := nameOfKey(e.Key)
		if err != nil {
			return err
		}
		if r.added[name] > e.Revision {
			continue // what was made here is newer
		}
		if e.Deleted {
			delete(r.until, name)
			continue
		}
		_, last, err := readRevoked(e.Entry)
		if err != nil {
			return err
		}
		r.until[name] = last
	}
	for name, at := range r.added {
		if at <= c.Revision {
			delete(r.added, name)
		}
	}
	r.revision = c.Revision
	if c.Asked.After(r.confirmed) {
		r.confirmed = c.Asked
	}
	return nil
}

// Revoked implements sts.Revocations.
func (r *Revocations) Revoked(name sts.RevocationName, issued time.Time) bool {
	r.mu.RLock()
	last, ok := r.until[name]
	r.mu.RUnlock()
	return ok && (last == always || issued.Unix() <= int64(last))
}

// Count implements sts.Revocations.
func (r *Revocations) Count() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.until)
}

// Confirmed implements sts.Revocations.
func (r *Revocations) Confirmed() time.Time {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.confirmed
}

// addAttempts bounds how often a revocation is tried after others of its name.
const addAttempts = 16

// Add implements sts.Revocations.
func (r *Revocations) Add(ctx context.Context, v sts.Revocation) (sts.Revocation, error) {
	for range addAttempts {
		done, ok, err := r.tryAdd(ctx, v)
		if ok || err != nil {
			return done, err
		}
	}
	return sts.Revocation{}, fmt.Errorf("other revocations of the same %s kept coming in between", v.Kind)
}

func (r *Revocations) tryAdd(ctx context.Context, v sts.Revocation) (sts.Revocation, bool, error) {
	name := v.Name()
	key := revokedPrefix + string(v.Kind) + "/" + name.String()
	old, err := r.kv.Get(ctx, key)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return v, false, err
	}
	if err == nil {
		before, err := decodeRevocation(old)
		if err != nil {
			return v, false, err
		}
		if asStrict(before, v) {
			// It may have been made elsewhere, and not be known here yet.
			r.force(name, before, old.Revision)
			return before, true, nil
		}
		v = stricter(before, v)
	}
	value, err := json.Marshal(v)
	if err != nil {
		return v, false, fmt.Errorf("encoding a revocation: %w", err)
	}
	value = append(append(appendLast(nil, v), ' '), value...)
	op := Op{Key: key, Value: value}
	if !v.Expires.IsZero() {
		op.Expires = v.Expires.Add(keptLonger)
	}
	revision, done, err := r.kv.Txn(ctx, []Compare{{key, old.Revision}}, []Op{op})
	if err != nil || !done {
		return v, false, err
	}
	r.force(name, v, revision)
	return v, true, nil
}

// force puts a revocation into force here that the store has at a revision.
func (r *Revocations) force(name sts.RevocationName, v sts.Revocation, revision int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if revision > r.revision {
		r.added[name] = max(r.added[name], revision)
		r.until[name] = max(r.until[name], last(v))
	}
}

// asStrict tells whether a revocation that is there says all that another one does.
func asStrict(there, v sts.Revocation) bool {
	return last(there) >= last(v) && (there.Expires.IsZero() || !v.Expires.IsZero() && !v.Expires.After(there.Expires))
}

// stricter is a revocation with the later moments of the two, and who made it last.
func stricter(there, v sts.Revocation) sts.Revocation {
	if last(there) > last(v) {
		v.Before = there.Before
	}
	if there.Expires.IsZero() || !v.Expires.IsZero() && there.Expires.After(v.Expires) {
		v.Expires = there.Expires
	}
	return v
}

// last is the last second of issue that a revocation blocks.
func last(v sts.Revocation) uint32 {
	if v.Before.IsZero() {
		return always
	}
	return uint32(min(max(v.Before.Unix(), 0), always-1))
}

func appendLast(b []byte, v sts.Revocation) []byte {
	if v.Before.IsZero() {
		return append(b, '-')
	}
	return strconv.AppendUint(b, uint64(last(v)), 10)
}

// List implements sts.Revocations.
func (r *Revocations) List(ctx context.Context, kind sts.RevocationKind, after *sts.Revocation, limit int) ([]sts.Revocation, bool, error) {
	prefix, from := revokedPrefix, ""
	if kind != "" {
		prefix += string(kind) + "/"
	}
	if after != nil {
		from = revokedPrefix + string(after.Kind) + "/" + after.Name().String()
	}
	list, _, err := r.kv.List(ctx, prefix, from, limit+1)
	if err != nil {
		return nil, false, fmt.Errorf("reading revocations: %w", err)
	}
	page := make([]sts.Revocation, 0, len(list))
	for _, e := range list[:min(limit, len(list))] {
		v, err := decodeRevocation(e)
		if err != nil {
			return nil, false, err
		}
		page = append(page, v)
	}
	return page, len(list) > limit, nil
}

// readRevoked reads as much of an entry as a look-up needs.
func readRevoked(e Entry) (sts.RevocationName, uint32, error) {
	name, err := nameOfKey(e.Key)
	if err != nil {
		return name, 0, err
	}
	text, _, ok := bytes.Cut(e.Value, []byte{' '})
	if string(text) == "-" {
		return name, always, nil
	}
	n, err := strconv.ParseUint(string(text), 10, 32)
	if err != nil || !ok || n == always {
		return name, 0, badRevocation(e)
	}
	return name, uint32(n), nil
}

func nameOfKey(key string) (sts.RevocationName, error) {
	name, ok := sts.ParseRevocationName(key[strings.LastIndexByte(key, '/')+1:])
	if !ok {
		return name, badRevocation(Entry{Key: key})
	}
	return name, nil
}

// decodeRevocation reads strictly, as a member that is not known might be a
// condition.
func decodeRevocation(e Entry) (sts.Revocation, error) {
	var v sts.Revocation
	_, text, _ := bytes.Cut(e.Value, []byte{' '})
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return v, fmt.Errorf("%w: %w", badRevocation(e), err)
	}
	name, until, err := readRevoked(e)
	if err != nil || name != v.Name() || until != last(v) {
		return v, badRevocation(e)
	}
	return v, nil
}

func badRevocation(e Entry) error {
	return fmt.Errorf("the record %q cannot be read; was it written by a newer version?", e.Key)
}
