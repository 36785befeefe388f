package main

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

func newIssuer(c *cli) *cobra.Command {
	return group("issuer", "Look after the keys of trusted issuers",
		`Look after the keys of trusted issuers. The Issuers themselves are resources,
see `+"`stsctl get issuers` and `stsctl apply`"+`.`,
		newIssuerStatus(c))
}

func newIssuerStatus(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status [NAME]",
		Short: "Show the keys of trusted issuers, their age and what is wrong",
		Long: `Show what the node that answers knows of the keys of every Issuer, or of one:
where they come from, how old they are, when they are fetched next, and why they
could not be had. An issuer is asked when a token needs its keys, so nothing is
known of one that nobody has used yet.

While the keys of an issuer cannot be fetched, those from before are used for an
hour; then its tokens are refused.`,
		Example:           "  stsctl issuer status\n  stsctl issuer status github -o json",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: c.completeIssuers,
	}
	out := outputFlag(cmd, "text", "json", "yaml")
	c.conn.admin(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		list, err := c.issuerStatus(cmd.Context())
		if err != nil {
			return err
		}
		if len(args) == 0 {
			return c.showIssuers(list, out)
		}
		for _, s := range list {
			if s.GetName() == args[0] {
				return c.showIssuers([]*stsv1.IssuerStatus{s}, out)
			}
		}
		return &failure{exitRefused, fmt.Sprintf("the server has no Issuer %s; `stsctl get issuers` lists them", oneLine(args[0]))}
	}
	return cmd
}

// issuerStatus asks the server about its issuers.
func (c *cli) issuerStatus(ctx context.Context) ([]*stsv1.IssuerStatus, error) {
	if err := c.conn.load(); err != nil {
		return nil, err
	}
	var list []*stsv1.IssuerStatus
	err := c.adminCall(ctx, func(ctx context.Context, admin stsv1.AdminServiceClient) error {
		req := &stsv1.ListIssuerStatusRequest{PageSize: 1000}
		for {
			got, err := admin.ListIssuerStatus(ctx, req)
			list = append(list, got.GetIssuers()...)
			if err != nil || got.GetNextPageToken() <= req.PageToken {
				return err
			}
			req.PageToken = got.GetNextPageToken()
		}
	})
	return list, err
}

func (c *cli) completeIssuers(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	if len(args) == 0 {
		list, _ := c.issuerStatus(cmd.Context()) // where nobody answers there is nothing to offer
		for _, s := range list {
			names = append(names, s.GetName())
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// issuerView is an issuer as it is shown. Times that are not known are zero.
type issuerView struct {
	Name    string          `json:"name"`
	Source  string          `json:"source"`
	Keys    []issuerKeyView `json:"keys"`
	Fetched time.Time       `json:"fetched,omitzero"`
	Asked   time.Time       `json:"asked,omitzero"`
	Refresh time.Time       `json:"refresh,omitzero"`
	Stale   time.Time       `json:"stale,omitzero"`
	Problem string          `json:"problem,omitempty"`
}

type issuerKeyView struct {
	KID       string `json:"kid,omitempty"`
	Algorithm string `json:"algorithm"`
}

func viewIssuer(m *stsv1.IssuerStatus) issuerView {
	v := issuerView{
		Name: m.GetName(), Source: m.GetSource(), Keys: []issuerKeyView{}, Problem: m.GetProblem(),
		Fetched: timeOf(m.GetFetched()), Asked: timeOf(m.GetAsked()), Refresh: timeOf(m.GetRefresh()), Stale: timeOf(m.GetStale()),
	}
	for _, k := range m.GetKeys() {
		v.Keys = append(v.Keys, issuerKeyView{k.GetKid(), k.GetAlgorithm()})
	}
	return v
}

// showIssuers writes of each issuer where its keys are, what they are, and what is
// wrong.
func (c *cli) showIssuers(list []*stsv1.IssuerStatus, out *output) error {
	views := []issuerView{}
	for _, m := range list {
		views = append(views, viewIssuer(m))
	}
	if written, err := out.write(c.stdout, map[string]any{"issuers": views}); written {
		return err
	}
	var b bytes.Buffer
	if len(views) == 0 {
		b.WriteString("no issuers; create them with `stsctl apply -f FILE`\n")
	}
	for i, v := range views {
		if i > 0 {
			b.WriteByte('\n')
		}
		if err := c.writeKeys(&b, "issuer "+v.Name, v); err != nil {
			return err
		}
	}
	_, err := c.stdout.Write(b.Bytes())
	return err
}

// writeKeys writes where the keys of something are, what they are, and what is wrong.
func (c *cli) writeKeys(b *bytes.Buffer, of string, v issuerView) error {
	fmt.Fprintln(b, oneLine(of+": "+c.sourceOf(v)))
	var rows [][]string
	for _, k := range v.Keys {
		rows = append(rows, []string{"  " + dash(k.KID), k.Algorithm})
	}
	if len(rows) > 0 {
		if err := table(b, []string{"  KEY ID", "ALG"}, rows); err != nil {
			return err
		}
	}
	if v.Problem != "" {
		fmt.Fprintln(b, "  "+oneLine(c.problemOf(v)))
	}
	return nil
}

// sourceOf says where keys come from, and how old they are.
func (c *cli) sourceOf(v issuerView) string {
	switch {
	case v.Source == "jwks":
		return "keys in the resource itself"
	case v.Source == "token_review":
		if v.Fetched.IsZero() {
			return "token_review, no token has been reviewed yet"
		}
		return "token_review, a token was reviewed " + c.ago(v.Fetched)
	case v.Fetched.IsZero() && v.Asked.IsZero():
		return v.Source + ", not asked yet"
	case v.Fetched.IsZero():
		return v.Source + ", never fetched, tried " + c.ago(v.Asked)
	case len(v.Keys) == 0:
		return v.Source + ", the keys fetched " + c.ago(v.Fetched) + " are too old to be used"
	}
	return v.Source + ", fetched " + c.ago(v.Fetched) + ", next " + c.ago(v.Refresh)
}

func (c *cli) problemOf(v issuerView) string {
	s := "PROBLEM: " + v.Problem + " (" + c.ago(v.Asked) + ")"
	if len(v.Keys) > 0 && !v.Stale.IsZero() {
		s += "; the keys from before are used until " + c.until(v.Stale)
	}
	return s
}
