package policy

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

const issuer = "https://sts.example.com"

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// edit is what a row of a table changes: the rules, the request, or both.
type edit func(w *World, r *Request)

// row is one edit to a good request and what becomes of it; code 0 is a grant,
// which check looks at.
type row struct {
	name  string
	edit  edit
	code  Code
	check func(t *testing.T, g Grant)
}

func run(t *testing.T, good func() (World, Request), rows []row) {
	t.Helper()
	for _, tc := range rows {
		t.Run(tc.name, func(t *testing.T) {
			w, r := good()
			if tc.edit != nil {
				tc.edit(&w, &r)
			}
			g, err := compile(t, w).Decide(t.Context(), r)
			if tc.code == 0 {
				if err != nil {
					t.Fatalf("refused: %s", explained(err))
				}
				if tc.check != nil {
					tc.check(t, g)
				}
				return
			}
			assertDenied(t, g, err, tc.code)
		})
	}
}

func compile(t testing.TB, w World) *Set {
	t.Helper()
	s, problems := Compile(w)
	if len(problems) > 0 {
		t.Fatalf("problems: %v", problems)
	}
	return s
}

func assertDenied(t *testing.T, g Grant, err error, code Code) {
	t.Helper()
	d, ok := errors.AsType[*Denial](err)
	switch {
	case !ok:
		t.Fatalf("granted scopes %v for %v to %q by %v", g.Scopes(), g.Audiences(), g.Subject(), g.Rules())
	case d.Code != code:
		t.Errorf("code %d, want %d: %s", d.Code, code, explained(err))
	case g.Valid():
		t.Error("a denial comes with a grant")
	case d.Message == "":
		t.Error("a denial does not say why")
	}
}

func explained(err error) string {
	d, ok := errors.AsType[*Denial](err)
	if !ok {
		return err.Error()
	}
	return fmt.Sprintf("code %d: %s %+v", d.Code, d.Message, d.Reasons)
}

// exchange is the world of most tables: the client web presents alice's token,
// which is addressed to it, for the audience payments.
func exchange() (World, Request) {
	w := World{
		Clients:    []string{"web", "payments", "batch"},
		Issuers:    map[string]string{"github": "https://token.actions.example", "corp": "https://corp.example"},
		SelfIssuer: issuer,
		Audiences: []Audience{
			{Name: "payments", Identifiers: []string{"payments", "https://payments.internal"}, Scopes: []string{"pay.read", "pay.write"}, MaxTTL: time.Hour},
			{Name: "ledger", Identifiers: []string{"ledger", "https://ledger.internal"}, Scopes: []string{"ledger.read", "ledger.write"}, MaxTTL: 10 * time.Minute},
		},
		Rules: []Rule{{
			Name:      "web-pays",
			Requester: Requester{Clients: []string{"web"}},
			Subject:   &Party{Issuer: Self},
			Allow:     Allow{Audiences: []string{"payments"}, Scopes: []string{"pay.read", "pay.write"}},
		}},
	}
	return w, Request{
		Client: &Client{ID: "web", Audiences: []string{"https://web.internal"}, Labels: map[string]string{"tier": "front", "team": "shop"}},
		Subject: &Token{
			Issuer: Self, Iss: issuer, Subject: "corp:alice", ClientID: "portal",
			Audiences: []string{"https://web.internal"}, Scopes: []string{"pay.read", "pay.write", "mail"},
			Txn: "txn-1", Expires: now.Add(30 * time.Minute),
			Claims: map[string]any{"level": int64(3), "verified": true, "groups": []any{"staff", int64(7)}, "path": "a/b"},
		},
		Targets:    []string{"payments"},
		Scopes:     []string{"pay.read"},
		TokenType:  AccessToken,
		Now:        now,
		SelfIssuer: issuer,
	}
}

func scopes(want ...string) func(*testing.T, Grant) {
	return func(t *testing.T, g Grant) {
		t.Helper()
		if !slices.Equal(g.Scopes(), want) {
			t.Errorf("scopes %v, want %v", g.Scopes(), want)
		}
	}
}

