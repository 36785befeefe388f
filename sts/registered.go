package sts

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// registry are the clients that were registered. The zero value is that of a service
// without registration.
type registry struct {
	store Registrations // nil: there is none
	known atomic.Pointer[map[string]*Registration]

	mu    sync.Mutex
	ended []*Record // of clients that have expired, which are to be written
}

// all returns every registration. The map must not be changed.
func (r *registry) all() map[string]*Registration {
	if known := r.known.Load(); known != nil {
		return *known
	}
	return nil
}

// takeRegistered puts what is registered now into force.
func (s *Service) takeRegistered(all map[string]*Registration) {
	s.replace.Lock()
	defer s.replace.Unlock()
	s.registry.known.Store(&all)
	before := s.state.Load()
	s.registry.note(before, all, s.now().UTC())
	next := before.withRegistered(all)
	if !samePublished(before.registered, next.registered) {
		s.trustClients(next)
	}
	s.state.Store(next)
	if run := s.shadow.current.Load(); run != nil && run.st.Load() != nil {
		run.st.Store(run.st.Load().withRegistered(all))
	}
}

// note takes down which clients the store does not keep any more because their time
// is over. Those that go before were deleted, and that is recorded where it is done.
func (r *registry) note(st *state, all map[string]*Registration, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, c := range st.registered {
		if _, there := all[name]; there || now.Before(c.registration.Expires) {
			continue
		}
		r.ended = append(r.ended, &Record{
			Event: EventRegister, Outcome: outcomeAllow, Time: now, Decision: newIDs().decision, Reason: c.registration.ended(st.templates[c.registration.Template]),
			Registration: &RecordRegistration{Action: actionExpire, Template: c.registration.Template, Client: name},
		})
	}
}

// ended says why a client has expired.
func (r *Registration) ended(t *ClientTemplate) string {
	if t != nil && t.MaxLifetime > 0 && !r.Expires.Before(r.Created.Add(t.MaxLifetime)) {
		return "max_lifetime of its template is over"
	}
	return "no use of it was written down since " + r.seen().UTC().Format(time.RFC3339) + ", for longer than expire_unused of its template"
}

// tellEnded records which clients have expired. What cannot be recorded now is told
// later.
func (s *Service) tellEnded(ctx context.Context) {
	r := &s.registry
	r.mu.Lock()
	records := r.ended
	r.ended = nil
	r.mu.Unlock()
	for i, rec := range records {
		if s.recordEvent(ctx, rec) != nil {
			r.mu.Lock()
			r.ended = append(records[i:], r.ended...)
			r.mu.Unlock()
			return
		}
	}
}

// samePublished tells whether the same clients publish keys.
func samePublished(a, b map[string]*client) bool {
	within := func(a, b map[string]*client) bool {
		for name, c := range a {
			if c.publishes() && b[name] != c {
				return false
			}
		}
		return true
	}
	return within(a, b) && within(b, a)
}

// withRegistered is a state with these registrations.
func (st *state) withRegistered(all map[string]*Registration) *state {
	next := *st
	next.registered = next.register(all, st)
	return &next
}

// register makes clients of registrations. Those that are as they were in the state
// before, which may be nil, are taken from it.
func (st *state) register(all map[string]*Registration, before *state) map[string]*client {
	out := make(map[string]*client, len(all))
	for name, r := range all {
		if before != nil && before.templates[r.Template] == st.templates[r.Template] {
			if c, ok := before.registered[name]; ok && c.registration == r {
				out[name] = c
				continue
			}
		}
		out[name] = r.compile(st.templates[r.Template])
	}
	return out
}

// compile makes a client of a registration, by its template as it is now; nil: it
// is gone. One that the template would not register any more is disabled, at once
// and as long as that is so.
func (r *Registration) compile(t *ClientTemplate) *client {
	if t == nil {
		c := newClient(&Client{Name: r.Name, Disabled: true}, nil)
		c.registration, c.unfit, c.ends = r, "its ClientTemplate does not exist any more", r.Expires
		return c
	}
	cl := r.client(t)
	unfit := t.refuses(&r.Metadata)
	if unfit == nil {
		unfit = t.refusesStatement(r.Statement)
	}
	cl.Disabled = unfit != nil
	c := newClient(cl, nil)
	c.registration, c.ends, c.grants = r, r.ends(t), r.Metadata.GrantTypes
	if unfit != nil {
		c.unfit = unfit.Message
	}
	return c
}

