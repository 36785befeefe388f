package server

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

// ApplyMany implements stsv1.AdminServiceServer: it puts the parts of a change
// together, and the rest is Apply. The chain has let the caller through before
// anything of the change is read.
func (a *adminService) ApplyMany(stream grpc.ClientStreamingServer[stsv1.ApplyRequest, stsv1.ApplyResponse]) error {
	ctx := stream.Context()
	whole, err := receiveParts(ctx, stream.Recv)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	done, err := a.Apply(ctx, whole)
	if err != nil {
		return err
	}
	return stream.SendAndClose(done)
}

// receiveParts reads a change until its end. It stops at the first part that is
// not as it must be, so that no more than a change may have is ever held.
func receiveParts(ctx context.Context, recv func() (*stsv1.ApplyRequest, error)) (*stsv1.ApplyRequest, error) {
	k, _ := callOf(ctx)
	whole, size := &stsv1.ApplyRequest{}, 0
	for first := true; ; first = false {
		part, err := recv()
		if errors.Is(err, io.EOF) {
			k.arrived()
			return whole, nil
		}
		if err != nil {
			return nil, unreadPart(ctx, err)
		}
		if k.malformed != nil {
			return nil, k.malformed
		}
		if !knownDeep(part.ProtoReflect()) {
			return nil, unknownFields()
		}
		if first {
			whole.DryRun, whole.ExpectedRevision = part.GetDryRun(), part.GetExpectedRevision()
			whole.Shadow, whole.Why = part.GetShadow(), part.GetWhy()
		}
		if bad := contradicts(part, whole); bad != nil {
			return nil, bad
		}
		whole.Resources = append(whole.Resources, part.GetResources()...)
		whole.Delete = append(whole.Delete, part.GetDelete()...)
		whole.Match = append(whole.Match, part.GetMatch()...)
		if bad := tooMany(whole); bad != nil {
			return nil, bad
		}
		if size += proto.Size(part); size > maxApply {
			bad := malformed("", fmt.Sprintf("the change is larger than %d KiB", maxApply>>10))
			bad.grpc = codes.ResourceExhausted
			return nil, bad
		}
	}
}

// contradicts tells whether a part says something else about the whole change
// than its first part did. What it leaves out it does not say.
func contradicts(part, whole *stsv1.ApplyRequest) *refusal {
	switch e := part.GetExpectedRevision(); {
	case part.GetDryRun() && !whole.GetDryRun():
		return malformed("dry_run", "the first message of a change says whether it is a dry run, and this one says something else")
	case part.GetShadow() && !whole.GetShadow():
		return malformed("shadow", "the first message of a change says whether it is for the shadow revision, and this one says something else")
	case part.GetWhy() != "" && part.GetWhy() != whole.GetWhy():
		return malformed("why", "the first message of a change says why it is made, and this one says something else")
	case e != 0 && e != whole.GetExpectedRevision():
		return malformed("expected_revision", "the first message of a change says which revision it expects, and this one says something else")
	}
	return nil
}

// unreadPart is why a part could not be read. The library has answered already,
// so this is for the log and the metrics.
func unreadPart(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	bad := malformed("", "a message of the change is too large or did not arrive whole")
	bad.sts.Err, bad.grpc = err, status.Code(err)
	return bad
}
