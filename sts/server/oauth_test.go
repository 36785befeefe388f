package server

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/workload-sts/sts/sts"
)

const formType = "application/x-www-form-urlencoded"

// TestTokenEndpoint is what only HTTP can get wrong.
func TestTokenEndpoint(t *testing.T) {
	f := newFixture(t)
	goodForm := "grant_type=client_credentials&audience=api&scope=read"
	for _, row := range []struct {
		name string
		edit func(*http.Request)
		http int
		want sts.Code // "": a token
	}{
		{"good", func(*http.Request) {}, 200, ""},
		{"P-01 GET", method("GET"), 405, sts.InvalidRequest},
		{"P-01 HEAD", method("HEAD"), 405, sts.InvalidRequest},
		{"P-01 PUT", method("PUT"), 405, sts.InvalidRequest},
		{"P-01 DELETE", method("DELETE"), 405, sts.InvalidRequest},
		{"P-19 TRACE", method("TRACE"), 405, sts.InvalidRequest},
		{"P-19 OPTIONS", method("OPTIONS"), 405, sts.InvalidRequest},
		{"P-02 grant_type in the query", query("grant_type=client_credentials"), 400, sts.InvalidRequest},
		{"P-02 client_secret in the query", query("client_secret=" + canary), 400, sts.InvalidRequest},
		{"P-02 subject_token in the query", query("x=1&subject%5ftoken=" + canary), 400, sts.InvalidRequest},
		{"P-02 bad query", query("%zz=" + canary), 400, sts.InvalidRequest},
		{"P-02 foreign query", query("trace=1"), 200, ""},
		{"P-03 grant_type twice", body(goodForm + "&grant_type=client_credentials"), 400, sts.InvalidRequest},
		{"P-03 client_id twice", body(goodForm + "&client_id=web&client_id=web"), 400, sts.InvalidRequest},
		{"P-03 scope twice", body(goodForm + "&scope="), 400, sts.InvalidRequest},
		{"P-03 T-42 subject_token twice", body("grant_type=" + url.QueryEscape(string(sts.TokenExchange)) + "&subject_token=a&subject_token=" + canary), 400, sts.InvalidRequest},
		{"P-03 audience twice", body(goodForm + "&audience=https://api.example.com"), 200, ""},
		{"P-03 unknown twice", body(goodForm + "&x=1&x=2"), 200, ""},
		{"empty values", body(goodForm + "&resource=&client_id=&audience=&requested_token_type="), 200, ""},
		{"no grant_type", body("audience=api"), 400, sts.InvalidRequest},
		{"empty grant_type", body("grant_type=&audience=api"), 400, sts.InvalidRequest},
		{"A-39 A-40 jwt-bearer, which is not a grant here", body("grant_type=urn:ietf:params:oauth:grant-type:jwt-bearer&assertion=" + canary), 400, sts.UnsupportedGrantType},
		{"A-27 a client that shows nothing", func(r *http.Request) {
			r.Header.Del("Authorization")
			body(goodForm + "&client_id=web")(r)
		}, 401, sts.InvalidClient},
		{"unknown grant_type", body("grant_type=" + canary), 400, sts.UnsupportedGrantType},
		{"bad percent in a value", body(goodForm + "&scope=%zz"), 400, sts.InvalidRequest},
		{"bad percent in an unknown", body(goodForm + "&x=%"), 400, sts.InvalidRequest},
		{"invalid UTF-8", body(goodForm + "&client_id=%ff"), 400, sts.InvalidRequest},
		{"A-18 client_assertion", body(goodForm + "&client_assertion=" + canary), 400, sts.InvalidRequest},
		{"A-18 client_assertion_type", body(goodForm + "&client_assertion_type=x"), 400, sts.InvalidRequest},
		{"A-21 forged assertion beside a secret", body(goodForm + "&client_assertion=e30.e30.x&client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer"), 400, sts.InvalidRequest},
		{"T-43 subject_token with client_credentials", body(goodForm + "&subject_token=" + canary), 400, sts.InvalidRequest},
		{"P-04 JSON", ctype("application/json"), 415, sts.InvalidRequest},
		{"P-04 text", ctype("text/plain"), 415, sts.InvalidRequest},
		{"P-04 multipart", ctype("multipart/form-data; boundary=x"), 415, sts.InvalidRequest},
		{"P-04 none", func(r *http.Request) { r.Header.Del("Content-Type") }, 415, sts.InvalidRequest},
		{"P-04 UTF-16", ctype(formType + "; charset=utf-16"), 415, sts.InvalidRequest},
		{"P-04 two", func(r *http.Request) { r.Header.Add("Content-Type", formType) }, 415, sts.InvalidRequest},
		{"P-04 UTF-8", ctype(formType + "; charset=UTF-8"), 200, ""},
		{"P-06 64 KiB and one", body(goodForm + "&x=" + strings.Repeat("x", maxForm)), 413, sts.InvalidRequest},
		{"P-06 64 KiB", body(goodForm + "&x=" + strings.Repeat("x", maxForm-len(goodForm)-3)), 200, ""},
		{"P-06 endless chunks", func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(endless{}), -1 }, 413, sts.InvalidRequest},
		{"P-07 10,000 parameters", body(strings.Repeat("a=&", 10_000)), 400, sts.InvalidRequest},
		{"P-20 gzip", header("Content-Encoding", "gzip"), 415, sts.InvalidRequest},
		{"P-20 br", header("Content-Encoding", "br"), 415, sts.InvalidRequest},
		{"P-19 upgrade to h2c", func(r *http.Request) {
			r.Header.Set("Connection", "Upgrade, HTTP2-Settings")
			r.Header.Set("Upgrade", "h2c")
			r.Header.Set("HTTP2-Settings", "AAMAAABkAAQAAP__")
		}, 200, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			req := f.request(t, http.MethodPost, "/oauth2/token", strings.NewReader(goodForm))
			req.Header.Set("Content-Type", formType)
			req.Header.Set("Authorization", basicAuth("web", f.secret))
			row.edit(req)
			b := f.before()
			got := f.do(t, req)
			if got.http != row.http {
				t.Errorf("status %d, want %d: %s", got.http, row.http, got.raw)
			}
			if got.http == 405 && got.header.Get("Allow") != "POST" {
				t.Errorf("Allow: %q", got.header.Get("Allow"))
			}
			if row.want == "" {
				if got.token == "" {
					t.Fatalf("no token: %s", got.raw)
				}
				return
			}
			if req.Method == http.MethodHead { // has no body to look at
				got.code, got.message = row.want, got.decision
			}
			f.assertRefused(t, b, got, row.want)
		})
	}
}

