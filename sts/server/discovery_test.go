package server

import (
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/sts"
)

var wellKnown = []string{"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server", "/.well-known/jwks.json"}

// P-15: nothing that a caller says changes what verifiers are told.
func TestDocumentsIgnoreHeaders(t *testing.T) {
	f := newFixture(t)
	for _, path := range wellKnown {
		plain := f.do(t, f.request(t, http.MethodGet, path, nil))
		req := f.request(t, http.MethodGet, path, nil)
		req.Host = "attacker.example"
		for _, h := range []string{"X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded", "X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Prefix"} {
			req.Header.Set(h, "attacker.example")
		}
		if got := f.do(t, req); got.raw != plain.raw || strings.Contains(got.raw, "attacker") {
			t.Errorf("%s: %s", path, got.raw)
		}
	}
}

// P-22: documents may be cached for as long as the keys allow; a cached one is
// confirmed by its ETag.
func TestDocumentsAreCacheable(t *testing.T) {
	f := newFixture(t)
	for _, path := range wellKnown {
		got := f.do(t, f.request(t, http.MethodGet, path, nil))
		etag := got.header.Get("ETag")
		if got.http != 200 || got.header.Get("Cache-Control") != "public, max-age=300" || etag == "" || got.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d %v", path, got.http, got.header)
		}
		for _, match := range []string{etag, "W/" + etag, `"x", ` + etag, "*"} {
			req := f.request(t, http.MethodGet, path, nil)
			req.Header.Set("If-None-Match", match)
			if again := f.do(t, req); again.http != 304 || again.raw != "" || again.header.Get("ETag") != etag {
				t.Errorf("%s with %s: %d %s", path, match, again.http, again.raw)
			}
		}
		req := f.request(t, http.MethodGet, path, nil)
		req.Header.Set("If-None-Match", `"other"`)
		if again := f.do(t, req); again.http != 200 {
			t.Errorf("%s: %d", path, again.http)
		}
		if head := f.do(t, f.request(t, http.MethodHead, path, nil)); head.http != 200 || head.raw != "" || head.header.Get("Content-Length") != got.header.Get("Content-Length") {
			t.Errorf("%s HEAD: %d %v", path, head.http, head.header)
		}
		if post := f.do(t, f.request(t, http.MethodPost, path, nil)); post.http != 405 || post.header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s POST: %d", path, post.http)
		}
	}
}

// No cache keeps a document for longer than the keys allow.
func TestCacheControl(t *testing.T) {
	f := newFixture(t)
	for age, want := range map[time.Duration]string{
		-time.Second: "no-cache", 0: "no-cache", 999 * time.Millisecond: "no-cache", time.Second: "public, max-age=1",
		59*time.Second + 999*time.Millisecond: "public, max-age=59", 300 * time.Second: "public, max-age=300",
	} {
		f.keys.maxAge.Store(int64(age))
		for _, path := range wellKnown {
			got := f.do(t, f.request(t, http.MethodGet, path, nil))
			if got.http != 200 || got.header.Get("Cache-Control") != want {
				t.Errorf("%s with %s left: %d %v, want %q", path, age, got.http, got.header, want)
			}
			// A cache that asks again is told anew.
			req := f.request(t, http.MethodGet, path, nil)
			req.Header.Set("If-None-Match", got.header.Get("ETag"))
			if again := f.do(t, req); again.http != 304 || again.header.Get("Cache-Control") != want {
				t.Errorf("%s with %s left: %d %v, want %q", path, age, again.http, again.header, want)
			}
		}
	}
	f.keys.maxAge.Store(int64(1999 * time.Millisecond))
	if twin, err := stsv1.NewDiscoveryServiceClient(f.conn).GetJwks(t.Context(), &stsv1.GetJwksRequest{}); err != nil || twin.GetMaxAgeSeconds() != 1 {
		t.Errorf("%v, %v", twin, err)
	}
}

