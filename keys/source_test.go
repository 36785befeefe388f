package keys

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workload-sts/sts/jose"
)

const inlineKeys = `{"keys":[{"kty":"EC","crv":"P-256","kid":"k1","use":"sig","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}`

// TestSourceCheck holds what is refused before anybody is asked, and which field
// is said to be wrong.
func TestSourceCheck(t *testing.T) {
	review := Review{APIServer: "https://kubernetes.default.svc", TokenFile: "/var/run/token"}
	for name, tc := range map[string]struct {
		edit  func(*Source)
		field string // empty: accepted
	}{
		"discovery":                {func(*Source) {}, ""},
		"inline":                   {func(s *Source) { s.JWKS = inlineKeys }, ""},
		"file":                     {func(s *Source) { s.JWKSFile = "/etc/keys.json" }, ""},
		"bundle":                   {func(s *Source) { s.BundleURL, s.Issuer = "https://spire.example.com/bundle", "spiffe://example.com" }, ""},
		"review":                   {func(s *Source) { s.Review = review }, ""},
		"hosts":                    {func(s *Source) { s.JWKSHosts = []string{"www.googleapis.com", "keys.example.com:8443"} }, ""},
		"trust domain as issuer":   {func(s *Source) { s.Issuer = "spiffe://example.com" }, "issuer"},
		"K-01 legacy issuer":       {func(s *Source) { s.Issuer = "kubernetes/serviceaccount" }, "issuer"},
		"two ways":                 {func(s *Source) { s.JWKSURI, s.JWKSFile = "https://idp.example.com/jwks", "/etc/keys.json" }, "jwks_file"},
		"jwks_uri and hosts":       {func(s *Source) { s.JWKSURI, s.JWKSHosts = "https://idp.example.com/jwks", []string{"x.example.com"} }, "discovery"},
		"relative file":            {func(s *Source) { s.JWKSFile = "keys.json" }, "jwks_file"},
		"two bundles":              {func(s *Source) { s.BundleURL, s.BundleFile = "https://spire.example.com/bundle", "/etc/bundle" }, "spiffe_bundle.url"},
		"bundle over http":         {func(s *Source) { s.BundleURL = "http://spire.example.com/bundle" }, "spiffe_bundle.url"},
		"host with a path":         {func(s *Source) { s.JWKSHosts = []string{"keys.example.com/jwks"} }, "jwks_hosts[0]"},
		"host with a scheme":       {func(s *Source) { s.JWKSHosts = []string{"https://keys.example.com"} }, "jwks_hosts[0]"},
		"host with a user":         {func(s *Source) { s.JWKSHosts = []string{"a@keys.example.com"} }, "jwks_hosts[0]"},
		"no host":                  {func(s *Source) { s.JWKSHosts = []string{""} }, "jwks_hosts[0]"},
		"review without server":    {func(s *Source) { s.Review = Review{TokenFile: "/var/run/token"} }, "token_review.api_server"},
		"review without token":     {func(s *Source) { s.Review = Review{APIServer: review.APIServer} }, "token_review.token_file"},
		"token for a file":         {func(s *Source) { s.JWKSFile, s.TokenFile = "/etc/keys.json", "/var/run/token" }, "token_file"},
		"J-57 private key inline":  {func(s *Source) { s.JWKS = strings.Replace(inlineKeys, `"kty"`, `"d":"AA","kty"`, 1) }, "jwks"},
		"empty inline":             {func(s *Source) { s.JWKS = `{"keys":[]}` }, "jwks"},
		"inline is not JSON":       {func(s *Source) { s.JWKS = `keys: []` }, "jwks"},
		"discovery_uri over http":  {func(s *Source) { s.DiscoveryURI = "http://10.0.0.1/.well-known/openid-configuration" }, "discovery_uri"},
		"I-02 discovery_uri query": {func(s *Source) { s.DiscoveryURI = "https://10.0.0.1/doc?x=y" }, "discovery_uri"},
	} {
		t.Run(name, func(t *testing.T) {
			s := Source{Issuer: "https://idp.example.com"}
			tc.edit(&s)
			err := s.Check()
			wrong, _ := errors.AsType[*SourceError](err)
			switch {
			case tc.field == "" && err != nil:
				t.Error(err)
			case tc.field != "" && (wrong == nil || wrong.Field() != tc.field):
				t.Errorf("%v, want a problem of %s", err, tc.field)
			}
		})
	}
}

