package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/workload-sts/sts/jose"
)

// verification is what became of verifying a token.
type verification struct {
	issuer string // whose keys were asked for
	own    bool   // the token itself named it, and nobody else did
	key    jose.Key
	err    error // nil: verified
}

func (v *verification) summary() string {
	switch {
	case v.err != nil:
		return "NOT VERIFIED, do not trust what it says"
	case v.own:
		return oneLine(fmt.Sprintf("verified: signed by %s with its key %s; whether you trust this issuer is for you to know", v.issuer, v.key.ID))
	}
	return oneLine(fmt.Sprintf("verified: signed by %s with its key %s, valid now", v.issuer, v.key.ID))
}

// leeway is how far the clocks of an issuer may be ahead of ours.
const leeway = 30 * time.Second

// verify checks a token as a resource server does: issuer, signature with a key
// that the issuer publishes now, times, and the audience if one is given.
func (c *cli) verify(ctx context.Context, t *token, audience string) *verification {
	ctx, cancel := context.WithTimeout(ctx, c.conn.timeout)
	defer cancel()
	v := &verification{issuer: c.conn.issuerIdentifier()}
	if v.issuer == "" {
		v.issuer, v.own = t.issuer(), true
	}
	v.err = c.verifyWith(ctx, v, t, audience)
	return v
}

func (c *cli) verifyWith(ctx context.Context, v *verification, t *token, audience string) error {
	switch iss := t.issuer(); {
	case iss == "":
		return unverified("the token has no issuer (iss)")
	case iss != v.issuer:
		return unverified("the token says that it is from %s, not from %s; if that is right, give --issuer %[1]s", iss, v.issuer)
	}
	jws, err := jose.Parse(t.compact)
	if err != nil {
		return unverified("the token is not a signed JWT that verifiers accept: %v", err)
	}
	claims, err := jws.Claims()
	if err != nil {
		return unverified("the claims of the token are not well-formed: %v", err)
	}
	set, err := c.keysOf(ctx, v.issuer)
	if err != nil {
		return err
	}
	key, ok := set.Key(jws.Header.KeyID)
	if !ok {
		return unverified("%s does not publish the key %q that the token names; the key may have been rotated away", v.issuer, jws.Header.KeyID)
	}
	if err := jws.Verify(key); err != nil {
		return unverified("the signature is not one of %s: %v", v.issuer, err)
	}
	v.key = key
	if err := c.checkTimes(claims); err != nil {
		return err
	}
	if audience != "" && !addressedTo(claims["aud"], audience) {
		return unverified("the token is for %s, not for %s", display(claims["aud"]), audience)
	}
	return nil
}

// checkTimes holds a token to be valid now.
func (c *cli) checkTimes(claims map[string]any) error {
	now := c.now()
	exp, ok := jose.Seconds(claims["exp"])
	if !ok {
		return unverified("the token has no expiry (exp)")
	}
	if at := time.Unix(exp, 0); !now.Before(at) {
		return unverified("the signature is good, but the token expired %s", relative(at.Sub(now)))
	}
	for _, name := range []string{"nbf", "iat"} {
		if claims[name] == nil {
			continue
		}
		at, ok := jose.Seconds(claims[name])
		if !ok || time.Unix(at, 0).After(now.Add(leeway)) {
			return unverified("the signature is good, but the token is not valid yet (%s); compare the clocks", name)
		}
	}
	return nil
}

func addressedTo(aud any, audience string) bool {
	switch aud := aud.(type) {
	case string:
		return aud == audience
	case []any:
		for _, a := range aud {
			if a == audience {
				return true
			}
		}
	}
	return false
}

// keysOf returns the keys that an issuer publishes, by its discovery document
// [OIDC Discovery 1.0 §4].
func (c *cli) keysOf(ctx context.Context, issuer string) (jose.KeySet, error) {
	none := jose.KeySet{}
	f, err := c.newFetcher()
	if err != nil {
		return none, err
	}
	discovery := strings.TrimSuffix(issuer, "/") + "/.well-known/openid-configuration"
	data, err := f.get(ctx, discovery)
	if err != nil {
		return none, err
	}
	doc, err := jose.ParseObject(data)
	if err != nil {
		return none, unverified("%s is not a JSON document: %v", discovery, err)
	}
	// The document must be that of the issuer [OIDC Discovery 1.0 §4.3].
	if said, _ := doc["issuer"].(string); said != issuer {
		return none, unverified("%s is the document of the issuer %q, which is another", discovery, said)
	}
	uri, _ := doc["jwks_uri"].(string)
	if uri == "" {
		return none, unverified("%s has no jwks_uri", discovery)
	}
	if data, err = f.get(ctx, uri); err != nil {
		return none, err
	}
	set, _, err := jose.ParseKeySet(data)
	if err != nil {
		return none, unverified("%s is not a key set: %v", uri, err)
	}
	return set, nil
}

// fetcher reads documents of issuers.
type fetcher struct{ client *http.Client }

// newFetcher trusts the authorities of --ca-file, follows no redirect and keeps
// no connection.
func (c *cli) newFetcher() (*fetcher, error) {
	config, err := c.conn.tlsConfig()
	if err != nil {
		return nil, err
	}
	return &fetcher{client: &http.Client{
		Transport: &http.Transport{TLSClientConfig: config, Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}}, nil
}

// get reads a document over https, or, from this machine, http.
func (f *fetcher) get(ctx context.Context, address string) ([]byte, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())) {
		return nil, unverified("%q is not an https URL; keys that come over http prove nothing", address)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, unverified("%q is not a URL", address)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, &failure{exitUnavailable, oneLine("cannot reach the issuer: " + err.Error())}
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, &failure{exitUnavailable, oneLine(fmt.Sprintf("%s answered %s", address, resp.Status))}
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxInput+1))
	switch {
	case err != nil:
		return nil, &failure{exitUnavailable, oneLine(fmt.Sprintf("reading %s: %v", address, err))}
	case len(data) > maxInput:
		return nil, unverified("%s is larger than %d KiB", address, maxInput>>10)
	}
	return data, nil
}
