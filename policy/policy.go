// Package policy decides who gets what. It is pure: no I/O, no clock, nothing of
// ours below it.
//
// [Compile] turns rules into a [Set], and [Set.Decide] answers a [Request] with a
// [Grant], which only this package can make, or with a [*Denial] that says why.
//
// # How rules are read
//
// A rule matches if all its predicates hold: who asks (requester), whose token
// is presented (subject), who acts (actor), where the token is to be used
// (audiences), of which type it is, and the expression when. What matching rules
// allow adds up:
//
//   - Scopes: the union of what matching rules allow, of those that the audience
//     defines.
//   - Lifetime: a scope comes with the longest ttl of a rule that allows it; the
//     token lives as long as the shortest-lived of its scopes, and no longer than
//     its audience, its subject token and its actor token.
//   - Extra claims: those of all rules that contribute, that is, that allow one of
//     the token's scopes; a rule without scopes contributes if the request names
//     none. Two that set one claim to different values are refused, when they are
//     compiled if that can be told.
//   - The requester becomes an actor unless every contributing rule impersonates.
//   - Binding: see below; the token is bound if one contributing rule requires it.
//   - Subject and may_act: contributing rules must agree who the token is about,
//     and those that say who may act for it on who that is. One that does not say
//     leaves it to the others. What could differ is refused when it is compiled.
//
// So a rule less never allows more, and a rule more never allows less, but for two
// cases: rules that set a claim, the subject or may_act to different values and
// could not be told apart when they were compiled, because the claim they match by
// has several values in the token; such a request is refused rather than given
// either value. And what rules require for what they grant (a binding, may_act, uses
// in a transaction) goes with them.
//
// # How prohibitions are read
//
// A rule with Deny wins over all that allow. What it does not say restricts
// nothing: without a requester it is for anybody, without a subject for anybody's
// token and for none, without audiences for all. If it names scopes, those are not
// granted; else the request is denied. So a prohibition more never allows more.
//
// A claim that is not there does not have the value that a predicate names, so the
// rule does not match: it is about tokens that have it. But an expression that
// cannot be evaluated, because it reads a claim that is not there or costs too much,
// denies: what its author wanted to stop cannot be told from the rest, and who
// leaves a claim out of a token must not get around what it would say. An author
// who means otherwise says has(subject.claims.x).
//
// # What no rule can change
//
// A token of this service is exchanged for one with at most its scopes, at most
// its lifetime, its transaction and at least its actors; claims of rules for
// scopes that it does not have are not set. It must be addressed or issued to the
// client, unless a rule accepts otherwise by name. If it carries may_act, an actor
// token must meet it.
//
// A token that is bound to a key, whoever issued it, is of use only in a request
// that proves to have that key, and what it is exchanged for is bound as well: to
// the same key, or to the other one that the same request proves (binding.go).
package policy

import "time"

// Self is the issuer name of this service's own tokens.
const Self = "self"

// Rule is a permission, or a prohibition if it has Deny.
//
// All its predicates hold when it matches. Each is looked at in one place, in the
// order of the stages, and says by progress.test what was presented and what was
// expected; what a predicate needs must be in the [Request], so that a decision can be
// repeated. A new one gets a stage or joins one, a line in docs/policy.md and in
// [Set.Predicates], and its counterpart in the naive evaluation of property_test.go.
type Rule struct {
	Name        string    `json:"name"`
	Description string    `json:"description,omitempty"`
	Requester   Requester `json:"requester,omitzero"`
	Subject     *Party    `json:"subject,omitempty"` // nil: the requester itself
	Actor       *Party    `json:"actor,omitempty"`   // nil: no actor token
	Require     Require   `json:"require,omitzero"`
	When        string    `json:"when,omitempty"` // CEL that yields a bool
	Allow       Allow     `json:"allow,omitzero"`
	Limits      Limits    `json:"limits,omitzero"`
	Deny        *Deny     `json:"deny,omitempty"`

	// AcceptRisks are what its author knows and takes. They change no decision: they
	// are for who checks rules before they are here.
	AcceptRisks []string `json:"accept_risks,omitempty"`
}

// Deny is what a rule prohibits.
type Deny struct {
	Audiences []string `json:"audiences,omitempty"` // empty: all
	Scopes    []string `json:"scopes,omitempty"`    // empty: the whole request
}

// Limits bound a chain of exchanges; 0 stands for what no rule can exceed, or for
// no limit.
type Limits struct {
	Actors             int `json:"actors,omitempty"`
	Exchanges          int `json:"exchanges,omitempty"`
	UsesPerTransaction int `json:"uses_per_transaction,omitempty"`
}

