package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// TestIssuerFaults lets the key server of a trusted issuer misbehave in every
// way [F14, I-08, I-12, I-13, I-16]. Nothing is issued, the answer comes in time
// and says whose fault it is, and another issuer is not touched.
func TestIssuerFaults(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	for name, h := range map[string]http.HandlerFunc{
		"500":       func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"html":      func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<html>maintenance</html>")) },
		"truncated": func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{"keys":[{"kty":"EC",`)) },
		"empty set": func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{"keys":[]}`)) },
		"never answers": func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		},
		"1 GB": func(w http.ResponseWriter, _ *http.Request) {
			block := bytes.Repeat([]byte(" "), 1<<20)
			for range 1024 {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		},
		"redirect to a private address": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/latest/meta-data", http.StatusFound)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad, good := newIssuer(t), newIssuer(t)
			bad.answer(h)
			n := startDev(t, t.TempDir())
			n.apply(t, bad.yaml("bad", "self_presented: true")+"---\n"+good.yaml("good", "self_presented: true")+`---
kind: Rule
name: bad
subject: {issuer: bad, claims: {sub: job-1}}
allow: {audiences: [demo]}
---
kind: Rule
name: good
subject: {issuer: good, claims: {sub: job-1}}
allow: {audiences: [demo]}
`)
			exchange := func(token string) reply {
				return n.post(t, url.Values{"grant_type": {grantExchange}, "subject_token": {token}, "subject_token_type": {typeJWT}, "audience": {"demo"}}, nil)
			}
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					begin := time.Now()
					r := exchange(bad.token(t, n, nil))
					if r.status != http.StatusServiceUnavailable || r.str("error") != "temporarily_unavailable" || r.header.Get("Retry-After") == "" {
						t.Errorf("status %d, Retry-After %q, %s", r.status, r.header.Get("Retry-After"), r.raw)
					}
					if d := time.Since(begin); d > 10*time.Second {
						t.Errorf("the answer took %s", d)
					}
				})
			}
			if r := exchange(good.token(t, n, nil)); r.status != http.StatusOK {
				t.Errorf("the other issuer is affected: %s", r.raw)
			}
			wg.Wait()
			if got := bad.fetches.Load(); got > 2 {
				t.Errorf("%d fetches for 4 requests, want 1", got)
			}
		})
	}
}

// TestKidFlood presents tokens with random key ids: the issuer is asked at most
// twice, and tokens signed with its key go on being accepted [I-18, F16].
func TestKidFlood(t *testing.T) {
	i := newIssuer(t)
	n := startDev(t, t.TempDir())
	n.apply(t, i.yaml("ci", "self_presented: true")+"---\nkind: Rule\nname: ci\nsubject: {issuer: ci, claims: {sub: job-1}}\nallow: {audiences: [demo]}\n")
	exchange := func(token string) reply {
		return n.post(t, url.Values{"grant_type": {grantExchange}, "subject_token": {token}, "subject_token_type": {typeJWT}, "audience": {"demo"}}, nil)
	}
	for k := range 200 {
		r := exchange(i.token(t, n, func(h map[jose.HeaderKey]any, _ map[string]any) { h["kid"] = fmt.Sprintf("unknown-%d", k) }))
		if r.status == http.StatusOK {
			t.Fatalf("accepted a key that the issuer does not publish: %s", r.raw)
		}
	}
	if r := exchange(i.token(t, n, nil)); r.status != http.StatusOK {
		t.Errorf("a good token is refused during the flood: %s", r.raw)
	}
	if got := i.fetches.Load(); got > 2 {
		t.Errorf("200 unknown key ids caused %d fetches", got)
	}
}
