package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/internal/ststest"
	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const issuer = "https://sts.example.com"

// noIssuers is a sts.IssuerKeys of a world without other issuers.
type noIssuers struct{}

func (noIssuers) Trust([]*sts.Issuer)     {}
func (noIssuers) Check(*sts.Issuer) error { return nil }
func (noIssuers) Review(context.Context, string, string, string) (string, error) {
	return "", jose.ErrSignature
}
func (noIssuers) Status() []sts.IssuerStatus { return issuerStatus }
func (noIssuers) Key(context.Context, string, string, jose.Algorithm) (jose.Key, error) {
	return jose.Key{}, jose.ErrUnknownKey
}

// issuerStatus is what noIssuers says of issuers.
var issuerStatus = []sts.IssuerStatus{
	{Name: "new", Source: "discovery"},
	{
		Name: "used", Source: "jwks_uri", Keys: []sts.IssuerKey{{ID: "k1", Algorithm: "RS256"}, {Algorithm: "EC P-256"}}, Problem: "status 500",
		Fetched: time.Unix(1_795_521_600, 0), Asked: time.Unix(1_795_521_660, 0), Refresh: time.Unix(1_795_522_000, 0), Stale: time.Unix(1_795_525_800, 0),
	},
}

// memAudit is a sts.Audit in memory. It can fail.
type memAudit struct {
	mu      sync.Mutex
	records []sts.Record
	broken  error
}

func (a *memAudit) Record(_ context.Context, r *sts.Record) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.broken != nil {
		return a.broken
	}
	a.records = append(a.records, *r)
	return nil
}

func (a *memAudit) Err() error { return nil }

func (a *memAudit) all() []sts.Record {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.records)
}

func (a *memAudit) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.broken = err
}

// memReplay is a sts.Replay that never forgets.
type memReplay struct{ used sync.Map }

func (m *memReplay) Use(_ context.Context, space sts.ReplaySpace, key string, _, _ time.Time) (bool, error) {
	_, used := m.used.LoadOrStore(string(space)+" "+key, true)
	return !used, nil
}

func (m *memReplay) Err() error { return nil }

// syncBuffer is a log that can be read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// canary is in every secret of the tests, so that it must be nowhere else.
const canary = "cAnArY-7f3b"

// fixture is a server on loopback, with a real Service behind it.
type fixture struct {
	service    *sts.Service
	nonceKey   []byte // with one, DPoP proofs need a nonce
	socket     string // path of the admin socket; empty: none
	backups    *memSnapshots
	server     *Server
	audit      *memAudit
	revoked    *memRevocations
	registered *ststest.Registrations
	closed     bool // clients cannot be registered
	keys       *testKeys
	log        *syncBuffer
	registry   *prometheus.Registry
	url        string
	httpAddr   string
	grpcAddr   string
	conn       *grpc.ClientConn
	secret     string // of client web
	admin      string
	stop       func() error
}

// secretOf makes a client secret with the canary in it.
func secretOf(name string) string { return "stss_" + canary + name + strings.Repeat("x", 43) }

func mustHash(tb testing.TB, secret string) string {
	tb.Helper()
	h, err := sts.HashSecret(secret)
	if err != nil {
		tb.Fatal(err)
	}
	return h
}

func resources(tb testing.TB) []sts.Resource {
	return []sts.Resource{
		{Audience: &sts.Audience{Name: "api", Identifiers: []string{"api", "https://api.example.com"}, Scopes: []string{"read", "write"}}},
		{Audience: &sts.Audience{Name: "brief", Scopes: []string{"read"}, MaxTTL: 30 * time.Second}},
		{Client: &sts.Client{Name: "web", Audiences: []string{"api"}, Secrets: []sts.ClientSecret{{Hash: mustHash(tb, secretOf("web"))}}}},
		{Client: &sts.Client{Name: "odd:id/+", Secrets: []sts.ClientSecret{{Hash: mustHash(tb, secretOf("odd"))}}}},
		{Rule: &policy.Rule{
			Name: "web", Requester: policy.Requester{Clients: []string{"web"}},
			Allow: policy.Allow{Audiences: []string{"api"}, Scopes: []string{"read", "write"}},
		}},
		{Rule: &policy.Rule{
			Name: "brief", Requester: policy.Requester{Clients: []string{"web"}},
			Allow: policy.Allow{Audiences: []string{"brief"}, Scopes: []string{"read"}},
		}},
	}
}

