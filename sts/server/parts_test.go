package server

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// applyMany sends a change in parts, as the admin.
func (f *fixture) applyMany(t *testing.T, parts ...*stsv1.ApplyRequest) (*stsv1.ApplyResponse, error) {
	t.Helper()
	stream := f.openApplyMany(t, t.Context())
	for _, p := range parts {
		if stream.Send(p) != nil {
			break // the answer says why
		}
	}
	return stream.CloseAndRecv()
}

func (f *fixture) openApplyMany(t *testing.T, ctx context.Context) grpc.ClientStreamingClient[stsv1.ApplyRequest, stsv1.ApplyResponse] {
	t.Helper()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+f.admin)
	stream, err := stsv1.NewAdminServiceClient(f.conn).ApplyMany(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func audience(name string) *stsv1.Resource {
	return &stsv1.Resource{Kind: &stsv1.Resource_Audience{Audience: &stsv1.Audience{Name: name}}}
}

func rule(name, audience string) *stsv1.Resource {
	return &stsv1.Resource{Kind: &stsv1.Resource_Rule{Rule: &stsv1.Rule{
		Name: name, Requester: &stsv1.Requester{Clients: []string{"web"}}, Allow: &stsv1.Allow{Audiences: []string{audience}},
	}}}
}

// parts is a good change: the second part refers to the first.
func parts() []*stsv1.ApplyRequest {
	return []*stsv1.ApplyRequest{
		{Resources: []*stsv1.Resource{audience("new"), audience("more")}, ExpectedRevision: 1},
		{Resources: []*stsv1.Resource{rule("new", "new")}},
		{Delete: []*stsv1.ResourceRef{{Kind: "Rule", Name: "brief"}}},
	}
}

// A change in parts is one change: all of it or nothing.
func TestApplyMany(t *testing.T) {
	unknown := &stsv1.ApplyRequest{}
	unknown.ProtoReflect().SetUnknown([]byte{0xa2, 0x38, 0x00}) // field 900
	for _, row := range []struct {
		name string
		edit func([]*stsv1.ApplyRequest) []*stsv1.ApplyRequest
		want codes.Code
		says string // in the status
	}{
		{"good", func(p []*stsv1.ApplyRequest) []*stsv1.ApplyRequest { return p }, codes.OK, ""},
		{"said again", func(p []*stsv1.ApplyRequest) []*stsv1.ApplyRequest { p[2].ExpectedRevision = 1; return p }, codes.OK, ""},
		{"another revision", func(p []*stsv1.ApplyRequest) []*stsv1.ApplyRequest { p[0].ExpectedRevision = 7; return p }, codes.Aborted, "revision 1 is in force, not 7"},
		{"dry run said late", func(p []*stsv1.ApplyRequest) []*stsv1.ApplyRequest { p[1].DryRun = true; return p }, codes.InvalidArgument, "dry_run"},
		{"revision said otherwise", func(p []*stsv1.ApplyRequest) []*stsv1.ApplyRequest { p[1].ExpectedRevision = 2; return p }, codes.InvalidArgument, "expected_revision"},
		{"path in a later part", func(p []*stsv1.ApplyRequest) []*stsv1.ApplyRequest {
			p[1].Resources[0] = rule("new", "nope")
			return p
		}, codes.InvalidArgument, "resources[2].rule.allow.audiences[0]"},
		{"path of a delete", func(p []*stsv1.ApplyRequest) []*stsv1.ApplyRequest {
			return append(p, &stsv1.ApplyRequest{Delete: []*stsv1.ResourceRef{{Kind: "X", Name: "y"}}})
		}, codes.InvalidArgument, "delete[1].kind"},
		{"twice", func(p []*stsv1.ApplyRequest) []*stsv1.ApplyRequest {
			p[1].Resources = append(p[1].Resources, audience("new"))
			return p
		}, codes.InvalidArgument, "resources[3].audience.name"},
		{"unknown field", func(p []*stsv1.ApplyRequest) []*stsv1.ApplyRequest { return append(p, unknown) }, codes.InvalidArgument, "fields that this version of the service does not know"},
		{"too many", func(p []*stsv1.ApplyRequest) []*stsv1.ApplyRequest {
			many := &stsv1.ApplyRequest{Resources: make([]*stsv1.Resource, 4000)}
			for i := range many.Resources {
				many.Resources[i] = &stsv1.Resource{}
			}
			return append(p, many, many, many)
		}, codes.InvalidArgument, "more than 10000 resources"},
		{"a part too large", func(p []*stsv1.ApplyRequest) []*stsv1.ApplyRequest {
			p[1].Resources[0].GetRule().Description = strings.Repeat("x", maxMessage)
			return p
		}, codes.ResourceExhausted, "larger than max"},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFixture(t)
			resp, err := f.applyMany(t, row.edit(parts())...)
			if got := answerOf(err); got.grpc != row.want || !strings.Contains(got.raw, row.says) {
				t.Errorf("%v, want %v and %q", err, row.want, row.says)
			}
			_, revision, err := f.service.Resource(sts.Ref{Kind: sts.KindClient, Name: "web"})
			if err != nil {
				t.Fatal(err)
			}
			if row.want == codes.OK {
				if len(resp.GetCreated()) != 3 || len(resp.GetDeleted()) != 1 || resp.GetRevision() != 2 || revision != 2 {
					t.Errorf("%v at revision %d", resp, revision)
				}
				return
			}
			if revision != 1 {
				t.Errorf("refused, and revision %d is in force", revision)
			}
		})
	}
}

