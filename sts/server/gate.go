package server

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/workload-sts/sts/sts"
)

// share is which part of what the server works on at once a method takes from, so
// that no kind of request can take all of it.
type share int

const (
	adminShare        share = iota // of the admin interface, and of what says nothing else
	tokenShare                     // requests for tokens
	lookupShare                    // introspection and revocation: resource servers depend on them
	registrationShare              // dynamic registration: whoever floods it takes nothing of the others
	noShare                        // answered from memory: discovery, keys, health
)

// How many requests of the admin interface, and of registration, are worked on at once.
const (
	adminRequests        = 64
	registrationRequests = 16
)

// gates let so many requests of each share in and refuse the others at once:
// waiting in line would make all of them late and none of them fewer.
type gates map[share]chan struct{}

// newGates takes how many token requests are worked on at once.
func newGates(requests int) gates {
	return gates{
		adminShare:        make(chan struct{}, adminRequests),
		registrationShare: make(chan struct{}, registrationRequests),
		tokenShare:        make(chan struct{}, requests),
		lookupShare:       make(chan struct{}, max(requests/4, 16)),
	}
}

// enter returns what to call when the request is done, and whether it may begin.
func (g gates) enter(s share) (leave func(), ok bool) {
	gate, limited := g[s]
	if !limited {
		return func() {}, true
	}
	select {
	case gate <- struct{}{}:
		return func() { <-gate }, true
	default:
		return nil, false
	}
}

// full tells whether enter would refuse at this moment.
func (g gates) full(s share) bool {
	gate, limited := g[s]
	return limited && len(gate) == cap(gate)
}

// newOverloaded is the answer to all requests that the server cannot take on now.
// Nothing of them has been looked at, so there is no decision to record. It is made
// once: what refusing costs, the others do without.
func newOverloaded(issuer string) *refusal {
	r := &refusal{domain: issuer, grpc: codes.ResourceExhausted, sts: &sts.Error{
		Code: sts.Unavailable, Limit: limitRequests, RetryAfter: retryOverload,
		Message: "the server works on as many requests as it takes at once; try again later, or at another one",
	}}
	r.ready = r.GRPCStatus()
	return r
}

// turnAway answers a request over HTTP that the server cannot take on now, before
// anything of it is read, and reports whether it did.
func (c *chain) turnAway(w http.ResponseWriter, r *http.Request, method string) bool {
	if !c.gates.full(accessTo[method].share) {
		return false
	}
	k, _ := callOf(r.Context())
	k.method = method
	var details []json.RawMessage
	if k.face == overJSON {
		details = encodeDetails(c.overloaded)
	}
	writeError(w, c.overloaded, details)
	c.observe(r.Context(), k, c.overloaded, time.Now())
	return true
}

// limitRequests names the limit of requests at once, for metrics.
const limitRequests = "requests"

// tellEvery is how often the log says that a limit refuses requests.
const tellEvery = 10 * time.Second

// pressure is what the log says of requests over a limit: not each of them, which
// would cost more than refusing does, but once in a while how many.
type pressure struct {
	mu sync.Mutex
	by map[string]*pressed
}

type pressed struct {
	told    time.Time
	refused int64 // since then
}

// note counts a request over a limit. If it is time to tell, it returns how many
// were refused since the last time.
func (p *pressure) note(limit string, now time.Time) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := p.by[limit]
	if at == nil {
		at = &pressed{}
		p.by[limit] = at // there are as many as constants
	}
	at.refused++
	if now.Sub(at.told) < tellEvery {
		return 0
	}
	n := at.refused
	at.told, at.refused = now, 0
	return n
}

// tellPressure says that a limit refuses requests, if it is time to.
func (c *chain) tellPressure(ctx context.Context, limit string, now time.Time) {
	if n := c.pressure.note(limit, now); n > 0 {
		c.log.LogAttrs(ctx, slog.LevelWarn, "a limit refuses requests", slog.String("limit", limit), slog.Int64("refused", n))
	}
}