func audiences(want ...string) func(*testing.T, Grant) {
	return func(t *testing.T, g Grant) {
		t.Helper()
		if !slices.Equal(g.Audiences(), want) {
			t.Errorf("audiences %v, want %v", g.Audiences(), want)
		}
	}
}

func keySet(want string) func(*testing.T, Grant) {
	return func(t *testing.T, g Grant) {
		t.Helper()
		if g.KeySet() != want {
			t.Errorf("key set %q, want %q", g.KeySet(), want)
		}
	}
}

func life(want time.Duration) func(*testing.T, Grant) {
	return func(t *testing.T, g Grant) {
		t.Helper()
		if got := g.Expires().Sub(now); got != want {
			t.Errorf("expires in %s, want %s", got, want)
		}
	}
}

func actors(want ...string) func(*testing.T, Grant) {
	return func(t *testing.T, g Grant) {
		t.Helper()
		if got := subjects(g.Act()); !slices.Equal(got, want) {
			t.Errorf("actors %v, want %v", got, want)
		}
	}
}

func subjects(a *Actor) []string {
	var s []string
	for ; a != nil; a = a.Act {
		s = append(s, a.Subject)
	}
	return s
}

func chain(names ...string) *Actor {
	if len(names) == 0 {
		return nil
	}
	return &Actor{Iss: issuer, Subject: names[0], ClientID: names[0], Act: chain(names[1:]...)}
}

func ruleWith(change func(*Rule)) edit {
	return func(w *World, _ *Request) { change(&w.Rules[0]) }
}

func asked(change func(*Request)) edit {
	return func(_ *World, r *Request) { change(r) }
}

