package policytest

import (
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// maxFrom bounds how many tokens begin with one another.
const maxFrom = 8

func (f *File) checkToken(path string, t *stsv1.TestToken, bad func(path, format string, args ...any)) {
	whole, ok := f.whole(t)
	switch {
	case !ok:
		bad(path+".from", "leads to a token that is not defined under tokens, or in a circle%s", policy.DidYouMean(t.GetFrom(), f.tests.GetTokens()))
		return
	case whole.GetIssuer() == "":
		bad(path, "issuer is missing; name the Issuer, or self")
	case whole.GetType() != "" && tokenTypes[whole.GetType()] == "":
		bad(path+".type", "%q is not one of access_token, jwt, id_token", whole.GetType())
	}
	if b := whole.GetBoundTo(); b != "" {
		if kind, name, _ := strings.Cut(b, ":"); name == "" || kind != "dpop" && kind != "mtls" {
			bad(path+".bound_to", "is not dpop:NAME or mtls:NAME")
		}
	}
}

// whole returns a token with what it begins with, false if that does not exist.
func (f *File) whole(t *stsv1.TestToken) (*stsv1.TestToken, bool) {
	chain := []*stsv1.TestToken{t}
	for t.GetFrom() != "" {
		if t = f.tests.GetTokens()[t.GetFrom()]; t == nil || len(chain) > maxFrom {
			return nil, false
		}
		chain = append(chain, t)
	}
	out := &stsv1.TestToken{}
	for _, part := range slices.Backward(chain) {
		claims := out.GetClaims().GetFields()
		without := out.GetWithout()
		out.Claims, out.Without = nil, nil
		proto.Merge(out, &stsv1.TestToken{Issuer: part.GetIssuer(), Type: part.GetType(), BoundTo: part.GetBoundTo()})
		if part.GetAge() != nil {
			out.Age = part.GetAge()
		}
		if part.GetExpiresIn() != nil {
			out.ExpiresIn = part.GetExpiresIn()
		}
		if claims == nil {
			claims = map[string]*structpb.Value{}
		}
		for _, name := range part.GetWithout() {
			delete(claims, name)
			without = append(without, name)
		}
		maps.Copy(claims, part.GetClaims().GetFields())
		out.Claims, out.Without = &structpb.Struct{Fields: claims}, slices.DeleteFunc(without, func(name string) bool { return part.GetClaims().GetFields()[name] != nil })
	}
	return out, true
}

// token returns a token as the domain simulates it.
func (f *File) token(o Good, t *stsv1.TestToken, now time.Time) *sts.SimulatedToken {
	if t == nil {
		return nil
	}
	t, _ = f.whole(t) // that there is one has been checked
	out := &sts.SimulatedToken{Issuer: t.GetIssuer(), Type: tokenTypes[t.GetType()]}
	if out.Type == "" {
		out.Type = sts.JWT
		if t.GetIssuer() == policy.Self {
			out.Type = sts.AccessToken
		}
	}
	out.Claims = o.GoodClaims(t.GetIssuer(), now, t.GetAge().AsDuration(), t.GetExpiresIn().AsDuration())
	maps.Copy(out.Claims, native(t.GetClaims()))
	if t.GetIssuer() == policy.Self {
		for name, value := range map[string]any{"txn": "simulated", "client_id": out.Claims["sub"]} {
			if _, ok := out.Claims[name]; !ok {
				out.Claims[name] = value
			}
		}
	}
	if kind, name, ok := strings.Cut(t.GetBoundTo(), ":"); ok {
		member := map[string]string{"dpop": "jkt", "mtls": "x5t#S256"}[kind]
		out.Claims["cnf"] = map[string]any{member: thumbprint(name)}
	}
	for _, name := range t.GetWithout() {
		delete(out.Claims, name)
	}
	return out
}

// thumbprint is that of a key that has nothing but a name.
func thumbprint(name string) string {
	if name == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(name))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// maxExact is up to where every integer is a float64.
const maxExact = 1 << 53

// native returns claims as a token has them, integers as such.
func native(s *structpb.Struct) map[string]any {
	out := make(map[string]any, len(s.GetFields()))
	for name, v := range s.GetFields() {
		out[name] = nativeValue(v)
	}
	return out
}

func nativeValue(v *structpb.Value) any {
	switch k := v.GetKind().(type) {
	case *structpb.Value_NumberValue:
		if n := k.NumberValue; n == math.Trunc(n) && math.Abs(n) <= maxExact {
			return int64(n)
		}
		return k.NumberValue
	case *structpb.Value_ListValue:
		out := make([]any, 0, len(k.ListValue.GetValues()))
		for _, e := range k.ListValue.GetValues() {
			out = append(out, nativeValue(e))
		}
		return out
	case *structpb.Value_StructValue:
		return native(k.StructValue)
	default:
		return v.AsInterface()
	}
}
