package vaulttest

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A Fault is what a stub does in place of a right answer.
type Fault struct {
	delay    time.Duration
	hang     bool
	reset    bool
	redirect string
	status   int
	errors   []string
	header   http.Header
	write    func(http.ResponseWriter)
	edit     func(map[string]any)
	body     func([]byte) []byte
	sign     func(*signing)
}

// After is the fault, some time later.
func (f Fault) After(d time.Duration) Fault {
	f.delay = d
	return f
}

// Delay answers as it should, some time later.
func Delay(d time.Duration) Fault { return Fault{delay: d} }

// Hang does not answer until the fault is healed; then it answers as it should.
func Hang() Fault { return Fault{hang: true} }

// Reset ends the connection without an answer.
func Reset() Fault { return Fault{reset: true} }

// Status answers with an error, with the words that Vault has for it.
func Status(code int) Fault {
	f := Fault{status: code, errors: []string{"internal error"}}
	switch code {
	case http.StatusForbidden:
		f.errors = []string{"1 error occurred:\n\t* permission denied\n\n"}
	case http.StatusNotFound:
		f.errors = []string{}
	case http.StatusTooManyRequests:
		f.errors = []string{`request path "transit": rate limit quota exceeded`}
	case 472, 473:
		f.errors = []string{} // a secondary for disaster recovery, a standby for reads
	case http.StatusNotImplemented:
		f.errors = []string{"Vault is not initialized"}
	case http.StatusServiceUnavailable:
		f.errors = []string{"Vault is sealed"}
	}
	return f
}

// TooMany is status 429 that says when to come again.
func TooMany(retryAfter time.Duration) Fault {
	f := Status(http.StatusTooManyRequests)
	f.header = http.Header{"Retry-After": {strconv.Itoa(int(retryAfter.Seconds()))}}
	return f
}

// Redirect sends the caller to the same path at another address, as a standby
// does.
func Redirect(base string) Fault { return Fault{redirect: base} }

// Garbage answers 200 with what is not JSON.
func Garbage() Fault {
	return Fault{body: func([]byte) []byte { return []byte("<html>\x00\xff upstream is not well</html>") }}
}

// Truncated answers with the first half of the right answer, as if it were all.
func Truncated() Fault {
	return Fault{body: func(b []byte) []byte { return b[:len(b)/2] }}
}

// Huge answers 200 with JSON of so many bytes.
func Huge(n int) Fault {
	return Fault{write: func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "application/json")
		if _, err := w.Write([]byte(`{"data":{"padding":"`)); err != nil {
			return
		}
		piece := []byte(strings.Repeat("A", 64<<10))
		for ; n > 0; n -= len(piece) {
			if _, err := w.Write(piece[:min(n, len(piece))]); err != nil {
				return // the caller has had enough
			}
		}
		w.Write([]byte(`"}}`))
	}}
}

// Edit changes the right answer before it is sent: "data", "auth" and so on.
// The results of a batch are a []any of map[string]any.
func Edit(f func(answer map[string]any)) Fault { return Fault{edit: f} }

// WrongVersion labels signatures as vault:vN: whatever key made them.
func WrongVersion(n int) Fault { return Fault{sign: func(s *signing) { s.label = n }} }

// SignedBy signs with a version of the key, whatever version was asked for,
// and says so.
func SignedBy(version int) Fault { return Fault{sign: func(s *signing) { s.version = version }} }

// ASN1 marshals signatures for X.509, whatever was asked for.
func ASN1() Fault { return Fault{sign: func(s *signing) { s.jws = false }} }

// OtherInput signs something else than was asked for.
func OtherInput() Fault {
	return Fault{sign: func(s *signing) {
		if len(s.input) == 0 {
			s.input = []byte{0}
		}
		s.input[0] ^= 1
	}}
}

// TruncatedSignature leaves the last byte of a signature out.
func TruncatedSignature() Fault { return Fault{sign: func(s *signing) { s.cut = true }} }

// FailedItem fails one item of a batch, counted from 0, or a single signature.
func FailedItem(i int) Fault {
	return Fault{sign: func(s *signing) {
		if s.item == i {
			s.err = "signature could not be computed"
		}
	}}
}

// injected is a fault at work.
type injected struct {
	Fault
	left   int           // calls that it still meets; negative: all
	healed chan struct{} // closed by Heal and by the next Inject
}

// Inject makes calls of a class meet a fault until it is healed. It replaces
// the fault that the class had.
func (s *Stub) Inject(c Class, f Fault) { s.inject(c, f, -1) }

// InjectTimes makes the next n calls of a class meet a fault.
func (s *Stub) InjectTimes(c Class, n int, f Fault) { s.inject(c, f, n) }

func (s *Stub) inject(c Class, f Fault, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.healLocked(c)
	s.faults[c] = &injected{Fault: f, left: n, healed: make(chan struct{})}
}

// Heal ends the faults of some classes; all faults if none is given.
func (s *Stub) Heal(classes ...Class) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(classes) == 0 {
		for c := range s.faults {
			s.healLocked(c)
		}
	}
	for _, c := range classes {
		s.healLocked(c)
	}
}

func (s *Stub) healLocked(c Class) {
	if f := s.faults[c]; f != nil {
		close(f.healed)
		delete(s.faults, c)
	}
}

// faultFor returns the fault that a call meets, the zero value if none, and
// what is closed when it is healed.
func (s *Stub) faultFor(c Class) (Fault, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range []Class{c, AnyCall} {
		f := s.faults[c]
		if f == nil || f.left == 0 {
			continue
		}
		if f.left > 0 {
			f.left--
		}
		return f.Fault, f.healed
	}
	return Fault{}, nil
}

// hold lets the delay of a fault pass; false if nobody waits for the answer
// any more.
func (s *Stub) hold(r *http.Request, f Fault, healed <-chan struct{}) bool {
	var delay <-chan time.Time
	switch {
	case f.hang:
	case f.delay > 0:
		timer := time.NewTimer(f.delay)
		defer timer.Stop()
		delay, healed = timer.C, nil
	default:
		return true
	}
	select {
	case <-delay:
	case <-healed:
	case <-r.Context().Done():
		return false
	case <-s.served:
		return false
	}
	return true
}