func TestApplyManyDryRun(t *testing.T) {
	f := newFixture(t)
	p := parts()
	p[0].DryRun = true
	resp, err := f.applyMany(t, p...)
	if err != nil || len(resp.GetCreated()) != 3 || resp.GetRevision() != 1 {
		t.Errorf("%v %v", resp, err)
	}
	if resp, err := f.applyMany(t); err != nil || resp.GetRevision() != 1 {
		t.Errorf("a change without parts: %v %v", resp, err)
	}
}

// A change has at most 8 MiB, however small its parts are.
func TestApplyManyTooLarge(t *testing.T) {
	f := newFixture(t)
	part := func(i int) *stsv1.ApplyRequest {
		r := audience(fmt.Sprintf("a%d", i))
		r.GetAudience().Description = strings.Repeat("d", 200<<10)
		return &stsv1.ApplyRequest{Resources: []*stsv1.Resource{r}}
	}
	var all []*stsv1.ApplyRequest
	for size := 0; size <= maxApply; size += proto.Size(part(0)) {
		all = append(all, part(len(all)))
	}
	if _, err := f.applyMany(t, all...); status.Code(err) != codes.ResourceExhausted || answerOf(err).code != sts.InvalidRequest {
		t.Errorf("%v", err)
	}
	if _, err := f.applyMany(t, all[1:]...); answerOf(err).code != sts.InvalidResource { // the descriptions
		t.Errorf("a part less: %v", err)
	}
}

// G-07: who has no token is refused before anything of the change is read.
func TestApplyManyNeedsToken(t *testing.T) {
	f := newFixture(t)
	stream, err := stsv1.NewAdminServiceClient(f.conn).ApplyMany(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(&stsv1.ApplyResponse{}); answerOf(err).code != sts.Unauthenticated {
		t.Errorf("%v", err)
	}
}

// F45: parts that do not arrive are not waited for, and a change that does not
// come to its end is none.
func TestApplyManyEndsEarly(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.RequestTimeout = 200 * time.Millisecond })
	stream := f.openApplyMany(t, t.Context())
	_ = stream.Send(parts()[0]) // on a slow machine it is over by then
	if err := stream.RecvMsg(&stsv1.ApplyResponse{}); status.Code(err) != codes.Canceled {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stream = f.openApplyMany(t, ctx)
	_ = stream.Send(parts()[0]) // on a slow machine it is over by then
	cancel()
	if err := f.stop(); err != nil { // joins the calls
		t.Fatal(err)
	}
	if _, _, err := f.service.Resource(sts.Ref{Kind: sts.KindAudience, Name: "new"}); err == nil {
		t.Error("half a change was made")
	}
}