// newService returns a Service over the doubles.
func newService(tb testing.TB, f *fixture) *sts.Service {
	tb.Helper()
	all := slices.DeleteFunc(resources(tb), func(r sts.Resource) bool { return r.Client != nil && strings.HasPrefix(r.Client.Name, "odd") })
	store := ststest.NewStore(all...)
	f.backups = &memSnapshots{}
	f.revoked = &memRevocations{m: map[sts.RevocationName]sts.Revocation{}}
	f.registered = ststest.NewRegistrations()
	var registrations sts.Registrations
	if !f.closed {
		registrations = f.registered
	}
	s, err := sts.New(tb.Context(), sts.Config{
		Registrations: registrations,
		Snapshots:     f.backups,
		Issuer:        issuer, Store: store, Keys: f.keys, IssuerKeys: noIssuers{}, ClientKeys: noClientKeys{}, Audit: f.audit, Replay: &memReplay{}, Revocations: f.revoked, NonceKey: f.nonceKey,
	})
	if err != nil {
		tb.Fatal(err)
	}
	f.admin = secretOf("admin")
	return s
}

// start serves until the test ends. edit may change the configuration.
func newFixture(tb testing.TB, edit ...func(*Config)) *fixture {
	tb.Helper()
	return (&fixture{}).start(tb, edit...)
}

