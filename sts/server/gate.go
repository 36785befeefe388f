package server

import (
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

// enter returns what to call when the request is done, or a refusal.
func (g gates) enter(s share) (leave func(), bad *refusal) {
	gate, limited := g[s]
	if !limited {
		return func() {}, nil
	}
	select {
	case gate <- struct{}{}:
		return func() { <-gate }, nil
	default:
		return nil, overloaded()
	}
}

// overloaded is the answer to a request that the server cannot take on now. Nothing
// of it has been looked at, so there is no decision to record.
func overloaded() *refusal {
	return &refusal{grpc: codes.ResourceExhausted, sts: &sts.Error{
		Code: sts.Unavailable, Limit: limitRequests, RetryAfter: retryOverload,
		Message: "the server works on as many requests as it takes at once; try again later, or at another one",
	}}
}

// limitRequests names the limit of requests at once, for metrics.
const limitRequests = "requests"
