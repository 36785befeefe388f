package server

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/metadata"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/sts"
)

// discoveryService is the handler of what verifiers ask for.
type discoveryService struct {
	stsv1.UnimplementedDiscoveryServiceServer
	service *sts.Service
}

// GetProviderMetadata implements stsv1.DiscoveryServiceServer.
func (d *discoveryService) GetProviderMetadata(context.Context, *stsv1.GetProviderMetadataRequest) (*stsv1.GetProviderMetadataResponse, error) {
	m := d.service.Metadata()
	return &stsv1.GetProviderMetadataResponse{
		Issuer:                            m.Issuer,
		TokenEndpoint:                     m.TokenEndpoint,
		JwksUri:                           m.JWKSURI,
		GrantTypesSupported:               m.GrantTypes,
		TokenEndpointAuthMethodsSupported: m.AuthMethods,
		SubjectTypesSupported:             []string{"public"},
		IdTokenSigningAlgValuesSupported:  m.Algorithms,
		DpopSigningAlgValuesSupported:     m.ProofAlgorithms,

		TlsClientCertificateBoundAccessTokens: m.CertificateBound,

		TokenEndpointAuthSigningAlgValuesSupported: m.AuthAlgorithms,

		IntrospectionEndpoint:                              m.IntrospectionEndpoint,
		IntrospectionEndpointAuthMethodsSupported:          m.AuthMethods,
		IntrospectionEndpointAuthSigningAlgValuesSupported: m.AuthAlgorithms,
		IntrospectionSigningAlgValuesSupported:             m.Algorithms,
		RevocationEndpoint:                                 m.RevocationEndpoint,
		RevocationEndpointAuthMethodsSupported:             m.RevocationAuthMethods,
		RevocationEndpointAuthSigningAlgValuesSupported:    m.AuthAlgorithms,

		RegistrationEndpoint: m.RegistrationEndpoint,
	}, nil
}

// GetJwks implements stsv1.DiscoveryServiceServer.
func (d *discoveryService) GetJwks(ctx context.Context, _ *stsv1.GetJwksRequest) (*stsv1.GetJwksResponse, error) {
	set, maxAge := d.service.KeySet()
	encoded, err := encodeKeySet(set)
	if err != nil {
		return nil, err
	}
	// The members of a JWK have the names of the fields, so the document that
	// HTTP serves is read, and the two cannot differ.
	var doc struct{ Keys []*stsv1.Jwk }
	if err := json.Unmarshal(encoded, &doc); err != nil {
		return nil, fmt.Errorf("reading our own key set: %w", err)
	}
	md, _ := metadata.FromIncomingContext(ctx)
	d.service.KeySetDelivered(set, verifier(ctx, md.Get("user-agent")))
	return &stsv1.GetJwksResponse{Keys: doc.Keys, MaxAgeSeconds: int32(maxAge / time.Second)}, nil
}

// metadataDocument is the document of OIDC Discovery 1.0 §3 and RFC 8414 §2.
// There is no authorization endpoint, so response_types_supported, which is
// required, is empty.
type metadataDocument struct {
	Issuer        string   `json:"issuer"`
	TokenEndpoint string   `json:"token_endpoint"`
	JWKSURI       string   `json:"jwks_uri"`
	GrantTypes    []string `json:"grant_types_supported"`
	AuthMethods   []string `json:"token_endpoint_auth_methods_supported"`
	AuthAlgs      []string `json:"token_endpoint_auth_signing_alg_values_supported"` // required with private_key_jwt [RFC 8414 §2]
	ResponseTypes []string `json:"response_types_supported"`
	SubjectTypes  []string `json:"subject_types_supported"`
	Algorithms    []string `json:"id_token_signing_alg_values_supported"`
	Proofs        []string `json:"dpop_signing_alg_values_supported"`
	Bound         bool     `json:"tls_client_certificate_bound_access_tokens"`

	Introspection        string   `json:"introspection_endpoint"`
	IntrospectionMethods []string `json:"introspection_endpoint_auth_methods_supported"`
	IntrospectionAlgs    []string `json:"introspection_endpoint_auth_signing_alg_values_supported"`
	IntrospectionSigning []string `json:"introspection_signing_alg_values_supported"` // [RFC 9701 §7]
	Revocation           string   `json:"revocation_endpoint"`
	RevocationMethods    []string `json:"revocation_endpoint_auth_methods_supported"`
	RevocationAlgs       []string `json:"revocation_endpoint_auth_signing_alg_values_supported"`
	Registration         string   `json:"registration_endpoint,omitempty"`
}

func encodeMetadata(m sts.Metadata) ([]byte, error) {
	return json.Marshal(metadataDocument{
		Issuer:        m.Issuer,
		TokenEndpoint: m.TokenEndpoint,
		JWKSURI:       m.JWKSURI,
		GrantTypes:    m.GrantTypes,
		AuthMethods:   m.AuthMethods,
		AuthAlgs:      m.AuthAlgorithms,
		ResponseTypes: []string{},
		SubjectTypes:  []string{"public"},
		Algorithms:    m.Algorithms,
		Proofs:        m.ProofAlgorithms,
		Bound:         m.CertificateBound,

		Introspection: m.IntrospectionEndpoint, IntrospectionMethods: m.AuthMethods, IntrospectionAlgs: m.AuthAlgorithms, IntrospectionSigning: m.Algorithms,
		Revocation: m.RevocationEndpoint, RevocationMethods: m.RevocationAuthMethods, RevocationAlgs: m.AuthAlgorithms,
		Registration: m.RegistrationEndpoint,
	})
}