func method(m string) func(*http.Request) { return func(r *http.Request) { r.Method = m } }
func query(q string) func(*http.Request)  { return func(r *http.Request) { r.URL.RawQuery = q } }
func ctype(v string) func(*http.Request)  { return header("Content-Type", v) }
func header(name, v string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, v) }
}

func body(s string) func(*http.Request) {
	return func(r *http.Request) {
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(s)), int64(len(s))
	}
}

// endless is a body that never ends.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return copy(p, "x=1&x=1&x=1&x=1&"), nil }

func TestBodyThatBreaksOff(t *testing.T) {
	f := newFixture(t)
	w := &recorder{header: http.Header{}}
	req := f.request(t, http.MethodPost, "/oauth2/token", iotest.ErrReader(io.ErrUnexpectedEOF))
	req.Header.Set("Content-Type", formType)
	b := f.before()
	f.server.face.ServeHTTP(w, req)
	if w.status != 400 {
		t.Errorf("status %d", w.status)
	}
	if n := len(f.audit.all()) - b.records; n != 1 {
		t.Errorf("%d records", n)
	}
}

type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }

// P-16: paths are exact, and nothing is redirected.
func TestPaths(t *testing.T) {
	f := newFixture(t)
	for _, path := range []string{
		"//oauth2/token", "/oauth2/token/", "/./oauth2/token", "/oauth2/./token", "/x/../oauth2/token", "/OAUTH2/token", "/oauth2/Token",
		"/oauth2/%74oken", "/oauth2/token%2f..%2fadmin", "/oauth2%2ftoken", "/", "/debug/pprof/", "/debug/vars", "/V1/resources", "/v1", "/v1/", "/v1//resources",
		"/.well-known/jwks.json/",
	} {
		req := f.request(t, http.MethodPost, "/", strings.NewReader("grant_type=client_credentials&audience=api"))
		req.URL.Opaque = "//" + f.httpAddr + path
		req.Header.Set("Content-Type", formType)
		req.Header.Set("Authorization", basicAuth("web", f.secret))
		got := f.do(t, req)
		if got.http != http.StatusNotFound || got.code != sts.NotFound {
			t.Errorf("%s: %d %s", path, got.http, got.raw)
		}
	}
}