// supposedClient is a registered client as rules know it, by a name that its
// template could give to it.
func (st *state) supposedClient(name string) (*client, bool) {
	template, rest, ok := strings.Cut(name, registeredMark)
	t, known := st.templates[template]
	if !ok || rest == "" || !known {
		return nil, false
	}
	return newClient(&Client{Name: name, Labels: t.Labels, DPoPBound: t.DPoPBound}, nil), true
}

// client is the registration as the resource it would be. Its labels are those of
// the template.
func (r *Registration) client(t *ClientTemplate) *Client {
	m := &r.Metadata
	c := &Client{Name: r.Name, Description: m.Name, Labels: t.Labels, DPoPBound: t.DPoPBound || m.DPoPBound}
	switch m.AuthMethod {
	case SecretBasic, SecretPost:
		c.Secrets = []ClientSecret{{Hash: r.Secret}}
	case PrivateKeyJWT:
		c.PrivateKeyJWT = &ClientKey{JWKS: m.JWKS, JWKSURI: m.JWKSURI}
		if m.SigningAlg != "" {
			c.PrivateKeyJWT.Algorithms = []string{m.SigningAlg}
		}
	case TLSClientAuth:
		c.TLS = &ClientTLS{SubjectDN: m.SubjectDN, SANDNS: m.SANDNS, SANURI: m.SANURI, SANIP: m.SANIP, SANEmail: m.SANEmail}
	case SelfSignedTLSClientAuth:
		c.TLS = &ClientTLS{SelfSigned: &ClientSelfSigned{JWKS: m.JWKS}}
	}
	return c
}

// seen is when the client was used last, as far as that is written down, or else
// registered.
func (r *Registration) seen() time.Time {
	if r.Used.After(r.Created) {
		return r.Used
	}
	return r.Created
}

// ends is when a client does not count any more: when its life is over, or when it
// has not authenticated for as long as its template says. Since a use is written
// down when a tenth of that time has passed, that much is added.
func (r *Registration) ends(t *ClientTemplate) time.Time {
	end := r.seen().Add(t.expireUnused() + t.expireUnused()/usedOften)
	if life := r.Created.Add(t.MaxLifetime); t.MaxLifetime > 0 && life.Before(end) {
		end = life
	}
	return end.UTC().Truncate(time.Second)
}

// usedOften is how many times within the time after which a client expires its use
// is written down at most.
const usedOften = 10

// renewTime is how long the writing down of uses may take at a time.
const renewTime = time.Second

// renewRegistrations writes down that registered clients were used, so that all
// nodes keep them, and until when their templates keep them now.
func (s *Service) renewRegistrations(ctx context.Context) {
	if s.registry.store == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, renewTime)
	defer cancel()
	for _, c := range s.state.Load().registered {
		next, due := s.renewed(c)
		if !due {
			continue
		}
		// Another node may have come first.
		if err := s.registry.store.Replace(ctx, next); err != nil && !errors.Is(err, ErrConflict) {
			return // tried again; the store says by itself what is wrong with it
		}
	}
}

// renewed is a registration with when it was used last, and whether that is worth
// writing down.
func (s *Service) renewed(c *client) (Registration, bool) {
	t, ok := s.state.Load().templates[c.registration.Template]
	if !ok {
		return Registration{}, false
	}
	next := *c.registration
	if used := s.usage.of(c.Name, c.credentials()[0].ID); used.Sub(next.seen()) >= t.expireUnused()/usedOften {
		next.Used = used.UTC()
	}
	next.Expires = next.ends(t)
	return next, !next.Expires.Equal(c.registration.Expires) && s.now().Before(next.Expires)
}

// RegisteredClient is a registered client, for operators.
type RegisteredClient struct {
	Registration
	Ends     time.Time // when it does not count any more, unless it is used
	LastUsed time.Time // as this node knows
	Unfit    string    // why it is disabled; empty: it is not
}

func (s *Service) describe(c *client) RegisteredClient {
	out := RegisteredClient{Registration: *c.registration, Ends: c.ends, LastUsed: c.registration.Used, Unfit: c.unfit}
	if creds := c.credentials(); len(creds) > 0 {
		if used := s.usage.of(c.Name, creds[0].ID); used.After(out.LastUsed) {
			out.LastUsed = used
		}
	}
	return out
}
