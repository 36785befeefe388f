// Package check says whether what clients saw of a service, while it was broken in
// all kinds of ways, is what it promises.
//
// Clients write down each call: when it began, when it ended, at which node, and
// what came of it. When all is over, Check goes through the history with what else
// is left: the audit logs, the key sets that were published, the logs. It knows
// nothing about how the service works.
package check

import (
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Kind is what a client asked for.
type Kind string

// What clients ask for.
const (
	Issue      Kind = "issue"      // a token, by a credential that can be used again; Forbidden if it must be refused
	Use        Kind = "use"        // a token, by an assertion that can be used once; Key is its jti
	Exchange   Kind = "exchange"   // a token for a token; Key is the jti of the latter
	Introspect Kind = "introspect" // Key is the jti of the token
	Revoke     Kind = "revoke"     // Key is the jti of the token
	Write      Kind = "write"      // a resource; Key is its name, Value what it has from then on
	Read       Kind = "read"       // a resource
	Look       Kind = "look"       // health, key set, metrics: what needs nothing
)

// Answer is what a call has brought.
type Answer int

const (
	// Nobody knows: no answer, or one that says to try again. What was to be done may
	// have been done, or be done at any time to come.
	Unknown Answer = iota
	Yes            // done; active
	No             // refused for good: it was revoked, used, not allowed, not active
)

// Call is one call.
type Call struct {
	Client     int
	Node       int
	Kind       Kind
	Key        string
	Value      int // of a resource: what was written or read, 0 for none
	Begin, End time.Time
	Answer     Answer
	Forbidden  bool   // it must not be allowed, whatever happens
	Token      string // that came of it

	// Of the answer as HTTP.
	Status     int // 0: none came
	RetryAfter bool
	Problem    string // what about it is not as the standard wants
}

// Outage is a time in which a node need not answer, since it was killed or paused.
type Outage struct {
	Node     int
	From, To time.Time
}

// Published is a key set as a node has published it.
type Published struct {
	Node int
	At   time.Time
	Keys jose.JSONWebKeySet
}

// Text is something that is written where others read it.
type Text struct {
	Name string
	Text string
}

// History is what happened, and what is left of it.
type History struct {
	Calls   []Call
	Outages []Outage
	Keys    []Published
	Records []Record // of the audit logs of all nodes

	// Lag is for how long after a change was acknowledged other nodes may go by what
	// was before: the most time that they go on without having heard of the store.
	Lag time.Duration
	// Deadline is within which each call is answered.
	Deadline time.Duration
	// Allowed says what is wrong with a token that a call has brought.
	Allowed func(c Call, t Claims) error
	// Secrets must be in none of Texts.
	Secrets []Text
	Texts   []Text
	// Usage is a node's resources before and after.
	Usage []Usage
}

// Log gathers a History. Its methods can be called concurrently.
type Log struct {
	mu sync.Mutex
	h  History
}

// Add notes a call that has ended.
func (l *Log) Add(c Call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.h.Calls = append(l.h.Calls, c)
}

// Calls returns how many calls were noted.
func (l *Log) Calls() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.h.Calls)
}

// Publish notes a key set that was fetched.
func (l *Log) Publish(p Published) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.h.Keys = append(l.h.Keys, p)
}

// Down notes that a node is not there from now on; the function that it returns, that it
// is there again.
func (l *Log) Down(node int) (up func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := len(l.h.Outages)
	l.h.Outages = append(l.h.Outages, Outage{Node: node, From: time.Now(), To: time.Now().Add(time.Hour)})
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.h.Outages[at].To = time.Now()
	}
}

// History returns a copy of what was noted.
func (l *Log) History() History {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.h
	h.Calls, h.Outages, h.Keys = slices.Clone(h.Calls), slices.Clone(h.Outages), slices.Clone(h.Keys)
	return h
}
