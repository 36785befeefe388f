package sts

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Bounds of how long a secret works on beside its successor.
const (
	DefaultOverlap = 24 * time.Hour
	maxOverlap     = 720 * time.Hour
)

// RotatedSecret is a new secret of a client.
type RotatedSecret struct {
	Secret           string // nobody has it but who reads this
	ID               string // see [ClientSecret.ID]
	PreviousNotAfter time.Time
	Revision         int64
}

// ClientStatus says how a client authenticates, and what it has used.
type ClientStatus struct {
	Name        string
	Method      string // client_secret or that of the AuthMethod; empty: none
	Disabled    bool
	Credentials []CredentialStatus
	Keys        *IssuerStatus // nil: it publishes none
	Revision    int64
}

// CredentialStatus is a credential of a client.
type CredentialStatus struct {
	ID       string
	NotAfter time.Time // zero: never expires
	LastUsed time.Time // zero: never
}

// ID names a secret without telling anything of it.
func (s ClientSecret) ID() string {
	sum := sha256.Sum256([]byte(s.Hash))
	return base64.RawURLEncoding.EncodeToString(sum[:9])
}

// method is how admins are told that a client authenticates; empty: it cannot.
func (c *Client) method() string {
	if m := c.methods(); len(m) > 0 {
		return m[0].name
	}
	return ""
}

// credentials lists what can authenticate a client: its secrets, or the one thing
// that another method has, named by the method.
func (c *Client) credentials() []CredentialStatus {
	var out []CredentialStatus
	for _, s := range c.Secrets {
		out = append(out, CredentialStatus{ID: s.ID(), NotAfter: s.NotAfter})
	}
	if m := c.method(); m != "" && len(out) == 0 {
		out = append(out, CredentialStatus{ID: m})
	}
	return out
}

func (c *Client) hasCredential(id string) bool {
	return slices.ContainsFunc(c.credentials(), func(s CredentialStatus) bool { return s.ID == id })
}

// ClientStatus returns how a client authenticates. The error is an *Error.
func (s *Service) ClientStatus(ctx context.Context, name string) (ClientStatus, error) {
	r, revision, err := s.Resource(Ref{KindClient, name})
	if err != nil {
		return ClientStatus{}, err
	}
	out := ClientStatus{Name: name, Method: r.Client.method(), Disabled: r.Client.Disabled, Credentials: r.Client.credentials(), Revision: revision}
	for i := range out.Credentials {
		out.Credentials[i].LastUsed = s.usage.ofAll(ctx, name, out.Credentials[i].ID)
	}
	if r.Client.publishes() {
		if keys, ok := s.clientKeys.Status(name); ok {
			out.Keys = &keys
		}
	}
	return out, nil
}

// RotateSecret gives a client a new secret, and the one before an end. If expected
// is not 0, it is the revision that must be in force. The error is an *Error; one
// of code Unavailable leaves it open whether there is a new secret.
func (s *Service) RotateSecret(ctx context.Context, by Principal, name string, overlap time.Duration, expected int64) (RotatedSecret, error) {
	if overlap < 0 || overlap > maxOverlap {
		return RotatedSecret{}, refuse(InvalidRequest, "overlap", fmt.Sprintf("overlap must be between 0s and %s", maxOverlap))
	}
	var err error
	for range commitAttempts {
		var done RotatedSecret
		if done, err = s.tryRotateSecret(ctx, by, name, overlap, expected); err == nil {
			return done, nil
		}
		// Who did not say what he has seen, has seen what is in force.
		if e, ok := errors.AsType[*Error](err); !ok || e.Code != Conflict || expected != 0 {
			break
		}
	}
	return RotatedSecret{}, err
}

func (s *Service) tryRotateSecret(ctx context.Context, by Principal, name string, overlap time.Duration, expected int64) (RotatedSecret, error) {
	r, revision, err := s.Resource(Ref{KindClient, name})
	if err != nil {
		return RotatedSecret{}, err
	}
	if m := r.Client.method(); m != "" && len(r.Client.Secrets) == 0 {
		return RotatedSecret{}, refuse(InvalidRequest, "name", "the client authenticates by "+m+" and has no secret to replace")
	}
	if expected != 0 {
		revision = expected
	}
	secret, hash := NewSecret()
	fresh := ClientSecret{Hash: hash}
	next := *r.Client
	next.Secrets = nil
	out := RotatedSecret{Secret: secret, ID: fresh.ID()}
	now := s.now()
	if previous, ok := s.previous(ctx, r.Client, now); ok && overlap > 0 {
		if end := now.Add(overlap).UTC().Truncate(time.Second); previous.NotAfter.IsZero() || end.Before(previous.NotAfter) {
			previous.NotAfter = end
		}
		out.PreviousNotAfter = previous.NotAfter
		next.Secrets = append(next.Secrets, previous)
	}
	next.Secrets = append(next.Secrets, fresh)
	done, err := s.Apply(ctx, Change{Put: []Resource{{Client: &next}}, Expected: revision, By: by, Why: "rotation of a client secret"})
	out.Revision = done.Revision
	return out, err
}

// previous returns the secret of a client that works on beside a new one: the one
// that works longest, unless only another one has ever been used. So whoever rotates
// again because he never got the new secret takes away that, and not the one that
// the workload has.
func (s *Service) previous(ctx context.Context, c *Client, now time.Time) (ClientSecret, bool) {
	best, ok := newest(c.Secrets, now)
	if !ok || !s.usage.ofAll(ctx, c.Name, best.ID()).IsZero() {
		return best, ok
	}
	used := slices.DeleteFunc(slices.Clone(c.Secrets), func(v ClientSecret) bool { return s.usage.ofAll(ctx, c.Name, v.ID()).IsZero() })
	if other, ok := newest(used, now); ok {
		return other, true
	}
	return best, true
}

// newest returns the secret that works longest; of several that do, the last one.
func newest(secrets []ClientSecret, now time.Time) (best ClientSecret, ok bool) {
	for _, s := range secrets {
		switch {
		case !s.NotAfter.IsZero() && !now.Before(s.NotAfter):
		case !ok, s.NotAfter.IsZero(), !best.NotAfter.IsZero() && !s.NotAfter.Before(best.NotAfter):
			best, ok = s, true
		}
	}
	return best, ok
}
