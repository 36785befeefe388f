package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// What bbolt writes, in the byte order of the machine: pages with a header of 16
// bytes (id, flags, count, overflow), of which the first two name the tree and
// the list of free pages.
const (
	pageHeader   = 16
	branchPage   = 0x01
	leafPage     = 0x02
	metaPage     = 0x04
	freelistPage = 0x10
	bucketLeaf   = 0x01 // flag of an element whose value is a bucket

	boltMagic   = 0xED0CDAED
	boltVersion = 2
)

// pages checks the pages of a bbolt file.
//
// bbolt has a check of its own. It follows page numbers through mapped memory
// before it knows that they are right, so on a damaged file it can end the
// process or never end; this one reads with bounds, in one pass over the file.
type pages struct {
	file io.ReaderAt
	size uint64 // of a page
	end  uint64 // the first page number that is not in use
	seen []bool // pages that something refers to
}

// checkPages returns an error unless every page of the file is either free or in
// its place in a tree whose keys are in order.
func checkPages(file io.ReaderAt, size int64) error {
	p, root, free, err := readMeta(file, size)
	if err != nil {
		return err
	}
	p.seen[0], p.seen[1] = true, true
	if err := p.freelist(free); err != nil {
		return fmt.Errorf("list of free pages: %w", err)
	}
	if err := p.tree(root, nil, nil); err != nil {
		return err
	}
	for id, seen := range p.seen {
		if !seen {
			return fmt.Errorf("page %d is neither in use nor free", id)
		}
	}
	return nil
}

// readMeta reads the two headers, of which each transaction overwrites the older
// one. Both must be whole: if one is not, it may be the newer one, and what it
// stood for would be lost without a word.
func readMeta(file io.ReaderAt, size int64) (p *pages, root, free uint64, err error) {
	b := make([]byte, pageHeader+64)
	p = &pages{file: file}
	var newest uint64
	for i := range uint64(2) {
		if _, err := file.ReadAt(b, int64(i*p.size)); err != nil {
			return nil, 0, 0, fmt.Errorf("it is cut off: %w", err)
		}
		m := b[pageHeader:]
		hash := fnv.New64a()
		hash.Write(m[:56])
		pageSize := uint64(number32(m[8:]))
		switch {
		case number32(m) != boltMagic || number32(m[4:]) != boltVersion || number64(m[56:]) != hash.Sum64() ||
			number64(b) != i || number16(b[8:]) != metaPage:
			return nil, 0, 0, fmt.Errorf("header %d of 2 is not as it was written", i+1)
		case pageSize < 1<<10 || pageSize > 1<<16 || pageSize&(pageSize-1) != 0 || i == 1 && pageSize != p.size:
			return nil, 0, 0, errors.New("its page size cannot be right")
		}
		p.size = pageSize
		if txid := number64(m[48:]); i == 0 || txid > newest {
			newest, root, free, p.end = txid, number64(m[16:]), number64(m[32:]), number64(m[40:])
		}
	}
	if p.end < 2 || p.end > uint64(size)/p.size {
		return nil, 0, 0, fmt.Errorf("it is cut off: it should have %d pages of %d bytes", p.end, p.size)
	}
	p.seen = make([]bool, p.end)
	return p, root, free, nil
}

// read returns a page, which must be referred to only once.
func (p *pages) read(id uint64) ([]byte, error) {
	if id >= p.end {
		return nil, fmt.Errorf("page %d is beyond the end", id)
	}
	header := make([]byte, pageHeader)
	if _, err := p.file.ReadAt(header, int64(id*p.size)); err != nil {
		return nil, err
	}
	n := 1 + uint64(number32(header[12:]))
	if number64(header) != id || n > p.end-id {
		return nil, fmt.Errorf("page %d is not as it was written", id)
	}
	for i := id; i < id+n; i++ {
		if err := p.mark(i); err != nil {
			return nil, err
		}
	}
	b := make([]byte, n*p.size)
	_, err := p.file.ReadAt(b, int64(id*p.size))
	return b, err
}

func (p *pages) mark(id uint64) error {
	if id >= p.end || p.seen[id] {
		return fmt.Errorf("page %d is referred to twice, or not there", id)
	}
	p.seen[id] = true
	return nil
}

