package sts

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what a Service is made of. All members but the last four are required.
type Config struct {
	Issuer     string // our issuer identifier: the iss of every token
	Store      Store
	Keys       SigningKeys
	IssuerKeys IssuerKeys
	ClientKeys ClientKeys
	Replay     Replay
	Audit      Audit

	// Snapshots copies the store. nil: it cannot be copied here.
	Snapshots Snapshots
	// Usage keeps when credentials were used. nil: that is known until the process
	// ends.
	Usage UsageStore
	// NonceKey has DPoP proofs carry a nonce of this service [RFC 9449 §8]. Nodes
	// with the same key accept each other's. Empty: no nonce is needed.
	NonceKey []byte
	// CertificateMethods are the methods by which clients can authenticate at the
	// token endpoint with a TLS certificate, for the metadata.
	CertificateMethods []AuthMethod
	Limits             Limits
	Now                func() time.Time // default time.Now
}

// Service issues tokens. Its methods can be called concurrently.
type Service struct {
	issuer     string
	store      Store
	snapshots  Snapshots
	keys       SigningKeys
	issuerKeys IssuerKeys
	clientKeys ClientKeys
	replay     Replay
	audit      Audit
	nonces     *nonces // nil: proofs need none
	byTLS      []AuthMethod
	now        func() time.Time

	limits   *limits
	throttle *throttle
	usage    *usage

	state   atomic.Pointer[state]
	replace sync.Mutex // held while the state is replaced
	health  health
}

// New returns a Service with the resources that are in the store. Resources that
// do not fit together are an error: a service does not start half.
func New(ctx context.Context, c Config) (*Service, error) {
	s := &Service{
		issuer: c.Issuer, store: c.Store, snapshots: c.Snapshots, keys: c.Keys, issuerKeys: c.IssuerKeys, clientKeys: c.ClientKeys, audit: c.Audit, replay: c.Replay,
		nonces: newNonces(c.NonceKey), byTLS: c.CertificateMethods, now: c.Now,
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.limits = newLimits(c.Limits)
	s.throttle, s.usage = newThrottle(), &usage{store: c.Usage}
	if err := s.reload(ctx); err != nil {
		return nil, err
	}
	if err := s.usage.load(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// failureCheck is how often Run looks whether the store and the audit log can
// still work.
const failureCheck = time.Second

// Run keeps the Service at what is in the store until ctx ends, or returns why the
// store or the audit log cannot work until the process starts anew.
func (s *Service) Run(ctx context.Context) error {
	// At the end what is not written yet, while the store still works.
	defer s.saveUsage(context.WithoutCancel(ctx), true)
	for {
		s.saveUsage(ctx, false)
		wait, cancel := context.WithTimeout(ctx, failureCheck)
		err := s.store.Changed(wait, s.state.Load().revision)
		over := wait.Err() != nil
		cancel()
		if err == nil {
			err = s.reload(ctx)
		}
		if ctx.Err() != nil {
			return nil
		}
		if failed := errors.Join(s.audit.Err(), s.store.Err(), s.replay.Err()); failed != nil {
			return failed
		}
		if err != nil && !over {
			s.health.failed(CapabilityAdmin, s.now(), DependencyStorage, err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(time.Second):
			}
		}
	}
}

// reload takes over what is in the store.
func (s *Service) reload(ctx context.Context) error {
	s.replace.Lock()
	defer s.replace.Unlock()
	list, revision, err := s.store.Load(ctx)
	if err != nil {
		return fmt.Errorf("loading resources: %w", err)
	}
	if st := s.state.Load(); st != nil && revision <= st.revision {
		return nil
	}
	resources := make(map[Ref]Resource, len(list))
	for _, r := range list {
		resources[r.Ref()] = r
	}
	st, problems := s.newState(resources, revision)
	if len(problems) > 0 {
		var all error
		for _, p := range problems {
			all = errors.Join(all, fmt.Errorf("%s: %s: %s", p.Ref, p.Field, p.Message))
		}
		return fmt.Errorf("the stored resources at revision %d do not fit together: %w", revision, all)
	}
	s.install(st)
	return nil
}

// install makes st the state; s.replace is held.
func (s *Service) install(st *state) {
	issuers := make([]*Issuer, 0, len(st.issuers))
	for _, i := range st.issuers {
		issuers = append(issuers, i)
	}
	s.issuerKeys.Trust(issuers)
	publishing := map[string]*ClientKey{}
	for name, c := range st.clients {
		if k := c.PrivateKeyJWT; k != nil && k.JWKS == "" {
			publishing[name] = k
		}
	}
	s.clientKeys.Trust(publishing)
	s.state.Store(st)
}

// Metadata is what the discovery documents say [OIDC Discovery 1.0 §3, RFC 8414
// §2].
type Metadata struct {
	Issuer, TokenEndpoint, JWKSURI      string
	GrantTypes, AuthMethods, Algorithms []string
	AuthAlgorithms                      []string // of client assertions
	ProofAlgorithms                     []string // of DPoP proofs [RFC 9449 §5.1]
	CertificateBound                    bool     // tokens can be bound to certificates [RFC 8705 §3.3]
}

func (s *Service) tokenEndpoint() string { return s.issuer + "/oauth2/token" }

// Metadata returns what this service does, no more and no less.
func (s *Service) Metadata() Metadata {
	m := Metadata{
		Issuer:        s.issuer,
		TokenEndpoint: s.tokenEndpoint(),
		JWKSURI:       s.issuer + "/.well-known/jwks.json",
		GrantTypes:    []string{string(ClientCredentials), string(TokenExchange)},
		AuthMethods:   []string{string(SecretBasic), string(SecretPost), string(PrivateKeyJWT), string(SPIFFEJWT)},

		AuthAlgorithms:  slices.Clone(DefaultAlgorithms),
		ProofAlgorithms: ProofAlgorithms, CertificateBound: len(s.byTLS) > 0,
	}
	for _, method := range s.byTLS {
		m.AuthMethods = append(m.AuthMethods, string(method))
	}
	for k := range s.keys.KeySet().All() {
		if !slices.Contains(m.Algorithms, string(k.Algorithm)) {
			m.Algorithms = append(m.Algorithms, string(k.Algorithm))
		}
	}
	slices.Sort(m.Algorithms)
	return m
}
