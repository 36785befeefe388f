package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/sts"
)

// about asks about a token over a face: introspect or revoke.
type about struct {
	what   string
	auth   []string
	params map[string]string
	accept string // form only
	query  string // form only
}

func (f *fixture) aboutForm(tb testing.TB, a about) answer {
	tb.Helper()
	v := url.Values{}
	for name, value := range a.params {
		v.Set(name, value)
	}
	req := f.request(tb, http.MethodPost, "/oauth2/"+a.what+a.query, strings.NewReader(v.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header["Authorization"] = a.auth
	if a.accept != "" {
		req.Header.Set("Accept", a.accept)
	}
	return f.do(tb, req)
}

func (f *fixture) aboutJSON(tb testing.TB, a about) answer {
	tb.Helper()
	b, err := json.Marshal(a.params)
	if err != nil {
		tb.Fatal(err)
	}
	req := f.request(tb, http.MethodPost, "/v1/token:"+a.what, bytes.NewReader(b))
	req.Header.Set("Content-Type", "application/json")
	req.Header["Authorization"] = a.auth
	return f.do(tb, req)
}

// introspectGRPC answers in the shape of the JSON face.
func (f *fixture) introspectGRPC(tb testing.TB, a about) answer {
	tb.Helper()
	ctx := tb.Context()
	for _, v := range a.auth {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", v)
	}
	resp, err := stsv1.NewTokenServiceClient(f.conn).IntrospectToken(ctx, &stsv1.IntrospectTokenRequest{
		Token: a.params["token"], TokenTypeHint: a.params["token_type_hint"], ClientId: a.params["client_id"], ClientSecret: a.params["client_secret"], Format: a.params["format"],
	})
	out := answerOf(err)
	if err == nil {
		out.raw = fmt.Sprintf(`{"active":%t}`, resp.GetActive())
	}
	return out
}

// withPeer adds a client that is no audience.
func (f *fixture) withPeer(tb testing.TB) *fixture {
	tb.Helper()
	peer := sts.Resource{Client: &sts.Client{Name: "peer", Secrets: []sts.ClientSecret{{Hash: mustHash(tb, secretOf("peer"))}}}}
	if _, err := f.service.Apply(tb.Context(), sts.Change{Put: []sts.Resource{peer}}); err != nil {
		tb.Fatal(err)
	}
	return f
}

func members(tb testing.TB, a answer) map[string]any {
	tb.Helper()
	m, err := jose.ParseObject([]byte(a.raw))
	if err != nil {
		tb.Fatalf("%d %s: %v", a.http, a.raw, err)
	}
	return m
}

// TestIntrospectionEndpoint asks over every face.
func TestIntrospectionEndpoint(t *testing.T) {
	f := newFixture(t).withPeer(t)
	token := f.form(t, f.good()).token
	jws, err := jose.Parse(token)
	if err != nil {
		t.Fatal(err)
	}
	claims, err := jws.Claims()
	if err != nil {
		t.Fatal(err)
	}
	web := []string{basicAuth("web", f.secret)}
	active := func(a answer) bool { return members(t, a)["active"] == true }
	t.Run("N-12 one token, several callers in turn", func(t *testing.T) {
		for _, who := range []struct {
			name   string
			active bool
		}{{"web", true}, {"peer", false}, {"web", true}, {"peer", false}} {
			secret := map[string]string{"web": f.secret, "peer": secretOf("peer")}[who.name]
			got := f.aboutForm(t, about{what: "introspect", auth: []string{basicAuth(who.name, secret)}, params: map[string]string{"token": token}})
			if active(got) != who.active {
				t.Errorf("to %s: %s", who.name, got.raw)
			}
		}
	})
	for name, row := range map[string]struct {
		edit   func(*about)
		code   sts.Code
		active bool
	}{
		"good":                     {func(*about) {}, "", true},
		"N-03 hint access_token":   {func(a *about) { a.params["token_type_hint"] = "access_token" }, "", true},
		"N-03 hint refresh_token":  {func(a *about) { a.params["token_type_hint"] = "refresh_token" }, "", true},
		"N-03 hint of no type":     {func(a *about) { a.params["token_type_hint"] = "x y" }, "", true},
		"credentials in the body":  {func(a *about) { a.auth = nil; a.params["client_id"], a.params["client_secret"] = "web", f.secret }, "", true},
		"N-04 garbage":             {func(a *about) { a.params["token"] = canary }, "", false},
		"N-02 of another audience": {func(a *about) { a.auth = []string{basicAuth("peer", secretOf("peer"))} }, "", false},
		"N-01 nobody":              {func(a *about) { a.auth = nil }, sts.InvalidClient, false},
		"A-28 client without auth": {func(a *about) { a.auth = nil; a.params["client_id"] = "web" }, sts.InvalidClient, false},
		"wrong secret":             {func(a *about) { a.auth = []string{basicAuth("web", secretOf("other"))} }, sts.InvalidClient, false},
		"another scheme":           {func(a *about) { a.auth = []string{"Bearer " + token} }, sts.InvalidClient, false},
		"no token":                 {func(a *about) { delete(a.params, "token") }, sts.InvalidRequest, false},
		"too long":                 {func(a *about) { a.params["token"] = strings.Repeat("x", maxToken+1) }, sts.InvalidRequest, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := about{what: "introspect", auth: web, params: map[string]string{"token": token}}
			row.edit(&a)
			for face, got := range map[string]answer{"form": f.aboutForm(t, a), "json": f.aboutJSON(t, a), "grpc": f.introspectGRPC(t, a)} {
				if got.code != row.code || row.code == "" && active(got) != row.active {
					t.Errorf("%s: %s %s", face, got.code, got.raw)
				}
				if row.code == "" && !row.active && len(members(t, got)) != 1 {
					t.Errorf("%s: of a token that is not active it is said: %s", face, got.raw)
				}
				if face != "grpc" && (got.header.Get("Cache-Control") != "no-store" || got.decision == "") { // [P-22]
					t.Errorf("%s: headers %v", face, got.header)
				}
				if (row.code == sts.InvalidClient) != (got.http == http.StatusUnauthorized) && face != "grpc" {
					t.Errorf("%s: status %d", face, got.http)
				}
			}
		})
	}
	want := maps.Clone(claims)
	want["active"], want["token_type"] = true, "Bearer"
	a := about{what: "introspect", auth: web, params: map[string]string{"token": token}}
	if got := members(t, f.aboutForm(t, a)); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("form: %v, want %v", got, want)
	}
	want["aud"] = []any{"api"}
	if got := members(t, f.aboutJSON(t, a)); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("json: %v, want %v", got, want)
	}
	a.query = "?token=" + canary
	if got := f.aboutForm(t, a); got.code != sts.InvalidRequest {
		t.Errorf("token in the query: %d %s", got.http, got.raw)
	}
	if got := f.do(t, f.request(t, http.MethodGet, "/oauth2/introspect", nil)); got.http != http.StatusMethodNotAllowed || got.header.Get("Allow") != http.MethodPost {
		t.Errorf("GET: %d", got.http)
	}
	f.assertNoCanary(t)
}

