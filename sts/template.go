package sts

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/workload-sts/sts/policy"
)

// ScopeRegister and the name of a ClientTemplate behind it is the scope of a token
// that registers a client by this template.
const ScopeRegister = "sts.register."

// registeredMark stands in the name of a registered client, between its template
// and what is random. A Client that is a resource is not named so.
const registeredMark = "~"

// Bounds of a ClientTemplate, and what holds where it says nothing.
const (
	maxTemplates        = 16
	maxTemplateName     = 32
	maxJWKSHosts        = 100
	maxRegistered       = 10_000 // by one template
	defaultRegistered   = 100
	maxPerMinute        = 6_000
	defaultPerMinute    = 60
	minExpireUnused     = time.Hour
	maxExpireUnused     = 366 * 24 * time.Hour
	defaultExpireUnused = 30 * 24 * time.Hour
	maxLifetime         = 10 * 366 * 24 * time.Hour
)

// registrable are the methods by which a registered client can authenticate.
var registrable = []AuthMethod{SecretBasic, SecretPost, PrivateKeyJWT, TLSClientAuth, SelfSignedTLSClientAuth}

// grantTypes are the grants of this service.
var grantTypes = []GrantType{ClientCredentials, TokenExchange}

func (t *ClientTemplate) grantTypes() []GrantType {
	if len(t.GrantTypes) == 0 {
		return grantTypes
	}
	return t.GrantTypes
}

func (t *ClientTemplate) maxClients() int { return orDefault(t.MaxClients, defaultRegistered) }

func (t *ClientTemplate) maxPerMinute() int { return orDefault(t.MaxPerMinute, defaultPerMinute) }

func (t *ClientTemplate) expireUnused() time.Duration {
	return orDefault(t.ExpireUnused, defaultExpireUnused)
}

func orDefault[N int | time.Duration](n, def N) N {
	if n == 0 {
		return def
	}
	return n
}

// template checks a ClientTemplate.
func (c *checker) template(t *ClientTemplate) {
	ref := Ref{KindClientTemplate, t.Name}
	c.common(ref, t.Description)
	if len(t.Name) > maxTemplateName || strings.ContainsFunc(t.Name, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' }) {
		c.problem(ref, "name", "a ClientTemplate has a name of 1 to %d small letters, digits and -, which the names of its clients and a scope begin with", maxTemplateName)
	}
	if c.templates++; c.templates > maxTemplates {
		c.problem(ref, "name", "there are more than %d ClientTemplates", maxTemplates)
	}
	if len(t.Labels) > maxLabels {
		c.problem(ref, "labels", "more than %d labels", maxLabels)
	}
	if len(t.Methods) == 0 {
		c.problem(ref, "methods", "is empty; name at least one of %s", names(registrable))
	}
	for i, m := range t.Methods {
		if !slices.Contains(registrable, m) {
			c.problem(ref, fmt.Sprintf("methods[%d]", i), "%q is not one of %s", m, names(registrable))
		}
	}
	for i, g := range t.GrantTypes {
		if !slices.Contains(grantTypes, g) {
			c.problem(ref, fmt.Sprintf("grant_types[%d]", i), "%q is not one of %s", g, names(grantTypes))
		}
	}
	c.jwksHosts(ref, t)
	between := func(field string, n, least, most int) {
		if n < least || n > most {
			c.problem(ref, field, "is %d; it must be between %d and %d", n, least, most)
		}
	}
	between("max_clients", t.maxClients(), 1, maxRegistered)
	between("max_per_minute", t.maxPerMinute(), 1, maxPerMinute)
	if d := t.expireUnused(); d < minExpireUnused || d > maxExpireUnused {
		c.problem(ref, "expire_unused", "must be between %s and %s, not %s", minExpireUnused, maxExpireUnused, d)
	}
	if d := t.MaxLifetime; d < 0 || d > maxLifetime || d > 0 && d < minExpireUnused {
		c.problem(ref, "max_lifetime", "must be between %s and %s, not %s", minExpireUnused, maxLifetime, d)
	}
	if t.Statement != nil {
		c.issuerNamed(ref, "software_statement.issuer", t.Statement.Issuer)
		c.exactClaims(ref, "software_statement.claims", t.Statement.Claims)
	}
}