// Requester says who may ask; zero is the workload itself.
type Requester struct {
	Clients  []string          `json:"clients,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Workload bool              `json:"workload,omitempty"`
}

// Party says whose token a subject or actor token is.
type Party struct {
	Issuer string `json:"issuer"`
	// Claims by exact value: string, bool, int64, float64, or a list of those of
	// which one must be equal.
	Claims            map[string]any    `json:"claims,omitempty"`
	ClaimGlobs        map[string]string `json:"claim_globs,omitempty"`
	AcceptUnaddressed bool              `json:"accept_unaddressed,omitempty"`
}

// Require is what a rule asks of a request besides who makes it.
type Require struct {
	Binding     Binding       `json:"binding,omitempty"`       // what the token must be bound to; empty: nothing
	MaxTokenAge time.Duration `json:"max_token_age,omitempty"` // of the subject token, by iat; 0: any
	MaxAuthAge  time.Duration `json:"max_auth_age,omitempty"`  // of the subject's authentication, by auth_time; 0: any
}

// Allow is what a rule grants.
type Allow struct {
	Audiences         []string          `json:"audiences"`
	Scopes            []string          `json:"scopes,omitempty"`
	TTL               time.Duration     `json:"ttl,omitempty"`    // 0: the audience's
	Claims            map[string]string `json:"claims,omitempty"` // name to CEL
	Impersonate       bool              `json:"impersonate,omitempty"`
	MultipleAudiences bool              `json:"multiple_audiences,omitempty"`
	TokenTypes        []string          `json:"token_types,omitempty"` // besides access_token

	ScopesFromRequest bool             `json:"scopes_from_request,omitempty"` // those asked for by name, of the audience's
	ScopesFromClaims  []ScopesForValue `json:"scopes_from_claims,omitempty"`
	Sub               string           `json:"sub,omitempty"` // CEL; what follows ISSUER: in sub; empty: the token's
	MayAct            *MayActParty     `json:"may_act,omitempty"`
}

// ScopesForValue are scopes that come with a value of a claim of the subject token.
type ScopesForValue struct {
	Claim  string   `json:"claim"`
	Value  any      `json:"value"` // as in Party.Claims
	Scopes []string `json:"scopes"`
}

// MayActParty is who may act for a subject: a client, or a subject of an issuer.
type MayActParty struct {
	Client  string `json:"client,omitempty"`
	Issuer  string `json:"issuer,omitempty"`
	Subject string `json:"sub,omitempty"`
}

// Audience is a target of tokens as rules see it.
type Audience struct {
	Name        string
	Identifiers []string // empty: the name
	Scopes      []string
	MaxTTL      time.Duration // 0: one hour
	KeySet      string        // that signs its tokens
	Binding     Binding       // what its tokens must be bound to; empty: nothing
}

// Token is a verified token.
type Token struct {
	Issuer  string         `json:"issuer"` // name of the Issuer resource, or Self
	Iss     string         `json:"iss"`
	Subject string         `json:"sub"`
	Claims  map[string]any `json:"claims,omitempty"`
	Expires time.Time      `json:"exp"`

	Act          *Actor       `json:"act,omitempty"`
	MayAct       *MayAct      `json:"may_act,omitempty"`
	Confirmation Confirmation `json:"cnf,omitzero"` // the key that it is bound to

	// Of tokens of this service.
	Audiences []string `json:"aud,omitempty"`
	ClientID  string   `json:"client_id,omitempty"`
	Scopes    []string `json:"scopes,omitempty"`
	Txn       string   `json:"txn,omitempty"`
	Exchanges int      `json:"exchanges,omitempty"` // since its transaction began
}

// Actor is a party of an act chain, with those that acted before below it [RFC
// 8693 §4.1].
type Actor struct {
	Iss      string `json:"iss,omitempty"`
	Subject  string `json:"sub"`
	ClientID string `json:"client_id,omitempty"`
	Act      *Actor `json:"act,omitempty"`
}

// depth is the number of actors.
func (a *Actor) depth() int {
	n := 0
	for ; a != nil; a = a.Act {
		n++
	}
	return n
}

func (a *Actor) same(b *Actor) bool { return a.Iss == b.Iss && a.Subject == b.Subject }

// MayAct is who may act for the subject of a token [RFC 8693 §4.4].
type MayAct struct {
	Iss      string `json:"iss,omitempty"`
	Subject  string `json:"sub,omitempty"`
	ClientID string `json:"client_id,omitempty"`
}

// Client is an authenticated client.
type Client struct {
	ID        string
	Labels    map[string]string
	Audiences []string // identifiers that the client is addressed by
	DPoP      bool     // its tokens are bound by DPoP, whatever it asks for
}

// Token types of a request.
const (
	AccessToken = "access_token"
	JWT         = "jwt"
	IDToken     = "id_token"
)

// Request is what a decision is asked about. Everything in it is verified.
type Request struct {
	Client    *Client // nil: the workload presents its own token
	Subject   *Token  // nil: the client is the subject
	Actor     *Token
	Proven    Confirmation // the keys that the request proves to have; never Other
	Targets   []string     // identifiers asked for, verbatim, in order
	Scopes    []string     // asked for; empty: all that is allowed
	TokenType string
	Now       time.Time

	// SelfIssuer is the issuer identifier of this service.
	SelfIssuer string
}
