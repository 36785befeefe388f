package server

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/workload-sts/sts/sts"
)

// TestForwardedAddress holds that the address of a client is taken from a trusted
// proxy, at the end of its header, and from nobody else [M-01].
func TestForwardedAddress(t *testing.T) {
	name, err := sts.NewCertificateName(&sts.ClientTLS{SANDNS: "proxy.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	m := newMutual(t, TrustedProxy{Name: name, Header: "Client-Cert", Format: ForwardedRFC9440, AddressHeader: "X-Forwarded-For"})
	proxyCert := m.ca.issue(t, "proxy.example.com")
	pretender := newAuthority(t, "pretender", nil).issue(t, "proxy.example.com")
	proxy, other := m.as(t, &proxyCert), m.as(t, &pretender)
	for name, row := range map[string]struct {
		by     *as
		header http.Header
		want   string
	}{
		"the last element": {proxy, http.Header{"X-Forwarded-For": {"203.0.113.1, 192.0.2.7"}}, "192.0.2.7"},
		"the last value":   {proxy, http.Header{"X-Forwarded-For": {"203.0.113.1", "192.0.2.7:4711"}}, "192.0.2.7"},
		"IPv6":             {proxy, http.Header{"X-Forwarded-For": {"[2001:db8::1]"}}, "2001:db8::1"},
		"IPv4 in IPv6":     {proxy, http.Header{"X-Forwarded-For": {"::ffff:192.0.2.7"}}, "192.0.2.7"},
		"no address":       {proxy, http.Header{"X-Forwarded-For": {"192.0.2.7, unknown"}}, ""},
		"another header":   {proxy, http.Header{"Forwarded": {"for=192.0.2.7"}, "X_Forwarded_For": {"192.0.2.7"}}, ""},
		"a pretender":      {other, http.Header{"X-Forwarded-For": {"192.0.2.7"}}, ""},
		"nobody":           {m.as(t, nil), http.Header{"X-Forwarded-For": {"192.0.2.7"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(m.audit.all())
			row.by.ask(t, map[string][]string{"client_id": {"orders"}}, row.header)
			records := m.audit.all()[before:]
			if len(records) != 3 {
				t.Fatalf("%d records", len(records))
			}
			for _, r := range records {
				if r.Forwarded != row.want || r.Peer != "127.0.0.1" {
					t.Errorf("peer %q for %q, want %q", r.Peer, r.Forwarded, row.want)
				}
			}
		})
	}
}

// TestForwardedAddressSlowsDown holds that failures from one address behind a proxy
// do not slow down another there.
func TestForwardedAddressSlowsDown(t *testing.T) {
	name, err := sts.NewCertificateName(&sts.ClientTLS{SANDNS: "proxy.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	m := newMutual(t, TrustedProxy{Name: name, Header: "Client-Cert", Format: ForwardedRFC9440, AddressHeader: "X-Forwarded-For"})
	proxyCert := m.ca.issue(t, "proxy.example.com")
	proxy := m.as(t, &proxyCert)
	wait := func(address string) bool {
		wrong := map[string][]string{"grant_type": {"client_credentials"}, "audience": {"api"}, "client_id": {"web"}, "client_secret": {secretOf("wrong")}}
		header := http.Header{"X-Forwarded-For": {address}}
		got := proxy.post(t, "/oauth2/token", "application/x-www-form-urlencoded", []byte(url.Values(wrong).Encode()), header)
		return got.header.Get("Retry-After") != ""
	}
	slowed := false
	for range 20 {
		slowed = wait("192.0.2.7")
	}
	if !slowed {
		t.Error("20 failures in a row are not slowed down")
	}
	if wait("192.0.2.8") {
		t.Error("the first failure from another address is slowed down")
	}
}
