package keys

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/workload-sts/sts/jose"
)

// TestCertificates holds I-14: no certificate that is not good for the host now is
// taken, and there is nothing that could turn that off.
func TestCertificates(t *testing.T) {
	now := time.Now()
	for name, tc := range map[string]struct {
		host     string
		from, to time.Time
		trusted  bool
		says     string // empty: taken
	}{
		"good":             {"127.0.0.1", now.Add(-time.Hour), now.Add(time.Hour), true, ""},
		"I-14 expired":     {"127.0.0.1", now.Add(-2 * time.Hour), now.Add(-time.Hour), true, "expired"},
		"I-14 not yet":     {"127.0.0.1", now.Add(time.Hour), now.Add(2 * time.Hour), true, "not yet valid"},
		"I-14 wrong host":  {"127.0.0.2", now.Add(-time.Hour), now.Add(time.Hour), true, "127.0.0.1"},
		"I-14 self-signed": {"127.0.0.1", now.Add(-time.Hour), now.Add(time.Hour), false, "unknown authority"},
	} {
		t.Run(name, func(t *testing.T) {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			template := &x509.Certificate{
				SerialNumber: big.NewInt(1), NotBefore: tc.from, NotAfter: tc.to, IPAddresses: []net.IP{net.ParseIP(tc.host)},
				IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
			}
			der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
			if err != nil {
				t.Fatal(err)
			}
			server := httptest.NewUnstartedServer(text(http.StatusOK, inlineKeys))
			server.Config.ErrorLog = log.New(io.Discard, "", 0)
			server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
			server.StartTLS()
			defer server.Close()
			s := Source{Issuer: server.URL, JWKSURI: server.URL + "/jwks", AllowNetworks: loopback}
			if tc.trusted {
				s.CACertificates = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
			}
			r, _ := newRemote(t, map[string]Source{"x": s})
			_, err = r.Key(t.Context(), "x", "k1", jose.ES256)
			if tc.says == "" && err != nil || tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)) {
				t.Errorf("%v, want %q", err, tc.says)
			}
		})
	}
}

// TestIssuerMetrics holds the metrics of issuers, by which an alarm knows an issuer
// that is down long before its keys are not used any more [S-09, I-16].
func TestIssuerMetrics(t *testing.T) {
	e := newEvilIssuer(t, false)
	r, c := newRemote(t, map[string]Source{"up": e.source(), "inline": {Issuer: "https://idp.example.com", JWKS: inlineKeys}})
	r.mustKey(t, "up", "k1")
	e.answer(text(500, ""))
	c.advance(20 * time.Minute)
	r.mustKey(t, "up", "k1") // which asks for them anew, behind its back
	eventually(t, "the keys are not asked for", func() bool { return r.Status()[1].Failures == 1 })
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(r.Collector())
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	want := map[string]float64{
		"sts_issuer_keys inline": 1, "sts_issuer_keys up": 1, "sts_issuer_key_age_seconds up": 1200,
		"sts_issuer_fetches_total inline failed": 0, "sts_issuer_fetches_total inline ok": 0,
		"sts_issuer_fetches_total up failed": 1, "sts_issuer_fetches_total up ok": 1,
	}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestBadSets refreshes a good set by one that is not: what can be used of it is,
// and if it cannot be told what that is, the good one stays, and somebody hears of
// it.
func TestBadSets(t *testing.T) {
	key := strings.TrimSuffix(strings.TrimPrefix(inlineKeys, `{"keys":[`), `]}`)
	named := func(kid string) string { return strings.Replace(key, "k1", kid, 1) }
	for name, tc := range map[string]struct {
		set     string
		good    string // a key that can be used then
		gone    bool   // k1
		problem bool
		skipped int
	}{
		"J-26 one kid twice":             {`{"keys":[` + named("k2") + `,` + named("k2") + `]}`, "k1", false, true, 0},
		"I-15 one malformed among three": {`{"keys":[` + named("k2") + `,{"kty":"EC","crv":"P-256","kid":"bad","x":"AA","y":"AA"},` + named("k3") + `]}`, "k3", true, false, 1},
		"I-15 unknown types":             {`{"keys":[{"kty":"LMS","kid":"a"},{"kty":"EC","crv":"P-999","kid":"b"},` + named("k2") + `]}`, "k2", true, false, 2},
		"J-28 symmetric":                 {`{"keys":[{"kty":"oct","kid":"a","k":"AAAA"},` + named("k2") + `]}`, "k2", true, false, 1},
		"J-57 private":                   {`{"keys":[` + strings.Replace(named("k2"), `"kty"`, `"d":"AA","kty"`, 1) + `,` + named("k3") + `]}`, "k3", true, false, 1},
		"I-16 empty":                     {`{"keys":[]}`, "k1", false, true, 0},
		"I-15 10,000 keys":               {`{"keys":[` + strings.Repeat("{},", 9_999) + `{}]}`, "k1", false, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEvilIssuer(t, false)
			e.answer(text(http.StatusOK, inlineKeys))
			var skipped int
			c := &clock{}
			r := NewRemote(RemoteConfig{Now: c.now, OnFetch: func(_ string, _ error, why []error) { skipped += len(why) }})
			defer r.Close()
			if err := r.Configure(map[string]Source{"x": e.source()}); err != nil {
				t.Fatal(err)
			}
			r.mustKey(t, "x", "k1")
			e.answer(text(http.StatusOK, tc.set))
			c.advance(time.Minute)
			r.Key(t.Context(), "x", "unknown", jose.ES256) // has them fetched
			r.mustKey(t, "x", tc.good)
			if _, err := r.Key(t.Context(), "x", "k1", jose.ES256); tc.gone != errors.Is(err, jose.ErrUnknownKey) {
				t.Errorf("k1: %v", err)
			}
			if s := r.Status()[0]; (s.Err != nil) != tc.problem || skipped != tc.skipped {
				t.Errorf("problem %v, %d keys reported", s.Err, skipped)
			}
		})
	}
}
