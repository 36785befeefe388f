package main

import (
	"context"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

// maxMessage is how large a message the server takes, in bytes.
const maxMessage = 256 << 10

// send makes a change that comes in parts.
func send(ctx context.Context, admin stsv1.AdminServiceClient, parts []*stsv1.ApplyRequest) (*stsv1.ApplyResponse, error) {
	if len(parts) == 1 {
		return admin.Apply(ctx, parts[0])
	}
	stream, err := admin.ApplyMany(ctx)
	if err != nil {
		return nil, err
	}
	for _, part := range parts {
		if stream.Send(part) != nil {
			break // the answer says why
		}
	}
	return stream.CloseAndRecv()
}

// split divides a change into parts that fit into a message each. large is the
// place of a resource that fits into none, else -1.
func split(change *stsv1.ApplyRequest) (parts []*stsv1.ApplyRequest, large int) {
	part := &stsv1.ApplyRequest{
		DryRun: change.GetDryRun(), ExpectedRevision: change.GetExpectedRevision(), Shadow: change.GetShadow(), Why: change.GetWhy(),
	}
	parts, large = append(parts, part), -1
	size := proto.Size(part)
	// add makes room for an element of a list.
	add := func(m proto.Message) (fits bool) {
		n := protowire.SizeTag(1) + protowire.SizeBytes(proto.Size(m))
		if size+n > maxMessage {
			part, size = &stsv1.ApplyRequest{}, 0
			parts = append(parts, part)
		}
		size += n
		return n <= maxMessage
	}
	for i, r := range change.GetResources() {
		if !add(r) {
			large = i
		}
		part.Resources = append(part.Resources, r)
	}
	for _, r := range change.GetDelete() {
		add(r) // a reference is small
		part.Delete = append(part.Delete, r)
	}
	return parts, large
}
