package keys

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/workload-sts/sts/jose"
)

// Source says where the keys of an issuer are: in one of the ways that its Kind
// names.
type Source struct {
	Issuer string // exact iss of its tokens

	DiscoveryURI    string   // of its discovery document; empty: below Issuer
	DiscoveryIssuer string   // issuer that the document must name; empty: Issuer
	JWKSHosts       []string // hosts besides that of the document that it may point to
	JWKSURI         string
	JWKS            string // the key set itself
	JWKSFile        string
	BundleFile      string // SPIFFE bundle
	BundleURL       string
	Review          Review

	TokenFile       string         // of a token to fetch keys with; it goes to the host that is configured, no other
	CACertificates  string         // PEM; empty: the system's
	AllowNetworks   []netip.Prefix // private networks that may be dialled
	InsecureHTTP    bool           // fetch without TLS
	AllowMissingKID bool           // tokens without kid, if there is one key
}

// Review is a Kubernetes API server that is asked about each token.
type Review struct {
	APIServer string
	TokenFile string // of the token that this service calls it with
	CAFile    string // PEM; empty: as of the Source
	Keys      bool   // its keys are to be had as well; see [Remote.Key]
}

// keys is where the API server publishes the keys that sign its tokens. They are
// fetched with the token and the CA of the Review.
func (s Source) keys() Source {
	return Source{
		Issuer: s.Issuer, JWKSURI: s.Review.APIServer + "/openid/v1/jwks", TokenFile: s.Review.TokenFile,
		AllowNetworks: s.AllowNetworks, InsecureHTTP: s.InsecureHTTP, AllowMissingKID: s.AllowMissingKID,
	}
}

// Kind is a way to find keys, by the name of the field that says it.
type Kind string

// The ways to find keys.
const (
	ByDiscovery Kind = "discovery"
	ByURI       Kind = "jwks_uri"
	Inline      Kind = "jwks"
	ByFile      Kind = "jwks_file"
	ByBundle    Kind = "spiffe_bundle"
	ByReview    Kind = "token_review"
)

// Kind is the way that the Source says; ByDiscovery if it says none.
func (s Source) Kind() Kind {
	if k := s.kinds(); len(k) > 0 {
		return k[0]
	}
	return ByDiscovery
}

// kinds are all ways that the Source says, of which one can count.
func (s Source) kinds() []Kind {
	var out []Kind
	for _, k := range []struct {
		kind Kind
		said bool
	}{
		{ByURI, s.JWKSURI != ""}, {Inline, s.JWKS != ""}, {ByFile, s.JWKSFile != ""},
		{ByBundle, s.BundleFile != "" || s.BundleURL != ""}, {ByReview, s.Review != Review{}},
		{ByDiscovery, s.DiscoveryURI != "" || s.DiscoveryIssuer != "" || len(s.JWKSHosts) > 0},
	} {
		if k.said {
			out = append(out, k.kind)
		}
	}
	return out
}

// file is the path of the file with the keys, empty if they are not in one.
func (s Source) file() string { return s.JWKSFile + s.BundleFile }

func (s Source) equal(o Source) bool { return reflect.DeepEqual(s, o) }

// SourceError is what is wrong with a field of a Source. The text reads with the
// field before it.
type SourceError struct {
	field string
	err   error
}

func (e *SourceError) Error() string { return e.err.Error() }

func (e *SourceError) Unwrap() error { return e.err }

// Field is the name of the field in the configuration.
func (e *SourceError) Field() string { return e.field }

// Check tells what is wrong with a source, without asking there. The error is a
// [*SourceError].
func (s Source) Check() error {
	bad := func(field, format string, args ...any) error { return &SourceError{field, fmt.Errorf(format, args...)} }
	if k := s.kinds(); len(k) > 1 {
		return bad(string(k[1]), "cannot be given together with %s; keep one, since keys come from one place", k[0])
	}
	if err := CheckURL(s.Issuer, s.InsecureHTTP); err != nil && (s.Kind() != ByBundle || !strings.HasPrefix(s.Issuer, "spiffe://")) {
		return &SourceError{"issuer", err}
	}
	for _, u := range []struct{ field, value string }{
		{"jwks_uri", s.JWKSURI}, {"discovery_uri", s.DiscoveryURI}, {"spiffe_bundle.url", s.BundleURL}, {"token_review.api_server", s.Review.APIServer},
	} {
		if u.value == "" {
			continue
		}
		if err := CheckURL(u.value, s.InsecureHTTP); err != nil {
			return &SourceError{u.field, err}
		}
	}
	for i, host := range s.JWKSHosts {
		if u, err := url.Parse("https://" + host); CheckURL("https://"+host, false) != nil || err != nil || u.Host != host {
			return bad(fmt.Sprintf("jwks_hosts[%d]", i), "is not a host, or a host and port, such as keys.example.com")
		}
	}
	for _, f := range []struct{ field, path string }{
		{"jwks_file", s.JWKSFile}, {"spiffe_bundle.file", s.BundleFile}, {"token_file", s.TokenFile},
		{"token_review.token_file", s.Review.TokenFile}, {"token_review.ca_file", s.Review.CAFile},
	} {
		if f.path != "" && !filepath.IsAbs(f.path) {
			return bad(f.field, "is not an absolute path on the machine of the server")
		}
	}
	return s.checkKind()
}

// checkKind is what Check looks at for one way to find keys.
func (s Source) checkKind() error {
	bad := func(field, format string, args ...any) error { return &SourceError{field, fmt.Errorf(format, args...)} }
	kind := s.Kind()
	switch {
	case s.BundleFile != "" && s.BundleURL != "":
		return bad("spiffe_bundle.url", "cannot be given together with file; keep one")
	case kind == ByReview && s.Review.APIServer == "":
		return bad("token_review.api_server", "is missing: the URL of the API server, such as https://kubernetes.default.svc")
	case kind == ByReview && s.Review.TokenFile == "":
		return bad("token_review.token_file", "is missing: the file with the token that this service calls the API server with, such as /var/run/secrets/kubernetes.io/serviceaccount/token")
	case s.TokenFile != "" && kind != ByDiscovery && kind != ByURI:
		return bad("token_file", "is for keys that are fetched by discovery or from jwks_uri")
	case s.InsecureHTTP && len(s.AllowNetworks) == 0 && kind != Inline && s.file() == "":
		return bad("insecure_http", "also needs allow_networks to say which private addresses are meant")
	case kind == Inline:
		set, skipped, err := jose.ParseKeySet([]byte(s.JWKS))
		if err == nil && len(skipped) > 0 {
			err = skipped[0]
		}
		if err == nil && set.Len() == 0 {
			err = errors.New("no keys")
		}
		if err != nil {
			return bad("jwks", "is not a JWK set whose keys can all be used: %w", err)
		}
	}
	if _, err := s.roots(); err != nil {
		return &SourceError{"ca_certificates", err}
	}
	return nil
}

func (s Source) roots() (*x509.CertPool, error) {
	if s.CACertificates == "" {
		return nil, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(s.CACertificates)) {
		return nil, errors.New("holds no certificate in PEM")
	}
	return pool, nil
}
