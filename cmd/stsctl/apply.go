package main

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts/resource"
)

func newApply(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "apply -f FILE|DIR|-",
		Short: "Create and change resources from files, all or none",
		Long: `Create and change the resources in files: all of them or, if anything is wrong,
none. What is wrong is printed with file, line and column: all that the files
show by themselves, or, if that is nothing, all that the server finds.

-f takes a file, - for standard input, or a directory, whose *.yaml, *.yml and
*.json are read, with those of the directories below it; names that start with a
dot are left out, and test cases, whose names end in _test.yaml. Resources that
no file mentions stay as they are; remove them with ` + "`stsctl delete`" + `.`,
		Example: "  stsctl apply -f policy.d/ --dry-run\n  stsctl apply -f policy.d/\n  stsctl get all -o yaml | stsctl apply -f -",
		Args:    noArgs("write `stsctl apply -f FILE`"),
	}
	var paths []string
	req := &stsv1.ApplyRequest{}
	cmd.Flags().StringArrayVarP(&paths, "file", "f", nil, "`FILE`, directory or - to read; may repeat")
	cmd.Flags().BoolVar(&req.DryRun, "dry-run", false, "check everything on the server, change nothing")
	cmd.Flags().StringVar(&req.Why, "why", "", "`REASON` of the change, for `stsctl policy history`")
	cmd.Flags().BoolVar(&req.Shadow, "shadow", false, "put nothing in force: have the change decide beside what is, see stsctl policy diff --shadow")
	cmd.Flags().Int64Var(&req.ExpectedRevision, "expected-revision", 0, "refuse if the resources have another `REVISION`, because someone else changed them")
	out := outputFlag(cmd, "text", "json", "yaml")
	c.conn.admin(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if len(paths) == 0 {
			return usage("apply needs files; write `stsctl apply -f policy.d/`, or `-f -` for standard input")
		}
		docs, err := c.readResources(paths)
		if err != nil {
			return err
		}
		for _, d := range docs {
			req.Resources = append(req.Resources, d.Resource)
		}
		return c.applyChange(cmd.Context(), req, docs, out)
	}
	return cmd
}

func newDelete(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "delete KIND NAME... | -f FILE|DIR|-",
		Short: "Delete resources, all or none",
		Long: `Delete resources by name, or those that files define: all of them or none. A
resource that others refer to cannot be deleted without them. KIND is client,
client-template, issuer, audience or rule.`,
		Example:           "  stsctl delete rule deploy-from-main\n  stsctl delete -f old.yaml --dry-run",
		ValidArgsFunction: completeKinds,
	}
	var paths []string
	req := &stsv1.ApplyRequest{}
	cmd.Flags().StringArrayVarP(&paths, "file", "f", nil, "`FILE`, directory or - whose resources to delete; may repeat")
	cmd.Flags().BoolVar(&req.DryRun, "dry-run", false, "check everything on the server, change nothing")
	cmd.Flags().StringVar(&req.Why, "why", "", "`REASON` of the change, for `stsctl policy history`")
	cmd.Flags().BoolVar(&req.Shadow, "shadow", false, "put nothing in force: have the change decide beside what is, see stsctl policy diff --shadow")
	out := outputFlag(cmd, "text", "json", "yaml")
	c.conn.admin(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case len(paths) > 0 && len(args) > 0:
			return usage("delete takes names or files (-f), not both")
		case len(paths) > 0:
			docs, err := c.readResources(paths)
			if err != nil {
				return err
			}
			for _, d := range docs {
				kind, name, _ := resource.KindAndName(d.Resource)
				req.Delete = append(req.Delete, &stsv1.ResourceRef{Kind: kind, Name: name})
			}
		case len(args) < 2:
			return usage("delete needs a kind and at least one name, or -f FILE")
		default:
			kind, err := kindOf(args[0])
			if err != nil {
				return err
			}
			for _, name := range args[1:] {
				req.Delete = append(req.Delete, &stsv1.ResourceRef{Kind: kind, Name: name})
			}
		}
		return c.applyChange(cmd.Context(), req, nil, out)
	}
	return cmd
}

// applyChange sends a change and reports what it did. docs are where its
// resources come from.
func (c *cli) applyChange(ctx context.Context, req *stsv1.ApplyRequest, docs []resource.Document, out *output) error {
	if err := c.conn.load(); err != nil {
		return err
	}
	parts, large := split(req)
	if large >= 0 {
		file, line, column := docs[large].Positions.At("")
		return badInput("%s:%d:%d: this resource is larger than %d KiB, which is all that a message to the server takes", file, line, column, maxMessage>>10)
	}
	var done *stsv1.ApplyResponse
	var cause error
	err := c.adminCall(ctx, func(ctx context.Context, admin stsv1.AdminServiceClient) (err error) {
		done, err = send(ctx, admin, parts)
		cause = err
		return err
	})
	if places := placeViolations(cause, docs); len(places) > 0 {
		for _, p := range places {
			fmt.Fprintln(c.stderr, p)
		}
		f := &failure{exitRefused, count(len(places), "problem") + " found by the server; nothing was changed"}
		if docs != nil {
			f.code = exitInput
		}
		return f
	}
	if err != nil {
		return err
	}
	return c.reportChange(req, done, out)
}

