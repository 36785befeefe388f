package keys

import (
	"crypto/ecdsa"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workload-sts/sts/jose"
)

const reviewed = "system:serviceaccount:prod:deployer"

// apiServer is a Kubernetes API server as far as TokenReview goes.
type apiServer struct {
	*httptest.Server
	calls atomic.Int64

	mu     sync.Mutex
	status func(audiences []any) map[string]any // nil: yes
	handle http.HandlerFunc                     // instead of all
}

func newAPIServer(t testing.TB) *apiServer {
	t.Helper()
	a := &apiServer{}
	a.Server = httptest.NewTLSServer(http.HandlerFunc(a.serve))
	t.Cleanup(a.Close)
	return a
}

func (a *apiServer) serve(w http.ResponseWriter, r *http.Request) {
	a.calls.Add(1)
	a.mu.Lock()
	status, handle := a.status, a.handle
	a.mu.Unlock()
	if handle != nil {
		handle(w, r)
		return
	}
	body, _ := io.ReadAll(r.Body)
	m, err := jose.ParseObject(body)
	spec, _ := m["spec"].(map[string]any)
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/apis/authentication.k8s.io/v1/tokenreviews" ||
		m["apiVersion"] != "authentication.k8s.io/v1" || m["kind"] != "TokenReview" || spec["token"] == "" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+serviceToken {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	audiences, _ := spec["audiences"].([]any)
	if status == nil {
		status = func(audiences []any) map[string]any {
			return map[string]any{"authenticated": true, "audiences": audiences, "user": map[string]any{
				"username": reviewed, "uid": "c1b2", "groups": []string{"system:serviceaccounts", "system:authenticated"},
			}}
		}
	}
	w.WriteHeader(http.StatusCreated)
	json.NewEncoder(w).Encode(map[string]any{
		"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": map[string]any{}, "spec": spec, "status": status(audiences),
	})
}

func (a *apiServer) answers(status func([]any) map[string]any, handle http.HandlerFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status, a.handle = status, handle
}

// source has the CA in a file, as a pod has.
func (a *apiServer) source(t testing.TB) Source {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "token"), []byte(serviceToken))
	writeFile(t, filepath.Join(dir, "ca.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate().Raw}))
	return Source{
		Issuer: "https://kubernetes.default.svc.cluster.local", AllowNetworks: loopback,
		Review: Review{APIServer: a.URL, TokenFile: filepath.Join(dir, "token"), CAFile: filepath.Join(dir, "ca.crt")},
	}
}

const ourAudience = "https://sts.example.com"

// TestReview lets an API server answer in one way each. It is asked about a token
// once while the answer is fresh.
func TestReview(t *testing.T) {
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("I-25 another host was asked") }))
	defer elsewhere.Close()
	status := func(s map[string]any) func(*apiServer) {
		return func(a *apiServer) { a.answers(func([]any) map[string]any { return s }, nil) }
	}
	handle := func(h http.HandlerFunc) func(*apiServer) { return func(a *apiServer) { a.answers(nil, h) } }
	user := map[string]any{"username": reviewed}
	for name, tc := range map[string]struct {
		set     func(*apiServer)
		refused bool   // the token is not good
		says    string // else: that it could not be asked
	}{
		"good":                      {func(*apiServer) {}, false, ""},
		"K-06 pod deleted":          {status(map[string]any{"error": "[invalid bearer token, pod has been deleted]"}), true, ""},
		"K-08 no audiences":         {status(map[string]any{"authenticated": true, "user": user}), true, ""},
		"K-08 empty audiences":      {status(map[string]any{"authenticated": true, "user": user, "audiences": []string{}}), true, ""},
		"K-08 audience of others":   {status(map[string]any{"authenticated": true, "user": user, "audiences": []string{"https://kubernetes.default.svc"}}), true, ""},
		"authenticated is a string": {status(map[string]any{"authenticated": "true", "user": user, "audiences": []string{ourAudience}}), true, ""},
		"no user":                   {status(map[string]any{"authenticated": true, "audiences": []string{ourAudience}}), false, "names no user"},
		"not allowed to ask":        {handle(text(403, `{"kind":"Status"}`)), false, "system:auth-delegator"},
		"own token has expired":     {handle(text(401, `{"kind":"Status"}`)), false, "system:auth-delegator"},
		"500":                       {handle(text(500, ``)), false, "status 500"},
		"another kind":              {handle(text(201, `{"kind":"Status","status":{"authenticated":true}}`)), false, "not a TokenReview"},
		"html":                      {handle(text(200, `<html>`)), false, "not a TokenReview"},
		"authenticated twice":       {handle(text(201, `{"kind":"TokenReview","status":{"authenticated":true,"authenticated":false}}`)), false, "not a TokenReview"},
		"too large":                 {handle(text(201, strings.Repeat(" ", 100<<10))), false, "larger than"},
		"I-25 redirect": {handle(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}), false, "status 307"},
		"I-25 redirect on same host": {handle(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/other", http.StatusTemporaryRedirect)
		}), false, "status 307"},
		"down": {func(a *apiServer) { a.Close() }, false, "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAPIServer(t)
			tc.set(a)
			s := a.source(t)
			if err := s.Check(); err != nil {
				t.Fatal(err)
			}
			r, c := newRemote(t, map[string]Source{"k8s": s})
			for range 3 {
				subject, err := r.Review(t.Context(), "k8s", "token", ourAudience)
				switch {
				case tc.says != "" && (err == nil || errors.Is(err, jose.ErrSignature) || !strings.Contains(err.Error(), tc.says)):
					t.Errorf("%q %v, want an error that says %q", subject, err, tc.says)
				case tc.refused && !errors.Is(err, jose.ErrSignature):
					t.Errorf("%q %v, want a refusal", subject, err)
				case !tc.refused && tc.says == "" && (err != nil || subject != reviewed):
					t.Errorf("%q %v", subject, err)
				}
			}
			if n := a.calls.Load(); n > 1 {
				t.Errorf("%d calls about one token", n)
			}
			st := r.Status()[0]
			if st.Kind != ByReview || (st.Err != nil) != (tc.says != "") || st.Fetches+st.Failures != 1 {
				t.Errorf("%+v", st)
			}
			if strings.HasPrefix(name, "K-06") {
				a.answers(nil, nil)
			}
			c.advance(11 * time.Second)
			if _, err := r.Review(t.Context(), "k8s", "token", ourAudience); tc.says == "" && a.calls.Load() != 2 {
				t.Errorf("the answer counts for ever: %v", err)
			}
		})
	}
}

