package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/keys"
	"github.com/workload-sts/sts/sts"
)

// clientKeys fits a key fetcher of its own to what the domain asks for, so that no
// name of a client is ever looked up among issuers.
type clientKeys struct{ remote *keys.Remote }

func (k clientKeys) Check(c *sts.ClientKey) error {
	_, err := clientSource(c)
	return err
}

func (k clientKeys) Trust(clients map[string]*sts.ClientKey) {
	sources := make(map[string]keys.Source, len(clients))
	for name, c := range clients {
		src, err := clientSource(c)
		if err != nil {
			panic(fmt.Sprintf("client %q was not checked: %v", name, err))
		}
		sources[name] = src
	}
	if err := k.remote.Configure(sources); err != nil {
		panic(fmt.Sprintf("clients were not checked: %v", err))
	}
}

func (k clientKeys) Key(ctx context.Context, client, kid string, alg jose.Algorithm) (jose.Key, error) {
	return k.remote.Key(ctx, client, kid, alg)
}

func (k clientKeys) Status(client string) (sts.IssuerStatus, bool) {
	s, ok := k.remote.StatusOf(client)
	return statusOf(s), ok
}

// noIssuer stands where a Source has an issuer identifier. Nothing is compared
// with it and nobody is asked by it.
const noIssuer = "https://client.invalid"

// clientSource says where the keys of a client are. Its tokens have no issuer
// identifier, and nothing is discovered.
func clientSource(c *sts.ClientKey) (keys.Source, error) {
	src, err := source(&sts.Issuer{
		Issuer: noIssuer, JWKSURI: c.JWKSURI, JWKSFile: c.JWKSFile, CACertificates: c.CACertificates, AllowNetworks: c.AllowNetworks, InsecureHTTP: c.InsecureHTTP,
	})
	src.AllowMissingKID = true // if there is one key, there is no doubt whose it is
	if e, ok := errors.AsType[*keys.SourceError](err); ok {
		err = fmt.Errorf("%s %w", e.Field(), err)
	}
	return src, err
}

// fetchedOfClient logs what came of asking a client for its keys.
func (n *node) fetchedOfClient(client string, err error, skipped []error) {
	if err != nil {
		n.log.Warn("the keys of a client could not be fetched", "client", client, "error", err.Error())
	}
	for _, why := range skipped {
		n.log.Warn("a key of a client cannot be used", "client", client, "error", why.Error())
	}
}
