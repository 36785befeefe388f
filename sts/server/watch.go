package server

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// minRenewal is the least time between two tokens of a watch.
const minRenewal = time.Second

// WatchToken implements stsv1.TokenServiceServer.
func (t *tokenService) WatchToken(m *stsv1.WatchTokenRequest, stream grpc.ServerStreamingServer[stsv1.TokenResponse]) error {
	ctx := stream.Context()
	select {
	case t.watches <- struct{}{}:
		defer func() { <-t.watches }()
	default:
		return &refusal{
			sts:  &sts.Error{Code: sts.Unavailable, RetryAfter: retryOverload, Message: "as many tokens are watched here as the server allows; try again later or another server"},
			grpc: codes.ResourceExhausted,
		}
	}
	t.chain.metrics.watches.Inc()
	defer t.chain.metrics.watches.Dec()
	for {
		token, err := t.walk(ctx, m)
		if err != nil {
			return err
		}
		if err := stream.Send(tokenResponse(token)); err != nil {
			return err
		}
		timer := time.NewTimer(renewal(token.ExpiresIn, t.jitter()))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-t.stopping:
			timer.Stop()
			return errStopping()
		}
	}
}

// walk gets one token of a watch: a request like any other, with a deadline, a
// line in the log and a place in the metrics of its own.
func (t *tokenService) walk(ctx context.Context, m *stsv1.WatchTokenRequest) (sts.Token, error) {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	stream, _ := callOf(ctx)
	stream.walked = true
	k := &call{requestID: stream.requestID, method: stream.method, malformed: stream.malformed, presented: stream.presented}
	ctx = withCall(ctx, k)
	req, bad := watchRequest(ctx, m)
	token, err := t.token(ctx, req, bad)
	stream.decision = k.decision
	var r *refusal
	if err != nil {
		r = refuse(ctx, t.chain.issuer, err)
		k.decision = r.sts.Decision
	}
	t.chain.observe(ctx, k, r, begin)
	if r != nil {
		return sts.Token{}, r
	}
	return token, nil
}

func watchRequest(ctx context.Context, m *stsv1.WatchTokenRequest) (sts.TokenRequest, *refusal) {
	if bad := known(m); bad != nil {
		return sts.TokenRequest{}, bad
	}
	switch {
	case m.GetIssue() != nil:
		return issueRequest(ctx, m.GetIssue())
	case m.GetExchange() != nil:
		return exchangeRequest(ctx, m.GetExchange())
	default:
		return sts.TokenRequest{}, malformed("request", "neither issue nor exchange says which token to watch")
	}
}

// renewal is when to fetch the token after one of this lifetime: when two thirds
// have passed, or up to a tenth of that earlier, so that watches that began
// together drift apart.
func renewal(lifetime time.Duration, jitter float64) time.Duration {
	at := lifetime * 2 / 3
	return max(minRenewal, at-time.Duration(jitter*float64(at)/10))
}

func errStopping() error {
	return &sts.Error{
		Code: sts.Unavailable, RetryAfter: retryOverload,
		Message: "the server is stopping; connect again", Err: errors.New("stopping"),
	}
}
