package keys

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/workload-sts/sts/jose"
)

// evidence counts who has fetched which keys: before a key signs, an operator
// wants to see that it has arrived. It is this node's, since its start.
type evidence struct {
	seed maphash.Seed
	mu   sync.Mutex
	by   map[string]*fetches // by kid
}

type fetches struct {
	verifiers map[uint64]struct{} // hashes of who fetched
	total     int64
	last      time.Time
}

// maxVerifiers bounds how many verifiers of one key are told apart.
const maxVerifiers = 10_000

func newEvidence() evidence {
	return evidence{seed: maphash.MakeSeed(), by: map[string]*fetches{}}
}

// Delivered notes that a verifier was given a key set. Who it is, an address say,
// is not kept, only told apart.
func (r *Ring) Delivered(set jose.KeySet, verifier string) {
	r.evidence.add(set, verifier, r.c.Now())
}

func (e *evidence) add(set jose.KeySet, verifier string, now time.Time) {
	who := maphash.String(e.seed, verifier)
	e.mu.Lock()
	defer e.mu.Unlock()
	for key := range set.All() {
		f := e.by[key.ID]
		if f == nil {
			f = &fetches{verifiers: map[uint64]struct{}{}}
			e.by[key.ID] = f
		}
		f.total++
		f.last = now
		if len(f.verifiers) < maxVerifiers {
			f.verifiers[who] = struct{}{}
		}
	}
}

func (e *evidence) of(kid string) (verifiers int, total int64, last time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f := e.by[kid]
	if f == nil {
		return 0, 0, time.Time{}
	}
	return len(f.verifiers), f.total, f.last
}

// keep forgets keys that are not published any more.
func (e *evidence) keep(published jose.KeySet) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for kid := range e.by {
		if _, ok := published.Key(kid); !ok {
			delete(e.by, kid)
		}
	}
}
