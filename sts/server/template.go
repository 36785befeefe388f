package server

import (
	"google.golang.org/protobuf/types/known/structpb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

func (c *converter) template(m *stsv1.ClientTemplate) *sts.ClientTemplate {
	out := &sts.ClientTemplate{
		Name:         m.GetName(),
		Description:  m.GetDescription(),
		JWKSHosts:    m.GetJwksHosts(),
		Labels:       m.GetLabels(),
		DPoPBound:    m.GetDpopBoundAccessTokens(),
		MaxClients:   int(m.GetMaxClients()),
		MaxPerMinute: int(m.GetMaxPerMinute()),
		ExpireUnused: c.duration("expire_unused", m.GetExpireUnused()),
		MaxLifetime:  c.duration("max_lifetime", m.GetMaxLifetime()),
		SingleUse:    m.GetSingleUse(),
	}
	for _, method := range m.GetMethods() {
		out.Methods = append(out.Methods, sts.AuthMethod(method))
	}
	for _, grant := range m.GetGrantTypes() {
		out.GrantTypes = append(out.GrantTypes, sts.GrantType(grant))
	}
	if s := m.GetSoftwareStatement(); s != nil {
		out.Statement = &sts.SoftwareStatement{Issuer: s.GetIssuer()}
		for name, v := range s.GetClaims() {
			if out.Statement.Claims == nil {
				out.Statement.Claims = make(map[string]any, len(s.GetClaims()))
			}
			out.Statement.Claims[name] = c.value("software_statement.claims."+name, v)
		}
	}
	return out
}

func templateToProto(t *sts.ClientTemplate) *stsv1.ClientTemplate {
	out := &stsv1.ClientTemplate{
		Name:                  t.Name,
		Description:           t.Description,
		JwksHosts:             t.JWKSHosts,
		Labels:                t.Labels,
		DpopBoundAccessTokens: t.DPoPBound,
		MaxClients:            int32(t.MaxClients),
		MaxPerMinute:          int32(t.MaxPerMinute),
		ExpireUnused:          durationToProto(t.ExpireUnused),
		MaxLifetime:           durationToProto(t.MaxLifetime),
		SingleUse:             t.SingleUse,
	}
	for _, method := range t.Methods {
		out.Methods = append(out.Methods, string(method))
	}
	for _, grant := range t.GrantTypes {
		out.GrantTypes = append(out.GrantTypes, string(grant))
	}
	if s := t.Statement; s != nil {
		out.SoftwareStatement = &stsv1.SoftwareStatement{Issuer: s.Issuer}
		for name, v := range s.Claims {
			if out.SoftwareStatement.Claims == nil {
				out.SoftwareStatement.Claims = make(map[string]*structpb.Value, len(s.Claims))
			}
			out.SoftwareStatement.Claims[name] = valueToProto(v)
		}
	}
	return out
}
