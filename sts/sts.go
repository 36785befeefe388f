// Package sts is the domain of the security token service: OAuth and JWT
// without a wire. Start reading here: this file has every type that a request
// passes through and every interface that the domain needs from outside.
//
// The walk of a request is [Service.Token]: authenticate the client, verify the
// presented tokens, ask the policy, mint what was granted, record the decision.
// Every grant takes these steps in this order; there is no other way to a token.
package sts

import (
	"context"
	"crypto/x509"
	"errors"
	"time"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/policy"
)

// GrantType is the OAuth grant_type of a request.
type GrantType string

// The grants of this service.
const (
	ClientCredentials GrantType = "client_credentials"                              // [RFC 6749 §4.4]
	TokenExchange     GrantType = "urn:ietf:params:oauth:grant-type:token-exchange" // [RFC 8693 §2.1]
)

// TokenType says what a token is, as the URN of [RFC 8693 §3].
type TokenType string

// The token types that can be presented and asked for.
const (
	AccessToken TokenType = "urn:ietf:params:oauth:token-type:access_token"
	JWT         TokenType = "urn:ietf:params:oauth:token-type:jwt"
	IDToken     TokenType = "urn:ietf:params:oauth:token-type:id_token"
)

// TokenRequest is a request at the token endpoint, whatever wire it came over.
type TokenRequest struct {
	Grant      GrantType
	Credential Credential // what the client authenticates with; zero: nothing

	Audiences []string // logical names, in the order given
	Resources []string // absolute URIs, in the order given
	Scope     string   // space-delimited; empty asks for all that is allowed

	RequestedType TokenType // empty: AccessToken
	Subject       Presented // exchange only
	Actor         Presented // exchange only, optional

	Proof       string      // DPoP proof [RFC 9449 §4]; empty: none
	ProofTarget ProofTarget // what a proof must be for

	// The key of the first is proven, so a token can be bound to it.
	Certificates []*x509.Certificate // of the caller's TLS connection, leaf first; verified only as far as ClientVerified says
	// ClientVerified returns nil if an authority that may name clients vouches for
	// the Certificates at a time: one of a SPIFFE trust domain, or, without a name,
	// one of the others. nil: there are no such authorities.
	ClientVerified func(trustDomain string, now time.Time) error

	Source Source

	// Malformed is set by a wire that could not read the request. The request is
	// then refused with that very Error, whose Decision is set, and recorded like
	// any other. It must be the request's own.
	Malformed *Error
}

// Credential is what a client presents to authenticate.
type Credential struct {
	Method   AuthMethod
	ClientID string // may be empty beside an assertion, which names the client
	Secret   string
	// Assertion is a JWT, and AssertionType says which kind of one [RFC 7521 §4.2].
	Assertion     string
	AssertionType AssertionType
}

// AuthMethod is a client authentication method by its registered name.
type AuthMethod string

// The client authentication methods of this service.
const (
	SecretBasic   AuthMethod = "client_secret_basic" // [RFC 6749 §2.3.1]
	SecretPost    AuthMethod = "client_secret_post"  // [RFC 6749 §2.3.1]
	PrivateKeyJWT AuthMethod = "private_key_jwt"     // [RFC 7523 §2.2]
	SPIFFEJWT     AuthMethod = "spiffe_jwt"          // [draft-ietf-oauth-spiffe-client-auth §3.1]
	// FederatedJWT is private_key_jwt on the wire with the key of an Issuer. The
	// name is ours, for records.
	FederatedJWT AuthMethod = "federated_jwt"
)

// The client authentication methods by TLS certificate [RFC 8705 §2]. A request
// that names its client, and has nothing else to authenticate it but the
// Certificates, is of TLSClientAuth; which of the two it is, the client says.
const (
	TLSClientAuth           AuthMethod = "tls_client_auth"
	SelfSignedTLSClientAuth AuthMethod = "self_signed_tls_client_auth"
)

// AssertionType is a client_assertion_type.
type AssertionType string

// The kinds of assertions that authenticate a client.
const (
	JWTBearer AssertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" // [RFC 7523 §2.2]
	JWTSPIFFE AssertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe" // [draft-ietf-oauth-spiffe-client-auth §3.1]
)

