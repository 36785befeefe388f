package server

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"

	"github.com/workload-sts/sts/sts"
)

func TestEveryCodeIsOnTheWire(t *testing.T) {
	for _, c := range sts.Codes {
		w, ok := wire[c]
		if !ok || w.grpc == codes.OK || w.grpc == codes.Unknown || w.http < 400 || w.http > 599 {
			t.Errorf("%s: %+v", c, w)
		}
	}
	if len(wire) != len(sts.Codes) {
		t.Errorf("%d codes on the wire, %d in the domain", len(wire), len(sts.Codes))
	}
	unknown := &refusal{sts: &sts.Error{Code: "new"}}
	if unknown.httpStatus() != 500 || unknown.grpcCode() != codes.Internal {
		t.Error("a code that is not in the table")
	}
}

// A number that the reference of errors does not have is not answered.
func TestExceptions(t *testing.T) {
	bad := malformed("", "x")
	bad.http, bad.grpc = 418, codes.DataLoss
	if bad.httpStatus() != 400 || bad.grpcCode() != codes.InvalidArgument {
		t.Errorf("%d %v", bad.httpStatus(), bad.grpcCode())
	}
	for _, e := range Exceptions() {
		r := &refusal{sts: &sts.Error{Code: e.Code}, http: e.HTTP, grpc: e.GRPC}
		w := wire[e.Code]
		if e.Meaning == "" || (e.HTTP == 0) == (e.GRPC == codes.OK) {
			t.Errorf("%+v", e)
		}
		if e.HTTP != 0 && (r.httpStatus() != e.HTTP || r.httpStatus() == w.http) || e.GRPC != codes.OK && (r.grpcCode() != e.GRPC || r.grpcCode() == w.grpc) {
			t.Errorf("%+v is answered as %d %v", e, r.httpStatus(), r.grpcCode())
		}
	}
}

func TestDetails(t *testing.T) {
	r := &refusal{domain: issuer, sts: &sts.Error{
		Code: sts.InvalidResource, Message: `a "quoted" sentence`, Field: "scope", Decision: "d1", RetryAfter: 1500 * time.Millisecond, Err: errors.New(canary),
		Problems: []sts.Problem{
			{Ref: sts.Ref{Kind: sts.KindRule, Name: "r"}, Index: 2, Field: "allow.audiences[0]", Message: `Audience "x" is not defined`},
			{Ref: sts.Ref{Kind: sts.KindClient, Name: "c"}, Index: -1, Field: "audiences[1]", Message: "gone"},
			{Index: 3, Message: "none of them"},
		},
	}}
	st := r.GRPCStatus()
	if st.Message() != "a 'quoted' sentence (decision d1)" || strings.Contains(st.Proto().String(), canary) {
		t.Errorf("status %v", st)
	}
	var kinds []string
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			kinds = append(kinds, "info")
			if d.Reason != "invalid_resource" || d.Domain != issuer || d.Metadata["decision_id"] != "d1" {
				t.Errorf("%v", d)
			}
		case *errdetails.BadRequest:
			kinds = append(kinds, "bad")
			var paths []string
			for _, v := range d.FieldViolations {
				paths = append(paths, v.Field)
			}
			if got := strings.Join(paths, " "); got != "scope resources[2].rule.allow.audiences[0] Client/c.audiences[1] resources[3]" {
				t.Errorf("paths %s", got)
			}
		case *errdetails.RetryInfo:
			kinds = append(kinds, "retry")
			if d.RetryDelay.AsDuration() != 1500*time.Millisecond || r.retryAfter() != 2 {
				t.Errorf("%v", d)
			}
		}
	}
	if strings.Join(kinds, " ") != "info bad retry" {
		t.Errorf("details %v", kinds)
	}
	r.sts.Problems = make([]sts.Problem, maxViolations+5)
	r.sts.Field = ""
	v := r.violations()
	if n := len(v); n != maxViolations+1 || v[n-1].GetDescription() != "5 more problems are not listed" {
		t.Errorf("%d violations, the last one %v", n, v[n-1])
	}
}

func TestRefuse(t *testing.T) {
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, row := range []struct {
		name string
		ctx  context.Context
		err  error
		code sts.Code
		grpc codes.Code
	}{
		{"domain", t.Context(), &sts.Error{Code: sts.InvalidTarget}, sts.InvalidTarget, codes.PermissionDenied},
		{"other", t.Context(), errors.New(canary), sts.ServerError, codes.Internal},
		{"cancelled", gone, context.Canceled, sts.Unavailable, codes.Canceled},
		{"domain, cancelled", gone, &sts.Error{Code: sts.Unavailable}, sts.Unavailable, codes.Canceled},
	} {
		r := refuse(row.ctx, issuer, row.err)
		if r.sts.Code != row.code || r.grpcCode() != row.grpc || strings.Contains(r.description(), canary) {
			t.Errorf("%s: %v %v", row.name, r, r.grpcCode())
		}
	}
}

func FuzzDescribable(f *testing.F) {
	f.Add("a \"b\" \\ \x00 é \u2028")
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range describable(s) {
			if r < 0x20 || r > 0x7e || r == '"' || r == '\\' {
				t.Fatalf("%q has %q", s, r)
			}
		}
	})
}
