package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

func newToken(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Get a token for a client (client credentials)",
		Long: `Get a token for the client itself, by the client credentials grant. The token
alone goes to standard output, for a script to take; -o json and -o yaml write
the whole response.

A client authenticates in one of four ways: by its secret; by its private key
(--client-key), which signs an assertion for the server that is named by
--issuer; by a token that its platform gave it (--client-assertion-file), such
as that of a Kubernetes service account or a JWT-SVID; or by the certificate of
--tls-cert.

Without --audience the rules must leave only one. Without --scope the token has
all scopes that the rules allow.

With --dpop-key the token is bound to a key: whoever uses it has to prove to
have the key, by DPoP (RFC 9449). The server must know itself by the address
that is connected to (dpop.grpc_url of its configuration).`,
		Example: "  stsctl token --audience payments --scope payments.read\n  curl -H \"Authorization: Bearer $(stsctl token --audience payments)\" https://payments.internal",
		Args:    noArgs("write `stsctl token --audience NAME`"),
	}
	req := &stsv1.IssueTokenRequest{}
	targetFlags(cmd, &req.Audience, &req.Resource, &req.Scope)
	out := outputFlag(cmd, "token", "json", "yaml")
	c.conn.client(cmd)
	c.proofFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		a, err := c.clientAuth(true)
		if err != nil {
			return err
		}
		req.ClientId, req.ClientSecret, req.ClientAssertion, req.ClientAssertionType = a.id, a.secret, a.assertion, a.assertionType
		return c.tokenCall(cmd.Context(), out, func(ctx context.Context, s stsv1.TokenServiceClient) (*stsv1.TokenResponse, error) {
			return s.IssueToken(ctx, req)
		})
	}
	return cmd
}

func newExchange(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "exchange --subject-token TOKEN|@FILE|-",
		Short: "Exchange a token for another (RFC 8693)",
		Long: `Exchange the token of a subject for one for another audience, with at most the
same rights, by OAuth 2.0 token exchange (RFC 8693).

A token is given as it is, as @FILE, or as - for standard input; the latter two
keep it off the command line. Types are jwt, id_token, access_token or a URN.
A type that is left out is access_token if the typ header of the token is
at+jwt, else jwt.

A token that is bound to a key takes --dpop-key with that key; what comes of it
is bound to the key as well.

With STS_CLIENT_ID the client asks. Without, or with --no-client, the workload
presents its own token, which its Issuer must allow (self_presented).`,
		Example: "  stsctl token --audience orders | stsctl exchange --subject-token - --audience payments\n  stsctl exchange --no-client --subject-token @/var/run/token --audience payments -o json",
		Args:    noArgs("write `stsctl exchange --subject-token @FILE`"),
	}
	req := &stsv1.ExchangeTokenRequest{}
	var noClient bool
	cmd.Flags().StringVar(&req.SubjectToken, "subject-token", "", "the `TOKEN` of the subject, @FILE or -")
	cmd.Flags().StringVar(&req.SubjectTokenType, "subject-token-type", "", "what it is: `jwt|id_token|access_token` or a URN")
	cmd.Flags().StringVar(&req.ActorToken, "actor-token", "", "the `TOKEN` of the party that acts for the subject, @FILE or -")
	cmd.Flags().StringVar(&req.ActorTokenType, "actor-token-type", "", "what it is: `jwt|id_token|access_token` or a URN")
	cmd.Flags().StringVar(&req.RequestedTokenType, "requested-token-type", "", "what is wanted: `access_token|jwt|id_token` or a URN")
	cmd.Flags().BoolVar(&noClient, "no-client", false, "present the token without a client, even if STS_CLIENT_ID is set")
	targetFlags(cmd, &req.Audience, &req.Resource, &req.Scope)
	out := outputFlag(cmd, "token", "json", "yaml")
	c.conn.client(cmd)
	c.proofFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if req.SubjectToken == "" {
			return usage("exchange needs the token of the subject; write `stsctl exchange --subject-token @FILE`, or `-` for standard input")
		}
		if !noClient {
			a, err := c.clientAuth(false)
			if err != nil {
				return err
			}
			req.ClientId, req.ClientSecret, req.ClientAssertion, req.ClientAssertionType = a.id, a.secret, a.assertion, a.assertionType
		} else if err := c.conn.load(); err != nil {
			return err
		}
		if err := c.completeExchange(req); err != nil {
			return err
		}
		return c.tokenCall(cmd.Context(), out, func(ctx context.Context, s stsv1.TokenServiceClient) (*stsv1.TokenResponse, error) {
			return s.ExchangeToken(ctx, req)
		})
	}
	return cmd
}

