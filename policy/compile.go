package policy

import (
	"fmt"
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
	allow     permissions
	deny      prohibitions
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
	subject, actor *party
	when           cel.Program // nil: always
	claims         []claim     // sorted by name
	sub            cel.Program // nil: the token's
	mayAct         *MayAct     // nil: anybody
	audiences      []*audience
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
		set:     &Set{audiences: map[string]*audience{}},
		named:   map[string]*audience{},
		issuers: w.Issuers, self: w.SelfIssuer, clients: set(w.Clients),
		programs: map[programKey]compiled{},
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
	problems []Problem

	allowing, denying []*rule
}

type programKey struct {
	source string
	yields yields
}

type compiled struct {
	program cel.Program
	err     error
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
	r := &rule{Rule: in, subject: newParty(in.Subject), actor: newParty(in.Actor)}
	bad := func(field, format string, args ...any) { c.problem("Rule", in.Name, field, format, args...) }
	c.requester(r, bad)
	c.party("subject", in.Subject, bad)
	c.party("actor", in.Actor, bad)
	if in.Actor != nil && in.Actor.AcceptUnaddressed {
		bad("actor.accept_unaddressed", "is for subjects")
	}
	if in.When != "" {
		var err error
		if r.when, err = c.program(in.When, yieldsBool); err != nil {
			bad("when", "%s", err)
		}
	}
	if in.Deny != nil {
		c.deny(r, bad)
		c.denying = append(c.denying, r)
		return
	}
	c.require(r, bad)
	c.limits(r, bad)
	c.allow(r, bad)
	c.allowing = append(c.allowing, r)
}

// program compiles an expression once, however many rules have it.
func (c *compiler) program(source string, y yields) (cel.Program, error) {
	key := programKey{source, y}
	p, ok := c.programs[key]
	if !ok {
		p.program, p.err = compileExpression(source, y)
		c.programs[key] = p
	}
	return p.program, p.err
}
