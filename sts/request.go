package sts

import (
	"net/url"
	"strings"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/policy"
)

// shortTypes are the names of token types in resources and rules.
var shortTypes = map[string]TokenType{"access_token": AccessToken, "id_token": IDToken, "jwt": JWT}

// short returns the name of a type in resources and rules, empty for a type that
// this service does not know.
func (t TokenType) short() string {
	name, ok := strings.CutPrefix(string(t), "urn:ietf:params:oauth:token-type:")
	if _, known := shortTypes[name]; !ok || !known {
		return ""
	}
	return name
}

// check checks the request as far as it says something by itself, and prepares
// what policy is asked.
func (d *decision) check() *Error {
	r := &d.req
	// What else these can be may be anything.
	if r.Grant == ClientCredentials || r.Grant == TokenExchange {
		d.rec.Grant = r.Grant
	}
	if r.RequestedType.short() != "" {
		d.rec.AskedType = r.RequestedType
	}
	if r.Malformed != nil {
		return r.Malformed
	}
	switch r.Grant {
	case ClientCredentials:
	case TokenExchange:
		if e := r.checkExchange(); e != nil {
			return e
		}
	case "":
		return refuse(InvalidRequest, "grant_type", "grant_type is missing")
	default:
		return refuse(UnsupportedGrantType, "grant_type", "grant_type must be client_credentials or "+string(TokenExchange))
	}
	if r.RequestedType == "" {
		r.RequestedType = AccessToken
	}
	d.asked.TokenType = r.RequestedType.short()
	if d.asked.TokenType == "" {
		return refuse(InvalidRequest, "requested_token_type", "requested_token_type must be one of access_token, jwt, id_token as urn:ietf:params:oauth:token-type:...")
	}
	targets, e := r.targets()
	if e != nil {
		return e
	}
	d.asked.Targets = targets
	d.asked.Scopes = strings.Fields(r.Scope)
	if strings.Join(d.asked.Scopes, " ") != r.Scope {
		return refuse(InvalidScope, "scope", "scope must be names delimited by single spaces")
	}
	d.rec.AskedType = r.RequestedType
	return nil
}

// checkExchange checks the parameters of RFC 8693 §2.1.
func (r *TokenRequest) checkExchange() *Error {
	if e := r.Subject.check("subject_token"); e != nil {
		return e
	}
	// What proves who asks does not also say for whom: the two have different rules,
	// and a workload that is both presents its token as its own.
	if a := r.Credential.Assertion; a != "" && (a == r.Subject.Token || a == r.Actor.Token) {
		return refuse(InvalidRequest, "client_assertion", "one token is both the client_assertion and the subject or actor token; leave the assertion out if the Issuer has self_presented, or present two tokens")
	}
	if r.Actor.Token == "" && r.Actor.Type == "" {
		return nil
	}
	// actor_token_type "MUST NOT be included otherwise" and is REQUIRED with it.
	return r.Actor.check("actor_token")
}

func (p Presented) check(field string) *Error {
	switch {
	case p.Token == "":
		return refuse(InvalidRequest, field, field+" is missing")
	case len(p.Token) > jose.MaxTokenSize:
		return refuse(InvalidRequest, field, field+" is longer than 16384 characters")
	case p.Type == "":
		return refuse(InvalidRequest, field+"_type", field+"_type is missing; say what the token is, for example "+string(JWT))
	case p.Type.short() == "":
		return refuse(InvalidRequest, field+"_type", field+"_type must be one of access_token, jwt, id_token as urn:ietf:params:oauth:token-type:...")
	}
	return nil
}

// targets returns where the client means to use the token: every audience and
// resource it named, in order.
//
// Both may repeat and may be mixed; the token is then meant for all of them
// [RFC 8693 §2.1]. A resource must be an absolute URI without a fragment
// [RFC 8707 §2], so one that is not is refused here rather than left to match
// nothing.
func (r *TokenRequest) targets() ([]string, *Error) {
	targets := make([]string, 0, len(r.Audiences)+len(r.Resources))
	for _, a := range r.Audiences {
		if a == "" {
			return nil, refuse(InvalidTarget, "audience", "audience is empty")
		}
		targets = append(targets, a)
	}
	for _, res := range r.Resources {
		u, err := url.Parse(res)
		if err != nil || !u.IsAbs() || strings.Contains(res, "#") {
			return nil, refuse(InvalidTarget, "resource", "resource must be an absolute URI without a fragment")
		}
		targets = append(targets, res)
	}
	return targets, nil
}

// selfPresented refuses a request without a client unless its subject token says
// to be of an Issuer that lets workloads present their own tokens. The token is
// not verified here; if it lies, its signature will not verify.
func (d *decision) selfPresented(self string) *Error {
	jws, err := jose.Parse(d.req.Subject.Token)
	if err != nil {
		return errToken("subject_token", "the subject_token is not a signed JWT in compact form that this service accepts", err)
	}
	claims, err := jws.Claims()
	if err != nil {
		return errToken("subject_token", "the claims of the subject_token are not a well-formed JSON object", err)
	}
	return d.presentsItself(claims, self)
}

// presentsItself is selfPresented for claims that have been read.
func (d *decision) presentsItself(claims map[string]any, self string) *Error {
	issuer, ok := d.st.issuerOf(claims)
	switch {
	case claims["iss"] == self:
		d.rec.Subject = &RecordParty{Unverified: true, Issuer: policy.Self}
	case !ok:
		return d.untrusted("subject_token", claims)
	case issuer.SelfPresented:
		return nil
	default:
		d.rec.Subject = &RecordParty{Unverified: true, Issuer: issuer.Name}
	}
	e := invalidClientMissing()
	e.Err = reason("the Issuer does not have self_presented")
	return e
}
