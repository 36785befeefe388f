package sts

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/workload-sts/sts/policy"
)

// checker collects what is wrong with resources.
type checker struct {
	service   *Service
	resources map[Ref]Resource
	problems  []Problem

	identifiers map[string]string // names of Issuers by iss
	templates   int               // that were checked
}

func newChecker(s *Service, resources map[Ref]Resource) *checker {
	c := &checker{service: s, resources: resources, identifiers: map[string]string{}}
	for ref, r := range resources {
		if ref.Kind == KindIssuer {
			c.identifiers[r.Issuer.Issuer] = ref.Name
		}
	}
	return c
}

func (c *checker) problem(ref Ref, field, format string, args ...any) {
	c.problems = append(c.problems, Problem{Ref: ref, Index: -1, Field: field, Message: fmt.Sprintf(format, args...)})
}

const (
	maxName        = 128
	maxDescription = 1024
	maxIdentifier  = 255
	maxLabels      = 64
)

// common checks what every kind has.
func (c *checker) common(ref Ref, description string) {
	if !validName(ref.Name) {
		c.problem(ref, "name", "a name has 1 to %d characters out of letters, digits and -._~:/@", maxName)
	}
	if len(description) > maxDescription {
		c.problem(ref, "description", "longer than %d characters", maxDescription)
	}
}

func (c *checker) disclosure(ref Ref, d Disclosure) {
	if !d.known() {
		c.problem(ref, "disclosure", "%q is not one of %s", d, disclosureNames)
	}
}

func validName(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune("-._~:/@", r)
	})
}

// audience leaves identifiers that several Audiences share to policy.Compile.
func (c *checker) audience(a *Audience) {
	ref := Ref{KindAudience, a.Name}
	c.common(ref, a.Description)
	for i, id := range a.Identifiers {
		if id == "" || len(id) > maxIdentifier || strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			c.problem(ref, fmt.Sprintf("identifiers[%d]", i), "an identifier has 1 to %d visible ASCII characters", maxIdentifier)
		}
		if id == c.service.issuer {
			c.problem(ref, fmt.Sprintf("identifiers[%d]", i), "this is the issuer identifier of this service; tokens addressed to it would be addressed to the service itself")
		}
	}
	c.adminAudience(ref, a)
	c.registrationAudience(ref, a)
	c.rate(ref, "quota", a.Quota)
	for i, scope := range a.Scopes {
		if len(scope) > maxIdentifier {
			c.problem(ref, fmt.Sprintf("scopes[%d]", i), "longer than %d characters", maxIdentifier)
		}
	}
	for i, name := range a.Introspectors {
		if _, ok := c.resources[Ref{KindClient, name}]; !ok {
			c.problem(ref, fmt.Sprintf("introspectors[%d]", i), "Client %q is not defined", name)
		}
	}
	keys := c.service.keys
	most := keys.MaxTokenLifetime()
	switch ttl := a.maxTTL(most); {
	case ttl < minTTL || ttl > maxTTL:
		c.problem(ref, "max_ttl", "must be between %s and %s, not %s", minTTL, maxTTL, ttl)
	case ttl > most:
		c.problem(ref, "max_ttl", "is %s, but signing keys stay published for tokens of at most %s after they signed last: lower it, or raise rotation.retain in the configuration of the server", ttl, most)
	}
	if set := a.keySet(); !keys.Has(set) {
		known := map[string]bool{}
		for _, s := range keys.Status() {
			if keys.Has(s.Name) {
				known[s.Name] = true
			}
		}
		c.problem(ref, "key_set", "key set %q is not in the configuration of the server%s", set, policy.DidYouMean(set, known))
	}
}

func (c *checker) rate(ref Ref, field string, r Rate) {
	if err := r.Check(); err != nil {
		c.problem(ref, field, "%v", err)
	}
}

// adminAudience holds the Audience of the admin interface to what that understands:
// a scope that looks like a right and is none would be granted by mistake.
func (c *checker) adminAudience(ref Ref, a *Audience) {
	admin := c.service.AdminAudience()
	if !slices.Contains(a.identifiers(), admin) {
		return
	}
	for i, scope := range a.Scopes {
		if scope != ScopeAdminRead && scope != ScopeAdminWrite {
			c.problem(ref, fmt.Sprintf("scopes[%d]", i), "%s is the admin interface, which has the scopes %s and %s alone", admin, ScopeAdminRead, ScopeAdminWrite)
		}
	}
}

