package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
	"github.com/workload-sts/sts/sts/resource"
)

// kindNames are the kinds as people write them, in the order of listings.
var kindNames = []string{"audience", "client", "client-template", "issuer", "rule"}

// kindOf reads client-template, client-templates or ClientTemplate.
func kindOf(s string) (string, error) {
	bare := strings.ReplaceAll(s, "-", "")
	for _, k := range sts.Kinds {
		if strings.EqualFold(bare, string(k)) || strings.EqualFold(bare, string(k)+"s") {
			return string(k), nil
		}
	}
	return "", usage("%q is not a kind; write one of %s", oneLine(s), strings.Join(kindNames, ", "))
}

func completeKinds(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return kindNames, cobra.ShellCompDirectiveNoFileComp
}

func newGet(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "get KIND|all [NAME]",
		Short: "Show resources",
		Long: `Show the resources of a kind (client, client-template, issuer, audience, rule,
or all), or one of them by name. A list is a table and one resource is YAML,
unless -o says otherwise. What -o yaml and -o json write,
` + "`stsctl apply -f -`" + ` reads.`,
		Example: "  stsctl get rules\n  stsctl get rule deploy-from-main\n  stsctl get all -o yaml > backup.yaml",
		Args: func(_ *cobra.Command, args []string) error {
			switch len(args) {
			case 0:
				return usage("get needs a kind; write `stsctl get all`, `stsctl get rules` or `stsctl get rule NAME`")
			case 1, 2:
				return nil
			}
			return usage("get takes a kind and one name; `stsctl get %s` shows all of them", oneLine(args[0]))
		},
		ValidArgsFunction: completeKinds,
	}
	out := outputFlag(cmd, "auto", "table", "yaml", "json")
	c.conn.admin(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := c.conn.load(); err != nil {
			return err
		}
		all := strings.EqualFold(args[0], "all")
		var kind string
		var err error
		if !all {
			if kind, err = kindOf(args[0]); err != nil {
				return usage("%v, or all", err)
			}
		}
		switch {
		case all && len(args) == 2:
			return usage("a name needs its kind; write `stsctl get KIND NAME`")
		case len(args) == 2:
			return c.getOne(cmd.Context(), kind, args[1], out.format)
		}
		return c.getList(cmd.Context(), kind, out.format)
	}
	return cmd
}

func (c *cli) getOne(ctx context.Context, kind, name, format string) error {
	var r *stsv1.Resource
	var got *stsv1.GetResourceResponse
	err := c.adminCall(ctx, func(ctx context.Context, admin stsv1.AdminServiceClient) (err error) {
		got, err = admin.GetResource(ctx, &stsv1.GetResourceRequest{Kind: kind, Name: name})
		r = got.GetResource()
		return err
	})
	if err != nil {
		return err
	}
	switch format {
	case "json":
		data, err := resource.JSON(r)
		if err != nil {
			return err
		}
		return writeJSON(c.stdout, json.RawMessage(data))
	case "table":
		return resourceTable(c, kind, []*stsv1.Resource{r})
	}
	if etag := oneLine(got.GetEtag()); etag != "" {
		fmt.Fprintf(c.stdout, "# revision %d, etag %s\n", got.GetRevision(), etag)
	}
	return resource.EncodeYAML(c.stdout, r)
}

