package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	codeBlock = regexp.MustCompile("(?s)```.*?```")
	codeSpan  = regexp.MustCompile("`[^`\n]+`")
	quoted    = regexp.MustCompile(`'[^']*'|"[^"]*"`)
)

// TestPagesNameCommands holds every command line of stsctl that the pages and what
// is installed show to be one: its command and its flags exist.
func TestPagesNameCommands(t *testing.T) {
	root := newRoot(&cli{})
	seen := 0
	for _, page := range pages(t) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range commandLines(page, string(text)) {
			seen++
			args := strings.Fields(quoted.ReplaceAllString(line, "QUOTED"))
			cmd, rest, err := root.Find(args)
			if err != nil {
				t.Errorf("%s: `stsctl %s`: %v", page, line, err)
				continue
			}
			if cmd.HasSubCommands() && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") && cmd != root {
				t.Errorf("%s: `stsctl %s`: %s has no command %s", page, line, cmd.CommandPath(), rest[0])
			}
			for _, arg := range rest {
				name, isFlag := strings.CutPrefix(arg, "--")
				name, _, _ = strings.Cut(strings.TrimRight(name, ",."), "=")
				if isFlag && name != "" && cmd.Flag(name) == nil {
					t.Errorf("%s: `stsctl %s`: %s has no flag --%s", page, line, cmd.CommandPath(), name)
				}
			}
		}
	}
	if seen < 100 {
		t.Errorf("only %d command lines found", seen)
	}
}

// pages returns what tells people to run commands, without what is made of the
// commands themselves.
func pages(t *testing.T) []string {
	t.Helper()
	out, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir("../../deploy", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return append(out, "../../README.md")
}

// commandLines returns what stands behind `stsctl` in the code of a page, up to
// where the command ends.
func commandLines(page, text string) []string {
	var code []string
	if filepath.Ext(page) == ".md" {
		code = append(codeBlock.FindAllString(text, -1), codeSpan.FindAllString(codeBlock.ReplaceAllString(text, ""), -1)...)
	} else {
		code = append(codeSpan.FindAllString(text, -1), codeSpan.ReplaceAllString(text, ""))
	}
	var out []string
	for _, c := range code {
		c = strings.ReplaceAll(c, "\\\n", " ")
		for i, line := range strings.Split(c, "stsctl ") {
			if i == 0 {
				continue
			}
			end := strings.IndexAny(line, "\n`|;&#<>")
			if end >= 0 {
				line = line[:end]
			}
			if line = strings.TrimRight(line, " )"); line != "" {
				out = append(out, line)
			}
		}
	}
	return out
}
