package server

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

// echo is a TokenService that tells what it was given.
type echo struct {
	stsv1.UnimplementedTokenServiceServer
	ctx  context.Context
	req  *stsv1.IssueTokenRequest
	resp *stsv1.TokenResponse
}

func (e *echo) IssueToken(ctx context.Context, m *stsv1.IssueTokenRequest) (*stsv1.TokenResponse, error) {
	e.ctx, e.req = ctx, m
	if err := grpc.SetHeader(ctx, metadata.Pairs("x-decision-id", "d")); err != nil {
		return nil, err
	}
	if err := grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "t")); err != nil {
		return nil, err
	}
	return e.resp, nil
}

func pass(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	return h(ctx, req)
}

func newConn(impl stsv1.TokenServiceServer, i grpc.UnaryServerInterceptor) *inProcess {
	c := &inProcess{methods: map[string]inProcessMethod{}, intercept: i}
	c.RegisterService(&stsv1.TokenService_ServiceDesc, impl)
	return c
}

func TestConn(t *testing.T) {
	e := &echo{resp: &stsv1.TokenResponse{AccessToken: "token"}}
	intercepted := 0
	conn := newConn(e, func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		if info.FullMethod == stsv1.TokenService_IssueToken_FullMethodName {
			intercepted++
		}
		return h(ctx, req)
	})
	type key struct{}
	tcp := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}
	ctx := peer.NewContext(context.WithValue(t.Context(), key{}, "value"), &peer.Peer{
		Addr: tcp, AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{ServerName: "sts"}},
	})
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Basic x")
	in := &stsv1.IssueTokenRequest{Audience: []string{"a"}}
	var header, trailer metadata.MD
	out, err := stsv1.NewTokenServiceClient(conn).IssueToken(ctx, in, grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil || out.GetAccessToken() != "token" || intercepted != 1 {
		t.Fatal(out, err, intercepted)
	}
	if one(header["x-decision-id"]) != "d" || one(trailer["x-trailer"]) != "t" {
		t.Error(header, trailer)
	}
	// Neither side sees what the other does to a message afterwards.
	e.req.Audience[0] = "changed"
	out.AccessToken = "changed"
	if in.Audience[0] != "a" || e.resp.AccessToken != "token" {
		t.Error("messages are shared")
	}
	md, _ := metadata.FromIncomingContext(e.ctx)
	p, _ := peer.FromContext(e.ctx)
	if e.ctx.Value(key{}) != "value" || one(md["authorization"]) != "Basic x" || p.Addr != net.Addr(tcp) || p.AuthInfo.(credentials.TLSInfo).State.ServerName != "sts" {
		t.Error("the caller is not passed on")
	}
	if _, err := stsv1.NewTokenServiceClient(conn).ExchangeToken(ctx, &stsv1.ExchangeTokenRequest{}); status.Code(err) != codes.Unimplemented {
		t.Error(err)
	}
	if err := conn.Invoke(ctx, "/sts.v1.TokenService/Other", in, out); status.Code(err) != codes.Unimplemented {
		t.Error(err)
	}
	if _, err := stsv1.NewTokenServiceClient(conn).WatchToken(ctx, &stsv1.WatchTokenRequest{}); status.Code(err) != codes.Unimplemented {
		t.Error(err)
	}
}

// M-03: headers that the gateway of old would turn into metadata.
func TestPeerIsTheConnection(t *testing.T) {
	f := newFixture(t)
	req := f.request(t, http.MethodPost, "/v1/token:issue", nil)
	req.Header.Set("Content-Type", "application/json")
	for _, h := range []string{"X-Forwarded-For", "Grpc-Metadata-X-Forwarded-For", "Forwarded", "X-Real-Ip", "Grpc-Metadata-X-Forwarded-Client-Cert"} {
		req.Header.Set(h, "203.0.113.9")
	}
	req.Header.Set("Grpc-Timeout", "1n")
	f.do(t, req)
	if r := f.audit.all(); len(r) != 1 || r[0].Peer != "127.0.0.1" {
		t.Errorf("%+v", r)
	}
}

func BenchmarkConn(b *testing.B) {
	e := &echo{resp: &stsv1.TokenResponse{AccessToken: string(make([]byte, 800)), TokenType: "Bearer", ExpiresIn: 3600, Scope: "read"}}
	client := stsv1.NewTokenServiceClient(newConn(e, pass))
	benchmarkClient(b, client)
}

func benchmarkClient(b *testing.B, client stsv1.TokenServiceClient) {
	in := &stsv1.IssueTokenRequest{ClientId: "web", ClientSecret: "secret", Audience: []string{"api"}, Scope: "read"}
	ctx := metadata.AppendToOutgoingContext(b.Context(), "authorization", "Basic x")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.IssueToken(ctx, in); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFaces is a token request from the handler of a face on, and over a
// connection. The test key signs with ES256.
func BenchmarkFaces(b *testing.B) {
	f := newFixture(b, func(c *Config) { c.Logger = slog.New(slog.NewJSONHandler(discardWriter{}, nil)) })
	b.Run("sign", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := f.keys.Sign(b.Context(), "default", "at+jwt", make([]byte, 300)); err != nil {
				b.Fatal(err)
			}
		}
	})
	for name, do := range map[string]func(testing.TB, ask) answer{"form": f.form, "json": f.json, "grpc": f.grpc} {
		b.Run(name, func(b *testing.B) {
			a := f.good()
			b.ReportAllocs()
			for b.Loop() {
				if got := do(b, a); got.token == "" {
					b.Fatal(got.raw)
				}
			}
		})
	}
	b.Run("chain", func(b *testing.B) {
		c := f.server.face.chain
		ctx := withCall(b.Context(), &call{requestID: "x"})
		b.ReportAllocs()
		for b.Loop() {
			if err := c.run(ctx, stsv1.TokenService_IssueToken_FullMethodName, time.Second, func(context.Context) error { return nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
}

type discardWriter struct{}

func (discardWriter) Write(p []byte) (int, error) { return len(p), nil }
