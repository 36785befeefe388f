package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
	"github.com/workload-sts/sts/sts/server"
)

// clientCertificates checks whose certificates count, and makes paths absolute.
func (k configCheck) clientCertificates(path string, c *stsv1.ClientCertificatesConfig) {
	if c == nil {
		return
	}
	files, missing := k.noting()
	if c.CaFile != "" {
		c.CaFile = files.existingFile(path+".ca_file", c.CaFile)
	}
	domains := map[string]bool{}
	for i, b := range c.SpiffeBundles {
		at := fmt.Sprintf("%s.spiffe_bundles[%d]", path, i)
		if _, err := sts.ParseSPIFFEID("spiffe://" + b.TrustDomain + "/w"); err != nil || strings.Contains(b.TrustDomain, "/") {
			files.report(at+".trust_domain", "must be the name of a trust domain, such as prod.example.org, without spiffe:// and path")
		}
		if domains[b.TrustDomain] {
			files.report(at+".trust_domain", "is given twice; put all authorities of a trust domain into one file")
		}
		domains[b.TrustDomain] = true
		b.CaFile = files.existingFile(at+".ca_file", b.CaFile)
	}
	if c.CrlFile != "" {
		c.CrlFile = files.existingFile(path+".crl_file", c.CrlFile)
	}
	if *missing {
		return
	}
	if err := server.CheckClientCertificates(clientCertificateFiles(c)); err != nil {
		k.report(path, err.Error())
	}
}

func clientCertificateFiles(c *stsv1.ClientCertificatesConfig) server.ClientCertificateFiles {
	out := server.ClientCertificateFiles{CA: c.CaFile, CRL: c.CrlFile, SPIFFE: map[string]string{}}
	for _, b := range c.SpiffeBundles {
		out.SPIFFE[b.TrustDomain] = b.CaFile
	}
	return out
}

// trustedProxies checks the proxies of a listener and fills in defaults.
func (k configCheck) trustedProxies(path string, l *stsv1.Listener) {
	if len(l.TrustedProxies) == 0 {
		return
	}
	authorities := l.GetTls().GetClientCertificates()
	if authorities.GetCaFile() == "" && len(authorities.GetSpiffeBundles()) == 0 {
		k.report(path+".trusted_proxies", "needs tls.client_certificates with the authorities that issue the certificates of the proxies: without them anybody could forward a certificate")
	}
	for i, p := range l.TrustedProxies {
		at := fmt.Sprintf("%s.trusted_proxies[%d]", path, i)
		k.oneOf(at+".format", &p.Format, string(server.ForwardedRFC9440), string(server.ForwardedXFCC), string(server.ForwardedEscapedPEM))
		p.Header = cmp.Or(p.Header, server.ForwardedFormats[server.ForwardedFormat(p.Format)])
		if err := server.CheckForwardedHeader(p.Header); p.Header != "" && err != nil {
			k.report(at+".header", err.Error())
		}
		if err := server.CheckForwardedHeader(p.AddressHeader); p.AddressHeader != "" && err != nil {
			k.report(at+".address_header", err.Error())
		}
		if _, err := proxyName(p); err != nil {
			k.report(at, err.Error())
		}
	}
}

// proxyName is by which certificate a proxy is known.
func proxyName(p *stsv1.TrustedProxyConfig) (sts.CertificateName, error) {
	return certificateName(p.GetSanDns(), p.GetSanUri(), "the proxy")
}

// certificateName is that of a certificate by one of two names in it.
func certificateName(dns, uri, whose string) (sts.CertificateName, error) {
	match := &sts.ClientTLS{SANDNS: dns, SANURI: uri}
	if strings.HasPrefix(uri, "spiffe:") {
		match.SANURI, match.SPIFFE = "", &sts.ClientSPIFFE{ID: uri}
	}
	if *match == (sts.ClientTLS{}) {
		return sts.CertificateName{}, fmt.Errorf("needs san_dns or san_uri, a name in the certificate of %s", whose)
	}
	return sts.NewCertificateName(match)
}

// clientCertificates returns whose certificates count on a listener, nil if it
// asks for none.
func (n *node) clientCertificates(l *stsv1.Listener) (*server.ClientCertificates, error) {
	c := l.GetTls().GetClientCertificates()
	if c == nil {
		return nil, nil
	}
	proxies := make([]server.TrustedProxy, 0, len(l.TrustedProxies))
	for _, p := range l.TrustedProxies {
		name, err := proxyName(p)
		if err != nil {
			return nil, err
		}
		proxies = append(proxies, server.TrustedProxy{Name: name, Header: p.Header, Format: server.ForwardedFormat(p.Format), AddressHeader: p.AddressHeader})
	}
	out, err := server.ReloadingClientCertificates(clientCertificateFiles(c), proxies, certificateCheck, n.log)
	if err == nil {
		n.closers = append(n.closers, out.Close)
	}
	return out, err
}

// certificateMethods are the methods of client authentication by certificate at
// the token endpoint, which is on this listener.
func certificateMethods(l *stsv1.Listener) []sts.AuthMethod {
	c := l.GetTls().GetClientCertificates()
	if c == nil {
		return nil
	}
	methods := []sts.AuthMethod{sts.SelfSignedTLSClientAuth}
	if c.CaFile != "" || len(c.SpiffeBundles) > 0 {
		methods = slices.Insert(methods, 0, sts.TLSClientAuth)
	}
	return methods
}
