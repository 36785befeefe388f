package main

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/keys"
	"github.com/workload-sts/sts/sts"
)

// issuerKeys fits the key fetcher, which knows nothing of resources, to what the
// domain asks for.
type issuerKeys struct{ remote *keys.Remote }

func (k issuerKeys) Check(i *sts.Issuer) error {
	_, err := source(i)
	return err
}

func (k issuerKeys) Trust(issuers []*sts.Issuer) {
	sources := make(map[string]keys.Source, len(issuers))
	for _, i := range issuers {
		src, err := source(i)
		if err != nil {
			panic(fmt.Sprintf("issuer %q was not checked: %v", i.Name, err))
		}
		sources[i.Name] = src
	}
	if err := k.remote.Configure(sources); err != nil {
		panic(fmt.Sprintf("issuers were not checked: %v", err))
	}
}

func (k issuerKeys) Key(ctx context.Context, issuer, kid string, alg jose.Algorithm) (jose.Key, error) {
	return k.remote.Key(ctx, issuer, kid, alg)
}

func (k issuerKeys) Review(ctx context.Context, issuer, token, audience string) (string, error) {
	return k.remote.Review(ctx, issuer, token, audience)
}

func (k issuerKeys) Status() []sts.IssuerStatus {
	var out []sts.IssuerStatus
	for _, s := range k.remote.Status() {
		out = append(out, statusOf(s))
	}
	return out
}

func statusOf(s keys.SourceStatus) sts.IssuerStatus {
	out := sts.IssuerStatus{Name: s.Issuer, Source: string(s.Kind), Fetched: s.Fetched, Asked: s.Asked, Refresh: s.Refresh, Stale: s.Stale}
	for _, key := range s.Keys {
		out.Keys = append(out.Keys, sts.IssuerKey{ID: key.ID, Algorithm: key.Algorithm})
	}
	if s.Err != nil {
		out.Problem = s.Err.Error()
	}
	return out
}

func source(i *sts.Issuer) (keys.Source, error) {
	src := keys.Source{
		Issuer: i.Issuer, DiscoveryURI: i.DiscoveryURI, DiscoveryIssuer: i.DiscoveryIssuer, JWKSHosts: i.JWKSHosts,
		JWKSURI: i.JWKSURI, JWKS: i.JWKS, JWKSFile: i.JWKSFile, TokenFile: i.TokenFile,
		CACertificates: i.CACertificates, InsecureHTTP: i.InsecureHTTP, AllowMissingKID: i.AllowMissingKID,
	}
	if b := i.SPIFFEBundle; b != nil {
		src.BundleFile, src.BundleURL = b.File, b.URL
	}
	if r := i.TokenReview; r != nil {
		src.Review = keys.Review{APIServer: r.APIServer, TokenFile: r.TokenFile, CAFile: r.CAFile, Keys: r.CheckSignature}
	}
	for _, n := range i.AllowNetworks {
		prefix, err := netip.ParsePrefix(n)
		if err != nil {
			return src, fmt.Errorf("allow_networks: %q is not a network such as 10.20.0.0/16", n)
		}
		src.AllowNetworks = append(src.AllowNetworks, prefix)
	}
	return src, src.Check()
}
