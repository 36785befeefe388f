package e2e

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
)

// described is a server with what it says of its HTTP face.
type described struct {
	*node
	doc    *openapi3.T
	router routers.Router
	used   map[string]bool // operations that were asked for
}

func init() {
	// What the library does not know [RFC 9701 §5].
	openapi3filter.RegisterBodyDecoder("application/token-introspection+jwt", openapi3filter.PlainBodyDecoder)
}

// describe reads the description of a server as a stranger would.
func describe(t *testing.T, n *node) *described {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData([]byte(getRaw(t, n.env["STS_HTTP"]+"/openapi.json")))
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	return &described{n, doc, router, map[string]bool{}}
}

// do sends a request, and holds the answer to what the description says. A request
// that is meant to be right must be so by the description too.
func (d *described) do(t *testing.T, req *http.Request, right bool) (status int, body string) {
	t.Helper()
	var sent []byte
	if req.Body != nil {
		var err error
		if sent, err = io.ReadAll(req.Body); err != nil {
			t.Fatal(err)
		}
	}
	req.Body = io.NopCloser(bytes.NewReader(sent))
	route, params, err := d.router.FindRoute(req)
	if err != nil {
		t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	d.used[req.Method+" "+route.Path] = true
	in := &openapi3filter.RequestValidationInput{Request: req, PathParams: params, Route: route, Options: &openapi3filter.Options{
		AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true, SkipSettingDefaults: true, RejectWhenRequestBodyNotSpecified: true,
		SchemaValidationOptions: []openapi3.SchemaValidationOption{openapi3.EnableJSONSchema2020()},
	}}
	if err := openapi3filter.ValidateRequest(t.Context(), in); right && err != nil {
		t.Errorf("%s %s is not a request of the description: %v", req.Method, req.URL, err)
	}
	req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(sent)), int64(len(sent))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: res.StatusCode, Header: res.Header, Body: io.NopCloser(bytes.NewReader(data)), Options: in.Options}
	if res.StatusCode == http.StatusNotModified || len(data) == 0 {
		out.Options.ExcludeResponseBody = true
	}
	if err := openapi3filter.ValidateResponse(t.Context(), out); err != nil {
		t.Errorf("%s %s: the answer is not one of the description: %v\n%d %s", req.Method, req.URL, err, res.StatusCode, data)
	}
	return res.StatusCode, string(data)
}

func (d *described) request(t *testing.T, method, path, contentType, body string, edit ...func(*http.Request)) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, d.env["STS_HTTP"]+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body == "" {
		req.Body = nil
	} else {
		req.Header.Set("Content-Type", contentType)
	}
	for _, e := range edit {
		e(req)
	}
	return req
}

