package resource

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Bounds on a file.
const (
	MaxFileSize  = 1 << 20 // bytes
	maxDocuments = 10_000  // as many as one change can have
	maxDepth     = 32      // mappings and lists within one another
	maxProblems  = 1000    // reported for one file
)

// parse returns the root of every document that is not empty. It refuses what
// the reader does not need and what could make a small file a large value:
// anchors, aliases and tags.
func (d *decoder) parse(data []byte) []*yaml.Node {
	switch {
	case len(data) > MaxFileSize:
		d.whole(fmt.Sprintf("the file is larger than %d KiB; split it", MaxFileSize>>10))
		return nil
	case !utf8.Valid(data):
		d.whole("the file is not UTF-8 text")
		return nil
	}
	var roots []*yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for n := 0; ; n++ {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return roots
		}
		if err != nil {
			d.syntax(err)
			return roots
		}
		if n == maxDocuments {
			d.problem(nil, &doc, fmt.Sprintf("more than %d documents; split the file", maxDocuments))
			return roots
		}
		if root := doc.Content[0]; !empty(root) && d.bounded(root, 1) {
			roots = append(roots, root)
		}
	}
}

// empty reports whether a document has no content.
func empty(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Value == "" && n.Style == 0 && n.Anchor == ""
}

// bounded reports whether the tree of n is not too deep, after it has told what
// else it must not have.
func (d *decoder) bounded(n *yaml.Node, depth int) bool {
	if depth > maxDepth {
		d.problem(nil, n, fmt.Sprintf("nested deeper than %d levels", maxDepth))
		return false
	}
	switch {
	case n.Kind == yaml.AliasNode:
		d.problem(nil, n, "aliases (*name) are not supported; write the value out")
	case n.Anchor != "":
		d.problem(nil, n, "anchors (&name) are not supported; remove it")
	}
	if n.Style&yaml.TaggedStyle != 0 {
		d.problem(nil, n, "tags (!name) are not supported; remove it")
	}
	for _, c := range n.Content {
		if !d.bounded(c, depth+1) {
			return false
		}
	}
	return true
}

var yamlError = regexp.MustCompile(`^yaml: (?:line ([0-9]+): )?(.*)$`)

// syntax reports an error of the YAML parser.
func (d *decoder) syntax(err error) {
	text, _, _ := strings.Cut(err.Error(), "\n")
	p := Problem{File: d.file, Line: 1, Column: 1, Message: "not YAML: " + text}
	if m := yamlError.FindStringSubmatch(text); m != nil {
		p.Message = "not YAML: " + m[2]
		if line, err := strconv.Atoi(m[1]); err == nil {
			p.Line = line
		}
		// The library counts lines from 0 for the errors of its grammar, and
		// from 1 for those of its scanner.
		if grammarError.MatchString(m[2]) {
			if m[1] != "" {
				p.Line++
			}
			p.Message += " in the block or list that starts near here; check indentation and brackets"
		}
	}
	d.add(p)
}

var grammarError = regexp.MustCompile(`^did not find expected (key|node content|'-' indicator|',' or '[\]}]'|<)`)

// whole reports a problem of the file as a whole.
func (d *decoder) whole(message string) { d.add(Problem{File: d.file, Message: message}) }

// problem reports something wrong at a node.
func (d *decoder) problem(at *path, n *yaml.Node, message string) {
	d.add(Problem{File: d.file, Line: n.Line, Column: n.Column, Path: at.String(), Message: message})
}

// add keeps a problem, up to a bound that no file written by hand reaches.
func (d *decoder) add(p Problem) {
	switch n := len(d.problems); {
	case n < maxProblems-1:
		d.problems = append(d.problems, p)
	case n == maxProblems-1:
		p.Path, p.Message = "", "more problems follow; correct these first"
		d.problems = append(d.problems, p)
	}
}
