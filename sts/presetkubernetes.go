package sts

import (
	"net/url"
	"slices"
	"strings"

	"github.com/workload-sts/sts/policy"
)

// kubernetes is the service accounts of a cluster [kubernetes.io, Managing Service
// Accounts].
var kubernetes = preset{
	algorithms: []string{"RS256", "ES256", "ES384", "ES512"},
	foreign:    kubernetesForeign,
	claims:     with(stringClaims("sub"), isObject, kubernetesClaim),
	rule:       kubernetesRule,
	token:      kubernetesToken,
}

const (
	kubernetesClaim   = "kubernetes.io"
	kubernetesAccount = "system:serviceaccount:" // NAMESPACE:NAME
)

// kubernetesForeign knows what distributions call their API servers; the common
// ones are refused for any Issuer.
func kubernetesForeign(i *Issuer, audience string) string {
	u, err := url.Parse(audience)
	own, err2 := url.Parse(i.Issuer)
	if slices.Contains([]string{"k3s", "rke2", "aksservice", "konnectivity-server"}, audience) ||
		err == nil && (strings.HasPrefix(u.Host, "kubernetes.default") || err2 == nil && u.Host != "" && u.Host == own.Host) {
		return "the API server of the cluster"
	}
	return ""
}

// kubernetesRule wants to know the service account, or its namespace at least.
func kubernetesRule(c *ruleCheck) {
	for _, sub := range c.texts("sub") {
		if rest, ok := strings.CutPrefix(sub, kubernetesAccount); !ok || strings.Count(rest, ":") != 1 {
			c.problem(c.claims("sub"), "no service account has the sub %q; it is %sNAMESPACE:NAME", sub, kubernetesAccount)
		}
	}
	pattern := c.party.ClaimGlobs["sub"]
	switch {
	case c.exact("sub"):
	case pattern == "":
		c.unsafe(riskK8sAccount, c.claims(), "every service account of the cluster fits the rule, and so whoever may make a pod anywhere in it",
			"add sub: "+kubernetesAccount+"NAMESPACE:NAME to claims")
	default:
		segments := strings.Split(pattern, ":")
		if len(segments) != 4 || !strings.HasPrefix(pattern, kubernetesAccount) || strings.Contains(segments[2], "*") {
			c.unsafe(riskK8sNamespace, c.globs("sub"), "the pattern "+pattern+" stands for more than one namespace, and whoever may make one can have it fit",
				"write the namespace out: "+kubernetesAccount+"NAMESPACE:*")
		}
	}
}

// kubernetesToken holds sub against the claims that name the service account one by
// one, so that rules can rely on either.
func kubernetesToken(_ *Issuer, t *policy.Token) *flaw {
	k, ok := t.Claims[kubernetesClaim].(map[string]any)
	if !ok {
		return &flaw{kubernetesClaim, "has no kubernetes.io claim, so it is not a token of a pod's service account that ends by itself", "a claim that names the service account"}
	}
	namespace, _ := k["namespace"].(string)
	account, _ := k["serviceaccount"].(map[string]any)
	name, _ := account["name"].(string)
	if want := kubernetesAccount + namespace + ":" + name; namespace == "" || name == "" || strings.Contains(namespace+name, ":") || t.Subject != want {
		return &flaw{"sub", "has a sub claim that is not the service account that its kubernetes.io claim names", "the account of kubernetes.io"}
	}
	return nil
}
