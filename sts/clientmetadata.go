package sts

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// ClientMetadata is what a client registers about itself, as far as this service
// understands it [RFC 7591 §2]. Members that it does not, it ignores and does not
// keep.
type ClientMetadata struct {
	AuthMethod      AuthMethod  `json:"token_endpoint_auth_method"`
	SigningAlg      string      `json:"token_endpoint_auth_signing_alg,omitempty"` // the only one of assertions; empty: DefaultAlgorithms
	GrantTypes      []GrantType `json:"grant_types"`
	JWKS            string      `json:"jwks,omitempty"` // a JWK set in JSON
	JWKSURI         string      `json:"jwks_uri,omitempty"`
	Name            string      `json:"client_name,omitempty"` // for people
	SoftwareID      string      `json:"software_id,omitempty"`
	SoftwareVersion string      `json:"software_version,omitempty"`
	DPoPBound       bool        `json:"dpop_bound_access_tokens,omitempty"` // [RFC 9449 §5.2]

	// One of these with TLSClientAuth [RFC 8705 §2.1.2].
	SubjectDN string `json:"tls_client_auth_subject_dn,omitempty"`
	SANDNS    string `json:"tls_client_auth_san_dns,omitempty"`
	SANURI    string `json:"tls_client_auth_san_uri,omitempty"`
	SANIP     string `json:"tls_client_auth_san_ip,omitempty"`
	SANEmail  string `json:"tls_client_auth_san_email,omitempty"`
}

// Bounds of client metadata.
const (
	maxMetadataText = 255      // characters of a text
	maxMetadataURI  = 1_000    // of a jwks_uri
	maxMetadataJWKS = 16 << 10 // bytes of a jwks
	maxMetadataKeys = 10
	maxMetadataList = 16
)

// metadataReader reads members of metadata, and keeps the first thing that is wrong.
type metadataReader struct {
	members map[string]any
	err     *Error
}

func badMetadata(field, message string) *Error {
	return &Error{Code: InvalidClientMetadata, Field: field, Message: message}
}

func (r *metadataReader) bad(field, message string) {
	if r.err == nil {
		r.err = badMetadata(field, field+" "+message)
	}
}

// text is a member that is a string without characters that could make a line look
// like something else: null stands for one that is not there [RFC 7591 §2].
func (r *metadataReader) text(field string, most int) string {
	v, ok := r.members[field]
	if !ok || v == nil {
		return ""
	}
	s, ok := v.(string)
	switch {
	case !ok:
		r.bad(field, "must be a string")
	case len(s) > most:
		r.bad(field, fmt.Sprintf("is longer than %d characters", most))
	case strings.ContainsFunc(s, func(c rune) bool { return unicode.In(c, unicode.C, unicode.Zl, unicode.Zp) }):
		r.bad(field, "has control or formatting characters")
	default:
		return s
	}
	return ""
}

func (r *metadataReader) flag(field string) bool {
	v, ok := r.members[field]
	b, isBool := v.(bool)
	if ok && v != nil && !isBool {
		r.bad(field, "must be true or false")
	}
	return b
}

func (r *metadataReader) list(field string) []string {
	v, ok := r.members[field]
	if !ok || v == nil {
		return nil
	}
	values, ok := v.([]any)
	if !ok || len(values) > maxMetadataList {
		r.bad(field, fmt.Sprintf("must be a list of at most %d strings", maxMetadataList))
		return nil
	}
	var out []string
	for _, e := range values {
		s, ok := e.(string)
		if !ok {
			r.bad(field, "must be a list of strings")
			return nil
		}
		out = append(out, s)
	}
	return out
}

