package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

func newRevoke(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "revoke (--jti ID | --token @FILE | --txn ID | --subject SUB | --client NAME | --issuer-name NAME | --key KID | --all) --reason TEXT",
		Short: "Make tokens count no more",
		Long: `Make tokens count no more: this service refuses to exchange them, and says to
whoever asks (introspection) that they are not active. It is in force when the
command ends, on other nodes within a second. A revocation cannot be taken back;
workloads get new tokens.

  --jti, --token  one token, and all that were exchanged from it
  --txn           a whole chain of exchanges, by its root transaction
  --subject       of a subject, by its sub in tokens of this service: ISSUER:SUB
                  for those of an Issuer; also tokens in which it acts
  --client        issued to a client, of it as the subject, or in which it acts
  --issuer-name   of an Issuer, and of this service with its subjects or actors
  --key           signed by a key; one of this service stops signing as well
  --all           everything, of this service and of all Issuers

Subjects, clients, issuers and all are revoked as of now, or with --before, of
an earlier time: tokens issued later count. A time ahead, a minute at most, is
for nodes whose clocks differ. To keep a client from getting new ones, disable
it.

Without --token the token of an Issuer needs --of NAME beside --jti or --key.
Verifiers that do not ask this service accept a token until it expires.`,
		Example: "  stsctl revoke --jti pIxN0kQk6D1EaZbQ1nS9Wg --reason 'in a public log, INC-17'\n  stsctl revoke --client ci-runner --before 2026-11-25T10:00:00Z --reason 'stolen laptop'\n  stsctl revoke --token @leaked.jwt --reason 'pasted into a ticket'",
		Args:    noArgs("write `stsctl revoke --jti ID --reason TEXT`"),
	}
	values := map[sts.RevocationKind]*string{}
	for _, f := range []struct {
		kind        sts.RevocationKind
		name, usage string
	}{
		{sts.RevokeToken, "jti", "the token with this `ID`"},
		{sts.RevokeTxn, "txn", "every token of the transaction with this `ID`"},
		{sts.RevokeSubject, "subject", "tokens of this `SUB`"},
		{sts.RevokeClient, "client", "tokens of the client of this `NAME`"},
		{sts.RevokeIssuer, "issuer-name", "tokens of the Issuer of this `NAME`"},
		{sts.RevokeKey, "key", "tokens signed by the key with this `KID`"},
	} {
		values[f.kind] = cmd.Flags().String(f.name, "", f.usage)
	}
	var token, of, before, until string
	var all bool
	req := &stsv1.RevokeRequest{}
	cmd.Flags().StringVar(&token, "token", "", "this `TOKEN`, @FILE or -")
	cmd.Flags().BoolVar(&all, "all", false, "every token")
	cmd.Flags().StringVar(&of, "of", "", "`NAME` of the Issuer of a --jti or --key (default: this service)")
	cmd.Flags().StringVar(&before, "before", "", "tokens issued until this `TIME`, such as 2026-11-25T10:00:00Z, or -1h for an hour ago, or 5s for in five seconds (default: now)")
	cmd.Flags().StringVar(&until, "until", "", "keep the revocation until this `TIME` at least")
	cmd.Flags().StringVar(&req.Reason, "reason", "", "why, for whoever finds it later; required")
	out := outputFlag(cmd, "text", "json", "yaml")
	c.conn.admin(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if all {
			values[sts.RevokeAll] = new("all")
		}
		if err := revokeBy(req, values, token != ""); err != nil {
			return err
		}
		req.Issuer = of
		var err error
		if req.Before, err = c.momentOf("--before", before); err != nil {
			return err
		}
		if req.Until, err = c.momentOf("--until", until); err != nil {
			return err
		}
		if token != "" {
			if req.Token, err = c.tokenArgument(token); err != nil {
				return err
			}
		}
		return c.revoke(cmd.Context(), req, out)
	}
	return cmd
}

// revokeBy takes over what to revoke by from the flags, of which there must be one.
func revokeBy(req *stsv1.RevokeRequest, values map[sts.RevocationKind]*string, token bool) error {
	given := 0
	for kind, value := range values {
		if *value != "" {
			req.Kind, req.Value, given = string(kind), *value, given+1
		}
	}
	if req.Kind == string(sts.RevokeAll) {
		req.Value = ""
	}
	if token {
		req.Kind, given = string(sts.RevokeToken), given+1
	}
	switch {
	case given != 1:
		return usage("say what to revoke by one of --jti, --token, --txn, --subject, --client, --issuer-name, --key and --all")
	case strings.TrimSpace(req.Reason) == "":
		return usage("a revocation needs a --reason, for whoever finds it later")
	}
	return nil
}

