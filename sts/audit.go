package sts

import (
	"context"
	"time"
)

// MaxRecordSize is the most bytes that a Record has as JSON, whatever is escaped
// in it: what callers, issuers and operators chose is cut.
const MaxRecordSize = 640 << 10

// Event is what a record tells of.
type Event string

// What records tell of.
const (
	EventToken      Event = "token"      // a decision about a token request
	EventChange     Event = "change"     // a change of resources
	EventRevoke     Event = "revoke"     // a revocation of tokens
	EventIntrospect Event = "introspect" // an introspection
	EventRegister   Event = "register"   // a dynamic registration of a client
	EventAdmin      Event = "admin"      // anything else that an administrator does
)

// What the log tells of itself, in lines that are not Records.
const (
	EventFile       Event = "file"       // a file begins
	EventKey        Event = "key"        // a signing key is published
	EventCheckpoint Event = "checkpoint" // what is here up to some line is signed
	EventTorn       Event = "torn"       // what a crash left was set aside
	EventDropped    Event = "dropped"    // a sink did not get some lines
	EventBegin      Event = "begin"      // the store did not know this chain
)

// RecordEvents are those of Records, and LogEvents those of the other lines.
var (
	RecordEvents = []Event{EventToken, EventChange, EventRevoke, EventIntrospect, EventRegister, EventAdmin}
	LogEvents    = []Event{EventFile, EventKey, EventCheckpoint, EventTorn, EventDropped, EventBegin}
)

// AuditChain is what the store keeps of the audit log of a node, apart from it.
type AuditChain struct {
	Chain string    `json:"chain"` // the random name of the chain of records
	Node  string    `json:"node"`  // whose log it is; empty if the store has one node
	Begun time.Time `json:"begun"` // when the store learned of it

	// The last signed checkpoint that is kept, and what it says; empty if there was
	// none yet.
	Checkpoint string    `json:"checkpoint,omitempty"`
	Seq        int64     `json:"seq,omitempty"`
	Hash       string    `json:"hash,omitempty"`
	Time       time.Time `json:"time,omitzero"`
}

// Heard is when the store heard of the log last.
func (c AuditChain) Heard() time.Time {
	if c.Time.After(c.Begun) {
		return c.Time
	}
	return c.Begun
}

// AuditChains is what the store keeps of audit logs, those of other nodes and of
// before included.
type AuditChains interface {
	// AuditChains returns them by the names of the chains.
	AuditChains(ctx context.Context) ([]AuditChain, error)
}

// AuditChains says what the store keeps of audit logs. An error is an *Error.
func (s *Service) AuditChains(ctx context.Context) ([]AuditChain, error) {
	if s.chains == nil {
		return nil, nil
	}
	all, err := s.chains.AuditChains(ctx)
	if err != nil {
		return nil, &Error{Code: Unavailable, RetryAfter: retryLater, Err: err, Message: "the store does not answer now; try again later"}
	}
	return all, nil
}

// Record is one line of the audit log: something that was decided, allowed or
// denied. It holds no token, only their ids.
type Record struct {
	Event     Event     `json:"event"` // the first, which readers of the log rely on
	Time      time.Time `json:"time"`
	Decision  string    `json:"decision"`
	RequestID string    `json:"request_id,omitempty"`
	Peer      string    `json:"peer,omitempty"`
	Forwarded string    `json:"forwarded_for,omitempty"` // for whom Peer asks, if it is a trusted proxy
	Grant     GrantType `json:"grant,omitempty"`
	Outcome   string    `json:"outcome"` // allow or deny
	Revision  int64     `json:"revision"`

	Error   Code           `json:"error,omitempty"`   // what the caller was told
	Reason  string         `json:"reason,omitempty"`  // the sentence, and the cause
	Reasons []RecordReason `json:"reasons,omitempty"` // what each candidate rule missed, or what else was not as it must be

	Client      string       `json:"client,omitempty"`      // that exists; authenticated unless Error is invalid_client
	AuthMethod  AuthMethod   `json:"auth_method,omitempty"` // how
	Certificate string       `json:"certificate,omitempty"` // by which, if by one: its x5t#S256
	Assertion   *RecordParty `json:"assertion,omitempty"`   // that authenticates the client
	Subject     *RecordParty `json:"subject,omitempty"`     // subject token
	Actor       *RecordParty `json:"actor,omitempty"`       // actor token

	Proof *RecordProof `json:"dpop,omitempty"` // whose key signed it for this request

	// What is not defined is named by its hash and length, unless it is a word and
	// it is known who asks.
	AskedAudiences []string  `json:"asked_audiences,omitempty"`
	AskedScopes    []string  `json:"asked_scopes,omitempty"`
	AskedType      TokenType `json:"asked_type,omitempty"`

	// Facts are what the rules were asked about. They are there if rules were asked,
	// and with those members that name what was asked for all that decided.
	Facts *Facts `json:"facts,omitempty"`

	// Revocation is what is being made; if it could not be, a second record says so.
	Revocation *Revocation `json:"revocation,omitempty"`
	// Late says that it took effect while it could not be recorded.
	Late bool `json:"late,omitempty"`

	Registration *RecordRegistration `json:"registration,omitempty"` // of EventRegister

	Issued *RecordToken `json:"issued,omitempty"` // present if and only if allowed

	// Suppressed says that the record stands for others, which were not written.
	Suppressed *RecordSuppressed `json:"suppressed,omitempty"`

	Change *RecordedChange `json:"change,omitempty"` // of EventChange
	Admin  *RecordAdmin    `json:"admin,omitempty"`  // of EventAdmin
}

