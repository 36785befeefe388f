package sts

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/workload-sts/sts/policy"
)

// RegistrationRequest is a request at the registration endpoint [RFC 7591 §3], or
// at that of a client [RFC 7592 §2].
type RegistrationRequest struct {
	Use       TokenUse       // an initial access token, or the registration access token of the client
	ClientID  string         // whose registration it is; empty to register a client
	Metadata  map[string]any // what is registered, as JSON has it
	Malformed *Error         // as of a TokenRequest
}

// Registered is the answer: a client as it is registered now.
type Registered struct {
	Registration
	AccessToken  string    // its registration access token
	URI          string    // where that is used
	ClientSecret string    // its new secret, which cannot be shown again; empty: it has none that is new
	SecretEnds   time.Time // zero: never

	Decision   string
	Nonce      string // for the next DPoP proof; empty: none is needed
	Unrecorded error  // why a deletion is not in the audit log yet; nil: it is
}

// What is done with a registration, for records.
const (
	actionRegister = "register"
	actionRead     = "read"
	actionUpdate   = "update"
	actionDelete   = "delete"
	actionExpire   = "expire" // by the store: nobody asked for it
)

// writeAttempts bounds how often a change of a registration is tried after others.
const writeAttempts = 4

// RegistrationAudience identifies the registration endpoint, and is its URL: initial
// access tokens have it, and nothing else, as their aud.
func (s *Service) RegistrationAudience() string { return s.issuer + "/oauth2/register" }

// Registers tells whether clients can be registered dynamically.
func (s *Service) Registers() bool { return s.registry.store != nil }

// registering is a request at the registration endpoint on its walk.
type registering struct {
	*decision
	request  RegistrationRequest
	template *ClientTemplate
	said     *policy.Token // that statement
	usedUp   bool          // it, if that is what its Issuer wants
	recorded bool
}

func (s *Service) beginRegistration(req RegistrationRequest, action string) *registering {
	r := &registering{request: req, decision: s.begin(EventRegister, TokenRequest{
		Grant: TokenExchange, Proof: req.Use.Proof, ProofTarget: req.Use.ProofTarget, Certificates: req.Use.Certificates, Source: req.Use.Source,
		Subject: Presented{req.Use.Token, AccessToken},
	})}
	if action != actionRegister {
		r.req.Subject = Presented{} // its own token is no JWT
	}
	r.rec.Registration = &RecordRegistration{Action: action}
	return r
}

// answer records a refusal. Whatever was done has been recorded before.
func (s *Service) answer(ctx context.Context, r *registering, out Registered, e *Error) (Registered, error) {
	out.Decision, out.Nonce = r.ids.decision, s.nextNonce(r.decision)
	if e == nil {
		return out, nil
	}
	if err := s.record(ctx, r.decision, e); err != nil {
		return Registered{}, s.unrecorded(r.decision, err)
	}
	e.Decision, e.Nonce = out.Decision, out.Nonce
	return Registered{}, e
}

// Register registers a client for the bearer of an initial access token, which says
// by its scope by which ClientTemplate [RFC 7591 §3]. An error is an *Error.
//
// Nobody is told what is registered already: a name is random, and nothing that is
// registered can collide with something.
func (s *Service) Register(ctx context.Context, req RegistrationRequest) (Registered, error) {
	r := s.beginRegistration(req, actionRegister)
	out, e := s.register(ctx, r)
	return s.answer(ctx, r, out, e)
}

func (s *Service) register(ctx context.Context, r *registering) (Registered, *Error) {
	// 1. The request itself.
	if e := s.registrable(r); e != nil {
		return Registered{}, e
	}
	// 2. Who asks, and by which template.
	initial, e := s.initialAccess(ctx, r)
	if e != nil {
		return Registered{}, e
	}
	// 3. How many there are, and how fast they come.
	if e := s.paced(r); e != nil {
		return Registered{}, e
	}
	// 4. What is registered.
	reg := Registration{Name: r.template.Name + registeredMark + base32Lower.EncodeToString(random(16)), Template: r.template.Name, Created: r.now.UTC().Truncate(time.Second), By: initial.Subject}
	if e := s.fill(ctx, r, &reg); e != nil {
		return Registered{}, e
	}
	out := Registered{URI: s.registrationURI(reg.Name)}
	out.AccessToken, reg.Access = newRegistrationToken(reg.Name)
	out.newSecret(&reg)
	reg.Expires = reg.ends(r.template)
	// 5. Once only.
	if r.template.SingleUse {
		if e := s.onceInitial(ctx, initial, r.request.Use.Token); e != nil {
			return Registered{}, e
		}
	}
	if e := s.onceStatement(ctx, r); e != nil {
		return Registered{}, e
	}
	// 6. Record, then keep it.
	if e := s.keep(ctx, r, reg.Name, func(ctx context.Context) error { return s.registry.store.Create(ctx, reg, r.template.maxClients()) }); e != nil {
		return Registered{}, e
	}
	return registeredAs(out, reg, r.template), nil
}

