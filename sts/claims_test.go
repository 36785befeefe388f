package sts_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// slot is a place of a request that a token can be presented in.
type slot struct {
	name    string
	issuer  string
	sub     string
	request func(testing.TB, *fixture, string) sts.TokenRequest

	unlike []string // rows that have another outcome here
}

var slots = []slot{
	{"subject_token", "idp", "user-1", func(t testing.TB, f *fixture, token string) sts.TokenRequest {
		r := f.exchange(t)
		r.Subject.Token = token
		return r
	}, nil},
	{"subject_token of the workload", "ci", "job-1", func(t testing.TB, f *fixture, token string) sts.TokenRequest {
		r := f.selfPresented(t)
		r.Subject.Token = token
		return r
	}, nil},
	{"actor_token", "idp", "agent-1", func(t testing.TB, f *fixture, token string) sts.TokenRequest {
		r := f.exchange(t)
		r.Actor = sts.Presented{Token: token, Type: sts.JWT}
		return r
	}, nil},
	{"client_assertion of an Issuer", "idp", "user-1", func(t testing.TB, f *fixture, token string) sts.TokenRequest {
		f.asserting(t, sts.Client{Name: "pod", Federated: &sts.FederatedIdentity{Issuer: "idp", Claims: map[string]any{"sub": "user-1"}}})
		return by(token)
	}, []string{"aud among others"}},
	{"client_assertion", "signer", signerName, func(t testing.TB, f *fixture, token string) sts.TokenRequest {
		set, err := jose.NewKeySet(jose.Key{ID: "signer-1", Algorithm: jose.ES256, Public: f.issuers.signers["signer"].Public()})
		if err != nil {
			t.Fatal(err)
		}
		jwks, err := json.Marshal(set)
		if err != nil {
			t.Fatal(err)
		}
		f.asserting(t, sts.Client{Name: signerName, PrivateKeyJWT: &sts.ClientKey{JWKS: string(jwks)}})
		return by(token)
	}, []string{"aud among others", "exp fraction", "without jti", "J-24 kid missing"}},
}

// signerName is a client that is named as the fixture names issuers.
const signerName = "https://signer.example.com"

// asserting adds a client that may get tokens for web.
func (f *fixture) asserting(t testing.TB, c sts.Client) {
	t.Helper()
	f.apply(t, sts.Change{Put: []sts.Resource{
		{Client: &c}, rule("asserting", policy.Rule{Requester: policy.Requester{Clients: []string{c.Name}}, Allow: allow("web", "read")}),
	}})
}

