package policy

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
)

// answer is what the naive evaluation says; code 0 is a grant.
type answer struct {
	code                                     Code
	nearest                                  bool // rules for the requester exist, and it was them that denied
	scopes, audiences, rules, actors, claims []string
	expires                                  time.Time
	keySet                                   string
	confirmation                             Confirmation
	subject                                  string
	exchanges                                int
	mayAct                                   bool
	uses                                     []Uses
}

// naive decides by looking at all rules, without an index and without CEL. It
// knows the worlds of drawWorld: all audiences have all scopes.
func naive(w World, r Request) answer {
	if code := naiveConsent(r); code != 0 {
		return answer{code: code}
	}
	actors, ok := naiveActors(r)
	if !ok {
		return answer{code: InvalidRequest}
	}
	if naiveExchanges(r) > 16 {
		return answer{code: InvalidRequest}
	}
	var asked, names []string
	for _, target := range r.Targets {
		name := target[len(target)-1:]
		if !slices.Contains(asked, name) {
			asked, names = append(asked, name), append(names, target)
		}
	}
	if len(naiveKeySets(w, asked)) > 1 {
		return answer{code: InvalidTarget}
	}
	codes := [...]Code{UnauthorizedClient, InvalidRequest, InvalidRequest, InvalidTarget, InvalidRequest, InvalidRequest, InvalidRequest, InvalidRequest, InvalidScope}
	furthest, candidates := 0, 0
	var rules []Rule
	for _, rule := range w.Rules {
		if rule.Deny != nil {
			continue
		}
		at := naiveStage(rule, r, asked)
		if furthest = max(furthest, at); at == len(codes) {
			rules = append(rules, rule)
		}
		if at > 0 {
			candidates++
		}
	}
	if len(rules) == 0 {
		return answer{code: codes[furthest], nearest: candidates > 0}
	}
	if len(asked) == 0 {
		left := map[string]bool{}
		for _, rule := range rules {
			for _, name := range rule.Allow.Audiences {
				left[name] = true
			}
		}
		if len(left) > 1 {
			return answer{code: InvalidTarget}
		}
		asked = slices.Collect(maps.Keys(left))
		names = asked
	}
	denied, code := naiveDenied(w, r, asked)
	if code != 0 {
		return answer{code: code, nearest: true}
	}
	rules, bound, code := naiveBinding(w, r, rules, asked)
	if code != 0 {
		return answer{code: code, nearest: true}
	}
	a := naiveAmount(w, r, rules, asked, denied)
	a.subject, a.exchanges = naiveSubjectName(r, rules), naiveExchanges(r)
	for _, rule := range rules {
		if slices.Contains(a.rules, rule.Name) {
			a.mayAct = a.mayAct || rule.Allow.MayAct != nil
			if n := rule.Limits.UsesPerTransaction; n > 0 {
				a.uses = append(a.uses, Uses{rule.Name, n})
			}
		}
	}
	a.confirmation = naiveConfirmation(w, r, a.rules, asked, bound)
	a.audiences, a.actors, a.keySet = names, actors, naiveKeySets(w, asked)[0]
	if a.code == 0 && r.Subject != nil && r.Actor == nil && !slices.ContainsFunc(w.Rules, func(rule Rule) bool {
		return slices.Contains(a.rules, rule.Name) && !rule.Allow.Impersonate
	}) {
		a.actors = subjects(r.Subject.Act)
	}
	return a
}

// naiveKeySets are the key sets of audiences, each once.
func naiveKeySets(w World, asked []string) []string {
	var out []string
	for _, a := range w.Audiences {
		if slices.Contains(asked, a.Name) && !slices.Contains(out, a.KeySet) {
			out = append(out, a.KeySet)
		}
	}
	return out
}

