package sts

import (
	"crypto/x509"
	"errors"
	"time"
)

// authenticateTLS returns the client that a request names and its TLS certificate
// proves [RFC 8705 §2].
//
// As with secrets, every failure answers the same and takes the same: what the
// certificate is worth is found out before the client is looked up.
func (d *decision) authenticateTLS() (*client, *Error) {
	if len(d.req.Certificates) == 0 {
		return nil, invalidClientTLS(reason("no certificate"))
	}
	d.rec.Certificate = thumbprint(d.req.Certificates[0])
	worth := worthOf(d.req.Certificates, d.req.ClientVerified, d.now)
	c, known := d.st.client(d.req.Credential.ClientID, d.now)
	if known && c.certificate != nil {
		d.rec.AuthMethod = c.certificate.method
	}
	switch {
	case !known:
		return nil, invalidClientTLS(reason("no client of this name"))
	case c.Disabled:
		return nil, invalidClientTLS(reason("the client is disabled"))
	case c.certificate == nil:
		return nil, invalidClientTLS(reason("the client does not authenticate by a certificate"))
	}
	if err := worth.proves(c.certificate); err != nil {
		return nil, invalidClientTLS(err)
	}
	return c, nil
}

// alsoByCertificate tells whether a request whose other credential has failed has
// a certificate that proves the client it names. Only who can prove to be that
// client learns so. It takes the same for every client.
//
// A certificate beside a secret is by itself no second method: in a mesh every
// connection has one.
func (d *decision) alsoByCertificate() bool {
	if len(d.req.Certificates) == 0 {
		return false
	}
	worth := worthOf(d.req.Certificates, d.req.ClientVerified, d.now)
	c, known := d.st.client(d.req.Credential.ClientID, d.now)
	return known && !c.Disabled && c.certificate != nil && worth.proves(c.certificate) == nil
}

// errNotNamed is for a certificate alone: the client_id is required beside it [RFC
// 8705 §2], and without it nothing says that the caller means to be a client.
func errNotNamed() *Error {
	return &Error{Code: InvalidClient, Message: "no client authentication; name the client by client_id beside the TLS certificate"}
}

func errTwoMethods() *Error {
	return refuse(InvalidRequest, "client_secret", "two client authentications at once; this client authenticates by its certificate alone")
}

func invalidClientTLS(why error) *Error {
	return &Error{Code: InvalidClient, Message: "client authentication failed; check the client id and its certificate", Err: why}
}

// worth is what the certificates of a request are good for, whoever is named: each
// error is nil where they are good.
type worth struct {
	leaf      *x509.Certificate
	use       error // why no client can use it, at this time
	authority error // why no authority without a trust domain vouches for it
	svid      error // why it is no X.509-SVID that its trust domain vouches for
}

// worthOf takes what a TokenRequest has by these names.
func worthOf(certificates []*x509.Certificate, verified func(string, time.Time) error, now time.Time) worth {
	leaf := certificates[0]
	none := errors.New("there is no authority of client certificates where the request came in")
	w := worth{leaf: leaf, use: checkUse(leaf, now), authority: none, svid: none}
	if verified == nil {
		return w
	}
	w.authority = verified("", now)
	id, err := svid(leaf)
	if err == nil {
		err = verified(id.TrustDomain(), now)
	}
	w.svid = err
	return w
}

// proves returns nil if the certificate is the one that is meant. What a
// certificate says of itself is told only if somebody vouches for it.
func (w worth) proves(m *certificateMatch) error {
	switch {
	case w.use != nil:
		return w.use
	case m.method == SelfSignedTLSClientAuth:
		// Nobody vouches for it, and the key is the whole proof [RFC 8705 §2.2].
	case m.spiffe && w.svid != nil:
		return w.svid
	case !m.spiffe && w.authority != nil:
		return w.authority
	case w.leaf.IsCA:
		return reason("the certificate is an authority's, not a client's")
	}
	return m.isNamed(w.leaf)
}
