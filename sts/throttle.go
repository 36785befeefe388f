package sts

import (
	"cmp"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// What slows down who fails again and again.
const (
	throttleAfter  = 10 // failures in a row
	throttleFirst  = time.Second
	throttleMost   = time.Minute
	throttleForget = 10 * time.Minute // after the last failure
	throttleLook   = 16               // of so many attempts that have to wait, one is looked at
	throttleGood   = time.Hour        // after a success
	throttleSize   = 16384            // attempts that are told apart
)

// throttle slows down failures in a row of one client from one network, and of no
// other: whoever does not share both with the one who guesses notices nothing.
//
// Many share a network: behind a gateway all do. So where the client itself has
// authenticated a while ago nothing is refused without a look, and elsewhere one
// attempt in a few is looked at: nobody can lock a client out. Secrets are not
// guessed at that rate, nor at any other.
//
// It remembers so many attempts and no more. Who fails in the name of that many
// clients in between is slow already.
type throttle struct {
	mu    sync.Mutex
	pairs *simplelru.LRU[attempt, failures]
}

// attempt is who is to be authenticated and how, as the request has it, and from
// where. Failures by a method that is not the client's do not slow its own.
type attempt struct {
	client, network string
	method          AuthMethod
}

type failures struct {
	count     int // in a row
	unlooked  int // attempts that were refused without a look
	last      time.Time
	until     time.Time // nothing is looked at before, or nearly nothing
	succeeded time.Time
}

func newThrottle() *throttle {
	pairs, err := simplelru.NewLRU[attempt, failures](throttleSize, nil)
	if err != nil {
		panic(err) // for a size below 1
	}
	return &throttle{pairs: pairs}
}

// wait returns how long an attempt has to wait yet, 0 if it is to be looked at.
func (t *throttle) wait(a attempt, now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	f, _ := t.pairs.Peek(a)
	if !now.Before(f.until) || now.Sub(f.succeeded) < throttleGood {
		return 0
	}
	f.unlooked++
	t.pairs.Add(a, f)
	if f.unlooked%throttleLook == 0 {
		return 0
	}
	return f.until.Sub(now)
}

// failed takes down that an attempt failed, and returns when to come back.
func (t *throttle) failed(a attempt, now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	f, _ := t.pairs.Get(a)
	if now.Sub(f.last) >= throttleForget {
		f = failures{succeeded: f.succeeded}
	}
	f.count++
	f.last = now
	wait := time.Duration(0)
	if over := f.count - throttleAfter; over >= 0 {
		wait = throttleFirst << min(over, 6)
		wait = min(wait, throttleMost)
		f.until = now.Add(wait)
	}
	t.pairs.Add(a, f)
	return wait
}

// succeeded forgets failures.
func (t *throttle) succeeded(a attempt, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pairs.Add(a, failures{succeeded: now})
}

// attempt is who the request says to be of, whoever sent it, and from where.
func (d *decision) attempt() attempt {
	a := attempt{d.req.Credential.ClientID, d.req.Source.network(), d.req.Credential.Method}
	if a.method == SecretPost {
		a.method = SecretBasic // one secret, sent in two ways
	}
	if a.client == "" && d.assertion != nil {
		iss, _ := d.assertion.claims["iss"].(string)
		sub, _ := d.assertion.claims["sub"].(string)
		a.client = iss
		if iss != sub {
			a.client += " " + sub
		}
	}
	if len(a.client) > maxName {
		a.client = hashOf(a.client)
	}
	return a
}

// failure is the answer to a credential that is not accepted, by its method.
func (c Credential) failure(why error) *Error {
	switch {
	case c.Assertion != "":
		return badAssertion(why)
	case c.Method == TLSClientAuth:
		return invalidClientTLS(why)
	}
	e := invalidClient("")
	e.Err = why
	if c.Secret == "" {
		e.Message = "client authentication failed: the client_id came alone, with no secret, client_assertion or TLS certificate of the client"
	}
	return e
}

// network is where a request comes from, as one who chooses addresses can not
// choose: of an IPv6 address what a provider hands out as one.
func (s Source) network() string {
	from := cmp.Or(s.Forwarded, s.Peer)
	if ip, err := netip.ParseAddr(from); err == nil && ip.Is6() && !ip.Is4In6() {
		if p, err := ip.WithZone("").Prefix(64); err == nil {
			return p.String()
		}
	}
	return from
}
