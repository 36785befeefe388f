package storage

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/workload-sts/sts/sts"
)

// layout says how resources are laid out. It is not stored: a store that was
// written with another one is read just so.
type layout struct {
	page         int // bytes from which a page is split; a resource that has more has one for itself
	most, fewest int // resources in a bucket, on the average, before there are more buckets, or fewer
}

// usualLayout makes pages of about 64 KiB of the resources that there are most of,
// and puts the two bounds far from each other, so that the number of buckets does
// not go up and down with every change.
var usualLayout = layout{page: 128 << 10, most: 128, fewest: 32}

// maxStoredValue is what a transaction has room for beside its keys.
const maxStoredValue = MaxTxnBytes - 4<<10

// page is the resources of a page, in the order of kind and name. They must not be
// changed.
type page []sts.Resource

// bucketOf returns which of a number of buckets a resource is in.
func bucketOf(ref sts.Ref, buckets int) int {
	sum := sha256.Sum256([]byte(string(ref.Kind) + "\x00" + ref.Name))
	return int(binary.BigEndian.Uint64(sum[:8]) & uint64(buckets-1))
}

func powerOfTwo(n int) bool { return n > 0 && n&(n-1) == 0 }

// buckets returns how many a number of resources gets that had some so far.
func (l layout) buckets(resources, buckets int) int {
	for resources > buckets*l.most {
		buckets *= 2
	}
	for buckets > 1 && resources < buckets*l.fewest {
		buckets /= 2
	}
	return buckets
}

func compareResources(a, b sts.Resource) int {
	x, y := a.Ref(), b.Ref()
	return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Name, y.Name))
}

// encoded is a page as it is stored.
type encoded struct {
	hash      string
	data      []byte
	resources page
}

// encode makes the pages of the resources of a bucket, each of which is one line of
// JSON.
func (l layout) encode(resources page) ([]encoded, error) {
	var out []encoded
	var data []byte
	first := 0
	end := func(i int) {
		if i > first {
			sum := sha256.Sum256(data)
			out = append(out, encoded{hex.EncodeToString(sum[:]), data, resources[first:i:i]})
			first, data = i, nil
		}
	}
	for i, r := range resources {
		line, err := json.Marshal(r)
		if err != nil {
			return nil, fmt.Errorf("encoding %s: %w", r.Ref(), err)
		}
		if len(line) > maxStoredValue {
			return nil, fmt.Errorf("%s has %d bytes, at most %d can be stored", r.Ref(), len(line), maxStoredValue)
		}
		if len(data)+len(line) > l.page {
			end(i)
		}
		data = append(append(data, line...), '\n')
	}
	end(len(resources))
	return out, nil
}

// decodePage reads a page, of which it is known by its name what it holds.
func decodePage(hash string, data []byte) (page, error) {
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != hash {
		return nil, fmt.Errorf("the record %q is not what was written: restore the store from a backup", pagePrefix+hash)
	}
	var p page
	for line := range bytes.Lines(data) {
		r, err := decodeResource(line)
		if err != nil {
			return nil, unreadable(pagePrefix+hash, err)
		}
		if n := len(p); n > 0 && compareResources(p[n-1], r) >= 0 {
			return nil, unreadable(pagePrefix+hash, fmt.Errorf("%s is not in order", r.Ref()))
		}
		p = append(p, r)
	}
	return p, nil
}

// bucket returns the pages of a bucket of a manifest, by hash and together.
func (s *Store) bucket(ctx context.Context, m manifest, i int) (pages []page, all page, err error) {
	for _, hash := range m.Buckets[i] {
		p, err := s.page(ctx, hash)
		if err != nil {
			return nil, nil, err
		}
		pages, all = append(pages, p), append(all, p...)
	}
	for n, r := range all {
		if bucketOf(r.Ref(), len(m.Buckets)) != i || n > 0 && compareResources(all[n-1], r) >= 0 {
			return nil, nil, fmt.Errorf("%s is where it does not belong in revision %d; restore the store from a backup", r.Ref(), m.Number)
		}
	}
	return pages, all, nil
}

// errNoPage is what there is to say about a page that is not there, until it is
// known why.
var errNoPage = errors.New("a page is missing; restore the store from a backup")

// page returns a page, from the store if it is not known.
func (s *Store) page(ctx context.Context, hash string) (page, error) {
	s.mu.Lock()
	p, known := s.pages[hash]
	s.mu.Unlock()
	if known {
		return p, nil
	}
	e, err := s.kv.Get(ctx, pagePrefix+hash)
	if errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("%s: %w", hash, errNoPage)
	}
	if err != nil {
		return nil, fmt.Errorf("reading resources: %w", err)
	}
	return decodePage(hash, e.Value)
}

// remember keeps the pages of the revision of a line that is in force, and forgets
// those that no line in force has.
func (s *Store) remember(line sts.Line, m manifest, pages map[string]page) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current[line].Number > m.Number {
		return // someone was faster
	}
	s.current[line] = m
	s.keep(pages)
}

// forget is remember for a line of which no revision is in force.
func (s *Store) forget(line sts.Line) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.current[line]; known {
		delete(s.current, line)
		s.keep(nil)
	}
}

func (s *Store) keep(more map[string]page) {
	kept := map[string]page{}
	for _, m := range s.current {
		for _, bucket := range m.Buckets {
			for _, hash := range bucket {
				// What is known already stays: others compare resources by where they are.
				if p, ok := s.pages[hash]; ok {
					kept[hash] = p
				} else if p, ok := more[hash]; ok {
					kept[hash] = p
				}
			}
		}
	}
	s.pages = kept
}
