package server

import (
	"google.golang.org/protobuf/types/known/structpb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// clientMethods converts how a client authenticates, but for secrets.
func (c *converter) clientMethods(m *stsv1.Client, out *sts.Client) {
	if k := m.GetPrivateKeyJwt(); k != nil {
		out.PrivateKeyJWT = &sts.ClientKey{
			JWKS:                        k.GetJwks(),
			JWKSFile:                    k.GetJwksFile(),
			JWKSURI:                     k.GetJwksUri(),
			Algorithms:                  k.GetAlgorithms(),
			AcceptTokenEndpointAudience: k.GetAcceptTokenEndpointAudience(),
			CACertificates:              k.GetCaCertificates(),
			AllowNetworks:               k.GetAllowNetworks(),
			InsecureHTTP:                k.GetInsecureHttp(),
		}
	}
	if f := m.GetFederated(); f != nil {
		out.Federated = &sts.FederatedIdentity{Issuer: f.GetIssuer(), SingleUse: f.GetSingleUse(), AcceptRisks: f.GetAcceptRisks()}
		for name, v := range f.GetClaims() {
			if out.Federated.Claims == nil {
				out.Federated.Claims = make(map[string]any, len(f.GetClaims()))
			}
			out.Federated.Claims[name] = c.value("federated.claims."+name, v)
		}
	}
}

func clientMethodsToProto(c *sts.Client, out *stsv1.Client) {
	if k := c.PrivateKeyJWT; k != nil {
		out.PrivateKeyJwt = &stsv1.PrivateKeyJwt{
			Jwks:                        k.JWKS,
			JwksFile:                    k.JWKSFile,
			JwksUri:                     k.JWKSURI,
			Algorithms:                  k.Algorithms,
			AcceptTokenEndpointAudience: k.AcceptTokenEndpointAudience,
			CaCertificates:              k.CACertificates,
			AllowNetworks:               k.AllowNetworks,
			InsecureHttp:                k.InsecureHTTP,
		}
	}
	if f := c.Federated; f != nil {
		out.Federated = &stsv1.FederatedIdentity{Issuer: f.Issuer, SingleUse: f.SingleUse, AcceptRisks: f.AcceptRisks}
		for name, v := range f.Claims {
			if out.Federated.Claims == nil {
				out.Federated.Claims = make(map[string]*structpb.Value, len(f.Claims))
			}
			out.Federated.Claims[name] = valueToProto(v)
		}
	}
}
