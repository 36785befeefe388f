package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
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
	somePresent = []map[string]any{nil, {"role": "dev", "ref": "heads/main"}, {"role": []any{"ops"}, "n": int64(1)}, {"role": "ops", "n": "1", "ref": "heads/x/main"}, {"n": true, "ref": "tags/main", "scope": "write read"}}
	someLives   = []time.Duration{0, 10 * time.Second, time.Minute, 5 * time.Minute, 2 * time.Hour}
	// Few, so that what is proven is often what a token is bound to.
	someBindings      = []Binding{"", "", "", NoBinding, MTLSBinding, DPoPBinding, AnyBinding}
	someProven        = []Confirmation{{}, {}, {JKT: "k1"}, {JKT: "k2"}, {X5T: "c1"}, {JKT: "k1", X5T: "c1"}}
	someConfirmations = append([]Confirmation{{}, {}, {}, {}, {}, {}, {}, {}, {Other: true}, {X5T: "c2"}}, someProven...)
	someAges          = []time.Duration{0, 0, 0, 0, time.Minute}
	somePast          = []time.Duration{-time.Minute, 0, 30 * time.Second, 5 * time.Minute}
	someMappings      = [][]ScopesForValue{nil, nil, {{Claim: "role", Value: "dev", Scopes: []string{"x"}}}, {
		{Claim: "role", Value: []any{"ops", "dev"}, Scopes: []string{"r", "w"}}, {Claim: "scope", Value: "read", Scopes: []string{"r"}},
	}}
	someWhen  = []string{"", "", `subject.claims.role == "dev"`, `request.time > timestamp("2020-01-01T00:00:00Z")`, `has(subject.claims.n)`, `false`}
	whenHolds = map[string]func(*Token) bool{ // someWhen without an interpreter
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
	drawMore(t, &r)
	if rapid.Bool().Draw(t, "jwt") {
		r.Allow.TokenTypes = []string{JWT}
	}
	if rapid.Bool().Draw(t, "claim") {
		r.Allow.Claims = map[string]string{r.Name: `"set"`} // so that a token tells whose claims it has
	}
	return r
}

// drawMore draws what a rule has now and then.
func drawMore(t *rapid.T, r *Rule) {
	r.Allow.ScopesFromRequest = rapid.IntRange(0, 7).Draw(t, "from request") == 0
	r.Limits = Limits{Actors: pick(t, []int{0, 0, 0, 1, 2}, "actors"), Exchanges: pick(t, []int{0, 0, 0, 1, 2}, "exchanges"), UsesPerTransaction: pick(t, []int{0, 0, 3}, "uses")}
	if r.Subject == nil {
		return
	}
	r.Allow.ScopesFromClaims = pick(t, someMappings, "from claims")
	if r.Require.MaxTokenAge = pick(t, someAges, "token age"); r.Subject.Issuer != Self {
		r.Require.MaxAuthAge = pick(t, someAges, "auth age")
	}
}

// drawDeny draws a rule that denies.
func drawDeny(t *rapid.T, i int) Rule {
	r := Rule{Name: fmt.Sprintf("deny-%02d", i), Subject: drawParty(t, "denied subject"), When: pick(t, someWhen, "denied when"), Deny: &Deny{}}
	if r.Subject != nil {
		r.Subject.AcceptUnaddressed = false
	}
	switch rapid.IntRange(0, 4).Draw(t, "denied requester") {
	case 0:
		r.Requester.Labels = pick(t, someLabels[1:], "denied labels")
	case 1:
		r.Requester.Clients = some(t, someClients, 1, "denied clients")
	case 2:
		r.Requester.Workload = r.Subject == nil || r.Subject.Issuer != Self
	}
	if rapid.IntRange(0, 5).Draw(t, "denied actor") == 0 {
		r.Actor = drawParty(t, "actor")
	}
	r.Deny.Audiences, r.Deny.Scopes = some(t, someTargets, 0, "denied audiences"), some(t, someScopes, 0, "denied scopes")
	return r
}

