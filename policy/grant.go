package policy

import "time"

// Grant is what a request was allowed. Only [Set.Decide] makes one, so what is
// signed was decided; the zero Grant is not valid.
type Grant struct{ g *grant }

type grant struct {
	subject, clientID, txn, tokenType string
	keySet                            string
	audiences, scopes, rules          []string
	expires                           time.Time
	act                               *Actor
	confirmation                      Confirmation
	claims                            map[string]any
	mayAct                            *MayAct
	exchanges                         int
	uses                              []Uses
}

// Valid tells whether this is a Grant that was decided.
func (g Grant) Valid() bool { return g.g != nil }

// Subject is the sub of the token.
func (g Grant) Subject() string { return g.g.subject }

// ClientID names the requester: the client, or the workload itself.
func (g Grant) ClientID() string { return g.g.clientID }

// Audiences are the identifiers for aud, as the request named them.
func (g Grant) Audiences() []string { return g.g.audiences }

// KeySet names the key set that signs for all of the audiences.
func (g Grant) KeySet() string { return g.g.keySet }

// Scopes are sorted and unique.
func (g Grant) Scopes() []string { return g.g.scopes }

// Expires is when the token must have expired.
func (g Grant) Expires() time.Time { return g.g.expires }

// Act is the chain of actors, outermost first; nil if there is none.
func (g Grant) Act() *Actor { return g.g.act }

// Confirmation is the key that the token must be bound to; zero if to none. It has
// one member at most: cnf is about a single key [RFC 7800 §3.1].
func (g Grant) Confirmation() Confirmation { return g.g.confirmation }

// Txn is the root transaction that goes on; empty if one begins.
func (g Grant) Txn() string { return g.g.txn }

// Claims are extra claims set by rules. They must not be changed.
func (g Grant) Claims() map[string]any { return g.g.claims }

// TokenType is the type to issue.
func (g Grant) TokenType() string { return g.g.tokenType }

// Rules are the names of the rules that contributed.
func (g Grant) Rules() []string { return g.g.rules }

// MayAct is who may act for the subject of the token; nil: whoever rules allow.
func (g Grant) MayAct() *MayAct { return g.g.mayAct }

// Exchanges counts the exchanges since the transaction began, this one included.
func (g Grant) Exchanges() int { return g.g.exchanges }

// Uses are the rules that contributed of which each may do so only so often in the
// transaction. Who issues the token must count it first.
func (g Grant) Uses() []Uses { return g.g.uses }
