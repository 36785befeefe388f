package check

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Violation is something that must not have happened.
type Violation struct {
	Invariant string // V1 to V10
	Text      string
}

func (v Violation) String() string { return v.Invariant + ": " + v.Text }

// most is how many violations of one invariant are told: the first ones.
const most = 5

// Check returns what is wrong with a history.
//
//	V1  no token that must not be
//	V2  what was revoked stays revoked
//	V3  what can be used once is used once
//	V4  each token verifies with the keys that were published
//	V5  each token has one record
//	V6  what was written is there
//	V7  what a node uses is what it used before
//	V8  each call is answered in time, and in the words of the standard
//	V9  what needs nothing is there whatever is broken
//	V10 no secret in what others read
func Check(h History) []Violation {
	var all []Violation
	for _, f := range []func(History) []Violation{
		tokens, revocations, singleUses, records, resources, usage, answers, liveness, secrets,
	} {
		found := f(h)
		if len(found) > most {
			more := fmt.Sprintf("and %d more", len(found)-most)
			found = append(found[:most:most], Violation{found[0].Invariant, more})
		}
		all = append(all, found...)
	}
	return all
}

// answers: each call ends by its deadline with an answer that is one [V8].
func answers(h History) []Violation {
	var all []Violation
	bad := func(c Call, format string, args ...any) {
		all = append(all, Violation{"V8", fmt.Sprintf("%s at node %d: %s", c.Kind, c.Node, fmt.Sprintf(format, args...))})
	}
	for _, c := range h.Calls {
		excused := h.excused(c)
		if took := c.End.Sub(c.Begin); took > h.Deadline && !excused {
			bad(c, "ended after %v", took)
		}
		switch {
		case c.Status == 0 && !excused:
			bad(c, "no answer: %s", c.Problem)
		case c.Status != 0 && c.Problem != "":
			bad(c, "status %d: %s", c.Status, c.Problem)
		case (c.Status == 503 || c.Status == 429) && !c.RetryAfter:
			bad(c, "status %d does not say when to come again", c.Status)
		case c.Status >= 500 && c.Status != 503:
			bad(c, "status %d", c.Status)
		}
	}
	return all
}

// liveness: what needs no dependency is answered whenever the node runs [V9].
func liveness(h History) []Violation {
	var all []Violation
	for _, c := range h.Calls {
		if c.Kind == Look && c.Status != 200 && !h.excused(c) {
			all = append(all, Violation{"V9", fmt.Sprintf("%s at node %d: status %d %s", c.Key, c.Node, c.Status, c.Problem)})
		}
	}
	return all
}

// excused reports whether a node was away at a time in a call.
func (h History) excused(c Call) bool {
	return slices.ContainsFunc(h.Outages, func(o Outage) bool {
		return o.Node == c.Node && o.From.Before(c.End) && c.Begin.Before(o.To)
	})
}

// secrets: none is in anything that is written [V10].
func secrets(h History) []Violation {
	var all []Violation
	for _, s := range h.Secrets {
		if len(s.Text) < 16 {
			all = append(all, Violation{"V10", fmt.Sprintf("the secret %s is too short to be looked for", s.Name)})
			continue
		}
		for _, t := range h.Texts {
			if strings.Contains(t.Text, s.Text) {
				all = append(all, Violation{"V10", fmt.Sprintf("%s is in %s", s.Name, t.Name)})
			}
		}
	}
	return all
}

// Usage is what a node used before and after.
type Usage struct {
	Node          int
	Before, After map[string]float64 // by metric
}

// Slack is what a metric may have more than it had, beside a tenth.
var Slack = map[string]float64{
	"go_goroutines":                10,
	"process_open_fds":             10,
	"go_memstats_heap_inuse_bytes": 24 << 20,
}

// Grown returns what a node uses more of than it did.
func (u Usage) Grown() []string {
	var grown []string
	for name, slack := range Slack {
		before, known := u.Before[name]
		after, there := u.After[name]
		if !known || !there || after > before*1.1+slack {
			grown = append(grown, fmt.Sprintf("%s was %g and is %g", name, before, after))
		}
	}
	slices.Sort(grown)
	return grown
}

// usage: what a node uses is what it used before [V7].
func usage(h History) []Violation {
	var all []Violation
	for _, u := range h.Usage {
		for _, g := range u.Grown() {
			all = append(all, Violation{"V7", fmt.Sprintf("node %d: %s", u.Node, g)})
		}
	}
	return all
}

// never is later than everything in a history.
func (h History) never() time.Time {
	var last time.Time
	for _, c := range h.Calls {
		if c.End.After(last) {
			last = c.End
		}
	}
	return last.Add(h.Lag + time.Hour)
}