// momentOf reads a time, or how long ago or ahead one is; nil if there is none.
func (c *cli) momentOf(flag, text string) (*timestamppb.Timestamp, error) {
	if text == "" {
		return nil, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return timestamppb.New(c.now().Add(d)), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return nil, usage("%s takes a time such as 2026-11-25T10:00:00Z, or a duration from now such as -1h", flag)
	}
	return timestamppb.New(t), nil
}

func (c *cli) revoke(ctx context.Context, req *stsv1.RevokeRequest, out *output) error {
	if err := c.conn.load(); err != nil {
		return err
	}
	var done *stsv1.RevokeResponse
	err := c.adminCall(ctx, func(ctx context.Context, admin stsv1.AdminServiceClient) (err error) {
		done, err = admin.Revoke(ctx, req)
		return err
	})
	if err != nil {
		return err
	}
	v := viewRevocation(done.GetRevocation())
	v.Unrecorded = done.GetUnrecorded()
	if written, err := out.write(c.stdout, v); written {
		return err
	}
	text := fmt.Sprintf("revoked %s; it is in force, on other nodes within a second\n", oneLine(c.describe(v)))
	if v.Unrecorded {
		text += warnUnrecorded + "\n"
	}
	_, err = c.stdout.Write([]byte(text))
	return err
}

const warnUnrecorded = "WARNING: the audit log of the server does not work, so this is not in it; it will be when the log works again, unless the server ends before"

func newRevocations(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "revocations",
		Short: "List what is revoked",
		Long: `List the revocations whose tokens may still be alive. One that has done its work
is gone by itself.`,
		Example: "  stsctl revocations\n  stsctl revocations --kind client -o json",
		Args:    noArgs("write `stsctl revocations`"),
	}
	var kind string
	var limit int
	cmd.Flags().StringVar(&kind, "kind", "", "only of this `KIND`: token, txn, subject, client, issuer, key or all")
	cmd.Flags().IntVar(&limit, "limit", 1000, "at most so many")
	out := outputFlag(cmd, "text", "json", "yaml")
	c.conn.admin(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if limit < 1 {
			return usage("--limit must be at least 1")
		}
		return c.listRevocations(cmd.Context(), kind, limit, out)
	}
	return cmd
}

func (c *cli) listRevocations(ctx context.Context, kind string, limit int, out *output) error {
	if err := c.conn.load(); err != nil {
		return err
	}
	list, more, err := upTo(ctx, c, limit, func(ctx context.Context, admin stsv1.AdminServiceClient, size int32, token string) ([]*stsv1.Revocation, string, error) {
		page, err := admin.ListRevocations(ctx, &stsv1.ListRevocationsRequest{Kind: kind, PageSize: size, PageToken: token})
		return page.GetRevocations(), page.GetNextPageToken(), err
	})
	if err != nil {
		return err
	}
	views := []revocationView{}
	for _, m := range list {
		views = append(views, viewRevocation(m))
	}
	if written, err := out.write(c.stdout, map[string]any{"revocations": views}); written {
		return err
	}
	var b bytes.Buffer
	if len(views) == 0 {
		b.WriteString("nothing is revoked\n")
	} else {
		var rows [][]string
		for _, v := range views {
			rows = append(rows, []string{c.describe(v), c.ago(v.Created), dash(v.By), dash(v.Reason)})
		}
		if err := table(&b, []string{"REVOKED", "WHEN", "BY", "REASON"}, rows); err != nil {
			return err
		}
	}
	tellMore(&b, more)
	_, err = c.stdout.Write(b.Bytes())
	return err
}

// revocationView is a revocation as it is shown.
type revocationView struct {
	Kind    string    `json:"kind"`
	Issuer  string    `json:"issuer,omitempty"`
	Value   string    `json:"value,omitempty"`
	Before  time.Time `json:"before,omitzero"`
	Expires time.Time `json:"expires,omitzero"`
	Created time.Time `json:"created,omitzero"`
	By      string    `json:"by,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	// Unrecorded says that it was made just now and is not in the audit log yet.
	Unrecorded bool `json:"unrecorded,omitempty"`
}

func viewRevocation(m *stsv1.Revocation) revocationView {
	return revocationView{
		Kind: m.GetKind(), Issuer: m.GetIssuer(), Value: m.GetValue(), By: m.GetBy(), Reason: m.GetReason(),
		Before: timeOf(m.GetBefore()), Expires: timeOf(m.GetExpires()), Created: timeOf(m.GetCreated()),
	}
}

// describe says in words what a revocation is by.
func (c *cli) describe(v revocationView) string {
	s := v.Kind
	if v.Value != "" {
		s += " " + v.Value
	}
	if v.Issuer != "" && v.Issuer != "self" {
		s += " of " + v.Issuer
	}
	if !v.Before.IsZero() {
		s += ", issued until " + v.Before.UTC().Format("2006-01-02 15:04:05 MST")
	}
	return s
}
