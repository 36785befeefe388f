package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"cel.dev/cel-go/cel"
)

// World is everything that rules are written in and refer to.
type World struct {
	Rules            []Rule
	Audiences        []Audience
	Issuers, Clients []string // names that exist
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
	byClient  map[string][]*rule   // rules that name the client
	byLabel   map[string][]*rule   // rules without clients, by their first label
	workload  map[string][]*rule   // rules for workloads themselves, by issuer
	rules     []*rule
	reads     map[string]Reads // by the issuer of the subject token
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
		set:     &Set{audiences: map[string]*audience{}, byClient: map[string][]*rule{}, byLabel: map[string][]*rule{}, workload: map[string][]*rule{}},
		named:   map[string]*audience{},
		issuers: set(w.Issuers), clients: set(w.Clients),
		programs: map[string]compiled{}, reading: reading{},
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
	c.set.reads = c.reading.sorted()
	c.conflicts()
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
	set              *Set
	named            map[string]*audience
	issuers, clients map[string]bool
	programs         map[string]compiled // one for rules that say the same
	reading          reading
	problems         []Problem
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
	if !in.Require.Binding.known() {
		bad("require.binding", "%q is not one of %s", in.Require.Binding, bindingNames)
	}
	if in.When != "" {
		p := c.program(in.When, true)
		if r.when = p.program; p.err != nil {
			bad("when", "%s", p.err)
		}
		r.expressions = append(r.expressions, p)
	}
	c.allow(r, bad)
	c.reading.add(r, r.expressions)
	c.set.rules = append(c.set.rules, r)
	switch {
	case in.Requester.workload():
		if in.Subject != nil {
			c.set.workload[in.Subject.Issuer] = append(c.set.workload[in.Subject.Issuer], r)
		}
	case len(in.Requester.Clients) > 0:
		for _, name := range slices.Compact(slices.Sorted(slices.Values(in.Requester.Clients))) {
			c.set.byClient[name] = append(c.set.byClient[name], r)
		}
	default:
		first := r.labels[0]
		key := labelKey(first, in.Requester.Labels[first])
		c.set.byLabel[key] = append(c.set.byLabel[key], r)
	}
}

func labelKey(name, value string) string { return name + "\x00" + value }

// workload tells whether a requester is the workload itself.
func (r Requester) workload() bool { return len(r.Clients) == 0 && len(r.Labels) == 0 }

func (c *compiler) requester(r *rule, bad func(field, format string, args ...any)) {
	q := r.Requester
	if q.Workload && !q.workload() {
		bad("requester.workload", "stands alone: a request has either a client or the workload itself as its requester")
	}
	for i, name := range q.Clients {
		if !c.clients[name] {
			bad(fmt.Sprintf("requester.clients[%d]", i), "Client %q is not defined%s", name, DidYouMean(name, c.clients))
		}
	}
	if !q.workload() {
		return
	}
	if r.Subject == nil {
		bad("subject", "is missing: without a requester the rule is for workloads that present their own token, whose issuer it must name")
	} else if r.Subject.Issuer == Self {
		bad("subject.issuer", "a token of this service is presented by a client; name the requester")
	}
}

func (c *compiler) party(what string, p *Party, bad func(field, format string, args ...any)) {
	if p == nil {
		return
	}
	if p.Issuer != Self && !c.issuers[p.Issuer] {
		bad(what+".issuer", "Issuer %q is not defined%s", p.Issuer, DidYouMean(p.Issuer, c.issuers))
	}
	if p.AcceptUnaddressed && p.Issuer != Self {
		bad(what+".accept_unaddressed", "is for tokens of issuer %q", Self)
	}
	for _, name := range slices.Sorted(maps.Keys(p.Claims)) {
		v := p.Claims[name]
		field := what + ".claims." + name
		switch list, isList := v.([]any); {
		case isList && len(list) == 0:
			bad(field, "an empty list matches nothing")
		case isList:
			for _, e := range list {
				c.value(field, e, bad)
			}
		default:
			c.value(field, v, bad)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.ClaimGlobs)) {
		pattern := p.ClaimGlobs[name]
		if !strings.Contains(pattern, "*") {
			bad(what+".claim_globs."+name, "has no *; put an exact value under claims")
		} else if strings.Trim(pattern, "*") == "" {
			bad(what+".claim_globs."+name, "matches every value; say what the claim must begin with")
		}
	}
	const actors = "only who presents an actor token decides about access; use actor [RFC 8693 §4.1]"
	if _, present := p.Claims["act"]; present {
		bad(what+".claims.act", actors)
	}
	if _, present := p.ClaimGlobs["act"]; present {
		bad(what+".claim_globs.act", actors)
	}
}