func (c *checker) client(cl *Client) {
	ref := Ref{KindClient, cl.Name}
	c.common(ref, cl.Description)
	c.rate(ref, "rate", cl.Rate)
	c.disclosure(ref, cl.Disclosure)
	if len(cl.Labels) > maxLabels {
		c.problem(ref, "labels", "more than %d labels", maxLabels)
	}
	if len(cl.Secrets) > maxSecrets {
		c.problem(ref, "secrets", "%d secrets; a client has at most %d, so that one can be replaced while the other works", len(cl.Secrets), maxSecrets)
	}
	for i, s := range cl.Secrets {
		if _, err := parseSecretHash(s.Hash); err != nil {
			c.problem(ref, fmt.Sprintf("secrets[%d].hash", i), "%s", err)
		}
	}
	c.clientMethods(ref, cl)
	c.notRegistered(ref)
	for i, name := range cl.Audiences {
		if _, ok := c.resources[Ref{KindAudience, name}]; !ok {
			c.problem(ref, fmt.Sprintf("audiences[%d]", i), "Audience %q is not defined", name)
		}
	}
	if prefix, _, ok := strings.Cut(cl.Name, ":"); ok {
		if _, taken := c.resources[Ref{KindIssuer, prefix}]; taken {
			c.problem(ref, "name", "%q is how subjects of Issuer %q are named in tokens; name the client otherwise", cl.Name, prefix)
		}
	}
}

// apiServers are the audiences that Kubernetes API servers accept by default.
// Every pod holds such a token.
var apiServers = []string{
	"api", "kubernetes.default.svc", "https://kubernetes.default.svc", "https://kubernetes.default.svc.cluster.local",
	"https://kubernetes.default", "kubernetes/serviceaccount",
}

// knownAlgorithms are those that an Issuer can be allowed.
var knownAlgorithms = []string{"ES256", "ES384", "ES512", "EdDSA", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}

// issuer checks an Issuer as its preset completes it. It is told of another one
// with the same iss, if there is one: which of the two a token belongs to could not
// be told.
func (c *checker) issuer(i, twin *Issuer) {
	ref := Ref{KindIssuer, i.Name}
	c.common(ref, i.Description)
	c.disclosure(ref, i.Disclosure)
	if strings.EqualFold(i.Name, policy.Self) || strings.Contains(i.Name, ":") {
		c.problem(ref, "name", "an Issuer is not named %q, which means this service, and has no colon in its name", policy.Self)
	}
	if i.Issuer == c.service.issuer {
		c.problem(ref, "issuer", "this is the issuer identifier of this service, whose tokens are known as issuer %q without being defined", policy.Self)
	}
	if twin != nil && i.Issuer != "" {
		c.problem(ref, "issuer", "Issuer %q has the same issuer identifier; tokens of the two could not be told apart", twin.Name)
	}
	if i.Audience != "" && (i.Audience == i.Issuer || slices.Contains(apiServers, i.Audience)) {
		c.problem(ref, "audience", "tokens with this audience are meant for the issuer's own API, so everyone who may call that could present them here; let workloads ask for tokens with an audience of this service alone")
	}
	c.keySource(ref, i)
	for n, alg := range i.Algorithms {
		if !slices.Contains(knownAlgorithms, alg) {
			c.problem(ref, fmt.Sprintf("algorithms[%d]", n), "%q is not one of %s", alg, strings.Join(knownAlgorithms, ", "))
		}
	}
	for n, t := range i.TokenTypes {
		if _, ok := shortTypes[t]; !ok {
			c.problem(ref, fmt.Sprintf("token_types[%d]", n), "%q is not one of access_token, id_token, jwt", t)
		}
	}
	if i.MaxTokenLifetime < 0 {
		c.problem(ref, "max_token_lifetime", "must be positive")
	}
}

// keySource checks what belongs to the preset and the keys of an Issuer, and what
// the two have to do with each other.
func (c *checker) keySource(ref Ref, i *Issuer) {
	if _, known := presets[i.Preset]; i.Preset != "" && !known {
		c.problem(ref, "preset", "there is no preset %q%s; known: %s", i.Preset, policy.DidYouMean(i.Preset, presets), strings.Join(Presets(), ", "))
		return
	}
	if b := i.SPIFFEBundle; b != nil {
		if err := checkTrustDomain(b.TrustDomain); err != nil {
			c.problem(ref, "spiffe_bundle.trust_domain", "is not a trust domain such as example.org: %s", err)
		}
		if (b.File == "") == (b.URL == "") {
			c.problem(ref, "spiffe_bundle", "needs either file or url")
		}
		if strings.HasPrefix(i.Issuer, spiffeScheme) && i.Issuer != spiffeScheme+b.TrustDomain {
			c.problem(ref, "issuer", "is another trust domain than spiffe_bundle has")
		}
	}
	switch {
	case i.spiffe() != (i.SPIFFEBundle != nil):
		c.problem(ref, "spiffe_bundle", "goes with preset: spiffe, and the other way round; tokens of a trust domain need both")
		return
	case i.TokenReview != nil && i.Preset != presetKubernetes:
		c.problem(ref, "token_review", "goes with preset: kubernetes")
	case i.AllowOtherAudiences && !i.spiffe():
		c.problem(ref, "allow_other_audiences", "goes with preset: spiffe; of other Issuers it is enough that this service is among the audiences")
	}
	if i.Issuer == "" {
		c.problem(ref, "issuer", "is missing: the exact iss of its tokens")
		return
	}
	if err := c.service.issuerKeys.Check(i); err != nil {
		field, message := "issuer", err.Error()
		if e, ok := errors.AsType[interface {
			error
			Field() string
		}](err); ok {
			field = e.Field()
		}
		c.problem(ref, field, "%s", message)
	}
}
