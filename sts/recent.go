package sts

import (
	"slices"
	"sync"
)

// recent remembers the latest decisions of this node, to explain them. Denials
// have more room, because nobody asks why something works. It holds no token.
type recent struct {
	mu              sync.Mutex
	byID            map[string]*Record
	denials, grants ring
}

// ring are the ids of records in their order, bounded by what these take.
type ring struct {
	ids   []string
	sizes []int
	bytes int
	most  int
}

// Bounds of what is remembered, in bytes as recordSize estimates them.
const (
	recentDenials = 4 << 20
	recentGrants  = 1 << 20
)

func newRecent() *recent {
	return &recent{byID: map[string]*Record{}, denials: ring{most: recentDenials}, grants: ring{most: recentGrants}}
}

// add remembers a record, and forgets the oldest for it.
func (m *recent) add(r Record) {
	size := recordSize(&r)
	m.mu.Lock()
	defer m.mu.Unlock()
	kind := &m.grants
	if r.Error != "" {
		kind = &m.denials
	}
	m.byID[r.Decision] = &r
	kind.ids, kind.sizes, kind.bytes = append(kind.ids, r.Decision), append(kind.sizes, size), kind.bytes+size
	drop := 0
	for kind.bytes > kind.most && drop < len(kind.ids) {
		delete(m.byID, kind.ids[drop])
		kind.bytes -= kind.sizes[drop]
		drop++
	}
	kind.ids, kind.sizes = kind.ids[drop:], kind.sizes[drop:]
}

func (m *recent) get(id string) (*Record, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.byID[id]
	return r, ok
}

// recordSize estimates what a record takes in memory.
func recordSize(r *Record) int {
	n := 1024 + len(r.Reason)
	for _, list := range [][]string{r.AskedAudiences, r.AskedScopes} {
		for _, s := range list {
			n += len(s) + 16
		}
	}
	for _, w := range r.Reasons {
		n += 80 + len(w.Rule) + len(w.Predicate) + len(w.Presented) + len(w.Expected) + len(w.Hint)
	}
	if t := r.Issued; t != nil {
		for _, s := range slices.Concat(t.Scopes, t.Audiences, t.Rules) {
			n += len(s) + 16
		}
	}
	return n + r.Facts.size()
}

// size estimates how many bytes facts have.
func (f *Facts) size() int {
	if f == nil {
		return 0
	}
	n := len(f.Incomplete) + len(f.Proven.JKT) + len(f.Proven.X5T)
	for _, t := range []*FactsToken{f.Subject, f.Actor} {
		if t == nil {
			continue
		}
		n += 256 + len(t.Issuer) + len(t.Iss) + len(t.Token.Subject) + len(t.ClientID) + len(t.Txn) + len(t.Confirmation.JKT) + len(t.Confirmation.X5T)
		for a := t.Act; a != nil; a = a.Act {
			n += 64 + len(a.Iss) + len(a.Subject) + len(a.ClientID)
		}
		if m := t.MayAct; m != nil {
			n += len(m.Iss) + len(m.Subject) + len(m.ClientID)
		}
		for _, s := range slices.Concat(t.Scopes, t.Audiences, t.Absent) {
			n += len(s) + 16
		}
		for name, v := range t.Claims {
			n += 64 + len(name) + valueSize(v)
		}
	}
	return n
}

func valueSize(v any) int {
	n := 32
	switch v := v.(type) {
	case string:
		n += len(v)
	case []any:
		for _, e := range v {
			n += valueSize(e)
		}
	case map[string]any:
		for name, e := range v {
			n += len(name) + valueSize(e)
		}
	}
	return n
}
