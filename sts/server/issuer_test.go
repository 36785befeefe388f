package server

import (
	"strings"
	"testing"
)

// TestIssuerStatusREST holds what the status of issuers looks like, and who may see
// it.
func TestIssuerStatusREST(t *testing.T) {
	f := newFixture(t)
	got := f.adminRequest(t, "GET", "/v1/issuers:status", "")
	if got.http != 200 || !sameJSON(t, got.raw, `{"issuers":[{"name":"new","source":"discovery"},
		{"name":"used","source":"jwks_uri","keys":[{"kid":"k1","algorithm":"RS256"},{"algorithm":"EC P-256"}],"fetched":"2026-11-24T12:00:00Z",
		"asked":"2026-11-24T12:01:00Z","refresh":"2026-11-24T12:06:40Z","stale":"2026-11-24T13:10:00Z","problem":"status 500"}]}`) {
		t.Errorf("%d %s", got.http, got.raw)
	}
	for path, want := range map[string]string{"/v1/issuers:status?x=y": "a parameter that this method does not have", "/v1/issuers": "nothing at this path"} {
		if got := f.adminRequest(t, "GET", path, ""); got.http == 200 || !strings.Contains(got.raw, want) {
			t.Errorf("%s: %d %s", path, got.http, got.raw)
		}
	}
	if got := f.adminRequest(t, "POST", "/v1/issuers:status", "{}"); got.http != 405 || got.header.Get("Allow") != "GET" {
		t.Errorf("POST: %d %v", got.http, got.header)
	}
}
