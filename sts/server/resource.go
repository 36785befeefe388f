package server

import (
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// FromProto returns a resource as the domain has it, and what cannot be
// converted; the Index of a problem is -1. Whether the resource makes sense is
// for [sts.Service.Apply] to say.
func FromProto(r *stsv1.Resource) (sts.Resource, []sts.Problem) {
	c := &converter{}
	var out sts.Resource
	switch {
	case r.GetClient() != nil:
		out.Client = c.client(r.GetClient())
	case r.GetIssuer() != nil:
		out.Issuer = c.issuer(r.GetIssuer())
	case r.GetAudience() != nil:
		out.Audience = c.audience(r.GetAudience())
	case r.GetClientTemplate() != nil:
		out.ClientTemplate = c.template(r.GetClientTemplate())
	case r.GetRule() != nil:
		out.Rule = c.rule(r.GetRule())
	default:
		c.problem("", "a resource is one of client, client_template, issuer, audience, rule; this is none of them")
	}
	for i := range c.problems {
		c.problems[i].Ref = out.Ref()
	}
	return out, c.problems
}

// converter collects what cannot be converted.
type converter struct{ problems []sts.Problem }

func (c *converter) problem(field, message string) {
	c.problems = append(c.problems, sts.Problem{Index: -1, Field: field, Message: message})
}

func indexed(field string, i int) string { return fmt.Sprintf("%s[%d]", field, i) }

func (c *converter) client(m *stsv1.Client) *sts.Client {
	out := &sts.Client{
		Name:        m.GetName(),
		Description: m.GetDescription(),
		Disabled:    m.GetDisabled(),
		Labels:      m.GetLabels(),
		Audiences:   m.GetAudiences(),
		DPoPBound:   m.GetDpopBoundAccessTokens(),
		Rate:        c.rate("rate", m.GetRate()),
		Disclosure:  sts.Disclosure(m.GetDisclosure()),
	}
	for i, s := range m.GetSecrets() {
		out.Secrets = append(out.Secrets, sts.ClientSecret{
			Hash:     s.GetHash(),
			NotAfter: c.timestamp(indexed("secrets", i)+".not_after", s.GetNotAfter()),
		})
	}
	c.clientMethods(m, out)
	out.TLS = clientTLS(m.GetTls())
	return out
}

func (c *converter) issuer(m *stsv1.Issuer) *sts.Issuer {
	return &sts.Issuer{
		Name:             m.GetName(),
		Description:      m.GetDescription(),
		Issuer:           m.GetIssuer(),
		Audience:         m.GetAudience(),
		JWKSURI:          m.GetJwksUri(),
		Algorithms:       m.GetAlgorithms(),
		TokenTypes:       m.GetTokenTypes(),
		SelfPresented:    m.GetSelfPresented(),
		MaxTokenLifetime: c.duration("max_token_lifetime", m.GetMaxTokenLifetime()),
		AllowMissingKID:  m.GetAllowMissingKid(),
		AllowAct:         m.GetAllowAct(),
		CACertificates:   m.GetCaCertificates(),
		AllowNetworks:    m.GetAllowNetworks(),
		InsecureHTTP:     m.GetInsecureHttp(),

		Preset:              m.GetPreset(),
		DiscoveryURI:        m.GetDiscoveryUri(),
		DiscoveryIssuer:     m.GetDiscoveryIssuer(),
		JWKSHosts:           m.GetJwksHosts(),
		JWKS:                m.GetJwks(),
		JWKSFile:            m.GetJwksFile(),
		SPIFFEBundle:        bundle(m.GetSpiffeBundle()),
		TokenReview:         review(m.GetTokenReview()),
		TokenFile:           m.GetTokenFile(),
		SingleUse:           m.GetSingleUse(),
		AllowOtherAudiences: m.GetAllowOtherAudiences(),
		Disclosure:          sts.Disclosure(m.GetDisclosure()),
	}
}

func (c *converter) audience(m *stsv1.Audience) *sts.Audience {
	return &sts.Audience{
		Name:        m.GetName(),
		Description: m.GetDescription(),
		Identifiers: m.GetIdentifiers(),
		Scopes:      m.GetScopes(),
		MaxTTL:      c.duration("max_ttl", m.GetMaxTtl()),
		KeySet:      m.GetKeySet(),
		Binding:     policy.Binding(m.GetBinding()),
		Quota:       c.rate("quota", m.GetQuota()),

		Introspectors: m.GetIntrospectors(),
	}
}

// party returns nil for a party that is not there, which says something else
// than an empty one.
func (c *converter) party(field string, m *stsv1.Party) *policy.Party {
	if m == nil {
		return nil
	}
	out := &policy.Party{
		Issuer:            m.GetIssuer(),
		ClaimGlobs:        m.GetClaimGlobs(),
		AcceptUnaddressed: m.GetAcceptUnaddressed(),
	}
	for name, v := range m.GetClaims() {
		if out.Claims == nil {
			out.Claims = make(map[string]any, len(m.GetClaims()))
		}
		out.Claims[name] = c.value(field+".claims."+name, v)
	}
	return out
}

func (c *converter) timestamp(field string, t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	if !t.IsValid() || t.AsTime().IsZero() {
		c.problem(field, "is not a point in time; write it like 2027-01-31T00:00:00Z")
		return time.Time{}
	}
	return t.AsTime()
}

func (c *converter) duration(field string, d *durationpb.Duration) time.Duration {
	if d == nil {
		return 0
	}
	// Beyond what a time.Duration holds, AsDuration stays at its end.
	if !d.IsValid() || d.AsDuration() <= 0 || d.AsDuration() == math.MaxInt64 {
		c.problem(field, "must be a time above 0, such as 600s; leave it out for the default")
		return 0
	}
	return d.AsDuration()
}

// maxExact is up to where every integer is a float64.
const maxExact = 1 << 53

// value converts a claim value. A number that is integral becomes an int64, as
// in the claims of a token.
func (c *converter) value(field string, v *structpb.Value) any {
	switch k := v.GetKind().(type) {
	case *structpb.Value_NullValue:
		return nil
	case *structpb.Value_BoolValue:
		return k.BoolValue
	case *structpb.Value_StringValue:
		return k.StringValue
	case *structpb.Value_NumberValue:
		n := k.NumberValue
		switch {
		case math.IsNaN(n) || math.IsInf(n, 0):
			c.problem(field, "is not a number that JSON has")
			return nil
		case n == math.Trunc(n) && math.Abs(n) <= maxExact:
			return int64(n)
		}
		return n
	case *structpb.Value_ListValue:
		out := make([]any, 0, len(k.ListValue.GetValues()))
		for i, e := range k.ListValue.GetValues() {
			out = append(out, c.value(indexed(field, i), e))
		}
		return out
	case *structpb.Value_StructValue:
		out := make(map[string]any, len(k.StructValue.GetFields()))
		for name, e := range k.StructValue.GetFields() {
			out[name] = c.value(field+"."+name, e)
		}
		return out
	default:
		c.problem(field, "has no value")
		return nil
	}
}

// ToProto returns a resource as callers see it.
func ToProto(r sts.Resource) *stsv1.Resource {
	switch {
	case r.Client != nil:
		return &stsv1.Resource{Kind: &stsv1.Resource_Client{Client: clientToProto(r.Client)}}
	case r.Issuer != nil:
		return &stsv1.Resource{Kind: &stsv1.Resource_Issuer{Issuer: issuerToProto(r.Issuer)}}
	case r.Audience != nil:
		return &stsv1.Resource{Kind: &stsv1.Resource_Audience{Audience: &stsv1.Audience{
			Name:        r.Audience.Name,
			Description: r.Audience.Description,
			Identifiers: r.Audience.Identifiers,
			Scopes:      r.Audience.Scopes,
			MaxTtl:      durationToProto(r.Audience.MaxTTL),
			KeySet:      r.Audience.KeySet,
			Binding:     string(r.Audience.Binding),
			Quota:       rateToProto(r.Audience.Quota),

			Introspectors: r.Audience.Introspectors,
		}}}
	case r.ClientTemplate != nil:
		return &stsv1.Resource{Kind: &stsv1.Resource_ClientTemplate{ClientTemplate: templateToProto(r.ClientTemplate)}}
	case r.Rule != nil:
		return &stsv1.Resource{Kind: &stsv1.Resource_Rule{Rule: ruleToProto(r.Rule)}}
	default:
		return &stsv1.Resource{}
	}
}

func clientToProto(c *sts.Client) *stsv1.Client {
	out := &stsv1.Client{
		Name:        c.Name,
		Description: c.Description,
		Disabled:    c.Disabled,
		Labels:      c.Labels,
		Audiences:   c.Audiences,

		DpopBoundAccessTokens: c.DPoPBound,
		Rate:                  rateToProto(c.Rate),
		Disclosure:            string(c.Disclosure),
	}
	for _, s := range c.Secrets {
		m := &stsv1.ClientSecret{Hash: s.Hash}
		if !s.NotAfter.IsZero() {
			m.NotAfter = timestamppb.New(s.NotAfter)
		}
		out.Secrets = append(out.Secrets, m)
	}
	clientMethodsToProto(c, out)
	out.Tls = clientTLSToProto(c.TLS)
	return out
}

func issuerToProto(i *sts.Issuer) *stsv1.Issuer {
	return &stsv1.Issuer{
		Name:             i.Name,
		Description:      i.Description,
		Issuer:           i.Issuer,
		Audience:         i.Audience,
		JwksUri:          i.JWKSURI,
		Algorithms:       i.Algorithms,
		TokenTypes:       i.TokenTypes,
		SelfPresented:    i.SelfPresented,
		MaxTokenLifetime: durationToProto(i.MaxTokenLifetime),
		AllowMissingKid:  i.AllowMissingKID,
		AllowAct:         i.AllowAct,
		CaCertificates:   i.CACertificates,
		AllowNetworks:    i.AllowNetworks,
		InsecureHttp:     i.InsecureHTTP,

		Preset:              i.Preset,
		DiscoveryUri:        i.DiscoveryURI,
		DiscoveryIssuer:     i.DiscoveryIssuer,
		JwksHosts:           i.JWKSHosts,
		Jwks:                i.JWKS,
		JwksFile:            i.JWKSFile,
		SpiffeBundle:        bundleToProto(i.SPIFFEBundle),
		TokenReview:         reviewToProto(i.TokenReview),
		TokenFile:           i.TokenFile,
		SingleUse:           i.SingleUse,
		AllowOtherAudiences: i.AllowOtherAudiences,
		Disclosure:          string(i.Disclosure),
	}
}

func partyToProto(p *policy.Party) *stsv1.Party {
	if p == nil {
		return nil
	}
	out := &stsv1.Party{Issuer: p.Issuer, ClaimGlobs: p.ClaimGlobs, AcceptUnaddressed: p.AcceptUnaddressed}
	for name, v := range p.Claims {
		if out.Claims == nil {
			out.Claims = make(map[string]*structpb.Value, len(p.Claims))
		}
		out.Claims[name] = valueToProto(v)
	}
	return out
}

func durationToProto(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

func valueToProto(v any) *structpb.Value {
	switch v := v.(type) {
	case bool:
		return structpb.NewBoolValue(v)
	case string:
		return structpb.NewStringValue(v)
	case int64:
		return structpb.NewNumberValue(float64(v))
	case float64:
		return structpb.NewNumberValue(v)
	case []any:
		l := &structpb.ListValue{Values: make([]*structpb.Value, 0, len(v))}
		for _, e := range v {
			l.Values = append(l.Values, valueToProto(e))
		}
		return structpb.NewListValue(l)
	case map[string]any:
		s := &structpb.Struct{Fields: make(map[string]*structpb.Value, len(v))}
		for name, e := range v {
			s.Fields[name] = valueToProto(e)
		}
		return structpb.NewStructValue(s)
	default:
		return structpb.NewNullValue()
	}
}
