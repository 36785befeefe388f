package keys

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
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
	sequence    int64 // of a SPIFFE bundle; 0: not said
	validators  validators
	maxAge      time.Duration
	notModified bool
}

// validators make a request conditional [RFC 9110 §13.1]. They belong to what
// was answered at one URL.
type validators struct{ uri, etag, modified string }

// fetch asks for the keys where the source says.
func (s *remoteSource) fetch(r *Remote) (fetched, error) {
	if s.file() != "" {
		return s.read(r.c.MaxBody)
	}
	ctx, cancel := context.WithTimeout(r.ctx, r.c.FetchTimeout)
	defer cancel()
	uri := s.JWKSURI + s.BundleURL
	if uri == "" {
		var err error
		if uri, err = s.discover(ctx, r.c.MaxBody); err != nil {
			return fetched{}, err
		}
	}
	s.mu.Lock()
	have := s.validators
	s.mu.Unlock()
	if have.uri != uri {
		have = validators{}
	}
	res, body, err := s.get(ctx, uri, have, r.c.MaxBody)
	if err != nil {
		return fetched{}, fmt.Errorf("fetching its keys: %w", err)
	}
	age := maxAge(res.Header)
	if res.StatusCode == http.StatusNotModified {
		if s.Kind() == ByBundle {
			age = s.hinted() // a bundle says itself how long it lasts
		}
		return fetched{notModified: true, maxAge: age}, nil
	}
	out, err := s.parse(body)
	out.validators = validators{uri, res.Header.Get("ETag"), res.Header.Get("Last-Modified")}
	if out.maxAge == 0 {
		out.maxAge = age
	}
	return out, err
}

// discover reads where the keys are from the discovery document [OIDC Discovery
// 1.0 §4].
func (s *remoteSource) discover(ctx context.Context, limit int64) (string, error) {
	_, body, err := s.get(ctx, s.document(), validators{}, limit)
	if err != nil {
		return "", fmt.Errorf("fetching its discovery document: %w; if it has none, set jwks_uri", err)
	}
	uri, err := parseDiscovery(body, s.Source)
	if err != nil {
		return "", fmt.Errorf("its discovery document %w", err)
	}
	return uri, nil
}

// document is the URL of the discovery document.
func (s Source) document() string {
	if s.DiscoveryURI != "" {
		return s.DiscoveryURI
	}
	return strings.TrimSuffix(s.Issuer, "/") + "/.well-known/openid-configuration"
}

// parseDiscovery returns the jwks_uri of a discovery document that is that of the
// issuer.
func parseDiscovery(body []byte, s Source) (string, error) {
	doc, err := jose.ParseObject(body)
	if err != nil {
		return "", fmt.Errorf("cannot be read: %w", err)
	}
	// "MUST exactly match" [OIDC Discovery 1.0 §4.3]. A document elsewhere may name
	// another issuer only if that one is named here.
	want := s.Issuer
	if s.DiscoveryIssuer != "" {
		want = s.DiscoveryIssuer
	}
	if doc["issuer"] != want {
		return "", errors.New("is of another issuer; if it is the right document, set discovery_issuer to the issuer that it names")
	}
	uri, _ := doc["jwks_uri"].(string)
	if err := CheckURL(uri, s.InsecureHTTP); err != nil {
		return "", fmt.Errorf("has a jwks_uri that %w", err)
	}
	from, err := url.Parse(s.document())
	if err != nil {
		return "", err
	}
	keys, err := url.Parse(uri)
	if err != nil {
		return "", err
	}
	if !sameOrigin(from, keys) && !slices.Contains(s.JWKSHosts, keys.Host) {
		return "", errors.New("points to keys on another host; if that is right, name the host in jwks_hosts, or set jwks_uri")
	}
	return uri, nil
}

// get reads an answer whole, and refuses one that is too large rather than
// cutting it.
func (s *remoteSource) get(ctx context.Context, uri string, have validators, limit int64) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "workload-sts")
	if have.etag != "" {
		req.Header.Set("If-None-Match", have.etag)
	}
	if have.modified != "" {
		req.Header.Set("If-Modified-Since", have.modified)
	}
	if err := s.authorize(req); err != nil {
		return nil, nil, err
	}
	res, err := s.client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusNotModified && (have.etag != "" || have.modified != "") {
		return res, nil, nil
	}
	if res.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("the answer has status %d", res.StatusCode)
	}
	body, err := readAll(res.Body, limit)
	return res, body, err
}

// authorize adds the token of the source, if there is one, to a request to the
// host that the source names. Where a discovery document points to, it does not
// go.
func (s *remoteSource) authorize(req *http.Request) error {
	if s.TokenFile == "" {
		return nil
	}
	at := s.document()
	if s.JWKSURI != "" {
		at = s.JWKSURI
	}
	own, err := url.Parse(at)
	if err != nil || !sameOrigin(own, req.URL) {
		return err
	}
	token, err := readToken(s.TokenFile)
	if err == nil {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return err
}

// readAll reads what has at most limit bytes.
func readAll(from io.Reader, limit int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(from, limit+1))
	if err == nil && int64(len(body)) > limit {
		err = fmt.Errorf("the answer is larger than %d bytes", limit)
	}
	if err != nil {
		return nil, err
	}
	return body, nil
}

// maxAge is how long the answer can be kept [RFC 9111 §5.2.2.1], within bounds.
func maxAge(h http.Header) time.Duration {
	for directive := range strings.SplitSeq(h.Get("Cache-Control"), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		if !strings.EqualFold(name, "max-age") {
			continue
		}
		if n, err := strconv.ParseInt(value, 10, 32); err == nil {
			return bounded(time.Duration(n) * time.Second)
		}
	}
	return defaultMaxAge
}

// bounded keeps how long keys last within what is ours to bear.
func bounded(age time.Duration) time.Duration { return min(max(age, minMaxAge), maxMaxAge) }
