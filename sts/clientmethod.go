package sts

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/workload-sts/sts/jose"
)

// clientMethod is a way to authenticate that a Client is set up with.
type clientMethod struct {
	field string // of the resource
	name  string // in what admins are told
}

// methods lists the ways to authenticate that a Client is set up with. One that
// has none cannot authenticate.
func (c *Client) methods() []clientMethod {
	var out []clientMethod
	for _, m := range []struct {
		clientMethod
		set bool
	}{
		{clientMethod{"secrets", "client_secret"}, len(c.Secrets) > 0},
		{clientMethod{"private_key_jwt", string(PrivateKeyJWT)}, c.PrivateKeyJWT != nil},
		{clientMethod{"federated", string(FederatedJWT)}, c.Federated != nil},
		{clientMethod{"tls", string(TLSClientAuth)}, c.TLS != nil && c.TLS.SelfSigned == nil},
		{clientMethod{"tls", string(SelfSignedTLSClientAuth)}, c.TLS != nil && c.TLS.SelfSigned != nil},
	} {
		if m.set {
			out = append(out, m.clientMethod)
		}
	}
	return out
}

// clientMethods checks how a client authenticates: in one way, so that the weaker
// of two is never a way around the other.
func (c *checker) clientMethods(ref Ref, cl *Client) {
	configured := map[string]bool{}
	for _, m := range cl.methods() {
		configured[m.field] = true
	}
	c.oneMethod(ref, configured)
	c.tls(ref, cl.TLS)
	if cl.PrivateKeyJWT != nil {
		c.clientKey(ref, cl.PrivateKeyJWT)
	}
	if cl.Federated != nil {
		c.federated(ref, cl.Federated)
	}
}

func (c *checker) clientKey(ref Ref, k *ClientKey) {
	const field = "private_key_jwt"
	if issuer, taken := c.identifiers[ref.Name]; taken {
		c.problem(ref, "name", "this is the issuer identifier of Issuer %q, so assertions of the client could not be told from its tokens; name the client otherwise", issuer)
	}
	if ref.Name == c.service.issuer {
		c.problem(ref, "name", "this is the issuer identifier of this service; name the client otherwise")
	}
	for n, alg := range k.Algorithms {
		if !slices.Contains(DefaultAlgorithms, alg) {
			c.problem(ref, fmt.Sprintf("%s.algorithms[%d]", field, n), "%q is not one of %s", alg, strings.Join(DefaultAlgorithms, ", "))
		}
	}
	var given []string
	for _, g := range [...]struct{ name, value string }{{"jwks", k.JWKS}, {"jwks_file", k.JWKSFile}, {"jwks_uri", k.JWKSURI}} {
		if g.value != "" {
			given = append(given, g.name)
		}
	}
	switch {
	case len(given) > 1:
		c.problem(ref, field+"."+given[1], "cannot be given together with %s; keep one, since keys come from one place", given[0])
	case k.JWKS != "":
		if _, err := parseClientKeys(k.JWKS); err != nil {
			c.problem(ref, field+".jwks", "%s", err)
		}
	case len(given) == 1:
		if err := c.service.clientKeys.Check(k); err != nil {
			c.problem(ref, field, "%s", err)
		}
	default:
		c.problem(ref, field, "says no keys; set jwks, jwks_file or jwks_uri")
	}
}

// parseClientKeys reads the keys of a resource. All of them must be usable: what
// was left out would be noticed when somebody cannot get in.
func parseClientKeys(jwks string) (jose.KeySet, error) {
	set, left, err := jose.ParseKeySet([]byte(jwks))
	switch {
	case err != nil:
		return set, fmt.Errorf("it is not a JWK set in JSON that this service accepts: %w", err)
	case len(left) > 0:
		return set, fmt.Errorf("it has keys that cannot be used; only public keys that verify signatures belong here: %w", errors.Join(left...))
	case set.Len() == 0:
		return set, errors.New("it has no keys")
	}
	return set, nil
}

// pinning are claims that name one workload, each of which makes a mapping safe
// by itself.
var pinning = []string{"sub", "azp", "client_id", "oid", "repository_id", "project_id"}

func (c *checker) federated(ref Ref, f *FederatedIdentity) {
	const field = "federated"
	c.issuerNamed(ref, field+".issuer", f.Issuer)
	if !slices.ContainsFunc(pinning, func(name string) bool { return f.Claims[name] != nil }) {
		c.problem(ref, field+".claims", "no claim here names one workload, so any token of the Issuer that has these would be this client; add one of %s", strings.Join(pinning, ", "))
	}
	c.exactClaims(ref, field+".claims", f.Claims)
}

const maxFederatedClaims = 32
