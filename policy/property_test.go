package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// What random worlds are made of: few names, so that rules and requests meet.
var (
	someClients = []string{"web", "api", "batch"}
	someIssuers = []string{"corp", "github"}
	someScopes  = []string{"r", "w", "x"}
	someTargets = []string{"a", "b", "c"}
	someKeySets = []string{"default", "default", "rsa"}
	someLabels  = []map[string]string{nil, {"tier": "1"}, {"tier": "2"}, {"tier": "1", "zone": "e"}}
	someClaims  = []map[string]any{nil, {"role": "dev"}, {"role": "ops"}, {"role": []any{"dev", "ops"}}, {"n": int64(1)}, {"n": true}}
	someGlobs   = []map[string]string{nil, nil, {"ref": "heads/*"}, {"ref": "*/main"}}
	somePresent = []map[string]any{nil, {"role": "dev", "ref": "heads/main"}, {"role": []any{"ops"}, "n": int64(1)}, {"role": "ops", "n": "1", "ref": "heads/x/main"}, {"n": true, "ref": "tags/main"}}
	someLives   = []time.Duration{0, 10 * time.Second, time.Minute, 5 * time.Minute, 2 * time.Hour}
	// Few, so that what is proven is often what a token is bound to.
	someBindings      = []Binding{"", "", "", NoBinding, MTLSBinding, DPoPBinding, AnyBinding}
	someProven        = []Confirmation{{}, {}, {JKT: "k1"}, {JKT: "k2"}, {X5T: "c1"}, {JKT: "k1", X5T: "c1"}}
	someConfirmations = append([]Confirmation{{}, {}, {}, {}, {}, {}, {}, {}, {Other: true}, {X5T: "c2"}}, someProven...)
	someWhen          = []string{"", "", `subject.claims.role == "dev"`, `request.time > timestamp("2020-01-01T00:00:00Z")`, `has(subject.claims.n)`, `false`}
	whenHolds         = map[string]func(*Token) bool{ // someWhen without an interpreter
		"":          func(*Token) bool { return true },
		someWhen[2]: func(t *Token) bool { return t != nil && t.Claims["role"] == "dev" },
		someWhen[3]: func(*Token) bool { return true },
		someWhen[4]: func(t *Token) bool { return t != nil && t.Claims["n"] != nil },
		someWhen[5]: func(*Token) bool { return false },
	}
)

func pick[E any](t *rapid.T, from []E, label string) E { return rapid.SampledFrom(from).Draw(t, label) }

func some(t *rapid.T, from []string, least int, label string) []string {
	return rapid.SliceOfNDistinct(rapid.SampledFrom(from), least, len(from), rapid.ID[string]).Draw(t, label)
}

func drawParty(t *rapid.T, label string) *Party {
	if rapid.IntRange(0, 3).Draw(t, label+" missing") == 0 {
		return nil
	}
	p := &Party{Issuer: pick(t, append([]string{Self, Self}, someIssuers...), label+" issuer"), Claims: pick(t, someClaims, label+" claims"), ClaimGlobs: pick(t, someGlobs, label+" globs")}
	p.AcceptUnaddressed = p.Issuer == Self && label == "subject" && rapid.Bool().Draw(t, "unaddressed")
	return p
}

