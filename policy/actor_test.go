package policy

import (
	"slices"
	"testing"
	"time"
)

// withActor adds bob of corp as the actor, whom a rule expects.
func withActor() (World, Request) {
	w, r := exchange()
	w.Rules[0].Actor = &Party{Issuer: "corp", Claims: map[string]any{"role": "agent"}}
	r.Actor = &Token{
		Issuer: "corp", Iss: "https://corp.example", Subject: "bob", ClientID: "cli",
		Claims: map[string]any{"role": "agent"}, Expires: now.Add(time.Hour),
	}
	return w, r
}

func TestActorToken(t *testing.T) {
	run(t, withActor, []row{
		{name: "good", check: func(t *testing.T, g Grant) {
			if want := (Actor{Iss: "https://corp.example", Subject: "bob", ClientID: "cli"}); g.Act() == nil || *g.Act() != want {
				t.Errorf("act %+v, want %+v", g.Act(), want)
			}
			if g.Subject() != "corp:alice" || g.ClientID() != "web" || g.Txn() != "txn-1" {
				t.Errorf("subject %q, client %q, txn %q", g.Subject(), g.ClientID(), g.Txn())
			}
		}},
		{name: "T-24", code: InvalidRequest, edit: ruleWith(func(r *Rule) { r.Actor = nil })},
		{name: "missing", code: InvalidRequest, edit: asked(func(r *Request) { r.Actor = nil })},
		{name: "of another issuer", code: InvalidRequest, edit: asked(func(r *Request) { r.Actor.Issuer = "github" })},
		{name: "without the claim", code: InvalidRequest, edit: asked(func(r *Request) { r.Actor.Claims = nil })},
		{name: "cnf of the actor", code: InvalidRequest, edit: asked(func(r *Request) { r.Actor.Confirmation.X5T = "c" })},
		{name: "T-28", check: actors("bob", "api"), edit: asked(func(r *Request) { r.Subject.Act = chain("api") })},
		{name: "T-28 three", check: actors("bob", "api", "front", "portal"), edit: asked(func(r *Request) { r.Subject.Act = chain("api", "front", "portal") })},
		{name: "T-31 a chain of five", code: InvalidRequest, edit: asked(func(r *Request) { r.Subject.Act = chain("a", "b", "c", "d") })},
		{name: "T-33 the subject itself", code: InvalidRequest, edit: asked(func(r *Request) {
			r.Actor.Iss, r.Actor.Subject = r.Subject.Iss, r.Subject.Subject
		})},
		{name: "T-33 comes back", code: InvalidRequest, edit: asked(func(r *Request) {
			r.Subject.Act = &Actor{Iss: issuer, Subject: "api", Act: &Actor{Iss: "https://corp.example", Subject: "bob"}}
		})},
		{name: "goes on", check: actors("bob", "api"), edit: asked(func(r *Request) {
			r.Subject.Act = &Actor{Iss: "https://corp.example", Subject: "bob", Act: chain("api")}
		})},
		{name: "same name of another issuer", check: actors("bob", "bob"), edit: asked(func(r *Request) { r.Subject.Act = chain("bob") })},
		{name: "impersonation does not drop an actor token", check: actors("bob"), edit: ruleWith(func(r *Rule) { r.Allow.Impersonate = true })},
	})
}

func TestActorTokenOfOurs(t *testing.T) {
	good := func() (World, Request) {
		w, r := withActor()
		w.Rules[0].Actor = &Party{Issuer: Self}
		r.Actor = &Token{Issuer: Self, Iss: issuer, Subject: "batch", ClientID: "web", Expires: now.Add(time.Hour)}
		return w, r
	}
	run(t, good, []row{
		{name: "good", check: actors("batch")},
		{name: "addressed to the client", check: actors("batch"), edit: asked(func(r *Request) {
			r.Actor.ClientID, r.Actor.Audiences = "batch", []string{"https://web.internal"}
		})},
		{name: "T-07 neither issued nor addressed", code: InvalidRequest, edit: asked(func(r *Request) { r.Actor.ClientID = "batch" })},
		{name: "T-07 accept_unaddressed is for subjects", code: InvalidRequest, edit: func(w *World, r *Request) {
			w.Rules[0].Subject.AcceptUnaddressed = true
			r.Actor.ClientID = "batch"
		}},
	})
}

