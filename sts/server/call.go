package server

import (
	"context"
	"crypto/rand"
	"net"
	"net/netip"
	"strings"

	"google.golang.org/grpc/peer"

	"github.com/workload-sts/sts/sts"
)

// call is what is known about one request besides its message. A face starts it
// and the chain completes it.
type call struct {
	requestID  string
	method     string // full name, for example /sts.v1.TokenService/IssueToken
	grant      string // label of the metrics, "" if there is none
	face       face
	decision   string           // id, once there is one
	nonce      string           // for the next DPoP proof, once there is one
	unrecorded error            // why what was done is not in the audit log, if it is not
	malformed  *refusal         // set by a face that could not read the message
	arrival    *arrival         // nil: the face has read the message
	parts      bool             // arrives in several messages; the handler says when all are there
	presented  func() presented // the certificates of the caller; nil: none
	match      *match           // what the headers of HTTP expect of a resource; nil: nothing
	caller     *caller          // of the admin interface, once it was asked who that is
	told       bool             // the caller has the request id
	walked     bool             // a stream whose tokens were observed one by one
}

type callKey struct{}

func withCall(ctx context.Context, k *call) context.Context {
	return context.WithValue(ctx, callKey{}, k)
}

// callOf returns the call of a request that came through a face.
func callOf(ctx context.Context) (*call, bool) {
	k, ok := ctx.Value(callKey{}).(*call)
	return k, ok
}

// arrived says that the message is there: what follows has its own deadline.
func (k *call) arrived() {
	if k.arrival != nil {
		k.arrival.over()
	}
}

// source is where a request comes from.
func (k *call) source(ctx context.Context) sts.Source {
	out := sts.Source{RequestID: k.requestID, Peer: peerOf(ctx)}
	if k.presented != nil {
		out.Forwarded = k.presented().address
	}
	return out
}

// maxRequestID is how long a request id of the caller may be.
const maxRequestID = 64

// requestID returns the id that the caller gave, if it is one, else a new one.
func requestID(given []string) string {
	if len(given) == 1 && wellFormedID(given[0]) {
		return given[0]
	}
	return rand.Text()
}

func wellFormedID(s string) bool {
	if s == "" || len(s) > maxRequestID {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune("-._:/+=", r)
	})
}

// peerOf returns the address of the caller without its port.
func peerOf(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return ""
	}
	if tcp, ok := p.Addr.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap().String()
	}
	if ap, err := netip.ParseAddrPort(p.Addr.String()); err == nil {
		return ap.Addr().Unmap().String()
	}
	return p.Addr.String()
}