// A verifier that has the keys counts, however it got them: address and program
// tell it from others. Nobody else counts.
func TestDelivered(t *testing.T) {
	f := newFixture(t)
	fetch := func(method, path, agent string, header ...string) answer {
		req := f.request(t, method, path, nil)
		req.Header.Set("User-Agent", agent)
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		return f.do(t, req)
	}
	jwks := wellKnown[2]
	etag := fetch(http.MethodGet, jwks, "one/1").header.Get("ETag")
	fetch(http.MethodGet, jwks, "one/1", "If-None-Match", etag)
	fetch(http.MethodGet, jwks, "two/1", "X-Forwarded-For", "192.0.2.7")
	got := f.keys.delivered()
	if len(got) != 3 || got[0] != got[1] || got[0] == got[2] || !strings.Contains(got[0], "127.0.0.1") || strings.Contains(got[2], "192.0.2.7") {
		t.Errorf("delivered to %q", got)
	}
	fetch(http.MethodHead, jwks, "one/1")
	fetch(http.MethodPost, jwks, "one/1")
	fetch(http.MethodGet, wellKnown[0], "one/1")
	if got := f.keys.delivered(); len(got) > 0 {
		t.Errorf("delivered to %q who did not get it", got)
	}
	if _, err := stsv1.NewDiscoveryServiceClient(f.conn).GetJwks(t.Context(), &stsv1.GetJwksRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := f.keys.delivered(); len(got) != 1 || !strings.Contains(got[0], "127.0.0.1") || !strings.Contains(got[0], "grpc-go/") {
		t.Errorf("delivered over gRPC to %q", got)
	}
}

// Promise 8: the document says what the server does, no more and no less.
func TestMetadataIsTrue(t *testing.T) {
	f := newFixture(t)
	got := f.do(t, f.request(t, http.MethodGet, wellKnown[0], nil))
	var doc map[string]any
	if err := json.Unmarshal([]byte(got.raw), &doc); err != nil {
		t.Fatal(err)
	}
	members := []string{
		"dpop_signing_alg_values_supported", "grant_types_supported", "id_token_signing_alg_values_supported",
		"introspection_endpoint", "introspection_endpoint_auth_methods_supported", "introspection_endpoint_auth_signing_alg_values_supported",
		"introspection_signing_alg_values_supported", "issuer", "jwks_uri", "registration_endpoint", "response_types_supported",
		"revocation_endpoint", "revocation_endpoint_auth_methods_supported", "revocation_endpoint_auth_signing_alg_values_supported",
		"subject_types_supported", "tls_client_certificate_bound_access_tokens", "token_endpoint", "token_endpoint_auth_methods_supported",
		"token_endpoint_auth_signing_alg_values_supported",
	}
	var names []string
	for name := range doc {
		names = append(names, name)
	}
	slices.Sort(names)
	if !slices.Equal(names, members) || doc["issuer"] != issuer {
		t.Errorf("document %s", got.raw)
	}
	if other := f.do(t, f.request(t, http.MethodGet, wellKnown[1], nil)); other.raw != got.raw {
		t.Errorf("the two documents differ: %s", other.raw)
	}
	// Each endpoint that it names is served.
	for _, name := range []string{"token_endpoint", "jwks_uri", "introspection_endpoint", "revocation_endpoint", "registration_endpoint"} {
		path, ok := strings.CutPrefix(doc[name].(string), issuer)
		if !ok {
			t.Errorf("%s: %v", name, doc[name])
		}
		if r := f.do(t, f.request(t, http.MethodGet, path, nil)); r.http == 404 {
			t.Errorf("%s is not served", path)
		}
	}
	// Each grant and each authentication method works, and no other.
	for _, grant := range []string{"client_credentials", string(sts.TokenExchange), "authorization_code", "password", "refresh_token", "urn:ietf:params:oauth:grant-type:jwt-bearer"} {
		a := f.good()
		a.grant = grant
		supported := slices.Contains(doc["grant_types_supported"].([]any), any(grant))
		if (f.form(t, a).code == sts.UnsupportedGrantType) == supported {
			t.Errorf("grant %s: supported is %v", grant, supported)
		}
	}
	if methods := doc["token_endpoint_auth_methods_supported"]; !reflect.DeepEqual(methods, []any{"client_secret_basic", "client_secret_post", "private_key_jwt", "spiffe_jwt"}) {
		t.Errorf("methods %v", methods)
	}
	// The gRPC twin says the same.
	twin, err := stsv1.NewDiscoveryServiceClient(f.conn).GetProviderMetadata(t.Context(), &stsv1.GetProviderMetadataRequest{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(twin)
	if err != nil {
		t.Fatal(err)
	}
	var same map[string]any
	if err := json.Unmarshal(b, &same); err != nil || !reflect.DeepEqual(same, doc) {
		t.Errorf("twin %s (%v), document %s", b, err, got.raw)
	}
}

func TestKeySetTwin(t *testing.T) {
	f := newFixture(t)
	got := f.do(t, f.request(t, http.MethodGet, wellKnown[2], nil))
	set, left, err := jose.ParseKeySet([]byte(got.raw))
	if err != nil || len(left) > 0 || set.Len() != 1 {
		t.Fatalf("%s: %v %v", got.raw, err, left)
	}
	twin, err := stsv1.NewDiscoveryServiceClient(f.conn).GetJwks(t.Context(), &stsv1.GetJwksRequest{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(twin)
	if err != nil {
		t.Fatal(err)
	}
	var document, same map[string]any
	if err := json.Unmarshal(b, &same); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(got.raw), &document); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(same["keys"], document["keys"]) || same["max_age_seconds"] != 300.0 {
		t.Errorf("twin %s, document %s", b, got.raw)
	}
}

// A key set is rendered once, and anew when a key comes or changes.
func TestKeySetCache(t *testing.T) {
	one, two := newTestKeys(t), newTestKeys(t)
	var c keySetCache
	first, err := c.render(one.set)
	if err != nil {
		t.Fatal(err)
	}
	same, err := jose.NewKeySet(slices.Collect(one.set.All())...)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := c.render(same); err != nil || &again.body[0] != &first.body[0] {
		t.Error("rendered twice", err)
	}
	// The test keys have one id, so only the key itself tells them apart.
	if other, err := c.render(two.set); err != nil || other.etag == first.etag {
		t.Error("a stale key set", err)
	}
}