// TestSignedIntrospectionEndpoint answers with a JWT where the Accept header asks
// for one [RFC 9701 §4].
func TestSignedIntrospectionEndpoint(t *testing.T) {
	f := newFixture(t)
	a := about{what: "introspect", auth: []string{basicAuth("web", f.secret)}, params: map[string]string{"token": f.form(t, f.good()).token}}
	for accept, signed := range map[string]bool{
		"": false, "application/json": false, "*/*": false, "application/token-introspection+jwt;q=0": false,
		"application/token-introspection+jwt": true, "text/html, Application/Token-Introspection+JWT; q=0.5": true,
	} {
		a.accept = accept
		got := f.aboutForm(t, a)
		want := "application/json"
		if signed {
			want = mediaIntrospectionJWT
			if jws, err := jose.Parse(got.raw); err != nil || jws.Header.Type != "token-introspection+jwt" {
				t.Errorf("Accept %q: %s, %v", accept, got.raw, err)
			}
		}
		if got.http != http.StatusOK || got.header.Get("Content-Type") != want {
			t.Errorf("Accept %q: %d %s", accept, got.http, got.header.Get("Content-Type"))
		}
	}
	a.accept, a.params["format"] = "", "jwt"
	if got := members(t, f.aboutJSON(t, a)); len(got) != 1 || got["jwt"] == nil {
		t.Errorf("json: %v", got)
	}
	a.params["format"] = "xml"
	if got := f.aboutJSON(t, a); got.code != sts.InvalidRequest {
		t.Errorf("another format: %s", got.raw)
	}
}

// TestRevocationEndpoint revokes over both faces of HTTP.
func TestRevocationEndpoint(t *testing.T) {
	f := newFixture(t).withPeer(t)
	web := []string{basicAuth("web", f.secret)}
	for face, call := range map[string]func(testing.TB, about) answer{"form": f.aboutForm, "json": f.aboutJSON} {
		token := f.form(t, f.good()).token
		a := about{what: "revoke", auth: []string{basicAuth("peer", secretOf("peer"))}, params: map[string]string{"token": token}}
		if got := call(t, a); got.code != sts.UnauthorizedClient || got.http != http.StatusBadRequest {
			t.Errorf("%s by another client: %d %s", face, got.http, got.raw)
		}
		a.auth = nil
		if got := call(t, a); got.code != sts.InvalidClient || got.http != http.StatusUnauthorized {
			t.Errorf("%s by nobody: %d %s", face, got.http, got.raw)
		}
		ask := about{what: "introspect", auth: web, params: map[string]string{"token": token}}
		if members(t, f.aboutForm(t, ask))["active"] != true {
			t.Errorf("%s: revoked by another", face)
		}
		a.auth = web
		for range 2 { // the second time it is one that does not count
			if got := call(t, a); got.http != http.StatusOK || face == "form" && got.raw != "" || got.header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: %d %s", face, got.http, got.raw)
			}
		}
		if members(t, f.aboutForm(t, ask))["active"] != false {
			t.Errorf("%s: active still", face)
		}
	}
	f.assertNoCanary(t)
}

