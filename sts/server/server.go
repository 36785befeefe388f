// Package server is the wire of the security token service: gRPC, the OAuth
// token endpoint, the JSON API, discovery, health and metrics. It is the only
// place that knows about them.
//
// Every request ends at one handler for each gRPC method, behind one chain of
// interceptors (chain.go), whichever face it came in by: the HTTP face calls the
// handlers through a connection inside the process (conn.go).
package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// Config is what a Server is made of.
type Config struct {
	Service  *sts.Service         // required
	Logger   *slog.Logger         // required
	Registry *prometheus.Registry // required; what /metrics serves

	LogDropped func() int64 // how many lines of Logger were not written; nil: none ever

	// TLS of each listener; nil is plain text, which is for loopback. See
	// [ReloadingTLS].
	HTTPTLS, GRPCTLS *tls.Config
	// Whose certificates count on each listener; nil asks clients for none. See
	// [ReloadingClientCertificates].
	HTTPClients, GRPCClients *ClientCertificates

	// GRPCURL is the base of the URLs that DPoP proofs over gRPC are for: scheme and
	// host. Default the issuer identifier.
	GRPCURL string

	Admin AdminConfig // who may use the admin interface

	RequestTimeout time.Duration // longest time for one request; default 10s
	ShutdownGrace  time.Duration // for requests in flight at the end; default 10s
	MaxConnections int           // on each listener, if so many files may be open; default 10,000
	MaxRequests    int           // token requests worked on at once; default 1,000
	MaxWatches     int           // WatchToken streams open at once; default 10,000
	Version        string        // of the program, for sts_build_info
}

// Server serves a Service over HTTP and gRPC.
type Server struct {
	http           *http.Server
	face           *httpFace
	grpc           *grpc.Server
	socket         *grpc.Server // the same services on the admin socket
	grace          time.Duration
	maxConnections int
	firstRequest   time.Duration
	stopping       chan struct{}
}

// New returns a Server that does not serve yet.
func New(c Config) (*Server, error) {
	c.RequestTimeout = cmp.Or(c.RequestTimeout, 10*time.Second)
	c.ShutdownGrace = cmp.Or(c.ShutdownGrace, 10*time.Second)
	c.MaxConnections = cmp.Or(c.MaxConnections, 10_000)
	c.MaxRequests = cmp.Or(c.MaxRequests, 1000)
	c.MaxWatches = cmp.Or(c.MaxWatches, 10_000)
	metadata := c.Service.Metadata()
	m := newMetrics(c.Version, c.Service)
	if c.LogDropped != nil {
		m.logDropped = c.LogDropped
	}
	if err := c.Registry.Register(m); err != nil {
		return nil, fmt.Errorf("registering metrics: %w", err)
	}
	s := &Server{grace: c.ShutdownGrace, maxConnections: c.MaxConnections, firstRequest: firstRequestTimeout, stopping: make(chan struct{})}
	proofs := proofURLs{metadata.Issuer, cmp.Or(c.GRPCURL, metadata.Issuer)}
	ch := &chain{service: c.Service, issuer: metadata.Issuer, log: c.Logger, metrics: m, timeout: c.RequestTimeout, clients: c.GRPCClients,
		gates: newGates(c.MaxRequests), overloaded: newOverloaded(metadata.Issuer), pressure: pressure{by: map[string]*pressed{}},
		admin: &admins{AdminConfig: c.Admin, service: c.Service, proofs: proofs},
	}
	ready := &readiness{service: c.Service, stopping: s.stopping, log: c.Logger}
	tokens := &tokenService{
		service: c.Service, chain: ch, watches: make(chan struct{}, c.MaxWatches),
		stopping: s.stopping, timeout: c.RequestTimeout, jitter: rand.Float64,
		proofs: proofs,
	}
	s.grpc = newGRPCServer(ch, c.GRPCClients.ask(hardened(c.GRPCTLS)))
	s.socket = newGRPCServer(ch, nil)
	conn := &inProcess{methods: map[string]inProcessMethod{}, intercept: ch.unary}
	services := []struct {
		desc grpc.ServiceDesc
		impl any
	}{
		{stsv1.TokenService_ServiceDesc, tokens},
		{stsv1.DiscoveryService_ServiceDesc, &discoveryService{service: c.Service}},
		{stsv1.AdminService_ServiceDesc, &adminService{service: c.Service, timeout: c.RequestTimeout}},
		{healthpb.Health_ServiceDesc, &healthService{ready: ready, watches: make(chan struct{}, maxHealthWatches)}},
	}
	if c.Service.Registers() {
		registrations := &registrationService{service: c.Service, chain: ch, proofs: proofs}
		services = append(services, struct {
			desc grpc.ServiceDesc
			impl any
		}{stsv1.RegistrationService_ServiceDesc, registrations})
	}
	for _, service := range services {
		s.grpc.RegisterService(receiving(service.desc), service.impl)
		s.socket.RegisterService(receiving(service.desc), service.impl)
		conn.RegisterService(&service.desc, service.impl)
	}
	face, err := newHTTPFace(c, ch, conn, ready)
	if err != nil {
		return nil, err
	}
	s.face = face
	s.http = newHTTPServer(s.face, c.RequestTimeout, c.HTTPClients.ask(hardened(c.HTTPTLS)))
	return s, nil
}

