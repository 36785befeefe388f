package sts

import (
	"maps"
	"slices"
	"strings"

	"github.com/workload-sts/sts/policy"
)

// preset is what is known of a platform whose tokens are accepted: what its Issuer
// looks like, what its claims are, and which rules about it are unsafe. It is data
// and checks, and asks nobody.
type preset struct {
	// issuer is the iss of its tokens if there is one for everybody.
	issuer string
	// pattern says what is wrong with an iss, empty if nothing is.
	pattern func(iss string) string
	// algorithms that it signs with.
	algorithms []string
	// complete fills in what follows from the Issuer.
	complete func(i *Issuer)
	// foreign says for what an audience is meant if not for us alone, empty if
	// nothing is known against it.
	foreign func(i *Issuer, audience string) string
	// spaces says that a sub can have them, since names that people choose are in it.
	spaces bool
	// claims that rules are likely to name, and their types.
	claims map[string]claimType
	// rule reports what is unsafe in a rule about its tokens.
	rule func(c *ruleCheck)
	// token finds what is wrong with a token whose other claims have been checked.
	token func(i *Issuer, t *policy.Token) *flaw
}

// claimType is the JSON type of a claim.
type claimType string

const (
	isString claimType = "a string"
	isNumber claimType = "a number"
	isBool   claimType = "true or false"
	isList   claimType = "a list of strings"
	isObject claimType = "an object"
)

// stringClaims are claims that are strings.
func stringClaims(names string) map[string]claimType {
	out := map[string]claimType{}
	for _, name := range strings.Fields(names) {
		out[name] = isString
	}
	return out
}

// with adds claims of another type.
func with(claims map[string]claimType, t claimType, names ...string) map[string]claimType {
	for _, name := range names {
		claims[name] = t
	}
	return claims
}

// Names of presets that more than a table knows.
const (
	presetKubernetes = "kubernetes"
	presetSPIFFE     = "spiffe"
)

// presets by name.
var presets = map[string]*preset{
	"github-actions":  &githubActions,
	"gitlab":          &gitlab,
	presetKubernetes:  &kubernetes,
	presetSPIFFE:      &spiffe,
	"buildkite":       &buildkite,
	"circleci":        &circleCI,
	"terraform-cloud": &terraformCloud,
	"google":          &google,
	"aws":             &aws,
	"azure":           &azure,
}

// Presets lists the names that Issuer.Preset can have.
func Presets() []string { return slices.Sorted(maps.Keys(presets)) }

var noPreset preset

// platform is what is known of an Issuer's platform.
func (i *Issuer) platform() *preset {
	if p, ok := presets[i.Preset]; ok {
		return p
	}
	return &noPreset
}

func (i *Issuer) spiffe() bool { return i.Preset == presetSPIFFE }

// complete returns the Issuer with what its preset says where it says nothing
// itself.
func (i *Issuer) complete() *Issuer {
	p, ok := presets[i.Preset]
	if !ok {
		return i
	}
	out := *i
	if out.Issuer == "" {
		out.Issuer = p.issuer
	}
	if len(out.Algorithms) == 0 {
		out.Algorithms = p.algorithms
	}
	if p.complete != nil {
		p.complete(&out)
	}
	return &out
}

// byDiscovery tells whether an Issuer leaves it to discovery where its keys are,
// without a word of its own.
func (i *Issuer) byDiscovery() bool {
	return i.JWKSURI == "" && i.JWKS == "" && i.JWKSFile == "" && i.SPIFFEBundle == nil && i.TokenReview == nil &&
		i.DiscoveryURI == "" && i.DiscoveryIssuer == "" && len(i.JWKSHosts) == 0
}

// foreignAudiences are what workloads ask their platforms for to sign in elsewhere.
// Whoever gets such a token there could present it here.
var foreignAudiences = map[string]string{
	"sts.amazonaws.com":                      "AWS",
	"https://sts.amazonaws.com":              "AWS",
	"api://AzureADTokenExchange":             "Azure",
	"https://management.azure.com":           "the API of Azure",
	"https://management.azure.com/":          "the API of Azure",
	"https://management.core.windows.net/":   "the API of Azure",
	"https://graph.microsoft.com":            "Microsoft Graph",
	"https://vault.azure.net":                "Azure Key Vault",
	"00000003-0000-0000-c000-000000000000":   "Microsoft Graph",
	"32555940559.apps.googleusercontent.com": "the command line of Google Cloud",
	"aws.workload.identity":                  "AWS",
	"gcp.workload.identity":                  "Google Cloud",
	"azure.workload.identity":                "Azure",
	"vault.workload.identity":                "Vault",
	"sigstore":                               "Sigstore",
	"pypi":                                   "PyPI",
	"rubygems.org":                           "RubyGems",
}

// meantFor says for what an audience of an Issuer's tokens is meant, empty if
// nothing is known against it.
func (i *Issuer) meantFor(audience string) string {
	if who, ok := foreignAudiences[audience]; ok {
		return who
	}
	if strings.HasPrefix(audience, "https://iam.googleapis.com/") || strings.HasPrefix(audience, "//iam.googleapis.com/") {
		return "Google Cloud"
	}
	if strings.HasPrefix(audience, "npm:") {
		return "npm"
	}
	if p := i.platform(); p.foreign != nil {
		return p.foreign(i, audience)
	}
	return ""
}