func drawRule(t *rapid.T, i int) Rule {
	r := Rule{Name: fmt.Sprintf("rule-%02d", i), Subject: drawParty(t, "subject"), When: pick(t, someWhen, "when")}
	if rapid.IntRange(0, 2).Draw(t, "actor") == 0 {
		r.Actor = drawParty(t, "actor")
	}
	switch rapid.IntRange(0, 3).Draw(t, "requester") {
	case 0:
		r.Requester.Labels = pick(t, someLabels[1:], "labels")
	case 1:
		r.Requester = Requester{Clients: some(t, someClients, 1, "clients"), Labels: pick(t, someLabels, "labels")}
	case 2:
		r.Requester.Clients = some(t, someClients, 1, "clients")
	default: // the workload itself, if a token of another issuer is presented
		if r.Subject == nil || r.Subject.Issuer == Self {
			r.Requester.Clients = someClients
		}
	}
	r.Allow = Allow{
		Audiences:         some(t, someTargets, 1, "audiences"),
		Scopes:            some(t, someScopes, 0, "scopes"),
		TTL:               pick(t, someLives, "ttl"),
		Impersonate:       rapid.Bool().Draw(t, "impersonate"),
		MultipleAudiences: rapid.Bool().Draw(t, "multiple"),
	}
	r.Require.Binding = pick(t, someBindings, "require binding")
	if rapid.Bool().Draw(t, "jwt") {
		r.Allow.TokenTypes = []string{JWT}
	}
	if rapid.Bool().Draw(t, "claim") {
		r.Allow.Claims = map[string]string{r.Name: `"set"`} // so that a token tells whose claims it has
	}
	return r
}

func drawWorld(t *rapid.T) World {
	w := World{Clients: someClients, Issuers: map[string]string{"corp": "https://corp", "github": "https://github"}, SelfIssuer: "https://" + Self}
	for i, name := range someTargets {
		w.Audiences = append(w.Audiences, Audience{
			Name: name, Identifiers: []string{name, "https://" + name}, Scopes: someScopes, MaxTTL: someLives[i+2], KeySet: pick(t, someKeySets, "key set"), Binding: pick(t, someBindings, "binding"),
		})
	}
	for i := range rapid.IntRange(0, 12).Draw(t, "rules") {
		w.Rules = append(w.Rules, drawRule(t, i))
	}
	return w
}

func drawClient(t *rapid.T) *Client {
	id := pick(t, someClients, "client")
	return &Client{ID: id, Labels: pick(t, someLabels, "client labels"), Audiences: append([]string{id}, some(t, someTargets, 0, "client audiences")...), DPoP: rapid.IntRange(0, 9).Draw(t, "client dpop") == 0}
}

func drawToken(t *rapid.T, label string) *Token {
	issuer := pick(t, append([]string{Self, Self, Self}, someIssuers...), label+" issuer")
	k := &Token{
		Issuer: issuer, Iss: "https://" + issuer, Subject: pick(t, append([]string{"alice"}, someClients...), label+" sub"),
		Claims: pick(t, somePresent, label+" claims"), Expires: now.Add(pick(t, []time.Duration{time.Second, 7 * time.Second, time.Minute, time.Hour}, label+" life")),
		Confirmation: pick(t, someConfirmations, label+" cnf"),
	}
	if issuer == Self {
		k.Audiences, k.ClientID, k.Scopes, k.Txn = some(t, someTargets, 0, label+" aud"), pick(t, someClients, label+" client"), some(t, someScopes, 0, label+" scopes"), "txn"
		k.Act = chain(some(t, append([]string{"p", "q"}, someClients...), 0, label+" act")...)
	}
	if rapid.IntRange(0, 7).Draw(t, label+" may_act") == 0 {
		k.MayAct = &MayAct{Subject: pick(t, someClients, label+" may_act sub"), Iss: pick(t, []string{"", "https://corp"}, label+" may_act iss")}
	}
	return k
}

// drawRequest draws a request; half of them are made to come near a rule.
func drawRequest(t *rapid.T, w World) Request {
	r := drawAnyRequest(t)
	if len(w.Rules) == 0 || rapid.Bool().Draw(t, "anything") {
		return r
	}
	rule := pick(t, w.Rules, "rule")
	r.Client = drawClient(t)
	r.Client.Labels = rule.Requester.Labels
	switch {
	case len(rule.Requester.Clients) > 0:
		r.Client.ID = rule.Requester.Clients[0]
	case len(rule.Requester.Labels) == 0:
		r.Client = nil
	}
	r.Subject = nil
	if rule.Subject != nil {
		r.Subject = drawToken(t, "subject")
		r.Subject.Issuer, r.Subject.Scopes, r.Subject.MayAct = rule.Subject.Issuer, someScopes, nil
		if r.Client != nil {
			r.Subject.ClientID = r.Client.ID
		}
	}
	if rule.Actor == nil || rule.Subject == nil {
		r.Actor = nil
	}
	r.Targets, r.Scopes = rule.Allow.Audiences[:1], rule.Allow.Scopes[:min(1, len(rule.Allow.Scopes))]
	return r
}

