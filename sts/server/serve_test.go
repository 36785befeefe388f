package server

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

func (f *fixture) good() ask {
	return ask{method: "issue", auth: []string{basicAuth("web", f.secret)}, params: map[string][]string{"audience": {"api"}, "scope": {"read"}}}
}

// F48: when the server stops it is not ready at once, requests in flight finish,
// watches end with UNAVAILABLE, and nothing is left running (goleak).
func TestStop(t *testing.T) {
	f := newFixture(t)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", basicAuth("web", f.secret))
	watch, err := stsv1.NewTokenServiceClient(f.conn).WatchToken(ctx, &stsv1.WatchTokenRequest{
		Request: &stsv1.WatchTokenRequest_Issue{Issue: &stsv1.IssueTokenRequest{Audience: []string{"api"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	if header, err := watch.Header(); err != nil || len(header["x-request-id"]) != 1 {
		t.Error(header, err)
	}
	health, err := healthpb.NewHealthClient(f.conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if st, err := health.Recv(); err != nil || st.Status != healthpb.HealthCheckResponse_SERVING {
		t.Fatal(st, err)
	}
	hold := make(chan struct{})
	f.keys.block.Store(&hold)
	signed := f.keys.signed.Load()
	inFlight := make(chan answer, 2)
	go func() { inFlight <- f.form(t, f.good()) }()
	go func() { inFlight <- f.grpc(t, f.good()) }()
	waitFor(t, func() bool { return f.keys.signed.Load() == signed+2 })
	stopped := make(chan error, 1)
	go func() { stopped <- f.stop() }()
	if _, err := watch.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("watch ended with %v", err)
	}
	if st, err := health.Recv(); err != nil || st.Status != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Error(st, err)
	}
	select {
	case err := <-stopped:
		t.Fatalf("stopped with requests in flight: %v", err)
	default:
	}
	close(hold)
	for range 2 {
		if got := <-inFlight; got.token == "" {
			t.Errorf("a request in flight: %s", got.raw)
		}
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// What does not finish within the grace is cut off.
func TestStopTakesNoLongerThanGrace(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.ShutdownGrace = 50 * time.Millisecond })
	never := make(chan struct{})
	f.keys.block.Store(&never)
	done := make(chan struct{})
	go func() {
		defer close(done)
		req := f.request(t, http.MethodPost, "/oauth2/token", strings.NewReader("grant_type=client_credentials&audience=api"))
		req.Header.Set("Content-Type", formType)
		req.Header.Set("Authorization", basicAuth("web", f.secret))
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
		}
	}()
	waitFor(t, func() bool { return f.keys.signed.Load() == 1 })
	if err := f.stop(); err != nil {
		t.Error(err)
	}
	<-done
	if r := f.audit.all(); len(r) != 1 || r[0].Outcome != "deny" {
		t.Errorf("records %+v", r)
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("did not happen")
		}
	}
}

// F54: a panic is an error of one request, and what it says is not told.
func TestPanic(t *testing.T) {
	f := newFixture(t)
	f.keys.boom.Store(true)
	for face, do := range map[string]func(testing.TB, ask) answer{"form": f.form, "json": f.json, "grpc": f.grpc} {
		got := do(t, f.good())
		if got.code != sts.ServerError || got.token != "" {
			t.Errorf("%s: %+v", face, got)
		}
		f.assertNoCanary(t, got.raw)
	}
	f.keys.boom.Store(false)
	if got := f.form(t, f.good()); got.token == "" {
		t.Errorf("after the panic: %s", got.raw)
	}
	if !strings.Contains(f.log.String(), "panic in a handler") {
		t.Error("the panic is not in the log")
	}
}

// What cannot be recorded or signed is refused for now, with a time to come back.
func TestUnavailable(t *testing.T) {
	f := newFixture(t)
	for name, broken := range map[string]func(bool){
		"L-07 audit": func(b bool) {
			f.audit.fail(map[bool]error{true: errBroken}[b])
		},
		"keys": f.keys.broken.Store,
	} {
		t.Run(name, func(t *testing.T) {
			broken(true)
			defer broken(false)
			for _, got := range []answer{f.form(t, f.good()), f.json(t, f.good())} {
				if got.http != 503 || got.code != sts.Unavailable || got.header.Get("Retry-After") == "" || got.token != "" {
					t.Errorf("%d %s", got.http, got.raw)
				}
			}
			if got := f.grpc(t, f.good()); got.grpc != codes.Unavailable || !strings.Contains(got.raw, "RetryInfo") {
				t.Errorf("%+v", got)
			}
			if !strings.Contains(f.log.String(), errBroken.Error()) {
				t.Error("the operator is not told why")
			}
			ready := f.do(t, f.request(t, http.MethodGet, "/healthz/ready", nil))
			missing := map[string]string{"L-07 audit": "audit log", "keys": "signing key"}[name]
			if ready.http != 503 || !strings.Contains(ready.raw, `"missing":{"issue":"`+missing+`"}`) || strings.Contains(ready.raw, errBroken.Error()) {
				t.Errorf("ready: %d %s", ready.http, ready.raw)
			}
		})
	}
}

func TestHealth(t *testing.T) {
	f := newFixture(t)
	for path, want := range map[string]int{
		"/healthz/live": 200, "/healthz/ready": 200, "/healthz/ready?capability=issue": 200, "/healthz/ready?capability=verify": 200,
		"/healthz/ready?capability=admin": 200, "/healthz/ready?capability=other": 404,
	} {
		if got := f.do(t, f.request(t, http.MethodGet, path, nil)); got.http != want {
			t.Errorf("%s: %d %s", path, got.http, got.raw)
		}
	}
	client := healthpb.NewHealthClient(f.conn)
	for _, name := range []string{"", "issue", "verify", "admin", "sts.v1.TokenService", "sts.v1.DiscoveryService", "sts.v1.AdminService"} {
		if r, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{Service: name}); err != nil || r.Status != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("%q: %v %v", name, r, err)
		}
	}
	if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "other"}); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	if l, err := client.List(t.Context(), &healthpb.HealthListRequest{}); err != nil || len(l.Statuses) != 7 {
		t.Error(l, err)
	}
	if got := f.do(t, f.request(t, http.MethodGet, "/healthz/ready", nil)); strings.Contains(got.raw, "missing") {
		t.Errorf("nothing is missing: %s", got.raw)
	}
	// Without the key nothing can be issued, and everything else goes on.
	f.keys.broken.Store(true)
	f.form(t, f.good())
	for name, want := range map[string]healthpb.HealthCheckResponse_ServingStatus{
		"issue": healthpb.HealthCheckResponse_NOT_SERVING, "verify": healthpb.HealthCheckResponse_SERVING, "": healthpb.HealthCheckResponse_NOT_SERVING,
	} {
		if r, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{Service: name}); err != nil || r.Status != want {
			t.Errorf("%q: %v %v", name, r, err)
		}
	}
}

