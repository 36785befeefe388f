package sts

import (
	"net/url"
	"regexp"
	"strings"
)

// google is Google accounts and service accounts [cloud.google.com, ID tokens].
var google = preset{
	issuer:     "https://accounts.google.com",
	algorithms: []string{"RS256"},
	complete: func(i *Issuer) {
		if i.byDiscovery() && i.Issuer == "https://accounts.google.com" {
			i.JWKSHosts = []string{"www.googleapis.com"}
		}
	},
	claims: with(with(stringClaims("sub azp email hd"), isBool, "email_verified"), isObject, "google"),
	rule: func(c *ruleCheck) {
		if !c.exact("sub") {
			c.unsafe(riskGoogleName, c.claims(), "the rule does not know the account by its number, and an email address can be given to another account",
				"add sub, the unique id of the account, as a string of digits to claims")
		}
	},
}

// awsPrincipal matches a pattern for some of the roles or users, by their path or
// their name.
var awsPrincipal = regexp.MustCompile(`^(?:[a-z-]+/.*[^*/].*)$`)

// aws is AWS accounts with outbound identity federation, each with an issuer of its
// own [docs.aws.amazon.com, GetWebIdentityToken].
var aws = preset{
	pattern: func(iss string) string {
		u, err := url.Parse(iss)
		if err == nil && u.Scheme == "https" && strings.HasSuffix(u.Host, ".tokens.sts.global.api.aws") && u.Path == "" {
			return ""
		}
		return "is not the issuer of an AWS account: https://ID.tokens.sts.global.api.aws, as `aws iam get-outbound-web-identity-federation-info` shows it"
	},
	algorithms: []string{"RS256", "ES384"},
	claims:     with(stringClaims("sub"), isObject, "https://sts.amazonaws.com/"),
	rule: func(c *ruleCheck) {
		pattern := c.party.ClaimGlobs["sub"]
		segments := strings.Split(pattern, ":") // arn:aws:iam::ACCOUNT:role/NAME
		if !c.exact("sub") && (len(segments) != 6 || strings.Contains(strings.Join(segments[:5], ""), "*") || !awsPrincipal.MatchString(segments[5])) {
			c.unsafe(riskAWSAny, c.claims(), "the rule does not say which role or user it is for, so every principal that may call GetWebIdentityToken can use it",
				"add sub, such as arn:aws:iam::123456789012:role/NAME, to claims")
		}
	},
}

// azure is a tenant of Microsoft Entra, also in a national cloud [learn.microsoft.com,
// Access tokens; National clouds].
var azure = preset{
	pattern: func(iss string) string {
		if azureTenant(iss) != "" {
			return ""
		}
		return "is not the issuer of one tenant: https://login.microsoftonline.com/TENANT-ID/v2.0, or https://sts.windows.net/TENANT-ID/ for tokens of version 1; `common` and the like are not tenants"
	},
	algorithms: []string{"RS256"},
	complete: func(i *Issuer) {
		// Tokens of version 1 have an issuer that serves no document.
		if tenant := azureTenant(i.Issuer); i.byDiscovery() && strings.HasPrefix(i.Issuer, "https://sts.windows.net/") && tenant != "" {
			i.DiscoveryURI = "https://login.microsoftonline.com/" + tenant + "/.well-known/openid-configuration"
		}
	},
	claims: with(stringClaims("sub oid tid azp appid azpacr appidacr idtyp ver scp upn email preferred_username unique_name xms_mirid"), isList, "roles", "groups", "wids"),
	rule: func(c *ruleCheck) {
		if !c.exact("oid", "sub") {
			c.unsafe(riskAzureName, c.claims(), "the rule does not know the principal by its object id, and names and addresses can be given to others",
				"add oid, the object id of the service principal or managed identity, to claims")
		}
	},
}

var azureIssuer = regexp.MustCompile(`^(?:https://login\.(?:microsoftonline\.com|microsoftonline\.us|partner\.microsoftonline\.cn)/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/v2\.0|https://sts\.windows\.net/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/)$`)

func azureTenant(iss string) string {
	m := azureIssuer.FindStringSubmatch(iss)
	if m == nil {
		return ""
	}
	return m[1] + m[2]
}
