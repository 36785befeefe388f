package sts

import (
	"context"
	"time"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/policy"
)

// maxSecrets is how many secrets a client can have, so that one can be replaced
// while the other works.
const maxSecrets = 2

// client is a Client ready to authenticate.
type client struct {
	*Client
	secrets     [maxSecrets]secret
	keys        jose.KeySet       // of private_key_jwt, those that the resource has
	certificate *certificateMatch // nil: not by a certificate
	party       policy.Client     // as rules see it

	registration *Registration // nil: it is a resource
	ends         time.Time     // of a registered one: when it does not count any more
	grants       []GrantType   // of a registered one: what it may use
	unfit        string        // why its template does not allow it; it is disabled then
}

// secret is one of the two places for a secret; an empty one holds the decoy.
type secret struct {
	id       string
	hash     secretHash
	notAfter time.Time
	live     bool
}

// newClient expects a checked Client; identifiers are those of its audiences.
func newClient(c *Client, identifiers []string) *client {
	out := &client{Client: c, party: policy.Client{ID: c.Name, Labels: c.Labels, Audiences: identifiers, DPoP: c.DPoPBound}}
	for i := range out.secrets {
		out.secrets[i].hash = decoy
		if i < len(c.Secrets) {
			h, err := parseSecretHash(c.Secrets[i].Hash)
			out.secrets[i] = secret{id: c.Secrets[i].ID(), hash: h, notAfter: c.Secrets[i].NotAfter, live: err == nil}
		}
	}
	if k := c.PrivateKeyJWT; k != nil && k.JWKS != "" {
		out.keys, _ = parseClientKeys(k.JWKS)
	}
	if c.TLS != nil {
		out.certificate, _, _ = newCertificateMatch(c.TLS)
	}
	return out
}

// nobody stands for a client that does not exist.
var nobody = newClient(&Client{Disabled: true}, nil)

// authenticate returns the client that the credential proves. Each method has a
// way of its own, and a client has one method: a credential for another is as
// wrong as any.
func (s *Service) authenticate(ctx context.Context, d *decision) (*client, *Error) {
	var c *client
	var e *Error
	switch {
	case d.req.Credential.Method == TLSClientAuth:
		return d.authenticateTLS()
	case d.assertion != nil:
		c, e = s.authenticateAssertion(ctx, d)
	default:
		c, e = d.authenticateSecret()
	}
	if e != nil && e.Code == InvalidClient && d.alsoByCertificate() {
		e = errTwoMethods()
	}
	return c, e
}

// authenticateSecret returns the client whose secret is presented.
//
// Every failure answers the same and takes the same: one lookup, and a hash for
// each of the two places for a secret, used or not. What went wrong is for the
// audit record alone.
func (d *decision) authenticateSecret() (*client, *Error) {
	cred := d.req.Credential
	c, known := d.st.client(cred.ClientID, d.now)
	if !known {
		c = nobody
	}
	ok, expired := false, false
	for i := range c.secrets {
		s := &c.secrets[i]
		matches := s.hash.matches(cred.Secret) && s.live
		past := !s.notAfter.IsZero() && !d.now.Before(s.notAfter)
		if matches && !past {
			ok, d.credential = true, s.id
		}
		expired = expired || matches && past
	}
	switch {
	case ok && !c.Disabled && len(cred.Secret) >= MinSecretLength:
		return c, nil
	case !known:
		return nil, cred.failure(reason("no client of this name"))
	case c.Disabled:
		return nil, cred.failure(reason("the client is disabled"))
	case c.TLS != nil:
		return nil, cred.failure(reason("the client authenticates by a certificate, not by a secret"))
	case len(c.Secrets) == 0 && len(c.methods()) > 0:
		return nil, cred.failure(reason("the client does not authenticate with a secret"))
	case expired:
		return nil, cred.failure(reason("the secret has expired"))
	default:
		return nil, cred.failure(reason("wrong secret"))
	}
}

func invalidClient(why string) *Error {
	return &Error{Code: InvalidClient, Message: "client authentication failed; check the client id and its secret", Err: reason(why)}
}

// reason is a cause in words for the operator.
type reason string

func (r reason) Error() string { return string(r) }

// Proves tells whether secret is one of the client's that has not expired by
// itself. It is not an authentication: see [Service.Token].
func (c *Client) Proves(secret string) bool {
	for _, s := range c.Secrets {
		if h, err := parseSecretHash(s.Hash); err == nil && h.matches(secret) && s.NotAfter.IsZero() {
			return true
		}
	}
	return false
}
