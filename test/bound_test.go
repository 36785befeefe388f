package e2e

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// TestCertificateBoundTokens binds tokens to the certificate of the connection,
// as the metadata announces, and exchanges them [T-39, T-40].
func TestCertificateBoundTokens(t *testing.T) {
	m := startMutualTLS(t)
	m.apply(t, "kind: Audience\nname: payments\nscopes: [payments.read]\nbinding: mtls\n")
	if doc := get(t, m.env["STS_HTTP"]+"/.well-known/openid-configuration"); doc.body["tls_client_certificate_bound_access_tokens"] != true {
		t.Errorf("metadata %s", doc.raw)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(testCA.pem)
	post := func(certificate, client string, form url.Values) reply {
		t.Helper()
		pair := m.pair(t, certificate)
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}}
		defer transport.CloseIdleConnections()
		form.Set("client_id", client)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, m.env["STS_HTTP"]+"/oauth2/token", strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return doBy(t, &http.Client{Transport: transport}, req)
	}
	sum := sha256.Sum256(m.pair(t, "orders").Certificate[0])
	bound := func(r reply) {
		t.Helper()
		if r.status != http.StatusOK || r.str("token_type") != "Bearer" {
			t.Fatalf("%d %s", r.status, r.raw)
		}
		cnf, _ := verify(t, m.env["STS_ISSUER"], "payments", r.str("access_token"))["cnf"].(map[string]any)
		if want := base64.RawURLEncoding.EncodeToString(sum[:]); cnf["x5t#S256"] != want || len(cnf) != 1 {
			t.Errorf("cnf %v, want x5t#S256 %s", cnf, want)
		}
	}
	issued := post("orders", "orders", url.Values{"grant_type": {"client_credentials"}, "audience": {"payments"}})
	bound(issued)
	again := url.Values{
		"grant_type": {grantExchange}, "subject_token": {issued.str("access_token")}, "subject_token_type": {typeAccessToken}, "audience": {"payments"},
	}
	bound(post("orders", "orders", again))
	// Whoever has the token, and no matter how well it authenticates.
	if r := post("self", "orders-self", again); r.status != http.StatusBadRequest || r.str("error") != "invalid_request" {
		t.Errorf("%d %s", r.status, r.raw)
	}
}
