package check

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// The models are registers, one for each token, assertion and resource, and for
// each node: what nodes see of one register may differ for a time, so that each
// has a history of its own, in which what was done at other nodes is done at some
// moment between its begin and Lag after its end.
//
// An assertion is one register for all nodes, without any lag.

// step is a call in a history.
type step struct {
	kind   Kind
	answer Answer
	value  int
}

// revocations: what was revoked stays revoked, and nothing else is [V2].
func revocations(h History) []Violation {
	model := porcupine.Model{
		Init: func() any { return false }, // it is not revoked
		Step: func(state, input, _ any) (bool, any) {
			revoked, s := state.(bool), input.(step)
			if s.kind == Revoke {
				return true, true
			}
			return revoked == (s.answer == No), revoked
		},
	}
	return h.linearizable("V2", model, h.perNode(func(c Call) bool {
		switch c.Kind {
		case Revoke:
			return c.Answer != No
		case Introspect, Exchange:
			return c.Answer != Unknown
		}
		return false
	}, Revoke))
}

// resources: what was acknowledged is there, and what is there was written. Each
// resource is written by one client, with numbers that grow, so that what was
// written later is told from what was written before [V6].
func resources(h History) []Violation {
	model := porcupine.Model{
		Init: func() any { return 0 },
		Step: func(state, input, _ any) (bool, any) {
			has, s := state.(int), input.(step)
			switch {
			case s.kind == Read:
				return has == s.value, has
			case s.answer == Unknown:
				return true, max(has, s.value)
			}
			return has < s.value, s.value
		},
	}
	return h.linearizable("V6", model, h.perNode(func(c Call) bool {
		return c.Kind == Write && c.Answer != No || c.Kind == Read && c.Answer == Yes
	}, Write))
}

// singleUses: what can be used once is accepted once, wherever; and it is called
// used only if it may have been [V3].
func singleUses(h History) []Violation {
	model := porcupine.Model{
		Init: func() any { return false }, // it was not used
		Step: func(state, input, _ any) (bool, any) {
			used, s := state.(bool), input.(step)
			switch s.answer {
			case Yes:
				return !used, true
			case No:
				return used, used
			}
			return true, true
		},
	}
	histories := map[register][]porcupine.Operation{}
	for _, c := range h.Calls {
		if c.Kind == Use {
			r := register{key: c.Key}
			histories[r] = append(histories[r], h.operation(c, 0))
		}
	}
	return h.linearizable("V3", model, histories)
}

// register is what one node sees of one key.
type register struct {
	key  string
	node int
}

// perNode makes the histories of all registers of some calls. Those of a kind that
// changes things are in the histories of all nodes.
func (h History) perNode(counts func(Call) bool, changes Kind) map[register][]porcupine.Operation {
	nodes := map[int]bool{}
	for _, c := range h.Calls {
		nodes[c.Node] = true
	}
	histories := map[register][]porcupine.Operation{}
	add := func(c Call, node int, lag time.Duration) {
		r := register{c.Key, node}
		histories[r] = append(histories[r], h.operation(c, lag))
	}
	for _, c := range h.Calls {
		switch {
		case !counts(c):
		case c.Kind != changes:
			add(c, c.Node, 0)
		default:
			for node := range nodes {
				lag := h.Lag
				if node == c.Node {
					lag = 0
				}
				add(c, node, lag)
			}
		}
	}
	return histories
}

func (h History) operation(c Call, lag time.Duration) porcupine.Operation {
	end := c.End.Add(lag)
	if c.Answer == Unknown {
		end = h.never()
	}
	origin := h.Calls[0].Begin.Add(-24 * time.Hour)
	return porcupine.Operation{
		Input: step{c.Kind, c.Answer, c.Value}, Call: int64(c.Begin.Sub(origin)), Return: int64(end.Sub(origin)), Metadata: c,
	}
}

// patience is how long one register may take to be checked. Histories of one
// register are short, so more is an error of the test.
const patience = 20 * time.Second

func (h History) linearizable(invariant string, model porcupine.Model, histories map[register][]porcupine.Operation) []Violation {
	var all []Violation
	order := slices.SortedFunc(maps.Keys(histories), func(a, b register) int {
		return slices.Compare([]string{a.key, fmt.Sprint(a.node)}, []string{b.key, fmt.Sprint(b.node)})
	})
	for _, r := range order {
		if got := porcupine.CheckOperationsTimeout(model, telling(histories[r]), patience); got != porcupine.Ok {
			all = append(all, Violation{invariant, fmt.Sprintf("%s as node %d shows it (%s):%s", r.key, r.node, got, h.story(histories[r]))})
		}
	}
	return all
}

// telling leaves out calls of which nobody knows what they did, and which change
// nothing in whether a history is right: those before which another one may have
// done the same, and those that have written what nobody ever read. Each would
// double the time that it takes to check.
func telling(ops []porcupine.Operation) []porcupine.Operation {
	read := map[int]bool{}
	var first *porcupine.Operation // of what may be done once and for all
	for i, o := range ops {
		switch s := o.Input.(step); {
		case s.kind == Read:
			read[s.value] = true
		case s.answer == Unknown && s.kind != Write && (first == nil || o.Call < first.Call):
			first = &ops[i]
		}
	}
	var kept []porcupine.Operation
	for i, o := range ops {
		switch s := o.Input.(step); {
		case s.answer != Unknown, s.kind == Write && read[s.value], &ops[i] == first:
			kept = append(kept, o)
		}
	}
	return kept
}

// story tells what happened to a register.
func (h History) story(ops []porcupine.Operation) string {
	var text string
	origin := h.Calls[0].Begin
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	for _, o := range ops {
		c := o.Metadata.(Call)
		text += fmt.Sprintf("\n\t%8.3f - %8.3f  node %d: %s %s (status %d, value %d)",
			c.Begin.Sub(origin).Seconds(), c.End.Sub(origin).Seconds(), c.Node, c.Kind, [...]string{"unknown", "yes", "no"}[c.Answer], c.Status, c.Value)
	}
	return text
}
