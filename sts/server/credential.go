package server

import (
	"context"
	"encoding/base64"
	"strings"

	"google.golang.org/grpc/metadata"

	"github.com/workload-sts/sts/sts"
)

// credentialMembers are the members of a request that authenticate its client.
type credentialMembers interface {
	GetClientId() string
	GetClientSecret() string
	GetClientAssertion() string
	GetClientAssertionType() string
}

func credentialSized(m credentialMembers) *refusal {
	return firstOf(
		sized("client_id", m.GetClientId(), maxParameter), sized("client_secret", m.GetClientSecret(), maxParameter),
		sized("client_assertion", m.GetClientAssertion(), maxToken), sized("client_assertion_type", m.GetClientAssertionType(), maxParameter),
	)
}

// credential returns what the client authenticates with: the Basic scheme in the
// authorization metadata, or the members of the request. It is zero if there is
// nothing. The client MUST NOT use more than one method [RFC 6749 §2.3].
func credential(ctx context.Context, m credentialMembers) (sts.Credential, *refusal) {
	id, secret := m.GetClientId(), m.GetClientSecret()
	md, _ := metadata.FromIncomingContext(ctx)
	authorization := md.Get("authorization")
	switch {
	case m.GetClientAssertion() != "" || m.GetClientAssertionType() != "":
		if secret != "" || len(authorization) > 0 {
			return sts.Credential{}, malformed("client_assertion", "two client authentications at once; send the client_assertion or a secret, not both")
		}
		return assertion(m)
	case len(authorization) > 1:
		return sts.Credential{}, malformed("authorization", "more than one authorization header")
	case len(authorization) == 1:
		c, bad := basic(authorization[0])
		switch {
		case bad != nil:
			return sts.Credential{}, bad
		case secret != "":
			return sts.Credential{}, malformed("client_secret", "two client authentications at once; use the Basic scheme or client_secret, not both")
		case id != "" && id != c.ClientID:
			return sts.Credential{}, malformed("client_id", "client_id is not the client that the Basic scheme authenticates")
		}
		return c, nil
	case id != "" || secret != "":
		return sts.Credential{Method: sts.SecretPost, ClientID: id, Secret: secret}, nil
	default:
		return sts.Credential{}, nil
	}
}

// assertion reads a client assertion [RFC 7521 §4.2]. Its kind is that of its
// type, never a guess.
func assertion(m credentialMembers) (sts.Credential, *refusal) {
	kind := sts.AssertionType(m.GetClientAssertionType())
	method, known := sts.AssertionMethods[kind]
	switch {
	case kind == "":
		return sts.Credential{}, malformed("client_assertion_type", "client_assertion_type is missing; for a JWT it is "+string(sts.JWTBearer))
	case !known:
		return sts.Credential{}, malformed("client_assertion_type", "client_assertion_type must be "+string(sts.JWTBearer)+" or "+string(sts.JWTSPIFFE))
	case m.GetClientAssertion() == "":
		return sts.Credential{}, malformed("client_assertion", "client_assertion is missing beside client_assertion_type")
	}
	return sts.Credential{Method: method, ClientID: m.GetClientId(), Assertion: m.GetClientAssertion(), AssertionType: kind}, nil
}

// basic reads credentials of the Basic scheme. Both parts are form-encoded
// before they are joined [RFC 6749 §2.3.1], so that either may have a colon.
func basic(value string) (sts.Credential, *refusal) {
	scheme, encoded, _ := strings.Cut(value, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return sts.Credential{}, unauthorized("clients authenticate here with the Basic scheme, with client_id and client_secret, or with a client_assertion, not with another authorization scheme")
	}
	// A decoder skips line breaks, which a header cannot have and metadata must not.
	joined, err := base64.StdEncoding.Strict().DecodeString(strings.TrimLeft(encoded, " "))
	if err != nil || strings.ContainsAny(encoded, "\r\n") {
		return sts.Credential{}, unauthorized("the credentials of the Basic scheme are not base64")
	}
	rawID, rawSecret, ok := strings.Cut(string(joined), ":")
	if !ok {
		return sts.Credential{}, unauthorized("the credentials of the Basic scheme have no colon between client id and secret")
	}
	id, okID := formDecode([]byte(rawID))
	secret, okSecret := formDecode([]byte(rawSecret))
	if !okID || !okSecret {
		return sts.Credential{}, unauthorized("client id and secret must be form-encoded before they are joined for the Basic scheme")
	}
	if len(id) > maxParameter || len(secret) > maxParameter {
		return sts.Credential{}, unauthorized("the credentials of the Basic scheme are longer than any client has")
	}
	return sts.Credential{Method: sts.SecretBasic, ClientID: id, Secret: secret}, nil
}