func TestTargets(t *testing.T) {
	both := func(w *World, r *Request) {
		w.Rules[0].Allow.Audiences = []string{"payments", "ledger"}
		w.Rules[0].Allow.MultipleAudiences = true
		r.Targets = []string{"payments", "https://ledger.internal"}
	}
	none := func(r *Request) { r.Targets, r.Scopes = nil, nil }
	many := func(n int) []string { return slices.Repeat([]string{"payments"}, n) }
	run(t, exchange, []row{
		{name: "good", check: audiences("payments")},
		{name: "T-08", code: InvalidTarget, edit: asked(func(r *Request) { r.Targets = []string{"ledger"} })},
		{name: "T-09", code: InvalidTarget, edit: asked(func(r *Request) { r.Targets = []string{"https://ledger.internal"} })},
		{name: "T-10 one of two forbidden", code: InvalidTarget, edit: func(w *World, r *Request) {
			w.Rules[0].Allow.MultipleAudiences = true
			r.Targets = []string{"payments", "https://ledger.internal"}
		}},
		{name: "T-10 forbidden first", code: InvalidTarget, edit: func(w *World, r *Request) {
			w.Rules[0].Allow.MultipleAudiences = true
			r.Targets = []string{"ledger", "payments"}
		}},
		{name: "T-10 two rules, one audience each", code: InvalidTarget, edit: func(w *World, r *Request) {
			other := w.Rules[0]
			other.Name, other.Allow = "web-books", Allow{Audiences: []string{"ledger"}, Scopes: []string{"ledger.read"}}
			w.Rules = append(w.Rules, other)
			r.Targets = []string{"payments", "ledger"}
		}},
		{name: "T-10 17 targets", code: InvalidRequest, edit: asked(func(r *Request) { r.Targets = many(17) })},
		{name: "16 targets", edit: asked(func(r *Request) { r.Targets = many(16) }), check: audiences("payments")},
		{name: "unknown", code: InvalidTarget, edit: asked(func(r *Request) { r.Targets = []string{"nowhere"} })},
		{name: "unknown beside known", code: InvalidTarget, edit: asked(func(r *Request) { r.Targets = []string{"payments", "nowhere"} })},
		{name: "empty name", code: InvalidTarget, edit: asked(func(r *Request) { r.Targets = []string{""} })},
		{name: "other case", code: InvalidTarget, edit: asked(func(r *Request) { r.Targets = []string{"Payments"} })},
		{name: "trailing slash", code: InvalidTarget, edit: asked(func(r *Request) { r.Targets = []string{"https://payments.internal/"} })},
		{name: "as the request names it", check: audiences("https://payments.internal"),
			edit: asked(func(r *Request) { r.Targets = []string{"https://payments.internal"} })},
		{name: "one audience by two names", check: audiences("https://payments.internal"),
			edit: asked(func(r *Request) { r.Targets = []string{"https://payments.internal", "payments"} })},
		{name: "several", edit: both, check: audiences("payments", "https://ledger.internal")},
		{name: "several without permission", code: InvalidTarget, edit: func(w *World, r *Request) {
			both(w, r)
			w.Rules[0].Allow.MultipleAudiences = false
		}},
		{name: "signed by the key set of the audience", edit: func(w *World, _ *Request) { w.Audiences[0].KeySet = "rsa" }, check: keySet("rsa")},
		{name: "none asked, signed by the key set of the one left", check: keySet("rsa"), edit: func(w *World, r *Request) {
			w.Audiences[0].KeySet = "rsa"
			none(r)
		}},
		{name: "several of one key set", check: keySet("rsa"), edit: func(w *World, r *Request) {
			both(w, r)
			w.Audiences[0].KeySet, w.Audiences[1].KeySet = "rsa", "rsa"
		}},
		{name: "several of different key sets", code: InvalidTarget, edit: func(w *World, r *Request) {
			both(w, r)
			w.Audiences[1].KeySet = "rsa"
		}},
		{name: "one audience by two names has one key set", check: keySet("rsa"), edit: func(w *World, r *Request) {
			w.Audiences[0].KeySet = "rsa"
			r.Targets = []string{"https://payments.internal", "payments"}
		}},
		{name: "several, the shortest life", edit: both, check: life(10 * time.Minute)},
		{name: "none asked, one left", edit: asked(none), check: audiences("payments")},
		{name: "none asked, two left", code: InvalidTarget, edit: func(w *World, r *Request) {
			none(r)
			w.Rules[0].Allow.Audiences = []string{"payments", "ledger"}
		}},
		{name: "none asked, two left of two rules", code: InvalidTarget, edit: func(w *World, r *Request) {
			none(r)
			other := w.Rules[0]
			other.Name, other.Allow = "web-books", Allow{Audiences: []string{"ledger"}}
			w.Rules = append(w.Rules, other)
		}},
		{name: "none asked, a rule that does not match does not count", check: audiences("payments"), edit: func(w *World, r *Request) {
			none(r)
			other := w.Rules[0]
			other.Name, other.When, other.Allow = "web-books", "false", Allow{Audiences: []string{"ledger"}}
			w.Rules = append(w.Rules, other)
		}},
		{name: "identifier is the name if there is none", check: audiences("payments"), edit: func(w *World, _ *Request) {
			w.Audiences[0].Identifiers = nil
		}},
		{name: "name is no identifier if there are others", code: InvalidTarget, edit: func(w *World, _ *Request) {
			w.Audiences[0].Identifiers = []string{"https://payments.internal"}
		}},
	})
}

