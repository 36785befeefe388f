package server

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/workload-sts/sts/sts"
)

// described are the operations of a description of the API, as "GET /path".
func described(t *testing.T, document []byte) map[string]bool {
	t.Helper()
	var doc struct {
		Servers []struct{ URL string }
		Paths   map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(document, &doc); err != nil {
		t.Fatal(err)
	}
	if len(doc.Servers) != 1 || doc.Servers[0].URL != issuer {
		t.Errorf("servers %v", doc.Servers)
	}
	out := map[string]bool{}
	for path, operations := range doc.Paths {
		for verb := range operations {
			out[strings.ToUpper(verb)+" "+path] = true
		}
	}
	return out
}

// TestOpenAPI: the document says what is served, all of it and nothing else.
func TestOpenAPI(t *testing.T) {
	f := newFixture(t)
	got := f.do(t, f.request(t, http.MethodGet, "/openapi.json", nil))
	if got.http != 200 || got.header.Get("Content-Type") != "application/json" || !strings.HasPrefix(got.header.Get("Cache-Control"), "public, max-age=") {
		t.Fatalf("%d %v", got.http, got.header)
	}
	operations := described(t, []byte(got.raw))
	served := map[string]bool{}
	for path := range f.server.face.paths {
		verb := http.MethodGet
		if strings.HasPrefix(path, "/oauth2/") {
			verb = http.MethodPost
		}
		served[verb+" "+path] = true
	}
	served["POST "+registrationPath] = true
	for _, verb := range registrationMethods {
		served[verb+" "+registrationPath+"/{client_id}"] = true
	}
	for _, r := range Routes() {
		served[r.Verb+" "+strings.ReplaceAll(r.Path, "=**", "")] = true
	}
	if !maps.Equal(operations, served) {
		t.Errorf("described and not served: %v\nserved and not described: %v", without(operations, served), without(served, operations))
	}
	req := f.request(t, http.MethodGet, "/openapi.json", nil)
	req.Header.Set("If-None-Match", got.header.Get("ETag"))
	if again := f.do(t, req); again.http != http.StatusNotModified || again.raw != "" {
		t.Errorf("with its ETag: %d %d bytes", again.http, len(again.raw))
	}
	if post := f.do(t, f.request(t, http.MethodPost, "/openapi.json", nil)); post.http != 405 || post.header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d %v", post.http, post.header)
	}
}

// without is what is in a and not in b.
func without(a, b map[string]bool) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(a)), func(s string) bool { return b[s] })
}

// TestRoutes walks the routes of the protos: each is there, and what its path does
// not take is refused with what it takes.
func TestRoutes(t *testing.T) {
	f := newFixture(t)
	if len(Routes()) < 22 {
		t.Fatalf("%d routes", len(Routes()))
	}
	for _, r := range Routes() {
		path := parameter.ReplaceAllString(r.Path, "1")
		got := f.do(t, f.request(t, r.Verb, path, strings.NewReader("")))
		if got.http == 404 || got.http == 405 || got.http >= 500 {
			t.Errorf("%s %s: %d %s", r.Verb, path, got.http, got.raw)
		}
		if AccessOf(fullMethod(r.Method)).Admin != (got.http == 401 && got.code == sts.Unauthenticated) {
			t.Errorf("%s %s by nobody: %d %s", r.Verb, path, got.http, got.raw)
		}
		if got := f.do(t, f.request(t, http.MethodPatch, path, nil)); got.http != 405 || !slices.Contains(strings.Split(got.header.Get("Allow"), ", "), r.Verb) {
			t.Errorf("PATCH %s: %d, Allow %q", path, got.http, got.header.Get("Allow"))
		}
	}
	if got := f.do(t, f.request(t, http.MethodPost, "/v1/resources/Client/web", nil)); got.header.Get("Allow") != "GET, PUT, DELETE" {
		t.Errorf("Allow %q", got.header.Get("Allow"))
	}
	if got := f.do(t, f.request(t, http.MethodGet, "/v1/nothing", nil)); got.http != 404 {
		t.Errorf("%d", got.http)
	}
}

// TestParametersOfTheURL: a method takes those of its fields that are not in the path
// and not in the body.
func TestParametersOfTheURL(t *testing.T) {
	f := newFixture(t)
	for _, row := range []struct {
		verb, path, body string
		http             int
		code             sts.Code
	}{
		{"GET", "/v1/revisions?page_size=1", "", 200, ""},
		{"GET", "/v1/revisions?page_size=1&page_size=1", "", 400, sts.InvalidRequest},
		{"GET", "/v1/revisions?page_size=x", "", 400, sts.InvalidRequest},
		{"GET", "/v1/revisions/1?against=1", "", 200, ""},
		{"GET", "/v1/revisions/1?revision=1", "", 400, sts.InvalidRequest},
		{"GET", "/v1/revisions?%zz", "", 400, sts.InvalidRequest},
		{"GET", "/v1/keys?set=x", "", 400, sts.InvalidRequest},
		{"PUT", "/v1/resources/Audience/x?create=true", `{"audience":{"name":"x"}}`, 201, ""},
		{"PUT", "/v1/resources/Audience/x?create=true", `{"audience":{"name":"x"}}`, 412, sts.PreconditionFailed},
		{"PUT", "/v1/resources/Audience/x?resource=x", `{"audience":{"name":"x"}}`, 400, sts.InvalidRequest},
		{"DELETE", "/v1/resources/Audience/x?etag=other", "", 412, sts.PreconditionFailed},
		{"DELETE", "/v1/resources/Audience/x?etag=*", "", 200, ""},
	} {
		if got := f.adminRequest(t, row.verb, row.path, row.body); got.http != row.http || got.code != row.code {
			t.Errorf("%s %s: %d %s", row.verb, row.path, got.http, got.raw)
		}
	}
}
