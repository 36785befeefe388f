package server

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// unserved is a Server that has no listener: for tests whose time is not real.
func unserved(t *testing.T, c Config) *fixture {
	t.Helper()
	f := &fixture{audit: &memAudit{}, keys: newTestKeys(t), log: &syncBuffer{}, registry: prometheusRegistry(), secret: secretOf("web")}
	f.service = newService(t, f)
	c.Service, c.Registry, c.Logger = f.service, f.registry, slog.New(slog.NewJSONHandler(f.log, nil))
	var err error
	if f.server, err = New(c); err != nil {
		t.Fatal(err)
	}
	return f
}

// hand gives a request to the HTTP face.
func (f *fixture) hand(path, contentType, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("Authorization", basicAuth("web", f.secret))
	w := httptest.NewRecorder()
	f.server.face.ServeHTTP(w, r)
	return w
}

// TestOverload offers three times the work that fits, at a steady rate that does
// not wait for answers: what the server can do it goes on doing, and the rest is
// told so at once [F43]. What limits it here is the signer, as it is with Vault.
//
// Time is not real, so that no other load counts: a refusal that takes any time has
// waited for something. What it costs, TestCostOfRefusal in test/ says.
func TestOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const slots, signing = 2, 50 * time.Millisecond
		const knee = float64(slots) / 0.050 // tokens a second
		const during = 10 * time.Second
		f := unserved(t, Config{MaxRequests: 5 * slots})
		signer := make(chan struct{}, slots)
		f.keys.before = func() {
			signer <- struct{}{}
			time.Sleep(signing)
			<-signer
		}
		conn := stsv1.NewTokenServiceClient(f.server.face.paths["/oauth2/token"].(*tokenEndpoint).conn)
		ways := []func() sts.Code{
			func() sts.Code {
				return codeIn(f.hand("/oauth2/token", formType, "grant_type=client_credentials&audience=api"))
			},
			func() sts.Code { return codeIn(f.hand("/v1/token:issue", "application/json", `{"audience":"api"}`)) },
			func() sts.Code {
				ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", basicAuth("web", f.secret))
				_, err := conn.IssueToken(ctx, &stsv1.IssueTokenRequest{Audience: []string{"api"}})
				if err == nil {
					return ""
				}
				return answerOf(refuse(ctx, issuer, err).GRPCStatus().Err()).code
			},
		}
		var good, refused atomic.Int64
		var asking sync.WaitGroup
		begin := time.Now()
		for n := 0; time.Since(begin) < during; n++ {
			time.Sleep(time.Until(begin.Add(time.Duration(float64(n) / (3 * knee) * float64(time.Second)))))
			asking.Go(func() {
				sent := time.Now()
				switch code := ways[n%len(ways)](); code {
				case "":
					good.Add(1)
				case sts.Unavailable:
					refused.Add(1)
					if waited := time.Since(sent); waited != 0 {
						t.Errorf("a refusal took %s", waited)
					}
				default:
					t.Errorf("request %d: %s", n, code)
				}
			})
		}
		asking.Wait()
		took := time.Since(begin).Seconds()
		t.Logf("%d good in %.2f s, of %.0f that fit; %d refused", good.Load(), took, knee*took, refused.Load())
		if float64(good.Load()) < 0.8*knee*took || refused.Load() == 0 {
			t.Errorf("%d good in %.2f s, of %.0f that fit", good.Load(), took, knee*took)
		}
		if got := ways[0](); got != "" {
			t.Errorf("after the overload: %s", got)
		}
		// One line in ten seconds, not one for each.
		if n := strings.Count(f.log.String(), "a limit refuses requests"); n < 1 || n > 2 {
			t.Errorf("%d lines about it", n)
		}
		if n := strings.Count(f.log.String(), "\n"); n > int(good.Load())+10 {
			t.Errorf("%d lines in the log, %d tokens", n, good.Load())
		}
	})
}

// codeIn is the error code in an answer.
func codeIn(w *httptest.ResponseRecorder) sts.Code {
	var body errorReply
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
		return sts.Code(w.Body.String())
	}
	return body.Error
}

// TestShares fills each share of what is worked on at once: the others are served.
func TestShares(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.MaxRequests = 1 })
	gates := f.server.face.chain.gates
	requests := map[share]func() answer{
		tokenShare: func() answer { return f.form(t, f.good()) },
		lookupShare: func() answer {
			return f.aboutForm(t, about{what: "introspect", auth: []string{basicAuth("web", f.secret)}, params: map[string]string{"token": "x"}})
		},
		adminShare: func() answer { return f.adminRequest(t, http.MethodGet, "/v1/keys", "") },
		noShare:    func() answer { return f.do(t, f.request(t, http.MethodGet, "/.well-known/jwks.json", nil)) },
	}
	for method, a := range accessTo {
		if _, known := gates[a.share]; !known && a.share != noShare {
			t.Errorf("%s takes from a share that is not there", method)
		}
	}
	for full, gate := range gates {
		for range cap(gate) {
			gate <- struct{}{}
		}
		for s, request := range requests {
			got := request()
			if s == full && (got.http != 503 || got.code != sts.Unavailable || got.header.Get("Retry-After") != "1") || s != full && got.http != 200 {
				t.Errorf("share %d full, request of %d: %d %s", full, s, got.http, got.raw)
			}
		}
		for range cap(gate) {
			<-gate
		}
	}
	gates[tokenShare] <- struct{}{}
	if got := f.grpc(t, f.good()); got.grpc != codes.ResourceExhausted || got.code != sts.Unavailable || !strings.Contains(got.raw, "RetryInfo") {
		t.Errorf("over gRPC: %+v", got)
	}
	<-gates[tokenShare]
	if !strings.Contains(f.scrape(t), `value:"requests"`) {
		t.Error("the refusals are not counted by limit")
	}
}

// TestLimitOnTheWire holds what a limit answers on each face.
func TestLimitOnTheWire(t *testing.T) {
	f := newFixture(t)
	for _, call := range []func(*testing.T, ask) answer{
		func(t *testing.T, a ask) answer { return f.form(t, a) }, func(t *testing.T, a ask) answer { return f.json(t, a) }, func(t *testing.T, a ask) answer { return f.grpc(t, a) },
	} {
		r, _, err := f.service.Resource(sts.Ref{Kind: sts.KindClient, Name: "web"})
		if err != nil {
			t.Fatal(err)
		}
		c := *r.Client
		c.Rate = sts.Rate{Count: 1, Period: time.Hour, Burst: c.Rate.Burst + 1} // a change begins anew
		if _, err := f.service.Apply(t.Context(), sts.Change{Put: []sts.Resource{{Client: &c}}}); err != nil {
			t.Fatal(err)
		}
		for range c.Rate.Burst {
			if got := call(t, f.good()); got.token == "" {
				t.Fatal(got.raw)
			}
		}
		b := f.before()
		got := call(t, f.good())
		f.assertRefused(t, b, got, sts.TooManyRequests)
		if got.http != 0 && (got.http != 429 || got.header.Get("Retry-After") == "") || got.http == 0 && (got.grpc != codes.ResourceExhausted || !strings.Contains(got.raw, "RetryInfo")) {
			t.Errorf("%+v", got)
		}
	}
}