// registrable refuses what is not worth a look.
func (s *Service) registrable(r *registering) *Error {
	switch {
	case s.registry.store == nil:
		return &Error{Code: NotFound, Message: "clients cannot be registered here"}
	case r.request.Malformed != nil:
		return r.request.Malformed
	}
	if e := s.limits.arrives(r.req.Source, r.now); e != nil {
		return e
	}
	return s.stale()
}

// initialAccess verifies the initial access token as any token of ours that is used
// at an endpoint of ours, and finds the template that it is for.
func (s *Service) initialAccess(ctx context.Context, r *registering) (*policy.Token, *Error) {
	if r.request.Use.Token == "" {
		return nil, &Error{Code: Unauthenticated, Message: "registration needs an initial access token, as authorization: Bearer TOKEN; ask for one with the audience " + s.RegistrationAudience()}
	}
	r.ownOnly = true
	t, e := s.used(ctx, r.decision, r.request.Use, s.RegistrationAudience(), "the registration endpoint")
	if e != nil {
		return nil, e
	}
	var templates []string
	for _, scope := range t.Scopes {
		if name, ok := strings.CutPrefix(scope, ScopeRegister); ok {
			templates = append(templates, name)
		}
	}
	if len(templates) != 1 {
		return nil, &Error{Code: InsufficientScope, Scope: ScopeRegister + "NAME", Message: "the access token must have exactly one scope " + ScopeRegister + "NAME, which says by which template it registers"}
	}
	template, ok := r.st.templates[templates[0]]
	if !ok {
		return nil, unauthenticated("the template that the access token is for does not exist any more", nil)
	}
	r.template, r.rec.Registration.Template = template, template.Name
	return t, nil
}

// paced refuses what comes too fast.
func (s *Service) paced(r *registering) *Error {
	pace := Rate{Count: r.template.maxPerMinute(), Period: time.Minute}
	if wait := s.limits.templates.take(r.template.Name, pace, r.now); wait > 0 {
		return tooMany(LimitTemplate, "more registrations and changes than the template allows a minute", wait)
	}
	return nil
}

// fill reads what is to be registered and judges it as a whole. What a software
// statement says counts more than what is beside it [RFC 7591 §2.3].
func (s *Service) fill(ctx context.Context, r *registering, reg *Registration) *Error {
	members := maps.Clone(r.request.Metadata)
	statement, e := s.statement(ctx, r, members)
	if e != nil {
		return e
	}
	reg.Statement = statement
	m, e := readMetadata(members)
	if e != nil {
		return e
	}
	if e := r.template.refuses(&m); e != nil {
		return e
	}
	if len(m.GrantTypes) == 0 {
		m.GrantTypes = slices.Clone(r.template.grantTypes())
	}
	m.DPoPBound = m.DPoPBound || r.template.DPoPBound
	reg.Metadata = m
	return s.sound(reg, r.template)
}

// sound holds a client to what is demanded of one that is a resource.
func (s *Service) sound(reg *Registration, t *ClientTemplate) *Error {
	method := reg.Metadata.AuthMethod
	if (method == TLSClientAuth || method == SelfSignedTLSClientAuth) && !slices.Contains(s.byTLS, method) {
		return badMetadata("token_endpoint_auth_method", "no client can authenticate by this method here: no listener asks for certificates")
	}
	cl := reg.client(t)
	cl.Secrets = nil // there are none yet
	c := &checker{service: s}
	c.clientMethods(Ref{KindClient, reg.Name}, cl)
	if len(c.problems) == 0 {
		return nil
	}
	e := badMetadata("", "the metadata does not describe a client that could authenticate; look at the keys, the name of the certificate and the jwks_uri")
	e.Err = joined(c.problems)
	return e
}

// statement verifies the software statement as a token of its Issuer, and puts what
// it says into members. Which of the Issuers may make statements, the template says.
func (s *Service) statement(ctx context.Context, r *registering, members map[string]any) (*SoftwareStatement, *Error) {
	v := members["software_statement"]
	delete(members, "software_statement")
	wanted := r.template.Statement
	if v == nil || wanted == nil {
		if v != nil {
			return nil, unapproved("no software_statement is accepted for this registration; leave it out", nil)
		}
		return nil, r.template.refusesStatement(nil)
	}
	token, ok := v.(string)
	if !ok || token == "" {
		return nil, &Error{Code: InvalidSoftwareStatement, Field: "software_statement", Message: "the software_statement must be a signed JWT"}
	}
	const field = "software_statement"
	r.ownOnly = false
	t, e := s.present(ctx, r.decision, field, Presented{token, JWT}, &r.rec.Registration.Statement)
	r.rec.Registration.Statement = named(r.rec.Registration.Statement, token)
	if e != nil {
		if e.Code == InvalidRequest {
			e.Code = InvalidSoftwareStatement
		}
		return nil, e
	}
	r.said = t
	said := &SoftwareStatement{Issuer: t.Issuer, Claims: t.Claims}
	if e := r.template.refusesStatement(said); e != nil {
		return nil, e
	}
	for name, claim := range t.Claims {
		if !slices.Contains(claimsOfStatements, name) {
			members[name] = claim
		}
	}
	return &SoftwareStatement{Issuer: wanted.Issuer, Claims: maps.Clone(wanted.Claims)}, nil
}

