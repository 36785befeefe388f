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
	}, nil
}

// GetJwks implements stsv1.DiscoveryServiceServer.
func (d *discoveryService) GetJwks(context.Context, *stsv1.GetJwksRequest) (*stsv1.GetJwksResponse, error) {
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
	ResponseTypes []string `json:"response_types_supported"`
	SubjectTypes  []string `json:"subject_types_supported"`
	Algorithms    []string `json:"id_token_signing_alg_values_supported"`
}

func encodeMetadata(m sts.Metadata) ([]byte, error) {
	return json.Marshal(metadataDocument{
		Issuer:        m.Issuer,
		TokenEndpoint: m.TokenEndpoint,
		JWKSURI:       m.JWKSURI,
		GrantTypes:    m.GrantTypes,
		AuthMethods:   m.AuthMethods,
		ResponseTypes: []string{},
		SubjectTypes:  []string{"public"},
		Algorithms:    m.Algorithms,
	})
}

// document answers with a document that verifiers may cache.
type document struct {
	chain  *chain
	method string // its gRPC twin
	render func() (rendered, time.Duration, error)
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
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		writeError(w, &refusal{sts: &sts.Error{Code: sts.InvalidRequest, Message: "this document can only be read, by GET or HEAD"}, http: http.StatusMethodNotAllowed}, nil)
		return
	}
	err := d.chain.run(r.Context(), d.method, d.chain.timeout, func(context.Context) error {
		doc, maxAge, err := d.render()
		if err != nil {
			return err
		}
		doc.serve(w, r, maxAge)
		return nil
	})
	if err != nil {
		writeError(w, refuse(r.Context(), d.chain.issuer, err), nil)
	}
}

func (d rendered) serve(w http.ResponseWriter, r *http.Request, maxAge time.Duration) {
	h := w.Header()
	h.Set("Cache-Control", "public, max-age="+strconv.Itoa(int(maxAge/time.Second)))
	h.Set("ETag", d.etag)
	// Verifiers run in browsers as well, and nothing here is secret.
	h.Set("Access-Control-Allow-Origin", "*")
	if matches(r.Header.Values("If-None-Match"), d.etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(d.body)))
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodGet {
		_, _ = w.Write(d.body) // nobody is left to tell of an error
	}
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
	metadata = &document{chain: c, method: stsv1.DiscoveryService_GetProviderMetadata_FullMethodName, render: func() (rendered, time.Duration, error) {
		// What it says changes with the keys, so it is cached as long as they.
		_, maxAge := c.service.KeySet()
		body, err := encodeMetadata(c.service.Metadata())
		return newRendered(body), maxAge, err
	}}
	cache := &keySetCache{}
	keySet = &document{chain: c, method: stsv1.DiscoveryService_GetJwks_FullMethodName, render: func() (rendered, time.Duration, error) {
		set, maxAge := c.service.KeySet()
		doc, err := cache.render(set)
		return doc, maxAge, err
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
