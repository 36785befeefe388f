package vault

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"
)

// Unavailable is why there is no signature now, and when to come back.
type Unavailable struct {
	Reason     error
	RetryAfter time.Duration
}

// Error names the reason.
func (e *Unavailable) Error() string { return "no signature from vault: " + e.Reason.Error() }

// Unwrap returns the reason, which may be an [*Error].
func (e *Unavailable) Unwrap() error { return e.Reason }

// Dependency names what is missing.
func (e *Unavailable) Dependency() string { return "vault" }

const (
	tolerated = 3           // this many calls that fail in a row open the circuit
	comeBack  = time.Second // when a refused caller may find Vault well again

	// Between probes. A probe is one signature, and recovery is to be noticed within
	// a second.
	leastPause, mostPause = 250 * time.Millisecond, 500 * time.Millisecond
	maxProbes             = 4 // under way

	// How long Vault is left alone if it limits the rate and does not say, and at
	// most: one probe in that time does not make its load worse.
	defaultRest, maxRest = time.Second, 5 * time.Second
)

// probeInput is signed to find out whether Vault signs. Its signature is of no
// use: what is signed of a JWS has no blanks.
const probeInput = "does this key sign? this is not a token"

// circuit decides whether Vault is asked. It is closed while there is no reason.
type circuit struct {
	failed int       // calls in a row
	reason error     // why it is open: what Vault answered last
	until  time.Time // when Vault wants to be asked again
	epoch  int       // how often it opened: calls from before that say nothing new
}

func (c *circuit) retryAfter(now time.Time) time.Duration {
	return max(comeBack, c.until.Sub(now))
}

// blame makes err the reason.
func (c *circuit) blame(err error) {
	c.reason, c.until = err, time.Time{}
	if e, ok := errors.AsType[*Error](err); ok && e.Kind == Throttled {
		c.until = time.Now().Add(min(cmp.Or(e.RetryAfter, defaultRest), maxRest))
	}
}

// judge takes the outcome of a call into account; nil: there was a signature. It
// is called with the lock held.
func (s *Signer) judge(epoch int, err error) {
	c := &s.circuit
	if s.closed || epoch != c.epoch {
		return
	}
	if err == nil {
		c.failed = 0
		return
	}
	if c.failed++; c.failed < tolerated && !definite(err) {
		return
	}
	c.failed = 0
	c.epoch++
	c.blame(err)
	s.stats.Opened++
	s.took = 0 // calls may take another time when it is over
	s.flush(&Unavailable{Reason: err, RetryAfter: c.retryAfter(time.Now())})
	s.done.Go(s.probe)
}

// definite tells whether every call would get this answer, until somebody does
// something about it or time passes.
func definite(err error) bool {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return false
	}
	switch e.Kind {
	case Sealed, Uninitialised, Denied, NoKey, Throttled:
		return true
	case Unreachable:
		return errors.Is(err, syscall.ECONNREFUSED)
	default:
		return false
	}
}

// probe asks for signatures until there is one, which closes the circuit. A probe
// that hangs does not hold up the next one.
func (s *Signer) probe() {
	ctx, cancel := context.WithCancel(s.ctx)
	var probes sync.WaitGroup
	defer probes.Wait()
	defer cancel()
	answers := make(chan error, maxProbes)
	next := time.NewTimer(s.pause(0))
	defer next.Stop()
	for hanging, due := 0, false; ; {
		select {
		case <-ctx.Done():
			return
		case err := <-answers:
			hanging--
			if s.probed(err) {
				return
			}
		case now := <-next.C:
			if rest := s.rest(now); rest > 0 {
				next.Reset(rest)
			} else {
				due = true
			}
		}
		if due && hanging < maxProbes {
			due = false
			next.Reset(s.pause(hanging))
			hanging++
			probes.Go(func() { answers <- s.try(ctx) })
		}
	}
}

// pause is how long after a probe the next one begins. Where others hang, they
// are spread over the time that one may take: otherwise, they would all begin in
// its first part, and nobody would ask in its last.
func (s *Signer) pause(hanging int) time.Duration {
	d := leastPause + rand.N(mostPause-leastPause)
	if hanging > 0 {
		d = max(d, s.limits.Timeout/maxProbes)
	}
	return d
}

// rest is how long Vault wants to be left alone.
func (s *Signer) rest(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.circuit.until.Sub(now)
}

// try makes one probe.
func (s *Signer) try(ctx context.Context) error {
	input, err := appendSigned(nil, s.alg, []byte(probeInput))
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.stats.Probes++
	s.mu.Unlock()
	results, err := s.call(ctx, [][]byte{input})
	_, err = tally(results, err)
	return err
}

// probed closes the circuit if a probe made a signature, and tells whether it
// did. What goes out then is bounded as ever, by Calls and Size.
func (s *Signer) probed(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.circuit.reason = nil
	case !s.closed:
		s.circuit.blame(err)
	}
	return err == nil
}
