package keys

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/workload-sts/sts/jose"
)

// Bounds of how long an issuer can say that its keys last.
const (
	minMaxAge     = time.Minute
	maxMaxAge     = time.Hour
	defaultMaxAge = 10 * time.Minute
)

type httpDoer interface {
	Do(*http.Request) (*http.Response, error)
}

// fetched is what an issuer answered.
type fetched struct {
	keys        jose.KeySet
	skipped     []error
	etag        string
	maxAge      time.Duration
	notModified bool
}

// fetch asks the issuer for its keys.
func (s *remoteSource) fetch(r *Remote) (fetched, error) {
	ctx, cancel := context.WithTimeout(r.ctx, r.c.FetchTimeout)
	defer cancel()
	uri := s.JWKSURI
	if uri == "" {
		var err error
		if uri, err = s.discover(ctx, r.c.MaxBody); err != nil {
			return fetched{}, err
		}
	}
	s.mu.Lock()
	etag := s.etag
	s.mu.Unlock()
	res, body, err := s.get(ctx, uri, etag, r.c.MaxBody)
	if err != nil {
		return fetched{}, fmt.Errorf("fetching its keys: %w", err)
	}
	out := fetched{etag: res.Header.Get("ETag"), maxAge: maxAge(res.Header)}
	if res.StatusCode == http.StatusNotModified {
		out.notModified = true
		return out, nil
	}
	if out.keys, out.skipped, err = jose.ParseKeySet(body); err != nil {
		return out, fmt.Errorf("its key set: %w", err)
	}
	if out.keys.Len() == 0 {
		return out, errors.Join(errors.New("its key set has no key that can be used"), errors.Join(out.skipped...))
	}
	return out, nil
}

// discover reads where the keys are from the discovery document [OIDC Discovery
// 1.0 §4].
func (s *remoteSource) discover(ctx context.Context, limit int64) (string, error) {
	_, body, err := s.get(ctx, strings.TrimSuffix(s.Issuer, "/")+"/.well-known/openid-configuration", "", limit)
	if err != nil {
		return "", fmt.Errorf("fetching its discovery document: %w; if it has none, set jwks_uri", err)
	}
	uri, err := parseDiscovery(body, s.Source)
	if err != nil {
		return "", fmt.Errorf("its discovery document %w", err)
	}
	return uri, nil
}

// parseDiscovery returns the jwks_uri of a discovery document that is that of the
// issuer.
func parseDiscovery(body []byte, s Source) (string, error) {
	doc, err := jose.ParseObject(body)
	if err != nil {
		return "", fmt.Errorf("cannot be read: %w", err)
	}
	// "MUST exactly match" [OIDC Discovery 1.0 §4.3].
	if doc["issuer"] != s.Issuer {
		return "", errors.New("is of another issuer")
	}
	uri, _ := doc["jwks_uri"].(string)
	if err := CheckURL(uri, s.InsecureHTTP); err != nil {
		return "", fmt.Errorf("has a jwks_uri that %w", err)
	}
	issuer, err := url.Parse(s.Issuer)
	if err != nil {
		return "", err
	}
	keys, err := url.Parse(uri)
	if err != nil {
		return "", err
	}
	if !sameOrigin(issuer, keys) {
		return "", errors.New("points to keys on another host; if that is right, set jwks_uri to it")
	}
	return uri, nil
}

// get reads an answer whole, and refuses one that is too large rather than
// cutting it.
func (s *remoteSource) get(ctx context.Context, uri, etag string, limit int64) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "workload-sts")
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	res, err := s.client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusNotModified && etag != "" {
		return res, nil, nil
	}
	if res.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("the answer has status %d", res.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err != nil {
		return nil, nil, err
	}
	if int64(len(body)) > limit {
		return nil, nil, fmt.Errorf("the answer is larger than %d bytes", limit)
	}
	return res, body, nil
}

// maxAge is how long the answer can be kept [RFC 9111 §5.2.2.1], within bounds.
func maxAge(h http.Header) time.Duration {
	for directive := range strings.SplitSeq(h.Get("Cache-Control"), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		if !strings.EqualFold(name, "max-age") {
			continue
		}
		if n, err := strconv.ParseInt(value, 10, 32); err == nil {
			return min(max(time.Duration(n)*time.Second, minMaxAge), maxMaxAge)
		}
	}
	return defaultMaxAge
}
