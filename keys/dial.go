package keys

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"
)

// forbidden are addresses that no key server on the internet has; a name that
// leads there is an attack on what is behind our own network's edge. One of them
// looks like any other: 168.63.129.16 is the platform of Azure, seen from inside.
var forbidden = func() []netip.Prefix {
	var out []netip.Prefix
	for _, s := range []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16", "172.16.0.0/12",
		"192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
		"198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
		"::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16",
		"3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
	} {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}()

// ErrForbiddenAddress is why a key server is not dialled.
var ErrForbiddenAddress = errors.New("the address is private, loopback, link-local or otherwise not on the internet; if it is meant, name its network in allow_networks")

// checkAddress looks at an address that is about to be dialled.
func checkAddress(address string, allowed []netip.Prefix) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return ErrForbiddenAddress
	}
	ip := ap.Addr().Unmap().WithZone("")
	for _, p := range allowed {
		if p.Contains(ip) {
			return nil
		}
	}
	for _, p := range forbidden {
		if p.Contains(ip) {
			return fmt.Errorf("%s: %w", ip, ErrForbiddenAddress)
		}
	}
	return nil
}

const (
	maxHeader  = 16 << 10
	dialWait   = 2 * time.Second
	idleInPool = 10 * time.Second
)

// newHTTPClient returns a client for one source. It looks at the address that a
// socket really connects to, whatever names and redirects led there, takes no
// proxy and no cookies, asks for no compression, and follows one redirect within
// the host. Looking a name up is part of the time to connect; a nil resolver is
// the system's.
func newHTTPClient(s Source, resolver *net.Resolver) (*http.Client, error) {
	roots, err := s.roots()
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{
		Timeout:  dialWait,
		Resolver: resolver,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			return checkAddress(address, s.AllowNetworks)
		},
	}
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxHeader,
			MaxConnsPerHost:        2,
			MaxIdleConnsPerHost:    1,
			IdleConnTimeout:        idleInPool,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > 1 || !sameOrigin(r.URL, via[0].URL) {
				return errors.New("it redirects to another host or more than once")
			}
			return nil
		},
	}, nil
}

func sameOrigin(a, b *url.URL) bool { return a.Scheme == b.Scheme && a.Host == b.Host }