// agree makes the rules of a world agree on what a token has once: who it is about,
// by issuer, and who may act.
func agree(t *rapid.T, w *World) {
	subs := map[string]string{"corp": pick(t, []string{"", "subject.claims.role"}, "sub of corp"), "github": pick(t, []string{"", `"same"`}, "sub of github")}
	for i := range w.Rules {
		r := &w.Rules[i]
		if r.Deny != nil {
			continue
		}
		if r.Subject != nil {
			r.Allow.Sub = subs[r.Subject.Issuer]
		}
		if rapid.IntRange(0, 9).Draw(t, "may act") == 0 {
			r.Allow.MayAct = &MayActParty{Client: "batch"}
		}
	}
}

func drawWorld(t *rapid.T) World { return drawLargeWorld(t, 12) }

// drawLargeWorld draws more rules for the requesters that there are, so that they
// are looked up by more than that.
func drawLargeWorld(t *rapid.T, most int) World {
	w := World{Clients: someClients, Issuers: map[string]string{"corp": "https://corp", "github": "https://github"}, SelfIssuer: "https://" + Self}
	for i, name := range someTargets {
		w.Audiences = append(w.Audiences, Audience{
			Name: name, Identifiers: []string{name, "https://" + name}, Scopes: someScopes, MaxTTL: someLives[i+2], KeySet: pick(t, someKeySets, "key set"), Binding: pick(t, someBindings, "binding"),
		})
	}
	for i := range rapid.IntRange(0, most).Draw(t, "rules") {
		w.Rules = append(w.Rules, drawRule(t, i))
	}
	for i := range max(0, rapid.IntRange(-3, 2).Draw(t, "denials")) {
		w.Rules = append(w.Rules, drawDeny(t, i))
	}
	agree(t, &w)
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
		k.Exchanges = pick(t, []int{0, 0, 0, 1, 1, 2, 15, 16}, label+" exchanges")
		k.Act = chain(some(t, append([]string{"p", "q"}, someClients...), 0, label+" act")...)
	}
	k.Claims = maps.Clone(k.Claims)
	for _, name := range []string{"iat", "auth_time"} {
		if age := pick(t, append([]time.Duration{time.Hour}, somePast...), label+" "+name); age < time.Hour {
			if k.Claims == nil {
				k.Claims = map[string]any{}
			}
			k.Claims[name] = now.Add(-age).Unix()
		}
	}
	if rapid.IntRange(0, 7).Draw(t, label+" may_act") == 0 {
		k.MayAct = &MayAct{Subject: pick(t, someClients, label+" may_act sub"), Iss: pick(t, []string{"", "https://corp"}, label+" may_act iss")}
	}
	return k
}

