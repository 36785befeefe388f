package sts

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/workload-sts/sts/policy"
)

// provenTokens is how many verified tokens a state remembers. An entry is a
// token's claims, which are at most 16 KiB of JSON and normally 1 KiB.
const provenTokens = 8192

// state is everything that a decision depends on, at one revision. It is never
// changed, only replaced, so a request sees one state from beginning to end.
type state struct {
	revision  int64
	resources map[Ref]Resource
	order     []Ref                // sorted by kind and name
	clients   map[string]*client   // those that are resources; see client
	issuers   map[string]*Issuer   // by iss, as their presets complete them
	federated map[string][]*client // by Issuer, by name
	rules     *policy.Set

	templates  map[string]*ClientTemplate
	registered map[string]*client // dynamically, by the templates

	// supposed has every name that a template could give to a client stand for one, as
	// long as nobody knows which there are.
	supposed bool

	identifiers, scopes map[string]bool      // of all Audiences
	quotas              map[string]*Audience // those with a quota, by identifier
	introspectors       map[string][]string  // clients, by identifier
	longest             time.Duration        // that a token can live

	// proven remembers tokens whose signature was verified, by the SHA-256 of
	// their text. It goes with the Issuers: others verify anew.
	proven *lru.Cache[[sha256.Size]byte, *proven]
}

// Kind returns the kind of a resource, empty if no member is set.
func (r Resource) Kind() Kind { return r.Ref().Kind }

// Ref returns what names the resource; zero if no member is set.
func (r Resource) Ref() Ref {
	switch {
	case r.Audience != nil:
		return Ref{KindAudience, r.Audience.Name}
	case r.Client != nil:
		return Ref{KindClient, r.Client.Name}
	case r.ClientTemplate != nil:
		return Ref{KindClientTemplate, r.ClientTemplate.Name}
	case r.Issuer != nil:
		return Ref{KindIssuer, r.Issuer.Name}
	case r.Rule != nil:
		return Ref{KindRule, r.Rule.Name}
	default:
		return Ref{}
	}
}

func (r Ref) String() string { return string(r.Kind) + " " + fmt.Sprintf("%q", r.Name) }

func compareRefs(a, b Ref) int {
	if c := strings.Compare(string(a.Kind), string(b.Kind)); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

// newState compiles resources, or says everything that is wrong with them: then the
// state has nothing but them. The Index of a problem is not set. What did not change since the state before, which
// may be nil, is taken from it: see [difference].
func (s *Service) newState(resources map[Ref]Resource, revision int64, before *state) (*state, []Problem) {
	diff := before.difference(resources)
	st := &state{
		revision:  revision,
		resources: resources,
		order:     diff.order,
		clients:   map[string]*client{},
		issuers:   map[string]*Issuer{},
		federated: map[string][]*client{},

		identifiers: map[string]bool{},
		scopes:      map[string]bool{},
		quotas:      map[string]*Audience{},

		introspectors: map[string][]string{},
		templates:     map[string]*ClientTemplate{},
	}
	c := newChecker(s, resources)
	world := policy.World{Issuers: map[string]string{}, SelfIssuer: s.issuer}
	identifiers := map[string][]string{} // by Audience
	for _, ref := range st.order {
		switch r := resources[ref]; ref.Kind {
		case KindAudience:
			c.audience(r.Audience)
			a := policy.Audience{
				Name: ref.Name, Identifiers: r.Audience.identifiers(), Scopes: r.Audience.Scopes,
				MaxTTL: r.Audience.maxTTL(s.keys.MaxTokenLifetime()), KeySet: r.Audience.keySet(),
				Binding: r.Audience.Binding,
			}
			identifiers[ref.Name] = a.Identifiers
			st.longest = max(st.longest, a.MaxTTL)
			for _, id := range a.Identifiers {
				st.identifiers[id] = true
				if r.Audience.Quota != (Rate{}) {
					st.quotas[id] = r.Audience
				}
				st.introspectors[id] = r.Audience.Introspectors
			}
			for _, scope := range a.Scopes {
				st.scopes[scope] = true
			}
			world.Audiences = append(world.Audiences, a)
		case KindClient: // Audience sorts before Client
			world.Clients = append(world.Clients, ref.Name)
			if cl := diff.client(ref, r.Client); cl != nil {
				st.addClient(cl)
				continue
			}
			c.client(r.Client)
			var is []string
			for _, name := range r.Client.Audiences {
				is = append(is, identifiers[name]...)
			}
			st.addClient(newClient(r.Client, is))
		case KindClientTemplate:
			c.template(r.ClientTemplate)
			st.templates[ref.Name] = r.ClientTemplate
		case KindIssuer:
			i := r.Issuer.complete()
			c.issuer(i, st.issuers[i.Issuer])
			st.issuers[i.Issuer] = i
			world.Issuers[ref.Name] = i.Issuer
		case KindRule:
			c.common(ref, r.Rule.Description)
			world.Rules = append(world.Rules, *r.Rule)
		}
	}
	if st.rules = diff.rules(); st.rules == nil {
		if before != nil {
			world.Before = before.rules
		}
		var problems []policy.Problem
		st.rules, problems = policy.Compile(world)
		for _, p := range problems {
			c.problem(Ref{Kind(p.Kind), p.Name}, p.Field, "%s", p.Message)
		}
	}
	if len(c.problems) > 0 {
		return st, c.problems
	}
	if diff.trust {
		st.issuers, st.proven = before.issuers, before.proven
	} else {
		st.proven, _ = lru.New[[sha256.Size]byte, *proven](provenTokens) // errs only for a size below 1
	}
	st.registered = st.register(s.registry.all(), before)
	return st, nil
}

// client returns a client as of a time: one that is a resource, or one that was
// registered and has not expired.
func (st *state) client(name string, now time.Time) (*client, bool) {
	if c, ok := st.clients[name]; ok {
		return c, true
	}
	c, ok := st.registered[name]
	switch {
	case ok && now.Before(c.ends):
		return c, true
	case st.supposed:
		return st.supposedClient(name)
	default:
		return nil, false
	}
}

func (st *state) addClient(cl *client) {
	st.clients[cl.Name] = cl
	if f := cl.Federated; f != nil {
		st.federated[f.Issuer] = append(st.federated[f.Issuer], cl)
	}
}

// issuerOf returns the Issuer that a token says to be of, by its iss. A JWT-SVID
// need not have one [JWT-SVID §3]; then the trust domain in its sub says it.
func (st *state) issuerOf(claims map[string]any) (*Issuer, bool) {
	iss, _ := claims["iss"].(string)
	if _, present := claims["iss"]; !present {
		sub, _ := claims["sub"].(string)
		if id, err := ParseSPIFFEID(sub); err == nil {
			iss = spiffeScheme + id.TrustDomain()
		}
	}
	i, ok := st.issuers[iss]
	return i, ok
}

// Limits of the lifetime of tokens that an Audience sets.
const (
	defaultTTL = time.Hour
	maxTTL     = 24 * time.Hour
	minTTL     = 10 * time.Second
)

func (a *Audience) identifiers() []string {
	if len(a.Identifiers) == 0 {
		return []string{a.Name}
	}
	return a.Identifiers
}

// maxTTL takes the longest that signing keys allow, which makes the default
// shorter and nothing else: what is set is checked.
func (a *Audience) maxTTL(most time.Duration) time.Duration {
	if a.MaxTTL == 0 {
		return min(defaultTTL, most)
	}
	return a.MaxTTL
}

func (a *Audience) keySet() string {
	if a.KeySet == "" {
		return DefaultKeySet
	}
	return a.KeySet
}