// naiveAmount adds up scopes and lifetimes.
func naiveAmount(w World, r Request, rules []Rule, asked []string, denied map[string]bool) answer {
	offered := map[string]time.Duration{} // the longest life of each scope
	lives := map[string]time.Duration{}   // of each rule
	for _, rule := range rules {
		life := cmp.Or(rule.Allow.TTL, 24*time.Hour)
		for _, a := range w.Audiences {
			if slices.Contains(asked, a.Name) {
				life = min(life, a.MaxTTL)
			}
		}
		lives[rule.Name] = life
		for _, scope := range naiveScopes(rule, r) {
			offered[scope] = max(offered[scope], life)
		}
	}
	own := r.Subject != nil && r.Subject.Issuer == Self
	var out answer
	for _, scope := range someScopes {
		wanted := slices.Contains(r.Scopes, scope)
		within := !own || slices.Contains(r.Subject.Scopes, scope)
		_, offer := offered[scope]
		switch {
		case wanted && !(within && offer):
			return answer{code: InvalidScope, nearest: !slices.ContainsFunc(r.Scopes, func(s string) bool { return own && !slices.Contains(r.Subject.Scopes, s) })}
		case wanted && denied[scope]:
			return answer{code: InvalidScope, nearest: true}
		case wanted || len(r.Scopes) == 0 && within && offer && !denied[scope]:
			out.scopes = append(out.scopes, scope)
		}
	}
	slices.Sort(out.scopes)
	counts := func(rule Rule) bool {
		return len(r.Scopes) == 0 && naiveScopeless(rule) ||
			slices.ContainsFunc(out.scopes, func(s string) bool { return slices.Contains(naiveScopes(rule, r), s) })
	}
	left := slices.ContainsFunc(rules, counts) // if not, there are only lifetimes
	var life time.Duration
	for _, rule := range rules {
		if left && !counts(rule) {
			continue
		}
		out.rules = append(out.rules, rule.Name)
		life = max(life, lives[rule.Name])
		if left && rule.Allow.Claims != nil {
			out.claims = append(out.claims, rule.Name)
		}
	}
	for _, scope := range out.scopes {
		life = min(life, offered[scope])
	}
	out.expires = r.Now.Add(life)
	for _, k := range []*Token{r.Subject, r.Actor} {
		if k != nil && k.Expires.Before(out.expires) {
			out.expires = k.Expires
		}
	}
	if out.expires.Sub(r.Now) < 5*time.Second {
		return answer{code: InvalidRequest}
	}
	return out
}

// naiveConsent says whether the tokens themselves allow the request.
func naiveConsent(r Request) Code {
	if r.Client == nil && (r.Subject == nil || r.Subject.Issuer == Self) || r.Subject == nil && r.Actor != nil {
		return InvalidRequest
	}
	for _, k := range []*Token{r.Subject, r.Actor} {
		switch {
		case k == nil:
		case k.Confirmation.Other:
			return InvalidRequest
		case k.Confirmation.JKT != "" && r.Proven.JKT != k.Confirmation.JKT:
			return InvalidProof
		case k.Confirmation.X5T != "" && r.Proven.X5T != k.Confirmation.X5T:
			return InvalidRequest
		}
	}
	if r.Actor != nil && r.Actor.Issuer == Self && !naiveAddressed(r.Actor, r.Client) {
		return InvalidRequest
	}
	if r.Subject != nil && r.Subject.MayAct != nil {
		m := r.Subject.MayAct
		if r.Actor == nil || r.Actor.Iss != cmp.Or(m.Iss, r.Subject.Iss) || r.Actor.Subject != m.Subject {
			return InvalidRequest
		}
	}
	return 0
}

// naiveDemands are the bindings that audiences and the client ask for.
func naiveDemands(w World, r Request, asked []string) (mtls, dpop, either bool) {
	dpop = r.Client != nil && r.Client.DPoP
	for _, a := range w.Audiences {
		if slices.Contains(asked, a.Name) {
			mtls, dpop, either = mtls || a.Binding == MTLSBinding, dpop || a.Binding == DPoPBinding, either || a.Binding == AnyBinding
		}
	}
	return mtls, dpop, either
}

// naiveBinding says what the token can be bound to, and for which rules that is
// enough.
func naiveBinding(w World, r Request, rules []Rule, asked []string) ([]Rule, Binding, Code) {
	mtls, dpop, either := naiveDemands(w, r, asked)
	var bound Binding
	switch {
	case mtls && dpop:
		return nil, "", InvalidTarget
	case mtls && r.Proven.X5T == "", either && r.Proven == Confirmation{} && !dpop:
		return nil, "", InvalidRequest
	case dpop && r.Proven.JKT == "":
		return nil, "", InvalidProof
	case mtls, r.Proven.JKT == "" && r.Proven.X5T != "":
		bound = MTLSBinding
	case r.Proven.JKT != "":
		bound = DPoPBinding
	}
	var left []Rule
	for _, rule := range rules {
		switch want := rule.Require.Binding; {
		case want == "", want == NoBinding, want == bound, want == AnyBinding && bound != "":
			left = append(left, rule)
		}
	}
	switch {
	case len(left) > 0:
		return left, bound, 0
	case rules[0].Require.Binding == DPoPBinding:
		return nil, "", InvalidProof
	}
	return nil, "", InvalidRequest
}

