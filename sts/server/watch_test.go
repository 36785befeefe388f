package server

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

func prometheusRegistry() *prometheus.Registry { return prometheus.NewRegistry() }

// watchStream collects what a watch sends.
type watchStream struct {
	grpc.ServerStream
	ctx  context.Context
	sent []time.Time
}

func (s *watchStream) Context() context.Context { return s.ctx }

func (s *watchStream) Send(r *stsv1.TokenResponse) error {
	if r.GetAccessToken() == "" {
		panic("no token")
	}
	s.sent = append(s.sent, time.Now())
	return nil
}

// watching starts a watch in a bubble.
func watching(t *testing.T, jitter float64, audience string) (f *fixture, tokens *tokenService, s *watchStream, stop func(), done chan error) {
	t.Helper()
	f = &fixture{audit: &memAudit{}, keys: newTestKeys(t), log: &syncBuffer{}, secret: secretOf("web")}
	f.service = newService(t, f)
	f.registry = prometheus.NewRegistry()
	m := newMetrics("", f.service)
	if err := f.registry.Register(m); err != nil {
		t.Fatal(err)
	}
	stopping := make(chan struct{})
	tokens = &tokenService{
		service: f.service, watches: make(chan struct{}, 1), stopping: stopping, timeout: time.Second,
		jitter: func() float64 { return jitter },
		chain:  &chain{service: f.service, issuer: issuer, log: slog.New(slog.NewJSONHandler(f.log, nil)), metrics: m},
	}
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", basicAuth("web", f.secret)))
	ctx, _ = start(ctx)
	s = &watchStream{ctx: ctx}
	done = make(chan error, 1)
	req := &stsv1.WatchTokenRequest{Request: &stsv1.WatchTokenRequest_Issue{Issue: &stsv1.IssueTokenRequest{Audience: []string{audience}}}}
	go func() { done <- tokens.WatchToken(req, s) }()
	return f, tokens, s, func() { close(stopping) }, done
}

func TestWatchRenews(t *testing.T) {
	for _, row := range []struct {
		jitter float64
		every  time.Duration
	}{{0, 40 * time.Minute}, {1, 36 * time.Minute}} {
		synctest.Test(t, func(t *testing.T) {
			f, _, s, stop, done := watching(t, row.jitter, "api")
			begin := time.Now()
			time.Sleep(2*time.Hour + time.Second)
			synctest.Wait()
			for i, at := range s.sent {
				if got := at.Sub(begin); (got - time.Duration(i)*row.every).Abs() > 5*time.Second {
					t.Errorf("token %d after %v, want every %v", i, got, row.every)
				}
			}
			if want := int(2*time.Hour/row.every) + 1; len(s.sent) != want || len(f.audit.all()) != want {
				t.Errorf("%d tokens, %d records, want %d", len(s.sent), len(f.audit.all()), want)
			}
			stop()
			if r := refuse(t.Context(), issuer, <-done); r.grpcCode() != codes.Unavailable {
				t.Errorf("ended with %v", r)
			}
		})
	}
}

// Each token passes everything anew, so a right that is gone ends the watch.
func TestWatchEndsWithTheRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _, s, _, done := watching(t, 0, "api")
		time.Sleep(time.Minute)
		client, _, err := f.service.Resource(sts.Ref{Kind: sts.KindClient, Name: "web"})
		if err != nil {
			t.Fatal(err)
		}
		disabled := *client.Client
		disabled.Disabled = true
		if _, err := f.service.Apply(t.Context(), sts.Change{Put: []sts.Resource{{Client: &disabled}}}); err != nil {
			t.Fatal(err)
		}
		r := refuse(t.Context(), issuer, <-done)
		if r.sts.Code != sts.InvalidClient || r.sts.Decision == "" || len(s.sent) != 1 {
			t.Errorf("%v after %d tokens", r, len(s.sent))
		}
		f.assertNoCanary(t)
	})
}

func TestWatchEndsWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, tokens, _, stop, done := watching(t, 0, "api")
		synctest.Wait()
		// The only place is taken.
		err := tokens.WatchToken(&stsv1.WatchTokenRequest{}, &watchStream{ctx: t.Context()})
		if r := refuse(t.Context(), issuer, err); r.grpcCode() != codes.ResourceExhausted || r.sts.RetryAfter == 0 {
			t.Errorf("second watch: %v", err)
		}
		stop()
		<-done
		ctx, cancel := context.WithCancel(t.Context())
		ctx, _ = start(metadata.NewIncomingContext(ctx, metadata.Pairs("authorization", basicAuth("web", f.secret))))
		tokens.stopping = nil
		go func() {
			done <- tokens.WatchToken(&stsv1.WatchTokenRequest{Request: &stsv1.WatchTokenRequest_Issue{Issue: &stsv1.IssueTokenRequest{Audience: []string{"api"}}}}, &watchStream{ctx: ctx})
		}()
		synctest.Wait()
		cancel()
		if err := <-done; err != context.Canceled {
			t.Errorf("ended with %v", err)
		}
	})
}

// A watch that asks for what is not to be had ends with what a request gets.
func TestWatchRefusals(t *testing.T) {
	f := newFixture(t)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", basicAuth("web", f.secret))
	for name, row := range map[string]struct {
		req  *stsv1.WatchTokenRequest
		want sts.Code
	}{
		"neither":             {&stsv1.WatchTokenRequest{}, sts.InvalidRequest},
		"empty issue":         {&stsv1.WatchTokenRequest{Request: &stsv1.WatchTokenRequest_Issue{Issue: &stsv1.IssueTokenRequest{Audience: []string{"other"}}}}, sts.InvalidTarget},
		"T-43 empty exchange": {&stsv1.WatchTokenRequest{Request: &stsv1.WatchTokenRequest_Exchange{}}, sts.InvalidRequest},
		"A-42":                {&stsv1.WatchTokenRequest{Request: &stsv1.WatchTokenRequest_Issue{Issue: &stsv1.IssueTokenRequest{ClientId: "web", ClientSecret: canary}}}, sts.InvalidRequest},
	} {
		t.Run(name, func(t *testing.T) {
			b := f.before()
			stream, err := stsv1.NewTokenServiceClient(f.conn).WatchToken(ctx, row.req)
			if err != nil {
				t.Fatal(err)
			}
			_, err = stream.Recv()
			f.assertRefused(t, b, answerOf(err), row.want)
			if status.Code(err) != wire[row.want].grpc {
				t.Error(err)
			}
		})
	}
}

func TestRenewal(t *testing.T) {
	for _, row := range []struct {
		lifetime time.Duration
		jitter   float64
		want     time.Duration
	}{
		{time.Hour, 0, 40 * time.Minute}, {time.Hour, 1, 36 * time.Minute}, {30 * time.Second, 0.5, 19 * time.Second},
		{time.Second, 0, time.Second}, {0, 0, time.Second}, {-time.Second, 1, time.Second},
	} {
		if got := renewal(row.lifetime, row.jitter); got != row.want {
			t.Errorf("renewal(%v, %v) = %v, want %v", row.lifetime, row.jitter, got, row.want)
		}
	}
}