func TestScopes(t *testing.T) {
	run(t, exchange, []row{
		{name: "good", check: scopes("pay.read")},
		{name: "T-12", code: InvalidScope, edit: asked(func(r *Request) { r.Subject.Scopes = []string{"pay.write"} })},
		{name: "T-12 no scopes in the subject token", code: InvalidScope, edit: asked(func(r *Request) { r.Subject.Scopes = nil })},
		{name: "T-12 one of two", code: InvalidScope, edit: asked(func(r *Request) {
			r.Scopes, r.Subject.Scopes = []string{"pay.read", "pay.write"}, []string{"pay.read"}
		})},
		{name: "wider than the rules", code: InvalidScope, edit: ruleWith(func(r *Rule) { r.Allow.Scopes = []string{"pay.write"} })},
		{name: "not of this audience", code: InvalidScope, edit: func(w *World, r *Request) {
			w.Rules[0].Allow.Audiences = []string{"payments", "ledger"}
			w.Rules[0].Allow.Scopes = []string{"pay.read", "ledger.read"}
			r.Scopes, r.Subject.Scopes = []string{"ledger.read"}, []string{"ledger.read"}
		}},
		{name: "T-13", edit: asked(func(r *Request) { r.Scopes = nil }), check: scopes("pay.read", "pay.write")},
		{name: "T-13 the subject token is the ceiling", check: scopes("pay.write"), edit: asked(func(r *Request) {
			r.Scopes, r.Subject.Scopes = nil, []string{"pay.write", "mail"}
		})},
		{name: "T-13 nothing in common", check: scopes(), edit: asked(func(r *Request) { r.Scopes, r.Subject.Scopes = nil, []string{"mail"} })},
		{name: "sorted and unique", check: scopes("pay.read", "pay.write"), edit: asked(func(r *Request) {
			r.Scopes = []string{"pay.write", "pay.read", "pay.write"}
		})},
		{name: "of two rules", check: scopes("pay.read", "pay.write"), edit: func(w *World, r *Request) {
			other := w.Rules[0]
			other.Name, other.Allow.Scopes = "web-writes", []string{"pay.write"}
			w.Rules[0].Allow.Scopes = []string{"pay.read"}
			w.Rules = append(w.Rules, other)
			r.Scopes = []string{"pay.read", "pay.write"}
		}},
		{name: "case counts", code: InvalidScope, edit: asked(func(r *Request) { r.Scopes = []string{"PAY.READ"} })},
		{name: "empty name", code: InvalidScope, edit: asked(func(r *Request) { r.Scopes = []string{""} })},
		{name: "quote", code: InvalidScope, edit: asked(func(r *Request) { r.Scopes = []string{`pay"read`} })},
		{name: "space", code: InvalidScope, edit: asked(func(r *Request) { r.Scopes = []string{"pay.read pay.write"} })},
		{name: "not ASCII", code: InvalidScope, edit: asked(func(r *Request) { r.Scopes = []string{"päy"} })},
	})
}

// fromGitHub is a workload that presents the token of its platform, without a
// client.
func fromGitHub() (World, Request) {
	w, r := exchange()
	w.Rules = []Rule{{
		Name:      "deploy",
		Requester: Requester{Workload: true},
		Subject:   &Party{Issuer: "github", Claims: map[string]any{"repository_id": "1234"}, ClaimGlobs: map[string]string{"ref": "refs/heads/*"}},
		Allow:     Allow{Audiences: []string{"payments"}, Scopes: []string{"pay.read"}, TTL: 5 * time.Minute},
	}}
	r.Client = nil
	r.Subject = &Token{
		Issuer: "github", Iss: "https://token.actions.example", Subject: "repo:shop/web:ref:refs/heads/main",
		Claims:  map[string]any{"repository_id": "1234", "ref": "refs/heads/main"},
		Expires: now.Add(10 * time.Minute),
	}
	return w, r
}

