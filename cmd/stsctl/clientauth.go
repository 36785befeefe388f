package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/workload-sts/sts/jose"
)

// clientAuth is how a client authenticates: by secret, by assertion, or, with
// neither, by the certificate of the connection.
type clientAuth struct {
	id, secret               string
	assertion, assertionType string
}

const (
	assertionTypeJWT    = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" // [RFC 7523 §2.2]
	assertionTypeSPIFFE = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"
)

// clientAuth returns the client that asks, by the one way that is given. Flags
// come before the environment: one that names a way has the others' variables
// ignored. Without a client it is empty, unless one is needed.
func (c *cli) clientAuth(needed bool) (clientAuth, error) {
	if err := c.conn.load(); err != nil {
		return clientAuth{}, err
	}
	f := &c.conn
	a := clientAuth{id: f.setting(f.clientID, "STS_CLIENT_ID")}
	ways := f.ways(f.clientSecretFile != "", f.clientKeyFile != "", f.clientAssertionFile != "")
	if len(ways) == 0 {
		ways = f.ways(f.setting("", "STS_CLIENT_SECRET") != "", f.setting("", "STS_CLIENT_KEY") != "",
			f.setting("", "STS_CLIENT_ASSERTION_FILE") != "" || f.setting("", "STS_CLIENT_ASSERTION") != "")
	}
	switch {
	case len(ways) > 1:
		return a, usage("a client has one way to authenticate, and %s are given; leave one out", strings.Join(ways, " and "))
	case len(ways) == 1 && ways[0] == wayAssertion:
		return c.platformAssertion(a)
	case a.id == "" && needed:
		return a, usage("no client given; use STS_CLIENT_ID or --client-id, and how it authenticates: STS_CLIENT_SECRET or --client-secret-file, --client-key, --client-assertion-file, or --tls-cert")
	case a.id == "":
		return clientAuth{}, nil
	case len(ways) == 1 && ways[0] == wayKey:
		return a, c.signAssertions(a.id)
	case len(ways) == 1:
		var err error
		a.secret, err = f.secret(f.clientSecretFile, "STS_CLIENT_SECRET")
		return a, err
	}
	if cert, _, err := f.certificateFiles(); err != nil || cert != "" {
		return a, err
	}
	return a, usage("client %s has nothing to authenticate with; use STS_CLIENT_SECRET or --client-secret-file, --client-key, --client-assertion-file, or --tls-cert and --tls-key", oneLine(a.id))
}

// Ways to authenticate, as messages call them.
const (
	waySecret    = "a secret"
	wayKey       = "a key"
	wayAssertion = "an assertion"
)

func (f *connFlags) ways(secret, key, assertion bool) []string {
	var out []string
	for _, w := range []struct {
		given bool
		name  string
	}{{secret, waySecret}, {key, wayKey}, {assertion, wayAssertion}} {
		if w.given {
			out = append(out, w.name)
		}
	}
	return out
}

// platformAssertion reads a token that the client's platform gave it. It says
// itself whose it is, so the client need not be named.
func (c *cli) platformAssertion(a clientAuth) (clientAuth, error) {
	f := &c.conn
	token := f.setting("", "STS_CLIENT_ASSERTION")
	file := f.setting(f.clientAssertionFile, "STS_CLIENT_ASSERTION_FILE")
	if file != "" {
		var err error
		if token, err = c.tokenArgument("@" + file); err != nil {
			return a, err
		}
	}
	a.assertion, a.assertionType = token, assertionTypeJWT
	if strings.HasPrefix(unverifiedSubject(token), "spiffe://") {
		a.assertionType = assertionTypeSPIFFE
	}
	return a, nil
}

// unverifiedSubject reads the sub of a token, which the server verifies.
func unverifiedSubject(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	var claims struct {
		Subject string `json:"sub"`
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(raw, &claims) != nil {
		return ""
	}
	return claims.Subject
}

// signAssertions has calls authenticate the client by its key.
func (c *cli) signAssertions(client string) error {
	f := &c.conn
	issuer := f.issuerIdentifier()
	if issuer == "" {
		return usage("an assertion names the server that it is for; use --issuer or STS_ISSUER")
	}
	key, err := readPrivateKey("--client-key", f.setting(f.clientKeyFile, "STS_CLIENT_KEY"), "")
	if err != nil {
		return err
	}
	if f.clientKeyID != "" {
		key.kid = f.clientKeyID
	}
	f.assertions = &assertions{client: client, issuer: issuer, key: key, now: time.Now}
	return nil
}

// assertions authenticate the calls of a client [RFC 7523 §2.2].
type assertions struct {
	client, issuer string
	key            privateKey
	now            func() time.Time
}

// assertionLife is how long an assertion lives: one call.
const assertionLife = time.Minute

// intercept puts a new assertion into each call: one is good for one.
func (a *assertions) intercept(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	assertion, err := a.sign()
	if err != nil {
		return err
	}
	m := req.(proto.Message).ProtoReflect()
	for name, value := range map[protoreflect.Name]string{"client_assertion": assertion, "client_assertion_type": assertionTypeJWT} {
		field := m.Descriptor().Fields().ByName(name)
		if field == nil {
			return fmt.Errorf("%s takes no client assertion", method)
		}
		m.Set(field, protoreflect.ValueOfString(value))
	}
	return invoke(ctx, method, req, reply, conn, opts...)
}

func (a *assertions) sign() (string, error) {
	now := a.now()
	header := map[string]string{"typ": "client-authentication+jwt", "alg": string(a.key.alg)}
	if a.key.kid != "" {
		header["kid"] = a.key.kid
	}
	claims := map[string]any{
		"iss": a.client, "sub": a.client, "aud": a.issuer, "jti": rand.Text(),
		"iat": now.Unix(), "exp": now.Add(assertionLife).Unix(),
	}
	var input []byte
	for _, part := range []any{header, claims} {
		encoded, err := json.Marshal(part)
		if err != nil {
			return "", err
		}
		if input != nil {
			input = append(input, '.')
		}
		input = base64.RawURLEncoding.AppendEncode(input, encoded)
	}
	sig, err := jose.Sign(a.key.alg, a.key.signer, input)
	if err != nil {
		return "", fmt.Errorf("signing a client assertion: %w", err)
	}
	return jose.Compact(input, sig), nil
}
