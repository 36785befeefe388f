package sts

import (
	"strings"

	"github.com/workload-sts/sts/policy"
)

// spiffe is JWT-SVIDs of a trust domain [JWT-SVID].
var spiffe = preset{
	algorithms: []string{"RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512"}, // [JWT-SVID §2.1]
	complete: func(i *Issuer) {
		if i.Issuer == "" && i.SPIFFEBundle != nil {
			i.Issuer = spiffeScheme + i.SPIFFEBundle.TrustDomain
		}
	},
	claims: stringClaims("sub"),
	rule:   spiffeRule,
	token:  spiffeToken,
}

// spiffeRule wants to know the workload, by whole segments of its path.
func spiffeRule(c *ruleCheck) {
	domain := ""
	if b := c.issuer.SPIFFEBundle; b != nil {
		domain = b.TrustDomain
	}
	for _, sub := range c.texts("sub") {
		id, err := ParseSPIFFEID(sub)
		switch {
		case err != nil:
			c.problem(c.claims("sub"), "%q is not a SPIFFE ID: %s", sub, err)
		case id.TrustDomain() != domain:
			c.problem(c.claims("sub"), "%q is not of the trust domain %s, for which alone the Issuer speaks", sub, domain)
		}
	}
	pattern := c.party.ClaimGlobs["sub"]
	switch {
	case c.exact("sub"):
	case pattern == "":
		c.unsafe(riskSPIFFEAny, c.claims(), "every workload of the trust domain fits the rule", "add sub: "+spiffeScheme+domain+"/PATH to claims")
	case !strings.HasPrefix(pattern, spiffeScheme+domain+"/"):
		c.problem(c.globs("sub"), "the pattern does not begin with %s%s/, so it fits no SPIFFE ID for which the Issuer speaks", spiffeScheme, domain)
	default:
		for segment := range strings.SplitSeq(strings.TrimPrefix(pattern, spiffeScheme+domain+"/"), "/") {
			if strings.Contains(segment, "*") && segment != "*" {
				c.unsafe(riskSPIFFESegment, c.globs("sub"), "the segment "+segment+" of the pattern fits names that only begin or end alike, such as prod and prod-evil",
					"let * stand for a whole segment")
				break
			}
		}
	}
}

// spiffeToken wants a SPIFFE ID of the trust domain whose keys verified the token,
// and no other audience that could present it here [JWT-SVID §3.1, §6.2].
func spiffeToken(i *Issuer, t *policy.Token) *flaw {
	id, err := ParseSPIFFEID(t.Subject)
	if err != nil {
		return &flaw{"sub", "has a sub claim that is not a SPIFFE ID", "a SPIFFE ID"}
	}
	if i.SPIFFEBundle == nil || id.TrustDomain() != i.SPIFFEBundle.TrustDomain {
		return &flaw{"sub", "has a sub claim of another trust domain than its Issuer speaks for", "a SPIFFE ID of that trust domain"}
	}
	if id.Path() == "" {
		return &flaw{"sub", "has a sub claim that names a trust domain, not a workload", "a SPIFFE ID with a path"}
	}
	if len(t.Audiences) > 1 && !i.AllowOtherAudiences {
		return &flaw{"aud", "is addressed to others as well, who could present it here; ask for one audience", "one audience, or allow_other_audiences in the Issuer"}
	}
	return nil
}