func TestWorkload(t *testing.T) {
	run(t, fromGitHub, []row{
		{name: "good", check: func(t *testing.T, g Grant) {
			const named = "github:repo:shop/web:ref:refs/heads/main"
			if g.Subject() != named || g.ClientID() != named || g.Txn() != "" || g.Act() != nil {
				t.Errorf("subject %q, client %q, txn %q, act %v", g.Subject(), g.ClientID(), g.Txn(), g.Act())
			}
		}},
		{name: "T-14", check: scopes("pay.read")},
		{name: "T-14 no scopes asked", edit: asked(func(r *Request) { r.Scopes = nil }), check: scopes("pay.read")},
		{name: "T-14 wider than the rule", code: InvalidScope, edit: asked(func(r *Request) { r.Scopes = []string{"pay.write"} })},
		{name: "C-19 a scope of the issuer says nothing", code: InvalidScope, edit: asked(func(r *Request) {
			r.Scopes, r.Subject.Scopes, r.Subject.Claims["scope"] = []string{"pay.write"}, []string{"pay.write"}, "pay.write"
		})},
		{name: "life of the rule", check: life(5 * time.Minute)},
		{name: "workload need not be written", edit: ruleWith(func(r *Rule) { r.Requester.Workload = false })},
		{name: "T-37 other issuer", code: UnauthorizedClient, edit: asked(func(r *Request) { r.Subject.Issuer = "corp" })},
		{name: "other repository", code: InvalidRequest, edit: asked(func(r *Request) { r.Subject.Claims["repository_id"] = "12345" })},
		{name: "other branch", code: InvalidRequest, edit: asked(func(r *Request) { r.Subject.Claims["ref"] = "refs/tags/v1" })},
		{name: "claim missing", code: InvalidRequest, edit: asked(func(r *Request) { delete(r.Subject.Claims, "ref") })},
		{name: "with a client", code: UnauthorizedClient, edit: asked(func(r *Request) { r.Client = &Client{ID: "web"} })},
		{name: "a token of ours", code: InvalidRequest, edit: asked(func(r *Request) { r.Subject.Issuer = Self })},
		{name: "no token", code: InvalidRequest, edit: asked(func(r *Request) { r.Subject = nil })},
		{name: "long subject", code: InvalidRequest, edit: asked(func(r *Request) { r.Subject.Subject = strings.Repeat("s", 249) })},
		{name: "subject of 255 characters", edit: asked(func(r *Request) { r.Subject.Subject = strings.Repeat("s", 248) })},
		{name: "no client can be named", edit: asked(func(r *Request) { r.Subject.Subject = "web" }), check: func(t *testing.T, g Grant) {
			if g.Subject() != "github:web" || g.ClientID() != "github:web" {
				t.Errorf("subject %q, client %q", g.Subject(), g.ClientID())
			}
		}},
		{name: "cnf", code: InvalidProof, edit: asked(func(r *Request) { r.Subject.Confirmation.JKT = "k" })},
		{name: "presented by a client", edit: func(w *World, r *Request) {
			w.Rules[0].Requester = Requester{Clients: []string{"web"}}
			r.Client = &Client{ID: "web"}
		}, check: func(t *testing.T, g Grant) {
			if want := (Actor{Iss: issuer, Subject: "web", ClientID: "web"}); g.ClientID() != "web" || g.Act() == nil || *g.Act() != want {
				t.Errorf("client %q, act %+v", g.ClientID(), g.Act())
			}
		}},
	})
}

func TestRequester(t *testing.T) {
	labels := func(l map[string]string) edit {
		return ruleWith(func(r *Rule) { r.Requester = Requester{Labels: l} })
	}
	run(t, exchange, []row{
		{name: "good"},
		{name: "other client", code: UnauthorizedClient, edit: asked(func(r *Request) { r.Client.ID = "batch" })},
		{name: "E-09 no rule", code: UnauthorizedClient, edit: func(w *World, _ *Request) { w.Rules = nil }},
		{name: "E-09 empty world", code: InvalidTarget, edit: func(w *World, _ *Request) { *w = World{} }},
		{name: "E-09 no rule matches", code: InvalidRequest, edit: ruleWith(func(r *Rule) { r.When = "false" })},
		{name: "one label", edit: labels(map[string]string{"tier": "front"})},
		{name: "all labels", edit: labels(map[string]string{"tier": "front", "team": "shop"})},
		{name: "one of two labels", code: UnauthorizedClient, edit: labels(map[string]string{"team": "shop", "tier": "back"})},
		{name: "other label", code: UnauthorizedClient, edit: labels(map[string]string{"team": "front"})},
		{name: "empty label is not a missing one", code: UnauthorizedClient, edit: labels(map[string]string{"team": "shop", "zone": ""})},
		{name: "labels of another client", code: UnauthorizedClient, edit: func(w *World, r *Request) {
			labels(map[string]string{"tier": "front"})(w, r)
			r.Client.Labels = nil
		}},
		{name: "client and label", edit: ruleWith(func(r *Rule) { r.Requester.Labels = map[string]string{"tier": "front"} })},
		{name: "client without the label", code: UnauthorizedClient, edit: ruleWith(func(r *Rule) { r.Requester.Labels = map[string]string{"tier": "back"} })},
		{name: "client named twice counts once", edit: ruleWith(func(r *Rule) { r.Requester.Clients = []string{"web", "web"} }), check: func(t *testing.T, g Grant) {
			if !slices.Equal(g.Rules(), []string{"web-pays"}) {
				t.Errorf("rules %v", g.Rules())
			}
		}},
	})
}

