package server

import (
	"context"
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
	k.arrival, _ = ctx.Value(arrivalKey{}).(*time.Timer)
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

// arrivalLimit gives a message a time to arrive in: a deadline that starts with
// the headers, before the library waits for the message. Nothing of ours sees a
// request before it.
func arrivalLimit(limit time.Duration) tap.ServerInHandle {
	return func(ctx context.Context, _ *tap.Info) (context.Context, error) {
		if p, ok := peer.FromContext(ctx); ok {
			requested(p.LocalAddr)
		}
		ctx, cancel := context.WithCancel(ctx)
		// After the end of the stream it cancels what is cancelled already.
		return context.WithValue(ctx, arrivalKey{}, time.AfterFunc(limit, cancel)), nil
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