// jwksHosts checks which hosts a jwks_uri may have. They are names: what is behind
// an address, an operator says in a Client.
func (c *checker) jwksHosts(ref Ref, t *ClientTemplate) {
	if len(t.JWKSHosts) > maxJWKSHosts {
		c.problem(ref, "jwks_hosts", "more than %d hosts", maxJWKSHosts)
	}
	if len(t.JWKSHosts) > 0 && !slices.Contains(t.Methods, PrivateKeyJWT) {
		c.problem(ref, "jwks_hosts", "goes with the method %s", PrivateKeyJWT)
	}
	for i, h := range t.JWKSHosts {
		name := strings.TrimPrefix(h, "*.")
		if !plainDomain(name) || name != h && !strings.Contains(name, ".") {
			c.problem(ref, fmt.Sprintf("jwks_hosts[%d]", i), "must be a domain name in small letters such as keys.example.com, or *.example.com for all that are one label below it")
		}
	}
}

// plainDomain holds for domain names of at least two labels whose last one is not
// a number, as that of an address is.
func plainDomain(s string) bool {
	labels := strings.Split(s, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || l[0] == '-' || l[len(l)-1] == '-' {
			return false
		}
	}
	last := labels[len(labels)-1]
	return len(s) <= 253 && len(labels) > 1 && strings.ContainsAny(last[:1], "abcdefghijklmnopqrstuvwxyz") && len(last) > 1
}

// hostAllowed tells whether a template lets keys be fetched from an https URL
// without anything but host and path.
func (t *ClientTemplate) hostAllowed(uri string) bool {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "https" || u.User != nil || u.Opaque != "" || u.Port() != "" || strings.ContainsAny(uri, "#\\") || !visible(uri) {
		return false
	}
	host := u.Host
	return slices.ContainsFunc(t.JWKSHosts, func(allowed string) bool {
		rest, wild := strings.CutPrefix(allowed, "*.")
		if !wild {
			return host == allowed
		}
		label, parent, found := strings.Cut(host, ".")
		return found && label != "" && parent == rest && plainDomain(host)
	})
}

// notRegistered refuses a Client that is named as those that are registered.
func (c *checker) notRegistered(ref Ref) {
	prefix, _, marked := strings.Cut(ref.Name, registeredMark)
	if _, taken := c.resources[Ref{KindClientTemplate, prefix}]; marked && taken {
		c.problem(ref, "name", "%q is how clients are named that are registered by ClientTemplate %q; name the client otherwise", ref.Name, prefix)
	}
}

// registrationAudience holds the Audience of the registration endpoint to what that
// understands.
func (c *checker) registrationAudience(ref Ref, a *Audience) {
	endpoint := c.service.RegistrationAudience()
	if !slices.Contains(a.identifiers(), endpoint) {
		return
	}
	for i, scope := range a.Scopes {
		name, ok := strings.CutPrefix(scope, ScopeRegister)
		if _, defined := c.resources[Ref{KindClientTemplate, name}]; !ok || !defined {
			c.problem(ref, fmt.Sprintf("scopes[%d]", i), "%s is the registration endpoint, whose scopes are %sNAME with the name of a ClientTemplate that is defined", endpoint, ScopeRegister)
		}
	}
}

// issuerNamed refuses a reference to an Issuer that is not there.
func (c *checker) issuerNamed(ref Ref, field, name string) {
	if _, ok := c.resources[Ref{KindIssuer, name}]; ok {
		return
	}
	known := map[string]bool{}
	for other := range c.resources {
		if other.Kind == KindIssuer {
			known[other.Name] = true
		}
	}
	c.problem(ref, field, "Issuer %q is not defined%s", name, policy.DidYouMean(name, known))
}

// exactClaims refuses claims that cannot be compared exactly.
func (c *checker) exactClaims(ref Ref, field string, claims map[string]any) {
	if len(claims) > maxFederatedClaims {
		c.problem(ref, field, "more than %d claims", maxFederatedClaims)
	}
	for name, v := range claims {
		switch v := v.(type) {
		case bool, int64, float64:
		case string:
			if v == "" || strings.Contains(v, "*") {
				c.problem(ref, field+"."+name, "is compared exactly: an empty value or one with * does not name anybody")
			}
		default:
			c.problem(ref, field+"."+name, "must be a string, a number or a boolean; for several workloads make several clients")
		}
	}
}

func names[S ~string](list []S) string {
	var out []string
	for _, s := range list {
		out = append(out, string(s))
	}
	return strings.Join(out, ", ")
}
