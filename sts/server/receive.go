package server

import (
	"container/list"
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	encodingproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxMessage bounds a message over gRPC. The library reads one whole before
// anything of ours knows of it, from callers that nobody has authenticated, so
// there is one bound for all methods.
const maxMessage = 256 << 10

// incoming is a message on its way in. A message that cannot be read is noted in
// it and is no error of the transport, so that the request still goes through
// the chain and is recorded.
type incoming struct {
	message proto.Message
	bad     *refusal
}

// notingCodec notes what is wrong with a message in it.
type notingCodec struct{ encoding.CodecV2 }

func newCodec() encoding.CodecV2 {
	return notingCodec{encoding.GetCodecV2(encodingproto.Name)}
}

func (c notingCodec) Unmarshal(data mem.BufferSlice, v any) error {
	in, ok := v.(*incoming)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	if err := c.CodecV2.Unmarshal(data, in.message); err != nil {
		in.bad = malformed("", "the message is not of the type of this method, or has text that is not UTF-8")
	}
	return nil
}

// receiving is a service whose unary methods take a message that cannot be read
// as a request that the wire refuses.
func receiving(desc grpc.ServiceDesc) *grpc.ServiceDesc {
	methods := make([]grpc.MethodDesc, len(desc.Methods))
	for i, m := range desc.Methods {
		methods[i] = grpc.MethodDesc{MethodName: m.MethodName, Handler: func(srv any, ctx context.Context, dec func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			ctx, k := start(ctx)
			return m.Handler(srv, ctx, func(v any) error { return receive(dec, v, k) }, interceptor)
		}}
	}
	desc.Methods = methods
	return &desc
}

// start begins the call of a request over gRPC.
func start(ctx context.Context) (context.Context, *call) {
	md, _ := metadata.FromIncomingContext(ctx)
	k := &call{requestID: requestID(md.Get(headerRequestID))}
	k.arrival, _ = ctx.Value(arrivalKey{}).(*arrival)
	return withCall(ctx, k), k
}

// receive reads a message into v, a proto.Message.
func receive(dec func(any) error, v any, k *call) error {
	in := &incoming{message: v.(proto.Message)}
	if err := dec(in); err != nil {
		return err
	}
	if !k.parts {
		k.arrived()
	}
	if in.bad != nil {
		proto.Reset(in.message)
		k.malformed = in.bad
	}
	return nil
}

// receiver is a server stream that takes messages like the unary methods.
type receiver struct {
	grpc.ServerStream
	ctx  context.Context
	call *call
}

func (r *receiver) Context() context.Context { return r.ctx }
func (r *receiver) RecvMsg(v any) error      { return receive(r.ServerStream.RecvMsg, v, r.call) }

type arrivalKey struct{}

// maxArriving is how many messages over gRPC may be on their way in at once, with
// maxMessage bytes each.
const maxArriving = 2048

// arrivals are the calls whose message is on its way in. Nothing of ours sees a
// request before it is there, and nobody knows whose it is, so each has a time to
// arrive in, and of more than there may be the one that has waited longest is
// given up: an honest message takes a moment, one that is held back takes all the
// time there is.
type arrivals struct {
	limit time.Duration
	most  int

	mu      sync.Mutex
	waiting list.List // of *arrival, oldest first
}

// arrival is one of them. It is over when the message is there.
type arrival struct {
	of     *arrivals
	cancel context.CancelFunc
	timer  *time.Timer
	at     *list.Element // nil: it is over
}

// tap begins an arrival, with the headers of a call.
func (a *arrivals) tap(ctx context.Context, _ *tap.Info) (context.Context, error) {
	if p, ok := peer.FromContext(ctx); ok {
		requested(p.LocalAddr)
	}
	ctx, cancel := context.WithCancel(ctx)
	// After the end of the stream it cancels what is cancelled already.
	one := &arrival{of: a, cancel: cancel, timer: time.AfterFunc(a.limit, cancel)}
	a.mu.Lock()
	one.at = a.waiting.PushBack(one)
	var oldest *arrival
	if a.waiting.Len() > a.most {
		oldest = a.waiting.Front().Value.(*arrival)
	}
	a.mu.Unlock()
	context.AfterFunc(ctx, one.over)
	if oldest != nil {
		oldest.over()
		oldest.cancel()
	}
	return context.WithValue(ctx, arrivalKey{}, one), nil
}

// over says that the message is there, or that nobody waits for it any more.
func (r *arrival) over() {
	r.timer.Stop()
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	if r.at != nil {
		r.of.waiting.Remove(r.at)
		r.at = nil
	}
}

// known refuses fields that this version does not know: one that makes a request
// stricter must not be overlooked. Only m itself is looked at.
func known(m proto.Message) *refusal {
	if len(m.ProtoReflect().GetUnknown()) == 0 {
		return nil
	}
	return unknownFields()
}

func unknownFields() *refusal {
	return malformed("", "the message has fields that this version of the service does not know")
}

// knownDeep is known for a message and all in it.
func knownDeep(m protoreflect.Message) bool {
	if len(m.GetUnknown()) > 0 {
		return false
	}
	ok := true
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap() && fd.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, e protoreflect.Value) bool {
				ok = ok && knownDeep(e.Message())
				return ok
			})
		case fd.IsMap() || fd.Message() == nil:
		case fd.IsList():
			for i := range v.List().Len() {
				ok = ok && knownDeep(v.List().Get(i).Message())
			}
		default:
			ok = knownDeep(v.Message())
		}
		return ok
	})
	return ok
}