// verifier names who fetches a key set, as well as that can be told of somebody
// who does not authenticate: programs of one name at one address are one.
func verifier(ctx context.Context, userAgent []string) string {
	return peerOf(ctx) + "\x00" + strings.Join(userAgent, "\x00")
}

// document answers with a document that verifiers may cache.
type document struct {
	chain  *chain
	method string // its gRPC twin
	render func() (page, error)
}

// page is a document as of now.
type page struct {
	rendered
	maxAge    time.Duration
	delivered func(verifier string) // called for who has it now; may be nil
}

// rendered is a document as it goes out.
type rendered struct {
	body []byte
	etag string
}

func newRendered(body []byte) rendered {
	sum := sha256.Sum256(body)
	return rendered{body, `"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`}
}

func (d *document) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !readable(w, r) {
		return
	}
	err := d.chain.run(r.Context(), d.method, d.chain.timeout, func(context.Context) error {
		doc, err := d.render()
		if err != nil {
			return err
		}
		if doc.serve(w, r) && doc.delivered != nil {
			doc.delivered(verifier(r.Context(), r.Header["User-Agent"]))
		}
		return nil
	})
	if err != nil {
		writeError(w, refuse(r.Context(), d.chain.issuer, err), nil)
	}
}

// readable refuses what is not reading a document.
func readable(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return true
	}
	w.Header().Set("Allow", "GET, HEAD")
	writeError(w, &refusal{sts: &sts.Error{Code: sts.InvalidRequest, Message: "this document can only be read, by GET or HEAD"}, http: http.StatusMethodNotAllowed}, nil)
	return false
}

// serve reports whether the caller has the document now.
func (p page) serve(w http.ResponseWriter, r *http.Request) bool {
	h := w.Header()
	h.Set("Cache-Control", cacheControl(p.maxAge))
	h.Set("ETag", p.etag)
	// Verifiers run in browsers as well, and nothing here is secret.
	h.Set("Access-Control-Allow-Origin", "*")
	if matches(r.Header.Values("If-None-Match"), p.etag) {
		w.WriteHeader(http.StatusNotModified)
		return true
	}
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(p.body)))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodGet {
		return false
	}
	_, err := w.Write(p.body) // nobody is left to tell of an error
	return err == nil
}

// cacheControl never allows more than it is given: parts of a second are dropped,
// and where nothing is left a cache has to ask each time [RFC 9111 §5.2.2.4].
func cacheControl(maxAge time.Duration) string {
	if maxAge < time.Second {
		return "no-cache"
	}
	return "public, max-age=" + strconv.Itoa(int(maxAge/time.Second))
}

// matches is the weak comparison of If-None-Match [RFC 9110 §13.1.2].
func matches(headers []string, etag string) bool {
	for _, h := range headers {
		for tag := range strings.SplitSeq(h, ",") {
			tag = strings.TrimSpace(tag)
			if tag == "*" || strings.TrimPrefix(tag, "W/") == etag {
				return true
			}
		}
	}
	return false
}

// documents returns the handlers of the well-known documents.
func documents(c *chain) (metadata, keySet http.Handler) {
	metadata = &document{chain: c, method: stsv1.DiscoveryService_GetProviderMetadata_FullMethodName, render: func() (page, error) {
		// What it says changes with the keys, so it is cached as long as they.
		_, maxAge := c.service.KeySet()
		body, err := encodeMetadata(c.service.Metadata())
		return page{rendered: newRendered(body), maxAge: maxAge}, err
	}}
	cache := &keySetCache{}
	keySet = &document{chain: c, method: stsv1.DiscoveryService_GetJwks_FullMethodName, render: func() (page, error) {
		set, maxAge := c.service.KeySet()
		doc, err := cache.render(set)
		return page{doc, maxAge, func(verifier string) { c.service.KeySetDelivered(set, verifier) }}, err
	}}
	return metadata, keySet
}

// keySetCache renders a key set once. Sets with the same keys in the same order
// are the same.
type keySetCache struct{ last atomic.Pointer[renderedKeys] }

type renderedKeys struct {
	keys []jose.Key
	doc  rendered
}

func (c *keySetCache) render(set jose.KeySet) (rendered, error) {
	keys := slices.Collect(set.All())
	same := func(a, b jose.Key) bool {
		public, ok := a.Public.(interface{ Equal(crypto.PublicKey) bool })
		return ok && a.ID == b.ID && a.Algorithm == b.Algorithm && public.Equal(b.Public)
	}
	if last := c.last.Load(); last != nil && slices.EqualFunc(keys, last.keys, same) {
		return last.doc, nil
	}
	body, err := encodeKeySet(set)
	if err != nil {
		return rendered{}, err
	}
	doc := newRendered(body)
	c.last.Store(&renderedKeys{keys, doc})
	return doc, nil
}

// encodeKeySet renders a JWK set [RFC 7517 §5].
func encodeKeySet(set jose.KeySet) ([]byte, error) { return json.Marshal(set) }
