package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write docs/reference/stsctl.md")

// documented returns every command that has help of its own, in order. The
// scripts of completion come from cobra and are documented as one.
func documented(t *testing.T) []*cobra.Command {
	t.Helper()
	var out []*cobra.Command
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Hidden || cmd.Name() == "help" {
			return
		}
		out = append(out, cmd)
		if cmd.Name() == "completion" {
			return
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRoot(&cli{}))
	return out
}

func TestHelpTexts(t *testing.T) {
	commands := documented(t)
	if len(commands) < 14 {
		t.Fatalf("only %d commands", len(commands))
	}
	for _, cmd := range commands {
		path := cmd.CommandPath()
		if s := cmd.Short; s == "" || strings.HasSuffix(s, ".") || !unicode.IsUpper(rune(s[0])) {
			t.Errorf("%s: short help %q", path, s)
		}
		if cmd.Long == "" {
			t.Errorf("%s: no long help", path)
		}
		for line := range strings.Lines(cmd.Long) {
			if len(line) > 81 {
				t.Errorf("%s: long help has a line of %d characters: %s", path, len(line), line)
			}
		}
		cmd.InitDefaultHelpFlag()
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s: no help for --%s", path, f.Name)
			}
			value, _ := pflag.UnquoteUsage(f)
			switch named := strings.Contains(f.Usage, "`"); {
			case named && f.Value.Type() == "bool":
				t.Errorf("%s: --%s takes no value, and the help calls it %q", path, f.Name, value)
			case named && value == strings.ToLower(value) && !strings.Contains(value, "|"):
				t.Errorf("%s: the value of --%s is called %q in the help; write it in upper case", path, f.Name, value)
			}
			for _, word := range []string{"secret", "admin-token"} {
				if strings.Contains(f.Name, word) && !strings.HasSuffix(f.Name, "-file") {
					t.Errorf("%s: --%s takes a secret as its value", path, f.Name)
				}
			}
		})
	}
}

// TestReference holds docs/reference/stsctl.md to what the help says.
func TestReference(t *testing.T) {
	file := filepath.Join("..", "..", "docs", "reference", "stsctl.md")
	want := reference(documented(t))
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the help says; run `go test ./cmd/stsctl -update`", file)
	}
}

// reference writes the help of all commands on one page of Markdown.
func reference(commands []*cobra.Command) []byte {
	var b bytes.Buffer
	b.WriteString("<!-- Written by `go test ./cmd/stsctl -update`; edit the help of the commands instead. -->\n\n# stsctl\n")
	for _, cmd := range commands {
		if cmd.HasParent() {
			fmt.Fprintf(&b, "\n## %s\n", cmd.CommandPath())
		}
		fmt.Fprintf(&b, "\n%s.\n", cmd.Short)
		block(&b, "", cmd.Long)
		if cmd.Runnable() && !cmd.HasSubCommands() {
			block(&b, "Usage:", cmd.UseLine())
		}
		block(&b, "Examples:", strings.TrimPrefix(strings.ReplaceAll("\n"+cmd.Example, "\n  ", "\n"), "\n"))
		options(&b, cmd)
		if cmd.HasAvailableSubCommands() {
			b.WriteString("\nCommands:\n\n")
			for _, sub := range cmd.Commands() {
				if sub.IsAvailableCommand() && sub.Name() != "help" {
					fmt.Fprintf(&b, "- `%s`: %s\n", sub.CommandPath(), sub.Short)
				}
			}
		}
	}
	return b.Bytes()
}

// block writes preformatted text: help is laid out for terminals.
func block(b *bytes.Buffer, title, text string) {
	if text = strings.TrimSpace(text); text != "" {
		if title != "" {
			fmt.Fprintf(b, "\n%s\n", title)
		}
		fmt.Fprintf(b, "\n```text\n%s\n```\n", text)
	}
}

func options(b *bytes.Buffer, cmd *cobra.Command) {
	first := true
	cmd.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		if first {
			b.WriteString("\n| flag | meaning |\n| --- | --- |\n")
			first = false
		}
		kind, usage := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		if kind != "" {
			name += " " + kind
		}
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" && f.DefValue != "[]" {
			usage += " (default `" + f.DefValue + "`)"
		}
		fmt.Fprintf(b, "| `%s` | %s |\n", strings.ReplaceAll(name, "|", "\\|"), strings.ReplaceAll(usage, "|", "\\|"))
	})
}
