package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/structpb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
	"github.com/workload-sts/sts/sts/policytest"
	"github.com/workload-sts/sts/sts/server"
)

func newPolicyCan(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "can [FILE|DIR]...",
		Short: "Ask what would come of a request",
		Long: `Ask what would come of a request: by the resources in files or, without any, by
the revision that is in force at the server. No credential and no token is
needed, no token is made, and nothing is recorded as a decision.

--claims takes a claim as NAME=VALUE, where a VALUE that is JSON is taken as
that, or the name of a file with a JSON object after @. The exit code is 1 if
the request would be denied.`,
		Example: "  stsctl policy can --client web --audience payments\n  stsctl policy can policy.d/ --issuer-name github --subject repo:a/b --claims ref=refs/heads/main --audience payments",
	}
	r := &stsv1.TestRequest{}
	var issuer, subject string
	var claims, scopes []string
	cmd.Flags().StringVar(&r.Client, "client", "", "`NAME` of the Client that asks; without it the workload presents its own token")
	cmd.Flags().StringVar(&issuer, "issuer-name", "", "`NAME` of the Issuer of the subject token, or self")
	cmd.Flags().StringVar(&subject, "subject", "", "`SUB` of the subject token")
	cmd.Flags().StringArrayVar(&claims, "claims", nil, "`NAME=VALUE` or @FILE: claims of the subject token; may repeat")
	cmd.Flags().StringSliceVar(&r.Audience, "audience", nil, "`AUDIENCE` of the token; may repeat")
	cmd.Flags().StringSliceVar(&scopes, "scope", nil, "`SCOPE` to ask for; may repeat")
	cmd.Flags().StringVar(&r.DpopKey, "dpop-key-name", "", "any `NAME` for a key that DPoP proves")
	cmd.Flags().StringVar(&r.Certificate, "certificate-name", "", "any `NAME` for a certificate that is proven")
	self := offlineIssuer(cmd)
	out := outputFlag(cmd, "text", "json", "yaml")
	c.conn.admin(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		r.Scope = scopes
		if issuer != "" || subject != "" || len(claims) > 0 {
			fields, err := c.claimsOf(claims)
			if err != nil {
				return err
			}
			if subject != "" {
				fields.Fields["sub"] = structpb.NewStringValue(subject)
			}
			if issuer == "" {
				return usage("--subject and --claims are of a token: name its Issuer, or self, with --issuer-name")
			}
			r.Subject = &stsv1.TestToken{Issuer: issuer, Claims: fields}
		}
		x, err := c.simulated(cmd.Context(), args, r, *self)
		if err != nil {
			return err
		}
		written, err := writeProto(c.stdout, out, x)
		if !written {
			_, err = io.WriteString(c.stdout, strings.ReplaceAll(indented(x.GetText()), "\n     ", "\n")[5:])
		}
		if err == nil && !x.GetGranted() {
			return &failure{code: exitRefused}
		}
		return err
	}
	return cmd
}

func (c *cli) simulated(ctx context.Context, paths []string, r *stsv1.TestRequest, self string) (*stsv1.Explanation, error) {
	if len(paths) > 0 {
		o, err := c.loadOffline(paths, self, false)
		if err != nil {
			return nil, err
		}
		s, err := policytest.Simulation(o.Offline, r, c.now())
		if err != nil {
			return nil, usage("%v", err)
		}
		return server.OutcomeToProto(o.Simulate(ctx, s)), nil
	}
	if err := c.conn.load(); err != nil {
		return nil, err
	}
	var got *stsv1.SimulateRequestResponse
	err := c.adminCall(ctx, func(ctx context.Context, admin stsv1.AdminServiceClient) (err error) {
		got, err = admin.SimulateRequest(ctx, &stsv1.SimulateRequestRequest{Request: r})
		return err
	})
	return got.GetExplanation(), err
}