// RecordedChange is a change of resources: a revision that is being made, or one
// that is given up. It is recorded before it is stored; if it could not be, another
// record denies it. What became of it in the end, the revisions say.
type RecordedChange struct {
	Line     Line `json:"line"`
	Discards bool `json:"discards,omitempty"` // the shadow revision is given up

	Fields []RecordedField `json:"fields,omitempty"` // of resources that were updated, the first ones
	Revision
}

// RecordRegistration says what is done with the registration of a client. It is
// recorded before it is done; if it could not be, another record with the same
// decision denies it. That one has expired, each node records that has seen it go.
type RecordRegistration struct {
	Action    string       `json:"action"` // register, read, update, delete or expire
	Template  string       `json:"template,omitempty"`
	Client    string       `json:"client,omitempty"`             // whose registration it is
	Statement *RecordParty `json:"software_statement,omitempty"` // that was presented
	By        *Principal   `json:"by,omitempty"`                 // the administrator, if it was one; else the client itself, or the bearer of the subject token
}

// RecordAdmin says what an administrator did.
type RecordAdmin struct {
	Action     string    `json:"action"`           // such as backup
	Target     string    `json:"target,omitempty"` // of the action, such as a key
	By         Principal `json:"by"`
	Suppressed int64     `json:"suppressed,omitempty"` // refused calls before this one that have no record
}

// RecordSuppressed counts refusals of those of whom it is not known who they are,
// from one network.
type RecordSuppressed struct {
	Network string          `json:"network"` // or others, for those that are too many to be told apart
	Count   int64           `json:"count"`
	Events  map[Event]int64 `json:"events"` // what was asked for
	Errors  map[Code]int64  `json:"errors"` // what they were told
	Since   time.Time       `json:"since"`  // the first and the last
	Until   time.Time       `json:"until"`
}

// RecordReason says why a rule did not grant a request, or why a token was not
// accepted.
type RecordReason struct {
	Rule      string `json:"rule,omitempty"`
	Predicate string `json:"predicate"` // of the rule, or parameter and claim: subject_token.aud
	Presented string `json:"presented,omitempty"`
	Expected  string `json:"expected,omitempty"`
	Hint      string `json:"hint,omitempty"` // what may be meant
}

// RecordParty names a presented token by what identifies it.
type RecordParty struct {
	// Unverified says that the signature was not verified: then anybody can have
	// written what is here, but for the hash.
	Unverified bool     `json:"unverified,omitempty"`
	Issuer     string   `json:"issuer,omitempty"` // Issuer resource, or self; empty if it is not known
	Sub        string   `json:"sub,omitempty"`
	JTI        string   `json:"jti,omitempty"`
	Hash       string   `json:"hash,omitempty"` // of the token, if it has no verified jti
	Txn        string   `json:"txn,omitempty"`
	Act        []string `json:"act,omitempty"` // actor chain, outermost first
	Exp        int64    `json:"exp,omitempty"`
}

// RecordToken describes the token that was issued.
type RecordToken struct {
	JTI       string    `json:"jti"`
	KID       string    `json:"kid"`
	Type      TokenType `json:"type"`
	Sub       string    `json:"sub"`
	ClientID  string    `json:"client_id"`
	Audiences []string  `json:"aud"`
	Scopes    []string  `json:"scopes,omitempty"`
	Act       []string  `json:"act,omitempty"`       // actor chain, outermost first
	MayAct    string    `json:"may_act,omitempty"`   // sub of who may act for the subject, if the token says
	Exchanges int       `json:"exchanges,omitempty"` // since the transaction began, this one included
	Txn       string    `json:"txn"`
	Exp       int64     `json:"exp"`
	Rules     []string  `json:"rules"` // that granted it

	// The key that it is bound to, if it is: one of the two.
	JKT string `json:"jkt,omitempty"`      // of DPoP
	X5T string `json:"x5t#S256,omitempty"` // of a certificate
}

// RecordProof names a DPoP proof.
type RecordProof struct {
	JKT string `json:"jkt"` // thumbprint of its key
	JTI string `json:"jti"`
}

// What a record has of a change at most: resources that it names, and the kind of one.
const (
	recordedRefs = 20
	maxKind      = 16
)

// bound cuts what is too long.
func (c *RecordedChange) bound() {
	c.Line, c.Why = Line(cut(string(c.Line), maxText)), cut(c.Why, maxReasonText)
	c.By.bound()
	for _, refs := range []*Refs{&c.Created, &c.Updated, &c.Deleted} {
		first := refs.First
		refs.First = nil
		for _, ref := range first[:min(len(first), recordedRefs)] {
			refs.First = append(refs.First, Ref{Kind(cut(string(ref.Kind), maxKind)), cut(ref.Name, maxName)})
		}
	}
	all := c.Fields
	c.Fields = nil
	for _, f := range all[:min(len(all), recordedFields)] {
		c.Fields = append(c.Fields, RecordedField{
			Ref: Ref{Kind(cut(string(f.Ref.Kind), maxKind)), cut(f.Ref.Name, maxName)}, Field: cut(f.Field, maxFieldValue),
			Before: cut(f.Before, maxFieldValue), After: cut(f.After, maxFieldValue),
		})
	}
}
