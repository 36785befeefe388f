package server

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/workload-sts/sts/sts"
)

// wire says what each code is on the two faces. It is the only place that knows
// the numbers.
var wire = map[sts.Code]struct {
	grpc codes.Code
	http int
}{
	sts.InvalidRequest:       {codes.InvalidArgument, http.StatusBadRequest},
	sts.InvalidClient:        {codes.Unauthenticated, http.StatusUnauthorized},
	sts.InvalidScope:         {codes.PermissionDenied, http.StatusBadRequest},
	sts.UnauthorizedClient:   {codes.PermissionDenied, http.StatusBadRequest},
	sts.UnsupportedGrantType: {codes.InvalidArgument, http.StatusBadRequest},
	sts.UnsupportedTokenType: {codes.InvalidArgument, http.StatusBadRequest},
	sts.InvalidTarget:        {codes.PermissionDenied, http.StatusBadRequest},
	sts.InvalidDPoPProof:     {codes.InvalidArgument, http.StatusBadRequest},
	sts.UseDPoPNonce:         {codes.InvalidArgument, http.StatusBadRequest},
	sts.Unavailable:          {codes.Unavailable, http.StatusServiceUnavailable},
	sts.ServerError:          {codes.Internal, http.StatusInternalServerError},
	sts.Unauthenticated:      {codes.Unauthenticated, http.StatusUnauthorized},
	sts.InvalidResource:      {codes.InvalidArgument, http.StatusBadRequest},
	sts.NotFound:             {codes.NotFound, http.StatusNotFound},
	sts.Conflict:             {codes.Aborted, http.StatusConflict},
	sts.InsufficientScope:    {codes.PermissionDenied, http.StatusForbidden},
	sts.PreconditionFailed:   {codes.Aborted, http.StatusPreconditionFailed},
	sts.TooManyRequests:      {codes.ResourceExhausted, http.StatusTooManyRequests},

	sts.InvalidClientMetadata:       {codes.InvalidArgument, http.StatusBadRequest},
	sts.InvalidSoftwareStatement:    {codes.InvalidArgument, http.StatusBadRequest},
	sts.UnapprovedSoftwareStatement: {codes.PermissionDenied, http.StatusBadRequest},
}

// WireCodes returns the gRPC code and the HTTP status of an error code, for their
// reference.
func WireCodes(c sts.Code) (codes.Code, int) {
	w := wire[c]
	return w.grpc, w.http
}

// Exception is a number that fits a refusal by the wire itself better than that
// of its code: of HTTP or of gRPC.
type Exception struct {
	Code    sts.Code
	HTTP    int
	GRPC    codes.Code
	Meaning string
}

// exceptions are all there are: a number that is not here is not answered, so
// that their reference is complete.
var exceptions = []Exception{
	{Code: sts.InvalidRequest, HTTP: http.StatusMethodNotAllowed, Meaning: "The path does not take this method. Allow names those that it takes."},
	{Code: sts.InvalidRequest, HTTP: http.StatusRequestEntityTooLarge, Meaning: "The body is larger than the path takes: 64 KiB, and 8 MiB for `/v1/resources:apply`."},
	{Code: sts.InvalidRequest, HTTP: http.StatusUnsupportedMediaType, Meaning: "The Content-Type is not the one that the path takes, or the body has a Content-Encoding."},
	{Code: sts.InvalidDPoPProof, HTTP: http.StatusUnauthorized, Meaning: "The proof that came with an access token for an endpoint of ours."},
	{Code: sts.InvalidDPoPProof, GRPC: codes.Unauthenticated, Meaning: "The proof that came with an access token for an endpoint of ours."},
	{Code: sts.UseDPoPNonce, HTTP: http.StatusUnauthorized, Meaning: "The proof that came with an access token for an endpoint of ours."},
	{Code: sts.UseDPoPNonce, GRPC: codes.Unauthenticated, Meaning: "The proof that came with an access token for an endpoint of ours."},
	{Code: sts.InvalidRequest, GRPC: codes.ResourceExhausted, Meaning: "The parts of a change are larger than 8 MiB together."},
	{Code: sts.Unavailable, GRPC: codes.ResourceExhausted, Meaning: "The server works on as many requests as it takes at once, or as many streams watch tokens or health as it allows. Come back after RetryInfo, or use another server."},
	{Code: sts.Unavailable, GRPC: codes.DeadlineExceeded, Meaning: "The deadline of the call, or the time that the server gives a request, has passed."},
	{Code: sts.Unavailable, GRPC: codes.Canceled, Meaning: "The caller cancelled the call."},
}