// AssertionMethods says by which method an assertion of each kind authenticates.
var AssertionMethods = map[AssertionType]AuthMethod{JWTBearer: PrivateKeyJWT, JWTSPIFFE: SPIFFEJWT}

// Presented is a token that a request carries, unverified.
type Presented struct {
	Token string
	Type  TokenType
}

// ProofTarget is what a DPoP proof of a request must be for. A wire takes it from
// the configuration, never from the request.
type ProofTarget struct{ Method, URI string }

// Source tells where a request came from, for the audit record.
type Source struct {
	RequestID string
	Peer      string // network address of the caller, without port
	// Forwarded is the network address for which the caller, a trusted proxy, asks;
	// empty: for itself.
	Forwarded string
}

// IntrospectionRequest asks about a token [RFC 7662 §2.1].
type IntrospectionRequest struct {
	Caller TokenRequest // who asks: the members that authenticate, Source and Malformed
	Token  string
	Signed bool // the answer is a JWT [RFC 9701]
}

// Introspection is what is known about a token. Of one that is not active nothing
// else is said.
type Introspection struct {
	Active bool
	Claims map[string]any // of the token, and its token_type; must not be changed
	JWT    string         // the answer, if it was asked for as a JWT

	Decision string
	Nonce    string // for the next DPoP proof; empty: none is needed
}

// RevokeTokenRequest asks to revoke a token, by whom it was issued to [RFC 7009
// §2.1].
type RevokeTokenRequest struct {
	Caller TokenRequest // as of an IntrospectionRequest
	Token  string
}

// Revoked is the answer to that.
type Revoked struct {
	Decision   string
	Nonce      string // for the next DPoP proof; empty: none is needed
	Unrecorded error  // why it is not in the audit log yet; nil: it is
}

// Token is an issued token.
type Token struct {
	Value     string
	Issued    TokenType
	Scheme    string // token_type of the reply: Bearer, DPoP or N_A
	ExpiresIn time.Duration
	Scopes    []string
	Decision  string // id of the decision that granted it
	Nonce     string // for the next DPoP proof; empty: none is needed
}

// Resource is one of the five kinds; exactly one member is set.
type Resource struct {
	Client         *Client         `json:"client,omitempty"`
	ClientTemplate *ClientTemplate `json:"client_template,omitempty"`
	Issuer         *Issuer         `json:"issuer,omitempty"`
	Audience       *Audience       `json:"audience,omitempty"`
	Rule           *policy.Rule    `json:"rule,omitempty"`
}

// Kind names a kind of resource, as in YAML.
type Kind string

// The kinds of resources, in the order in which they are listed.
const (
	KindAudience       Kind = "Audience"
	KindClient         Kind = "Client"
	KindClientTemplate Kind = "ClientTemplate"
	KindIssuer         Kind = "Issuer"
	KindRule           Kind = "Rule"
)

// Kinds lists the kinds, in their order.
var Kinds = []Kind{KindAudience, KindClient, KindClientTemplate, KindIssuer, KindRule}

// Ref names a resource.
type Ref struct {
	Kind Kind   `json:"kind"`
	Name string `json:"name"`
}