// TestInlineKeys holds that keys of the configuration are used for ever, and that
// nobody is asked for others.
func TestInlineKeys(t *testing.T) {
	r, c := newRemote(t, map[string]Source{"x": {Issuer: "https://127.0.0.1:1", JWKS: inlineKeys}})
	r.mustKey(t, "x", "k1")
	c.advance(100 * 24 * time.Hour)
	r.mustKey(t, "x", "k1")
	if _, err := r.Key(t.Context(), "x", "k2", jose.ES256); !errors.Is(err, jose.ErrUnknownKey) {
		t.Error(err)
	}
	s := r.Status()[0]
	if s.Kind != Inline || len(s.Keys) != 1 || s.Keys[0] != (SourceKey{"k1", "EC P-256"}) || s.Err != nil || s.Fetches != 0 {
		t.Errorf("%+v", s)
	}
}

// eventually waits for what happens in the background.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

func (e *evilIssuer) keySet(t testing.TB) []byte {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	b, err := json.Marshal(map[string]any{"keys": e.keys})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFile(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestKeyFile reads a file when it has changed, keeps the keys when it is broken,
// and says so, though nobody asks for a key.
func TestKeyFile(t *testing.T) {
	e := newEvilIssuer(t, false)
	file := filepath.Join(t.TempDir(), "keys.json")
	r, c := newRemote(t, map[string]Source{"x": {Issuer: "https://idp.example.com", JWKSFile: file}})
	eventually(t, "a missing file is not reported", func() bool { return r.Status()[0].Err != nil })
	writeFile(t, file, e.keySet(t))
	c.advance(2 * time.Second)
	r.mustKey(t, "x", "k1")

	e.rotate(t, "k2")
	writeFile(t, file, e.keySet(t))
	c.advance(2 * time.Second)
	r.mustKey(t, "x", "k2")
	if _, err := r.Key(t.Context(), "x", "k1", jose.ES256); !errors.Is(err, jose.ErrUnknownKey) {
		t.Errorf("a key that is gone from the file: %v", err)
	}

	for name, content := range map[string]string{"cut": `{"keys":[`, "empty": `{"keys":[]}`, "a secret": "-----BEGIN PRIVATE KEY-----\nMC4CAQ\n", "long": strings.Repeat(" ", 300<<10)} {
		writeFile(t, file, []byte(content))
		before := r.Status()[0].Failures
		c.advance(10 * time.Second)
		eventually(t, name+": the problem is not reported", func() bool {
			s := r.Status()[0]
			return s.Failures > before && s.Err != nil && len(s.Keys) == 1
		})
		if err := r.Status()[0].Err.Error(); strings.Contains(err, "PRIVATE") || strings.Contains(err, "MC4") {
			t.Errorf("the content of the file is in the error: %s", err)
		}
		r.mustKey(t, "x", "k2")
	}
	c.advance(2 * time.Hour)
	if _, err := r.Key(t.Context(), "x", "k2", jose.ES256); err == nil {
		t.Error("a file that is broken for two hours is still believed")
	}
	if s := r.Status()[0]; len(s.Keys) != 0 {
		t.Errorf("keys that do not count are shown: %+v", s)
	}
	writeFile(t, file, e.keySet(t))
	c.advance(2 * time.Second)
	r.mustKey(t, "x", "k2")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(file, 0o700); err != nil {
		t.Fatal(err)
	}
	c.advance(10 * time.Second)
	eventually(t, "a directory is not reported", func() bool { e := r.Status()[0].Err; return e != nil && strings.Contains(e.Error(), "regular file") })
}

// bundle is the keys of an issuer as a SPIFFE bundle, beside a certificate.
func (e *evilIssuer) bundle(t testing.TB, members string) string {
	t.Helper()
	keys := strings.ReplaceAll(string(e.keySet(t)), `"use":"sig"`, `"use":"jwt-svid"`)
	return `{` + members + strings.Replace(keys, `{"keys":[`, `"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA","use":"x509-svid"},`, 1)
}

// TestBundle reads a SPIFFE bundle from an endpoint: its hint is followed within
// bounds, keys that were removed are gone after one refresh [S-08], and an older
// bundle does not come back [SPIFFE Trust Domain and Bundle §4.1].
func TestBundle(t *testing.T) {
	e := newEvilIssuer(t, false)
	serve := func(members string) {
		body := e.bundle(t, members)
		e.answer(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", "max-age=3600") // the hint counts
			w.Write([]byte(body))
		})
	}
	src := Source{Issuer: "spiffe://example.com", BundleURL: e.URL + "/jwks", AllowNetworks: loopback, InsecureHTTP: true}
	if err := src.Check(); err != nil {
		t.Fatal(err)
	}
	r, c := newRemote(t, map[string]Source{"x": src})
	serve(`"spiffe_sequence":5,"spiffe_refresh_hint":120,`)
	r.mustKey(t, "x", "k1")
	s := r.Status()[0]
	if d := s.Refresh.Sub(s.Fetched); d > 2*time.Minute || d < time.Minute || len(s.Keys) != 1 {
		t.Errorf("refreshed after %s with a hint of 2m; %+v", d, s)
	}

	old := e.keys
	e.rotate(t, "k2")
	serve(`"spiffe_sequence":6,"spiffe_refresh_hint":1,`)
	c.advance(2 * time.Minute)
	r.mustKey(t, "x", "k2")
	if _, err := r.Key(t.Context(), "x", "k1", jose.ES256); !errors.Is(err, jose.ErrUnknownKey) {
		t.Errorf("S-08 a key that was removed from the bundle: %v", err)
	}
	if s := r.Status()[0]; s.Stale.Sub(s.Fetched) < time.Hour+time.Minute {
		t.Errorf("a hint of 1 s is followed without bound: %+v", s)
	}

	e.mu.Lock()
	e.keys = old
	e.mu.Unlock()
	serve(`"spiffe_sequence":5,"spiffe_refresh_hint":1,`)
	c.advance(time.Minute)
	for range 3 {
		if _, err := r.Key(t.Context(), "x", "k1", jose.ES256); err == nil || !strings.Contains(err.Error(), "older") {
			t.Errorf("an older bundle: %v", err)
		}
	}
	r.mustKey(t, "x", "k2")
	c.advance(2 * time.Hour) // a trust domain that was set up anew counts from the beginning
	r.mustKey(t, "x", "k1")
}

// TestBundleFile holds S-09: a bundle that cannot be had any more is used for an
// hour.
func TestBundleFile(t *testing.T) {
	e := newEvilIssuer(t, false)
	file := filepath.Join(t.TempDir(), "bundle.json")
	writeFile(t, file, []byte(e.bundle(t, "")))
	r, c := newRemote(t, map[string]Source{"x": {Issuer: "spiffe://example.com", BundleFile: file}})
	r.mustKey(t, "x", "k1")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	c.advance(time.Hour)
	r.mustKey(t, "x", "k1")
	c.advance(24 * time.Hour)
	if _, err := r.Key(t.Context(), "x", "k1", jose.ES256); err == nil || errors.Is(err, jose.ErrUnknownKey) {
		t.Errorf("S-09 a bundle that is gone for 25 hours: %v", err)
	}
}

// TestElsewhere finds keys where they are not below the issuer: the document names
// the issuer that is expected, and its keys are on a host that is.
func TestElsewhere(t *testing.T) {
	e, keys := newEvilIssuer(t, false), newEvilIssuer(t, false)
	host := func(s string) string { u, _ := url.Parse(s); return u.Host }
	const iss = "https://kubernetes.default.svc.cluster.local"
	document := e.URL + "/.well-known/openid-configuration"
	for name, tc := range map[string]struct {
		issuer, jwks string // in the document
		edit         func(*Source)
		says         string
	}{
		"document elsewhere":             {iss, e.URL + "/jwks", func(*Source) {}, ""},
		"I-06 names another":             {"https://other.example.com", e.URL + "/jwks", func(*Source) {}, "another issuer"},
		"other by name":                  {"https://other.example.com", e.URL + "/jwks", func(s *Source) { s.DiscoveryIssuer = "https://other.example.com" }, ""},
		"I-06 not the one by name":       {iss, e.URL + "/jwks", func(s *Source) { s.DiscoveryIssuer = "https://other.example.com" }, "another issuer"},
		"I-07 keys on another host":      {iss, keys.URL + "/jwks", func(*Source) {}, "jwks_hosts"},
		"keys on a host by name":         {iss, keys.URL + "/jwks", func(s *Source) { s.JWKSHosts = []string{host(keys.URL)} }, ""},
		"I-07 another host than by name": {iss, keys.URL + "/jwks", func(s *Source) { s.JWKSHosts = []string{"127.0.0.1:1"} }, "jwks_hosts"},
		"I-09 host by name, not network": {iss, "https://169.254.169.254/jwks", func(s *Source) { s.JWKSHosts = []string{"169.254.169.254"} }, "not on the internet"},
	} {
		t.Run(name, func(t *testing.T) {
			e.mu.Lock()
			e.discovery = func(w http.ResponseWriter, _ *http.Request) { e.document(w, tc.issuer, tc.jwks) }
			e.mu.Unlock()
			s := Source{Issuer: iss, DiscoveryURI: document, AllowNetworks: loopback, InsecureHTTP: true}
			tc.edit(&s)
			if err := s.Check(); err != nil {
				t.Fatal(err)
			}
			r, _ := newRemote(t, map[string]Source{"x": s})
			_, err := r.Key(t.Context(), "x", "k1", jose.ES256)
			if tc.says == "" && err != nil || tc.says != "" && (err == nil || errors.Is(err, jose.ErrUnknownKey) || !strings.Contains(err.Error(), tc.says)) {
				t.Errorf("%v, want %q", err, tc.says)
			}
		})
	}
}

// serviceToken is a token as a service account has it, but for its signature.
const serviceToken = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzdHMifQ.AAAA"

// TestFetchToken holds I-25: the token for fetching goes to the host that is
// configured and to no other, whatever redirects and documents say.
func TestFetchToken(t *testing.T) {
	var seen atomic.Value
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Store(r.Header.Get("Authorization"))
		w.Write([]byte(inlineKeys))
	}))
	defer other.Close()
	e := newEvilIssuer(t, false)
	e.answer(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+serviceToken {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Write([]byte(inlineKeys))
	})
	file := filepath.Join(t.TempDir(), "token")
	writeFile(t, file, []byte(serviceToken+"\n"))
	s := e.source()
	s.TokenFile = file
	r, c := newRemote(t, map[string]Source{"x": s})
	r.mustKey(t, "x", "k1")

	e.answer(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
	})
	c.advance(time.Minute)
	if _, err := r.Key(t.Context(), "x", "k2", jose.ES256); err == nil || errors.Is(err, jose.ErrUnknownKey) || seen.Load() != nil {
		t.Errorf("redirected: %v, the other host got %v", err, seen.Load())
	}

	s.JWKSHosts = []string{strings.TrimPrefix(other.URL, "http://")}
	e.mu.Lock()
	e.discovery = func(w http.ResponseWriter, _ *http.Request) { e.document(w, e.URL, other.URL+"/jwks") }
	e.mu.Unlock()
	if err := r.Configure(map[string]Source{"x": s}); err != nil {
		t.Fatal(err)
	}
	r.mustKey(t, "x", "k1")
	if seen.Load() != "" {
		t.Errorf("the host of the keys got %v", seen.Load())
	}

	e.mu.Lock()
	e.discovery = nil
	e.mu.Unlock()
	writeFile(t, file, []byte("-----BEGIN PRIVATE KEY-----"))
	before := e.discoveries.Load()
	c.advance(2 * time.Hour)
	if _, err := r.Key(t.Context(), "x", "k1", jose.ES256); err == nil || !strings.Contains(err.Error(), "no JWT") || e.discoveries.Load() != before {
		t.Errorf("a file that is no token: %v", err)
	}
}

