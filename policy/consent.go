package policy

import (
	"fmt"
	"slices"
	"strings"
)

// parties are the parameters of the subject's and the actor's token.
var parties = [...]string{"subject_token", "actor_token"}

// consent checks what the tokens themselves say about who may use them.
func consent(r *Request) *Denial {
	if r.Client == nil && (r.Subject == nil || r.Subject.Issuer == Self) {
		return deny(InvalidRequest, "a workload without a client presents a token of its own issuer")
	}
	if r.Subject == nil {
		if r.Actor != nil {
			return deny(InvalidRequest, "an actor_token needs a subject_token of the party that is acted for")
		}
		return nil
	}
	if d := possession(r); d != nil {
		return d
	}
	if a := r.Actor; a != nil && a.Issuer == Self && !a.usableBy(r.Client) {
		return deny(InvalidRequest, "the actor_token is neither issued nor addressed to this client").
			because("actor_token.aud", strings.Join(a.Audiences, " ")+", issued to "+a.ClientID, "addressed or issued to the client")
	}
	may := r.Subject.MayAct
	if may == nil {
		return nil
	}
	if r.Actor == nil {
		return deny(InvalidRequest, "the subject_token says who may act by may_act; an actor_token of that party is required").
			because("actor_token", "none", may.String())
	}
	issuer := may.Iss
	if issuer == "" {
		issuer = r.Subject.Iss
	}
	if r.Actor.Iss != issuer || may.Subject != "" && may.Subject != r.Actor.Subject || may.ClientID != "" && may.ClientID != r.Actor.ClientID {
		return deny(InvalidRequest, "the actor is not the one that may_act of the subject_token allows").
			because("subject_token.may_act", MayAct{r.Actor.Iss, r.Actor.Subject, r.Actor.ClientID}.String(), may.String())
	}
	return nil
}

func (m MayAct) String() string {
	return fmt.Sprintf("iss %s, sub %s, client_id %s", show(m.Iss, m.Iss != ""), show(m.Subject, m.Subject != ""), show(m.ClientID, m.ClientID != ""))
}

// usableBy tells whether a token of this service is addressed or issued to a
// client.
func (t *Token) usableBy(c *Client) bool {
	if c == nil {
		return false
	}
	return t.ClientID == c.ID || slices.ContainsFunc(t.Audiences, func(a string) bool { return slices.Contains(c.Audiences, a) })
}

// identify says whose the token will be.
//
// A subject of another issuer is named ISSUER:SUB, so that no issuer can name a
// client of this service or a subject of another issuer.
func (g *grant) identify(r *Request) *Denial {
	switch {
	case r.Subject == nil:
		g.subject = r.Client.ID
	case r.Subject.Issuer == Self:
		g.subject, g.txn = r.Subject.Subject, r.Subject.Txn
	default:
		g.subject = r.Subject.Issuer + ":" + r.Subject.Subject
	}
	if len(g.subject) > maxSubject {
		return deny(InvalidRequest, fmt.Sprintf("the subject would be longer than %d characters", maxSubject))
	}
	g.clientID = g.subject
	if r.Client != nil {
		g.clientID = r.Client.ID
	}
	return nil
}

// delegate returns the act chain with the party that acts now on top. Nothing of
// the chain that is there is ever dropped or changed.
func delegate(r *Request, subject string) (*Actor, *Denial) {
	if r.Subject == nil {
		return nil, nil
	}
	below := r.Subject.Act
	var now *Actor
	switch {
	case r.Actor != nil:
		now = &Actor{Iss: r.Actor.Iss, Subject: r.Actor.Subject, ClientID: r.Actor.ClientID}
		if r.Actor.Iss == r.Subject.Iss && r.Actor.Subject == r.Subject.Subject {
			return nil, deny(InvalidRequest, "the actor is the subject itself; leave the actor_token out")
		}
	case r.Client != nil && r.Client.ID != subject:
		now = &Actor{Iss: r.SelfIssuer, Subject: r.Client.ID, ClientID: r.Client.ID}
	default:
		return below, nil
	}
	if below != nil && below.same(now) {
		return below, nil
	}
	depth := 1
	for a := below; a != nil; a = a.Act {
		if depth++; a.same(now) {
			return nil, deny(InvalidRequest, "the actor has acted before in this chain; a chain does not come back")
		}
	}
	if depth > maxChain {
		return nil, deny(InvalidRequest, fmt.Sprintf("the chain of actors would be longer than %d", maxChain))
	}
	now.Act = below
	return now, nil
}