// claimsOf reads the values of --claims.
func (c *cli) claimsOf(values []string) (*structpb.Struct, error) {
	out := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for _, v := range values {
		if file, ok := strings.CutPrefix(v, "@"); ok {
			data, err := c.readFile(file)
			if err != nil {
				return nil, badInput("%v", err)
			}
			more := &structpb.Struct{}
			if err := more.UnmarshalJSON(data); err != nil {
				return nil, badInput("%s is not a JSON object with claims: %v", file, err)
			}
			for name, value := range more.GetFields() {
				out.Fields[name] = value
			}
			continue
		}
		name, text, ok := strings.Cut(v, "=")
		if !ok || name == "" {
			return nil, usage("--claims takes NAME=VALUE or @FILE, not %s", oneLine(v))
		}
		value := &structpb.Value{}
		if json.Valid([]byte(text)) && value.UnmarshalJSON([]byte(text)) == nil {
			out.Fields[name] = value
		} else {
			out.Fields[name] = structpb.NewStringValue(text)
		}
	}
	return out, nil
}

func newPolicyWhoCan(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "who-can [FILE|DIR]...",
		Short: "List everybody who can get a token for an audience",
		Long: `List every rule by which a token for an audience can be got, with a scope if one
is named, and whom it admits: clients, workloads, subjects, actors, and the keys
that it takes. Where a rule takes a token of this service, the rules by which
that can be got are listed below it, four deep. The default is the current
directory.

What may act together in one request is not told apart, so the list has rather
too much than too little.`,
		Example: "  stsctl policy who-can policy.d/ --audience payments --scope payments.write",
	}
	audience := cmd.Flags().String("audience", "", "`NAME` or identifier of the Audience")
	scope := cmd.Flags().String("scope", "", "`SCOPE` of it")
	self := offlineIssuer(cmd)
	out := outputFlag(cmd, "text", "json", "yaml")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if *audience == "" {
			return usage("who-can needs --audience")
		}
		if len(args) == 0 {
			args = []string{"."}
		}
		o, err := c.loadOffline(args, *self, false)
		if err != nil {
			return err
		}
		ways, err := o.WhoCan(*audience, *scope)
		if err != nil {
			return badInput("%s", strings.TrimPrefix(err.Error(), "not_found: "))
		}
		if written, err := out.write(c.stdout, ways); written {
			return err
		}
		if len(ways) == 0 {
			_, err := fmt.Fprintln(c.stdout, "nobody: no rule leads there")
			return err
		}
		for _, w := range ways {
			c.printWay(w, "")
		}
		return nil
	}
	return cmd
}

func (c *cli) printWay(w sts.Way, indent string) {
	var admits []string
	if len(w.Clients) > 0 {
		admits = append(admits, "clients "+strings.Join(w.Clients, ", "))
	}
	if len(w.Templates) > 0 {
		admits = append(admits, "clients that are registered by "+strings.Join(w.Templates, ", "))
	}
	who := strings.Join(admits, ", and ")
	switch {
	case w.Workload != "":
		who = "workloads of issuer " + w.Workload + " themselves"
	case who == "":
		who = "no client"
	}
	line := func(what, value string) {
		if value != "" {
			fmt.Fprintf(c.stdout, "%s  %s: %s\n", indent, what, oneLine(value))
		}
	}
	fmt.Fprintf(c.stdout, "%srule %s: %s\n", indent, w.Rule, oneLine(who))
	line("subject token", w.Subject)
	line("actor token", w.Actor)
	line("when", w.When)
	line("bound by", w.Binding)
	line("scopes", strings.Join(w.Scopes, " "))
	line("sub of the token", w.Sub)
	line("denied by rule", strings.Join(w.DeniedBy, ", "))
	line("except what is denied by rule", strings.Join(w.Except, ", "))
	if w.Truncated {
		line("subject token from", "further rules, not followed any deeper")
	}
	if len(w.From) > 0 {
		fmt.Fprintf(c.stdout, "%s  which can be got by\n", indent)
		for _, from := range w.From {
			c.printWay(from, indent+"    ")
		}
	}
}