func (c *cli) getList(ctx context.Context, kind, format string) error {
	var list []*stsv1.Resource
	var revision int64
	err := c.adminCall(ctx, func(ctx context.Context, admin stsv1.AdminServiceClient) (err error) {
		for range listAttempts {
			if list, revision, err = listAll(ctx, admin, &stsv1.ListResourcesRequest{Kind: kind}); status.Code(err) != codes.Aborted {
				break
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	switch format {
	case "json":
		docs := []json.RawMessage{}
		for _, r := range list {
			data, err := resource.JSON(r)
			if err != nil {
				return err
			}
			docs = append(docs, data)
		}
		return writeJSON(c.stdout, docs)
	case "yaml":
		fmt.Fprintf(c.stdout, "# revision %d\n", revision)
		return resource.EncodeYAML(c.stdout, list...)
	}
	return resourceTable(c, kind, list)
}

// listAttempts is how often a list is begun anew if the resources change while its
// pages are read.
const listAttempts = 5

// listAll reads all pages of one revision.
func listAll(ctx context.Context, admin stsv1.AdminServiceClient, req *stsv1.ListResourcesRequest) (list []*stsv1.Resource, revision int64, err error) {
	req.PageSize, req.PageToken = 500, ""
	for {
		page, err := admin.ListResources(ctx, req)
		if err != nil {
			return nil, 0, err
		}
		list = append(list, page.GetResources()...)
		if page.GetNextPageToken() == "" || page.GetNextPageToken() == req.PageToken {
			return list, page.GetRevision(), nil
		}
		req.PageToken = page.GetNextPageToken()
	}
}

// headers are the columns of the table of a kind; "" is that of all kinds.
var headers = map[string][]string{
	"":               {"KIND", "NAME", "DESCRIPTION"},
	"Audience":       {"NAME", "IDENTIFIERS", "SCOPES", "MAX TTL", "KEY SET", "DESCRIPTION"},
	"Client":         {"NAME", "STATE", "SECRETS", "AUDIENCES", "LABELS", "DESCRIPTION"},
	"ClientTemplate": {"NAME", "METHODS", "MOST", "EXPIRE UNUSED", "LABELS", "DESCRIPTION"},
	"Issuer":         {"NAME", "ISSUER", "TOKEN TYPES", "SELF-PRESENTED", "DESCRIPTION"},
	"Rule":           {"NAME", "REQUESTER", "SUBJECT", "AUDIENCES", "SCOPES", "TTL", "DESCRIPTION"},
}

func resourceTable(c *cli, kind string, list []*stsv1.Resource) error {
	if len(list) == 0 {
		what := "resources"
		if kind != "" {
			what = strings.ReplaceAll(strings.ToLower(kind), "template", "-template") + "s"
		}
		_, err := fmt.Fprintf(c.stdout, "no %s; create them with `stsctl apply -f FILE`\n", what)
		return err
	}
	var rows [][]string
	for _, r := range list {
		k, name, _ := resource.KindAndName(r)
		cells, description := cellsOf(r)
		if kind == "" {
			rows = append(rows, []string{k, name, description})
			continue
		}
		rows = append(rows, append(append([]string{name}, cells...), description))
	}
	return table(c.stdout, headers[kind], rows)
}

// cellsOf are the columns of a resource between its name and its description.
func cellsOf(r *stsv1.Resource) (cells []string, description string) {
	switch k := r.GetKind().(type) {
	case *stsv1.Resource_Audience:
		a := k.Audience
		identifiers := a.GetIdentifiers()
		if len(identifiers) == 0 {
			identifiers = []string{a.GetName()}
		}
		ttl, keySet := "1h", a.GetKeySet()
		if keySet == "" {
			keySet = sts.DefaultKeySet
		}
		if a.GetMaxTtl() != nil {
			ttl = resource.FormatDuration(a.GetMaxTtl().AsDuration())
		}
		return []string{list(identifiers), list(a.GetScopes()), ttl, keySet}, a.GetDescription()
	case *stsv1.Resource_Client:
		state := "enabled"
		if k.Client.GetDisabled() {
			state = "disabled"
		}
		return []string{state, fmt.Sprint(len(k.Client.GetSecrets())), list(k.Client.GetAudiences()), labels(k.Client.GetLabels())}, k.Client.GetDescription()
	case *stsv1.Resource_ClientTemplate:
		t := k.ClientTemplate
		most, unused := "100", "720h"
		if n := t.GetMaxClients(); n != 0 {
			most = fmt.Sprint(n)
		}
		if d := t.GetExpireUnused(); d != nil {
			unused = resource.FormatDuration(d.AsDuration())
		}
		return []string{list(t.GetMethods()), most, unused, labels(t.GetLabels())}, t.GetDescription()
	case *stsv1.Resource_Issuer:
		types := k.Issuer.GetTokenTypes()
		if len(types) == 0 {
			types = []string{"jwt", "id_token"}
		}
		return []string{k.Issuer.GetIssuer(), list(types), fmt.Sprint(k.Issuer.GetSelfPresented())}, k.Issuer.GetDescription()
	case *stsv1.Resource_Rule:
		a, ttl := k.Rule.GetAllow(), "-"
		if a.GetTtl() != nil {
			ttl = resource.FormatDuration(a.GetTtl().AsDuration())
		}
		return []string{requester(k.Rule.GetRequester()), subject(k.Rule), list(a.GetAudiences()), list(a.GetScopes()), ttl}, k.Rule.GetDescription()
	}
	return nil, ""
}

// requester says in a word who may ask; without one it is the workload itself.
func requester(r *stsv1.Requester) string {
	var parts []string
	if len(r.GetClients()) > 0 {
		parts = append(parts, list(r.GetClients()))
	}
	if len(r.GetLabels()) > 0 {
		parts = append(parts, labels(r.GetLabels()))
	}
	if len(parts) == 0 {
		return "the workload"
	}
	return strings.Join(parts, " with ")
}

// subject says in a word whose token is presented.
func subject(r *stsv1.Rule) string {
	if r.GetSubject() == nil {
		return "the requester"
	}
	return r.GetSubject().GetIssuer()
}

func list(words []string) string {
	if len(words) == 0 {
		return "-"
	}
	return strings.Join(words, ",")
}

func labels(m map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, k+"="+m[k])
	}
	return list(parts)
}
