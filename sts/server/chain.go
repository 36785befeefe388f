package server

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/workload-sts/sts/sts"
)

// chain is what every request passes on its way to a handler, whichever face it
// came in by: request id, deadline, authorization, recovery from a panic,
// metrics, one log line, and the one translation of errors.
type chain struct {
	service *sts.Service
	issuer  string
	log     *slog.Logger
	metrics *metrics
	timeout time.Duration
	clients *ClientCertificates // of the gRPC listener; may be nil
	admin   *admins
	gates   gates

	overloaded *refusal // of requests that the gates do not let in
	pressure   pressure
}

// Names of the headers that tell a caller how to find its request in the log
// and in the audit record.
const (
	headerRequestID  = "X-Request-Id"
	headerDecisionID = "X-Decision-Id"
)

func (c *chain) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	var resp any
	err := c.run(ctx, info.FullMethod, c.timeout, func(ctx context.Context) (err error) {
		if m, ok := req.(proto.Message); ok && !accessTo[info.FullMethod].decides && !knownDeep(m.ProtoReflect()) {
			return unknownFields()
		}
		resp, err = handler(ctx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

func (c *chain) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, k := start(ss.Context())
	k.parts = info.IsClientStream
	// The headers of a stream go out with its first message, so what is known is
	// set now.
	k.told = ss.SetHeader(metadata.MD{"x-request-id": {k.requestID}}) == nil
	return c.run(ctx, info.FullMethod, 0, func(ctx context.Context) error {
		return handler(srv, &receiver{ServerStream: ss, ctx: ctx, call: k})
	})
}

// run takes a request through the chain. A timeout of 0 is none.
func (c *chain) run(ctx context.Context, method string, timeout time.Duration, next func(context.Context) error) error {
	begin := time.Now()
	k, ok := callOf(ctx)
	if !ok {
		ctx, k = start(ctx)
	}
	k.method = method
	if k.presented == nil {
		k.presented = sync.OnceValue(func() presented { return c.clients.overGRPC(ctx) })
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	err := c.guarded(ctx, k, next)
	var r *refusal
	if err != nil {
		r = refuse(ctx, c.issuer, err)
	}
	c.sendIDs(ctx, k, r)
	if !k.walked {
		c.observe(ctx, k, r, begin)
	}
	if r == nil {
		return nil
	}
	return r
}

// guarded lets a request through to next if its caller may, and turns a panic
// into an error of this one request.
func (c *chain) guarded(ctx context.Context, k *call, next func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			// What a panic says may be input, so only what the runtime says is kept.
			what := fmt.Sprintf("panic with a value of type %T", p)
			if e, ok := p.(runtime.Error); ok {
				what = e.Error()
			}
			c.log.LogAttrs(ctx, slog.LevelError, "panic in a handler; report this defect",
				slog.String("request_id", k.requestID), slog.String("method", k.method),
				slog.String("panic", what), slog.String("stack", string(debug.Stack())))
			err = fmt.Errorf("panic: %s", what)
		}
	}()
	leave, ok := c.gates.enter(accessTo[k.method].share)
	if !ok {
		return c.overloaded
	}
	defer leave()
	if err := c.authorize(ctx, k); err != nil {
		if k.caller != nil {
			r := refuse(ctx, c.issuer, err)
			c.service.RefusedAdmin(ctx, k.caller.principal, k.source(ctx), k.method, r.sts)
		}
		return err
	}
	if k.malformed != nil && !accessTo[k.method].decides {
		return k.malformed
	}
	return next(ctx)
}

// sendIDs tells the caller the ids of its request and of the decision.
func (c *chain) sendIDs(ctx context.Context, k *call, r *refusal) {
	if r != nil && r.sts.Decision != "" {
		k.decision, k.nonce = r.sts.Decision, r.sts.Nonce
	}
	md := metadata.MD{}
	if !k.told {
		md["x-request-id"] = []string{k.requestID}
	}
	if k.decision != "" {
		md["x-decision-id"] = []string{k.decision}
	}
	if k.nonce != "" {
		md[metadataNonce] = []string{k.nonce}
	}
	// It fails only if headers were sent already, as in a stream, or if there is
	// no stream: the HTTP face sets its own.
	_ = grpc.SetHeader(ctx, md)
}

// observe counts a request and writes its line.
func (c *chain) observe(ctx context.Context, k *call, r *refusal, begin time.Time) {
	took := time.Since(begin)
	c.metrics.observe(k, r, took)
	level := slog.LevelInfo
	if accessTo[k.method].quiet {
		level = slog.LevelDebug
	}
	code := ""
	if r != nil {
		code = string(r.sts.Code)
		switch {
		case r.sts.Limit != "":
			level = slog.LevelDebug
			c.tellPressure(ctx, r.sts.Limit, time.Now())
		case r.sts.Code == sts.ServerError:
			level = slog.LevelError
		case r.sts.Code == sts.Unavailable && r.grpc != codes.Canceled:
			level = slog.LevelWarn
		}
	}
	if k.unrecorded != nil {
		level = max(level, slog.LevelWarn)
	}
	if !c.log.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 9)
	attrs = append(attrs,
		slog.String("method", methodLabel(k.method)),
		slog.String("request_id", k.requestID),
		slog.String("peer", peerOf(ctx)),
		slog.Float64("took_ms", float64(took.Microseconds())/1000),
	)
	if k.decision != "" {
		attrs = append(attrs, slog.String("decision", k.decision))
	}
	if code != "" {
		attrs = append(attrs, slog.String("error", code))
	}
	// What a caller did wrong is in the audit record. What we could not do is
	// for whoever reads this log.
	if k.unrecorded != nil {
		attrs = append(attrs, slog.String("not_in_audit_log", k.unrecorded.Error()))
	}
	if level >= slog.LevelWarn && r != nil && r.sts.Err != nil {
		attrs = append(attrs, slog.String("cause", r.sts.Err.Error()))
	}
	c.log.LogAttrs(ctx, level, "request", attrs...)
}
