package server

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/sts"
)

// jsonAPI is the face of the methods as JSON, under /v1/.
type jsonAPI struct {
	chain *chain
	mux   *runtime.ServeMux
}

func newJSONAPI(c *chain, conn grpc.ClientConnInterface) (*jsonAPI, error) {
	j := &jsonAPI{chain: c}
	// No header becomes metadata but DPoP, and Authorization, which the gateway
	// passes on by itself: what a proxy would add, a caller can forge.
	none := func(string) (string, bool) { return "", false }
	proof := func(header string) (string, bool) { return metadataProof, header == headerProof }
	j.mux = runtime.NewServeMux(
		runtime.WithIncomingHeaderMatcher(proof),
		runtime.WithOutgoingHeaderMatcher(none),
		runtime.WithOutgoingTrailerMatcher(none),
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &marshaler{runtime.JSONPb{
			MarshalOptions: protojson.MarshalOptions{UseProtoNames: true},
		}}),
		runtime.WithMiddlewares(j.reading),
		runtime.WithErrorHandler(j.error),
		runtime.WithRoutingErrorHandler(j.routingError),
		runtime.WithForwardResponseOption(func(ctx context.Context, w http.ResponseWriter, m proto.Message) error {
			defer describe(w, m) // the status comes last
			if k, ok := callOf(ctx); ok {
				k.tell(w.Header())
			}
			return nil
		}),
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
	)
	ctx := context.Background()
	if err := stsv1.RegisterTokenServiceHandlerClient(ctx, j.mux, stsv1.NewTokenServiceClient(conn)); err != nil {
		return nil, err
	}
	if err := stsv1.RegisterAdminServiceHandlerClient(ctx, j.mux, stsv1.NewAdminServiceClient(conn)); err != nil {
		return nil, err
	}
	return j, nil
}

func (j *jsonAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k, _ := callOf(r.Context())
	k.face = overJSON
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Pragma", "no-cache")
	r.Header.Del("Grpc-Timeout") // the chain sets the deadline
	j.mux.ServeHTTP(w, r)
}

// reading reads a request before its route handles it.
func (j *jsonAPI) reading(next runtime.HandlerFunc) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, params map[string]string) {
		k, _ := callOf(r.Context())
		pattern, _ := runtime.HTTPPattern(r.Context())
		route, known := routeOf(r.Method, pattern.String())
		if !known {
			panic("no route for " + pattern.String()) // a test has walked them
		}
		if j.chain.turnAway(w, r, fullMethod(route.Method)) {
			return
		}
		k.malformed = j.read(w, r, route)
		next(w, r, params)
	}
}

// read puts the body of a request where the marshaler finds it. A request that
// is not worth reading goes on without its body, to be refused by the chain.
func (j *jsonAPI) read(w http.ResponseWriter, r *http.Request, route Route) *refusal {
	k, _ := callOf(r.Context())
	original := r.Body
	body := &jsonBody{Reader: bytes.NewReader(nil), call: k}
	r.Body = body
	most := int64(maxForm)
	if accessTo[fullMethod(route.Method)].decides {
		if bad := queryParameter(r.URL.RawQuery); bad != nil {
			return bad
		}
	} else {
		if strings.HasPrefix(route.Path, "/v1/resources") {
			most = maxApply
		}
		// Nobody but an admin makes the server read 8 MiB. The chain will say so.
		if j.identify(r, k); k.caller.err != nil {
			w.Header().Set("Connection", "close")
			return nil
		}
		if bad := route.checkQuery(r.URL.RawQuery); bad != nil {
			return bad
		}
		match, bad := readMatch(r)
		if bad != nil {
			return bad
		}
		k.match = match
	}
	if route.Body == "" {
		return nil
	}
	r.Body = original
	data, bad := readBody(w, r, "application/json", most)
	r.Body = body
	if bad != nil {
		return bad
	}
	body.Reader, body.full = bytes.NewReader(data), true
	return nil
}

// identify finds out who calls the admin interface, before the body is read, and
// once: a DPoP proof is used up by it. The proof must be for this path.
func (j *jsonAPI) identify(r *http.Request, k *call) {
	target := sts.ProofTarget{Method: r.Method, URI: j.chain.issuer + r.URL.EscapedPath()}
	k.caller = j.chain.admin.identifyBy(r.Context(), k, r.Header["Authorization"], r.Header[headerProof], target)
}

// checkQuery refuses parameters of the URL that a route does not have, or has twice.
func (r Route) checkQuery(query string) *refusal {
	if query == "" {
		return nil
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return malformed("", "the query of the URL is not well-formed")
	}
	for name, given := range values {
		if !slices.Contains(r.Query, name) {
			return malformed("", "the query of the URL has a parameter that this method does not have")
		}
		if len(given) > 1 {
			return malformed(name, name+" is given more than once")
		}
	}
	return nil
}

// jsonBody is the body of a request, with its call, on its way through the
// gateway to the marshaler.
type jsonBody struct {
	*bytes.Reader
	call *call
	full bool // there is something to decode
}

func (*jsonBody) Close() error { return nil }

