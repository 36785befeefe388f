package main

import (
	"context"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

// ListAuditChains returns what a test says, in pages of one.
func (f *fakeServer) ListAuditChains(ctx context.Context, req *stsv1.ListAuditChainsRequest) (*stsv1.ListAuditChainsResponse, error) {
	if err := f.authorize(ctx); err != nil {
		return nil, err
	}
	out := &stsv1.ListAuditChainsResponse{}
	for _, m := range f.chains {
		if m.GetChain() <= req.GetPageToken() {
			continue
		}
		if len(out.Chains) == 1 {
			out.NextPageToken = out.Chains[0].GetChain()
			break
		}
		out.Chains = append(out.Chains, m)
	}
	return out, nil
}
