package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/hashicorp/vault/api"
)

// request is one request to Vault.
type request struct {
	method, path string // below /v1/
	query        url.Values
	body         []byte
	token        secret
	repeatable   bool // to ask twice does no harm
	quiet        bool // what Vault says of an error may repeat a credential
	global       bool // of the server, not of the namespace
}

// wire sends requests to the nodes of Vault.
type wire struct {
	nodes     []node
	current   atomic.Int32 // the node that answered last
	transport atomic.Pointer[http.Transport]
	log       *slog.Logger
}

// node is one address.
type node struct {
	address         string
	inside, outside *api.Client // of the namespace
}

func newWire(c Config, f files) (*wire, error) {
	w := &wire{log: c.Log}
	w.transport.Store(f.transport(c))
	client := &http.Client{
		Transport: w,
		// A redirect is the answer of a standby. It is not followed: the token would go
		// to whom the answer names.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	for _, address := range c.Addresses {
		n := node{address: address}
		var err error
		if n.inside, err = newAPI(address, c.Namespace, client); err != nil {
			return nil, err
		}
		if n.outside, err = newAPI(address, "", client); err != nil {
			return nil, err
		}
		w.nodes = append(w.nodes, n)
	}
	return w, nil
}

// environment is held while the variables of the process are not what they were.
var environment sync.Mutex

// newAPI returns a client of Vault's library, with none of what it does by
// itself: retries, redirects, time limits, and settings from VAULT_ variables.
//
// It reads those whenever it makes a client, even one that is told everything,
// and fails if it does not like one. So they are put aside meanwhile.
func newAPI(address, namespace string, client *http.Client) (*api.Client, error) {
	environment.Lock()
	defer environment.Unlock()
	for _, pair := range os.Environ() {
		if name, value, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "VAULT_") {
			if err := os.Unsetenv(name); err != nil {
				return nil, err
			}
			defer os.Setenv(name, value)
		}
	}
	c, err := api.NewClient(&api.Config{
		Address:          address,
		HttpClient:       client,
		DisableRedirects: true,
		CheckRetry:       func(context.Context, *http.Response, error) (bool, error) { return false, nil },
	})
	if err != nil {
		return nil, err
	}
	// Otherwise a variable would be read at every request.
	c.SetWrappingLookupFunc(func(string, string) string { return "" })
	if namespace != "" {
		c.SetNamespace(namespace)
	}
	return c, nil
}

// replace makes new connections from now on; those under way end as they are.
func (w *wire) replace(t *http.Transport) {
	w.transport.Swap(t).CloseIdleConnections()
}

// repeatableRequest marks the context of a request that may be sent again.
type repeatableRequest struct{}

// RoundTrip sends one request, and bounds what is read of the answer.
//
// A connection from the pool may have been closed by the other end a moment ago.
// The transport then tries the next by itself, if it is told that the request can
// be repeated: a header without values does that and is not sent.
func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Context().Value(repeatableRequest{}) != nil {
		req = req.WithContext(req.Context())
		req.Header = maps.Clone(req.Header)
		req.Header["Idempotency-Key"] = nil
	}
	res, err := w.transport.Load().RoundTrip(req)
	if err != nil {
		return nil, err
	}
	res.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(res.Body, maxBody+1), res.Body}
	return res, nil
}

// send asks the node that answered last, and the others in order as long as one
// cannot serve. It returns the body of an answer of success. The error is an
// Error.
//
// What a node may have got and did not answer is asked of another only if it may
// happen twice; and nothing is asked after the time is over, because a slow Vault
// must not get more requests than a fast one.
func (w *wire) send(ctx context.Context, r request) ([]byte, error) {
	first := w.current.Load()
	var before *Error
	for i := range w.nodes {
		at := (first + int32(i)) % int32(len(w.nodes))
		body, sent, e := w.nodes[at].send(ctx, r)
		if e == nil {
			w.settle(first, at)
			return body, nil
		}
		before = e.after(before)
		if ctx.Err() != nil {
			if errors.Is(ctx.Err(), context.DeadlineExceeded) { // and nobody just gave up
				w.settle(first, (at+1)%int32(len(w.nodes)))
			}
			break
		}
		if !e.elsewhere(sent, r) {
			w.settle(first, at)
			break
		}
	}
	return nil, before
}