// TestOpenAPI holds the real server to what it says of itself: every path and method
// of the document answers, and requests and answers of every kind are as it says.
func TestOpenAPI(t *testing.T) {
	n := startDev(t, t.TempDir())
	d := describe(t, n)
	admin := func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+n.env["STS_ADMIN_TOKEN"]) }
	client := func(r *http.Request) { r.SetBasicAuth(n.env["STS_CLIENT_ID"], n.env["STS_CLIENT_SECRET"]) }
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	const form, jsonType = "application/x-www-form-urlencoded", "application/json"

	// By nobody, and with nothing in it: an answer of the description all the same.
	for path, item := range d.doc.Paths.Map() {
		for verb := range item.Operations() {
			at := strings.NewReplacer("{kind}", "Client", "{name}", "demo", "{set}", "default", "{id}", "x", "{revision}", "1").Replace(path)
			if status, body := d.do(t, d.request(t, verb, at, "", ""), false); status == 404 || status == 405 {
				t.Errorf("%s %s is described and answers %d %s", verb, at, status, body)
			}
		}
	}
	if len(d.used) < 30 {
		t.Errorf("%d operations", len(d.used))
	}

	token := n.token(t, credentialsGrant(n)).str("access_token")
	about := url.Values{"token": {token}}.Encode()
	for _, row := range []struct {
		name   string
		req    *http.Request
		status int
	}{
		{"token", d.request(t, "POST", "/oauth2/token", form, credentialsGrant(n).Encode(), client), 200},
		{"several audiences", d.request(t, "POST", "/oauth2/token", form, credentialsGrant(n).Encode()+"&audience=x", client), 400},
		{"another grant", d.request(t, "POST", "/oauth2/token", form, "grant_type=password", client), 400},
		{"wrong secret", d.request(t, "POST", "/oauth2/token", form, credentialsGrant(n).Encode(), func(r *http.Request) { r.SetBasicAuth("demo", "x") }), 401},
		{"not a form", d.request(t, "POST", "/oauth2/token", jsonType, "{}", client), 415},
		{"large", d.request(t, "POST", "/oauth2/token", form, strings.Repeat("x", 70<<10), client), 413},
		{"as JSON", d.request(t, "POST", "/v1/token:issue", jsonType, `{"audience":"demo"}`, client), 200},
		{"as JSON, a list", d.request(t, "POST", "/v1/token:issue", jsonType, `{"audience":["demo"],"other":1}`, client), 200},
		{"as JSON, refused", d.request(t, "POST", "/v1/token:exchange", jsonType, `{"audience":"demo"}`, client), 400},
		{"introspection", d.request(t, "POST", "/oauth2/introspect", form, about, client), 200},
		{"introspection of nothing", d.request(t, "POST", "/oauth2/introspect", form, "token=x", client), 200},
		{"introspection as JSON", d.request(t, "POST", "/v1/token:introspect", jsonType, `{"token":"`+token+`"}`, client), 200},
		{"introspection as a JWT", d.request(t, "POST", "/oauth2/introspect", form, about, client, header("Accept", "application/token-introspection+jwt")), 200},
		{"apply", d.request(t, "POST", "/v1/resources:apply", jsonType, `{"resources":[{"audience":{"name":"a","max_ttl":"60s"}},{"audience":{"name":"b"}}],"why":"a test"}`, admin), 200},
		{"apply what is not sound", d.request(t, "POST", "/v1/resources:apply", jsonType, `{"resources":[{"rule":{"name":"r","requester":{"clients":["no"]}}}]}`, admin), 400},
		{"apply to another revision", d.request(t, "POST", "/v1/resources:apply", jsonType, `{"expected_revision":"99","resources":[{"audience":{"name":"c"}}]}`, admin), 409},
		{"create", d.request(t, "PUT", "/v1/resources/Audience/c", jsonType, `{"audience":{"name":"c"}}`, admin, header("If-None-Match", "*")), 201},
		{"create again", d.request(t, "PUT", "/v1/resources/Audience/c", jsonType, `{"audience":{"name":"c"}}`, admin, header("If-None-Match", "*")), 412},
		{"replace", d.request(t, "PUT", "/v1/resources/Audience/c", jsonType, `{"audience":{"name":"c","scopes":["s"]}}`, admin, header("If-Match", "*")), 200},
		{"get", d.request(t, "GET", "/v1/resources/Audience/c", "", "", admin), 200},
		{"get what is not there", d.request(t, "GET", "/v1/resources/Audience/nothing", "", "", admin), 404},
		{"list", d.request(t, "GET", "/v1/resources?kind=Audience&page_size=2", "", "", admin), 200},
		{"delete", d.request(t, "DELETE", "/v1/resources/Audience/c", "", "", admin), 200},
		{"client", d.request(t, "GET", "/v1/clients/demo", "", "", admin), 200},
		{"rotate its secret", d.request(t, "POST", "/v1/clients/demo:rotateSecret", jsonType, `{"overlap":"600s"}`, admin), 200},
		{"issuers", d.request(t, "GET", "/v1/issuers:status", "", "", admin), 200},
		{"keys", d.request(t, "GET", "/v1/keys", "", "", admin), 200},
		{"rotate a key", d.request(t, "POST", "/v1/keys/default:rotate", jsonType, `{}`, admin), 200},
		{"revisions", d.request(t, "GET", "/v1/revisions?page_size=1", "", "", admin), 200},
		{"a revision", d.request(t, "GET", "/v1/revisions/2?against=1", "", "", admin), 200},
		{"no shadow", d.request(t, "GET", "/v1/shadow", "", "", admin), 404},
		{"a shadow", d.request(t, "POST", "/v1/resources:apply", jsonType, `{"shadow":true,"resources":[{"audience":{"name":"d"}}]}`, admin), 200},
		{"the shadow", d.request(t, "GET", "/v1/shadow", "", "", admin), 200},
		{"discard the shadow", d.request(t, "POST", "/v1/shadow:discard", jsonType, `{}`, admin), 200},
		{"roll back", d.request(t, "POST", "/v1/revisions:rollback", jsonType, `{"to":"2","why":"a test"}`, admin), 200},
		{"simulate", d.request(t, "POST", "/v1/policy:simulate", jsonType, `{"request":{"client":"demo","audience":["demo"]}}`, admin), 200},
		{"revoke", d.request(t, "POST", "/v1/revocations", jsonType, `{"kind":"subject","value":"other","reason":"a test"}`, admin), 200},
		{"revocations", d.request(t, "GET", "/v1/revocations?kind=subject", "", "", admin), 200},
		{"revoke a token", d.request(t, "POST", "/oauth2/revoke", form, about, client), 200},
		{"ready", d.request(t, "GET", "/healthz/ready?capability=issue", "", ""), 200},
		{"ready for what is not known", d.request(t, "GET", "/healthz/ready?capability=x", "", ""), 404},
	} {
		t.Run(row.name, func(t *testing.T) {
			right := row.status < 300 || row.status == 409 || row.status == 412
			if status, body := d.do(t, row.req, right); status != row.status {
				t.Errorf("%d %s", status, body)
			}
		})
	}
	for _, path := range []string{"/openapi.json", "/.well-known/jwks.json", "/.well-known/openid-configuration"} {
		res, err := http.Get(n.env["STS_HTTP"] + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if status, _ := d.do(t, d.request(t, "GET", path, "", "", header("If-None-Match", res.Header.Get("ETag"))), true); status != http.StatusNotModified {
			t.Errorf("%s with its ETag: %d", path, status)
		}
	}
}