func (f *fixture) start(tb testing.TB, edit ...func(*Config)) *fixture {
	tb.Helper()
	*f = fixture{closed: f.closed, nonceKey: f.nonceKey, socket: f.socket, audit: &memAudit{}, keys: newTestKeys(tb), log: &syncBuffer{}, registry: prometheus.NewRegistry(), secret: secretOf("web")}
	f.service = newService(tb, f)
	c := Config{
		Service: f.service, Registry: f.registry, ShutdownGrace: 5 * time.Second, Version: "v0.0.0-test",
		Logger: slog.New(slog.NewJSONHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	c.Admin.TokenFile = filepath.Join(tb.TempDir(), "admin.token")
	if err := os.WriteFile(c.Admin.TokenFile, []byte(f.admin+"\n"), 0o600); err != nil {
		tb.Fatal(err)
	}
	for _, e := range edit {
		e(&c)
	}
	var err error
	if f.server, err = New(c); err != nil {
		tb.Fatal(err)
	}
	httpLn, grpcLn := listen(tb), listen(tb)
	f.httpAddr, f.grpcAddr = httpLn.Addr().String(), grpcLn.Addr().String()
	f.url = "http://" + f.httpAddr
	var sockets []net.Listener
	if f.socket != "" {
		ln, err := ListenAdmin(f.socket, false)
		if err != nil {
			tb.Fatal(err)
		}
		sockets = append(sockets, ln)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.server.Serve(ctx, httpLn, grpcLn, sockets...) }()
	f.stop = sync.OnceValue(func() error { cancel(); return <-done })
	f.conn, err = grpc.NewClient(f.grpcAddr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = f.conn.Close()
		http.DefaultClient.CloseIdleConnections()
		if err := f.stop(); err != nil {
			tb.Errorf("Serve: %v", err)
		}
	})
	return f
}

func listen(tb testing.TB) net.Listener {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return ln
}

// ask is a token request that every face can make.
type ask struct {
	method  string              // "issue" or "exchange"
	auth    []string            // values of the authorization header
	proofs  []string            // values of the DPoP header
	params  map[string][]string // without grant_type
	grant   string              // "": that of the method
	noGrant bool                // the form only
}

func basicAuth(id, secret string) string {
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	r.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
	return r.Header.Get("Authorization")
}

// answer is what a face answered, in one shape.
type answer struct {
	code     sts.Code // "": a token
	grpc     codes.Code
	http     int
	message  string
	decision string
	token    string
	scope    string
	kind     string // token_type
	nonce    string
	header   http.Header
	raw      string
}

func (f *fixture) form(tb testing.TB, a ask) answer {
	tb.Helper()
	v := url.Values{}
	for name, values := range a.params {
		v[name] = values
	}
	switch {
	case a.noGrant:
	case a.grant != "":
		v.Set("grant_type", a.grant)
	case a.method == "exchange":
		v.Set("grant_type", string(sts.TokenExchange))
	default:
		v.Set("grant_type", string(sts.ClientCredentials))
	}
	req := f.request(tb, http.MethodPost, "/oauth2/token", strings.NewReader(v.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header["Authorization"] = a.auth
	req.Header[headerProof] = a.proofs
	return f.do(tb, req)
}

func (f *fixture) json(tb testing.TB, a ask) answer {
	tb.Helper()
	body := map[string]any{}
	for name, values := range a.params {
		if len(values) == 1 {
			body[name] = values[0]
		} else {
			body[name] = values
		}
	}
	if a.grant != "" {
		body["grant_type"] = a.grant
	}
	b, err := json.Marshal(body)
	if err != nil {
		tb.Fatal(err)
	}
	req := f.request(tb, http.MethodPost, "/v1/token:"+a.method, bytes.NewReader(b))
	req.Header.Set("Content-Type", "application/json")
	req.Header["Authorization"] = a.auth
	req.Header[headerProof] = a.proofs
	return f.do(tb, req)
}

func (f *fixture) request(tb testing.TB, method, path string, body io.Reader) *http.Request {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), method, f.url+path, body)
	if err != nil {
		tb.Fatal(err)
	}
	return req
}

func (f *fixture) do(tb testing.TB, req *http.Request) answer {
	tb.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	out := answer{http: resp.StatusCode, header: resp.Header, raw: string(raw), decision: resp.Header.Get(headerDecisionID), nonce: resp.Header.Get(headerNonce)}
	var body struct {
		Error       sts.Code `json:"error"`
		Description string   `json:"error_description"`
		AccessToken string   `json:"access_token"`
		TokenType   string   `json:"token_type"`
		Scope       string   `json:"scope"`
	}
	if len(raw) > 0 && resp.Header.Get("Content-Type") == "application/json" {
		if err := json.Unmarshal(raw, &body); err != nil {
			tb.Fatalf("%s: %v", raw, err)
		}
	}
	out.code, out.message, out.token, out.scope, out.kind = body.Error, body.Description, body.AccessToken, body.Scope, body.TokenType
	return out
}

func one(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

func (a ask) issue() *stsv1.IssueTokenRequest {
	return &stsv1.IssueTokenRequest{
		GrantType: a.grant, ClientId: one(a.params["client_id"]), ClientSecret: one(a.params["client_secret"]),
		Audience: a.params["audience"], Resource: a.params["resource"], Scope: one(a.params["scope"]),
		ClientAssertion: one(a.params["client_assertion"]), ClientAssertionType: one(a.params["client_assertion_type"]),
	}
}

func (a ask) exchange() *stsv1.ExchangeTokenRequest {
	return &stsv1.ExchangeTokenRequest{
		GrantType: a.grant, ClientId: one(a.params["client_id"]), ClientSecret: one(a.params["client_secret"]),
		Audience: a.params["audience"], Resource: a.params["resource"], Scope: one(a.params["scope"]),
		RequestedTokenType: one(a.params["requested_token_type"]),
		SubjectToken:       one(a.params["subject_token"]), SubjectTokenType: one(a.params["subject_token_type"]),
		ActorToken: one(a.params["actor_token"]), ActorTokenType: one(a.params["actor_token_type"]),
		ClientAssertion: one(a.params["client_assertion"]), ClientAssertionType: one(a.params["client_assertion_type"]),
	}
}

func (f *fixture) grpc(tb testing.TB, a ask) answer {
	tb.Helper()
	ctx := tb.Context()
	for _, v := range a.auth {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", v)
	}
	for _, v := range a.proofs {
		ctx = metadata.AppendToOutgoingContext(ctx, metadataProof, v)
	}
	var header metadata.MD
	var resp *stsv1.TokenResponse
	var err error
	client := stsv1.NewTokenServiceClient(f.conn)
	if a.method == "exchange" {
		resp, err = client.ExchangeToken(ctx, a.exchange(), grpc.Header(&header))
	} else {
		resp, err = client.IssueToken(ctx, a.issue(), grpc.Header(&header))
	}
	out := answerOf(err)
	if out.decision == "" {
		out.decision = one(header["x-decision-id"])
	}
	out.token, out.scope, out.kind, out.nonce = resp.GetAccessToken(), resp.GetScope(), resp.GetTokenType(), one(header[metadataNonce])
	return out
}

// answerOf reads a gRPC status.
func answerOf(err error) answer {
	st := status.Convert(err)
	out := answer{grpc: st.Code(), message: st.Message()}
	if err != nil {
		out.raw = st.Proto().String()
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			out.code, out.decision = sts.Code(info.Reason), info.Metadata["decision_id"]
		}
	}
	return out
}

// before is what must not change, or by one, when a request is refused.
type before struct {
	records int
	signed  int64
}

func (f *fixture) before() before { return before{len(f.audit.all()), f.keys.signed.Load()} }

// assertRefused holds an answer against what every refusal must be.
func (f *fixture) assertRefused(tb testing.TB, b before, got answer, want sts.Code) {
	tb.Helper()
	if got.code != want {
		tb.Errorf("code %q, want %q (%s)", got.code, want, got.raw)
	}
	if got.token != "" || strings.Contains(got.raw, "eyJ") {
		tb.Error("a refusal with a token")
	}
	if n := f.keys.signed.Load() - b.signed; n != 0 {
		tb.Errorf("%d signatures for a refusal", n)
	}
	records := f.audit.all()[b.records:]
	if len(records) != 1 {
		tb.Fatalf("%d audit records, want 1", len(records))
	}
	if r := records[0]; r.Outcome != "deny" || r.Error != want || r.Reason == "" {
		tb.Errorf("audit record %+v", r)
	}
	if got.decision == "" || got.decision != records[0].Decision || !strings.Contains(got.message, got.decision) {
		tb.Errorf("decision %q in %q, audit record %q", got.decision, got.message, records[0].Decision)
	}
	if strings.ContainsFunc(got.message, func(r rune) bool { return r < 0x20 || r > 0x7e || r == '"' || r == '\\' }) {
		tb.Errorf("message %q has characters that RFC 6749 §5.2 does not allow", got.message)
	}
	f.assertNoCanary(tb, got.raw)
}

// assertNoCanary looks for secrets where there must be none.
func (f *fixture) assertNoCanary(tb testing.TB, answers ...string) {
	tb.Helper()
	records, err := json.Marshal(f.audit.all())
	if err != nil {
		tb.Fatal(err)
	}
	for name, text := range map[string]string{
		"answer": strings.Join(answers, " "), "log": f.log.String(), "audit": string(records), "metrics": f.scrape(tb),
	} {
		if strings.Contains(text, canary) {
			tb.Errorf("the canary is in the %s: %s", name, text)
		}
	}
}

// scrape returns the metrics as text.
func (f *fixture) scrape(tb testing.TB) string {
	tb.Helper()
	families, err := f.registry.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	var b strings.Builder
	for _, mf := range families {
		b.WriteString(mf.String())
		b.WriteByte('\n')
	}
	return b.String()
}

var errBroken = errors.New("the disk is full")

// memRevocations keeps revocations in memory.
type memRevocations struct {
	mu  sync.Mutex
	m   map[sts.RevocationName]sts.Revocation
	err error
}

func (m *memRevocations) Revoked(name sts.RevocationName, issued time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.m[name]
	return ok && (r.Before.IsZero() || !issued.After(r.Before))
}

func (m *memRevocations) Add(_ context.Context, r sts.Revocation) (sts.Revocation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.m[r.Name()] = r
	}
	return r, m.err
}

func (m *memRevocations) List(_ context.Context, kind sts.RevocationKind, after *sts.Revocation, limit int) ([]sts.Revocation, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := slices.SortedFunc(maps.Values(m.m), func(a, b sts.Revocation) int { return strings.Compare(a.Value, b.Value) })
	var page []sts.Revocation
	for _, r := range all {
		switch {
		case kind != "" && r.Kind != kind, after != nil && r.Value <= after.Value:
		case len(page) == limit:
			return page, true, m.err
		default:
			page = append(page, r)
		}
	}
	return page, false, m.err
}

func (m *memRevocations) Count() int           { return len(m.m) }
func (m *memRevocations) Confirmed() time.Time { return time.Now() }
