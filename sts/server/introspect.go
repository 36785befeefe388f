package server

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/sts"
)

// mediaIntrospectionJWT is the media type of an introspection response that is a
// JWT [RFC 9701 §5].
const mediaIntrospectionJWT = "application/token-introspection+jwt"

// formatJWT asks for one.
const formatJWT = "jwt"

// IntrospectToken implements stsv1.TokenServiceServer.
func (t *tokenService) IntrospectToken(ctx context.Context, m *stsv1.IntrospectTokenRequest) (*stsv1.IntrospectTokenResponse, error) {
	req := sts.IntrospectionRequest{Token: m.GetToken(), Signed: m.GetFormat() == formatJWT}
	bad := callerOf(ctx, m, &req.Caller)
	if bad == nil && m.GetFormat() != "" && !req.Signed {
		bad = malformed("format", "format must be jwt, or left out")
	}
	bad = t.complete(ctx, &req.Caller, bad)
	found, err := t.service.Introspect(ctx, req)
	if err != nil {
		return nil, refusedAs(err, &req.Caller, bad)
	}
	k, _ := callOf(ctx)
	k.decision, k.nonce = found.Decision, found.Nonce
	t.chain.metrics.introspections.WithLabelValues(strconv.FormatBool(found.Active)).Inc()
	return introspectionResponse(found)
}

// RevokeToken implements stsv1.TokenServiceServer.
func (t *tokenService) RevokeToken(ctx context.Context, m *stsv1.RevokeTokenRequest) (*stsv1.RevokeTokenResponse, error) {
	req := sts.RevokeTokenRequest{Token: m.GetToken()}
	bad := t.complete(ctx, &req.Caller, callerOf(ctx, m, &req.Caller))
	done, err := t.service.RevokeToken(ctx, req)
	if err != nil {
		return nil, refusedAs(err, &req.Caller, bad)
	}
	k, _ := callOf(ctx)
	k.decision, k.nonce, k.unrecorded = done.Decision, done.Nonce, done.Unrecorded
	return &stsv1.RevokeTokenResponse{Unrecorded: done.Unrecorded != nil}, nil
}

// aboutToken is a request about a token.
type aboutToken interface {
	proto.Message
	credentialMembers
	GetToken() string
	GetTokenTypeHint() string
}

// callerOf reads who makes a request about a token.
func callerOf(ctx context.Context, m aboutToken, to *sts.TokenRequest) *refusal {
	bad := firstOf(known(m), credentialSized(m), sized("token", m.GetToken(), maxToken), sized("token_type_hint", m.GetTokenTypeHint(), maxParameter))
	if bad == nil {
		to.Credential, bad = credential(ctx, m)
	}
	if bad == nil {
		bad = certified(ctx, to)
	}
	return bad
}

// introspectionResponse puts what is known about a token into the response of RFC
// 7662 §2.2. Claims that have no member of their own are extra ones.
func introspectionResponse(i sts.Introspection) (*stsv1.IntrospectTokenResponse, error) {
	if i.JWT != "" {
		return &stsv1.IntrospectTokenResponse{Jwt: i.JWT}, nil
	}
	out := &stsv1.IntrospectTokenResponse{Active: &i.Active}
	if !i.Active {
		return out, nil
	}
	extra := map[string]any{}
	objects := map[string]**structpb.Struct{"act": &out.Act, "may_act": &out.MayAct, "cnf": &out.Cnf}
	texts := map[string]*string{
		"scope": &out.Scope, "client_id": &out.ClientId, "token_type": &out.TokenType, "sub": &out.Sub, "iss": &out.Iss, "jti": &out.Jti, "txn": &out.Txn,
	}
	for name, v := range i.Claims {
		switch object, isObject := v.(map[string]any); {
		case texts[name] != nil:
			*texts[name], _ = v.(string)
		case objects[name] != nil && isObject:
			s, err := structOf(object)
			if err != nil {
				return nil, err
			}
			*objects[name] = s
		case name == "exp":
			out.Exp = seconds(v)
		case name == "iat":
			out.Iat = seconds(v)
		case name == "aud":
			out.Aud, _ = stringsOf(v, true)
		default:
			extra[name] = v
		}
	}
	var err error
	if len(extra) > 0 {
		out.Claims, err = structOf(extra)
	}
	return out, err
}

// structOf converts claims, by their JSON: numbers are of several types.
func structOf(m map[string]any) (*structpb.Struct, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	out := &structpb.Struct{}
	return out, out.UnmarshalJSON(b)
}

// seconds is a time that fits until 2106, as tokens of this service live a day.
func seconds(v any) uint32 {
	n, _ := jose.Seconds(v)
	return uint32(n)
}