// claimsOfStatements are those of the JWT itself, and no metadata.
var claimsOfStatements = []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "client_secret", "software_statement"}

// onceInitial uses up an initial access token.
func (s *Service) onceInitial(ctx context.Context, t *policy.Token, token string) *Error {
	fresh, e := s.spend(ctx, use{
		what: "access token", space: ReplayPresented, key: replayKey(policy.Self, identity(t, token)), owner: clientShare(t.ClientID),
		since: t.Expires.Add(-maxTTL - Skew), until: t.Expires.Add(Skew),
	})
	if e != nil || fresh {
		return e
	}
	return unauthenticated("the access token has registered a client before, and its template allows one; ask for a fresh one", nil)
}

// onceStatement uses up a software statement whose Issuer allows one use.
func (s *Service) onceStatement(ctx context.Context, r *registering) *Error {
	if r.said == nil || r.usedUp {
		return nil
	}
	token, _ := r.request.Metadata["software_statement"].(string)
	e := s.onceToken(ctx, r.decision, "software_statement", token, r.said)
	if e != nil && e.Code == InvalidRequest {
		e.Code = InvalidSoftwareStatement
	}
	r.usedUp = e == nil
	return e
}

// keep records that something is done with a registration, and does it. What could
// not be done is recorded as well.
func (s *Service) keep(ctx context.Context, r *registering, name string, do func(context.Context) error) *Error {
	r.rec.Registration.Client = name
	if !r.recorded {
		if err := s.record(ctx, r.decision, nil); err != nil {
			return s.unrecorded(r.decision, err)
		}
		r.recorded = true
	}
	return s.stored(do(ctx))
}

// stored is what the error of the store means to who asked.
func (s *Service) stored(err error) *Error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrTooMany):
		return &Error{Code: TooManyRequests, Limit: LimitTemplate, RetryAfter: retryMost, Err: err, Message: "there are as many registered clients as the template allows; one must be deleted, or expire, before another can be registered"}
	case errors.Is(err, ErrConflict):
		return &Error{Code: Conflict, Message: "the registration was changed by somebody else in between; try again", Err: err}
	}
	s.health.failed(CapabilityAdmin, s.now(), DependencyStorage, err)
	return &Error{Code: Unavailable, RetryAfter: retryLater, Err: err, Message: "the registration could not be stored and may or may not be there; try again later"}
}

// newSecret gives a client that authenticates by a secret one.
func (out *Registered) newSecret(reg *Registration) {
	if m := reg.Metadata.AuthMethod; m == SecretBasic || m == SecretPost {
		out.ClientSecret, reg.Secret = NewSecret()
		return
	}
	reg.Secret = ""
}

func registeredAs(out Registered, reg Registration, t *ClientTemplate) Registered {
	out.Registration = reg
	if t != nil && t.MaxLifetime > 0 {
		out.SecretEnds = reg.Created.Add(t.MaxLifetime)
	}
	return out
}

func (s *Service) registrationURI(name string) string { return s.RegistrationAudience() + "/" + name }

// registrationTokenPrefix lets secret scanners recognise one.
const registrationTokenPrefix = "stsr_"

// newRegistrationToken makes the registration access token of a client, with its
// name, so that one that is used for another client is known, and its hash.
func newRegistrationToken(name string) (token, hash string) {
	token = registrationTokenPrefix + name + "." + base64.RawURLEncoding.EncodeToString(random(32))
	hash, err := HashSecret(token)
	if err != nil {
		panic(err) // it is long enough
	}
	return token, hash
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// Members is the client information response [RFC 7591 §3.2.1, RFC 7592 §3].
func (r *Registered) Members() map[string]any {
	out := r.Metadata.Members()
	out["client_id"], out["client_id_issued_at"] = r.Name, r.Created.Unix()
	out["registration_access_token"], out["registration_client_uri"] = r.AccessToken, r.URI
	if r.ClientSecret != "" {
		out["client_secret"], out["client_secret_expires_at"] = r.ClientSecret, int64(0)
		if !r.SecretEnds.IsZero() {
			out["client_secret_expires_at"] = r.SecretEnds.Unix()
		}
	}
	return out
}
