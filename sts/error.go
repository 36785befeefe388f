package sts

import (
	"fmt"
	"time"
)

// Code is an OAuth error code, or one of the codes of the admin interface.
type Code string

// Error codes of the token endpoint.
const (
	InvalidRequest       Code = "invalid_request"         // [RFC 6749 §5.2]
	InvalidClient        Code = "invalid_client"          // [RFC 6749 §5.2]
	InvalidScope         Code = "invalid_scope"           // [RFC 6749 §5.2]
	UnauthorizedClient   Code = "unauthorized_client"     // [RFC 6749 §5.2]
	UnsupportedGrantType Code = "unsupported_grant_type"  // [RFC 6749 §5.2]
	UnsupportedTokenType Code = "unsupported_token_type"  // [RFC 7009 §2.2.1]
	InvalidTarget        Code = "invalid_target"          // [RFC 8693 §2.2.2]
	InvalidDPoPProof     Code = "invalid_dpop_proof"      // [RFC 9449 §5]
	UseDPoPNonce         Code = "use_dpop_nonce"          // [RFC 9449 §8]
	TooManyRequests      Code = "too_many_requests"       // a limit of this service; see DESIGN.md
	Unavailable          Code = "temporarily_unavailable" // a dependency is down
	ServerError          Code = "server_error"            // a defect of ours
)

// Error codes of the registration endpoint.
const (
	InvalidClientMetadata       Code = "invalid_client_metadata"       // [RFC 7591 §3.2.2]
	InvalidSoftwareStatement    Code = "invalid_software_statement"    // [RFC 7591 §3.2.2]
	UnapprovedSoftwareStatement Code = "unapproved_software_statement" // [RFC 7591 §3.2.2]
)

// Error codes of the admin interface.
const (
	Unauthenticated    Code = "unauthenticated"    // it is not known who asks
	InsufficientScope  Code = "insufficient_scope" // who asks may not [RFC 6750 §3.1]
	InvalidResource    Code = "invalid_resource"   // the change is not sound
	NotFound           Code = "not_found"
	Conflict           Code = "conflict"            // another revision is in force
	PreconditionFailed Code = "precondition_failed" // a resource is another than the change expects
)

// Codes lists every code, so that a wire can be tested to know them all.
var Codes = []Code{
	InvalidRequest, InvalidClient, InvalidScope, UnauthorizedClient, UnsupportedGrantType, UnsupportedTokenType,
	InvalidTarget, InvalidDPoPProof, UseDPoPNonce, Unavailable, ServerError, Unauthenticated, InsufficientScope, InvalidResource, NotFound, Conflict, PreconditionFailed,
	TooManyRequests, InvalidClientMetadata, InvalidSoftwareStatement, UnapprovedSoftwareStatement,
}

// meanings say what each code tells a caller, and what to do.
var meanings = map[Code]string{
	InvalidRequest:              "A parameter is missing, repeated or malformed, or the subject or actor token is not acceptable: expired, not addressed to this service, of an unknown issuer, wrongly signed, revoked, or not allowed by a rule for this requester. The description says which; present a fresh token, or ask the operator with the decision id.",
	InvalidClient:               "The client did not authenticate. An unknown client, a wrong secret and a disabled client get the same answer.",
	InvalidScope:                "A scope is malformed, or wider than the rules or the subject token allow. Ask for less.",
	UnauthorizedClient:          "The client authenticated, and no rule lets it get tokens in this way; or the token to be revoked was issued to another.",
	UnsupportedGrantType:        "The grant_type is none of those in the discovery document.",
	UnsupportedTokenType:        "The token is one of this service that cannot be revoked: a `jwt` or an ID token. Nothing here asks whether it counts.",
	InvalidTarget:               "An audience or resource is not known, not allowed, or one must be named; or several were named that take tokens of different signing keys, so that it takes one token each.",
	InvalidDPoPProof:            "The DPoP proof is not acceptable: malformed, for another URL or method, too old, used before, or of another key than the one that a presented token is bound to; or there is none where the client, the audience or a rule demands one. Make a new one for each request.",
	UseDPoPNonce:                "The DPoP proof must carry a nonce of the service. Make another with the one in the DPoP-Nonce header (`dpop-nonce` metadata) of the answer, and use that of each answer for the next.",
	Unavailable:                 "Something that the service depends on is missing at the moment: the keys of an issuer, a signing key, the audit log, the store. Come back after Retry-After (RetryInfo).",
	ServerError:                 "A defect of the service. The operator finds it in the log by the request id.",
	TooManyRequests:             "More requests than a limit allows: of the client, of the network, of the audience or of all. Slow down, and come back after Retry-After (RetryInfo). Nothing was issued, and nothing was used up but a client assertion.",
	InvalidClientMetadata:       "What is to be registered as a client is malformed, contradicts itself, or is more than the ClientTemplate allows. Nothing was registered or changed; the description names the member.",
	InvalidSoftwareStatement:    "The software statement is missing where one is needed, or is not acceptable: expired, not addressed to this service, wrongly signed, revoked.",
	UnapprovedSoftwareStatement: "The software statement is good and not one of those that the ClientTemplate accepts: of another issuer, or with other claims.",
	Unauthenticated:             "The admin interface does not know who calls. It takes a token of this service for it, a client certificate that is named in the configuration, or the admin socket; the description says what is wrong.",
	InsufficientScope:           "The caller is known, and may not call this method: it changes something and the caller may only read, or the caller's token has no admin scope.",
	InvalidResource:             "A change of resources would not fit together. Nothing was changed; every problem is listed with its path.",
	NotFound:                    "There is no such resource, signing key, key set or path.",
	Conflict:                    "Another revision is in force than the change expects, or than the pages before were of.",
	PreconditionFailed:          "A resource is not what the change expects by its etag: somebody changed it in between. Read it again, and make the change against that.",
}

// Meaning says what a code tells a caller, and what to do.
func (c Code) Meaning() string { return meanings[c] }

// Error is a refusal. Code and Message are for the caller, Err is for the
// operator and never leaves the process by an answer.
type Error struct {
	Code       Code
	Message    string        // a safe sentence: no input, only characters of RFC 6749 §5.2
	Field      string        // the request parameter that is wrong, if one is
	Scope      string        // for InsufficientScope: what would do
	Decision   string        // id of the decision, empty before one was taken
	Nonce      string        // for the next DPoP proof; empty: none is needed
	RetryAfter time.Duration // for Unavailable and TooManyRequests: when to come back
	Limit      string        // for TooManyRequests: which limit
	Problems   []Problem     // for InvalidResource: everything that is wrong
	Detail     *Detail       // what else the caller may be told; nil: nothing
	Err        error
}

// Problem is one thing wrong with a resource in a change.
type Problem struct {
	Ref     Ref
	Index   int    // place in Change.Put; -1 for one that was there before
	Field   string // path inside the resource, such as allow.audiences[0]
	Message string
}

func (e *Error) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("%s: %s", e.Code, e.Message)
	}
	return fmt.Sprintf("%s: %s: %v", e.Code, e.Message, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// refuse returns an Error about one request parameter.
func refuse(code Code, field, message string) *Error {
	return &Error{Code: code, Field: field, Message: message}
}
