package main

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

func newIntrospect(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "introspect TOKEN|@FILE|-",
		Short: "Ask the server whether a token counts (RFC 7662)",
		Long: `Ask the server whether an access token counts at this moment, as a service that
gets tokens does: it is of this service, has not expired and is not revoked.

The client asks that STS_CLIENT_ID names. Only one that is an Audience of the
token, or that such an Audience names in introspectors, is told; to others every
token is inactive. The exit code is 5 for a token that is not active.`,
		Example: "  stsctl introspect @token.jwt\n  stsctl token --audience payments | stsctl introspect -",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage("introspect takes one token; write `stsctl introspect @FILE`, or pipe one in: `... | stsctl introspect -`")
			}
			return nil
		},
	}
	out := outputFlag(cmd, "text", "json", "yaml")
	c.conn.client(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.introspect(cmd.Context(), args[0], out)
	}
	return cmd
}

func (c *cli) introspect(ctx context.Context, arg string, out *output) error {
	req := &stsv1.IntrospectTokenRequest{}
	a, err := c.clientAuth(true)
	if err != nil {
		return err
	}
	req.ClientId, req.ClientSecret, req.ClientAssertion, req.ClientAssertionType = a.id, a.secret, a.assertion, a.assertionType
	if req.Token, err = c.tokenArgument(arg); err != nil {
		return err
	}
	var found *stsv1.IntrospectTokenResponse
	err = c.call(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		found, err = stsv1.NewTokenServiceClient(conn).IntrospectToken(ctx, req)
		return err
	})
	if err != nil {
		return err
	}
	members, err := introspectionMembers(found)
	if err != nil {
		return badInput("the answer of the server cannot be read: %v", err)
	}
	written, err := out.write(c.stdout, members)
	if !written {
		err = c.showIntrospection(members)
	}
	if err == nil && !found.GetActive() {
		err = unverified("the token is not active, or not the business of this client")
	}
	return err
}

// introspectionMembers are those of the response of RFC 7662 that are there.
func introspectionMembers(m *stsv1.IntrospectTokenResponse) (map[string]any, error) {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	members := map[string]any{}
	if err := json.Unmarshal(text, &members); err != nil {
		return nil, err
	}
	claims, _ := members["claims"].(map[string]any)
	delete(members, "claims")
	maps.Copy(members, claims) // none is named as another member
	return members, nil
}

// showIntrospection writes one member a line.
func (c *cli) showIntrospection(members map[string]any) error {
	var b bytes.Buffer
	if err := writeYAML(&b, members); err != nil {
		return err
	}
	_, err := c.stdout.Write(b.Bytes())
	return err
}
