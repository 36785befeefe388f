package server

import (
	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// clientTLS converts by which certificate a client is known; nil stays nil.
func clientTLS(m *stsv1.ClientTls) *sts.ClientTLS {
	if m == nil {
		return nil
	}
	out := &sts.ClientTLS{
		SubjectDN: m.GetSubjectDn(), SANURI: m.GetSanUri(), SANDNS: m.GetSanDns(), SANIP: m.GetSanIp(), SANEmail: m.GetSanEmail(),
	}
	if s := m.GetSpiffe(); s != nil {
		out.SPIFFE = &sts.ClientSPIFFE{ID: s.GetId(), TrustDomain: s.GetTrustDomain(), Path: s.GetPath()}
	}
	if s := m.GetSelfSigned(); s != nil {
		out.SelfSigned = &sts.ClientSelfSigned{JWKS: s.GetJwks()}
	}
	return out
}

func clientTLSToProto(t *sts.ClientTLS) *stsv1.ClientTls {
	if t == nil {
		return nil
	}
	out := &stsv1.ClientTls{}
	switch {
	case t.SubjectDN != "":
		out.Match = &stsv1.ClientTls_SubjectDn{SubjectDn: t.SubjectDN}
	case t.SANURI != "":
		out.Match = &stsv1.ClientTls_SanUri{SanUri: t.SANURI}
	case t.SANDNS != "":
		out.Match = &stsv1.ClientTls_SanDns{SanDns: t.SANDNS}
	case t.SANIP != "":
		out.Match = &stsv1.ClientTls_SanIp{SanIp: t.SANIP}
	case t.SANEmail != "":
		out.Match = &stsv1.ClientTls_SanEmail{SanEmail: t.SANEmail}
	case t.SPIFFE != nil:
		out.Match = &stsv1.ClientTls_Spiffe{Spiffe: &stsv1.ClientSpiffe{Id: t.SPIFFE.ID, TrustDomain: t.SPIFFE.TrustDomain, Path: t.SPIFFE.Path}}
	case t.SelfSigned != nil:
		out.Match = &stsv1.ClientTls_SelfSigned{SelfSigned: &stsv1.ClientSelfSigned{Jwks: t.SelfSigned.JWKS}}
	}
	return out
}
