package server

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// inProcess is a connection to our own handlers, through the same interceptor as
// over gRPC, but without a socket and without encoding. The HTTP face uses it.
//
// Values of the context flow through, so peer and TLS state are the caller's. It
// adds no right: there is nothing in a request by which a handler could tell it
// from another.
//
// A call through it costs about 1 µs (BenchmarkConn); DESIGN.md has what the
// alternatives cost.
type inProcess struct {
	methods   map[string]inProcessMethod
	intercept grpc.UnaryServerInterceptor
}

type inProcessMethod struct {
	impl    any
	handler grpc.MethodHandler
}

// RegisterService makes the unary methods of a service callable.
func (p *inProcess) RegisterService(desc *grpc.ServiceDesc, impl any) {
	for _, m := range desc.Methods {
		p.methods["/"+desc.ServiceName+"/"+m.MethodName] = inProcessMethod{impl, m.Handler}
	}
}

// Invoke calls a method. The handler gets a copy of args and reply becomes a
// copy of what it returned, so that neither side sees the other's changes.
func (p *inProcess) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	m, ok := p.methods[method]
	if !ok {
		return status.Error(codes.Unimplemented, "unknown method")
	}
	md, _ := metadata.FromOutgoingContext(ctx)
	ctx = metadata.NewIncomingContext(ctx, md)
	stream := &inProcessStream{method: method}
	ctx = grpc.NewContextWithServerTransportStream(ctx, stream)
	decode := func(v any) error {
		proto.Merge(v.(proto.Message), args.(proto.Message))
		return nil
	}
	out, err := m.handler(m.impl, ctx, decode, p.intercept)
	for _, o := range opts {
		switch o := o.(type) {
		case grpc.HeaderCallOption:
			*o.HeaderAddr = stream.header
		case grpc.TrailerCallOption:
			*o.TrailerAddr = stream.trailer
		}
	}
	if err != nil {
		return err
	}
	proto.Merge(reply.(proto.Message), out.(proto.Message))
	return nil
}

// NewStream is not possible: no stream is offered over HTTP.
func (p *inProcess) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "streams are offered over gRPC only")
}

// inProcessStream keeps what a handler sets as headers and trailers.
type inProcessStream struct {
	method          string
	header, trailer metadata.MD
}

func (s *inProcessStream) Method() string { return s.method }

func (s *inProcessStream) SetHeader(md metadata.MD) error {
	s.header = join(s.header, md)
	return nil
}

func (s *inProcessStream) SendHeader(md metadata.MD) error { return s.SetHeader(md) }

func (s *inProcessStream) SetTrailer(md metadata.MD) error {
	s.trailer = join(s.trailer, md)
	return nil
}

func join(a, b metadata.MD) metadata.MD {
	if a == nil {
		return b
	}
	return metadata.Join(a, b)
}