// TestRevocationAdmin revokes and lists for an administrator.
func TestRevocationAdmin(t *testing.T) {
	f := newFixture(t)
	call := func(method, path, body string) answer {
		t.Helper()
		var r io.Reader
		if body != "" {
			r = strings.NewReader(body)
		}
		req := f.request(t, method, path, r)
		req.Header.Set("Authorization", "Bearer "+f.admin)
		if body != "" {
			req.Header.Set("Content-Type", "application/json")
		}
		return f.do(t, req)
	}
	token := f.form(t, f.good()).token
	for i := range 5 {
		if got := call(http.MethodPost, "/v1/revocations", fmt.Sprintf(`{"kind":"txn","value":"t%d","reason":"test"}`, i)); got.http != http.StatusOK {
			t.Fatalf("%d %s", got.http, got.raw)
		}
	}
	got := call(http.MethodPost, "/v1/revocations", `{"kind":"token","token":"`+token+`","reason":"leaked"}`)
	if r, _ := members(t, got)["revocation"].(map[string]any); got.http != http.StatusOK || r["issuer"] != "self" || !strings.HasPrefix(r["value"].(string), "jti ") || r["reason"] != "leaked" || r["by"] == "" {
		t.Fatalf("%d %s", got.http, got.raw)
	}
	if a := members(t, f.aboutForm(t, about{what: "introspect", auth: []string{basicAuth("web", f.secret)}, params: map[string]string{"token": token}})); a["active"] != false {
		t.Errorf("%v", a)
	}
	var seen []string
	for path := "/v1/revocations?kind=txn&page_size=2"; path != ""; {
		page := members(t, call(http.MethodGet, path, ""))
		list, _ := page["revocations"].([]any)
		for _, r := range list {
			seen = append(seen, r.(map[string]any)["value"].(string))
		}
		path = ""
		if next, _ := page["next_page_token"].(string); next != "" {
			path = "/v1/revocations?kind=txn&page_size=2&page_token=" + next
		}
	}
	if !slices.Equal(seen, []string{"t0", "t1", "t2", "t3", "t4"}) {
		t.Errorf("listed %v", seen)
	}
	for _, path := range []string{"?kind=x", "?page_size=1001", "?page_token=x", "?value=x"} {
		if got := call(http.MethodGet, "/v1/revocations"+path, ""); got.code != sts.InvalidRequest {
			t.Errorf("%s: %d %s", path, got.http, got.raw)
		}
	}
	for body, want := range map[string]sts.Code{
		`{"kind":"client","value":"web"}`:                                                 sts.InvalidRequest,
		`{"kind":"client","value":"nobody","reason":"x"}`:                                 sts.NotFound,
		`{"kind":"all","reason":"x","before":"2999-01-01T00:00:00Z"}`:                     sts.InvalidRequest,
		`{"kind":"token","reason":"x","token":"` + strings.Repeat("x", maxToken+1) + `"}`: sts.InvalidRequest,
	} {
		if got := call(http.MethodPost, "/v1/revocations", body); got.code != want {
			t.Errorf("%.40s: %d %s", body, got.http, got.raw)
		}
	}
	req := f.request(t, http.MethodPost, "/v1/revocations", strings.NewReader(`{"kind":"all","reason":"x"}`))
	req.Header.Set("Content-Type", "application/json")
	if got := f.do(t, req); got.http != http.StatusUnauthorized {
		t.Errorf("without an admin: %d", got.http)
	}
}

// TestRevocationUnavailable is 503 where the revocation could not be stored [N-10].
func TestRevocationUnavailable(t *testing.T) {
	f := newFixture(t)
	token := f.form(t, f.good()).token
	f.revoked.mu.Lock()
	f.revoked.err = errors.New("EIO")
	f.revoked.mu.Unlock()
	got := f.aboutForm(t, about{what: "revoke", auth: []string{basicAuth("web", f.secret)}, params: map[string]string{"token": token}})
	if got.http != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" {
		t.Errorf("%d %s", got.http, got.raw)
	}
}
