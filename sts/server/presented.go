package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/workload-sts/sts/sts"
)

// ask returns a configuration that asks clients for certificates. nil asks for
// nothing, and a nil configuration stays nil.
//
// Nothing is decided in the handshake but that the client holds the key: a
// certificate that nobody vouches for may be a self-signed one that a client is
// known by, or may be none of our business. Each request has its certificates
// checked anew, so neither a TLS session that is resumed nor a connection that is
// older than a change gets around that.
//
// The authorities are not named to clients: one whose certificate is of none of
// them, as self-signed ones are, would not show it [RFC 8446 §4.2.4].
func (c *ClientCertificates) ask(t *tls.Config) *tls.Config {
	if c == nil || t == nil {
		return t
	}
	t = t.Clone()
	t.ClientAuth, t.ClientCAs = tls.RequestClientCert, nil
	return t
}

// presented is what a request presents by TLS.
type presented struct {
	chain    []*x509.Certificate
	verified func(trustDomain string, now time.Time) error
	bad      *refusal // a trusted proxy forwarded something else than a certificate
	address  string   // network address of the client, as a trusted proxy says it
}

func (c *ClientCertificates) overHTTP(r *http.Request) presented {
	if c == nil || r.TLS == nil {
		return presented{}
	}
	return c.presented(r.TLS.PeerCertificates, r.Header)
}

func (c *ClientCertificates) overGRPC(ctx context.Context) presented {
	p, ok := peer.FromContext(ctx)
	if c == nil || !ok {
		return presented{}
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return presented{}
	}
	md, _ := metadata.FromIncomingContext(ctx)
	return c.presented(info.State.PeerCertificates, md)
}

// presented returns the certificates of the client: those of the connection, or
// those that a trusted proxy forwards. The proxy's own never count as a client's.
func (c *ClientCertificates) presented(connection []*x509.Certificate, headers map[string][]string) presented {
	if len(connection) == 0 {
		return presented{}
	}
	for i := range c.proxies {
		p := &c.proxies[i]
		if p.Name.Proves(connection, c.verifier(connection), time.Now()) != nil {
			continue
		}
		address := p.address(headers)
		chain, err := p.forwarded(headers)
		if err != nil {
			bad := unauthorized("the proxy in front of this service did not forward the certificate of the client as it must; its operator can find out why")
			bad.sts.Err = err
			return presented{bad: bad, address: address}
		}
		if len(chain) == 0 {
			return presented{address: address}
		}
		return presented{chain: chain, verified: c.verifier(chain), address: address}
	}
	return presented{chain: connection, verified: c.verifier(connection)}
}

// certified completes a request with the certificates of its client. A client id
// alone beside them is an authentication by them [RFC 8705 §2].
func certified(ctx context.Context, req *sts.TokenRequest) *refusal {
	k, ok := callOf(ctx)
	if !ok || k.presented == nil {
		return nil
	}
	p := k.presented()
	if p.bad != nil {
		return p.bad
	}
	req.Certificates, req.ClientVerified = p.chain, p.verified
	if cred := &req.Credential; len(p.chain) > 0 && cred.Method == sts.SecretPost && cred.Secret == "" {
		cred.Method = sts.TLSClientAuth
	}
	return nil
}