// introspectionEndpoint is the endpoint of RFC 7662 §2: a form in, JSON or a JWT
// out.
type introspectionEndpoint struct {
	conn  grpc.ClientConnInterface
	chain *chain
}

func (e *introspectionEndpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if e.chain.turnAway(w, r, stsv1.TokenService_IntrospectToken_FullMethodName) {
		return
	}
	f, ctx := aboutTokenForm(w, r)
	m := &stsv1.IntrospectTokenRequest{
		Token: f.single["token"], TokenTypeHint: f.single["token_type_hint"],
		ClientId: f.single["client_id"], ClientSecret: f.single["client_secret"],
		ClientAssertion: f.single["client_assertion"], ClientAssertionType: f.single["client_assertion_type"],
	}
	if accepts(r.Header, mediaIntrospectionJWT) {
		m.Format = formatJWT
	}
	var resp stsv1.IntrospectTokenResponse
	if err := e.conn.Invoke(ctx, stsv1.TokenService_IntrospectToken_FullMethodName, m, &resp); !answered(ctx, w, err) {
		return
	}
	if resp.GetJwt() != "" {
		writeBody(w, http.StatusOK, mediaIntrospectionJWT, []byte(resp.GetJwt()))
		return
	}
	writeJSON(w, http.StatusOK, flat(&resp))
}

// flat is a response with its claims as members.
func flat(m *stsv1.IntrospectTokenResponse) map[string]any {
	out := map[string]any{}
	if m.GetActive() {
		for name, v := range m.GetClaims().AsMap() {
			out[name] = v
		}
		for name, v := range map[string]string{
			"scope": m.GetScope(), "client_id": m.GetClientId(), "token_type": m.GetTokenType(), "sub": m.GetSub(), "iss": m.GetIss(), "jti": m.GetJti(), "txn": m.GetTxn(),
		} {
			if v != "" {
				out[name] = v
			}
		}
		for name, v := range map[string]*structpb.Struct{"act": m.GetAct(), "may_act": m.GetMayAct(), "cnf": m.GetCnf()} {
			if v != nil {
				out[name] = v.AsMap()
			}
		}
		out["exp"], out["iat"], out["aud"] = m.GetExp(), m.GetIat(), m.GetAud()
		if len(m.GetAud()) == 1 {
			out["aud"] = m.GetAud()[0]
		}
	}
	out["active"] = m.GetActive()
	return out
}

// revocationEndpoint is the endpoint of RFC 7009 §2: a form in, nothing out.
type revocationEndpoint struct {
	conn  grpc.ClientConnInterface
	chain *chain
}

func (e *revocationEndpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if e.chain.turnAway(w, r, stsv1.TokenService_RevokeToken_FullMethodName) {
		return
	}
	f, ctx := aboutTokenForm(w, r)
	m := &stsv1.RevokeTokenRequest{
		Token: f.single["token"], TokenTypeHint: f.single["token_type_hint"],
		ClientId: f.single["client_id"], ClientSecret: f.single["client_secret"],
		ClientAssertion: f.single["client_assertion"], ClientAssertionType: f.single["client_assertion_type"],
	}
	if err := e.conn.Invoke(ctx, stsv1.TokenService_RevokeToken_FullMethodName, m, &stsv1.RevokeTokenResponse{}); answered(ctx, w, err) {
		writeBody(w, http.StatusOK, "", nil)
	}
}

// aboutTokenForm reads the form of a request about a token. What is wrong with it
// is noted in the call, so that the refusal is recorded.
func aboutTokenForm(w http.ResponseWriter, r *http.Request) (*form, context.Context) {
	k, _ := callOf(r.Context())
	k.face = overForm
	f, bad := readForm(w, r)
	k.malformed = bad
	return f, withCredentials(r.Context(), r)
}

// answered writes the error, if there is one, and what goes with every answer.
func answered(ctx context.Context, w http.ResponseWriter, err error) bool {
	k, _ := callOf(ctx)
	k.tell(w.Header())
	if err != nil {
		writeError(w, refuse(ctx, "", err), nil)
	}
	return err == nil
}

// accepts tells whether a media type is named by the Accept header, and not to say
// that it is unwanted [RFC 9110 §12.5.1].
func accepts(h http.Header, mediaType string) bool {
	for _, line := range h["Accept"] {
		for part := range strings.SplitSeq(line, ",") {
			name, params, _ := strings.Cut(part, ";")
			if !strings.EqualFold(strings.TrimSpace(name), mediaType) {
				continue
			}
			q, weighted := strings.CutPrefix(strings.ToLower(strings.ReplaceAll(params, " ", "")), "q=")
			if weight, err := strconv.ParseFloat(q, 64); !weighted || err == nil && weight > 0 {
				return true
			}
		}
	}
	return false
}
