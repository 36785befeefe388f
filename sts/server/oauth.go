package server

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// tokenEndpoint is the token endpoint of OAuth: a form in, JSON out [RFC 6749
// §3.2, RFC 8693 §2]. It turns the form into the message of the gRPC method and
// calls that. A form that it cannot read is called as well, so that the refusal
// is recorded.
type tokenEndpoint struct {
	conn  grpc.ClientConnInterface
	chain *chain
}

func (t *tokenEndpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	k, _ := callOf(ctx)
	k.face = overForm
	if t.chain.turnAway(w, r, stsv1.TokenService_IssueToken_FullMethodName) { // as if; the grant is not known yet
		return
	}
	f, bad := readForm(w, r)
	if bad == nil {
		bad = f.check()
	}
	k.malformed = bad
	ctx = withCredentials(ctx, r)
	var resp stsv1.TokenResponse
	var err error
	exchange := f.single["grant_type"] == string(sts.TokenExchange)
	switch {
	case exchange:
		err = t.conn.Invoke(ctx, stsv1.TokenService_ExchangeToken_FullMethodName, f.exchange(), &resp)
	default:
		if f.single["grant_type"] != string(sts.ClientCredentials) {
			k.grant = grantLabel("")
		}
		err = t.conn.Invoke(ctx, stsv1.TokenService_IssueToken_FullMethodName, f.issue(), &resp)
	}
	k.tell(w.Header())
	if err != nil {
		writeError(w, refuse(ctx, "", err), nil)
		return
	}
	reply := tokenReply{
		AccessToken: resp.GetAccessToken(), TokenType: resp.GetTokenType(),
		ExpiresIn: resp.GetExpiresIn(), Scope: resp.GetScope(),
	}
	if exchange {
		reply.IssuedTokenType = resp.GetIssuedTokenType()
	}
	writeJSON(w, http.StatusOK, reply)
}

// withCredentials passes on the headers by which a caller authenticates.
func withCredentials(ctx context.Context, r *http.Request) context.Context {
	return metadata.NewOutgoingContext(ctx, metadata.MD{"authorization": r.Header["Authorization"], metadataProof: r.Header[headerProof]})
}

// tokenReply is the reply of RFC 6749 §5.1, and with issued_token_type that of
// RFC 8693 §2.2.1.
type tokenReply struct {
	AccessToken     string `json:"access_token"`
	IssuedTokenType string `json:"issued_token_type,omitempty"`
	TokenType       string `json:"token_type"`
	ExpiresIn       int32  `json:"expires_in"`
	Scope           string `json:"scope,omitempty"`
}

// readForm reads the body of a request of OAuth. The form is never nil.
func readForm(w http.ResponseWriter, r *http.Request) (*form, *refusal) {
	none := &form{}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		bad := malformed("", "this endpoint takes POST only")
		bad.http = http.StatusMethodNotAllowed
		return none, bad
	}
	if bad := queryParameter(r.URL.RawQuery); bad != nil {
		return none, bad
	}
	body, bad := readBody(w, r, "application/x-www-form-urlencoded", maxForm)
	if bad != nil {
		return none, bad
	}
	f, bad := parseForm(body)
	if bad != nil {
		return none, bad
	}
	return f, nil
}

// readBody reads a body of the media type and of at most so many bytes.
func readBody(w http.ResponseWriter, r *http.Request, mediaType string, most int64) ([]byte, *refusal) {
	if !contentType(r.Header, mediaType) {
		bad := malformed("", "the Content-Type must be "+mediaType+", in UTF-8")
		bad.http = http.StatusUnsupportedMediaType
		return nil, bad
	}
	if len(r.Header["Content-Encoding"]) > 0 {
		bad := malformed("", "a body with a Content-Encoding is not accepted")
		bad.http = http.StatusUnsupportedMediaType
		return nil, bad
	}
	tooLarge := malformed("", "the body is larger than "+strconv.FormatInt(most>>10, 10)+" KiB")
	tooLarge.http = http.StatusRequestEntityTooLarge
	if r.ContentLength > most {
		w.Header().Set("Connection", "close")
		return nil, tooLarge
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, tooLarge
	}
	if err != nil {
		w.Header().Set("Connection", "close")
		return nil, malformed("", "the body did not arrive whole")
	}
	return body, nil
}

