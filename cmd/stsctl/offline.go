package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/workload-sts/sts/sts"
	"github.com/workload-sts/sts/sts/policytest"
	"github.com/workload-sts/sts/sts/resource"
	"github.com/workload-sts/sts/sts/server"
)

// offline is what a command needs that decides without a server.
type offline struct {
	*sts.Offline
	docs      []resource.Document
	resources []sts.Resource  // of docs
	at        map[sts.Ref]int // of resources and docs
	tests     []*policytest.File
}

// offlineIssuer adds the flag for the issuer identifier of the service.
func offlineIssuer(cmd *cobra.Command) *string {
	return cmd.Flags().String("self", "https://sts.example.com", "issuer identifier of the service that decides, a `URL`")
}

// loadOffline reads the resources and the test cases of files and directories.
// Every problem is printed with its place; the error then only counts. What a
// preset finds dangerous is a problem if strict is set, as it is when resources
// are applied.
func (c *cli) loadOffline(paths []string, issuer string, strict bool) (*offline, error) {
	docs, err := c.readResources(paths)
	if err != nil {
		return nil, err
	}
	out := &offline{docs: docs, at: map[sts.Ref]int{}}
	var problems []sts.Problem
	for i, d := range docs {
		r, bad := server.FromProto(d.Resource)
		for _, p := range bad {
			p.Index = i
			problems = append(problems, p)
		}
		out.resources = append(out.resources, r)
		if _, twice := out.at[r.Ref()]; !twice {
			out.at[r.Ref()] = i
		}
	}
	if len(problems) == 0 {
		out.Offline, problems = sts.NewOffline(issuer, out.resources)
	}
	if len(problems) == 0 && strict {
		problems = out.Unsafe()
	}
	for _, p := range problems {
		fmt.Fprintln(c.stderr, out.place(p))
	}
	if len(problems) > 0 {
		return nil, badInput("%s in the resources", count(len(problems), "problem"))
	}
	return out, c.loadTests(out, paths)
}

// loadTests reads the test cases.
func (c *cli) loadTests(out *offline, paths []string) error {
	found := 0
	for _, p := range paths {
		files, err := filesBelow(p, policytest.IsTestFile)
		if err != nil {
			return badInput("%v", err)
		}
		for _, file := range files {
			data, err := c.readFile(file)
			if err != nil {
				return badInput("%v", err)
			}
			f, problems := policytest.Parse(file, data)
			if len(problems) == 0 {
				problems = f.Check(out)
			}
			for _, p := range problems {
				fmt.Fprintln(c.stderr, oneLine(p.String()))
			}
			found += len(problems)
			out.tests = append(out.tests, f)
		}
	}
	if found > 0 {
		return badInput("%s in test cases", count(found, "problem"))
	}
	return nil
}

// place writes a problem with its place in the files.
func (o *offline) place(p sts.Problem) string {
	for i, r := range o.resources {
		if i == p.Index || p.Index < 0 && r.Ref() == p.Ref {
			file, line, column := o.docs[i].Positions.At(p.Field)
			return withCaret(resource.Problem{File: file, Line: line, Column: column, Path: p.Field, Message: p.Message}.String())
		}
	}
	return oneLine(fmt.Sprintf("%s: %s: %s", p.Ref, p.Field, p.Message))
}
