package sts

import (
	"context"
	"fmt"
	"time"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/policy"
)

// Offline decides as a server with the same resources would, without keys, storage
// and network. It is for tests of rules and for questions about them.
type Offline struct {
	service *Service
	st      *state
}

// NewOffline returns an Offline, or what is wrong with the resources; the Index of
// a problem is its resource's. What depends on the machine of a server, its key
// sets and files, counts as there. Registered clients are no resources, so each name
// that a ClientTemplate could give to one stands for one.
func NewOffline(issuer string, resources []Resource) (*Offline, []Problem) {
	s := &Service{issuer: issuer, keys: offlineKeys{}, issuerKeys: offlineIssuers{}, clientKeys: offlineClients{}}
	all, _, problems := merge(map[Ref]Resource{}, Change{Put: resources})
	if len(problems) > 0 {
		return nil, problems
	}
	st, problems := s.newState(all, 0, nil)
	if len(problems) > 0 {
		return nil, locate(problems, resources)
	}
	st.supposed = true
	return &Offline{service: s, st: st}, nil
}

// Simulate tells what comes of a request.
func (o *Offline) Simulate(ctx context.Context, r Simulation) Outcome {
	return o.service.simulate(ctx, o.st, r)
}

// Unsafe returns what the presets find dangerous in the resources, which an apply
// would refuse.
func (o *Offline) Unsafe() []Problem {
	return unsafe(o.st, func(Ref) bool { return true })
}

// Rules returns the compiled rules.
func (o *Offline) Rules() *policy.Set { return o.st.rules }

// Resource returns a resource by its kind and name.
func (o *Offline) Resource(kind Kind, name string) (Resource, bool) {
	r, ok := o.st.resources[Ref{kind, name}]
	return r, ok
}

// GoodClaims are the claims of a token that nothing is wrong with, by what its
// Issuer, or this service, demands: iss, aud, iat and exp.
func (o *Offline) GoodClaims(issuer string, now time.Time, age, left time.Duration) map[string]any {
	return o.service.goodClaims(o.st, issuer, now, age, left)
}

// WrongIssuer says what is wrong with a name of an Issuer, or self: that there is
// none, or nothing.
func (o *Offline) WrongIssuer(name string) string { return o.st.wrongIssuer(name) }

// WrongIssuer is that of an Offline, by the resources in force.
func (s *Service) WrongIssuer(name string) string { return s.state.Load().wrongIssuer(name) }

func (st *state) wrongIssuer(name string) string {
	known := map[string]bool{policy.Self: true}
	for _, i := range st.issuers {
		known[i.Name] = true
	}
	if known[name] {
		return ""
	}
	return fmt.Sprintf("Issuer %q is not defined%s", name, policy.DidYouMean(name, known))
}

// WrongClient says what is wrong with a name of a client: that there is none, or
// nothing.
func (o *Offline) WrongClient(name string, now time.Time) string { return o.st.wrongClient(name, now) }

// WrongClient is that of an Offline, by the resources in force.
func (s *Service) WrongClient(name string, now time.Time) string {
	return s.state.Load().wrongClient(name, now)
}

func (st *state) wrongClient(name string, now time.Time) string {
	if _, ok := st.client(name, now); ok {
		return ""
	}
	return fmt.Sprintf("Client %q is not defined%s", name, policy.DidYouMean(name, st.clients))
}

// GoodClaims is that of an Offline, by the resources in force.
func (s *Service) GoodClaims(issuer string, now time.Time, age, left time.Duration) map[string]any {
	return s.goodClaims(s.state.Load(), issuer, now, age, left)
}

func (s *Service) goodClaims(st *state, issuer string, now time.Time, age, left time.Duration) map[string]any {
	claims := map[string]any{"iss": s.issuer, "aud": s.issuer, "iat": now.Add(-age).Unix()}
	most := defaultMaxLifetime
	if i := st.resources[Ref{KindIssuer, issuer}].Issuer; i != nil {
		i = i.complete()
		claims["iss"], claims["aud"], most = i.Issuer, s.audienceOf(i), i.maxLifetime()
	}
	if left == 0 {
		left = max(min(time.Hour, most-age), 0)
	}
	claims["exp"] = now.Add(left).Unix()
	return claims
}

// The parts of an Offline. The methods that they do not have are for signing and
// for fetching keys, which nothing offline comes to.
type (
	offlineKeys    struct{ SigningKeys }
	offlineIssuers struct{ IssuerKeys }
	offlineClients struct{ ClientKeys }
)

func (offlineKeys) Has(string) bool                 { return true }
func (offlineKeys) MaxTokenLifetime() time.Duration { return maxTTL }
func (offlineKeys) Status() []KeySetStatus          { return nil }
func (offlineKeys) KeySet() jose.KeySet             { return jose.KeySet{} }
func (offlineIssuers) Check(*Issuer) error          { return nil }
func (offlineClients) Check(*ClientKey) error       { return nil }
