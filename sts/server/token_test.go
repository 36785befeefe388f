package server

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/workload-sts/sts/sts"
)

// clone lets a row edit its own copy of the good request.
func (a ask) clone() ask {
	params := map[string][]string{}
	for k, v := range a.params {
		params[k] = slices.Clone(v)
	}
	a.params, a.auth = params, slices.Clone(a.auth)
	return a
}

// TestTokenBothFaces makes each request over the form, JSON and gRPC, which must
// agree.
func TestTokenBothFaces(t *testing.T) {
	f := newFixture(t)
	good := ask{method: "issue", auth: []string{basicAuth("web", f.secret)}, params: map[string][]string{"audience": {"api"}, "scope": {"read"}}}
	long := strings.Repeat("a", maxParameter+1)
	for _, row := range []struct {
		name string
		edit func(*ask)
		want sts.Code // "": a token
	}{
		{"good", func(*ask) {}, ""},
		{"secret in the request", func(a *ask) {
			a.auth = nil
			a.params["client_id"], a.params["client_secret"] = []string{"web"}, []string{f.secret}
		}, ""},
		{"two audiences of one resource", func(a *ask) { a.params["resource"] = []string{"https://api.example.com"} }, ""},
		{"A-19 A-42 Basic and client_secret", func(a *ask) {
			a.params["client_id"], a.params["client_secret"] = []string{"web"}, []string{f.secret}
		}, sts.InvalidRequest},
		{"A-19 two authorization headers", func(a *ask) { a.auth = append(a.auth, a.auth[0]) }, sts.InvalidRequest},
		{"A-22 empty secret, Basic", func(a *ask) { a.auth = []string{basicAuth("web", "")} }, sts.InvalidClient},
		{"A-22 empty secret, in the request", func(a *ask) {
			a.auth = nil
			a.params["client_id"], a.params["client_secret"] = []string{"web"}, []string{""}
		}, sts.InvalidClient},
		{"wrong secret", func(a *ask) { a.auth = []string{basicAuth("web", secretOf("wrong"))} }, sts.InvalidClient},
		{"unknown client", func(a *ask) { a.auth = []string{basicAuth("nobody", f.secret)} }, sts.InvalidClient},
		{"no authentication", func(a *ask) { a.auth = nil }, sts.InvalidClient},
		{"A-24 not base64", func(a *ask) { a.auth = []string{"Basic " + canary + "!"} }, sts.InvalidClient},
		{"A-24 no colon", func(a *ask) { a.auth = []string{"Basic d2Vi"} }, sts.InvalidClient},
		{"A-24 bad percent", func(a *ask) { a.auth = []string{"Basic d2ViOiV6eg=="} }, sts.InvalidClient},
		{"A-24 lower case scheme", func(a *ask) { a.auth = []string{"basic" + strings.TrimPrefix(a.auth[0], "Basic")} }, ""},
		{"another scheme", func(a *ask) { a.auth = []string{"Bearer " + canary} }, sts.InvalidClient},
		{"A-25 other client_id", func(a *ask) { a.params["client_id"] = []string{"other"} }, sts.InvalidRequest},
		{"A-25 same client_id", func(a *ask) { a.params["client_id"] = []string{"web"} }, ""},
		{"P-08 long scope", func(a *ask) { a.params["scope"] = []string{long} }, sts.InvalidRequest},
		{"P-08 long audience", func(a *ask) { a.params["audience"] = []string{long} }, sts.InvalidRequest},
		{"P-08 long client_secret", func(a *ask) {
			a.auth = nil
			a.params["client_id"], a.params["client_secret"] = []string{"web"}, []string{canary + long}
		}, sts.InvalidRequest},
		{"P-07 many audiences", func(a *ask) { a.params["audience"] = slices.Repeat([]string{"api"}, maxParameters+1) }, sts.InvalidRequest},
		{"P-09 quote in scope", func(a *ask) { a.params["scope"] = []string{`re"ad`} }, sts.InvalidScope},
		{"P-09 backslash in scope", func(a *ask) { a.params["scope"] = []string{`re\ad`} }, sts.InvalidScope},
		{"P-09 control in scope", func(a *ask) { a.params["scope"] = []string{"re\x01ad"} }, sts.InvalidScope},
		{"P-09 non-ASCII scope", func(a *ask) { a.params["scope"] = []string{"réad"} }, sts.InvalidScope},
		{"P-24 hostile audience", func(a *ask) { a.params["audience"] = []string{"\"\\\n\u2028\x1b[31m"} }, sts.InvalidTarget},
		{"scope not allowed", func(a *ask) { a.params["scope"] = []string{"admin"} }, sts.InvalidScope},
		{"unknown audience", func(a *ask) { a.params["audience"] = []string{"other"} }, sts.InvalidTarget},
		{"resource with a fragment", func(a *ask) { a.params["resource"] = []string{"https://api.example.com#x"} }, sts.InvalidTarget},
		{"unsupported grant", func(a *ask) { a.grant = "password" }, sts.UnsupportedGrantType},
		{"T-43 no subject_token", func(a *ask) {
			a.method = "exchange"
			a.params["subject_token_type"] = []string{string(sts.AccessToken)}
		}, sts.InvalidRequest},
		{"T-43 empty subject_token", func(a *ask) {
			a.method = "exchange"
			a.params["subject_token"], a.params["subject_token_type"] = []string{""}, []string{string(sts.AccessToken)}
		}, sts.InvalidRequest},
		{"T-43 P-08 long subject_token", func(a *ask) {
			a.method = "exchange"
			a.params["subject_token"], a.params["subject_token_type"] = []string{canary + strings.Repeat("a", maxToken)}, []string{string(sts.AccessToken)}
		}, sts.InvalidRequest},
		{"T-43 undecodable subject_token", func(a *ask) {
			a.method = "exchange"
			a.params["subject_token"], a.params["subject_token_type"] = []string{canary + ".%.x"}, []string{string(sts.AccessToken)}
		}, sts.InvalidRequest},
		{"T-43 no client and no subject_token", func(a *ask) { a.method, a.auth = "exchange", nil }, sts.InvalidRequest},
	} {
		t.Run(row.name, func(t *testing.T) {
			a := good.clone()
			row.edit(&a)
			for face, do := range map[string]func(testing.TB, ask) answer{"form": f.form, "json": f.json, "grpc": f.grpc} {
				t.Run(face, func(t *testing.T) {
					b := f.before()
					got := do(t, a)
					if row.want != "" {
						f.assertRefused(t, b, got, row.want)
						f.assertNumbers(t, face, got, row.want)
						return
					}
					if got.token == "" || got.code != "" {
						t.Fatalf("no token: %s", got.raw)
					}
					f.assertNoCanary(t, got.raw)
				})
			}
		})
	}
}