// Exceptions lists the exceptions, for their reference.
func Exceptions() []Exception { return slices.Clone(exceptions) }

func excepted(c sts.Code, grpc codes.Code, http int) bool {
	return slices.ContainsFunc(exceptions, func(e Exception) bool { return e.Code == c && e.GRPC == grpc && e.HTTP == http })
}

// refusal is an *sts.Error on its way to a caller. Where the wire itself refused
// a request, it may know an exception that fits better than the table.
type refusal struct {
	sts    *sts.Error
	domain string     // the issuer identifier of this service
	grpc   codes.Code // OK: by the table
	http   int        // 0: by the table

	ready *status.Status // of a refusal that is the same for many; nil: made when it is asked for
}

func (r *refusal) Error() string { return r.sts.Error() }
func (r *refusal) Unwrap() error { return r.sts }

func (r *refusal) grpcCode() codes.Code {
	if excepted(r.sts.Code, r.grpc, 0) {
		return r.grpc
	}
	if w, ok := wire[r.sts.Code]; ok {
		return w.grpc
	}
	return codes.Internal
}

func (r *refusal) httpStatus() int {
	if excepted(r.sts.Code, codes.OK, r.http) {
		return r.http
	}
	if w, ok := wire[r.sts.Code]; ok {
		return w.http
	}
	return http.StatusInternalServerError
}

// description is the sentence for the caller. It ends with the id of the
// decision, by which the operator finds the reasons.
func (r *refusal) description() string {
	message := r.sts.Message
	if d := r.sts.Detail; d != nil {
		message += "; " + d.Predicate + " does not hold"
		if d.Expected != "" {
			message += ": presented " + d.Presented + ", expected " + d.Expected
		}
		if d.Hint != "" {
			message += "; " + d.Hint
		}
	}
	if r.sts.Decision != "" {
		message += " (decision " + r.sts.Decision + ")"
	}
	return describable(message)
}

// GRPCStatus makes the status with its details as token.proto promises them.
func (r *refusal) GRPCStatus() *status.Status {
	if r.ready != nil {
		return r.ready
	}
	st := status.New(r.grpcCode(), r.description())
	with, err := st.WithDetails(r.details()...)
	if err != nil {
		return st
	}
	return with
}

func (r *refusal) details() []protoadapt.MessageV1 {
	info := &errdetails.ErrorInfo{Reason: string(r.sts.Code), Domain: r.domain}
	if r.sts.Decision != "" {
		info.Metadata = map[string]string{"decision_id": r.sts.Decision}
	}
	if d := r.sts.Detail; d != nil {
		if info.Metadata == nil {
			info.Metadata = map[string]string{}
		}
		for name, value := range map[string]string{"predicate": d.Predicate, "presented": d.Presented, "expected": d.Expected, "hint": d.Hint} {
			if value != "" {
				info.Metadata[name] = strings.ToValidUTF8(value, "?")
			}
		}
	}
	out := []protoadapt.MessageV1{info}
	if v := r.violations(); len(v) > 0 {
		out = append(out, &errdetails.BadRequest{FieldViolations: v})
	}
	if r.sts.RetryAfter > 0 {
		out = append(out, &errdetails.RetryInfo{RetryDelay: durationpb.New(r.sts.RetryAfter)})
	}
	return out
}