// keys are those of jwks, which must all be usable: what was left out would be
// noticed when the client cannot get in. A private key that got here is refused, and
// is nowhere in the answer [RFC 7517 §9.2].
func (r *metadataReader) keys() string {
	v, ok := r.members["jwks"]
	if !ok || v == nil {
		return ""
	}
	set, ok := v.(map[string]any)
	text, err := json.Marshal(set)
	if !ok || err != nil || len(text) > maxMetadataJWKS {
		r.bad("jwks", fmt.Sprintf("must be a JWK set of at most %d KiB", maxMetadataJWKS>>10))
		return ""
	}
	keys, err := parseClientKeys(string(text))
	if err != nil || keys.Len() > maxMetadataKeys {
		r.bad("jwks", fmt.Sprintf("must be a JWK set of 1 to %d public keys that verify signatures, all of which can be used here", maxMetadataKeys))
		return ""
	}
	return string(text)
}

// readMetadata reads what is registered. What is not said has the defaults of RFC
// 7591 §2, but for grants, which are all that the template allows: those of the RFC
// do not exist here.
func readMetadata(members map[string]any) (ClientMetadata, *Error) {
	r := &metadataReader{members: members}
	m := ClientMetadata{
		AuthMethod: AuthMethod(r.text("token_endpoint_auth_method", maxMetadataText)),
		SigningAlg: r.text("token_endpoint_auth_signing_alg", maxMetadataText),
		JWKS:       r.keys(),
		JWKSURI:    r.text("jwks_uri", maxMetadataURI),
		Name:       r.text("client_name", maxMetadataText),
		SoftwareID: r.text("software_id", maxMetadataText), SoftwareVersion: r.text("software_version", maxMetadataText),
		DPoPBound: r.flag("dpop_bound_access_tokens"),

		SubjectDN: r.text("tls_client_auth_subject_dn", maxMetadataText), SANDNS: r.text("tls_client_auth_san_dns", maxMetadataText),
		SANURI: r.text("tls_client_auth_san_uri", maxMetadataText), SANIP: r.text("tls_client_auth_san_ip", maxMetadataText),
		SANEmail: r.text("tls_client_auth_san_email", maxMetadataText),
	}
	if m.AuthMethod == "" {
		m.AuthMethod = SecretBasic
	}
	for _, g := range r.list("grant_types") {
		if !slices.Contains(grantTypes, GrantType(g)) {
			r.bad("grant_types", "has a grant that this service does not have; see grant_types_supported of its metadata")
		}
		if !slices.Contains(m.GrantTypes, GrantType(g)) {
			m.GrantTypes = append(m.GrantTypes, GrantType(g))
		}
	}
	// A response type goes with an authorization endpoint [RFC 7591 §2.1].
	if len(r.list("response_types")) > 0 {
		r.bad("response_types", "must be empty or left out: there is no authorization endpoint here")
	}
	if r.err != nil {
		return ClientMetadata{}, r.err
	}
	return m, m.consistent()
}

// consistent refuses metadata whose members contradict each other, or the method.
func (m *ClientMetadata) consistent() *Error {
	names := 0
	for _, name := range []string{m.SubjectDN, m.SANDNS, m.SANURI, m.SANIP, m.SANEmail} {
		if name != "" {
			names++
		}
	}
	hasKeys := m.JWKS != "" || m.JWKSURI != ""
	switch {
	case m.JWKS != "" && m.JWKSURI != "": // "MUST NOT both be present" [RFC 7591 §2]
		return badMetadata("jwks_uri", "jwks and jwks_uri are given together; keep one")
	case !slices.Contains(registrable, m.AuthMethod):
		return badMetadata("token_endpoint_auth_method", "token_endpoint_auth_method is not one by which a registered client can authenticate here")
	case m.SigningAlg != "" && !slices.Contains(DefaultAlgorithms, m.SigningAlg):
		return badMetadata("token_endpoint_auth_signing_alg", "token_endpoint_auth_signing_alg must be one of "+strings.Join(DefaultAlgorithms, ", "))
	case m.SigningAlg != "" && m.AuthMethod != PrivateKeyJWT:
		return badMetadata("token_endpoint_auth_signing_alg", "token_endpoint_auth_signing_alg goes with the method private_key_jwt")
	case m.AuthMethod == PrivateKeyJWT && !hasKeys:
		return badMetadata("jwks", "the method private_key_jwt needs jwks or jwks_uri")
	case m.AuthMethod == SelfSignedTLSClientAuth && m.JWKS == "":
		return badMetadata("jwks", "the method self_signed_tls_client_auth needs jwks")
	case hasKeys && m.AuthMethod != PrivateKeyJWT && m.AuthMethod != SelfSignedTLSClientAuth:
		return badMetadata("jwks", "jwks and jwks_uri go with the methods private_key_jwt and self_signed_tls_client_auth")
	case m.AuthMethod == TLSClientAuth && names != 1:
		return badMetadata("token_endpoint_auth_method", "the method tls_client_auth needs exactly one of the tls_client_auth members, which says how the certificate names the client")
	case m.AuthMethod != TLSClientAuth && names > 0:
		return badMetadata("token_endpoint_auth_method", "the tls_client_auth members go with the method tls_client_auth")
	}
	return nil
}