// TestClaims edits the claims of a good token in one way each, in every slot.
func TestClaims(t *testing.T) {
	const now = 1_800_000_000
	for name, tc := range map[string]struct {
		claims map[string]any
		ok     bool
	}{
		"good":                     {ok: true},
		"C-01 exp missing":         {claims: map[string]any{"exp": absent}},
		"C-02 exp null":            {claims: map[string]any{"exp": nil}},
		"C-02 exp string":          {claims: map[string]any{"exp": "1800000600"}},
		"C-02 exp true":            {claims: map[string]any{"exp": true}},
		"C-02 exp list":            {claims: map[string]any{"exp": []any{}}},
		"C-02 exp object":          {claims: map[string]any{"exp": map[string]any{}}},
		"C-03 exp 0":               {claims: map[string]any{"exp": 0}},
		"C-03 exp -1":              {claims: map[string]any{"exp": -1}},
		"C-03 exp least":           {claims: map[string]any{"exp": math.MinInt64}},
		"C-04 exp 1e308":           {claims: map[string]any{"exp": 1e308}},
		"C-04 exp 1e999":           {claims: map[string]any{"exp": json.RawMessage("1e999")}},
		"C-04 exp 2^63":            {claims: map[string]any{"exp": json.RawMessage("9223372036854775808")}},
		"C-04 exp 2^64":            {claims: map[string]any{"exp": json.RawMessage("18446744073709551616")}},
		"C-04 exp 9.3e18":          {claims: map[string]any{"exp": json.RawMessage("9.3e18")}},
		"exp fraction":             {claims: map[string]any{"exp": now + 600.5}, ok: true},
		"C-06 expired":             {claims: map[string]any{"exp": now - 30, "iat": now - 60}},
		"C-07 lives a year":        {claims: map[string]any{"exp": now + 31_536_000}},
		"C-07 a year, without iat": {claims: map[string]any{"exp": now + 31_536_000, "iat": absent}},
		"without iat":              {claims: map[string]any{"iat": absent}, ok: true},
		"C-08 nbf in 8 s":          {claims: map[string]any{"nbf": now + 8}, ok: true},
		"C-08 nbf in 60 s":         {claims: map[string]any{"nbf": now + 60}},
		"C-09 iat in an hour":      {claims: map[string]any{"iat": now + 3600, "exp": now + 7200}},
		"C-09 iat after exp":       {claims: map[string]any{"iat": now + 20, "exp": now + 10}},
		"C-09 nbf after exp":       {claims: map[string]any{"nbf": now + 20, "exp": now + 10}},
		"C-09 iat string":          {claims: map[string]any{"iat": "1800000000"}},
		"C-10 aud missing":         {claims: map[string]any{"aud": absent}},
		"C-10 aud empty":           {claims: map[string]any{"aud": ""}},
		"C-10 aud no members":      {claims: map[string]any{"aud": []any{}}},
		"C-10 aud empty member":    {claims: map[string]any{"aud": []any{""}}},
		"C-10 aud null":            {claims: map[string]any{"aud": nil}},
		"aud among others":         {claims: map[string]any{"aud": []any{"x", selfIssuer}}, ok: true},
		"C-12 aud with a slash":    {claims: map[string]any{"aud": selfIssuer + "/"}},
		"C-12 aud upper case":      {claims: map[string]any{"aud": strings.ToUpper(selfIssuer)}},
		"C-12 aud as a prefix":     {claims: map[string]any{"aud": selfIssuer + ".evil.com"}},
		"C-12 aud with a fragment": {claims: map[string]any{"aud": selfIssuer + "#x"}},
		"C-12 aud cut":             {claims: map[string]any{"aud": selfIssuer[:10]}},
		"C-13 aud number":          {claims: map[string]any{"aud": []any{1, selfIssuer}}},
		"C-13 aud nested":          {claims: map[string]any{"aud": []any{[]any{selfIssuer}}}},
		"J-56 17 aud":              {claims: map[string]any{"aud": append(make([]any, 0), strings.Fields(strings.Repeat("x ", 17)))}},
		"C-16 sub missing":         {claims: map[string]any{"sub": absent}},
		"C-16 sub empty":           {claims: map[string]any{"sub": ""}},
		"C-16 sub number":          {claims: map[string]any{"sub": 1}},
		"C-16 sub 256 characters":  {claims: map[string]any{"sub": strings.Repeat("x", 256)}},
		"C-16 sub with a space":    {claims: map[string]any{"sub": "user 1"}},
		"C-16 sub with a newline":  {claims: map[string]any{"sub": "user-1\n"}},
		"C-16 sub with a quote":    {claims: map[string]any{"sub": `user-1"`}},
		"C-20 jti number":          {claims: map[string]any{"jti": 1}},
		"C-20 jti empty":           {claims: map[string]any{"jti": ""}},
		"C-20 jti long":            {claims: map[string]any{"jti": strings.Repeat("x", 1025)}},
		"without jti":              {claims: map[string]any{"jti": absent}, ok: true},
		"C-15 iss missing":         {claims: map[string]any{"iss": absent}},
		"C-15 iss null":            {claims: map[string]any{"iss": nil}},
		"C-15 iss list":            {claims: map[string]any{"iss": []any{"https://idp.example.com"}}},
		"C-15 iss upper case":      {claims: map[string]any{"iss": "https://IDP.example.com"}},
		"C-15 iss with a slash":    {claims: map[string]any{"iss": "https://idp.example.com/"}},
		"J-25 iss of another":      {claims: map[string]any{"iss": selfIssuer}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, s := range slots {
				f := newFixture(t)
				r := s.request(t, f, f.foreign(t, s.issuer, nil, withSub(tc.claims, s.sub)))
				if tc.ok && !slices.Contains(s.unlike, name) {
					f.token(t, r)
					continue
				}
				e := f.assertRefusedAny(t, r)
				if strings.HasPrefix(name, "C-15") && s.name != "actor_token" && f.issuers.asked > 0 {
					t.Errorf("%s: %v, and keys were asked for", s.name, e)
				}
			}
		})
	}
}

func withSub(claims map[string]any, sub string) map[string]any {
	out := map[string]any{"sub": sub}
	maps.Copy(out, claims)
	return out
}

