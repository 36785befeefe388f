package vault

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/workload-sts/sts/jose"
)

// Batching bounds how signatures share calls. Members that are not set have the
// defaults named.
type Batching struct {
	Size    int           // most signatures in a call; 64
	Calls   int           // most calls under way; 8
	Delay   time.Duration // how long a signature waits for calls under way before another is made; 5 ms
	Queue   int           // most signatures that wait; 1024
	Timeout time.Duration // longest that a signature takes in all, and that a call takes; 2 s
}

func (b Batching) withDefaults() Batching {
	if b.Size <= 0 {
		b.Size = 64
	}
	if b.Calls <= 0 {
		b.Calls = 8
	}
	if b.Delay <= 0 {
		b.Delay = 5 * time.Millisecond
	}
	if b.Queue <= 0 {
		b.Queue = 1024
	}
	if b.Timeout <= 0 {
		b.Timeout = 2 * time.Second
	}
	return b
}

// Signer makes signatures with one version of a key. It can be used
// concurrently.
//
// A signature that finds no call under way is asked for at once. Those that are
// wanted meanwhile go out together in the next call. Calls that keep failing open
// a circuit: signatures are then refused without a call, until a probe finds that
// Vault signs again.
//
// Its goroutines are the calls under way and, while the circuit is open, the
// prober. They end with Close.
type Signer struct {
	sign    signFunc
	version int
	alg     jose.Algorithm
	limits  Batching
	late    error // nothing came within Timeout

	ctx    context.Context // of calls and probes
	cancel context.CancelFunc
	done   sync.WaitGroup
	spare  sync.Pool // of *item

	mu      sync.Mutex
	closed  bool
	waiting queue         // to be sent
	sent    queue         // in calls under way, whose callers still wait
	calls   int           // under way
	took    time.Duration // a call, smoothed
	opener  alarm         // makes another call
	expiry  alarm         // ends what takes too long
	circuit circuit
	stats   Stats
}

// signFunc asks for signatures: one result for each input, in order, or an error
// for all. It returns soon after ctx ends, and keeps nothing of r.
type signFunc func(ctx context.Context, r signRequest) ([]signResult, error)

var (
	errEnded = errors.New("the signer is closed")
	errQueue = errors.New("too many signatures are waiting")
)

// Signer returns a signer for one version of the key.
func (k *Key) Signer(version int, alg jose.Algorithm, b Batching) *Signer {
	return newSigner(k.sign, version, alg, b)
}

func newSigner(sign signFunc, version int, alg jose.Algorithm, b Batching) *Signer {
	s := &Signer{sign: sign, version: version, alg: alg, limits: b.withDefaults()}
	s.late = fmt.Errorf("no signature within %s", s.limits.Timeout)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.spare.New = func() any { return &item{answer: make(chan signResult, 1)} }
	return s
}

// Sign returns a signature over input in JOSE form. That it verifies is for the
// caller to check.
//
// The error is that of ctx, or an *Unavailable, after Timeout at the latest and
// at once while the circuit is open. A caller whose ctx ends leaves at once; the
// signature may be made all the same.
func (s *Signer) Sign(ctx context.Context, input []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	it, err := s.enter(input)
	if err != nil {
		return nil, err
	}
	select {
	case r := <-it.answer:
		if !it.kept {
			s.spare.Put(it)
		}
		return r.Signature, r.Err
	case <-ctx.Done():
		s.leave(it)
		return nil, ctx.Err()
	}
}

// enter puts an item into the queue, or says why there is no place.
func (s *Signer) enter(input []byte) (*item, error) {
	// Asked before there is a digest, which takes longer, and again after it.
	now := time.Now()
	s.mu.Lock()
	err := s.refusal(now)
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	it := s.spare.Get().(*item)
	if it.input, err = appendSigned(it.input[:0], s.alg, input); err != nil {
		return nil, err
	}
	it.arrived = now

	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refusal(now); err != nil {
		s.spare.Put(it)
		return nil, err
	}
	s.waiting.push(it)
	s.expiry.arm(s, s.limits.Timeout, s.expire)
	switch {
	case s.calls == 0, s.calls < s.limits.Calls && s.waiting.length >= s.limits.Size:
		s.open()
	case s.calls < s.limits.Calls:
		s.opener.arm(s, s.delay(), s.overdue)
	}
	return it, nil
}

// appendSigned appends what Vault is sent for input: the digest that the
// algorithm signs [RFC 7518 §3.1], or, for EdDSA, the input itself [RFC 8032
// §5.1].
func appendSigned(dst []byte, alg jose.Algorithm, input []byte) ([]byte, error) {
	switch alg {
	case jose.ES256, jose.RS256, jose.PS256:
		sum := sha256.Sum256(input)
		return append(dst, sum[:]...), nil
	case jose.ES384:
		sum := sha512.Sum384(input)
		return append(dst, sum[:]...), nil
	case jose.EdDSA:
		return append(dst, input...), nil
	default:
		return dst, fmt.Errorf("%q is not an algorithm that vault signs with for us", alg)
	}
}

// refusal says why no item can enter the queue, and counts that; nil: one can. It
// is called with the lock held.
func (s *Signer) refusal(now time.Time) error {
	var reason error
	retry := comeBack
	rounds := 1 + s.waiting.length/(s.limits.Size*s.limits.Calls) // until it has its turn
	switch {
	case s.closed:
		reason = errEnded
	case s.circuit.reason != nil:
		reason, retry = s.circuit.reason, s.circuit.retryAfter(now)
	case s.waiting.length >= s.limits.Queue:
		reason = errQueue
	case s.took*time.Duration(rounds) > s.limits.Timeout:
		reason = s.late
	default:
		return nil
	}
	s.stats.Refused++
	return &Unavailable{Reason: reason, RetryAfter: retry}
}

// leave is for a caller who does not wait any more. An item that was sent is left
// to its call and not used again.
func (s *Signer) leave(it *item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Abandoned++
	if s.waiting.remove(it) {
		s.spare.Put(it)
	} else {
		s.sent.remove(it)
	}
}

// expire answers those whose time is up, whether they were sent or not. One timer
// does for all: items are sent in the order in which they came.
func (s *Signer) expire() {
	now := time.Now()
	next := time.Duration(-1)
	for _, q := range []*queue{&s.sent, &s.waiting} {
		for q.first != nil {
			it := q.first
			if left := s.limits.Timeout - now.Sub(it.arrived); left > 0 {
				if next < 0 || left < next {
					next = left
				}
				break
			}
			it.kept = q == &s.sent
			q.remove(it)
			s.stats.Abandoned++
			it.answer <- signResult{Err: &Unavailable{Reason: s.late, RetryAfter: comeBack}}
		}
	}
	if next > 0 {
		s.expiry.arm(s, next, s.expire)
	}
}

// flush refuses all that wait. It is called with the lock held.
func (s *Signer) flush(err error) {
	for it := range s.waiting.take() {
		s.stats.Refused++
		it.answer <- signResult{Err: err}
	}
}

// Err returns nil, or why signatures are refused without a call.
func (s *Signer) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errEnded
	}
	return s.circuit.reason
}

// Close ends calls and probes, and returns when they have ended. Those who wait
// for a signature get an error.
func (s *Signer) Close() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		s.flush(&Unavailable{Reason: errEnded, RetryAfter: comeBack})
		s.opener.disarm(s)
		s.expiry.disarm(s)
		s.cancel()
	}
	s.mu.Unlock()
	s.done.Wait()
}