// assertNumbers holds the numbers of an answer against the table.
func (f *fixture) assertNumbers(tb testing.TB, face string, got answer, want sts.Code) {
	tb.Helper()
	if face == "grpc" {
		if got.grpc != wire[want].grpc {
			tb.Errorf("gRPC code %v, want %v", got.grpc, wire[want].grpc)
		}
		return
	}
	if got.http != wire[want].http {
		tb.Errorf("HTTP status %d, want %d", got.http, wire[want].http)
	}
	if (got.http == 401) != (got.header.Get("WWW-Authenticate") != "") {
		tb.Errorf("status %d with WWW-Authenticate %q", got.http, got.header.Get("WWW-Authenticate"))
	}
}

func TestBasicEncoding(t *testing.T) {
	f := newFixture(t)
	changed, err := f.service.Apply(t.Context(), sts.Change{Put: []sts.Resource{
		{Client: &sts.Client{Name: "a:b/c", Secrets: []sts.ClientSecret{{Hash: mustHash(t, "sécret + "+secretOf("odd"))}}}},
	}})
	if err != nil {
		t.Fatal(err, changed)
	}
	// The client has no rule, so that being known is another answer than not.
	b := f.before()
	a := ask{method: "issue", auth: []string{basicAuth("a:b/c", "sécret + "+secretOf("odd"))}, params: map[string][]string{"audience": {"api"}}}
	got := f.form(t, a)
	if got.code == sts.InvalidClient || got.code == "" {
		t.Fatalf("got %q", got.raw)
	}
	f.assertRefused(t, b, got, got.code)
	if r := f.audit.all()[b.records]; r.Client != "a:b/c" {
		t.Errorf("client %q", r.Client)
	}
}