// TestOwnSubject covers rules without a subject: the client itself.
func TestOwnSubject(t *testing.T) {
	own := func() (World, Request) {
		w, r := exchange()
		w.Rules[0].Subject = nil
		r.Subject = nil
		return w, r
	}
	token := func(change func(*Token)) edit {
		return asked(func(r *Request) {
			r.Subject = &Token{Issuer: Self, Iss: issuer, Subject: "web", ClientID: "web", Scopes: []string{"pay.read"}, Txn: "txn-2", Expires: now.Add(time.Minute)}
			change(r.Subject)
		})
	}
	run(t, own, []row{
		{name: "good", check: func(t *testing.T, g Grant) {
			if g.Subject() != "web" || g.ClientID() != "web" || g.Act() != nil || g.Txn() != "" {
				t.Errorf("subject %q, client %q, act %v, txn %q", g.Subject(), g.ClientID(), g.Act(), g.Txn())
			}
			life(time.Hour)(t, g)
		}},
		{name: "its own token", edit: token(func(*Token) {}), check: func(t *testing.T, g Grant) {
			if g.Subject() != "web" || g.Act() != nil || g.Txn() != "txn-2" {
				t.Errorf("subject %q, act %v, txn %q", g.Subject(), g.Act(), g.Txn())
			}
			life(time.Minute)(t, g)
		}},
		{name: "somebody's token", code: InvalidRequest, edit: token(func(s *Token) { s.Subject = "corp:alice" })},
		{name: "its own subject, got by another", code: InvalidRequest, edit: token(func(s *Token) { s.ClientID = "batch" })},
		{name: "its own, after somebody acted", code: InvalidRequest, edit: token(func(s *Token) { s.Act = chain("batch") })},
		{name: "of another issuer", code: InvalidRequest, edit: token(func(s *Token) { s.Issuer = "corp" })},
		{name: "cnf", code: InvalidRequest, edit: token(func(s *Token) { s.Confirmation.Other = true })},
		{name: "an actor without a subject", code: InvalidRequest, edit: func(w *World, r *Request) {
			w.Rules[0].Actor = &Party{Issuer: "corp"}
			r.Actor = &Token{Issuer: "corp", Iss: "https://corp.example", Subject: "bob", Expires: now.Add(time.Hour)}
		}},
	})
}

func TestConsent(t *testing.T) {
	elsewhere := func(r *Request) { r.Subject.Audiences = []string{"https://a.internal"} }
	run(t, exchange, []row{
		{name: "good"},
		{name: "T-07", code: InvalidRequest, edit: asked(elsewhere)},
		{name: "T-07 no audience", code: InvalidRequest, edit: asked(func(r *Request) { r.Subject.Audiences = nil })},
		{name: "T-07 client without audiences", code: InvalidRequest, edit: asked(func(r *Request) { r.Client.Audiences = nil })},
		{name: "issued to the client", edit: asked(func(r *Request) { elsewhere(r); r.Subject.ClientID = "web" })},
		{name: "one of two audiences", edit: asked(func(r *Request) {
			r.Subject.Audiences = []string{"https://a.internal", "https://web.internal"}
		})},
		{name: "accept_unaddressed", edit: func(w *World, r *Request) {
			w.Rules[0].Subject.AcceptUnaddressed = true
			elsewhere(r)
		}},
		{name: "accept_unaddressed of another rule", code: InvalidScope, edit: func(w *World, r *Request) {
			elsewhere(r)
			w.Rules[0].Allow.Scopes = []string{"pay.read"}
			other := w.Rules[0]
			other.Name, other.Subject = "web-writes", &Party{Issuer: Self, AcceptUnaddressed: true}
			other.Allow.Scopes = []string{"pay.write"}
			w.Rules = append(w.Rules, other)
		}},
		{name: "cnf of the subject", code: InvalidProof, edit: asked(func(r *Request) { r.Subject.Confirmation.JKT = "k" })},
	})
}

