package main

import (
	"context"
	"fmt"
	"strings"
	"unicode"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Exit codes, as `stsctl help exit-codes` has them.
const (
	exitOK          = 0
	exitRefused     = 1
	exitUsage       = 2
	exitUnavailable = 3
	exitInput       = 4
	exitUnverified  = 5
)

// failure ends a command. message is one line that says what is wrong and what
// to do; it is empty if everything has been said.
type failure struct {
	code    int
	message string
}

func (f *failure) Error() string { return f.message }

func usage(format string, args ...any) *failure {
	return &failure{exitUsage, fmt.Sprintf(format, args...)}
}

func badInput(format string, args ...any) *failure {
	return &failure{exitInput, oneLine(fmt.Sprintf(format, args...))}
}

func unverified(format string, args ...any) *failure {
	return &failure{exitUnverified, oneLine(fmt.Sprintf(format, args...))}
}

// advice says what to do about a refusal, by its code.
var advice = map[string]string{
	"invalid_client":          "check STS_CLIENT_ID and its secret, key, assertion or certificate",
	"unauthorized_client":     "ask the operator, and tell the decision id",
	"invalid_target":          "ask the operator for a Rule that allows it, and tell the decision id",
	"invalid_scope":           "ask for fewer scopes, or the operator for a Rule that allows them",
	"invalid_dpop_proof":      "check --dpop-key, and that the server has this address as dpop.grpc_url",
	"unauthenticated":         "check STS_ADMIN_TOKEN, or use the admin socket; see `stsctl help environment`",
	"insufficient_scope":      "ask an administrator who may write",
	"precondition_failed":     "look at it with `stsctl get`, and make the change against that",
	"too_many_requests":       "slow down",
	"not_found":               "`stsctl get KIND` and `stsctl keys status` list what there is",
	"temporarily_unavailable": "try again",
	"server_error":            "tell the operator",
}

// refused turns the error of a call into a failure.
func (c *cli) refused(ctx context.Context, err error) *failure {
	st := status.Convert(err)
	info, retry := detailsOf(st)
	message := oneLine(st.Message())
	if info == nil {
		return c.unexplained(ctx, st, message)
	}
	f := &failure{code: exitRefused, message: "refused by the server: " + message}
	tags := oneLine(info.GetReason())
	if id := oneLine(info.GetMetadata()["decision_id"]); id != "" && !strings.Contains(message, id) {
		tags += ", decision " + id
	}
	f.message += " [" + tags + "]"
	hint := advice[info.GetReason()]
	if st.Code() == codes.Unavailable {
		f.code = exitUnavailable
		f.message = "temporarily unavailable: " + strings.TrimPrefix(f.message, "refused by the server: ")
		if retry != nil {
			hint = "try again in " + retry.GetRetryDelay().AsDuration().String()
		}
	}
	if hint != "" {
		f.message += "; " + hint
	}
	return f
}

// unexplained is for errors that the service did not make: those of the
// connection, and those of something else that listens there.
func (c *cli) unexplained(ctx context.Context, st *status.Status, message string) *failure {
	addr := c.conn.address()
	switch {
	case ctx.Err() == context.Canceled:
		return &failure{exitUnavailable, "interrupted"}
	case st.Code() == codes.DeadlineExceeded:
		return &failure{exitUnavailable, fmt.Sprintf("%s did not answer within %s; is the server there? (--addr, --timeout)", addr, c.conn.timeout)}
	case st.Code() == codes.Unavailable:
		return &failure{exitUnavailable, fmt.Sprintf("cannot reach %s: %s; check the address (--addr) and whether both sides use TLS", addr, message)}
	}
	return &failure{exitRefused, fmt.Sprintf("%s answered %s: %s", addr, st.Code(), message)}
}

func detailsOf(st *status.Status) (info *errdetails.ErrorInfo, retry *errdetails.RetryInfo) {
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			info = d
		case *errdetails.RetryInfo:
			retry = d
		}
	}
	return info, retry
}

// violationsOf returns what the server found wrong, by field.
func violationsOf(err error) []*errdetails.BadRequest_FieldViolation {
	for _, d := range status.Convert(err).Details() {
		if b, ok := d.(*errdetails.BadRequest); ok {
			return b.GetFieldViolations()
		}
	}
	return nil
}

// oneLine makes text of others safe for a terminal: no line breaks, no escape
// sequences.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case !unicode.IsPrint(r):
			return '\uFFFD'
		}
		return r
	}, s)
}
