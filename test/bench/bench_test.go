// Package bench measures the service against a floor on the same machine, in the
// same run: an empty unary gRPC call, or an HTTP POST that only parses its form,
// plus the raw signature, plus the raw verification where a token is first seen.
//
// Rounds of floor and service alternate, and what is published is the median of
// the ratios of neighbouring rounds, so that a noisy neighbour hits both.
package bench

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/keys"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/storage"
	"github.com/workload-sts/sts/sts"
	"github.com/workload-sts/sts/sts/server"
)

const (
	callers = 8
	pairs   = 7
	round   = time.Second

	exchangeGrant = "urn:ietf:params:oauth:grant-type:token-exchange"
	accessToken   = "urn:ietf:params:oauth:token-type:access_token"
)

// call makes one request; n counts them over all callers.
type call func(ctx context.Context, n int64) error

// BenchmarkFloor prints the table of DESIGN.md.
func BenchmarkFloor(b *testing.B) {
	s := newService(b)
	f := newFloor(b)
	fresh := s.freshTokens(b, 60_000)
	fmt.Printf("\n| path | of the floor (median of %d pairs) | least, most | target | allocations a request, both ends | floor |\n|---|---|---|---|---|---|\n", pairs)
	for _, path := range []struct {
		name        string
		target      string
		floor, call call
	}{
		{"client credentials, gRPC", "60 %", f.grpc(false), s.credentialsGRPC},
		{"client credentials, HTTP", "60 %", f.http(false), s.credentialsHTTP},
		{"exchange of a seen token, gRPC", "55 %", f.grpc(false), s.exchangeGRPC(func(int64) string { return fresh[0] })},
		{"exchange of a seen token, HTTP", "", f.http(false), s.exchangeHTTP(func(int64) string { return fresh[0] })},
		{"exchange of a first-seen token, gRPC", "60 %", f.grpc(true), s.exchangeGRPC(func(n int64) string { return fresh[n%int64(len(fresh))] })},
		{"exchange of a first-seen token, HTTP", "", f.http(true), s.exchangeHTTP(func(n int64) string { return fresh[n%int64(len(fresh))] })},
	} {
		measure(b, path.floor, round/4) // warm up
		measure(b, path.call, round/4)
		var ratios []float64
		var allocs, floorAllocs float64
		for range pairs {
			low := measure(b, path.floor, round)
			got := measure(b, path.call, round)
			ratios = append(ratios, got.perSecond/low.perSecond)
			allocs, floorAllocs = got.allocs, low.allocs
		}
		slices.Sort(ratios)
		fmt.Printf("| %s | %.0f %% | %.0f %%, %.0f %% | %s | %.0f | %.0f |\n", path.name,
			100*ratios[pairs/2], 100*ratios[0], 100*ratios[pairs-1], path.target, allocs, floorAllocs)
	}
}

type rate struct{ perSecond, allocs float64 }

// next numbers requests over the whole run, so that a fresh token is taken once.
var next atomic.Int64

// measure calls for a while from several callers at once.
func measure(b testing.TB, c call, d time.Duration) rate {
	b.Helper()
	return measureWith(b, callers, c, d)
}