// assertRefusedAny is assertRefused for what is refused as a bad token or, when
// nothing tells whose token it is, as a missing client.
func (f *fixture) assertRefusedAny(t testing.TB, r sts.TokenRequest) *sts.Error {
	t.Helper()
	want := sts.InvalidRequest
	if _, err := f.service.Token(t.Context(), r); err != nil && strings.HasPrefix(err.Error(), string(sts.InvalidClient)) {
		want = sts.InvalidClient
	}
	return f.assertRefused(t, r, want)
}

// TestSkew pins the boundary of the allowed skew [C-06]. An exchange adds that
// what is left must be worth a token, so the actor slot cannot show it either:
// the boundary is that of the error.
func TestSkew(t *testing.T) {
	for offset, expired := range map[int64]bool{-1: false, 0: false, 29: false, 30: true, 31: true} {
		f := newFixture(t)
		r := f.exchange(t)
		r.Subject.Token = f.foreign(t, "idp", nil, map[string]any{"exp": f.now.Unix() - offset, "iat": f.now.Unix() - 600})
		e := f.assertRefused(t, r, sts.InvalidRequest)
		if got := strings.Contains(e.Message, "has expired, more than the allowed skew of 30s"); got != expired {
			t.Errorf("exp %d s ago: %s", offset, e.Message)
		}
	}
}

// TestClock moves the clock to where integers of other sizes end [C-21].
func TestClock(t *testing.T) {
	for _, at := range []string{"2038-01-19T03:14:08Z", "2106-02-07T06:28:16Z", "9999-12-31T00:00:00Z"} {
		now, err := time.Parse(time.RFC3339, at)
		if err != nil {
			t.Fatal(err)
		}
		f := newFixture(t)
		f.now = now
		if _, claims := f.token(t, f.exchange(t)); claims["iat"] != now.Unix() {
			t.Errorf("%s: iat %v", at, claims["iat"])
		}
		r := f.exchange(t)
		r.Subject.Token = f.foreign(t, "idp", nil, map[string]any{"exp": now.Unix() - 60, "iat": now.Unix() - 120})
		f.assertRefused(t, r, sts.InvalidRequest)
	}
}

// TestHeaders edits the header of a good token in one way each, in every slot.
func TestHeaders(t *testing.T) {
	for name, header := range map[string]map[string]any{
		"J-01 alg none":                {"alg": "none"},
		"J-02 alg NONE":                {"alg": "NONE"},
		"J-03 alg es256":               {"alg": "es256"},
		"J-04 alg missing":             {"alg": absent},
		"J-05 HS256":                   {"alg": "HS256"},
		"J-07 RS256":                   {"alg": "RS256"},
		"J-08 ES384":                   {"alg": "ES384"},
		"J-24 kid missing":             {"kid": absent},
		"J-27 kid of no key":           {"kid": "other"},
		"J-25 kid of the other issuer": {"kid": "none-1"},
		"J-30 jku":                     {"jku": "https://evil.example.com/jwks"},
		"J-30 x5u null":                {"x5u": nil},
		"J-29 jwk":                     {"jwk": map[string]any{"kty": "EC"}},
		"J-31 x5c":                     {"x5c": []string{"x"}},
		"J-32 crit exp":                {"crit": []string{"exp"}, "exp": 1},
		"J-32 crit empty":              {"crit": []string{}},
		"J-33 b64":                     {"b64": false},
		"J-39 cty JWT":                 {"cty": "JWT"},
		"J-60 typ with parameter":      {"typ": "at+jwt; v=1"},
		"typ of something else":        {"typ": "dpop+jwt"},
		"J-61 Ed25519":                 {"alg": "Ed25519"},
		"J-62 ES256K":                  {"alg": "ES256K"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, s := range slots {
				f := newFixture(t)
				r := s.request(t, f, f.foreign(t, s.issuer, header, map[string]any{"sub": s.sub}))
				if slices.Contains(s.unlike, name) {
					f.token(t, r)
					continue
				}
				want := sts.InvalidRequest
				if strings.HasPrefix(s.name, "client_assertion") {
					want = sts.InvalidClient
				}
				f.assertRefused(t, r, want)
				// The actor token comes after a good subject token.
				most := map[bool]int{true: 1}[s.name == "actor_token"]
				if allowed := strings.Contains(name, "kid") || slices.Contains([]string{"RS256", "ES384"}, fmt.Sprint(header["alg"])); !allowed && f.issuers.asked > most {
					t.Errorf("%s: keys were asked for before the header had passed [I-22]", s.name)
				}
			}
		})
	}
}