// TestReviewTogether holds that many who present one token cause one call, that
// many tokens cause few at a time, and that a broken CA file stops the calls.
func TestReviewTogether(t *testing.T) {
	a := newAPIServer(t)
	var now, most atomic.Int64
	a.answers(func(audiences []any) map[string]any {
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		time.Sleep(2 * time.Millisecond)
		return map[string]any{"authenticated": true, "audiences": audiences, "user": map[string]any{"username": reviewed}}
	}, nil)
	s := a.source(t)
	c := &clock{}
	r := NewRemote(RemoteConfig{Now: c.now})
	defer r.Close()
	if err := r.Configure(map[string]Source{"k8s": s}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			if _, err := r.Review(t.Context(), "k8s", fmt.Sprint("token", i%50), ourAudience); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if a.calls.Load() != 50 || most.Load() > reviewsAtOnce {
		t.Errorf("%d calls for 50 tokens, %d at once", a.calls.Load(), most.Load())
	}
	writeFile(t, s.Review.CAFile, []byte("nonsense"))
	if _, err := r.Review(t.Context(), "k8s", "another", ourAudience); err == nil || errors.Is(err, jose.ErrSignature) {
		t.Error(err)
	}
	if _, err := r.Review(t.Context(), "nobody", "another", ourAudience); err == nil {
		t.Error("an issuer that is not there")
	}
}

// FuzzReview holds that no answer of an API server panics, and that none is taken
// for a yes that does not name the audience.
func FuzzReview(f *testing.F) {
	f.Add([]byte(`{"kind":"TokenReview","status":{"authenticated":true,"audiences":["https://sts.example.com"],"user":{"username":"x"}}}`))
	f.Add([]byte(`{"kind":"TokenReview","status":{"authenticated":true}}`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		subject, err := readReview(answer, ourAudience)
		if err == nil && (subject == "" || !strings.Contains(string(answer), "true")) {
			t.Errorf("%q", subject)
		}
	})
}

// TestReviewKeys has the keys of an API server beside its reviews: fetched once with
// the token of this service, whatever key ids come, and known after the API server
// has gone.
func TestReviewKeys(t *testing.T) {
	a := newAPIServer(t)
	signer := newEvilIssuer(t, false) // for its key
	var fetches atomic.Int64
	a.answers(nil, func(w http.ResponseWriter, r *http.Request) {
		fetches.Add(1)
		if r.URL.Path != "/openid/v1/jwks" || r.Header.Get("Authorization") != "Bearer "+serviceToken {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		json.NewEncoder(w).Encode(map[string]any{"keys": signer.keys})
	})
	src := a.source(t)
	r, _ := newRemote(t, map[string]Source{"cluster": src})
	if _, err := r.Key(t.Context(), "cluster", "k1", jose.ES256); err == nil || errors.Is(err, jose.ErrUnknownKey) {
		t.Errorf("without being asked for: %v", err)
	}
	src.Review.Keys = true
	if err := src.Check(); err != nil {
		t.Fatal(err)
	}
	if err := r.Configure(map[string]Source{"cluster": src}); err != nil {
		t.Fatal(err)
	}
	if key := r.mustKey(t, "cluster", "k1"); !signer.keys[0].Public.(*ecdsa.PublicKey).Equal(key.Public) {
		t.Fatal("another key")
	}
	for i := range 100 {
		if _, err := r.Key(t.Context(), "cluster", fmt.Sprint("forged", i), jose.ES256); !errors.Is(err, jose.ErrUnknownKey) {
			t.Fatal(err)
		}
	}
	if n := fetches.Load(); n != 1 {
		t.Errorf("%d fetches", n)
	}
	a.Close()
	r.mustKey(t, "cluster", "k1")
	if st := r.Status()[0]; len(st.Keys) != 1 || st.Kind != ByReview {
		t.Errorf("status %+v", st)
	}
}
