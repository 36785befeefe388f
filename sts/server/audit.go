package server

import (
	"context"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

// ListAuditChains implements stsv1.AdminServiceServer.
func (a *adminService) ListAuditChains(ctx context.Context, req *stsv1.ListAuditChainsRequest) (*stsv1.ListAuditChainsResponse, error) {
	size, bad := pageSize(req.GetPageSize(), defaultPageSize, maxPageSize)
	if bad != nil {
		return nil, bad
	}
	chains, err := a.service.AuditChains(ctx)
	if err != nil {
		return nil, err
	}
	out := &stsv1.ListAuditChainsResponse{}
	for _, c := range chains { // by name
		if c.Chain <= req.GetPageToken() {
			continue
		}
		if len(out.Chains) == size {
			out.NextPageToken = out.Chains[size-1].GetChain()
			break
		}
		out.Chains = append(out.Chains, &stsv1.AuditChain{
			Chain: c.Chain, Node: c.Node, Begun: timeToProto(c.Begun), Checkpoint: c.Checkpoint, Seq: c.Seq, Time: timeToProto(c.Time),
		})
	}
	return out, nil
}