// Readiness needs no traffic to know that the keys are gone, or back. It names
// what is missing and says no more; the log is told why, once.
func TestReadinessNamesWhatIsMissing(t *testing.T) {
	f := newFixture(t)
	ask := func(query string) answer {
		return f.do(t, f.request(t, http.MethodGet, "/healthz/ready"+query, nil))
	}
	f.keys.down.Store(true)
	for query, want := range map[string]string{
		"":                   `{"ready":false,"capabilities":{"admin":true,"issue":false,"verify":true},"missing":{"issue":"vault"}}`,
		"?capability=issue":  `{"ready":false,"capabilities":{"issue":false},"missing":{"issue":"vault"}}`,
		"?capability=verify": `{"ready":true,"capabilities":{"verify":true}}`,
	} {
		if got := ask(query); got.raw != want || (got.http == 200) != (query == "?capability=verify") {
			t.Errorf("%s: %d %s", query, got.http, got.raw)
		}
	}
	r, err := healthpb.NewHealthClient(f.conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: "issue"})
	if err != nil || r.Status != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Error(r, err)
	}
	f.keys.down.Store(false)
	if got := ask(""); got.http != 200 {
		t.Errorf("%d %s", got.http, got.raw)
	}
	ask("")
	log := f.log.String()
	if n := strings.Count(log, `"msg":"not ready","capability":"issue","dependency":"vault","cause":"`+vaultDown{}.Error()+`"`); n != 1 {
		t.Errorf("told %d times: %s", n, log)
	}
	if n := strings.Count(log, `"msg":"ready again","capability":"issue","dependency":"vault"`); n != 1 {
		t.Errorf("told %d times: %s", n, log)
	}
}

// L-06: no caller makes new series, and L-04: nor new lines.
func TestLogAndMetrics(t *testing.T) {
	f := newFixture(t)
	f.form(t, f.good())
	series := func() int {
		n := 0
		for line := range strings.SplitSeq(f.scrape(t), "label:{name:\"grant\"") {
			_ = line
			n++
		}
		return n
	}
	var counted []int
	for i := range 3 {
		for _, id := range []string{"a", "b\n{\"level\":\"info\"}", "\x1b[31m", "\u2028"} {
			id += strings.Repeat("x", i)
			a := f.good()
			a.auth = []string{basicAuth(id, "x")}
			f.form(t, a)
			a.grant = id
			f.form(t, a)
			req := f.request(t, http.MethodGet, "/x"+strings.Repeat("x", i), nil)
			req.Header.Set("User-Agent", "x"+strings.Repeat("x", i))
			f.do(t, req)
		}
		counted = append(counted, series())
	}
	if counted[0] != counted[2] {
		t.Errorf("series grow: %v", counted)
	}
	for line := range strings.Lines(f.log.String()) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("not one JSON line: %q", line)
		}
		if entry["msg"] == "request" && (entry["request_id"] == nil || entry["peer"] != "127.0.0.1" || entry["took_ms"] == nil) {
			t.Errorf("line %s", line)
		}
	}
	got := f.do(t, f.request(t, http.MethodGet, "/metrics", nil))
	for _, want := range []string{
		`sts_requests_total{code="",grant="client_credentials",method="/sts.v1.TokenService/IssueToken",outcome="ok"} 1`,
		`code="unsupported_grant_type",grant="other"`, `sts_request_duration_seconds_count{`, "sts_watch_streams 0", `sts_build_info{goversion="go`,
	} {
		if !strings.Contains(got.raw, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
}

// A listener that fails ends the server.
func TestListenerFails(t *testing.T) {
	f := newFixture(t)
	s, err := New(Config{Service: f.service, Logger: discard(), Registry: prometheusRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	httpLn, grpcLn := listen(t), listen(t)
	if err := grpcLn.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(context.Background(), httpLn, grpcLn); err == nil {
		t.Error("no error")
	}
}
