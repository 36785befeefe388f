package sts

import (
	"fmt"
	"strings"
)

// bound cuts what is too long. Nothing but what somebody else chose is.
func (r *Record) bound() {
	for _, s := range []*string{
		(*string)(&r.Event), &r.Decision, &r.RequestID, &r.Peer, &r.Forwarded, (*string)(&r.Grant), &r.Outcome, (*string)(&r.Error),
		&r.Client, (*string)(&r.AuthMethod), &r.Certificate, (*string)(&r.AskedType),
	} {
		*s = cut(*s, maxText)
	}
	r.Reason = cut(r.Reason, maxReasonText)
	if len(r.Reasons) > maxReasonsKept {
		r.Reasons = r.Reasons[:maxReasonsKept]
	}
	for i := range r.Reasons {
		w := &r.Reasons[i]
		w.Rule, w.Predicate, w.Presented, w.Expected, w.Hint = cut(w.Rule, maxText), cut(w.Predicate, maxText), cut(w.Presented, maxText), cut(w.Expected, maxText), cut(w.Hint, maxText)
	}
	r.AskedAudiences, r.AskedScopes = cutList(r.AskedAudiences), cutList(r.AskedScopes)
	parties := []*RecordParty{r.Subject, r.Actor, r.Assertion}
	if g := r.Registration; g != nil && g.Statement != nil {
		g.Statement.Act = nil // nobody acts in a statement about software
		parties = append(parties, g.Statement)
	}
	for _, p := range parties {
		if p != nil {
			p.Issuer, p.Sub, p.JTI, p.Hash, p.Txn = cut(p.Issuer, maxText), cut(p.Sub, maxText), cut(p.JTI, maxJTI), cut(p.Hash, maxText), cut(p.Txn, maxText)
			p.Act = cutList(p.Act)
		}
	}
	if r.Facts.size() > maxFacts {
		r.Facts = &Facts{Incomplete: factsLarge}
	}
	if a := r.Admin; a != nil {
		a.Action, a.Target = cut(a.Action, maxText), cut(a.Target, maxText)
		a.By.bound()
	}
	if g := r.Registration; g != nil {
		g.Action, g.Template, g.Client = cut(g.Action, maxText), cut(g.Template, maxText), cut(g.Client, maxText)
		if g.By != nil {
			by := *g.By
			by.bound()
			g.By = &by
		}
	}
	if p := r.Proof; p != nil {
		p.JKT, p.JTI = cut(p.JKT, maxText), cut(p.JTI, maxJTI)
	}
	if n := r.Suppressed; n != nil {
		n.Network = cut(n.Network, maxText)
	}
	if v := r.Revocation; v != nil {
		c := *v // it is in force as it is
		c.Kind = RevocationKind(cut(string(c.Kind), maxText))
		c.Issuer, c.Value, c.By, c.Reason = cut(c.Issuer, maxText), cut(c.Value, maxReasonText), cut(c.By, maxText), cut(c.Reason, maxText)
		r.Revocation = &c
	}
	if c := r.Change; c != nil {
		c.bound()
	}
	if t := r.Issued; t != nil {
		t.JKT, t.X5T = cut(t.JKT, maxText), cut(t.X5T, maxText)
		t.JTI, t.KID, t.Type, t.Sub = cut(t.JTI, maxText), cut(t.KID, maxText), TokenType(cut(string(t.Type), maxText)), cut(t.Sub, maxText)
		t.ClientID, t.Txn, t.MayAct = cut(t.ClientID, maxText), cut(t.Txn, maxText), cut(t.MayAct, maxText)
		t.Audiences, t.Scopes, t.Act, t.Rules = cutList(t.Audiences), cutList(t.Scopes), cutList(t.Act), cutList(t.Rules)
	}
}

// cut ends a text that is longer than most bytes with dots, and at a character.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most-3], "") + "..."
}

// cutList ends a list that has more than maxList bytes with how many more there
// are. It does not change the list that it is given.
func cutList(list []string) []string {
	bytes, long := 0, false
	for _, s := range list {
		bytes += len(s) + 3 // quotes and comma
		long = long || len(s) > maxText
	}
	if !long && bytes <= maxList {
		return list
	}
	var out []string
	bytes = 0
	for i, s := range list {
		s = cut(s, maxText)
		if bytes += len(s) + 3; bytes > maxList {
			return append(out, fmt.Sprintf("and %d more", len(list)-i))
		}
		out = append(out, s)
	}
	return out
}
