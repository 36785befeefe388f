package keys

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/workload-sts/sts/jose"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// evilIssuer is an issuer whose server does what a test wants.
type evilIssuer struct {
	*httptest.Server
	discoveries, fetches atomic.Int64

	mu        sync.Mutex
	keys      []jose.Key
	discovery http.HandlerFunc // nil: a good document
	jwks      http.HandlerFunc // nil: the keys
}

func newEvilIssuer(t testing.TB, tls bool) *evilIssuer {
	t.Helper()
	e := &evilIssuer{}
	e.rotate(t, "k1")
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) {
		e.discoveries.Add(1)
		e.mu.Lock()
		h := e.discovery
		e.mu.Unlock()
		if h == nil {
			h = func(w http.ResponseWriter, _ *http.Request) { e.document(w, e.URL, e.URL+"/jwks") }
		}
		h(w, r)
	})
	mux.HandleFunc("/jwks", func(w http.ResponseWriter, r *http.Request) {
		e.fetches.Add(1)
		e.mu.Lock()
		h, keys := e.jwks, e.keys
		e.mu.Unlock()
		if h == nil {
			h = func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(map[string]any{"keys": keys}) }
		}
		h(w, r)
	})
	if tls {
		e.Server = httptest.NewTLSServer(mux)
	} else {
		e.Server = httptest.NewServer(mux)
	}
	t.Cleanup(e.Close)
	return e
}

func (e *evilIssuer) document(w http.ResponseWriter, issuer, jwks string) {
	json.NewEncoder(w).Encode(map[string]string{"issuer": issuer, "jwks_uri": jwks})
}

// rotate makes the published keys new ones of these ids.
func (e *evilIssuer) rotate(t testing.TB, ids ...string) {
	t.Helper()
	var keys []jose.Key
	for _, id := range ids {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, jose.Key{ID: id, Algorithm: jose.ES256, Public: key.Public()})
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.keys = keys
}

func (e *evilIssuer) answer(h http.HandlerFunc) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.jwks = h
}

func (e *evilIssuer) source() Source {
	return Source{Issuer: e.URL, AllowNetworks: loopback, InsecureHTTP: strings.HasPrefix(e.URL, "http:")}
}

// clock is a time that a test moves.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(1_800_000_000+c.at.Load(), 0) }
func (c *clock) advance(d time.Duration) { c.at.Add(int64(d / time.Second)) }

func newRemote(t testing.TB, sources map[string]Source) (*Remote, *clock) {
	t.Helper()
	c := &clock{}
	r := NewRemote(RemoteConfig{Now: c.now, FetchTimeout: 500 * time.Millisecond})
	t.Cleanup(r.Close)
	if err := r.Configure(sources); err != nil {
		t.Fatal(err)
	}
	return r, c
}