func drawAnyRequest(t *rapid.T) Request {
	r := Request{TokenType: pick(t, []string{AccessToken, AccessToken, JWT}, "type"), Now: now, SelfIssuer: "https://" + Self, Proven: pick(t, someProven, "proven")}
	if rapid.IntRange(0, 4).Draw(t, "workload") > 0 {
		r.Client = drawClient(t)
	}
	if rapid.IntRange(0, 4).Draw(t, "own") > 0 {
		r.Subject = drawToken(t, "subject")
	}
	if rapid.IntRange(0, 7).Draw(t, "acts") == 0 {
		r.Actor = drawToken(t, "actor")
	}
	if few := rapid.IntRange(0, 3).Draw(t, "few"); few > 0 {
		r.Targets, r.Scopes = []string{pick(t, someTargets, "target")}, []string{pick(t, someScopes, "scope")}[few/3:]
	} else {
		r.Targets = some(t, append([]string{"https://a"}, someTargets...), 0, "targets")
		r.Scopes = some(t, someScopes, 0, "wanted")
	}
	return r
}

func compileRapid(t *rapid.T, w World) *Set {
	s, problems := Compile(w)
	if len(problems) > 0 {
		t.Fatalf("problems: %v", problems)
	}
	return s
}

// TestExchangesOnlyNarrow walks chains of exchanges: what a grant becomes is
// presented again.
func TestExchangesOnlyNarrow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		s := compileRapid(t, w)
		r := drawRequest(t, w)
		for range 6 {
			g, err := s.Decide(context.Background(), r)
			if err == nil {
				assertNarrower(t, r, g)
				assertClaimsOfScopes(t, w, g)
			}
			if err == nil && rapid.IntRange(0, 4).Draw(t, "follow") > 0 {
				next := token(g)
				next.Iss, next.Claims = r.SelfIssuer, pick(t, somePresent, "claims")
				if next.Txn == "" {
					next.Txn = "begun"
				}
				r.Subject, r.Now = next, r.Now.Add(time.Second)
			}
			other := drawRequest(t, w)
			if r.Subject == nil {
				r.Subject = other.Subject
			}
			r.Client, r.Targets, r.Scopes, r.TokenType, r.Actor, r.Proven = other.Client, other.Targets, other.Scopes, other.TokenType, other.Actor, other.Proven
			if r.Client != nil && r.Subject != nil {
				r.Client.Audiences = append(r.Client.Audiences, r.Subject.Audiences...)
			}
		}
	})
}

