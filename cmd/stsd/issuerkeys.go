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

func source(i *sts.Issuer) (keys.Source, error) {
	src := keys.Source{
		Issuer: i.Issuer, JWKSURI: i.JWKSURI, CACertificates: i.CACertificates,
		InsecureHTTP: i.InsecureHTTP, AllowMissingKID: i.AllowMissingKID,
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
