package server

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// Limits of the faces that nobody needs to set.
const (
	headerTimeout = 5 * time.Second
	readTimeout   = 10 * time.Second
	idleTimeout   = 60 * time.Second
	maxIdle       = 5 * time.Minute // of a gRPC connection, which is dearer to make
	maxHeader     = 16<<10 - 4096   // net/http allows 4 KiB more than it is told
	maxStreams    = 100             // of a connection, HTTP/2 and gRPC alike

	maxSocketConnections = 100 // to the admin socket
)

// httpFace routes HTTP requests. Paths are exact: nothing is cleaned and nothing
// redirected, as a redirect would turn a POST into a GET.
type httpFace struct {
	chain        *chain
	log          *slog.Logger
	paths        map[string]http.Handler
	api          http.Handler        // everything under /v1/
	registration http.Handler        // of clients; nil: there is none
	clients      *ClientCertificates // may be nil
	inFlight     sync.WaitGroup
}

func (f *httpFace) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	requested(r.Context().Value(http.LocalAddrContextKey))
	f.inFlight.Add(1)
	defer f.inFlight.Done()
	begin := time.Now()
	k := &call{requestID: requestID(r.Header[headerRequestID])}
	k.presented = sync.OnceValue(func() presented { return f.clients.overHTTP(r) })
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set(headerRequestID, k.requestID)
	defer func() {
		if p := recover(); p != nil {
			f.log.Error("panic in the HTTP face; report this defect", "request_id", k.requestID,
				"panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			panic(http.ErrAbortHandler) // ends this connection, without a word of net/http
		}
	}()
	ctx := peer.NewContext(withCall(r.Context(), k), peerOfHTTP(r))
	r = r.WithContext(ctx)
	path := r.URL.EscapedPath()
	if handler, ok := f.paths[path]; ok {
		handler.ServeHTTP(w, r)
		return
	}
	if strings.HasPrefix(path, "/v1/") {
		f.api.ServeHTTP(w, r)
		return
	}
	if f.registration != nil && (path == registrationPath || strings.HasPrefix(path, registrationPath+"/")) {
		f.registration.ServeHTTP(w, r)
		return
	}
	refused := notFound()
	f.chain.observe(ctx, k, refused, begin)
	writeError(w, refused, nil)
}

// peerOfHTTP is the peer as gRPC would have it: the address of the connection,
// never that of a header.
func peerOfHTTP(r *http.Request) *peer.Peer {
	p := &peer.Peer{}
	if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		p.Addr = net.TCPAddrFromAddrPort(ap)
	}
	if r.TLS != nil {
		p.AuthInfo = credentials.TLSInfo{
			State:          *r.TLS,
			CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		}
	}
	return p
}

// newHTTPServer is the server of the HTTP face. Without TLS there is no HTTP/2.
func newHTTPServer(f *httpFace, timeout time.Duration, tlsConfig *tls.Config) *http.Server {
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(tlsConfig != nil)
	return &http.Server{
		Handler:                      f,
		TLSConfig:                    tlsConfig,
		Protocols:                    protocols,
		HTTP2:                        &http.HTTP2Config{MaxConcurrentStreams: maxStreams, MaxReadFrameSize: 16 << 10},
		ReadHeaderTimeout:            headerTimeout,
		ReadTimeout:                  readTimeout,
		WriteTimeout:                 readTimeout + timeout + 5*time.Second,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeader,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(f.log.Handler(), slog.LevelDebug),
	}
}

// shutDown lets requests in flight finish until ctx ends, and joins them.
func (f *httpFace) shutDown(ctx context.Context, s *http.Server) error {
	err := s.Shutdown(ctx)
	if err != nil {
		err = s.Close() // cancels the requests that are left
	}
	f.inFlight.Wait()
	return err
}