// check refuses what the messages have no place for.
func (f *form) check() *refusal {
	grant := f.single["grant_type"]
	switch {
	case grant == "":
		return malformed("grant_type", "grant_type is missing")
	case grant == string(sts.TokenExchange):
		return nil
	case grant != string(sts.ClientCredentials):
		return &refusal{sts: &sts.Error{
			Code: sts.UnsupportedGrantType, Field: "grant_type",
			Message: "grant_type must be client_credentials or " + string(sts.TokenExchange),
		}}
	case f.single["subject_token"] != "":
		return malformed("subject_token", "subject_token belongs to the token exchange grant; with client_credentials it would have no effect")
	case f.single["actor_token"] != "":
		return malformed("actor_token", "actor_token belongs to the token exchange grant; with client_credentials it would have no effect")
	}
	return nil
}

// issue is the form as a message. It has no grant_type: check has looked at it.
func (f *form) issue() *stsv1.IssueTokenRequest {
	return &stsv1.IssueTokenRequest{
		ClientId:     f.single["client_id"],
		ClientSecret: f.single["client_secret"],
		Audience:     f.audience,
		Resource:     f.resource,
		Scope:        f.single["scope"],

		ClientAssertion:     f.single["client_assertion"],
		ClientAssertionType: f.single["client_assertion_type"],
	}
}

func (f *form) exchange() *stsv1.ExchangeTokenRequest {
	return &stsv1.ExchangeTokenRequest{
		ClientId:           f.single["client_id"],
		ClientSecret:       f.single["client_secret"],
		Audience:           f.audience,
		Resource:           f.resource,
		Scope:              f.single["scope"],
		RequestedTokenType: f.single["requested_token_type"],
		SubjectToken:       f.single["subject_token"],
		SubjectTokenType:   f.single["subject_token_type"],
		ActorToken:         f.single["actor_token"],
		ActorTokenType:     f.single["actor_token_type"],

		ClientAssertion:     f.single["client_assertion"],
		ClientAssertionType: f.single["client_assertion_type"],
	}
}

// errorReply is the error reply of RFC 6749 §5.2. Details are on the JSON face
// only.
type errorReply struct {
	Error       sts.Code          `json:"error"`
	Description string            `json:"error_description,omitempty"`
	Details     []json.RawMessage `json:"details,omitempty"`
}

// writeError answers with an error.
func writeError(w http.ResponseWriter, r *refusal, details []json.RawMessage) {
	h := w.Header()
	for _, c := range r.challenges() {
		h.Add("WWW-Authenticate", c)
	}
	if s := r.retryAfter(); s > 0 {
		h.Set("Retry-After", strconv.Itoa(s))
	}
	writeJSON(w, r.httpStatus(), errorReply{Error: r.sts.Code, Description: r.description(), Details: details})
}

// challenges are the values of WWW-Authenticate for a refusal, none if it has none
// [RFC 6750 §3, RFC 9449 §7.1]. An access token may come by either scheme, so both
// are offered.
func (r *refusal) challenges() []string {
	algs := `algs="` + strings.Join(sts.ProofAlgorithms, " ") + `"`
	switch {
	case r.sts.Code == sts.InvalidClient:
		return []string{`Basic realm="sts"`}
	case r.sts.Code == sts.Unauthenticated && r.sts.Err == nil:
		return []string{`Bearer realm="sts"`, "DPoP " + algs} // no token: no error is said [RFC 6750 §3.1]
	case r.sts.Code == sts.Unauthenticated:
		return []string{`Bearer realm="sts", error="invalid_token"`, `DPoP error="invalid_token", ` + algs}
	case r.sts.Code == sts.InsufficientScope:
		return []string{`Bearer realm="sts", error="insufficient_scope", scope="` + r.sts.Scope + `"`}
	case r.http == http.StatusUnauthorized:
		return []string{`DPoP error="` + string(r.sts.Code) + `", ` + algs}
	}
	return nil
}

// writeJSON answers with what nobody may cache [RFC 6749 §5.1].
func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings and numbers always encode
	}
	writeBody(w, status, "application/json", body)
}

// writeBody answers with what nobody may cache. Without a media type there is no
// body.
func writeBody(w http.ResponseWriter, status int, mediaType string, body []byte) {
	h := w.Header()
	if mediaType != "" {
		h.Set("Content-Type", mediaType)
	}
	h.Set("Cache-Control", "no-store")
	h.Set("Pragma", "no-cache")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // nobody is left to tell of an error
}