// assertNarrower holds a grant to what no rule can change.
func assertNarrower(t *rapid.T, r Request, g Grant) {
	if !slices.IsSorted(g.Scopes()) || len(slices.Compact(slices.Clone(g.Scopes()))) != len(g.Scopes()) {
		t.Fatalf("scopes %v are not sorted and unique", g.Scopes())
	}
	if len(g.Audiences()) == 0 || len(g.Rules()) == 0 && len(r.Scopes) > 0 {
		t.Fatalf("audiences %v, rules %v", g.Audiences(), g.Rules())
	}
	for name := range g.Claims() {
		if !slices.Contains(g.Rules(), name) {
			t.Fatalf("a claim of %s, granted by %v", name, g.Rules())
		}
	}
	if g.Expires().Before(r.Now.Add(minLife)) {
		t.Fatalf("expires in %s", g.Expires().Sub(r.Now))
	}
	for _, k := range []*Token{r.Subject, r.Actor} {
		if k != nil && g.Expires().After(k.Expires) {
			t.Fatalf("expires %s after %s", g.Expires(), k.Expires)
		}
		assertStaysBound(t, r, k, g.Confirmation())
	}
	if len(r.Scopes) > 0 && !slices.Equal(g.Scopes(), slices.Sorted(slices.Values(r.Scopes))) {
		t.Fatalf("scopes %v, asked %v", g.Scopes(), r.Scopes)
	}
	k := r.Subject
	if k == nil {
		return
	}
	old, grown := subjects(k.Act), subjects(g.Act())
	if len(grown) < len(old) || !slices.Equal(grown[len(grown)-len(old):], old) || len(grown) > max(maxChain, len(old)) {
		t.Fatalf("actors %v became %v", old, grown)
	}
	if r.Actor != nil && (len(grown) == 0 || grown[0] != r.Actor.Subject) {
		t.Fatalf("the actor %q is not on top of %v", r.Actor.Subject, grown)
	}
	if k.Issuer != Self {
		if g.Subject() != k.Issuer+":"+k.Subject || g.Txn() != "" {
			t.Fatalf("subject %q, txn %q", g.Subject(), g.Txn())
		}
		return
	}
	if g.Subject() != k.Subject || g.Txn() != k.Txn {
		t.Fatalf("subject %q became %q, txn %q became %q", k.Subject, g.Subject(), k.Txn, g.Txn())
	}
	for _, scope := range g.Scopes() {
		if !slices.Contains(k.Scopes, scope) {
			t.Fatalf("scope %q is not in %v", scope, k.Scopes)
		}
	}
}

// assertStaysBound holds that what was bound was proven, and is bound, to a key
// that was proven.
func assertStaysBound(t *rapid.T, r Request, k *Token, got Confirmation) {
	if got.Other || got.JKT != "" && got.X5T != "" || got.JKT != "" && got.JKT != r.Proven.JKT || got.X5T != "" && got.X5T != r.Proven.X5T {
		t.Fatalf("bound to %+v, proven %+v", got, r.Proven)
	}
	if k == nil || k.Confirmation == (Confirmation{}) {
		return
	}
	c := k.Confirmation
	if c.Other || c.JKT != "" && c.JKT != r.Proven.JKT || c.X5T != "" && c.X5T != r.Proven.X5T || got == (Confirmation{}) {
		t.Fatalf("bound to %+v, proven %+v, became %+v", c, r.Proven, got)
	}
}

// assertClaimsOfScopes holds claims to the rules that grant a scope of the token,
// or name none.
func assertClaimsOfScopes(t *rapid.T, w World, g Grant) {
	for _, rule := range w.Rules {
		if _, set := g.Claims()[rule.Name]; !set || len(rule.Allow.Scopes) == 0 {
			continue
		}
		if !slices.ContainsFunc(g.Scopes(), func(s string) bool { return slices.Contains(rule.Allow.Scopes, s) }) {
			t.Fatalf("a claim of %s, which allows %v, in a token for %v", rule.Name, rule.Allow.Scopes, g.Scopes())
		}
	}
}