// P-10, P-14: what does not come to an end is cut off.
func TestHeaderLimits(t *testing.T) {
	f := newFixture(t)
	for name, headers := range map[string]string{
		"17 KiB":         strings.Repeat("X-A: "+strings.Repeat("a", 1016)+"\r\n", 17),
		"1 MiB header":   "X-A: " + strings.Repeat("a", 1<<20) + "\r\n",
		"10,000 headers": strings.Repeat("X: 1\r\n", 10_000),
	} {
		c, err := net.DialTimeout("tcp", f.httpAddr, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.WriteString(c, "GET /healthz/live HTTP/1.1\r\nHost: x\r\n"+headers+"\r\n") }()
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err == nil {
			if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
				t.Errorf("%s: %d", name, resp.StatusCode)
			}
			resp.Body.Close()
		}
		c.Close()
	}
}

func TestServerTimeouts(t *testing.T) {
	s := newHTTPServer(&httpFace{log: newFixture(t).server.face.log}, 10*time.Second, nil)
	if s.ReadHeaderTimeout != 5*time.Second || s.ReadTimeout != 10*time.Second || s.IdleTimeout != time.Minute {
		t.Error("P-14, P-21, P-25: timeouts")
	}
	if s.WriteTimeout <= s.ReadTimeout+10*time.Second {
		t.Error("an answer can be cut off before its deadline")
	}
	if s.Protocols.HTTP2() || s.Protocols.UnencryptedHTTP2() {
		t.Error("P-19: HTTP/2 without TLS")
	}
}

func FuzzParseForm(f *testing.F) {
	for _, s := range []string{"grant_type=client_credentials&audience=a&audience=b", "a=%zz", "&&=&==", "scope=a+b%20c", "client_id=%ff"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, bad := parseForm(b)
		if (got == nil) == (bad == nil) {
			t.Fatal("neither or both")
		}
		if bad != nil {
			return
		}
		// What we accept, net/url reads the same.
		want, err := url.ParseQuery(strings.ReplaceAll(string(b), ";", "%3B"))
		if err != nil {
			t.Fatalf("accepted what net/url refuses: %v", err)
		}
		for name, v := range got.single {
			if !parameters[name] || want.Get(name) != v {
				t.Fatalf("%q is %q, net/url says %q", name, v, want.Get(name))
			}
		}
	})
}

func FuzzBasic(f *testing.F) {
	f.Add("Basic d2ViOnNlY3JldA==")
	f.Add("basic  ")
	f.Add("Bearer x")
	f.Fuzz(func(t *testing.T, s string) {
		c, bad := basic(s)
		if (bad == nil) == (c == sts.Credential{}) {
			t.Fatalf("%+v, %v", c, bad)
		}
	})
}