// naiveConfirmation is the key that a token of these rules is bound to.
func naiveConfirmation(w World, r Request, rules, asked []string, bound Binding) Confirmation {
	mtls, _, either := naiveDemands(w, r, asked)
	must := mtls || either
	for _, rule := range w.Rules {
		must = must || slices.Contains(rules, rule.Name) && rule.Require.Binding != "" && rule.Require.Binding != NoBinding
	}
	for _, k := range []*Token{r.Subject, r.Actor} {
		must = must || k != nil && k.Confirmation != Confirmation{}
	}
	switch {
	case bound == DPoPBinding:
		return Confirmation{JKT: r.Proven.JKT}
	case bound == MTLSBinding && must:
		return Confirmation{X5T: r.Proven.X5T}
	}
	return Confirmation{}
}

func naiveAddressed(k *Token, c *Client) bool {
	return c != nil && (k.ClientID == c.ID || slices.ContainsFunc(c.Audiences, func(a string) bool { return slices.Contains(k.Audiences, a) }))
}

// naiveActors is the chain, outermost first, unless it comes back or is too long.
func naiveActors(r Request) ([]string, bool) {
	if r.Subject == nil {
		return nil, true
	}
	var now Actor
	switch {
	case r.Actor != nil:
		now = Actor{Iss: r.Actor.Iss, Subject: r.Actor.Subject}
		if now.Iss == r.Subject.Iss && now.Subject == r.Subject.Subject {
			return nil, false
		}
	case r.Client != nil && (r.Subject.Issuer != Self || r.Subject.Subject != r.Client.ID):
		now = Actor{Iss: r.SelfIssuer, Subject: r.Client.ID}
	default:
		return subjects(r.Subject.Act), true
	}
	names := subjects(r.Subject.Act)
	at := 0
	for a := r.Subject.Act; a != nil; a = a.Act {
		if a.Iss == now.Iss && a.Subject == now.Subject {
			return names, at == 0
		}
		at++
	}
	return append([]string{now.Subject}, names...), at < maxChain
}

// naiveStage is how many predicates of a rule hold, in their order.
func naiveStage(rule Rule, r Request, asked []string) int {
	q := rule.Requester
	workload := len(q.Clients)+len(q.Labels) == 0
	var labels map[string]string
	if r.Client != nil {
		labels = r.Client.Labels
	}
	labelled := true
	for name, value := range q.Labels {
		labelled = labelled && labels[name] == value
	}
	switch {
	case workload != (r.Client == nil), workload && rule.Subject.Issuer != r.Subject.Issuer,
		!workload && len(q.Clients) > 0 && !slices.Contains(q.Clients, r.Client.ID), !labelled:
		return 0
	case !naiveSubject(rule, r):
		return 1
	case rule.Actor == nil && r.Actor != nil, rule.Actor != nil && !naiveParty(rule.Actor, r.Actor):
		return 2
	case len(asked) > 1 && !rule.Allow.MultipleAudiences, slices.ContainsFunc(asked, func(a string) bool { return !slices.Contains(rule.Allow.Audiences, a) }):
		return 3
	case r.TokenType != AccessToken && !slices.Contains(rule.Allow.TokenTypes, r.TokenType):
		return 4
	case !naiveYoung(r, "iat", rule.Require.MaxTokenAge), !naiveYoung(r, "auth_time", rule.Require.MaxAuthAge):
		return 5
	case rule.Limits.Actors > 0 && naiveDepth(r) > rule.Limits.Actors, rule.Limits.Exchanges > 0 && naiveExchanges(r) > rule.Limits.Exchanges:
		return 6
	case !whenHolds[rule.When](r.Subject), rule.Allow.Sub == "subject.claims.role" && naiveRole(r.Subject) == "":
		return 7
	case len(rule.Allow.ScopesFromClaims) > 0 && len(naiveScopes(rule, r)) == 0 && !rule.Allow.ScopesFromRequest:
		return 8
	}
	return 9
}

func naiveRole(k *Token) string {
	if k == nil {
		return ""
	}
	role, _ := k.Claims["role"].(string)
	return role
}

func naiveDepth(r Request) int {
	actors, _ := naiveActors(r)
	return len(actors)
}

func naiveExchanges(r Request) int {
	switch {
	case r.Subject == nil:
		return 0
	case r.Subject.Issuer != Self:
		return 1
	}
	return r.Subject.Exchanges + 1
}

func naiveYoung(r Request, claim string, most time.Duration) bool {
	if most == 0 {
		return true
	}
	if r.Subject == nil {
		return false
	}
	at, ok := r.Subject.Claims[claim].(int64)
	age := r.Now.Unix() - at
	return ok && time.Duration(age)*time.Second <= most && age >= -30
}

