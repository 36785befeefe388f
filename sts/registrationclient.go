package sts

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"
)

// ReadRegistration returns what is registered, to the client itself by its
// registration access token [RFC 7592 §2.1]. Its secret is not known here any more,
// so it is not in the answer. An error is an *Error.
func (s *Service) ReadRegistration(ctx context.Context, req RegistrationRequest) (Registered, error) {
	r := s.beginRegistration(req, actionRead)
	reg, e := s.ownRegistration(ctx, r)
	if e != nil {
		return s.answer(ctx, r, Registered{}, e)
	}
	return s.answer(ctx, r, registeredAs(Registered{URI: s.registrationURI(reg.Name), AccessToken: req.Use.Token}, *reg, r.template), nil)
}

// UpdateRegistration replaces what is registered, by the bounds that the template
// has now [RFC 7592 §2.2]. What is left out is deleted: a client that authenticates
// by a secret and does not send it gets a new one. An error is an *Error.
func (s *Service) UpdateRegistration(ctx context.Context, req RegistrationRequest) (Registered, error) {
	r := s.beginRegistration(req, actionUpdate)
	var out Registered
	var e *Error
	for range writeAttempts {
		if out, e = s.updateRegistration(ctx, r); e == nil || e.Code != Conflict {
			break
		}
	}
	return s.answer(ctx, r, out, e)
}

func (s *Service) updateRegistration(ctx context.Context, r *registering) (Registered, *Error) {
	old, e := s.ownRegistration(ctx, r)
	if e != nil {
		return Registered{}, e
	}
	if r.template == nil {
		return Registered{}, unauthenticated("the template of this registration does not exist any more", nil)
	}
	if e := s.paced(r); e != nil {
		return Registered{}, e
	}
	keepsSecret, e := checkUpdate(r.request, old)
	if e != nil {
		return Registered{}, e
	}
	reg := *old
	if e := s.fill(ctx, r, &reg); e != nil {
		return Registered{}, e
	}
	out := Registered{URI: s.registrationURI(reg.Name), AccessToken: r.request.Use.Token}
	if !keepsSecret || reg.Metadata.AuthMethod != SecretBasic && reg.Metadata.AuthMethod != SecretPost {
		out.newSecret(&reg)
	}
	if e := s.onceStatement(ctx, r); e != nil {
		return Registered{}, e
	}
	reg.Changed = r.now.UTC().Truncate(time.Second)
	reg.Expires = reg.ends(r.template)
	if e := s.keep(ctx, r, reg.Name, func(ctx context.Context) error { return s.registry.store.Replace(ctx, reg) }); e != nil {
		return Registered{}, e
	}
	return registeredAs(out, reg, r.template), nil
}

// checkUpdate checks the members that are not metadata, and tells whether the
// secret stays [RFC 7592 §2.2].
func checkUpdate(req RegistrationRequest, old *Registration) (keepsSecret bool, e *Error) {
	for _, name := range []string{"registration_access_token", "registration_client_uri", "client_secret_expires_at", "client_id_issued_at"} {
		if req.Metadata[name] != nil {
			return false, badMetadata(name, name+" must not be in a change: it is not the client's to say")
		}
	}
	if id, _ := req.Metadata["client_id"].(string); id != old.Name {
		return false, badMetadata("client_id", "client_id must be in a change, and be that of the client")
	}
	v, given := req.Metadata["client_secret"]
	if !given || v == nil {
		return false, nil
	}
	secret, _ := v.(string)
	if h, err := parseSecretHash(old.Secret); err != nil || !h.matches(secret) {
		return false, badMetadata("client_secret", "client_secret in a change must be the secret that the client has; leave it out to get a new one")
	}
	return true, nil
}

// DeleteRegistration deletes a client, by its registration access token [RFC 7592
// §2.3]. From then on it cannot authenticate, and its tokens do not count. An error
// is an *Error.
func (s *Service) DeleteRegistration(ctx context.Context, req RegistrationRequest) (Registered, error) {
	r := s.beginRegistration(req, actionDelete)
	return s.deleteRegistration(ctx, r, func() (*Registration, *Error) { return s.ownRegistration(ctx, r) })
}