func (r *Remote) mustKey(t testing.TB, name, kid string) jose.Key {
	t.Helper()
	k, err := r.Key(t.Context(), name, kid, jose.ES256)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestCheckURL holds which URLs name an issuer [I-02, I-03].
func TestCheckURL(t *testing.T) {
	for _, good := range []string{
		"https://token.actions.githubusercontent.com", "https://token.actions.githubusercontent.com/ACME", "https://accounts.google.com",
		"https://oidc.eks.eu-west-1.amazonaws.com/id/ABCDEF", "https://sts.example.com:8443/tenant/1", "https://login.example.com/a/v2.0", "https://[2001:db8::1]/x",
		"https://kubernetes.default.svc.cluster.local", "https://example.com/",
	} {
		if err := CheckURL(good, false); err != nil {
			t.Errorf("%s %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "example.com", "//example.com", "http://example.com", "http://localhost", "ftp://example.com", "file:///etc/passwd", "https://", "https:///x", "https:example.com",
		"HTTPS://example.com", "https://example.com?x=1", "https://example.com?", "https://example.com#x", "https://example.com#", "https://user@example.com",
		"https://user:pass@example.com", "https://example.com/../x", "https://example.com/x/..", "https://example.com/./x", "https://example.com//x", "https://example.com/a//b",
		"https://example.com/%2e%2e", "https://example.com/a%2Fb", "https://EXAMPLE.com", "https://ex\u0430mple.com", "https://example.com/\u00e9", "https://example.com/ x",
		"https://example.com\n", "https://example.com\x00", "https://example.com\\@evil.com", "https://evil.com@example.com", "https://example.com/~~x", "https://example.com.",
		"https://example.com:", "https://" + strings.Repeat("a", 260) + ".com", "javascript:alert(1)", "data:text/plain,x", " https://example.com", "https://example.com/<x>", "https://example.com/\"x",
		"https://exa mple.com", "https://[::1", "https://example.com:99999999999/x y",
		"https://example.com:0", "https://example.com:65536", "https://example.com:0443", "https://example.com:+443",
	} {
		if err := CheckURL(bad, false); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
	if err := CheckURL("http://127.0.0.1:8080", true); err != nil {
		t.Error(err)
	}
}

// TestForbiddenAddresses holds which addresses are never dialled [I-10].
func TestForbiddenAddresses(t *testing.T) {
	for _, ip := range []string{
		"127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1", "198.18.0.1", "224.0.0.1", "240.0.0.1",
		"255.255.255.255", "192.0.0.192", "::1", "::", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "fe80::1", "fe80::1%25eth0", "fc00::1", "fd00::1", "ff02::1", "2001:db8::1", "168.63.129.16", "::ffff:0:a9fe:a9fe",
	} {
		if err := checkAddress(fmt.Sprintf("[%s]:443", ip), nil); err == nil {
			t.Errorf("%s may be dialled", ip)
		}
		if !strings.Contains(ip, ":") {
			if err := checkAddress(ip+":443", nil); !errors.Is(err, ErrForbiddenAddress) {
				t.Errorf("%s: %v", ip, err)
			}
		}
	}
	for _, ip := range []string{"93.184.216.34:443", "[2606:2800:220:1:248:1893:25c8:1946]:443", "172.32.0.1:443", "100.128.0.1:443"} {
		if err := checkAddress(ip, nil); err != nil {
			t.Errorf("%s: %v", ip, err)
		}
	}
	allowed := []netip.Prefix{netip.MustParsePrefix("10.20.0.0/16")}
	if checkAddress("10.20.1.1:443", allowed) != nil || checkAddress("10.21.1.1:443", allowed) == nil || checkAddress("[::ffff:10.20.1.1]:443", allowed) != nil {
		t.Error("allow_networks allows another network than it names, or not the one")
	}
}

// TestFaults makes the issuer misbehave in one way each: no key comes of it, the
// error is not that the key is unknown, and it comes in time.
func TestFaults(t *testing.T) {
	victim := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{"keys":[]}`)) }))
	defer victim.Close()
	stop := make(chan struct{})
	defer close(stop)
	for name, tc := range map[string]struct {
		edit func(*evilIssuer, *Source)
		says string
	}{
		"I-06 document of another issuer": {func(e *evilIssuer, _ *Source) {
			e.discovery = func(w http.ResponseWriter, _ *http.Request) { e.document(w, e.URL+"/", e.URL+"/jwks") }
		}, "another issuer"},
		"I-07 keys on another host": {func(e *evilIssuer, _ *Source) {
			e.discovery = func(w http.ResponseWriter, _ *http.Request) { e.document(w, e.URL, victim.URL+"/jwks") }
		}, "set jwks_uri"},
		"I-08 R-04 redirect to another host": {func(e *evilIssuer, _ *Source) {
			e.jwks = func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, victim.URL, http.StatusFound) }
		}, "redirects"},
		"I-08 redirect for ever": {func(e *evilIssuer, _ *Source) {
			e.jwks = func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/jwks", http.StatusFound) }
		}, "redirects"},
		"I-09 address not allowed": {func(_ *evilIssuer, s *Source) { s.AllowNetworks = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} }, "not on the internet"},
		"I-09 name of a private address": {func(e *evilIssuer, s *Source) {
			s.Issuer, s.AllowNetworks = strings.Replace(e.URL, "127.0.0.1", "localhost", 1), []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		}, "not on the internet"},
		"I-12 too large": {func(e *evilIssuer, _ *Source) {
			e.jwks = func(w http.ResponseWriter, _ *http.Request) { w.Write(bytes.Repeat([]byte(" "), 300<<10)) }
		}, "larger than"},
		"I-12 endless": {func(e *evilIssuer, _ *Source) {
			e.jwks = func(w http.ResponseWriter, _ *http.Request) {
				for {
					if _, err := w.Write(bytes.Repeat([]byte(" "), 1<<16)); err != nil {
						return
					}
				}
			}
		}, "larger than"},
		"I-12 gzip": {func(e *evilIssuer, _ *Source) {
			e.jwks = func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Encoding", "gzip")
				w.Write([]byte("\x1f\x8b\x08\x00"))
			}
		}, "key set"},
		"I-13 a byte at a time": {func(e *evilIssuer, _ *Source) {
			e.jwks = func(w http.ResponseWriter, r *http.Request) {
				for {
					select {
					case <-r.Context().Done():
						return
					case <-stop:
						return
					case <-time.After(20 * time.Millisecond):
						w.Write([]byte(" "))
						w.(http.Flusher).Flush()
					}
				}
			}
		}, "deadline"},
		"I-13 silence": {func(e *evilIssuer, _ *Source) {
			e.jwks = func(_ http.ResponseWriter, r *http.Request) {
				select {
				case <-r.Context().Done():
				case <-stop:
				}
			}
		}, "deadline"},
		"I-15 101 keys": {func(e *evilIssuer, _ *Source) {
			e.jwks = func(w http.ResponseWriter, _ *http.Request) {
				w.Write([]byte(`{"keys":[` + strings.Repeat("{},", 100) + `{}]}`))
			}
		}, "more than 100 keys"},
		"I-16 empty":     {func(e *evilIssuer, _ *Source) { e.jwks = text(200, `{"keys":[]}`) }, "no key that can be used"},
		"I-16 500":       {func(e *evilIssuer, _ *Source) { e.jwks = text(500, `oops`) }, "status 500"},
		"I-16 HTML":      {func(e *evilIssuer, _ *Source) { e.jwks = text(200, `<html>`) }, "key set"},
		"I-16 truncated": {func(e *evilIssuer, _ *Source) { e.jwks = text(200, `{"keys":[`) }, "key set"},
		"304 unasked":    {func(e *evilIssuer, _ *Source) { e.jwks = text(304, ``) }, "status 304"},
		"down":           {func(e *evilIssuer, _ *Source) { e.Close() }, "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEvilIssuer(t, false)
			s := e.source()
			tc.edit(e, &s)
			r, _ := newRemote(t, map[string]Source{"x": s})
			begin := time.Now()
			_, err := r.Key(t.Context(), "x", "k1", jose.ES256)
			if err == nil || errors.Is(err, jose.ErrUnknownKey) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v; want an error that says %q", err, tc.says)
			}
			if d := time.Since(begin); d > 3*time.Second {
				t.Errorf("took %s", d)
			}
		})
	}
}

func text(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		w.Write([]byte(body))
	}
}

// TestTLS holds that the issuer's certificate is checked [I-14].
func TestTLS(t *testing.T) {
	e := newEvilIssuer(t, true)
	s := e.source()
	r, _ := newRemote(t, map[string]Source{"x": s})
	if _, err := r.Key(t.Context(), "x", "k1", jose.ES256); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a certificate of an unknown authority: %v", err)
	}
	s.CACertificates = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: e.Certificate().Raw}))
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	if err := r.Configure(map[string]Source{"x": s}); err != nil {
		t.Fatal(err)
	}
	r.mustKey(t, "x", "k1")
	s.CACertificates = "nonsense"
	if s.Check() == nil {
		t.Error("ca_certificates that hold none are accepted")
	}
}

// TestOneFetch holds that many who ask at once cause one fetch [I-21], and that
// who gives up does not take it from the others.
func TestOneFetch(t *testing.T) {
	e := newEvilIssuer(t, false)
	release := make(chan struct{})
	good := e.jwks
	e.answer(func(w http.ResponseWriter, r *http.Request) {
		<-release
		e.answer(good)
		e.mu.Lock()
		defer e.mu.Unlock()
		json.NewEncoder(w).Encode(map[string]any{"keys": e.keys})
	})
	r, _ := newRemote(t, map[string]Source{"x": e.source()})
	impatient, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range 500 {
		wg.Go(func() {
			ctx := t.Context()
			if i%2 == 0 {
				ctx = impatient
			}
			_, err := r.Key(ctx, "x", "k1", jose.ES256)
			if i%2 == 1 && err != nil || i%2 == 0 && err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	cancel()
	close(release)
	wg.Wait()
	if d, f := e.discoveries.Load(), e.fetches.Load(); d != 1 || f != 1 {
		t.Errorf("%d discoveries and %d fetches for 500 requests", d, f)
	}
}

// TestUnknownKeys floods an issuer with key ids that it does not have, up and
// down, and has it rotate [I-18, I-19, I-20, K-09, F15, F16].
func TestUnknownKeys(t *testing.T) {
	e := newEvilIssuer(t, false)
	r, c := newRemote(t, map[string]Source{"x": e.source()})
	r.mustKey(t, "x", "k1")
	for i := range 10_000 {
		if _, err := r.Key(t.Context(), "x", fmt.Sprint("unknown-", i), jose.ES256); !errors.Is(err, jose.ErrUnknownKey) {
			t.Fatal(err)
		}
	}
	if f := e.fetches.Load(); f != 1 {
		t.Errorf("%d fetches for 10,000 unknown ids within the cool-down", f)
	}
	e.rotate(t, "k2")
	c.advance(31 * time.Second)
	r.mustKey(t, "x", "k2")
	if _, err := r.Key(t.Context(), "x", "k1", jose.ES256); !errors.Is(err, jose.ErrUnknownKey) {
		t.Errorf("A-32: a key that is not published any more: %v", err)
	}
	if f := e.fetches.Load(); f != 2 {
		t.Errorf("%d fetches after the rotation, want 2", f)
	}
	e.answer(text(500, ""))
	c.advance(31 * time.Second)
	for range 100 {
		if _, err := r.Key(t.Context(), "x", "k3", jose.ES256); err == nil || errors.Is(err, jose.ErrUnknownKey) {
			t.Fatalf("a key of an issuer that has rotated and is down: %v; want an error that may pass", err)
		}
	}
	if f := e.fetches.Load(); f != 3 {
		t.Errorf("%d fetches of an issuer that is down, want one more", f)
	}
	r.mustKey(t, "x", "k2")
}

// TestStale uses keys while their issuer is down, for as long as is bounded [F14].
func TestStale(t *testing.T) {
	e := newEvilIssuer(t, false)
	healthy := newEvilIssuer(t, false)
	r, c := newRemote(t, map[string]Source{"x": e.source(), "y": healthy.source()})
	r.mustKey(t, "x", "k1")
	e.answer(text(500, ""))
	c.advance(defaultMaxAge + 30*time.Minute)
	r.mustKey(t, "x", "k1")
	r.mustKey(t, "y", "k1")
	c.advance(2 * time.Hour)
	if _, err := r.Key(t.Context(), "x", "k1", jose.ES256); err == nil || errors.Is(err, jose.ErrUnknownKey) {
		t.Errorf("keys are used for ever: %v", err)
	}
	e.answer(nil)
	c.advance(31 * time.Second)
	r.mustKey(t, "x", "k1")
}

// TestPause holds that a key which its issuer has withdrawn while nobody asked does
// not verify a token once more: whoever comes first when the keys are past their
// end waits for an answer, if there is one to be had [K-09, F14].
func TestPause(t *testing.T) {
	e := newEvilIssuer(t, false)
	file := filepath.Join(t.TempDir(), "keys.json")
	writeFile(t, file, e.keySet(t))
	r, c := newRemote(t, map[string]Source{"x": e.source(), "file": {Issuer: "https://idp.example.com", JWKSFile: file}})
	r.mustKey(t, "x", "k1")
	r.mustKey(t, "file", "k1")
	e.rotate(t, "k2")
	writeFile(t, file, e.keySet(t))
	c.advance(defaultMaxAge + time.Minute)
	for _, name := range []string{"x", "file"} {
		if _, err := r.Key(t.Context(), name, "k1", jose.ES256); !errors.Is(err, jose.ErrUnknownKey) {
			t.Errorf("%s: a key that was withdrawn is used: %v", name, err)
		}
		r.mustKey(t, name, "k2")
	}

	// An issuer that is down is waited for once, and not by everybody who comes.
	var stuck atomic.Bool
	stuck.Store(true)
	e.answer(func(w http.ResponseWriter, r *http.Request) {
		if stuck.Load() {
			<-r.Context().Done()
		}
		w.WriteHeader(http.StatusInternalServerError)
	})
	c.advance(defaultMaxAge + time.Minute)
	before := r.Status()[1].Failures
	r.mustKey(t, "x", "k2")
	if f := r.Status()[1].Failures; f != before+1 {
		t.Errorf("%d attempts before the keys were used on, want 1", f-before)
	}
	c.advance(31 * time.Second)
	r.mustKey(t, "x", "k2")
	if f := r.Status()[1].Failures; f != before+1 {
		t.Error("the next one waited as well")
	}
	stuck.Store(false)
}

// TestRefresh renews keys in the background before they end, and asks whether
// they have changed.
func TestRefresh(t *testing.T) {
	e := newEvilIssuer(t, false)
	var conditional atomic.Int64
	e.answer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=600")
		w.Header().Set("ETag", `"1"`)
		if r.Header.Get("If-None-Match") == `"1"` {
			conditional.Add(1)
			w.WriteHeader(http.StatusNotModified)
			return
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		json.NewEncoder(w).Encode(map[string]any{"keys": e.keys})
	})
	fetched := make(chan error, 10)
	c := &clock{}
	r := NewRemote(RemoteConfig{Now: c.now, OnFetch: func(_ string, err error, _ []error) { fetched <- err }})
	defer r.Close()
	if err := r.Configure(map[string]Source{"x": e.source()}); err != nil {
		t.Fatal(err)
	}
	r.mustKey(t, "x", "k1")
	<-fetched
	c.advance(350 * time.Second)
	r.mustKey(t, "x", "k1")
	if f := e.fetches.Load(); f != 1 {
		t.Errorf("%d fetches well before the end", f)
	}
	c.advance(150 * time.Second) // 500 of 600 s
	r.mustKey(t, "x", "k1")
	if err := <-fetched; err != nil || conditional.Load() != 1 {
		t.Errorf("the refresh: %v, %d conditional requests", err, conditional.Load())
	}
	r.mustKey(t, "x", "k1")
}

// TestKeyIDs holds whose key verifies a token [J-24, J-25].
func TestKeyIDs(t *testing.T) {
	a, b := newEvilIssuer(t, false), newEvilIssuer(t, false)
	r, _ := newRemote(t, map[string]Source{"a": a.source(), "b": b.source()})
	if r.mustKey(t, "a", "k1").Public.(*ecdsa.PublicKey).Equal(r.mustKey(t, "b", "k1").Public) {
		t.Error("two issuers with one key id have one key")
	}
	if _, err := r.Key(t.Context(), "a", "", jose.ES256); !errors.Is(err, jose.ErrUnknownKey) {
		t.Errorf("a token without kid: %v", err)
	}
	s := a.source()
	s.AllowMissingKID = true
	if err := r.Configure(map[string]Source{"a": s}); err != nil {
		t.Fatal(err)
	}
	r.mustKey(t, "a", "")
	if _, err := r.Key(t.Context(), "b", "k1", jose.ES256); err == nil {
		t.Error("an issuer that was removed still has keys")
	}
	two := newEvilIssuer(t, false)
	two.rotate(t, "k1", "k2")
	s = two.source()
	s.AllowMissingKID = true
	if err := r.Configure(map[string]Source{"a": s}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Key(t.Context(), "a", "", jose.ES256); !errors.Is(err, jose.ErrUnknownKey) {
		t.Errorf("a token without kid, two keys: %v", err)
	}
}

// TestConfigure keeps the keys of issuers that stay as they are, and never waits.
func TestConfigure(t *testing.T) {
	e := newEvilIssuer(t, false)
	dead := Source{Issuer: "http://127.0.0.1:1", AllowNetworks: loopback, InsecureHTTP: true}
	r, _ := newRemote(t, map[string]Source{"x": e.source()})
	r.mustKey(t, "x", "k1")
	begin := time.Now()
	if err := r.Configure(map[string]Source{"x": e.source(), "dead": dead}); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(begin); d > 100*time.Millisecond {
		t.Errorf("Configure took %s", d)
	}
	r.mustKey(t, "x", "k1")
	if f := e.fetches.Load(); f != 1 {
		t.Errorf("%d fetches: the keys were dropped", f)
	}
}

// FuzzDiscovery holds that no document panics, and that what is accepted is of
// the issuer and points to its host.
func FuzzDiscovery(f *testing.F) {
	f.Add([]byte(`{"issuer":"https://idp.example.com","jwks_uri":"https://idp.example.com/jwks"}`))
	f.Add([]byte(`{"issuer":"https://idp.example.com","jwks_uri":"https://evil.example.com/jwks"}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		uri, err := parseDiscovery(body, Source{Issuer: "https://idp.example.com"})
		if err == nil && !strings.HasPrefix(uri, "https://idp.example.com/") && uri != "https://idp.example.com" {
			t.Errorf("accepted %q", uri)
		}
	})
}
