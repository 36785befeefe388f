package policy

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"cel.dev/cel-go/cel"
)

// World is everything that rules are written in and refer to.
type World struct {
	Rules      []Rule
	Audiences  []Audience
	Issuers    map[string]string // by name, what the iss of their tokens is
	Clients    []string          // names that exist
	SelfIssuer string            // issuer identifier of this service

	// Before is a Set whose compiled expressions are taken over; it may be nil.
	Before *Set
}

// Problem is one thing that is wrong with a resource.
type Problem struct {
	Kind    string // Rule or Audience
	Name    string
	Field   string // path inside the resource
	Message string
}

// Set is a compiled World. It is immutable.
type Set struct {
	audiences map[string]*audience // by identifier
	folded    map[string]string    // identifiers by foldIdentifier
	allow     permissions
	deny      prohibitions
	rules     []*rule
	reads     map[string]Reads // by the issuer of the subject token
	programs  map[programKey]compiled
}

type audience struct {
	name        string
	identifiers []string
	scopes      map[string]bool
	maxTTL      time.Duration
	keySet      string
	binding     Binding
}

type rule struct {
	*Rule
	labels         []string // names of Requester.Labels, sorted
	subject, actor *party
	when           cel.Program // nil: always
	claims         []claim     // sorted by name
	sub            cel.Program // nil: the token's
	mayAct         *MayAct     // nil: anybody
	audiences      []*audience
	expressions    []compiled // all of them
}

// claim is an extra claim that a rule sets.
type claim struct {
	name, folded, source string
	value                cel.Program
}

// ttl is how long a token for one of the rule's audiences may live.
func (r *rule) ttl(a *audience) time.Duration {
	if r.Allow.TTL == 0 || r.Allow.TTL > a.maxTTL {
		return a.maxTTL
	}
	return r.Allow.TTL
}

const defaultMaxTTL = time.Hour

// Compile checks a World and prepares it for decisions. If there are problems,
// all of them are returned and there is no Set.
func Compile(w World) (*Set, []Problem) {
	c := &compiler{
		set:     &Set{audiences: map[string]*audience{}, folded: map[string]string{}},
		named:   map[string]*audience{},
		issuers: w.Issuers, self: w.SelfIssuer, clients: set(w.Clients),
		programs: map[programKey]compiled{}, reading: reading{},
	}
	if w.Before != nil {
		c.before = w.Before.programs
	}
	for i := range w.Audiences {
		c.audience(&w.Audiences[i])
	}
	names := map[string]bool{}
	for i := range w.Rules {
		r := &w.Rules[i]
		if names[r.Name] {
			c.problem("Rule", r.Name, "name", "another rule has the same name")
		}
		names[r.Name] = true
		c.rule(r)
	}
	c.set.reads, c.set.programs = c.reading.sorted(), c.programs
	c.conflicts()
	c.set.allow = newPermissions(c.allowing)
	c.set.deny = newProhibitions(c.denying)
	if n := len(c.set.deny.everybody); n > maxForEverybody {
		c.problem("Rule", c.set.deny.everybody[n-1].Name, "deny", "%d rules deny without saying whom by requester, subject.issuer or audiences; they are looked at for every request, so there are at most %d", n, maxForEverybody)
	}
	if len(c.problems) > 0 {
		return nil, c.problems
	}
	return c.set, nil
}

func set(names []string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}

type compiler struct {
	set      *Set
	named    map[string]*audience
	issuers  map[string]string
	self     string
	clients  map[string]bool
	programs map[programKey]compiled // one for rules that say the same
	before   map[programKey]compiled // of the Set before
	reading  reading
	problems []Problem

	allowing, denying []*rule
}

type programKey struct {
	source string
	yields yields
}

type compiled struct {
	program  cel.Program
	reads    []string // claims that it names: subject.NAME and actor.NAME
	readsAny bool     // it looks at claims that it does not name
	err      error
}

func (c *compiler) problem(kind, name, field, format string, args ...any) {
	c.problems = append(c.problems, Problem{kind, name, field, fmt.Sprintf(format, args...)})
}

func (c *compiler) audience(in *Audience) {
	a := &audience{name: in.Name, identifiers: in.Identifiers, scopes: set(in.Scopes), maxTTL: in.MaxTTL, keySet: in.KeySet, binding: in.Binding}
	if !in.Binding.known() {
		c.problem("Audience", in.Name, "binding", "%q is not one of %s", in.Binding, bindingNames)
	}
	if len(a.identifiers) == 0 {
		a.identifiers = []string{in.Name}
	}
	if a.maxTTL == 0 {
		a.maxTTL = defaultMaxTTL
	}
	for i, s := range in.Scopes {
		if !validScope(s) {
			c.problem("Audience", in.Name, fmt.Sprintf("scopes[%d]", i), "a scope is made of visible ASCII characters except \" and \\ [RFC 6749 §3.3]")
		}
	}
	for i, id := range a.identifiers {
		if other, taken := c.set.audiences[id]; taken {
			c.problem("Audience", in.Name, fmt.Sprintf("identifiers[%d]", i), "Audience %q has the same identifier", other.name)
			continue
		}
		c.set.audiences[id] = a
		if fold := foldIdentifier(id); c.set.folded[fold] == "" {
			c.set.folded[fold] = id
		}
	}
	c.named[in.Name] = a
}

// validScope holds a scope to the characters of RFC 6749 §3.3.
func validScope(s string) bool {
	for i := range len(s) {
		if c := s[i]; c != 0x21 && (c < 0x23 || c > 0x5b) && (c < 0x5d || c > 0x7e) {
			return false
		}
	}
	return s != ""
}

func (c *compiler) rule(in *Rule) {
	r := &rule{Rule: in, labels: slices.Sorted(maps.Keys(in.Requester.Labels)), subject: newParty(in.Subject), actor: newParty(in.Actor)}
	bad := func(field, format string, args ...any) { c.problem("Rule", in.Name, field, format, args...) }
	c.requester(r, bad)
	c.party("subject", in.Subject, bad)
	c.party("actor", in.Actor, bad)
	if in.Actor != nil && in.Actor.AcceptUnaddressed {
		bad("actor.accept_unaddressed", "is for subjects")
	}
	if in.When != "" {
		r.when = c.expression(r, "when", in.When, yieldsBool, bad)
	}
	if in.Deny != nil {
		c.deny(r, bad)
		c.denying = append(c.denying, r)
	} else {
		c.require(r, bad)
		c.limits(r, bad)
		c.allow(r, bad)
		c.allowing = append(c.allowing, r)
	}
	c.reading.add(r, c.issuers)
	c.set.rules = append(c.set.rules, r)
}

// expression compiles one of the expressions of a rule; nil if that cannot be done.
func (c *compiler) expression(r *rule, field, source string, y yields, bad func(field, format string, args ...any)) cel.Program {
	p := c.program(source, y)
	if p.err != nil {
		bad(field, "%s", p.err)
		return nil
	}
	r.expressions = append(r.expressions, p)
	return p.program
}

// program compiles an expression once, however many rules have it.
func (c *compiler) program(source string, y yields) compiled {
	key := programKey{source, y}
	p, ok := c.programs[key]
	if !ok {
		if p, ok = c.before[key]; !ok {
			p = compileExpression(source, y)
		}
		c.programs[key] = p
	}
	return p
}
