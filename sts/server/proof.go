package server

import (
	"context"
	"net/http"

	"google.golang.org/grpc/metadata"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// Names of the headers of DPoP [RFC 9449 §4.1, §8].
const (
	headerProof = "Dpop" // as net/http writes DPoP
	headerNonce = "DPoP-Nonce"

	metadataProof = "dpop"
	metadataNonce = "dpop-nonce"
)

// face is how a request came in.
type face int

const (
	overGRPC face = iota
	overForm      // an endpoint of OAuth
	overJSON      // a path under /v1/
)

// proofURLs are the URLs that DPoP proofs must be for. They come from the
// configuration alone: what a request says of the host that it came to, anybody
// can write.
type proofURLs struct{ issuer, grpc string }

// formPaths and jsonPaths are the paths of methods.
var (
	formPaths = map[string]string{
		stsv1.TokenService_IssueToken_FullMethodName:      "/oauth2/token",
		stsv1.TokenService_ExchangeToken_FullMethodName:   "/oauth2/token",
		stsv1.TokenService_IntrospectToken_FullMethodName: "/oauth2/introspect",
		stsv1.TokenService_RevokeToken_FullMethodName:     "/oauth2/revoke",
	}
	jsonPaths = map[string]string{
		stsv1.TokenService_IssueToken_FullMethodName:      "/v1/token:issue",
		stsv1.TokenService_ExchangeToken_FullMethodName:   "/v1/token:exchange",
		stsv1.TokenService_IntrospectToken_FullMethodName: "/v1/token:introspect",
		stsv1.TokenService_RevokeToken_FullMethodName:     "/v1/token:revoke",
	}
)

func (u proofURLs) of(k *call) string {
	switch k.face {
	case overForm:
		return u.issuer + formPaths[k.method]
	case overJSON:
		return u.issuer + jsonPaths[k.method]
	default:
		return u.grpc + k.method
	}
}

// prove puts the DPoP proof into a request, if there is one, and what it must be
// for. gRPC is HTTP/2, so the method is POST there as well and the URL is that of
// the call.
func (u proofURLs) prove(ctx context.Context, k *call, req *sts.TokenRequest) *refusal {
	md, _ := metadata.FromIncomingContext(ctx)
	proofs := md.Get(metadataProof)
	bad := func(message string) *refusal {
		return &refusal{sts: &sts.Error{Code: sts.InvalidDPoPProof, Field: "DPoP", Message: message}}
	}
	switch {
	case len(proofs) == 0:
		return nil
	case len(proofs) > 1: // [RFC 9449 §4.3 item 1]
		return bad("more than one DPoP header; a request has one proof")
	case proofs[0] == "":
		return bad("the DPoP header is empty; leave it out, or put a proof into it")
	case k.method == stsv1.TokenService_WatchToken_FullMethodName:
		return bad("a watched token cannot be bound by DPoP: each token needs a proof of its own; call IssueToken or ExchangeToken")
	}
	req.Proof, req.ProofTarget = proofs[0], sts.ProofTarget{Method: http.MethodPost, URI: u.of(k)}
	return nil
}

// tell puts what the caller is told besides the answer into HTTP headers.
func (k *call) tell(h http.Header) {
	if k.decision != "" {
		h.Set(headerDecisionID, k.decision)
	}
	if k.nonce != "" {
		h.Set(headerNonce, k.nonce)
	}
}