func TestTypes(t *testing.T) {
	typed := func(typ string) edit { return asked(func(r *Request) { r.TokenType = typ }) }
	allowed := func(typ string) edit {
		return func(w *World, r *Request) { w.Rules[0].Allow.TokenTypes, r.TokenType = []string{typ}, typ }
	}
	is := func(typ string) func(*testing.T, Grant) {
		return func(t *testing.T, g Grant) {
			if g.TokenType() != typ {
				t.Errorf("type %q, want %q", g.TokenType(), typ)
			}
		}
	}
	run(t, exchange, []row{
		{name: "good", check: is(AccessToken)},
		{name: "T-21 id_token", code: InvalidRequest, edit: typed(IDToken)},
		{name: "T-21 jwt", code: InvalidRequest, edit: typed(JWT)},
		{name: "T-21 refresh_token", code: InvalidRequest, edit: typed("refresh_token")},
		{name: "T-21 saml2", code: InvalidRequest, edit: typed("saml2")},
		{name: "T-21 none", code: InvalidRequest, edit: typed("")},
		{name: "T-21 id_token allowed", edit: allowed(IDToken), check: is(IDToken)},
		{name: "T-21 jwt allowed", edit: allowed(JWT), check: is(JWT)},
		{name: "access_token is always allowed", edit: ruleWith(func(r *Rule) { r.Allow.TokenTypes = []string{JWT} }), check: is(AccessToken)},
		{name: "a rule of another type gives no scopes", code: InvalidScope, edit: func(w *World, r *Request) {
			other := w.Rules[0]
			other.Name, other.Allow.TokenTypes, other.Allow.Scopes = "web-jwt", []string{JWT}, []string{"pay.write"}
			w.Rules = append(w.Rules, other)
			r.TokenType, r.Scopes = JWT, []string{"pay.read"}
		}},
	})
}

func TestLife(t *testing.T) {
	until := func(d time.Duration) edit { return asked(func(r *Request) { r.Subject.Expires = now.Add(d) }) }
	second := func(ttl time.Duration, scope ...string) edit {
		return func(w *World, r *Request) {
			other := w.Rules[0]
			other.Name, other.Allow.TTL, other.Allow.Scopes = "web-2", ttl, scope
			w.Rules[0].Allow.TTL = 10 * time.Minute
			w.Rules[0].Allow.Scopes = []string{"pay.read"}
			w.Rules = append(w.Rules, other)
		}
	}
	run(t, exchange, []row{
		{name: "good", check: life(30 * time.Minute)},
		{name: "T-18", check: life(time.Minute), edit: func(w *World, r *Request) {
			w.Rules[0].Actor = &Party{Issuer: "corp"}
			r.Actor = &Token{Issuer: "corp", Iss: "https://corp.example", Subject: "bob", Expires: now.Add(time.Minute)}
			r.Subject.Expires = now.Add(5 * time.Minute)
		}},
		{name: "T-19", code: InvalidRequest, edit: until(2 * time.Second)},
		{name: "T-19 just below", code: InvalidRequest, edit: until(5*time.Second - 1)},
		{name: "T-19 at the floor", edit: until(5 * time.Second), check: life(5 * time.Second)},
		{name: "expired", code: InvalidRequest, edit: until(-time.Hour)},
		{name: "no expiry", code: InvalidRequest, edit: asked(func(r *Request) { r.Subject.Expires = time.Time{} })},
		{name: "ttl of the rule", edit: ruleWith(func(r *Rule) { r.Allow.TTL = time.Minute }), check: life(time.Minute)},
		{name: "ttl above the audience", check: life(20 * time.Minute), edit: func(w *World, _ *Request) {
			w.Audiences[0].MaxTTL, w.Rules[0].Allow.TTL = 20*time.Minute, 25*time.Minute
		}},
		{name: "default of an audience", check: life(time.Hour), edit: func(w *World, r *Request) {
			w.Audiences[0].MaxTTL, r.Subject.Expires = 0, now.Add(2*time.Hour)
		}},
		{name: "the longest of two rules", edit: second(20*time.Minute, "pay.read"), check: life(20 * time.Minute)},
		{name: "the shorter of two rules", edit: second(time.Minute, "pay.read"), check: life(10 * time.Minute)},
		{name: "a rule that gives no scope asked for", edit: second(20*time.Minute, "pay.write"), check: life(10 * time.Minute)},
		{name: "the shortest-lived of the scopes", check: life(time.Minute), edit: func(w *World, r *Request) {
			second(time.Minute, "pay.write")(w, r)
			r.Scopes = nil
		}},
	})
}