// targetFlags are those of every request for a token.
func targetFlags(cmd *cobra.Command, audience, resource *[]string, scope *string) {
	cmd.Flags().StringArrayVar(audience, "audience", nil, "`NAME` of a service that the token is for; may repeat")
	cmd.Flags().StringArrayVar(resource, "resource", nil, "`URI` of a service that the token is for; may repeat")
	cmd.Flags().StringVar(scope, "scope", "", "`SCOPES` to ask for, with spaces between (default: all that are allowed)")
}

// completeExchange reads the tokens of an exchange and names their types.
func (c *cli) completeExchange(req *stsv1.ExchangeTokenRequest) error {
	if req.SubjectToken == "-" && req.ActorToken == "-" {
		return usage("standard input can hold one token; give the other as @FILE")
	}
	if req.ActorToken == "" && req.ActorTokenType != "" {
		return usage("--actor-token-type is given without --actor-token")
	}
	for _, t := range []struct{ token, typ *string }{
		{&req.SubjectToken, &req.SubjectTokenType}, {&req.ActorToken, &req.ActorTokenType},
	} {
		if *t.token == "" {
			continue
		}
		token, err := c.tokenArgument(*t.token)
		if err != nil {
			return err
		}
		*t.token = token
		if *t.typ == "" {
			*t.typ = guessType(token)
		}
		*t.typ = tokenTypeURN(*t.typ)
	}
	req.RequestedTokenType = tokenTypeURN(req.RequestedTokenType)
	return nil
}

const tokenTypePrefix = "urn:ietf:params:oauth:token-type:"

// tokenTypeURN completes the short name of a token type.
func tokenTypeURN(s string) string {
	switch s {
	case "jwt", "id_token", "access_token":
		return tokenTypePrefix + s
	}
	return s
}

// guessType reads the typ header of a token, unverified: the server holds the
// type against the token anyway.
func guessType(token string) string {
	first, _, _ := strings.Cut(token, ".")
	raw, err := base64.RawURLEncoding.DecodeString(first)
	var header struct {
		Typ string `json:"typ"`
	}
	if err == nil && json.Unmarshal(raw, &header) == nil {
		if strings.TrimPrefix(strings.ToLower(header.Typ), "application/") == "at+jwt" {
			return "access_token"
		}
	}
	return "jwt"
}

// maxInput is how much of a token or key set is read, in bytes.
const maxInput = 256 << 10

// tokenArgument returns the token that an argument stands for: itself, @FILE or
// - for standard input.
func (c *cli) tokenArgument(arg string) (string, error) {
	var r io.Reader = c.stdin
	switch {
	case strings.HasPrefix(arg, "@"):
		f, err := os.Open(arg[1:])
		if err != nil {
			return "", badInput("%v", err)
		}
		defer f.Close()
		r = f
	case arg != "-":
		return arg, nil
	}
	data, err := io.ReadAll(io.LimitReader(r, maxInput+1))
	switch {
	case err != nil:
		return "", badInput("reading %s: %v", arg, err)
	case len(data) > maxInput:
		return "", badInput("%s is larger than %d KiB", arg, maxInput>>10)
	case len(strings.TrimSpace(string(data))) == 0:
		return "", badInput("%s is empty", arg)
	}
	return strings.TrimSpace(string(data)), nil
}

// tokenCall makes a call to the token service and writes the token.
func (c *cli) tokenCall(ctx context.Context, out *output, use func(context.Context, stsv1.TokenServiceClient) (*stsv1.TokenResponse, error)) error {
	var t *stsv1.TokenResponse
	err := c.call(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		t, err = use(ctx, stsv1.NewTokenServiceClient(conn))
		return err
	})
	if err != nil {
		return err
	}
	response := struct {
		AccessToken     string `json:"access_token"`
		IssuedTokenType string `json:"issued_token_type"`
		TokenType       string `json:"token_type"`
		ExpiresIn       int32  `json:"expires_in"`
		Scope           string `json:"scope,omitempty"`
	}{t.GetAccessToken(), t.GetIssuedTokenType(), t.GetTokenType(), t.GetExpiresIn(), t.GetScope()}
	if written, err := out.write(c.stdout, response); written {
		return err
	}
	_, err = fmt.Fprintln(c.stdout, response.AccessToken)
	return err
}
