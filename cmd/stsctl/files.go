package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/workload-sts/sts/sts/policytest"
	"github.com/workload-sts/sts/sts/resource"
)

// readResources reads all resources of files, directories and, for -, standard
// input. Every problem is printed with its place; the error then only counts.
func (c *cli) readResources(paths []string) ([]resource.Document, error) {
	var docs []resource.Document
	var problems []resource.Problem
	for _, p := range paths {
		files, err := filesBelow(p, func(name string) bool { return !policytest.IsTestFile(name) })
		if err != nil {
			return nil, badInput("%v", err)
		}
		for _, file := range files {
			data, err := c.readFile(file)
			if err != nil {
				return nil, badInput("%v", err)
			}
			if file == "-" {
				file = "<stdin>"
			}
			d, ps := resource.DecodeResources(file, data)
			docs, problems = append(docs, d...), append(problems, ps...)
		}
	}
	problems = append(problems, repeated(docs)...)
	for _, p := range problems {
		fmt.Fprintln(c.stderr, oneLine(p.String()))
	}
	switch {
	case len(problems) > 0:
		return nil, badInput("%s in files; nothing was sent", count(len(problems), "problem"))
	case len(docs) == 0:
		return nil, badInput("no resources in %s", strings.Join(paths, ", "))
	}
	return docs, nil
}

// filesBelow returns the files that a path stands for, itself or all *.yaml, *.yml
// and *.json below it, sorted, of those that are wanted. Names that start with a
// dot are left out, as are directories behind symbolic links.
func filesBelow(name string, wanted func(name string) bool) ([]string, error) {
	files, err := allBelow(name)
	return slices.DeleteFunc(files, func(file string) bool { return !wanted(file) }), err
}

func allBelow(name string) ([]string, error) {
	if name == "-" {
		return []string{name}, nil
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{name}, nil
	}
	var files []string
	err = fs.WalkDir(os.DirFS(name), ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case p != "." && strings.HasPrefix(d.Name(), "."):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return nil
		}
		switch path.Ext(p) {
		case ".yaml", ".yml", ".json":
			files = append(files, filepath.Join(name, filepath.FromSlash(p)))
		}
		return nil
	})
	return files, err
}

// readFile reads a file, or standard input for -, up to a byte more than the
// reader of resources takes.
func (c *cli) readFile(name string) ([]byte, error) {
	r := c.stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	data, err := io.ReadAll(io.LimitReader(r, resource.MaxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return data, nil
}

// repeated finds resources that are defined twice, in whatever files.
func repeated(docs []resource.Document) []resource.Problem {
	type ref struct{ kind, name string }
	first := map[ref]string{}
	var problems []resource.Problem
	for _, d := range docs {
		kind, name, _ := resource.KindAndName(d.Resource)
		file, line, column := d.Positions.At("name")
		if place, again := first[ref{kind, name}]; again {
			problems = append(problems, resource.Problem{
				File: file, Line: line, Column: column, Path: "name",
				Message: fmt.Sprintf("%s %q is defined twice, first at %s; keep one", kind, name, place),
			})
			continue
		}
		first[ref{kind, name}] = fmt.Sprintf("%s:%d:%d", file, line, column)
	}
	return problems
}

// count writes 1 problem, 2 problems.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