// Client is a workload that authenticates with a credential of its own, in one
// way: see [Client.methods].
type Client struct {
	Name        string            `json:"name"`
	Description string            `json:"description,omitempty"`
	Disabled    bool              `json:"disabled,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Secrets     []ClientSecret    `json:"secrets,omitempty"`
	Audiences   []string          `json:"audiences,omitempty"` // Audience resources that the client is
	DPoPBound   bool              `json:"dpop_bound_access_tokens,omitempty"`
	Rate        Rate              `json:"rate,omitzero"` // of its token requests; zero: that of all clients
	TLS         *ClientTLS        `json:"tls,omitempty"`

	PrivateKeyJWT *ClientKey         `json:"private_key_jwt,omitempty"`
	Federated     *FederatedIdentity `json:"federated,omitempty"`
	Disclosure    Disclosure         `json:"disclosure,omitempty"`
}

// ClientTLS says by which certificate a client is known; exactly one member is
// set [RFC 8705 §2.1.2, §2.2].
type ClientTLS struct {
	SubjectDN  string            `json:"subject_dn,omitempty"`
	SANURI     string            `json:"san_uri,omitempty"`
	SANDNS     string            `json:"san_dns,omitempty"`
	SANIP      string            `json:"san_ip,omitempty"`
	SANEmail   string            `json:"san_email,omitempty"`
	SPIFFE     *ClientSPIFFE     `json:"spiffe,omitempty"`
	SelfSigned *ClientSelfSigned `json:"self_signed,omitempty"`
}

// ClientSPIFFE names one SPIFFE ID, or those of a trust domain whose path fits a
// pattern in which * stands for characters within a segment.
type ClientSPIFFE struct {
	ID          string `json:"id,omitempty"`
	TrustDomain string `json:"trust_domain,omitempty"`
	Path        string `json:"path,omitempty"`
}

// ClientSelfSigned has the keys of certificates that nobody vouches for.
type ClientSelfSigned struct {
	JWKS string `json:"jwks"` // a JWK set
}

// ClientSecret is a secret as it is kept: a salted hash, see [HashSecret].
type ClientSecret struct {
	Hash     string    `json:"hash"`
	NotAfter time.Time `json:"not_after,omitzero"` // zero: never expires
}

// ClientKey says which keys sign a client's own assertions: JWKS, JWKSFile or
// JWKSURI.
type ClientKey struct {
	JWKS                        string   `json:"jwks,omitempty"` // a JWK set in JSON
	JWKSFile                    string   `json:"jwks_file,omitempty"`
	JWKSURI                     string   `json:"jwks_uri,omitempty"`
	Algorithms                  []string `json:"algorithms,omitempty"` // empty: DefaultAlgorithms
	AcceptTokenEndpointAudience bool     `json:"accept_token_endpoint_audience,omitempty"`
	CACertificates              string   `json:"ca_certificates,omitempty"`
	AllowNetworks               []string `json:"allow_networks,omitempty"`
	InsecureHTTP                bool     `json:"insecure_http,omitempty"`
}

// FederatedIdentity says which tokens of an Issuer are a client's assertions.
type FederatedIdentity struct {
	Issuer    string         `json:"issuer"`           // name of the Issuer
	Claims    map[string]any `json:"claims,omitempty"` // exact: string, bool, int64 or float64
	SingleUse bool           `json:"single_use,omitempty"`
	// AcceptRisks names the dangers of identifying the client so that are meant.
	AcceptRisks []string `json:"accept_risks,omitempty"`
}

// ClientTemplate bounds which clients may be registered dynamically [RFC 7591], by
// whoever has an initial access token for it. What they are besides, their labels
// above all, it says and no registrant does.
type ClientTemplate struct {
	Name         string            `json:"name"`
	Description  string            `json:"description,omitempty"`
	Methods      []AuthMethod      `json:"methods"`               // by which they may authenticate
	GrantTypes   []GrantType       `json:"grant_types,omitempty"` // empty: all of this service
	JWKSHosts    []string          `json:"jwks_hosts,omitempty"`  // that a jwks_uri may have; empty: there is none
	Labels       map[string]string `json:"labels,omitempty"`
	DPoPBound    bool              `json:"dpop_bound_access_tokens,omitempty"`
	MaxClients   int               `json:"max_clients,omitempty"`    // at a time; 0: 100
	MaxPerMinute int               `json:"max_per_minute,omitempty"` // registrations and changes, of one node; 0: 60
	ExpireUnused time.Duration     `json:"expire_unused,omitempty"`  // 0: 30 days
	MaxLifetime  time.Duration     `json:"max_lifetime,omitempty"`   // 0: without end
	SingleUse    bool              `json:"single_use,omitempty"`     // an initial access token registers one client
	// Statement says which software statements are good, one of which is then needed
	// [RFC 7591 §2.3]. nil: none is.
	Statement *SoftwareStatement `json:"software_statement,omitempty"`
}

// SoftwareStatement says which tokens of an Issuer are software statements.
type SoftwareStatement struct {
	Issuer string         `json:"issuer"`           // name of the Issuer
	Claims map[string]any `json:"claims,omitempty"` // exact: string, bool, int64 or float64
}

// Issuer is a trusted issuer of subject and actor tokens.
//
// Its keys come from one place: where its discovery document says, unless one of
// JWKSURI, JWKS, JWKSFile, SPIFFEBundle and TokenReview is there.
type Issuer struct {
	Name             string        `json:"name"`
	Description      string        `json:"description,omitempty"`
	Issuer           string        `json:"issuer"`                       // exact iss of its tokens; empty: what Preset says
	Audience         string        `json:"audience,omitempty"`           // empty: our own issuer identifier
	JWKSURI          string        `json:"jwks_uri,omitempty"`           // empty: by discovery
	Algorithms       []string      `json:"algorithms,omitempty"`         // empty: those of Preset, or DefaultAlgorithms
	TokenTypes       []string      `json:"token_types,omitempty"`        // empty: jwt, id_token
	SelfPresented    bool          `json:"self_presented,omitempty"`     // the workload may be its own requester
	MaxTokenLifetime time.Duration `json:"max_token_lifetime,omitempty"` // 0: 24h
	AllowMissingKID  bool          `json:"allow_missing_kid,omitempty"`
	AllowAct         bool          `json:"allow_act,omitempty"`
	CACertificates   string        `json:"ca_certificates,omitempty"`
	AllowNetworks    []string      `json:"allow_networks,omitempty"`
	InsecureHTTP     bool          `json:"insecure_http,omitempty"`

	Preset              string        `json:"preset,omitempty"`           // what platform it is, see [Presets]
	DiscoveryURI        string        `json:"discovery_uri,omitempty"`    // empty: below Issuer
	DiscoveryIssuer     string        `json:"discovery_issuer,omitempty"` // what the document says; empty: Issuer
	JWKSHosts           []string      `json:"jwks_hosts,omitempty"`       // besides the host of the document
	JWKS                string        `json:"jwks,omitempty"`             // the JWK set itself
	JWKSFile            string        `json:"jwks_file,omitempty"`
	SPIFFEBundle        *SPIFFEBundle `json:"spiffe_bundle,omitempty"`
	TokenReview         *TokenReview  `json:"token_review,omitempty"`
	TokenFile           string        `json:"token_file,omitempty"` // of a token to fetch its keys with
	SingleUse           bool          `json:"single_use,omitempty"` // a token is exchanged once
	AllowOtherAudiences bool          `json:"allow_other_audiences,omitempty"`
	Disclosure          Disclosure    `json:"disclosure,omitempty"`
}

// SPIFFEBundle is where the keys of a trust domain are: in one of File and URL.
type SPIFFEBundle struct {
	TrustDomain string `json:"trust_domain"`
	File        string `json:"file,omitempty"`
	URL         string `json:"url,omitempty"`
}

// TokenReview is a Kubernetes API server that is asked about each token.
type TokenReview struct {
	APIServer string `json:"api_server"`
	TokenFile string `json:"token_file"`
	CAFile    string `json:"ca_file,omitempty"`
	// CheckSignature has the signature checked here first, by the keys that the API
	// server publishes.
	CheckSignature bool `json:"check_signature,omitempty"`
}

// Audience is a target of tokens.
type Audience struct {
	Name        string        `json:"name"`
	Description string        `json:"description,omitempty"`
	Identifiers []string      `json:"identifiers,omitempty"` // empty: the name
	Scopes      []string      `json:"scopes,omitempty"`
	MaxTTL      time.Duration `json:"max_ttl,omitempty"` // 0: 1h, or less if keys do not stay published as long
	KeySet      string        `json:"key_set,omitempty"` // that signs for it; empty: DefaultKeySet

	Quota Rate `json:"quota,omitzero"` // of tokens for it; zero: none

	Binding policy.Binding `json:"binding,omitempty"` // what its tokens must be bound to; empty: nothing

	// Introspectors are clients that may introspect its tokens, besides those that
	// are the Audience.
	Introspectors []string `json:"introspectors,omitempty"`
}

// DefaultKeySet signs for an Audience that names no key set.
const DefaultKeySet = "default"

// Change is an atomic change of resources.
type Change struct {
	Put      []Resource
	Delete   []Ref
	Expected int64 // if not 0, the revision that must be in force
	// Match has the ETag that resources must have; empty: there must be none. See
	// AnyETag.
	Match  map[Ref]string
	DryRun bool
	By     Principal
	Why    string // in the words of who makes it; may be empty

	// Shadow has the change decide beside the resources in force instead of
	// replacing them. It takes the place of the shadow revision that is there.
	Shadow bool
}

// Changed says what a change did.
type Changed struct {
	Revision                  int64 // that is in force now
	Shadow                    int64 // of a change of Change.Shadow: its number among the shadow revisions
	Created, Updated, Deleted []Ref
}

// Errors of Store.
var (
	// ErrConflict says that another writer came first.
	ErrConflict = errors.New("the resources were changed by someone else in between")
	// ErrNoRevision says that a revision is not kept, or that none is in force.
	ErrNoRevision = errors.New("there is no such revision")
)

// Store keeps the revisions of the resources.
//
// What a method acknowledged survives a crash. An error other than ErrConflict
// may leave the write done or not done, never half done.
type Store interface {
	// Load returns a revision with its resources, which belong to the store and must
	// not be changed; the same ones each time as long as they are in force. Number 0
	// stands for the revision of the line that is in force, which is the zero Contents
	// for a live line that has none yet. Else one that is not there is ErrNoRevision.
	Load(ctx context.Context, p Place) (Contents, error)
	// Commit makes the next revision of a line, and puts it in force. The error is
	// ErrConflict if what Commit says must be in force is not. A resource has at most
	// MaxResourceSize as JSON, and belongs to the store from then on.
	Commit(ctx context.Context, c Commit) (Revision, error)
	// Discard takes the shadow revision of a number out of force, else ErrConflict.
	Discard(ctx context.Context, number int64) error
	// Revisions returns live revisions that are kept, the newest first, whose number
	// is less than before; 0: all. There are at most limit.
	Revisions(ctx context.Context, before int64, limit int) ([]Revision, error)
	// Follow calls f, one call after the other, at the beginning, after each commit
	// and about once a second, with what is in force. It returns when ctx ends, f
	// returns an error or the store does not answer, with the reason.
	Follow(ctx context.Context, f func(Heads) error) error
	// Err returns why nothing can be written any more, as Audit's does.
	Err() error
}

// SigningKeys signs tokens with keys that the domain never sees, and looks after
// them. Keys come in named sets, each with a signature algorithm of its own.
//
// An error means that it is not possible now, unless it is said otherwise. It may
// have a method RetryAfter() time.Duration, which says when to come back, and a
// method Dependency() string, which names what is missing in a word for anybody,
// such as vault or storage.
type SigningKeys interface {
	// Sign returns the compact JWS of payload with the header members alg, kid and
	// typ, signed by the key of a set that signs now, and the kid of that key. It
	// returns within a bounded time, whatever the context allows.
	Sign(ctx context.Context, set, typ string, payload []byte) (token, kid string, err error)
	// KeySet returns the public keys to publish, those of all sets.
	KeySet() jose.KeySet
	// MaxAge is how long a verifier may cache that, as of now.
	MaxAge() time.Duration
	// Has tells whether there is a set of this name. Sets do not come or go.
	Has(set string) bool
	// MaxTokenLifetime is how long a key stays published at least after it signed
	// last, by every clock, so no token may live longer.
	MaxTokenLifetime() time.Duration
	// Ready returns nil, or why tokens cannot be signed now. It does not wait.
	Ready() error

	// Delivered says that a verifier fetched a set that KeySet returned, or was
	// told that it has it still. What names the verifier is not kept in the clear.
	Delivered(set jose.KeySet, verifier string)
	// Status returns what is known about each set, also about one that is not
	// there any more and has keys that count.
	Status() []KeySetStatus
	// Rotate makes the next key of a set and publishes it. If there is one
	// already, it returns that one. An error that is an *Error is for the caller.
	Rotate(ctx context.Context, set string) (KeyStatus, error)
	// Revoke takes a key out of what is published, for good, and lets another sign
	// at once. An error that is an *Error is for the caller; after any other the
	// key may or may not be revoked.
	Revoke(ctx context.Context, kid string) (KeyRevocation, error)
}

// KeySetStatus is what is known about a key set.
type KeySetStatus struct {
	Name        string
	Algorithm   string // of the next key that is made
	Provider    string // where the private keys are: local, vault or vault-wrapped; empty if it is not configured any more
	Keys        []KeyStatus
	RotationDue time.Time // when the next key is made; zero: it is there, or only when asked
	Problems    []string  // what is wrong, one sentence each, for the operator
}

// KeyRole is the place of a key in its set.
type KeyRole string

// The roles of a key. Keys of all roles but the last are published.
const (
	KeyNext     KeyRole = "next"     // does not sign yet
	KeyCurrent  KeyRole = "current"  // signs
	KeyPrevious KeyRole = "previous" // does not sign any more
	KeyRevoked  KeyRole = "revoked"  // never counts again
)

// KeyStatus is what is known about a signing key. Times that are not known yet
// are zero.
type KeyStatus struct {
	Set       string
	KID       string
	Algorithm string
	Role      KeyRole
	Location  string // of the private key, such as "transit/keys/sts version 3"

	Published time.Time
	Signs     time.Time // from when on it signs, or signed
	Ends      time.Time // until when it is published
	Revoked   time.Time

	// What this node has seen since it started.
	Verifiers int   // distinct ones that fetched a set with the key
	Fetches   int64 // how often
	LastFetch time.Time
}

// KeyRevocation says what became of a key set whose key was revoked.
type KeyRevocation struct {
	Revoked       KeyStatus
	Successor     KeyStatus // signs now; without a KID: none could be made yet
	AcceptedUntil time.Time // until then verifiers that cached the key set may accept the revoked key
}

// IssuerKeys finds the keys of trusted issuers. The Issuers that it is given are
// as their presets complete them.
type IssuerKeys interface {
	// Check tells what is wrong with where an issuer's keys are said to be,
	// without asking there. It is called before Trust. The error may have a method
	// Field() string, which names the field that it is about.
	Check(*Issuer) error
	// Trust replaces the issuers whose keys can be asked for. It does not wait
	// for the network.
	Trust(issuers []*Issuer)
	// Key returns the key that the issuer publishes under the id. An error that
	// is jose.ErrUnknownKey says that there is no such key, any other that the
	// keys cannot be had now.
	Key(ctx context.Context, issuer, kid string, alg jose.Algorithm) (jose.Key, error)
	// Review asks an issuer that has a TokenReview whether it issued a token for an
	// audience, and returns the sub that it should have. What it says may be some
	// seconds old. An error that is jose.ErrSignature says that it did not, any other
	// that it cannot be asked now.
	Review(ctx context.Context, issuer, token, audience string) (subject string, err error)
	// Status returns what is known about the keys of each issuer, by name. It does
	// not wait for the network.
	Status() []IssuerStatus
}

// IssuerStatus is what is known about the keys of a trusted issuer. Times that are
// not known are zero.
type IssuerStatus struct {
	Name    string
	Source  string // the field that says where its keys are, or discovery
	Keys    []IssuerKey
	Fetched time.Time // when its keys were fetched, or a token was reviewed, last
	Asked   time.Time // when that was tried last
	Refresh time.Time // when they are asked for again, if a token needs them
	Stale   time.Time // when they are not used any more, if they cannot be had until then
	Problem string    // why the last attempt failed; empty: it did not
}

// IssuerKey is a key of a trusted issuer.
type IssuerKey struct {
	ID        string // empty: it has none
	Algorithm string // or, if the issuer does not say, the type of the key
}

// ClientKeys finds the keys of clients that publish them. They are kept apart
// from those of issuers: a client is never taken for an issuer, nor for another
// client.
type ClientKeys interface {
	// Check tells what is wrong with where the keys are said to be, without asking
	// there. It is called before Trust.
	Check(*ClientKey) error
	// Trust replaces the clients whose keys can be asked for, by their names. It
	// does not wait for the network.
	Trust(map[string]*ClientKey)
	// Key returns the key that the client publishes under the id; an empty one
	// stands for the only key. Errors are those of [IssuerKeys].
	Key(ctx context.Context, client, kid string, alg jose.Algorithm) (jose.Key, error)
	// Status returns what is known about the keys of a client, without asking there.
	// False means that it publishes none.
	Status(client string) (IssuerStatus, bool)
}

// ReplaySpace keeps apart what may be used once, by what it is: the same key in
// two spaces is two things.
type ReplaySpace string

// The spaces, and what their keys are. See [replayKey].
const (
	ReplayClientAssertion ReplaySpace = "client_assertion" // client, jti
	ReplayDPoP            ReplaySpace = "dpop"             // thumbprint of the key, jti
	ReplayPresented       ReplaySpace = "presented_token"  // Issuer, or self for an initial access token; what identifies a token of it
)

// ErrForgotten is what Replay.Use returns if it is not known any more whether
// something was used.
var ErrForgotten = errors.New("whether it was used before is not known any more")

// Replay remembers what was used.
type Replay interface {
	// Use reports whether this is the first use. Of any number of calls about one
	// thing, at the same time or one after the other, also across a crash of the
	// process or of the machine, at most one gets true.
	//
	// since and until bound when the caller accepts the thing at all: before and
	// after, it is refused whether it was used or not. So it need not be remembered
	// beyond, and what cannot have been accepted before the memory begins is known
	// not to have been used.
	//
	// An error says that it cannot be told: the thing counts as used. One that is
	// ErrForgotten may have a method RetryAfter() time.Duration, which says when
	// something that is made then will do.
	Use(ctx context.Context, space ReplaySpace, key string, since, until time.Time) (fresh bool, err error)
	// Err returns why nothing can be remembered any more, as Audit's does.
	Err() error
}

// Transactions counts what rules do in a root transaction, on all nodes together.
type Transactions interface {
	// Count adds one to the count of each rule in a transaction, or to none if that
	// of one has reached its most; then it returns the name of that rule. Of any
	// number of calls, at the same time or one after the other, also across a crash,
	// a rule is counted at most its most times. A count is kept until a time at
	// least.
	//
	// An error may leave the uses counted or not: they must count as refused.
	Count(ctx context.Context, txn string, uses []policy.Uses, until time.Time) (exhausted string, err error)
}

// RevocationKind says by what tokens are revoked.
type RevocationKind string

// The kinds of revocations. All but the first two, and that by key, are of tokens
// that were issued until some moment.
const (
	RevokeToken   RevocationKind = "token"   // one token, and all that were exchanged from it
	RevokeTxn     RevocationKind = "txn"     // a root transaction: every token of a chain of exchanges
	RevokeSubject RevocationKind = "subject" // whose subject it is, or in which it acts
	RevokeClient  RevocationKind = "client"  // that were issued to it, whose subject it is, or in which it acts
	RevokeIssuer  RevocationKind = "issuer"  // of an Issuer, and ours whose subject or actors are of it
	RevokeKey     RevocationKind = "key"     // that a key signed
	RevokeAll     RevocationKind = "all"     // ours and those of every Issuer
)

// RevocationKinds lists the kinds.
var RevocationKinds = []RevocationKind{RevokeToken, RevokeTxn, RevokeSubject, RevokeClient, RevokeIssuer, RevokeKey, RevokeAll}

// Revocation makes tokens count no more. It is never taken back.
type Revocation struct {
	Kind   RevocationKind `json:"kind"`
	Issuer string         `json:"issuer,omitempty"` // of a token or a key: the name of its Issuer, or self
	// Value is a txn, the sub of our tokens, the name of a client or an Issuer, or a
	// kid; of a token what identifies it, see identity.
	Value   string    `json:"value,omitempty"`
	Before  time.Time `json:"before,omitzero"`  // tokens issued until then, the full second; zero: whenever
	Expires time.Time `json:"expires,omitzero"` // when no token that it blocks is alive any more; zero: never
	Created time.Time `json:"created"`
	By      string    `json:"by"`
	Reason  string    `json:"reason,omitempty"`
}

// RevocationName is what a revocation is found by: the first half of the SHA-256
// of its kind, issuer and value. Two revocations of one name are one.
type RevocationName [16]byte

// Revocations keeps what is revoked. Its methods can be called concurrently.
type Revocations interface {
	// Revoked tells whether a revocation of this name blocks tokens issued at a
	// time; the zero time stands for one that is not known. It does not wait, and
	// knows all that the store had at the moment that Confirmed returns.
	Revoked(name RevocationName, issued time.Time) bool
	// Add makes a revocation. When it returns without an error, it is durable, in
	// force here, and known to others within a second if they hear from the store.
	// If there is one of its name, the later Before and the later Expires count,
	// and Add returns what is in force. After an error it may or may not be.
	Add(ctx context.Context, r Revocation) (Revocation, error)
	// List returns up to limit revocations of a kind, or of all kinds if it is
	// empty, in the order of kind and name, that come after one; and whether there
	// are more.
	List(ctx context.Context, kind RevocationKind, after *Revocation, limit int) (page []Revocation, more bool, err error)
	// Count is how many there are.
	Count() int
	// Confirmed is a moment, by the clock of this process, at which everything that
	// the store had was known here.
	Confirmed() time.Time
}

// Registration is a client that was registered dynamically. What it may do is said
// by the ClientTemplate as it is now, not as it was.
type Registration struct {
	Name     string         `json:"name"` // of the client
	Template string         `json:"template"`
	Metadata ClientMetadata `json:"metadata"`
	Secret   string         `json:"secret,omitempty"` // hash of its secret; see HashSecret
	Access   string         `json:"access,omitempty"` // hash of its registration access token; empty: there is none any more
	Created  time.Time      `json:"created"`
	Changed  time.Time      `json:"changed,omitzero"`
	Used     time.Time      `json:"used,omitzero"` // about when it authenticated last
	By       string         `json:"by"`            // sub of the initial access token
	// Statement is what the template asked of the software statement, and got.
	Statement *SoftwareStatement `json:"software_statement,omitempty"`

	Expires  time.Time `json:"-"` // until when it is kept at least, as the store has it
	Revision int64     `json:"-"` // of this very version
}

// Errors of Registrations. ErrConflict is another one.
var (
	// ErrTooMany says that there are as many clients of a template as may be.
	ErrTooMany = errors.New("there are as many registered clients of the template as it allows")
)

// Registrations keeps registered clients, apart from the resources: what strangers
// register never moves what operators wrote.
//
// What a method acknowledged survives a crash. An error other than ErrConflict and
// ErrTooMany may leave the write done or not done.
type Registrations interface {
	// Follow has f called with all there are: at once, and after each change before
	// whoever made it is answered, one call after the other. Others know of a change
	// within a second if they hear from the store. The map, and what is in it, must
	// not be changed.
	Follow(f func(map[string]*Registration))
	// Create keeps a new registration until its Expires, unless its template has
	// most already, on whichever node: ErrTooMany.
	Create(ctx context.Context, r Registration, most int) error
	// Replace puts another version in the place of that of r.Revision, else
	// ErrConflict.
	Replace(ctx context.Context, r Registration) error
	// Delete removes the version of r.Revision, else ErrConflict.
	Delete(ctx context.Context, r Registration) error
	// Confirmed is that of Revocations.
	Confirmed() time.Time
}

// Audit records decisions.
type Audit interface {
	// Record returns when the record is written. An error means that the decision
	// must not take effect. When ctx ends first, which no caller of ours can make
	// it do before the time of its request is over, or when writing takes too long
	// by itself, the record may still be written: then it tells of a token that
	// was not handed out.
	Record(ctx context.Context, r *Record) error
	// Err returns why nothing can be recorded any more, nil while it can, be it
	// that it does not work at the moment. What it returns does not go away: the
	// process has to start anew.
	Err() error
}