func naiveScopeless(rule Rule) bool {
	return len(rule.Allow.Scopes) == 0 && rule.Allow.ScopesFromClaims == nil && !rule.Allow.ScopesFromRequest
}

// naiveScopes are all scopes that a rule allows for a request.
func naiveScopes(rule Rule, r Request) []string {
	out := slices.Clone(rule.Allow.Scopes)
	if rule.Allow.ScopesFromRequest {
		out = append(out, r.Scopes...)
	}
	for _, m := range rule.Allow.ScopesFromClaims {
		if r.Subject == nil {
			continue
		}
		claims := map[string]any{m.Claim: r.Subject.Claims[m.Claim]}
		if s, ok := claims["scope"].(string); ok {
			list := []any{}
			for _, one := range strings.Split(s, " ") {
				list = append(list, one)
			}
			claims["scope"] = list
		}
		if naiveParty(&Party{Issuer: "x", Claims: map[string]any{m.Claim: m.Value}}, &Token{Issuer: "x", Claims: claims}) {
			out = append(out, m.Scopes...)
		}
	}
	return out
}

func naiveSubjectName(r Request, rules []Rule) string {
	switch {
	case r.Subject == nil:
		return r.Client.ID
	case r.Subject.Issuer == Self:
		return r.Subject.Subject
	}
	name := r.Subject.Subject
	switch rules[0].Allow.Sub {
	case "subject.claims.role":
		name = naiveRole(r.Subject)
	case `"same"`:
		name = "same"
	}
	return r.Subject.Issuer + ":" + name
}

// naiveDenied returns the scopes that rules deny, or why the request is denied.
func naiveDenied(w World, r Request, asked []string) (map[string]bool, Code) {
	scopes := map[string]bool{}
	var names []string
	codes := map[string]Code{}
	for _, rule := range w.Rules {
		switch {
		case rule.Deny == nil || !naiveHit(rule, r, asked):
		case len(rule.Deny.Scopes) > 0:
			for _, s := range rule.Deny.Scopes {
				scopes[s] = true
			}
		default:
			names = append(names, rule.Name)
			switch {
			case len(rule.Deny.Audiences) > 0:
				codes[rule.Name] = InvalidTarget
			case rule.Subject != nil || rule.Actor != nil || rule.When != "":
				codes[rule.Name] = InvalidRequest
			default:
				codes[rule.Name] = UnauthorizedClient
			}
		}
	}
	slices.Sort(names)
	if len(names) > 0 {
		return nil, codes[names[0]]
	}
	return scopes, 0
}

// naiveHit tells whether a rule that denies matches. Its condition holds unless it
// is known not to.
func naiveHit(rule Rule, r Request, asked []string) bool {
	q := rule.Requester
	var labels map[string]string
	if r.Client != nil {
		labels = r.Client.Labels
	}
	for name, value := range q.Labels {
		if labels[name] != value {
			return false
		}
	}
	if q.Workload && r.Client != nil || len(q.Clients) > 0 && (r.Client == nil || !slices.Contains(q.Clients, r.Client.ID)) {
		return false
	}
	if rule.Subject != nil && !naiveParty(rule.Subject, r.Subject) || rule.Actor != nil && !naiveParty(rule.Actor, r.Actor) {
		return false
	}
	if len(rule.Deny.Audiences) > 0 && !slices.ContainsFunc(asked, func(a string) bool { return slices.Contains(rule.Deny.Audiences, a) }) {
		return false
	}
	missing := rule.When == `subject.claims.role == "dev"` && (r.Subject == nil || r.Subject.Claims["role"] == nil)
	return missing || whenHolds[rule.When](r.Subject)
}

func naiveSubject(rule Rule, r Request) bool {
	k := r.Subject
	if rule.Subject == nil {
		return k == nil || k.Issuer == Self && k.Subject == r.Client.ID && k.ClientID == r.Client.ID && k.Act == nil
	}
	return naiveParty(rule.Subject, k) && (k.Issuer != Self || rule.Subject.AcceptUnaddressed || naiveAddressed(k, r.Client))
}

func naiveParty(p *Party, k *Token) bool {
	if k == nil || k.Issuer != p.Issuer {
		return false
	}
	asList := func(v any) []any {
		if l, ok := v.([]any); ok {
			return l
		}
		return []any{v}
	}
	for name, want := range p.Claims {
		got, ok := k.Claims[name]
		if !ok || !slices.ContainsFunc(asList(want), func(e any) bool { return slices.Contains(asList(got), e) }) {
			return false
		}
	}
	for name, pattern := range p.ClaimGlobs {
		got, ok := k.Claims[name].(string)
		if !ok || !plainGlob(pattern, got) {
			return false
		}
	}
	return true
}