func TestDenialSaysNothingOfTheRequest(t *testing.T) {
	const canary = "canary-4711"
	for name, change := range map[string]func(*Request){
		"target":  func(r *Request) { r.Targets = []string{canary} },
		"scope":   func(r *Request) { r.Scopes = []string{canary} },
		"client":  func(r *Request) { r.Client.ID = canary },
		"type":    func(r *Request) { r.TokenType = canary },
		"issuer":  func(r *Request) { r.Subject.Issuer = canary },
		"aud":     func(r *Request) { r.Subject.Audiences = []string{canary} },
		"may_act": func(r *Request) { r.Subject.MayAct = &MayAct{Subject: canary} },
	} {
		t.Run(name, func(t *testing.T) {
			w, r := exchange()
			change(&r)
			_, err := compile(t, w).Decide(t.Context(), r)
			d, ok := errors.AsType[*Denial](err)
			if !ok {
				t.Fatal("granted")
			}
			if strings.Contains(d.Message, canary) || strings.Contains(d.Error(), canary) {
				t.Errorf("%q and %q repeat the request", d.Message, d.Error())
			}
		})
	}
}

func TestReasons(t *testing.T) {
	w, r := exchange()
	for i := range 30 {
		other := w.Rules[0]
		other.Name = fmt.Sprintf("far-%02d", i)
		other.Subject = &Party{Issuer: "corp"}
		w.Rules = append(w.Rules, other)
	}
	w.Rules[0].When = "subject.claims.level > 5"
	_, err := compile(t, w).Decide(context.Background(), r)
	d, ok := errors.AsType[*Denial](err)
	if !ok {
		t.Fatal("granted")
	}
	if len(d.Reasons) != maxReasons {
		t.Errorf("%d reasons, want %d", len(d.Reasons), maxReasons)
	}
	if want := (Reason{Rule: "web-pays", Predicate: "when", Presented: "false", Expected: "subject.claims.level > 5"}); d.Reasons[0] != want {
		t.Errorf("nearest %+v, want %+v", d.Reasons[0], want)
	}
	if want := (Reason{Rule: "far-00", Predicate: "subject.issuer", Presented: Self, Expected: "corp"}); d.Reasons[1] != want {
		t.Errorf("next %+v, want %+v", d.Reasons[1], want)
	}
	if !strings.Contains(d.Error(), "web-pays") || !strings.Contains(d.Error(), "when") {
		t.Errorf("error %q names neither rule nor predicate", d)
	}
	again, err := compile(t, w).Decide(context.Background(), r)
	if d2, _ := errors.AsType[*Denial](err); again.Valid() || !reflect.DeepEqual(d, d2) {
		t.Error("the same request is explained differently")
	}
}
