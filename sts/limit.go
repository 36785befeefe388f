package sts

import (
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"

	"github.com/workload-sts/sts/policy"
)

// Rate is how often something may happen: Count times in each Period on average,
// and Burst times at once. The zero Rate sets no limit.
type Rate struct {
	Count  int           `json:"count"`
	Period time.Duration `json:"period,omitempty"` // 0: a second
	Burst  int           `json:"burst,omitempty"`  // 0: Count
}

// Limits are how many token requests this node takes. Other nodes count by
// themselves: n nodes take n times as many.
type Limits struct {
	Total  Rate // of all
	Source Rate // of one network address, or IPv6 /64
	Client Rate // of one client, unless it has a Rate of its own; or of one workload that presents itself
}

// Names of limits, for metrics.
const (
	LimitTotal    = "total"
	LimitSource   = "source"
	LimitClient   = "client"
	LimitAudience = "audience"
	LimitTemplate = "template" // of registrations by a ClientTemplate

	LimitSingleUse = "single_use" // of one client or Issuer; see maxShare
)

// bucketsSize is how many clients, networks and Audiences are told apart. Who
// comes in from more networks than that in turn gets a fresh start in each.
const bucketsSize = 65536

// limits count what has passed.
type limits struct {
	Limits
	total, sources, clients, audiences, templates *buckets
}

func newLimits(l Limits) *limits {
	return &limits{l, newBuckets(1), newBuckets(bucketsSize), newBuckets(bucketsSize), newBuckets(bucketsSize), newBuckets(maxTemplates)}
}

// arrives lets a request in, before anything of it is looked at. The source comes
// first, so that one that floods uses up nothing of the others' share.
func (l *limits) arrives(from Source, now time.Time) *Error {
	if wait := l.sources.take(from.network(), l.Source, now); wait > 0 {
		return tooMany(LimitSource, "more token requests than allowed from this network address", wait)
	}
	if wait := l.total.take("", l.Total, now); wait > 0 {
		return tooMany(LimitTotal, "more token requests than this server takes", wait)
	}
	return nil
}

// asks counts a request to a client, when it is known that it is the client's, and
// to a workload that has no client.
func (l *limits) asks(d *decision) *Error {
	limit, key := l.Client, ""
	switch c, t := d.asked.Client, d.asked.Subject; {
	case c != nil:
		key = c.ID
		if known, ok := d.st.client(c.ID, d.now); ok && known.Rate != (Rate{}) {
			limit = known.Rate
		}
	case t != nil:
		key = t.Issuer + ":" + t.Subject // no client has such a name
	}
	if wait := l.clients.take(key, limit, d.now); wait > 0 {
		return tooMany(LimitClient, "more token requests than allowed for this client", wait)
	}
	return nil
}

// quota takes a token off the quota of each Audience that it is for. undo gives
// them back, if the token is not made after all.
func (l *limits) quota(d *decision, g policy.Grant) (undo func(), e *Error) {
	var taken []*rate.Reservation
	undo = func() {
		for _, r := range taken {
			r.CancelAt(d.now)
		}
	}
	seen := map[string]bool{}
	for _, identifier := range g.Audiences() {
		a := d.st.quotas[identifier]
		if a == nil || seen[a.Name] {
			continue
		}
		seen[a.Name] = true
		r, wait := l.audiences.reserve(a.Name, a.Quota, d.now)
		if wait > 0 {
			undo()
			return nil, tooMany(LimitAudience, "the quota of tokens for this audience is used up", wait)
		}
		taken = append(taken, r)
	}
	return undo, nil
}

// tooMany says when to come back, and not earlier than it is worth it.
func tooMany(limit, message string, wait time.Duration) *Error {
	return &Error{Code: TooManyRequests, Limit: limit, RetryAfter: wait, Message: message + "; come back later, and not sooner than Retry-After says"}
}

// buckets are token buckets by key. Of those that do not fit, the one that was
// used least recently is forgotten.
type buckets struct {
	mu sync.Mutex
	by *simplelru.LRU[string, *bucket]
}

// bucket has the limit that it was made for: one that changed begins anew.
type bucket struct {
	limit Rate
	*rate.Limiter
}

func newBuckets(size int) *buckets {
	by, err := simplelru.NewLRU[string, *bucket](size, nil)
	if err != nil {
		panic(err) // for a size below 1
	}
	return &buckets{by: by}
}

// take returns 0, or how long to wait until the limit allows it.
func (b *buckets) take(key string, limit Rate, now time.Time) time.Duration {
	if limit == (Rate{}) {
		return 0
	}
	_, wait := b.reserve(key, limit, now)
	return wait
}

// reserve returns what was taken, or how long to wait.
func (b *buckets) reserve(key string, limit Rate, now time.Time) (*rate.Reservation, time.Duration) {
	r := b.bucket(key, limit).ReserveN(now, 1)
	wait := r.DelayFrom(now)
	if wait > 0 {
		r.CancelAt(now)
		return nil, wait
	}
	return r, 0
}

func (b *buckets) bucket(key string, limit Rate) *bucket {
	b.mu.Lock()
	defer b.mu.Unlock()
	if k, ok := b.by.Get(key); ok && k.limit == limit {
		return k
	}
	k := &bucket{limit, rate.NewLimiter(rate.Limit(float64(limit.Count)/limit.period().Seconds()), limit.burst())}
	b.by.Add(key, k)
	return k
}

func (r Rate) period() time.Duration {
	if r.Period == 0 {
		return time.Second
	}
	return r.Period
}

func (r Rate) burst() int {
	if r.Burst == 0 {
		return r.Count
	}
	return r.Burst
}

// Bounds of a Rate.
const (
	maxRateCount  = 10_000_000
	maxRatePeriod = 31 * 24 * time.Hour
)

// Check says what is wrong with a rate; the zero one is right.
func (r Rate) Check() error {
	switch {
	case r == Rate{}:
		return nil
	case r.Count < 1 || r.Count > maxRateCount:
		return fmt.Errorf("count must be between 1 and %d", maxRateCount)
	case r.Period < 0 || r.Period > maxRatePeriod || r.Period != 0 && r.Period < time.Second:
		return fmt.Errorf("period must be between 1s and %s", maxRatePeriod)
	case r.Burst < 0 || r.Burst > maxRateCount:
		return fmt.Errorf("burst must be between 1 and %d", maxRateCount)
	}
	return nil
}