// TestForms presents what is not quite a token, in every slot.
func TestForms(t *testing.T) {
	f := newFixture(t)
	good := f.foreign(t, "idp", nil, nil)
	parts := strings.Split(good, ".")
	raw := func(header, claims string) string { return f.issuers.signRaw(t, "idp", []byte(header), []byte(claims)) }
	head := `{"alg":"ES256","kid":"idp-1","typ":"JWT"}`
	body := `"sub":"user-1","aud":"` + selfIssuer + `","exp":1800000600,"iat":1800000000`
	for name, token := range map[string]string{
		"J-01 no signature":    parts[0] + "." + parts[1] + ".",
		"J-01 two segments":    parts[0] + "." + parts[1],
		"J-36 five segments":   good + ".x.y",
		"J-40 Bearer":          "Bearer " + good,
		"J-40 quoted":          `"` + good + `"`,
		"J-42 newline":         good + "\n",
		"J-45 space":           " " + good,
		"J-46 dots":            strings.Repeat(".", 16<<10),
		"J-48 alg twice":       raw(`{"alg":"none","alg":"ES256","kid":"idp-1"}`, `{"iss":"https://idp.example.com",`+body+`}`),
		"J-49 aud twice":       raw(head, `{"iss":"https://idp.example.com","aud":"x",`+body+`}`),
		"J-50 case of iss":     raw(head, `{"Iss":"https://idp.example.com",`+body+`}`),
		"J-51 claims null":     raw(head, `null`),
		"J-51 claims list":     raw(head, `[]`),
		"J-52 header null":     raw(`null`, `{"iss":"https://idp.example.com",`+body+`}`),
		"J-54 not UTF-8":       raw(head, "{\"iss\":\"https://idp.example.com\",\"x\":\"\xff\","+body+"}"),
		"J-54 lone surrogate":  raw(head, `{"iss":"https://idp.example.com","x":"\ud800",`+body+`}`),
		"J-55 trailing object": raw(head, `{"iss":"https://idp.example.com",`+body+`}{}`),
		"J-63 signature moved": parts[0] + "." + strings.Split(f.foreign(t, "idp", nil, nil), ".")[1] + "." + parts[2],
		"J-64 expired and badly signed": strings.Split(f.foreign(t, "idp", nil, map[string]any{"exp": 1}), ".")[0] + "." +
			strings.Split(f.foreign(t, "idp", nil, map[string]any{"exp": 1}), ".")[1] + "." + parts[2],
	} {
		t.Run(name, func(t *testing.T) {
			for _, s := range slots {
				r := s.request(t, f, token)
				e := f.assertRefusedAny(t, r)
				if strings.HasPrefix(name, "J-64") && s.name == "subject_token" && !strings.Contains(e.Message, "signature") {
					t.Errorf("%s; want the bad signature reported", e.Message)
				}
			}
		})
	}
	r := f.exchange(t)
	r.Subject.Token = raw(head, `{"iss":"https://idp.example.com",`+body+`}`)
	f.token(t, r) // the raw form itself is good
}

// TestProvenTokens holds that a token that was verified before is refused as soon
// as anything that it depended on has changed.
func TestProvenTokens(t *testing.T) {
	for name, change := range map[string]func(*testing.T, *fixture, *sts.TokenRequest){
		"expired":     func(_ *testing.T, f *fixture, _ *sts.TokenRequest) { f.now = f.now.Add(time.Hour) },
		"other type":  func(_ *testing.T, _ *fixture, r *sts.TokenRequest) { r.Subject.Type = sts.AccessToken },
		"key removed": func(_ *testing.T, f *fixture, _ *sts.TokenRequest) { f.issuers.removed["idp-1"] = true },
		"issuer's key changed": func(t *testing.T, f *fixture, _ *sts.TokenRequest) {
			f.issuers.signers["idp"] = newMemIssuers(t).signers["idp"]
		},
		"issuer expects another audience": func(t *testing.T, f *fixture, _ *sts.TokenRequest) {
			f.apply(t, sts.Change{Put: []sts.Resource{{Issuer: &sts.Issuer{Name: "idp", Issuer: "https://idp.example.com", Audience: "x"}}}})
		},
		"algorithm not allowed": func(t *testing.T, f *fixture, _ *sts.TokenRequest) {
			f.apply(t, sts.Change{Put: []sts.Resource{{Issuer: &sts.Issuer{Name: "idp", Issuer: "https://idp.example.com", Algorithms: []string{"RS256"}}}}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			r := f.exchange(t)
			f.token(t, r)
			f.token(t, r)
			change(t, f, &r)
			f.assertRefused(t, r, sts.InvalidRequest)
		})
	}
}