func TestMayAct(t *testing.T) {
	good := func() (World, Request) {
		w, r := withActor()
		r.Subject.MayAct = &MayAct{Iss: "https://corp.example", Subject: "bob"}
		return w, r
	}
	may := func(m MayAct) edit { return asked(func(r *Request) { r.Subject.MayAct = &m }) }
	run(t, good, []row{
		{name: "good", check: actors("bob")},
		{name: "by client id too", edit: may(MayAct{Iss: "https://corp.example", Subject: "bob", ClientID: "cli"})},
		{name: "by client id only", edit: may(MayAct{Iss: "https://corp.example", ClientID: "cli"})},
		{name: "T-25 other issuer in may_act", code: InvalidRequest, edit: may(MayAct{Iss: "https://other.example", Subject: "bob"})},
		{name: "T-25 other issuer of the actor", code: InvalidRequest, edit: asked(func(r *Request) { r.Actor.Iss = "https://other.example" })},
		{name: "T-25 no iss is the subject's", code: InvalidRequest, edit: may(MayAct{Subject: "bob"})},
		{name: "no iss, one issuer", edit: asked(func(r *Request) {
			r.Subject.MayAct.Iss, r.Subject.Iss = "", "https://corp.example"
		})},
		{name: "other subject", code: InvalidRequest, edit: may(MayAct{Iss: "https://corp.example", Subject: "eve"})},
		{name: "other client id", code: InvalidRequest, edit: may(MayAct{Iss: "https://corp.example", Subject: "bob", ClientID: "web"})},
		{name: "T-26", code: InvalidRequest, edit: func(w *World, r *Request) {
			w.Rules[0].Actor, r.Actor = nil, nil
		}},
		{name: "T-26 impersonation", code: InvalidRequest, edit: func(w *World, r *Request) {
			w.Rules[0].Actor, r.Actor = nil, nil
			w.Rules[0].Allow.Impersonate = true
		}},
		{name: "T-24 may_act is no permission", code: InvalidRequest, edit: ruleWith(func(r *Rule) { r.Actor = nil })},
	})
}

// TestChain covers exchanges without an actor token: the client acts.
func TestChain(t *testing.T) {
	act := func(names ...string) edit { return asked(func(r *Request) { r.Subject.Act = chain(names...) }) }
	impersonate := func(names ...string) edit {
		return func(w *World, r *Request) {
			w.Rules[0].Allow.Impersonate, r.Subject.Act = true, chain(names...)
		}
	}
	run(t, exchange, []row{
		{name: "good", check: func(t *testing.T, g Grant) {
			if want := (Actor{Iss: issuer, Subject: "web", ClientID: "web"}); g.Act() == nil || *g.Act() != want {
				t.Errorf("act %+v, want %+v", g.Act(), want)
			}
		}},
		{name: "T-27", edit: act("api"), check: actors("web", "api")},
		{name: "T-27 impersonation keeps the chain", edit: impersonate("api", "portal"), check: actors("api", "portal")},
		{name: "T-31 four", edit: act("a", "b", "c"), check: actors("web", "a", "b", "c")},
		{name: "T-31 five", code: InvalidRequest, edit: act("a", "b", "c", "d")},
		{name: "T-31 five, impersonating", code: InvalidRequest, edit: impersonate("a", "b", "c", "d")},
		{name: "T-33 comes back", code: InvalidRequest, edit: act("api", "web")},
		{name: "goes on", edit: act("web", "api"), check: actors("web", "api")},
		{name: "impersonation", edit: impersonate(), check: actors()},
		{name: "impersonation needs every rule that contributes", check: actors("web"), edit: func(w *World, r *Request) {
			other := w.Rules[0]
			other.Name, other.Allow.Impersonate = "web-impersonates", true
			w.Rules = append(w.Rules, other)
		}},
		{name: "impersonation, a rule that does not contribute", check: actors(), edit: func(w *World, r *Request) {
			other := w.Rules[0]
			other.Name, other.Allow.Scopes = "web-writes", []string{"pay.write"}
			w.Rules[0].Allow.Impersonate = true
			w.Rules = append(w.Rules, other)
		}},
	})
}