func TestReplies(t *testing.T) {
	f := newFixture(t)
	a := ask{method: "issue", auth: []string{basicAuth("web", f.secret)}, params: map[string][]string{"audience": {"api"}, "scope": {"read write"}}}
	got := f.form(t, a)
	for name, want := range map[string]string{
		"Cache-Control": "no-store", "Pragma": "no-cache", "X-Content-Type-Options": "nosniff", "Content-Type": "application/json",
	} {
		if got.header.Get(name) != want {
			t.Errorf("P-22 %s: %q", name, got.header.Get(name))
		}
	}
	if got.decision == "" || got.header.Get(headerRequestID) == "" {
		t.Errorf("headers %v", got.header)
	}
	var reply map[string]any
	if err := json.Unmarshal([]byte(got.raw), &reply); err != nil {
		t.Fatal(err)
	}
	if _, ok := reply["expires_in"].(float64); !ok || reply["token_type"] != "Bearer" || reply["scope"] != "read write" || len(reply) != 4 {
		t.Errorf("reply %v", reply)
	}
	exchanged := ask{method: "exchange", auth: a.auth, params: map[string][]string{
		"subject_token": {got.token}, "subject_token_type": {string(sts.AccessToken)}, "audience": {"api"}, "scope": {"read"},
	}}
	for face, do := range map[string]func(testing.TB, ask) answer{"form": f.form, "json": f.json, "grpc": f.grpc} {
		x := do(t, exchanged)
		if x.token == "" || x.scope != "read" {
			t.Errorf("%s: %s", face, x.raw)
		}
		if face != "grpc" && !strings.Contains(strings.ReplaceAll(x.raw, " ", ""), `"issued_token_type":"`+string(sts.AccessToken)+`"`) {
			t.Errorf("%s: %s", face, x.raw)
		}
	}
}

func TestRequestID(t *testing.T) {
	f := newFixture(t)
	for given, kept := range map[string]bool{"abc-1": true, "": false, strings.Repeat("a", 65): false, "a b": false, `x"y`: false} {
		req := f.request(t, "POST", "/oauth2/token", strings.NewReader(""))
		req.Header.Set(headerRequestID, given)
		got := f.do(t, req).header.Get(headerRequestID)
		if (got == given) != kept || got == "" {
			t.Errorf("given %q, got %q", given, got)
		}
		all := f.audit.all()
		if r := all[len(all)-1]; r.RequestID != got || r.Peer != "127.0.0.1" {
			t.Errorf("recorded %+v", r)
		}
	}
}

// P-24, L-03: no input in an error, by its value or by its name.
func TestNoEcho(t *testing.T) {
	f := newFixture(t)
	for _, body := range []string{
		canary + "=1&" + canary + "=%zz", "grant_type=" + canary, "grant_type=client_credentials&scope=" + canary,
		"grant_type=client_credentials&audience=" + canary, "grant_type=client_credentials&resource=" + canary,
		"grant_type=" + url.QueryEscape(string(sts.TokenExchange)) + "&requested_token_type=" + canary,
		"grant_type=" + url.QueryEscape(string(sts.TokenExchange)) + "&subject_token=" + canary + "&subject_token_type=" + canary,
	} {
		req := f.request(t, "POST", "/oauth2/token", strings.NewReader(body))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Authorization", basicAuth("web", f.secret))
		if got := f.do(t, req); got.code == "" || strings.Contains(got.raw, canary) {
			t.Errorf("%s: %s", body, got.raw)
		}
	}
}
