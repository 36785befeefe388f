package vault

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"time"
)

const (
	// spread is over how many calls the signatures that are wanted at a time are
	// spread, if there are as many as worthwhile for each. One call alone leaves
	// cores of Vault idle; each further one costs it about five signatures.
	spread     = 2
	worthwhile = 16

	maxRegroup = 100 * time.Microsecond
)

// round is what one call asks for. It belongs to the goroutine of the call.
type round struct {
	items  []*item
	inputs [][]byte
	epoch  int // of the circuit, when the call began
}

// open starts a call for those who wait. It is called with the lock held.
func (s *Signer) open() {
	s.calls++
	s.done.Go(s.work)
}

// work makes one call after the other until nobody waits.
func (s *Signer) work() {
	var r round
	for s.take(&r) {
		start := time.Now()
		results, err := s.call(s.ctx, r.inputs)
		s.settle(&r, results, err, time.Since(start))
		s.regroup(len(r.items))
	}
}

// take fills a round with those who waited longest. False means that nobody
// waits, and that the call of the caller is over.
func (s *Signer) take(r *round) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	lanes := min(spread, s.limits.Calls)
	share := max(worthwhile, (s.waiting.length+s.sent.length+lanes-1)/lanes)
	r.items, r.inputs, r.epoch = r.items[:0], r.inputs[:0], s.circuit.epoch
	now := time.Now()
	for it := range s.waiting.take() {
		if now.Sub(it.arrived)+s.took > s.limits.Timeout {
			// The answer would come too late for whoever waits.
			s.stats.Refused++
			it.answer <- signResult{Err: &Unavailable{Reason: s.late, RetryAfter: comeBack}}
			continue
		}
		s.sent.push(it)
		r.items, r.inputs = append(r.items, it), append(r.inputs, it.input)
		if len(r.items) == min(share, s.limits.Size) {
			break
		}
	}
	if len(r.items) == 0 {
		s.calls--
		return false
	}
	s.stats.sending(len(r.items))
	if s.waiting.length > 0 && s.calls < lanes {
		s.open()
	}
	return true
}

// call asks Vault. Its time is not that of the callers: they may leave, and a
// call that was cut short for one of them would count against Vault. It is not
// made twice: an answer would be the same, and a connection that turns out to be
// closed before anything was sent is replaced below.
func (s *Signer) call(ctx context.Context, inputs [][]byte) ([]signResult, error) {
	ctx, cancel := context.WithTimeout(ctx, s.limits.Timeout)
	defer cancel()
	results, err := s.sign(ctx, signRequest{Version: s.version, Algorithm: s.alg, Inputs: inputs})
	_, known := errors.AsType[*Error](err)
	switch {
	case err == nil && len(results) != len(inputs):
		err = &Error{Kind: Garbage, Err: fmt.Errorf("vault answers %d results to %d inputs", len(results), len(inputs))}
	case err != nil && !known && ctx.Err() == context.DeadlineExceeded:
		err = &Error{Kind: Unreachable, Err: fmt.Errorf("vault does not answer within %s", s.limits.Timeout)}
	}
	return results, err
}

// settle accounts for a call that ended, and answers who wait for it.
func (s *Signer) settle(r *round, results []signResult, err error, took time.Duration) {
	s.mu.Lock()
	for i, it := range r.items {
		if !s.sent.remove(it) {
			r.items[i] = nil // its caller has left
		}
	}
	// Less than Timeout, so that what is sent at once is never taken for late.
	s.took = min(s.took+(took-s.took)/4, s.limits.Timeout*3/4)
	made, failed := tally(results, err)
	s.stats.Signatures += uint64(made)
	s.stats.Failures += uint64(len(r.items) - made)
	if made == 0 {
		s.stats.FailedCalls++
		s.judge(r.epoch, failed)
	} else {
		s.judge(r.epoch, nil)
	}
	retry := s.circuit.retryAfter(time.Now())
	if s.closed {
		err = errEnded
	}
	s.mu.Unlock()

	if err != nil {
		err = &Unavailable{Reason: err, RetryAfter: retry}
	}
	for i, it := range r.items {
		switch {
		case it == nil:
		case err != nil:
			it.answer <- signResult{Err: err}
		case results[i].Err != nil:
			it.answer <- signResult{Err: &Unavailable{Reason: results[i].Err, RetryAfter: retry}}
		default:
			it.answer <- results[i]
		}
	}
	clear(r.items) // they belong to their callers again
}