// token is the token that a grant becomes, as it is presented again.
func token(g Grant) *Token {
	return &Token{
		Issuer: Self, Iss: issuer, Subject: g.Subject(), ClientID: g.ClientID(), Audiences: g.Audiences(),
		Scopes: g.Scopes(), Txn: g.Txn(), Act: g.Act(), Expires: g.Expires(), Claims: g.Claims(), Confirmation: g.Confirmation(),
		MayAct: g.MayAct(), Exchanges: g.Exchanges(),
	}
}

// hop is a world of two exchanges: web for payments, then payments for ledger.
func hop(t *testing.T, change func(*World)) (*Set, Request) {
	w, r := exchange()
	w.Rules = append(w.Rules, Rule{
		Name:      "payments-books",
		Requester: Requester{Clients: []string{"payments"}},
		Subject:   &Party{Issuer: Self},
		Allow:     Allow{Audiences: []string{"ledger"}, Scopes: []string{"pay.read"}},
	})
	w.Audiences[1].Scopes = append(w.Audiences[1].Scopes, "pay.read", "pay.write")
	change(&w)
	s := compile(t, w)
	g, err := s.Decide(t.Context(), r)
	if err != nil {
		t.Fatalf("first exchange: %s", explained(err))
	}
	r.Subject = token(g)
	r.Client = &Client{ID: "payments", Audiences: []string{"payments", "https://payments.internal"}}
	r.Targets = []string{"ledger"}
	return s, r
}

func TestHops(t *testing.T) {
	t.Run("good", func(t *testing.T) {
		s, r := hop(t, func(*World) {})
		g, err := s.Decide(t.Context(), r)
		if err != nil {
			t.Fatal(explained(err))
		}
		actors("payments", "web")(t, g)
		scopes("pay.read")(t, g)
		if g.Txn() != "txn-1" || g.Subject() != "corp:alice" {
			t.Errorf("txn %q, subject %q", g.Txn(), g.Subject())
		}
	})
	t.Run("T-15", func(t *testing.T) {
		s, r := hop(t, func(w *World) { w.Rules[1].Allow.Scopes = []string{"pay.read", "pay.write"} })
		r.Scopes = []string{"pay.read", "pay.write"}
		g, err := s.Decide(t.Context(), r)
		assertDenied(t, g, err, InvalidScope)
	})
	t.Run("T-16 no rule of the client", func(t *testing.T) {
		s, r := hop(t, func(w *World) { w.Rules = w.Rules[:1] })
		g, err := s.Decide(t.Context(), r)
		assertDenied(t, g, err, UnauthorizedClient)
	})
	t.Run("T-16 no rule for the audience", func(t *testing.T) {
		s, r := hop(t, func(w *World) {
			w.Rules[1].Allow.Audiences = []string{"payments"}
		})
		g, err := s.Decide(t.Context(), r)
		assertDenied(t, g, err, InvalidTarget)
	})
	t.Run("T-33 A to B to A", func(t *testing.T) {
		s, r := hop(t, func(w *World) { w.Rules[0].Requester.Clients = []string{"web", "payments"} })
		g, err := s.Decide(t.Context(), r)
		if err != nil {
			t.Fatal(explained(err))
		}
		r.Subject = token(g)
		r.Client = &Client{ID: "web", Audiences: []string{"ledger"}}
		r.Targets = []string{"payments"}
		g, err = s.Decide(t.Context(), r)
		assertDenied(t, g, err, InvalidRequest)
	})
	t.Run("the chain of the subject is not changed", func(t *testing.T) {
		s, r := hop(t, func(*World) {})
		before := slices.Clone(subjects(r.Subject.Act))
		if _, err := s.Decide(t.Context(), r); err != nil {
			t.Fatal(explained(err))
		}
		if after := subjects(r.Subject.Act); !slices.Equal(before, after) {
			t.Errorf("chain %v became %v", before, after)
		}
	})
}