var resourceField = regexp.MustCompile(`^resources\[([0-9]+)\](?:\.[a-z]+(?:\.(.+))?)?$`)

// placeViolations says where in the files what the server found is.
func placeViolations(err error, docs []resource.Document) []string {
	var places []string
	for _, v := range violationsOf(err) {
		place := v.GetDescription()
		if v.GetField() != "" {
			place = v.GetField() + ": " + place
		}
		if m := resourceField.FindStringSubmatch(v.GetField()); m != nil {
			if i, err := strconv.Atoi(m[1]); err == nil && i < len(docs) {
				file, line, column := docs[i].Positions.At(m[2])
				place = resource.Problem{File: file, Line: line, Column: column, Path: m[2], Message: v.GetDescription()}.String()
			}
		}
		places = append(places, withCaret(place))
	}
	return places
}

// withCaret makes a problem safe to print. An expression is shown with a caret
// below it, on lines of their own.
func withCaret(place string) string {
	lines := strings.Split(place, "\n")
	for i := range lines {
		lines[i] = oneLine(lines[i])
	}
	return strings.Join(lines, "\n    ")
}

// reportChange says what a change did, or would do.
func (c *cli) reportChange(req *stsv1.ApplyRequest, done *stsv1.ApplyResponse, out *output) error {
	type ref struct {
		Kind string `json:"kind"`
		Name string `json:"name"`
	}
	refs := func(in []*stsv1.ResourceRef) []ref {
		list := []ref{}
		for _, r := range in {
			list = append(list, ref{r.GetKind(), r.GetName()})
		}
		return list
	}
	result := struct {
		Revision int64 `json:"revision"`
		Shadow   int64 `json:"shadow_revision,omitempty"`
		DryRun   bool  `json:"dry_run"`
		Created  []ref `json:"created"`
		Updated  []ref `json:"updated"`
		Deleted  []ref `json:"deleted"`
	}{done.GetRevision(), done.GetShadowRevision(), req.GetDryRun(), refs(done.GetCreated()), refs(done.GetUpdated()), refs(done.GetDeleted())}
	if written, err := out.write(c.stdout, result); written {
		return err
	}
	would := ""
	if req.GetDryRun() || req.GetShadow() {
		would = "would be "
	}
	for _, part := range []struct {
		verb string
		refs []ref
	}{{"created", result.Created}, {"updated", result.Updated}, {"deleted", result.Deleted}} {
		for _, r := range part.refs {
			fmt.Fprintf(c.stdout, "%s%s %s %s\n", would, part.verb, r.Kind, oneLine(r.Name))
		}
	}
	summary := fmt.Sprintf("revision %d", result.Revision)
	if same := len(req.GetResources()) - len(result.Created) - len(result.Updated); same > 0 {
		summary = fmt.Sprintf("%d unchanged, %s", same, summary)
	}
	switch {
	case req.GetDryRun():
		summary += ", nothing was changed"
	case req.GetShadow():
		summary += fmt.Sprintf(" goes on; shadow revision %d decides beside it", result.Shadow)
	}
	_, err := fmt.Fprintln(c.stdout, summary)
	return err
}

// adminCall makes a call as an administrator: over the admin socket, with a token,
// or with a certificate.
func (c *cli) adminCall(ctx context.Context, use func(context.Context, stsv1.AdminServiceClient) error) error {
	if socket := c.conn.socket(); socket != "" {
		c.conn.addr = socket
	}
	token := ""
	if !strings.HasPrefix(c.conn.address(), unixScheme) {
		var err error
		if token, err = c.conn.secret(c.conn.adminTokenFile, "STS_ADMIN_TOKEN"); err != nil {
			return err
		}
		if cert, _, err := c.conn.certificateFiles(); token == "" && (cert == "" || err != nil) {
			return usage("nothing says that you are an administrator; use STS_ADMIN_TOKEN, --admin-token-file, --tls-cert, or the admin socket on the machine of the server (STS_ADMIN_SOCKET)")
		}
	}
	scheme := "Bearer"
	if c.conn.dpopKeyFile != "" {
		if token == "" {
			return usage("--dpop-key is the key of a token for the admin interface, and there is none; use STS_ADMIN_TOKEN or --admin-token-file")
		}
		scheme, c.conn.boundToken = "DPoP", token // [RFC 9449 §7.1]
	}
	return c.call(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		if token != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", scheme+" "+token)
		}
		return use(ctx, stsv1.NewAdminServiceClient(conn))
	})
}