// freelist marks the free pages. If there are too many for the count of the
// header, the first number is the count.
func (p *pages) freelist(id uint64) error {
	b, err := p.read(id)
	if err != nil {
		return err
	}
	if number16(b[8:]) != freelistPage {
		return fmt.Errorf("page %d is something else", id)
	}
	count, ids := uint64(number16(b[10:])), b[pageHeader:]
	if count == 0xFFFF {
		count, ids = number64(ids), ids[8:]
	}
	if count > uint64(len(ids))/8 {
		return fmt.Errorf("%d pages do not fit into it", count)
	}
	for i := range count {
		if err := p.mark(number64(ids[8*i:])); err != nil {
			return err
		}
	}
	return nil
}

// tree checks the pages from one on, whose keys must not be below least, and be
// below limit; nil is no bound.
func (p *pages) tree(id uint64, least, limit []byte) error {
	b, err := p.read(id)
	if err != nil {
		return err
	}
	switch number16(b[8:]) {
	case leafPage:
		if err := p.leaf(b, least, limit); err != nil {
			return fmt.Errorf("page %d: %w", id, err)
		}
		return nil
	case branchPage:
		if err := p.branch(b, least, limit); err != nil {
			return fmt.Errorf("page %d: %w", id, err)
		}
		return nil
	}
	return fmt.Errorf("page %d has no known type", id)
}

func (p *pages) branch(b, least, limit []byte) error {
	type child struct {
		key []byte
		id  uint64
	}
	var children []child
	err := elements(b, func(e []byte) error {
		key, err := cut(e, number32(e), number32(e[4:]))
		children = append(children, child{key, number64(e[8:])})
		return err
	})
	if err != nil {
		return err
	}
	if len(children) == 0 {
		return errors.New("it has no children")
	}
	for i, c := range children {
		end := limit
		if i+1 < len(children) {
			end = children[i+1].key
		}
		if err := inOrder(c.key, least, end); err != nil {
			return err
		}
		if err := p.tree(c.id, c.key, end); err != nil {
			return err
		}
	}
	return nil
}

func (p *pages) leaf(b, least, limit []byte) error {
	var last []byte
	return elements(b, func(e []byte) error {
		flags, pos, keySize, valueSize := number32(e), number32(e[4:]), number32(e[8:]), number32(e[12:])
		both, err := cut(e, pos, uint64(keySize)+uint64(valueSize))
		if err != nil {
			return err
		}
		key, value := both[:keySize], both[keySize:]
		if err := inOrder(key, least, limit); err != nil {
			return err
		}
		if last != nil && bytes.Compare(last, key) >= 0 {
			return errOrder
		}
		last = key
		switch flags {
		case 0:
			return nil
		case bucketLeaf:
			return p.bucket(value)
		}
		return errors.New("an element has no known type")
	})
}

// bucket checks a bucket inside a bucket: the number of its page or, if that is 0,
// the page itself.
func (p *pages) bucket(value []byte) error {
	if len(value) < 16 {
		return errors.New("a bucket is too short")
	}
	if root := number64(value); root != 0 {
		return p.tree(root, nil, nil)
	}
	if page := value[16:]; len(page) >= pageHeader && number16(page[8:]) == leafPage {
		return p.leaf(page, nil, nil)
	}
	return errors.New("a bucket is not as it was written")
}

// elements calls f for what is behind each element header of a page.
func elements(page []byte, f func([]byte) error) error {
	count := int(number16(page[10:]))
	if len(page) < pageHeader+16*count {
		return errors.New("its elements do not fit into it")
	}
	for i := range count {
		if err := f(page[pageHeader+16*i:]); err != nil {
			return err
		}
	}
	return nil
}

func cut[N uint32 | uint64](b []byte, pos uint32, size N) ([]byte, error) {
	if uint64(pos)+uint64(size) > uint64(len(b)) {
		return nil, errors.New("an element does not fit into it")
	}
	return b[pos : uint64(pos)+uint64(size)], nil
}

var errOrder = errors.New("its keys are not in order")

func inOrder(key, least, limit []byte) error {
	if bytes.Compare(key, least) < 0 || limit != nil && bytes.Compare(key, limit) >= 0 {
		return errOrder
	}
	return nil
}

func number16(b []byte) uint16 { return binary.NativeEndian.Uint16(b) }
func number32(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }
func number64(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }
