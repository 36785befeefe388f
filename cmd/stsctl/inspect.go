package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func newInspect(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "inspect TOKEN|@FILE|-|URL",
		Short: "Look into a token or a key set, and verify a token",
		Long: `Show what a token or a JSON Web Key set says, with times for people. It is read
from the argument, @FILE, standard input (-) or the URL of a key set. A token
response in JSON does as well.

Nothing that a token says is believed before its signature is verified:

  stsctl inspect TOKEN
      decodes only; no network
  stsctl inspect --issuer URL TOKEN
      verifies it: the token must be of this issuer, signed by a key that the
      issuer publishes now, and valid at this time
  stsctl inspect --verify TOKEN
      the same with STS_ISSUER or, if that is not set, with whoever the token
      says it is from; this asks the address in the token for keys

The audience is checked if --audience says which it must be.`,
		Example: "  stsctl token --audience payments | stsctl inspect -\n  stsctl inspect --issuer https://sts.example.com --audience payments @token.jwt\n  stsctl inspect https://sts.example.com/.well-known/jwks.json",
		Args: func(_ *cobra.Command, args []string) error {
			switch len(args) {
			case 0:
				return usage("inspect needs a token; write `stsctl inspect @FILE`, or pipe one in: `stsctl token | stsctl inspect -`")
			case 1:
				return nil
			}
			return usage("inspect takes one token; write it without spaces, or as @FILE")
		},
	}
	var verify bool
	var audience string
	cmd.Flags().BoolVar(&verify, "verify", false, "verify signature and times with the keys of STS_ISSUER, or of the token's own issuer")
	cmd.Flags().StringVar(&audience, "audience", "", "with verification: the `NAME` that the token must be addressed to")
	out := outputFlag(cmd, "text", "json", "yaml")
	c.conn.trust(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := c.conn.load(); err != nil {
			return err
		}
		verify = verify || c.conn.issuer != ""
		if audience != "" && !verify {
			return usage("--audience is checked with --verify or --issuer")
		}
		return c.inspect(cmd.Context(), args[0], verify, audience, out)
	}
	return cmd
}

// inspect shows a token or a key set.
func (c *cli) inspect(ctx context.Context, arg string, verify bool, audience string, out *output) error {
	text, err := c.inspectInput(ctx, arg)
	if err != nil {
		return err
	}
	if strings.HasPrefix(text, "{") {
		doc, err := jsonObject([]byte(text))
		if err != nil {
			return badInput("not a token and not JSON: %v", err)
		}
		token, isResponse := doc["access_token"].(string)
		if !isResponse {
			if verify {
				return usage("only a token can be verified")
			}
			return c.showKeys(doc, out)
		}
		text = token
	}
	t, err := decodeToken(text)
	if err != nil {
		return err
	}
	if !verify {
		return c.showToken(t, nil, out)
	}
	v := c.verify(ctx, t, audience)
	if err := c.showToken(t, v, out); err != nil {
		return err
	}
	return v.err
}

// inspectInput returns what an argument stands for, without space around it.
func (c *cli) inspectInput(ctx context.Context, arg string) (string, error) {
	if !strings.HasPrefix(arg, "https://") && !strings.HasPrefix(arg, "http://") {
		text, err := c.tokenArgument(arg)
		return strings.TrimSpace(text), err
	}
	ctx, cancel := context.WithTimeout(ctx, c.conn.timeout)
	defer cancel()
	f, err := c.newFetcher()
	if err != nil {
		return "", err
	}
	data, err := f.get(ctx, arg)
	if err != nil {
		return "", err
	}
	text := strings.TrimSpace(string(data))
	if !strings.HasPrefix(text, "{") {
		return "", badInput("%s is not a JSON document", arg)
	}
	return text, nil
}

// token is a decoded token. Nothing in it is verified.
type token struct {
	compact string
	header  map[string]any
	claims  map[string]any
}

// decodeToken decodes leniently, so that also a token that no verifier accepts
// can be looked at.
func decodeToken(compact string) (*token, error) {
	parts := strings.Split(compact, ".")
	switch {
	case len(parts) == 5:
		return nil, badInput("this is an encrypted token (JWE); only its recipient can read it")
	case len(parts) != 3:
		return nil, badInput("not a token: a JWT has three parts with dots between, this has %d; for a file write @FILE", len(parts))
	}
	t := &token{compact: compact}
	for i, part := range []struct {
		name string
		to   *map[string]any
	}{{"header", &t.header}, {"payload", &t.claims}} {
		raw, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			return nil, badInput("not a token: its %s is not base64url", part.name)
		}
		if *part.to, err = jsonObject(raw); err != nil {
			return nil, badInput("not a token: its %s is not a JSON object", part.name)
		}
	}
	return t, nil
}

func jsonObject(data []byte) (map[string]any, error) {
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.UseNumber()
	var doc map[string]any
	if err := dec.Decode(&doc); err != nil {
		return nil, err
	}
	if doc == nil || dec.More() {
		return nil, fmt.Errorf("expected one JSON object")
	}
	return doc, nil
}

// issuer is the iss claim, as the token has it.
func (t *token) issuer() string {
	iss, _ := t.claims["iss"].(string)
	return iss
}

// timeClaims are the claims that are times [RFC 7519 §2, OIDC Core §2].
var timeClaims = map[string]bool{"exp": true, "nbf": true, "iat": true, "auth_time": true, "updated_at": true}

// when reads a NumericDate.
func when(v any) (time.Time, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return time.Time{}, false
	}
	f, err := n.Float64()
	if err != nil || f < 0 || f >= 253402300800 { // the year 10000
		return time.Time{}, false
	}
	return time.Unix(int64(f), 0), true
}

// showToken writes a decoded token, and what became of its verification.
func (c *cli) showToken(t *token, v *verification, out *output) error {
	if written, err := out.write(c.stdout, c.tokenReport(t, v)); written {
		return err
	}
	var b bytes.Buffer
	if v == nil {
		b.WriteString("signature NOT verified; give --issuer URL, or --verify to ask the issuer in the token\n")
	} else {
		b.WriteString(v.summary() + "\n")
	}
	b.WriteString("\nheader\n")
	c.showMembers(&b, t.header, []string{"alg", "typ", "kid"}, nil)
	b.WriteString("\nclaims\n")
	c.showMembers(&b, t.claims, []string{"iss", "sub", "aud", "client_id", "scope", "exp", "nbf", "iat", "jti"}, timeClaims)
	if exp, ok := when(t.claims["exp"]); ok && v == nil && !exp.After(c.now()) {
		b.WriteString("\nthis token has expired\n")
	}
	_, err := c.stdout.Write(b.Bytes())
	return err
}

// tokenReport is what -o json and -o yaml write.
func (c *cli) tokenReport(t *token, v *verification) any {
	report := struct {
		Verified bool              `json:"verified"`
		Issuer   string            `json:"verified_issuer,omitempty"`
		Problem  string            `json:"problem,omitempty"`
		Header   map[string]any    `json:"header"`
		Claims   map[string]any    `json:"claims"`
		Times    map[string]string `json:"times"`
	}{Header: t.header, Claims: t.claims, Times: map[string]string{}}
	if v != nil {
		report.Verified = v.err == nil
		if v.err != nil {
			report.Problem = v.err.Error()
		} else {
			report.Issuer = v.issuer
		}
	}
	for name := range timeClaims {
		if at, ok := when(t.claims[name]); ok {
			report.Times[name] = at.UTC().Format(time.RFC3339)
		}
	}
	return report
}