// marshaler reads requests and writes responses as JSON.
type marshaler struct{ runtime.JSONPb }

func (m *marshaler) ContentType(any) string { return "application/json" }

func (m *marshaler) NewDecoder(r io.Reader) runtime.Decoder {
	body, ok := r.(*jsonBody)
	if !ok {
		return m.JSONPb.NewDecoder(r)
	}
	return body
}

// Decode reads the body into a message. What is wrong with it is noted in the
// call, and is no error here, so that the chain gets to see the request.
func (b *jsonBody) Decode(v any) error {
	if !b.full || b.call.malformed != nil {
		return nil
	}
	data, err := io.ReadAll(b.Reader)
	if err != nil {
		return err
	}
	switch m := v.(type) {
	case **stsv1.Resource: // a body that is one field of the request
		*m = &stsv1.Resource{}
		b.unmarshal(data, *m)
	case proto.Message:
		if ReadsParameters(m.ProtoReflect().Descriptor().FullName()) {
			b.call.malformed = decodeParameters(data, m)
		} else {
			b.unmarshal(data, m)
		}
	}
	return nil
}

// ReadsParameters tells whether the members of a message are the parameters of a
// request of OAuth, and read as such; see decodeParameters.
func ReadsParameters(message protoreflect.FullName) bool {
	switch message.Name() {
	case "IssueTokenRequest", "ExchangeTokenRequest", "IntrospectTokenRequest", "RevokeTokenRequest":
		return true
	}
	return false
}

func (b *jsonBody) unmarshal(data []byte, m proto.Message) {
	if err := protojson.Unmarshal(data, m); err != nil {
		proto.Reset(m)
		b.call.malformed = &refusal{sts: &sts.Error{
			Code: sts.InvalidRequest, Message: "the body is not a request of this method; see details",
			Problems: []sts.Problem{{Index: -1, Message: jsonProblem(err)}},
		}}
	}
}

// jsonProblem is what protojson says, without the prefix that it varies.
func jsonProblem(err error) string {
	s := err.Error()
	if i := strings.IndexByte(s, '('); i >= 0 {
		return s[i:]
	}
	return strings.TrimPrefix(s, "proto:")
}

// decodeParameters reads a token request whose members are the parameters of the
// OAuth request by their names. Members that are not known are ignored, as in a
// form; audience and resource may be a string or a list of them.
func decodeParameters(data []byte, m proto.Message) *refusal {
	members, err := jose.ParseObject(data)
	if err != nil {
		return malformed("", "the body is not a well-formed JSON object, or has a member twice")
	}
	to := m.ProtoReflect()
	fields := to.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		name := string(fd.Name())
		value, ok := members[name]
		if !ok || value == nil {
			continue
		}
		values, ok := stringsOf(value, fd.IsList())
		if !ok {
			return malformed(name, name+" is of the wrong JSON type")
		}
		for _, s := range values {
			if fd.IsList() {
				to.Mutable(fd).List().Append(protoreflect.ValueOfString(s))
			} else {
				to.Set(fd, protoreflect.ValueOfString(s))
			}
		}
	}
	return nil
}

// stringsOf returns the string in a member, or the strings of a list if it may be
// one. Empty ones count as omitted, as they do in a form.
func stringsOf(value any, list bool) ([]string, bool) {
	elements := []any{value}
	if l, ok := value.([]any); ok && list {
		elements = l
	}
	var out []string
	for _, e := range elements {
		s, ok := e.(string)
		if !ok {
			return nil, false
		}
		if s != "" {
			out = append(out, s)
		}
	}
	return out, true
}

// error answers with what the chain refused, or the gateway.
func (j *jsonAPI) error(ctx context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
	k, _ := callOf(ctx)
	refused, ok := err.(*refusal)
	if !ok {
		// The text of the gateway has input in it.
		refused = malformed("", "the path or the query of the request has a value of the wrong type")
		j.chain.observe(ctx, k, refused, time.Now())
	}
	k.tell(w.Header())
	writeError(w, refused, encodeDetails(refused))
}

// encodeDetails puts the details of the gRPC status into JSON.
func encodeDetails(r *refusal) []json.RawMessage {
	var out []json.RawMessage
	for _, d := range r.GRPCStatus().Proto().GetDetails() {
		out = append(out, encodeDetail(d))
	}
	return out
}

func encodeDetail(d *anypb.Any) json.RawMessage {
	b, err := protojson.Marshal(d)
	if err != nil {
		panic(err) // the types are linked in
	}
	return b
}

// routingError answers a request for what is not there.
func (j *jsonAPI) routingError(ctx context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, status int) {
	refused := notFound()
	if status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", allowed(r.URL.Path))
		refused = malformed("", "this path does not take this method")
	}
	refused.http = status
	k, _ := callOf(ctx)
	j.chain.observe(ctx, k, refused, time.Now())
	writeError(w, refused, nil)
}

func notFound() *refusal {
	return &refusal{sts: &sts.Error{Code: sts.NotFound, Message: "there is nothing at this path; paths are exact"}}
}
