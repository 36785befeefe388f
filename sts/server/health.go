package server

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// readiness tells what the server can do at the moment: everybody what is
// missing, in a word, and the log why.
type readiness struct {
	service  *sts.Service
	stopping <-chan struct{}
	log      *slog.Logger

	mu   sync.Mutex
	told map[sts.Capability]string // what the log was last told is missing
}

// capabilities are the names that health can be asked for by, besides "": those
// of the capabilities and of the services that need them.
var capabilities = map[string]sts.Capability{
	string(sts.CapabilityIssue):                    sts.CapabilityIssue,
	string(sts.CapabilityVerify):                   sts.CapabilityVerify,
	string(sts.CapabilityAdmin):                    sts.CapabilityAdmin,
	stsv1.TokenService_ServiceDesc.ServiceName:     sts.CapabilityIssue,
	stsv1.DiscoveryService_ServiceDesc.ServiceName: sts.CapabilityVerify,
	stsv1.AdminService_ServiceDesc.ServiceName:     sts.CapabilityAdmin,
}

// check returns whether each capability is there, and which dependency it lacks.
// A server that stops has none, and lacks nothing.
func (r *readiness) check(ctx context.Context) (there map[sts.Capability]bool, missing map[sts.Capability]string) {
	stopping := false
	select {
	case <-r.stopping:
		stopping = true
	default:
	}
	there, missing = map[sts.Capability]bool{}, map[sts.Capability]string{}
	for c, m := range r.service.Ready(ctx) {
		there[c] = m == nil && !stopping
		if m != nil {
			missing[c] = m.Dependency
		}
		r.tell(ctx, c, m)
	}
	return there, missing
}

// tell tells the log when something else is missing than before.
func (r *readiness) tell(ctx context.Context, c sts.Capability, m *sts.Missing) {
	dependency := ""
	if m != nil {
		dependency = m.Dependency
	}
	r.mu.Lock()
	before := r.told[c]
	if r.told == nil {
		r.told = map[sts.Capability]string{}
	}
	r.told[c] = dependency
	r.mu.Unlock()
	switch {
	case before == dependency:
	case m == nil:
		r.log.LogAttrs(ctx, slog.LevelInfo, "ready again", slog.String("capability", string(c)), slog.String("dependency", before))
	default:
		r.log.LogAttrs(ctx, slog.LevelWarn, "not ready", slog.String("capability", string(c)), slog.String("dependency", dependency),
			slog.String("cause", m.Err.Error()))
	}
}

// status returns the health of a service by its name; "" is everything.
func (r *readiness) status(ctx context.Context, name string) (healthpb.HealthCheckResponse_ServingStatus, bool) {
	c, known := capabilities[name]
	if !known && name != "" {
		return healthpb.HealthCheckResponse_SERVICE_UNKNOWN, false
	}
	there, _ := r.check(ctx)
	for each, ok := range there {
		if !ok && (name == "" || each == c) {
			return healthpb.HealthCheckResponse_NOT_SERVING, true
		}
	}
	return healthpb.HealthCheckResponse_SERVING, true
}

// ServeHTTP answers 200 if everything that was asked for is there, else 503, and
// names what is missing: anybody may know that, and nobody where it is or why.
func (r *readiness) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	all, missing := r.check(req.Context())
	if name := req.URL.Query().Get("capability"); name != "" {
		ok, known := all[sts.Capability(name)]
		if !known {
			writeError(w, notFound(), nil)
			return
		}
		all = map[sts.Capability]bool{sts.Capability(name): ok}
		maps.DeleteFunc(missing, func(c sts.Capability, _ string) bool { return string(c) != name })
	}
	code := http.StatusOK
	reply := struct {
		Ready        bool                      `json:"ready"`
		Capabilities map[sts.Capability]bool   `json:"capabilities"`
		Missing      map[sts.Capability]string `json:"missing,omitempty"`
	}{true, all, missing}
	for _, ok := range all {
		if !ok {
			code, reply.Ready = http.StatusServiceUnavailable, false
		}
	}
	writeJSON(w, code, reply)
}

// live answers that the process runs.
func live(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, struct {
		Live bool `json:"live"`
	}{true})
}

// healthService is the gRPC health protocol.
type healthService struct {
	healthpb.UnimplementedHealthServer
	ready   *readiness
	watches chan struct{} // a place for each open watch
}

// maxHealthWatches bounds what anybody can make the server poll.
const maxHealthWatches = 1000

// Check implements healthpb.HealthServer.
func (h *healthService) Check(ctx context.Context, m *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	st, known := h.ready.status(ctx, m.GetService())
	if !known {
		return nil, &sts.Error{Code: sts.NotFound, Message: "unknown service"}
	}
	return &healthpb.HealthCheckResponse{Status: st}, nil
}

// List implements healthpb.HealthServer.
func (h *healthService) List(ctx context.Context, _ *healthpb.HealthListRequest) (*healthpb.HealthListResponse, error) {
	out := map[string]*healthpb.HealthCheckResponse{}
	for name := range capabilities {
		st, _ := h.ready.status(ctx, name)
		out[name] = &healthpb.HealthCheckResponse{Status: st}
	}
	st, _ := h.ready.status(ctx, "")
	out[""] = &healthpb.HealthCheckResponse{Status: st}
	return &healthpb.HealthListResponse{Statuses: out}, nil
}

// healthPoll is how often a watch of health looks.
const healthPoll = time.Second

// Watch implements healthpb.HealthServer: it sends the status now and whenever
// it has changed. When the server stops it says so and ends.
func (h *healthService) Watch(m *healthpb.HealthCheckRequest, stream grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	ctx := stream.Context()
	select {
	case h.watches <- struct{}{}:
		defer func() { <-h.watches }()
	default:
		return &refusal{
			sts:  &sts.Error{Code: sts.Unavailable, RetryAfter: retryOverload, Message: "too many watch the health of this server"},
			grpc: codes.ResourceExhausted,
		}
	}
	tick := time.NewTicker(healthPoll)
	defer tick.Stop()
	last := healthpb.HealthCheckResponse_UNKNOWN
	for {
		stopping := false
		select {
		case <-h.ready.stopping:
			stopping = true
		default:
		}
		if st, _ := h.ready.status(ctx, m.GetService()); st != last {
			last = st
			if err := stream.Send(&healthpb.HealthCheckResponse{Status: st}); err != nil {
				return err
			}
		}
		if stopping {
			return errStopping()
		}
		select {
		case <-tick.C:
		case <-h.ready.stopping:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
