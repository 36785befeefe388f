package sts

import "time"

// Record is one line of the audit log: a decision, allowed or denied. It holds
// no token, only their ids.
type Record struct {
	Time      time.Time `json:"time"`
	Decision  string    `json:"decision"`
	RequestID string    `json:"request_id,omitempty"`
	Peer      string    `json:"peer,omitempty"`
	Grant     GrantType `json:"grant,omitempty"`
	Outcome   string    `json:"outcome"` // allow or deny
	Revision  int64     `json:"revision"`

	Error   Code           `json:"error,omitempty"`   // what the caller was told
	Reason  string         `json:"reason,omitempty"`  // the sentence, and the cause
	Reasons []RecordReason `json:"reasons,omitempty"` // what each candidate rule missed

	Client     string       `json:"client,omitempty"`      // authenticated client
	AuthMethod AuthMethod   `json:"auth_method,omitempty"` // how
	Subject    *RecordParty `json:"subject,omitempty"`     // verified subject token
	Actor      *RecordParty `json:"actor,omitempty"`       // verified actor token

	AskedAudiences []string  `json:"asked_audiences,omitempty"`
	AskedScopes    []string  `json:"asked_scopes,omitempty"`
	AskedType      TokenType `json:"asked_type,omitempty"`

	Issued *RecordToken `json:"issued,omitempty"` // present if and only if allowed
}

// RecordReason says why a rule did not grant a request.
type RecordReason struct {
	Rule      string `json:"rule,omitempty"`
	Predicate string `json:"predicate"`
	Presented string `json:"presented,omitempty"`
	Expected  string `json:"expected,omitempty"`
}

// RecordParty names a verified token by what identifies it.
type RecordParty struct {
	Issuer string   `json:"issuer"` // Issuer resource, or self
	Sub    string   `json:"sub"`
	JTI    string   `json:"jti,omitempty"`
	Hash   string   `json:"hash,omitempty"` // of the token, if it has no jti
	Txn    string   `json:"txn,omitempty"`
	Act    []string `json:"act,omitempty"` // actor chain, outermost first
	Exp    int64    `json:"exp"`
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
	Act       []string  `json:"act,omitempty"` // actor chain, outermost first
	Txn       string    `json:"txn"`
	Exp       int64     `json:"exp"`
	Rules     []string  `json:"rules"` // that granted it
}
