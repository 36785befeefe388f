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
	InvalidTarget        Code = "invalid_target"          // [RFC 8693 §2.2.2]
	Unavailable          Code = "temporarily_unavailable" // a dependency is down
	ServerError          Code = "server_error"            // a defect of ours
)

// Error codes of the admin interface.
const (
	Unauthenticated Code = "unauthenticated"  // no or a wrong admin token
	InvalidResource Code = "invalid_resource" // the change is not sound
	NotFound        Code = "not_found"
	Conflict        Code = "conflict" // another revision is in force
)

// Codes lists every code, so that a wire can be tested to know them all.
var Codes = []Code{
	InvalidRequest, InvalidClient, InvalidScope, UnauthorizedClient, UnsupportedGrantType,
	InvalidTarget, Unavailable, ServerError, Unauthenticated, InvalidResource, NotFound, Conflict,
}

// Error is a refusal. Code and Message are for the caller, Err is for the
// operator and never leaves the process by an answer.
type Error struct {
	Code       Code
	Message    string        // a safe sentence: no input, only characters of RFC 6749 §5.2
	Field      string        // the request parameter that is wrong, if one is
	Decision   string        // id of the decision, empty before one was taken
	RetryAfter time.Duration // for Unavailable: when to come back
	Problems   []Problem     // for InvalidResource: everything that is wrong
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