// deleteRegistration deletes what find finds, each time that somebody else came
// first. A client that is gone has no rights, so this does not wait for the audit
// log.
func (s *Service) deleteRegistration(ctx context.Context, r *registering, find func() (*Registration, *Error)) (Registered, error) {
	reg, e := find()
	if e != nil {
		return s.answer(ctx, r, Registered{}, e)
	}
	r.rec.Registration.Client, r.rec.Registration.Template = reg.Name, reg.Template
	s.complete(r.decision, nil)
	out := Registered{Decision: r.ids.decision, Nonce: s.nextNonce(r.decision)}
	e, out.Unrecorded = s.takeAway(ctx, &r.rec, func() (e *Error) {
		for range writeAttempts {
			if e = s.stored(s.registry.store.Delete(ctx, *reg)); e == nil || e.Code != Conflict {
				return e
			}
			var gone *Error
			if reg, gone = find(); gone != nil {
				return gone
			}
		}
		return e
	})
	if e != nil {
		e.Decision, e.Nonce = out.Decision, out.Nonce
		return Registered{}, e
	}
	return out, nil
}

// ownRegistration returns the registration of a client whose registration access
// token is presented.
//
// Every failure answers the same and takes the same, whether there is such a client
// or not [RFC 7592 §2.1]. A token that is used for another client than its own is in
// the wrong hands, and is good for nothing any more.
func (s *Service) ownRegistration(ctx context.Context, r *registering) (*Registration, *Error) {
	if e := s.registrable(r); e != nil {
		return nil, e
	}
	token := r.request.Use.Token
	if token == "" {
		return nil, &Error{Code: Unauthenticated, Message: "this needs the registration access token of the client, as authorization: Bearer TOKEN"}
	}
	wrong := func(why string) *Error {
		return unauthenticated("the registration access token is not one of this client", reason(why))
	}
	rest, _ := strings.CutPrefix(token, registrationTokenPrefix)
	name, _, _ := strings.Cut(rest, ".")
	reg, ok := s.registry.all()[name]
	hash := decoy
	if ok {
		if h, err := parseSecretHash(reg.Access); err == nil {
			hash = h
		}
	}
	proven := hash.matches(token) && ok && len(token) >= MinSecretLength
	c, counts := r.st.registered[name]
	if proven && counts {
		r.asked.Client = &c.party
	}
	switch {
	case !proven:
		return nil, wrong("no client has this token")
	case name != r.request.ClientID:
		r.rec.Registration.Client = name
		return nil, s.misused(ctx, reg)
	case !counts || !r.now.Before(c.ends):
		return nil, wrong("the client has expired")
	case r.request.Use.Scheme != SchemeBearer:
		return nil, wrong("the token is not bound to a key; send it by the Bearer scheme")
	}
	r.template = r.st.templates[reg.Template]
	r.rec.Registration.Client, r.rec.Registration.Template = name, reg.Template
	return reg, nil
}

// misused makes a registration access token good for nothing.
func (s *Service) misused(ctx context.Context, reg *Registration) *Error {
	next := *reg
	next.Access = ""
	e := unauthenticated("the registration access token is not one of this client", reason("it is that of another client, and is good for nothing any more"))
	if err := s.registry.store.Replace(ctx, next); err != nil && !errors.Is(err, ErrConflict) {
		e.Err = errors.Join(e.Err, err)
	}
	return e
}

// RegisteredClients returns up to limit registered clients of a template, or of all
// if it is empty, in the order of their names, that come after one, and whether
// there are more.
func (s *Service) RegisteredClients(template, after string, limit int) (page []RegisteredClient, more bool) {
	st, now := s.state.Load(), s.now()
	var names []string
	for name, c := range st.registered {
		if name > after && (template == "" || c.registration.Template == template) && now.Before(c.ends) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names[:min(limit, len(names))] {
		page = append(page, s.describe(st.registered[name]))
	}
	return page, len(names) > limit
}

// RegisteredClientCount is how many registered clients there are.
func (s *Service) RegisteredClientCount() int { return len(s.registry.all()) }

// DeleteRegisteredClient deletes a registered client, for an administrator. An error
// is an *Error.
func (s *Service) DeleteRegisteredClient(ctx context.Context, by Principal, name string) (Registered, error) {
	r := s.beginRegistration(RegistrationRequest{ClientID: name, Use: TokenUse{Source: Source{Peer: by.Peer}}}, actionDelete)
	r.rec.Registration.By = &by
	return s.deleteRegistration(ctx, r, func() (*Registration, *Error) {
		reg, ok := s.registry.all()[name]
		if !ok {
			return nil, &Error{Code: NotFound, Message: "there is no registered client of this name"}
		}
		return reg, nil
	})
}