func (c *compiler) value(field string, v any, bad func(field, format string, args ...any)) {
	switch v := v.(type) {
	case string:
		if strings.Contains(v, "*") {
			bad(field, "is exact, so * stands for itself, which is rarely meant; use claim_globs for a pattern, or when for a literal star")
		}
	case bool, int64, float64:
	default:
		bad(field, "must be a string, a number, a boolean or a list of those")
	}
}

// program compiles an expression once, however many rules have it.
func (c *compiler) program(source string, boolean bool) compiled {
	key := fmt.Sprint(boolean, source)
	p, ok := c.programs[key]
	if !ok {
		p = compileExpression(source, boolean)
		c.programs[key] = p
	}
	return p
}

// foldName is a claim's name without its case. Verifiers that ignore case take
// names for each other that differ in it alone: encoding/json those of simple
// Unicode folding, where ſ is an s and the Kelvin sign a k, others that of an i
// with or without its dot as well.
func foldName(name string) string {
	return strings.Map(func(r rune) rune { return unicode.ToLower(unicode.ToUpper(r)) }, name)
}

// reserved are claims that the token format defines, as foldName has them.
var reserved = set(strings.Fields(`iss sub aud exp nbf iat jti client_id scope act may_act cnf txn azp auth_time
	acr amr nonce at_hash c_hash s_hash sid events token_use typ lineage active token_type username`))

func (c *compiler) allow(r *rule, bad func(field, format string, args ...any)) {
	a := r.Allow
	if len(a.Audiences) == 0 {
		bad("allow.audiences", "is missing: name the audiences that tokens are for")
	}
	for i, name := range a.Audiences {
		if found, ok := c.named[name]; ok {
			r.audiences = append(r.audiences, found)
		} else {
			bad(fmt.Sprintf("allow.audiences[%d]", i), "Audience %q is not defined%s", name, DidYouMean(name, c.named))
		}
	}
	for i, scope := range a.Scopes {
		if len(r.audiences) > 0 && !slices.ContainsFunc(r.audiences, func(a *audience) bool { return a.scopes[scope] }) {
			known := map[string]bool{}
			for _, a := range r.audiences {
				maps.Copy(known, a.scopes)
			}
			bad(fmt.Sprintf("allow.scopes[%d]", i), "scope %q is not defined by an audience of the rule%s", scope, DidYouMean(scope, known))
		}
	}
	if a.TTL < 0 || a.TTL > 0 && a.TTL < minLife {
		bad("allow.ttl", "must be at least %s", minLife)
	}
	for i, t := range a.TokenTypes {
		if t != JWT && t != IDToken {
			bad(fmt.Sprintf("allow.token_types[%d]", i), "%q is not one of jwt, id_token; an access_token is always allowed", t)
		}
	}
	folded := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(a.Claims)) {
		fold := foldName(name)
		if other, ok := folded[fold]; ok {
			bad("allow.claims."+name, "differs from claim %q in case alone, and some who read the token would take one for the other", other)
		}
		folded[fold] = name
		if reserved[fold] || name == "" || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			bad("allow.claims."+name, "this claim is defined by the token format and cannot be set by a rule")
			continue
		}
		p := c.program(a.Claims[name], false)
		if p.err != nil {
			bad("allow.claims."+name, "%s", p.err)
			continue
		}
		r.claims = append(r.claims, claim{name, fold, a.Claims[name], p.program})
		r.expressions = append(r.expressions, p)
	}
}