// tally counts the signatures that were made, and returns the first error. If
// none was made, the call failed, though Vault answered: a digest is never to
// blame, so nobody else would get a signature.
func tally(results []signResult, err error) (made int, failed error) {
	if err != nil {
		return 0, err
	}
	for _, r := range results {
		if r.Err == nil {
			made++
		} else if failed == nil {
			failed = r.Err
		}
	}
	return made, failed
}

// regroup lets those run who were just answered, as long as they come back for
// more. Then they are in the next call together; otherwise, the fastest would get
// a call for itself, and all others would wait until it is over.
func (s *Signer) regroup(answered int) {
	start := time.Now()
	for last := 0; ; {
		runtime.Gosched()
		s.mu.Lock()
		n := s.waiting.length
		s.mu.Unlock()
		if n <= last || n >= answered || time.Since(start) > maxRegroup {
			return
		}
		last = n
	}
}

// delay is how long one waits for the calls under way until another is made:
// Delay, or more where Vault is slow. Then calls are spread over the time that
// one takes. Otherwise, all that may be under way would soon be, each for a few.
func (s *Signer) delay() time.Duration {
	spaced := min(s.took/time.Duration(s.limits.Calls), (s.limits.Timeout-s.took)/2)
	return max(s.limits.Delay, spaced)
}

// alarm is a timer of a signer. Its methods are called with the lock held.
type alarm struct {
	timer *time.Timer
	armed bool
}

// arm has f called with the lock held after d, unless that is to happen already.
// f is the same each time.
func (a *alarm) arm(s *Signer, d time.Duration, f func()) {
	if a.armed {
		return
	}
	a.armed = true
	s.done.Add(1)
	if a.timer != nil {
		a.timer.Reset(d)
		return
	}
	a.timer = time.AfterFunc(d, func() {
		defer s.done.Done()
		s.mu.Lock()
		defer s.mu.Unlock()
		a.armed = false
		if !s.closed {
			f()
		}
	})
}

func (a *alarm) disarm(s *Signer) {
	if a.armed && a.timer.Stop() {
		a.armed = false
		s.done.Done()
	}
}

// overdue makes another call if the one who waits longest has waited for delay.
func (s *Signer) overdue() {
	if s.waiting.length == 0 || s.calls == s.limits.Calls {
		return // calls under way take all who wait when they end
	}
	if left := s.delay() - time.Since(s.waiting.first.arrived); left > 0 {
		s.opener.arm(s, left, s.overdue)
		return
	}
	s.open()
}

// Stats counts since the signer was made.
type Stats struct {
	Calls       uint64 // probes aside
	FailedCalls uint64 // that made no signature
	Probes      uint64
	Opened      uint64 // times that the circuit opened

	Signatures uint64 // made
	Failures   uint64 // signatures that Vault was asked for, and that were not made
	Refused    uint64 // signatures that it was not asked for
	Abandoned  uint64 // callers who left before the answer, at the end of ctx or of Timeout

	// Sizes[i] counts the calls for at most 1<<i signatures and for more than the
	// counts before; the last has no upper bound.
	Sizes [8]uint64

	Waiting, UnderWay int // signatures and calls, now
}

// sending counts a call for n signatures.
func (t *Stats) sending(n int) {
	t.Calls++
	t.Sizes[min(bits.Len(uint(n-1)), len(t.Sizes)-1)]++
}

// Stats returns the counts.
func (s *Signer) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.stats
	t.Waiting, t.UnderWay = s.waiting.length, s.calls
	return t
}
