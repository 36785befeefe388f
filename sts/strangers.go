package sts

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// StrangerLimits bound how many refusals are recorded in a minute of those of whom
// it is not known who they are. 0: no bound.
type StrangerLimits struct {
	PerNetwork int
	Total      int
}

const (
	strangersWindow = time.Minute
	// strangersApart is how many networks whose refusals are not recorded are told
	// apart in a window.
	strangersApart = 100
)

// others stands for networks that are not told apart.
const others = "others"

// strangers bounds what those write into the audit log of whom it is not known who
// they are, so that nobody can fill the disk. What is not written is counted, and
// the count is recorded: for each network, at the end of each minute.
type strangers struct {
	limits StrangerLimits

	mu         sync.Mutex
	since      time.Time // the window
	total      int       // recorded in it
	recorded   map[string]int
	suppressed map[string]*RecordSuppressed
	all        int64 // that were ever suppressed
}

func newStrangers(l StrangerLimits) *strangers {
	return &strangers{limits: l, recorded: map[string]int{}, suppressed: map[string]*RecordSuppressed{}}
}

// admit tells whether a refusal is to be recorded, and counts it if not.
func (s *strangers) admit(network string, event Event, code Code, now time.Time) bool {
	if s.limits.PerNetwork <= 0 && s.limits.Total <= 0 {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// The clock may be put back.
	if age := now.Sub(s.since); age >= strangersWindow || age < 0 {
		s.since, s.total = now, 0
		clear(s.recorded)
	}
	if (s.limits.Total <= 0 || s.total < s.limits.Total) && (s.limits.PerNetwork <= 0 || s.recorded[network] < s.limits.PerNetwork) {
		s.total++
		if s.limits.Total > 0 || len(s.recorded) < strangersApart {
			s.recorded[network]++ // so it has no more members than are recorded
		}
		return true
	}
	s.all++
	s.count(network, RecordSuppressed{Count: 1, Events: map[Event]int64{event: 1}, Errors: map[Code]int64{code: 1}, Since: now.UTC(), Until: now.UTC()})
	return false
}

// count adds refusals to those of a network; s.mu is held.
func (s *strangers) count(network string, n RecordSuppressed) {
	if s.suppressed[network] == nil && len(s.suppressed) >= strangersApart {
		network = others
	}
	had := s.suppressed[network]
	if had == nil {
		n.Network = network
		s.suppressed[network] = &n
		return
	}
	had.Count += n.Count
	for event, count := range n.Events {
		had.Events[event] += count
	}
	for code, count := range n.Errors {
		had.Errors[code] += count
	}
	if n.Since.Before(had.Since) {
		had.Since = n.Since
	}
	if n.Until.After(had.Until) {
		had.Until = n.Until
	}
}

// due returns what was suppressed and is to be told: when a window is over, or at
// the end.
func (s *strangers) due(now time.Time, end bool) []*RecordSuppressed {
	s.mu.Lock()
	defer s.mu.Unlock()
	if age := now.Sub(s.since); len(s.suppressed) == 0 || !end && age < strangersWindow && age >= 0 {
		return nil
	}
	out := slices.SortedFunc(maps.Values(s.suppressed), func(a, b *RecordSuppressed) int { return cmp.Compare(b.Count, a.Count) })
	s.suppressed = map[string]*RecordSuppressed{}
	return out
}

// giveBack undoes due for one network.
func (s *strangers) giveBack(n *RecordSuppressed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count(n.Network, *n)
}

// tellSuppressed records what was counted, if it is time. What cannot be recorded
// now is told later.
func (s *Service) tellSuppressed(ctx context.Context, end bool) {
	for _, n := range s.strangers.due(s.now(), end) {
		err := s.recordEvent(ctx, &Record{
			Event: EventToken, Outcome: outcomeDeny, Suppressed: n,
			Reason: fmt.Sprintf("%d more refusals of callers of whom it is not known who they are, from %s, between %s and %s", n.Count, n.Network, clock(n.Since), clock(n.Until)),
		})
		if err != nil {
			s.strangers.giveBack(n)
		}
	}
}

// Suppressed is how many refusals are in the audit log by their count only.
func (s *Service) Suppressed() int64 {
	s.strangers.mu.Lock()
	defer s.strangers.mu.Unlock()
	return s.strangers.all
}