// maxViolations is how many problems an answer tells at most, so that it stays
// within what clients accept as trailers.
const maxViolations = 50

func (r *refusal) violations() []*errdetails.BadRequest_FieldViolation {
	var out []*errdetails.BadRequest_FieldViolation
	if r.sts.Field != "" {
		out = append(out, &errdetails.BadRequest_FieldViolation{Field: r.sts.Field, Description: describable(r.sts.Message)})
	}
	for i, p := range r.sts.Problems {
		if i == maxViolations {
			out = append(out, &errdetails.BadRequest_FieldViolation{Description: fmt.Sprintf("%d more problems are not listed", len(r.sts.Problems)-i)})
			break
		}
		out = append(out, &errdetails.BadRequest_FieldViolation{Field: problemPath(p), Description: strings.ToValidUTF8(p.Message, "?")})
	}
	return out
}

// problemPath is where a problem is: a path into the request, or the kind and
// name of a resource that was there before and does not fit any more.
func problemPath(p sts.Problem) string {
	path := fmt.Sprintf("%s/%s", p.Ref.Kind, p.Ref.Name)
	if p.Index >= 0 {
		path = fmt.Sprintf("resources[%d]", p.Index)
		if p.Ref.Kind != "" {
			path += "." + strings.ToLower(string(p.Ref.Kind))
		}
	}
	if p.Field != "" {
		path += "." + p.Field
	}
	return strings.ToValidUTF8(path, "?")
}

// retryAfter is the value of a Retry-After header: whole seconds, rounded up.
func (r *refusal) retryAfter() int {
	return int(math.Ceil(r.sts.RetryAfter.Seconds()))
}

// describable holds a sentence to the characters that error_description may
// have: %x20-21 / %x23-5B / %x5D-7E [RFC 6749 §5.2].
func describable(s string) string {
	ok := func(r rune) bool { return r >= 0x20 && r <= 0x7e && r != '"' && r != '\\' }
	if strings.IndexFunc(s, func(r rune) bool { return !ok(r) }) < 0 {
		return s
	}
	return strings.Map(func(r rune) rune {
		switch {
		case ok(r):
			return r
		case r == '"' || r == '\\':
			return '\''
		default:
			return '?'
		}
	}, s)
}

// malformed is a refusal by the wire: the request could not be read.
func malformed(field, message string) *refusal {
	return &refusal{sts: &sts.Error{Code: sts.InvalidRequest, Field: field, Message: message}}
}

// unauthorized is the answer to credentials that are not worth trying.
func unauthorized(message string) *refusal {
	return &refusal{sts: &sts.Error{Code: sts.InvalidClient, Message: message}}
}

// retryOverload is when to come back if the server has too much to do, or goes.
const retryOverload = time.Second

// refuse turns whatever a handler returned into what a caller may see. An error
// that the domain did not make a refusal of says nothing but server_error.
func refuse(ctx context.Context, issuer string, err error) *refusal {
	if r, ok := errors.AsType[*refusal](err); ok {
		if r.ready != nil {
			return r
		}
		out := *r
		out.domain = issuer
		return &out
	}
	if e, ok := errors.AsType[*sts.Error](err); ok {
		out := &refusal{sts: e, domain: issuer}
		if e.Code == sts.Unavailable && ctx.Err() != nil {
			out.grpc = status.FromContextError(ctx.Err()).Code()
		}
		return out
	}
	if ctx.Err() != nil {
		return &refusal{
			sts: &sts.Error{
				Code: sts.Unavailable, RetryAfter: retryOverload, Err: err,
				Message: "the request was cancelled or took too long; try again later",
			},
			domain: issuer,
			grpc:   status.FromContextError(ctx.Err()).Code(),
		}
	}
	return &refusal{
		sts:    &sts.Error{Code: sts.ServerError, Message: "an internal error; the operator finds it in the log by the request id", Err: err},
		domain: issuer,
	}
}