func newGRPCServer(c *chain, t *tls.Config) *grpc.Server {
	opts := []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(c.unary),
		grpc.ChainStreamInterceptor(c.stream),
		grpc.InTapHandle((&arrivals{limit: c.timeout, most: maxArriving}).tap),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxHeaderListSize(16 << 10),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(headerTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: maxIdle, Time: time.Minute, Timeout: 20 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.WaitForHandlers(true),
	}
	if t != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(t)))
	}
	return grpc.NewServer(opts...)
}

func newHTTPFace(c Config, ch *chain, conn grpc.ClientConnInterface, ready *readiness) (*httpFace, error) {
	api, err := newJSONAPI(ch, conn)
	if err != nil {
		return nil, fmt.Errorf("setting up the JSON API: %w", err)
	}
	metadata, keySet := documents(ch)
	face := &httpFace{
		chain:   ch,
		log:     c.Logger,
		api:     api,
		clients: c.HTTPClients,
		paths: map[string]http.Handler{
			"/oauth2/token":                           &tokenEndpoint{conn, ch},
			"/oauth2/introspect":                      &introspectionEndpoint{conn, ch},
			"/oauth2/revoke":                          &revocationEndpoint{conn, ch},
			"/.well-known/openid-configuration":       metadata,
			"/.well-known/oauth-authorization-server": metadata,
			"/.well-known/jwks.json":                  keySet,
			"/healthz/live":                           http.HandlerFunc(live),
			"/healthz/ready":                          ready,
			"/openapi.json":                           openAPI(c.Service.Metadata().Issuer, c.Service.Registers()),
			"/metrics":                                promhttp.HandlerFor(c.Registry, promhttp.HandlerOpts{DisableCompression: true}),
		},
	}
	if c.Service.Registers() {
		face.registration = &registrationEndpoint{conn: conn}
	}
	return face, nil
}

// Serve serves until ctx ends or a listener fails, also on admin sockets, see
// [ListenAdmin]. It then is not ready any
// more, ends watches with UNAVAILABLE, lets the requests in flight finish for as
// long as the configuration allows, and returns when nothing of it runs any
// more. The listeners are closed. A Server serves once.
func (s *Server) Serve(ctx context.Context, httpLn, grpcLn net.Listener, sockets ...net.Listener) error {
	room := roomFor(s.maxConnections, openFiles())
	if room < s.maxConnections {
		s.face.log.Warn("each listener takes fewer connections than configured, since this process may open few files; raise its limit (LimitNOFILE, ulimit -n)",
			"connections", room, "max_connections", s.maxConnections)
	}
	httpLn = limited(httpLn, room, s.firstRequest)
	grpcLn = limited(grpcLn, room, s.firstRequest)
	failed := make(chan error, 2+len(sockets))
	var serving sync.WaitGroup
	serving.Go(func() { failed <- s.serveHTTP(httpLn) })
	serving.Go(func() { failed <- s.grpc.Serve(grpcLn) })
	for _, ln := range sockets {
		ln = limited(ln, maxSocketConnections, s.firstRequest)
		serving.Go(func() { failed <- s.socket.Serve(ln) })
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	close(s.stopping)
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.grace)
	defer cancel()
	var stopped sync.WaitGroup
	var httpErr error
	stopped.Go(func() { httpErr = s.face.shutDown(grace, s.http) })
	for _, g := range []*grpc.Server{s.grpc, s.socket} {
		stopped.Go(func() { stopGRPC(grace, g) })
	}
	stopped.Wait()
	serving.Wait()
	return errors.Join(err, httpErr)
}

func (s *Server) serveHTTP(ln net.Listener) error {
	var err error
	if s.http.TLSConfig != nil {
		err = s.http.ServeTLS(ln, "", "")
	} else {
		err = s.http.Serve(ln)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serving HTTP: %w", err)
}

// stopGRPC lets calls in flight finish until ctx ends, and joins them.
func stopGRPC(ctx context.Context, g *grpc.Server) {
	stop := context.AfterFunc(ctx, g.Stop)
	defer stop()
	g.GracefulStop()
}