func measureWith(b testing.TB, callers int, c call, d time.Duration) rate {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	begin := time.Now()
	var done atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for time.Since(begin) < d {
				if err := c(ctx, next.Add(1)); err != nil {
					b.Error(err)
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(begin)
	runtime.ReadMemStats(&after)
	n := float64(done.Load())
	return rate{n / elapsed.Seconds(), float64(after.Mallocs-before.Mallocs) / n}
}

// service is the server under test, as stsd wires it.
type service struct {
	token  stsv1.TokenServiceClient
	url    string
	http   *http.Client
	secret string

	kv      *storage.Bolt
	sts     *sts.Service
	revoked *storage.Revocations
	replay  *storage.Replay
	start   func(*storage.Bolt) *sts.Service // another one on another store
}

func newService(b testing.TB) *service {
	b.Helper()
	return newServiceWith(b, storage.AuditOptions{})
}

// newServiceWith has the audit log kept in some way; its file is filled in.
func newServiceWith(b testing.TB, log storage.AuditOptions) *service {
	b.Helper()
	dir := b.TempDir()
	ctx := b.Context()
	kv, err := storage.OpenBolt(filepath.Join(dir, "sts.db"), storage.BoltOptions{})
	must(b, err)
	b.Cleanup(func() { kv.Close() })
	store := storage.NewStore(kv)
	ring, err := keys.Open(ctx, keys.Config{
		Store: store.KeyStates(), Schedule: keys.DefaultSchedule(), Log: slog.New(slog.DiscardHandler),
		Sets: []keys.SetConfig{{Name: sts.DefaultKeySet, Algorithm: jose.ES256, Provider: keys.Local(filepath.Join(dir, "key"), true)}},
	})
	must(b, err)
	b.Cleanup(ring.Close)
	keeping, keep := context.WithCancel(context.Background())
	kept := make(chan error, 2)
	go func() { kept <- ring.Run(keeping) }()
	b.Cleanup(func() { keep(); <-kept })
	log.File = filepath.Join(dir, "audit.jsonl")
	audit, _, err := storage.OpenAudit(log)
	must(b, err)
	b.Cleanup(func() { audit.Close() })
	replay, err := storage.OpenReplay(filepath.Join(dir, "replay"), storage.ReplayOptions{New: true})
	must(b, err)
	b.Cleanup(func() { replay.Close() })
	revoked, err := store.Revocations(ctx)
	must(b, err)
	go func() { kept <- revoked.Run(keeping) }()
	b.Cleanup(func() { keep(); <-kept })
	wire := func(store *storage.Store, revoked sts.Revocations) *sts.Service {
		s, err := sts.New(ctx, sts.Config{Issuer: "https://sts.example.com", Store: store, Keys: signingKeys{ring}, IssuerKeys: noIssuers{}, ClientKeys: noClientKeys{}, Replay: replay, Audit: audit, Revocations: revoked})
		must(b, err)
		return s
	}
	svc := wire(store, revoked)
	secret, hash := sts.NewSecret()
	_, err = svc.Apply(ctx, sts.Change{Put: []sts.Resource{
		{Client: &sts.Client{Name: "demo", Secrets: []sts.ClientSecret{{Hash: hash}}}},
		{Audience: &sts.Audience{Name: "demo", Scopes: []string{"demo.read", "demo.write"}}},
		{Rule: &policy.Rule{Name: "demo", Requester: policy.Requester{Clients: []string{"demo"}}, Allow: policy.Allow{Audiences: []string{"demo"}, Scopes: []string{"demo.read", "demo.write"}}}},
	}})
	must(b, err)
	srv, err := server.New(server.Config{Service: svc, Logger: slog.New(slog.NewJSONHandler(io.Discard, nil)), Registry: prometheus.NewRegistry()})
	must(b, err)
	httpLn, grpcLn := listen(b), listen(b)
	serving, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(serving, httpLn, grpcLn) }()
	b.Cleanup(func() { stop(); <-ended })
	conn, err := grpc.NewClient(grpcLn.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(b, err)
	b.Cleanup(func() { conn.Close() })
	return &service{token: stsv1.NewTokenServiceClient(conn), url: "http://" + httpLn.Addr().String() + "/oauth2/token", http: newHTTPClient(), secret: secret, kv: kv, sts: svc, revoked: revoked, replay: replay, start: func(kv *storage.Bolt) *sts.Service {
		store := storage.NewStore(kv)
		revoked, err := store.Revocations(ctx)
		must(b, err)
		return wire(store, revoked)
	}}
}

// signingKeys is the ring without what operators do.
type signingKeys struct{ *keys.Ring }

func (signingKeys) Status() []sts.KeySetStatus { return nil }
func (signingKeys) Rotate(context.Context, string) (sts.KeyStatus, error) {
	return sts.KeyStatus{}, errors.ErrUnsupported
}
func (signingKeys) Revoke(context.Context, string) (sts.KeyRevocation, error) {
	return sts.KeyRevocation{}, errors.ErrUnsupported
}

type noIssuers struct{}

func (noIssuers) Check(*sts.Issuer) error    { return nil }
func (noIssuers) Trust([]*sts.Issuer)        {}
func (noIssuers) Status() []sts.IssuerStatus { return nil }
func (noIssuers) Review(context.Context, string, string, string) (string, error) {
	return "", jose.ErrSignature
}
func (noIssuers) Key(context.Context, string, string, jose.Algorithm) (jose.Key, error) {
	return jose.Key{}, jose.ErrUnknownKey
}

// noClientKeys has no keys of clients.
type noClientKeys struct{}

func (noClientKeys) Check(*sts.ClientKey) error                 { return nil }
func (noClientKeys) Status(string) (_ sts.IssuerStatus, _ bool) { return }
func (noClientKeys) Trust(map[string]*sts.ClientKey)            {}
func (noClientKeys) Key(context.Context, string, string, jose.Algorithm) (jose.Key, error) {
	return jose.Key{}, jose.ErrUnknownKey
}

func (s *service) credentialsGRPC(ctx context.Context, _ int64) error {
	_, err := s.token.IssueToken(ctx, &stsv1.IssueTokenRequest{ClientId: "demo", ClientSecret: s.secret, Audience: []string{"demo"}, Scope: "demo.read"})
	return err
}

func (s *service) exchangeGRPC(subject func(int64) string) call {
	return func(ctx context.Context, n int64) error {
		_, err := s.token.ExchangeToken(ctx, &stsv1.ExchangeTokenRequest{
			ClientId: "demo", ClientSecret: s.secret, Audience: []string{"demo"}, Scope: "demo.read", SubjectToken: subject(n), SubjectTokenType: accessToken,
		})
		return err
	}
}

func (s *service) credentialsHTTP(ctx context.Context, _ int64) error {
	return post(ctx, s.http, s.url, s.secret, url.Values{"grant_type": {"client_credentials"}, "audience": {"demo"}, "scope": {"demo.read"}})
}

func (s *service) exchangeHTTP(subject func(int64) string) call {
	return func(ctx context.Context, n int64) error {
		return post(ctx, s.http, s.url, s.secret, url.Values{
			"grant_type": {exchangeGrant}, "audience": {"demo"}, "scope": {"demo.read"}, "subject_token": {subject(n)}, "subject_token_type": {accessToken},
		})
	}
}

// freshTokens issues tokens that the service has not seen as subject tokens.
func (s *service) freshTokens(b testing.TB, n int) []string {
	b.Helper()
	out := make([]string, n)
	var at atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for i := at.Add(1) - 1; i < int64(n); i = at.Add(1) - 1 {
				r, err := s.token.IssueToken(b.Context(), &stsv1.IssueTokenRequest{ClientId: "demo", ClientSecret: s.secret, Audience: []string{"demo"}, Scope: "demo.read"})
				if err != nil {
					b.Error(err)
					return
				}
				out[i] = r.AccessToken
			}
		})
	}
	wg.Wait()
	return out
}