// TestRuleLessAllowsNoMore takes a rule away, for requests that say what they
// want.
func TestRuleLessAllowsNoMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		if len(w.Rules) == 0 {
			w.Rules = append(w.Rules, drawRule(t, 0))
		}
		all := compileRapid(t, w)
		less := w
		i := rapid.IntRange(0, len(w.Rules)-1).Draw(t, "removed")
		less.Rules = slices.Delete(slices.Clone(w.Rules), i, i+1)
		fewer := compileRapid(t, less)
		for range 50 {
			r := drawRequest(t, w)
			r.Targets, r.Scopes = some(t, someTargets, 1, "explicit targets"), some(t, someScopes, 1, "explicit scopes")
			without, err := fewer.Decide(context.Background(), r)
			if err != nil {
				continue
			}
			with, err := all.Decide(context.Background(), r)
			if err != nil {
				t.Fatalf("without %s granted, with it %s", w.Rules[i].Name, explained(err))
			}
			if without.Expires().After(with.Expires()) {
				t.Fatalf("without %s until %s, with it %s", w.Rules[i].Name, without.Expires(), with.Expires())
			}
			for _, scope := range without.Scopes() {
				if !slices.Contains(with.Scopes(), scope) {
					t.Fatalf("without %s %v, with it %v", w.Rules[i].Name, without.Scopes(), with.Scopes())
				}
			}
		}
	})
}

// TestDecisionIsThatOfAllRules compares the decision with one that looks at every
// rule, in the words of the package documentation.
func TestDecisionIsThatOfAllRules(t *testing.T) {
	granted := 0
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		s := compileRapid(t, w)
		for range 50 {
			r := drawRequest(t, w)
			g, err := s.Decide(context.Background(), r)
			assertAsNaive(t, g, err, naive(w, r))
			if err == nil {
				granted++
			}
		}
	})
	if granted == 0 {
		t.Error("nothing was ever granted: the worlds are of no use")
	}
}

func assertAsNaive(t *rapid.T, g Grant, err error, want answer) {
	if d, denied := errors.AsType[*Denial](err); denied {
		if d.Code != want.code {
			t.Fatalf("denied with %s, want code %d", explained(err), want.code)
		}
		if want.nearest && len(d.Reasons) == 0 {
			t.Fatalf("no reason although rules are for this requester: %s", d.Message)
		}
		return
	}
	if want.code != 0 {
		t.Fatalf("granted by %v, want code %d", g.Rules(), want.code)
	}
	if !slices.Equal(g.Scopes(), want.scopes) || g.Expires() != want.expires || !slices.Equal(g.Rules(), want.rules) || g.KeySet() != want.keySet ||
		g.Confirmation() != want.confirmation || !slices.Equal(g.Audiences(), want.audiences) || !slices.Equal(subjects(g.Act()), want.actors) ||
		!slices.Equal(slices.Sorted(maps.Keys(g.Claims())), want.claims) {
		t.Fatalf("granted %v to %v until %s for %v with %v by %v, want %+v", g.Scopes(), subjects(g.Act()), g.Expires(), g.Audiences(), g.Claims(), g.Rules(), want)
	}
}

// answer is what the naive evaluation says; code 0 is a grant.
type answer struct {
	code                                     Code
	nearest                                  bool // rules for the requester exist, and it was them that denied
	scopes, audiences, rules, actors, claims []string
	expires                                  time.Time
	keySet                                   string
	confirmation                             Confirmation
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
	codes := [...]Code{UnauthorizedClient, InvalidRequest, InvalidRequest, InvalidTarget, InvalidRequest, InvalidRequest}
	furthest, candidates := 0, 0
	var rules []Rule
	for _, rule := range w.Rules {
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
	rules, bound, code := naiveBinding(w, r, rules, asked)
	if code != 0 {
		return answer{code: code, nearest: true}
	}
	a := naiveAmount(w, r, rules, asked)
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
func naiveAmount(w World, r Request, rules []Rule, asked []string) answer {
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
		for _, scope := range rule.Allow.Scopes {
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
		case wanted || len(r.Scopes) == 0 && within && offer:
			out.scopes = append(out.scopes, scope)
		}
	}
	slices.Sort(out.scopes)
	counts := func(rule Rule) bool {
		return len(r.Scopes) == 0 && len(rule.Allow.Scopes) == 0 ||
			slices.ContainsFunc(out.scopes, func(s string) bool { return slices.Contains(rule.Allow.Scopes, s) })
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
	case !whenHolds[rule.When](r.Subject):
		return 5
	}
	return 6
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
