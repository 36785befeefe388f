package bench

import (
	"context"
	"testing"

	"github.com/fullstorydev/grpchan/inprocgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

// BenchmarkInside measures the other ways by which the HTTP face could reach the
// handlers. Our own is BenchmarkConn of the server package: the same call to the
// same empty handler.
func BenchmarkInside(b *testing.B) {
	b.Run("inprocgrpc", func(b *testing.B) {
		var c inprocgrpc.Channel
		stsv1.RegisterTokenServiceServer(&c, echo{})
		issue(b, &c)
	})
	b.Run("socket", func(b *testing.B) {
		s := grpc.NewServer()
		stsv1.RegisterTokenServiceServer(s, echo{})
		ln := listen(b)
		go s.Serve(ln)
		b.Cleanup(s.Stop)
		conn, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		must(b, err)
		b.Cleanup(func() { conn.Close() })
		issue(b, conn)
	})
}

func issue(b *testing.B, conn grpc.ClientConnInterface) {
	b.Helper()
	client := stsv1.NewTokenServiceClient(conn)
	in := &stsv1.IssueTokenRequest{ClientId: "web", ClientSecret: "secret", Audience: []string{"api"}, Scope: "read"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.IssueToken(b.Context(), in); err != nil {
			b.Fatal(err)
		}
	}
}

type echo struct {
	stsv1.UnimplementedTokenServiceServer
}

func (echo) IssueToken(context.Context, *stsv1.IssueTokenRequest) (*stsv1.TokenResponse, error) {
	return &stsv1.TokenResponse{AccessToken: string(make([]byte, 800)), TokenType: "Bearer", ExpiresIn: 3600, Scope: "read"}, nil
}
