package server

import (
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// TestRotateClientSecret gives a client a new secret, over gRPC and over HTTP.
func TestRotateClientSecret(t *testing.T) {
	f := newFixture(t)
	admin := stsv1.NewAdminServiceClient(f.conn)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+f.admin)
	works := func(secret string) bool {
		a := f.good()
		a.auth = []string{basicAuth("web", secret)}
		return f.form(t, a).token != ""
	}
	done, err := admin.RotateClientSecret(ctx, &stsv1.RotateClientSecretRequest{Name: "web"})
	if err != nil || !works(done.GetClientSecret()) || !works(f.secret) {
		t.Fatalf("%v, %v", done, err)
	}
	if d := time.Until(done.GetPreviousNotAfter().AsTime()); d < 23*time.Hour || d > 24*time.Hour {
		t.Errorf("the secret before works for %s", d)
	}
	status, err := admin.GetClientStatus(ctx, &stsv1.GetClientStatusRequest{Name: "web"})
	if err != nil || status.GetMethod() != "client_secret" || len(status.GetCredentials()) != 2 || status.GetCredentials()[1].GetId() != done.GetId() {
		t.Fatalf("%v, %v", status, err)
	}
	for _, c := range status.GetCredentials() {
		if time.Since(c.GetLastUsed().AsTime()) > time.Minute {
			t.Errorf("%v was used just now", c)
		}
	}
	http := func(method, path, body string, bearer bool) answer {
		req := f.request(t, method, path, strings.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		if bearer {
			req.Header.Set("Authorization", "Bearer "+f.admin)
		}
		return f.do(t, req)
	}
	got := http("POST", "/v1/clients/web:rotateSecret", `{"overlap":"0s"}`, true)
	if got.http != 200 || works(done.GetClientSecret()) || works(f.secret) {
		t.Errorf("%d %s", got.http, got.raw)
	}
	if got := http("GET", "/v1/clients/web", "", true); got.http != 200 || !strings.Contains(got.raw, "client_secret") {
		t.Errorf("%d %s", got.http, got.raw)
	}
	// Names may have slashes and colons.
	if _, err := f.service.Apply(t.Context(), sts.Change{Put: []sts.Resource{{Client: &sts.Client{Name: "a/b:c"}}}}); err != nil {
		t.Fatal(err)
	}
	if got := http("POST", "/v1/clients/a/b:c:rotateSecret", `{}`, true); got.http != 200 {
		t.Errorf("%d %s", got.http, got.raw)
	}
	for _, row := range []struct {
		path, body string
		bearer     bool
		want       sts.Code
	}{
		{"/v1/clients/web:rotateSecret", `{}`, false, sts.Unauthenticated},
		{"/v1/clients/nobody:rotateSecret", `{}`, true, sts.NotFound},
		{"/v1/clients/web:rotateSecret", `{"overlap":"721h"}`, true, sts.InvalidRequest},
		{"/v1/clients/web:rotateSecret", `{"overlap":"-1s"}`, true, sts.InvalidRequest},
		{"/v1/clients/web:rotateSecret", `{"expected_revision":"1"}`, true, sts.Conflict},
		{"/v1/clients/web:rotateSecret", `{"x":1}`, true, sts.InvalidRequest},
	} {
		if got := http("POST", row.path, row.body, row.bearer); got.code != row.want {
			t.Errorf("%s %s: %d %s", row.path, row.body, got.http, got.raw)
		}
	}
	if _, err := admin.RotateClientSecret(ctx, &stsv1.RotateClientSecretRequest{Name: "web", Overlap: &durationpb.Duration{Nanos: -1}}); answerOf(err).code != sts.InvalidRequest {
		t.Errorf("%v", err)
	}
	f.assertNoCanary(t)
}

// TestThrottleBySource slows down who guesses, and not the client.
func TestThrottleBySource(t *testing.T) {
	f := newFixture(t)
	from := func(address string) *http.Client {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
		transport := &http.Transport{DialContext: d.DialContext}
		t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport}
	}
	ask := func(c *http.Client, secret string) *http.Response {
		form := url.Values{"grant_type": {"client_credentials"}, "audience": {"api"}}
		req := f.request(t, http.MethodPost, "/oauth2/token", strings.NewReader(form.Encode()))
		req.Header.Set("Content-Type", formType)
		req.Header.Set("Authorization", basicAuth("web", secret))
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp
	}
	attacker, client := from("127.0.0.2"), from("127.0.0.3")
	slowed := 0
	for i := range 1000 {
		resp := ask(attacker, secretOf("guess"))
		if resp.StatusCode != http.StatusUnauthorized {
			t.Fatalf("status %d", resp.StatusCode)
		}
		if resp.Header.Get("Retry-After") != "" {
			slowed++
		}
		if i%100 == 0 {
			if resp := ask(client, f.secret); resp.StatusCode != http.StatusOK {
				t.Fatalf("the client itself gets %d", resp.StatusCode)
			}
		}
	}
	if slowed < 980 {
		t.Errorf("%d of 1,000 guesses were slowed down", slowed)
	}
	// Nobody is locked out, not even there.
	tries := 1
	for ; tries < 20 && ask(attacker, f.secret).StatusCode != http.StatusOK; tries++ {
	}
	if tries > 16 {
		t.Error("the right secret does not work any more")
	}
}
