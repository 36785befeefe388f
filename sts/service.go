package sts

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what a Service is made of. All members up to Audit are required.
type Config struct {
	Issuer     string // our issuer identifier: the iss of every token
	Store      Store
	Keys       SigningKeys
	IssuerKeys IssuerKeys
	ClientKeys ClientKeys
	Replay     Replay
	Audit      Audit

	Revocations Revocations
	// Registrations keeps clients that are registered dynamically. nil: none are.
	Registrations Registrations

	// Transactions counts the uses of rules that are limited in a transaction. nil:
	// what such a rule contributes to is refused.
	Transactions Transactions
	// Snapshots copies the store. nil: it cannot be copied here.
	Snapshots Snapshots
	// AuditChains is what the store keeps of audit logs. nil: nothing.
	AuditChains AuditChains
	// Usage keeps when credentials were used. nil: that is known until the process
	// ends.
	Usage UsageStore
	// NonceKey has DPoP proofs carry a nonce of this service [RFC 9449 §8]. Nodes
	// with the same key accept each other's. Empty: no nonce is needed.
	NonceKey []byte
	// OmitFacts keeps claims of tokens out of records: see [Facts].
	OmitFacts bool
	// CertificateMethods are the methods by which clients can authenticate at the
	// token endpoint with a TLS certificate, for the metadata.
	CertificateMethods []AuthMethod
	Limits             Limits
	// SingleUses is how many single uses of one client, or of the workloads of one
	// Issuer, are remembered at once: assertions, proofs, tokens. 0: 262,144, a quarter
	// of what storage.Replay has room for.
	SingleUses int
	// MaxStaleness is for how long tokens are issued after the store has confirmed
	// last that what is known here, the resources and what is revoked, is in force. 0: for ever, which is for a
	// store that nobody else writes to.
	MaxStaleness time.Duration
	// Strangers bounds how many refusals are recorded of those of whom it is not known
	// who they are. The zero value is no bound.
	Strangers StrangerLimits
	Now       func() time.Time // default time.Now
}

// Service issues tokens. Its methods can be called concurrently.
type Service struct {
	issuer      string
	store       Store
	snapshots   Snapshots
	keys        SigningKeys
	issuerKeys  IssuerKeys
	clientKeys  ClientKeys
	replay      Replay
	counts      Transactions
	audit       Audit
	chains      AuditChains // nil: nothing is kept
	revocations Revocations
	nonces      *nonces // nil: proofs need none
	byTLS       []AuthMethod
	now         func() time.Time

	limits   *limits
	shares   *shares
	refusals *refusals
	throttle *throttle
	recent   *recent
	noFacts  bool
	usage    *usage

	state    atomic.Pointer[state]
	replace  sync.Mutex // held while the state or the shadow is replaced
	shadow   *shadow
	registry registry
	health   health

	strangers *strangers
	late      late

	confirmed    atomic.Pointer[time.Time] // when the store said last that state is in force
	maxStaleness time.Duration
}

// New returns a Service with the resources that are in the store. Resources that
// do not fit together are an error: a service does not start half.
func New(ctx context.Context, c Config) (*Service, error) {
	s := &Service{
		issuer: c.Issuer, store: c.Store, snapshots: c.Snapshots, keys: c.Keys, issuerKeys: c.IssuerKeys, clientKeys: c.ClientKeys, audit: c.Audit, chains: c.AuditChains, replay: c.Replay,
		revocations: c.Revocations, counts: c.Transactions,
		nonces: newNonces(c.NonceKey), byTLS: c.CertificateMethods, now: c.Now,
		shadow: newShadow(), maxStaleness: c.MaxStaleness,
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.limits, s.refusals, s.shares = newLimits(c.Limits), newRefusals(), newShares(cmp.Or(c.SingleUses, maxShare))
	s.recent, s.noFacts = newRecent(), c.OmitFacts
	s.throttle, s.usage, s.strangers = newThrottle(), &usage{store: c.Usage}, newStrangers(c.Strangers)
	if err := s.reload(ctx); err != nil {
		return nil, err
	}
	if s.registry.store = c.Registrations; s.registry.store != nil {
		s.registry.store.Follow(s.takeRegistered)
	}
	if err := s.usage.load(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// install makes st the state; s.replace is held.
func (s *Service) install(st *state) {
	issuers := make([]*Issuer, 0, len(st.issuers))
	for _, i := range st.issuers {
		issuers = append(issuers, i)
	}
	s.issuerKeys.Trust(issuers)
	s.trustClients(st)
	s.state.Store(st)
}

// trustClients says which clients publish their keys, and where.
func (s *Service) trustClients(st *state) {
	publishing := map[string]*ClientKey{}
	for name, c := range st.clients {
		if c.publishes() {
			publishing[name] = c.PrivateKeyJWT
		}
	}
	for name, c := range st.registered {
		// One that another version of this service has registered was not checked here.
		if c.publishes() && s.clientKeys.Check(c.PrivateKeyJWT) == nil {
			publishing[name] = c.PrivateKeyJWT
		}
	}
	s.clientKeys.Trust(publishing)
}

func (c *Client) publishes() bool { return c.PrivateKeyJWT != nil && c.PrivateKeyJWT.JWKS == "" }

// Metadata is what the discovery documents say [OIDC Discovery 1.0 §3, RFC 8414
// §2].
type Metadata struct {
	Issuer, TokenEndpoint, JWKSURI      string
	GrantTypes, AuthMethods, Algorithms []string
	AuthAlgorithms                      []string // of client assertions
	ProofAlgorithms                     []string // of DPoP proofs [RFC 9449 §5.1]

	IntrospectionEndpoint, RevocationEndpoint string   // [RFC 8414 §2]
	RevocationAuthMethods                     []string // those of clients, and none of workloads
	RegistrationEndpoint                      string   // empty: there is none [RFC 8414 §2]
	CertificateBound                          bool     // tokens can be bound to certificates [RFC 8705 §3.3]
}

func (s *Service) tokenEndpoint() string { return s.issuer + "/oauth2/token" }

// Metadata returns what this service does, no more and no less.
func (s *Service) Metadata() Metadata {
	m := Metadata{
		Issuer:        s.issuer,
		TokenEndpoint: s.tokenEndpoint(),
		JWKSURI:       s.issuer + "/.well-known/jwks.json",

		IntrospectionEndpoint: s.issuer + "/oauth2/introspect", RevocationEndpoint: s.issuer + "/oauth2/revoke",

		GrantTypes:  []string{string(ClientCredentials), string(TokenExchange)}, // as grantTypes
		AuthMethods: []string{string(SecretBasic), string(SecretPost), string(PrivateKeyJWT), string(SPIFFEJWT)},

		AuthAlgorithms:  slices.Clone(DefaultAlgorithms),
		ProofAlgorithms: ProofAlgorithms, CertificateBound: len(s.byTLS) > 0,
	}
	if s.Registers() {
		m.RegistrationEndpoint = s.RegistrationAudience()
	}
	for _, method := range s.byTLS {
		m.AuthMethods = append(m.AuthMethods, string(method))
	}
	m.RevocationAuthMethods = append(slices.Clone(m.AuthMethods), "none")
	for k := range s.keys.KeySet().All() {
		if !slices.Contains(m.Algorithms, string(k.Algorithm)) {
			m.Algorithms = append(m.Algorithms, string(k.Algorithm))
		}
	}
	slices.Sort(m.Algorithms)
	return m
}