// floor does the least that such a service can do.
type floor struct {
	key    *ecdsa.PrivateKey
	signed []byte // a signature to verify
	conn   *grpc.ClientConn
	url    string
	client *http.Client
}

var payload = []byte(strings.Repeat("x", 400))

func newFloor(b *testing.B) *floor {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(b, err)
	f := &floor{key: key, client: newHTTPClient()}
	f.signed, err = jose.Sign(jose.ES256, key, payload)
	must(b, err)
	g := grpc.NewServer()
	handler := func(verify bool) grpc.MethodHandler {
		return func(_ any, _ context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			if err := dec(&stsv1.GetJwksRequest{}); err != nil {
				return nil, err
			}
			return &stsv1.GetJwksRequest{}, f.work(verify)
		}
	}
	g.RegisterService(&grpc.ServiceDesc{ServiceName: "Floor", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{
		{MethodName: "Sign", Handler: handler(false)}, {MethodName: "VerifyAndSign", Handler: handler(true)},
	}}, f)
	ln := listen(b)
	go g.Serve(ln)
	b.Cleanup(g.Stop)
	f.conn, err = grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(b, err)
	b.Cleanup(func() { f.conn.Close() })
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ParseForm() != nil || f.work(r.URL.Path == "/verify") != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		w.Write([]byte("{}"))
	})}
	webLn := listen(b)
	go web.Serve(webLn)
	b.Cleanup(func() { web.Close() })
	f.url = "http://" + webLn.Addr().String()
	return f
}

func (f *floor) work(verify bool) error {
	if verify {
		if err := jose.Verify(jose.ES256, f.key.Public(), payload, f.signed); err != nil {
			return err
		}
	}
	_, err := jose.Sign(jose.ES256, crypto.Signer(f.key), payload)
	return err
}

func (f *floor) grpc(verify bool) call {
	method := "/Floor/Sign"
	if verify {
		method = "/Floor/VerifyAndSign"
	}
	return func(ctx context.Context, _ int64) error {
		return f.conn.Invoke(ctx, method, &stsv1.GetJwksRequest{}, &stsv1.GetJwksRequest{})
	}
}

func (f *floor) http(verify bool) call {
	path := f.url + "/sign"
	if verify {
		path = f.url + "/verify"
	}
	form := url.Values{"grant_type": {"client_credentials"}, "audience": {"demo"}, "scope": {"demo.read"}}
	return func(ctx context.Context, _ int64) error { return post(ctx, f.client, path, "secret", form) }
}

func post(ctx context.Context, c *http.Client, to, secret string, form url.Values) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth("demo", secret)
	return send(c, req)
}

// send sends a request and reads the answer without looking at it.
func send(c *http.Client, req *http.Request) error {
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	return nil
}

func newHTTPClient() *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: callers}}
}

func listen(b testing.TB) net.Listener {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	return ln
}

func must(b testing.TB, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