// drawRequest draws a request; half of them are made to come near a rule.
func drawRequest(t *rapid.T, w World) Request {
	r := drawAnyRequest(t)
	if len(w.Rules) == 0 || rapid.IntRange(0, 3).Draw(t, "anything") == 0 {
		return r
	}
	rule := pick(t, w.Rules, "rule")
	if rule.Deny != nil {
		rule.Allow.Audiences, rule.Allow.Scopes = someTargets, someScopes
	}
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
		r.Subject.Claims = maps.Clone(r.Subject.Claims)
		if r.Subject.Claims == nil {
			r.Subject.Claims = map[string]any{}
		}
		maps.Copy(r.Subject.Claims, rule.Subject.Claims)
		if rapid.Bool().Draw(t, "good") {
			r.Subject.Claims["iat"], r.Subject.Claims["auth_time"] = now.Unix(), now.Unix()
			r.Subject.Expires, r.Subject.Exchanges, r.Subject.Act, r.Subject.Confirmation = now.Add(time.Hour), 0, nil, Confirmation{}
		}
	}
	if rule.Actor == nil || rule.Subject == nil {
		r.Actor = nil
	}
	r.Targets, r.Scopes = rule.Allow.Audiences[:1], rule.Allow.Scopes[:min(1, len(rule.Allow.Scopes))]
	if rapid.IntRange(0, 2).Draw(t, "all") == 0 {
		r.Scopes = nil
	}
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
				assertClaimsOfScopes(t, w, r, g)
			}
			if err == nil && rapid.IntRange(0, 4).Draw(t, "follow") > 0 {
				next := token(g)
				next.Iss, next.Claims = r.SelfIssuer, pick(t, somePresent, "claims")
				if m := g.MayAct(); m != nil && *m != (MayAct{r.SelfIssuer, "batch", "batch"}) {
					t.Fatalf("may_act %+v", m)
				}
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
		if !strings.HasPrefix(g.Subject(), k.Issuer+":") || g.Txn() != "" || g.Exchanges() != 1 {
			t.Fatalf("subject %q, txn %q, exchanges %d", g.Subject(), g.Txn(), g.Exchanges())
		}
		return
	}
	if g.Exchanges() != k.Exchanges+1 || g.Exchanges() > 16 {
		t.Fatalf("exchanges %d became %d", k.Exchanges, g.Exchanges())
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
func assertClaimsOfScopes(t *rapid.T, w World, r Request, g Grant) {
	for _, rule := range w.Rules {
		if _, set := g.Claims()[rule.Name]; !set || naiveScopeless(rule) {
			continue
		}
		allows := naiveScopes(rule, r)
		if !slices.ContainsFunc(g.Scopes(), func(s string) bool { return slices.Contains(allows, s) }) {
			t.Fatalf("a claim of %s, which allows %v, in a token for %v", rule.Name, allows, g.Scopes())
		}
	}
}

// TestRuleLessAllowsNoMore takes a rule away, for requests that say what they
// want.
func TestRuleLessAllowsNoMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		denies := func(r Rule) bool { return r.Deny != nil }
		if len(w.Rules) == 0 || denies(w.Rules[0]) {
			w.Rules = slices.Insert(w.Rules, 0, drawRule(t, 99))
		}
		allowing := len(w.Rules) // come first
		if i := slices.IndexFunc(w.Rules, denies); i > 0 {
			allowing = i
		}
		all := compileRapid(t, w)
		less := w
		i := rapid.IntRange(0, allowing-1).Draw(t, "removed")
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

// TestDenialMoreAllowsNoMore adds a rule that denies.
func TestDenialMoreAllowsNoMore(t *testing.T) {
	stopped, narrowed := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		before := compileRapid(t, w)
		more := w
		denial := drawDeny(t, 99)
		if rapid.Bool().Draw(t, "for everybody") {
			denial.Requester, denial.Subject, denial.Actor, denial.When = Requester{}, nil, nil, ""
		}
		more.Rules = append(slices.Clone(w.Rules), denial)
		after := compileRapid(t, more)
		for range 50 {
			r := drawRequest(t, w)
			with, err := after.Decide(context.Background(), r)
			without, errBefore := before.Decide(context.Background(), r)
			if err != nil {
				if errBefore == nil {
					stopped++
				}
				continue
			}
			if errBefore != nil {
				t.Fatalf("denied without %+v, granted with it: %s", more.Rules[len(more.Rules)-1], explained(errBefore))
			}
			if len(r.Scopes) > 0 && !reflect.DeepEqual(with, without) {
				t.Fatalf("another grant: %+v, %+v", with.g, without.g)
			}
			for _, scope := range with.Scopes() {
				if !slices.Contains(without.Scopes(), scope) {
					t.Fatalf("without it %v, with it %v", without.Scopes(), with.Scopes())
				}
			}
			if len(with.Scopes()) < len(without.Scopes()) {
				narrowed++
			}
		}
	})
	if stopped == 0 || narrowed == 0 {
		t.Errorf("%d stopped, %d narrowed: the worlds are of no use", stopped, narrowed)
	}
}

// TestDecisionIsThatOfAllRules compares the decision with one that looks at every
// rule, in the words of the package documentation.
func TestDecisionIsThatOfAllRules(t *testing.T) {
	granted := 0
	rapid.Check(t, func(t *rapid.T) {
		w := drawLargeWorld(t, 50)
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
	if granted < 50 {
		t.Errorf("%d requests were granted: the worlds are of no use", granted)
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
		!slices.Equal(slices.Sorted(maps.Keys(g.Claims())), want.claims) || g.Subject() != want.subject || g.Exchanges() != want.exchanges ||
		(g.MayAct() != nil) != want.mayAct || !slices.Equal(g.Uses(), want.uses) {
		t.Fatalf("granted %v to %v until %s for %v with %v by %v, want %+v", g.Scopes(), subjects(g.Act()), g.Expires(), g.Audiences(), g.Claims(), g.Rules(), want)
	}
}