// settle makes a node the first to be asked.
func (w *wire) settle(was, is int32) {
	if was != is && w.current.CompareAndSwap(was, is) {
		w.log.Info("another node of vault is asked first", "address", w.nodes[is].address, "instead_of", w.nodes[was].address)
	}
}

// elsewhere reports whether another node may do better.
func (e *Error) elsewhere(sent bool, r request) bool {
	switch e.Kind {
	case Unreachable:
		return !sent || r.repeatable
	case Sealed, Standby, Uninitialised:
		return true // and it did nothing
	default:
		return false
	}
}

// after adds what the nodes that were asked before said.
func (e *Error) after(before *Error) *Error {
	if before == nil {
		return e
	}
	joined := *e
	joined.Err = fmt.Errorf("%s; %w", before.Error(), e.Err)
	return &joined
}

// send asks one node. sent tells whether it may have got the request.
func (n node) send(ctx context.Context, r request) (body []byte, sent bool, e *Error) {
	var wrote atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { wrote.Store(true) }})
	if r.repeatable {
		ctx = context.WithValue(ctx, repeatableRequest{}, true)
	}
	client := n.inside
	if r.global {
		client = n.outside
	}
	req := client.NewRequest(r.method, "/v1/"+r.path)
	req.ClientToken = string(r.token)
	req.BodyBytes = r.body
	if r.query != nil {
		req.Params = r.query
	}
	//lint:ignore SA1019 what is recommended instead takes neither a token of the call nor bytes
	res, err := client.RawRequestWithContext(ctx, req)
	if res != nil {
		defer res.Body.Close()
	}
	if res == nil || err != nil && !isAnswer(err) {
		return nil, wrote.Load(), unreachable(ctx, n.address, err)
	}
	body, err = readAll(res.Body, len(r.body))
	switch {
	case err != nil:
		return nil, true, unreachable(ctx, n.address, err)
	case len(body) > maxBody:
		return nil, true, newError(Garbage, "%s: the answer is larger than %d bytes", n.address, maxBody)
	case res.StatusCode != http.StatusOK && res.StatusCode != http.StatusNoContent:
		e := problem(res.StatusCode, res.Header, body, r.quiet)
		return nil, true, &Error{Kind: e.Kind, Status: e.Status, RetryAfter: e.RetryAfter, Err: errors.New(n.address + ": " + e.Error())}
	}
	return body, true, nil
}

// readAll reads an answer that is likely to be somewhat larger than its request.
func readAll(r io.Reader, request int) ([]byte, error) {
	b := bytes.NewBuffer(make([]byte, 0, 2*request+bytes.MinRead))
	_, err := b.ReadFrom(r)
	return b.Bytes(), err
}

// isAnswer reports whether an error of the library is made of an answer.
func isAnswer(err error) bool {
	_, ok := errors.AsType[*api.ResponseError](err)
	return ok
}

// unreachable makes an Error of what the connection says. It keeps its words
// only: what it repeats of an answer that is not HTTP can be anything.
func unreachable(ctx context.Context, address string, err error) *Error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	text := sentence([]string{err.Error()})
	switch {
	case ctx.Err() != nil:
		text = "no answer in time"
	case strings.Contains(text, "malformed"):
		return newError(Garbage, "%s: the answer is not HTTP", address)
	}
	e := newError(Unreachable, "%s: %s", address, text)
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		e.Err = &lost{e.Err.Error(), errno}
	}
	return e
}

// lost is why a connection was not made or was lost.
type lost struct {
	text  string
	errno syscall.Errno
}

func (l *lost) Error() string { return l.text }

func (l *lost) Unwrap() error { return l.errno }