// Members is the metadata as it is registered [RFC 7591 §3.2.1].
func (m *ClientMetadata) Members() map[string]any {
	grants := []any{}
	for _, g := range m.GrantTypes {
		grants = append(grants, string(g))
	}
	out := map[string]any{"token_endpoint_auth_method": string(m.AuthMethod), "grant_types": grants, "response_types": []any{}}
	for name, text := range map[string]string{
		"token_endpoint_auth_signing_alg": m.SigningAlg, "jwks_uri": m.JWKSURI,
		"client_name": m.Name, "software_id": m.SoftwareID, "software_version": m.SoftwareVersion,
		"tls_client_auth_subject_dn": m.SubjectDN, "tls_client_auth_san_dns": m.SANDNS, "tls_client_auth_san_uri": m.SANURI,
		"tls_client_auth_san_ip": m.SANIP, "tls_client_auth_san_email": m.SANEmail,
	} {
		if text != "" {
			out[name] = text
		}
	}
	if m.DPoPBound {
		out["dpop_bound_access_tokens"] = true
	}
	var keys map[string]any
	if m.JWKS != "" && json.Unmarshal([]byte(m.JWKS), &keys) == nil {
		out["jwks"] = keys
	}
	return out
}

// refuses tells why a template does not allow metadata; nil: it does. It judges the
// whole, so that no change can get around it by leaving the rest as it was.
func (t *ClientTemplate) refuses(m *ClientMetadata) *Error {
	switch {
	case !slices.Contains(t.Methods, m.AuthMethod):
		return badMetadata("token_endpoint_auth_method", "the template of this registration does not allow the token_endpoint_auth_method, which is client_secret_basic where none is named; it allows "+names(t.Methods))
	case m.JWKSURI != "" && len(t.JWKSHosts) == 0:
		return badMetadata("jwks_uri", "the template of this registration does not allow a jwks_uri; register jwks")
	case m.JWKSURI != "" && !t.hostAllowed(m.JWKSURI):
		return badMetadata("jwks_uri", "jwks_uri must be an https URL without port, user and fragment, on one of the hosts that the template of this registration allows")
	}
	for _, g := range m.GrantTypes {
		if !slices.Contains(t.grantTypes(), g) {
			return badMetadata("grant_types", "the template of this registration allows the grant_types "+names(t.grantTypes())+" alone")
		}
	}
	return nil
}

// refusesStatement tells why what a software statement has said is not what the
// template asks for; nil: it is.
func (t *ClientTemplate) refusesStatement(s *SoftwareStatement) *Error {
	switch {
	case t.Statement == nil:
		return nil
	case s == nil:
		return &Error{Code: InvalidSoftwareStatement, Field: "software_statement", Message: "a software_statement is needed for this registration"}
	case s.Issuer != t.Statement.Issuer || !haveExactly(s.Claims, t.Statement.Claims):
		return unapproved("the software_statement is not of the issuer, or does not have the claims, that this registration needs", nil)
	}
	return nil
}

func unapproved(message string, err error) *Error {
	return &Error{Code: UnapprovedSoftwareStatement, Field: "software_statement", Message: message, Err: err}
}