// TestLastModified asks whether keys have changed where there is no entity tag.
func TestLastModified(t *testing.T) {
	const date = "Wed, 21 Oct 2026 07:28:00 GMT"
	e := newEvilIssuer(t, false)
	var conditional atomic.Int64
	e.answer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Last-Modified", date)
		if r.Header.Get("If-Modified-Since") == date {
			conditional.Add(1)
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Write([]byte(inlineKeys))
	})
	r, c := newRemote(t, map[string]Source{"x": e.source()})
	r.mustKey(t, "x", "k1")
	c.advance(2 * time.Hour) // the keys are stale, and the same
	r.mustKey(t, "x", "k1")
	if conditional.Load() != 1 {
		t.Errorf("%d conditional requests", conditional.Load())
	}
	// At another URL nothing is known of what was there.
	e.mu.Lock()
	e.discovery = func(w http.ResponseWriter, _ *http.Request) { e.document(w, e.URL, e.URL+"/jwks?v=2") }
	e.mu.Unlock()
	c.advance(2 * time.Hour)
	if _, err := r.Key(t.Context(), "x", "k1", jose.ES256); err == nil {
		t.Error("a jwks_uri with a query is accepted")
	}
}

// TestKidFlood holds I-20: 100,000 key ids that do not exist leave nothing behind,
// and good keys stay.
func TestKidFlood(t *testing.T) {
	e := newEvilIssuer(t, false)
	r, _ := newRemote(t, map[string]Source{"x": e.source()})
	r.mustKey(t, "x", "k1")
	for i := range 100_000 {
		if _, err := r.Key(t.Context(), "x", fmt.Sprint(i), jose.ES256); !errors.Is(err, jose.ErrUnknownKey) {
			t.Fatal(err)
		}
	}
	r.mustKey(t, "x", "k1")
	if f := e.fetches.Load(); f != 1 {
		t.Errorf("%d fetches", f)
	}
}
